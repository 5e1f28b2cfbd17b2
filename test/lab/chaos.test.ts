/**
 * The network under faults, in short and from a fixed seed; `bun scripts/chaos.ts` is the long form. See
 * chaos/run.ts for what must hold. Each kind of fault comes once; what people do goes on beside.
 */
import { expect, test } from "bun:test";
import { describeReport, runChaos } from "./chaos/run.ts";
import { describeLab } from "./lab.ts";

const SEED = 7;

describeLab("the network under faults", { hosts: 4 }, (lab) => {
  test("answers are right, failures stay within their windows, and nothing stale is left", async () => {
    const report = await runChaos({
      lab: lab(),
      seed: SEED,
      seconds: 0,
      restSeconds: 0,
      sequence: ["container", "agent", "nft", "vxlan", "power"],
      faults: ["scale", "update", "turn-over"],
      agentFlags: [],
      note: console.log,
    });
    console.log(describeReport(report));
    expect(report.violations).toEqual([]);
    expect(report.verdict.okCount).toBeGreaterThan(2_000);
  }, 150_000);
});
