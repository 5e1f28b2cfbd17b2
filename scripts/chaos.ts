/**
 * The network under faults: hosts, engines, agents, containers and kernels are broken at random under
 * traffic, and services changed; see test/lab/chaos/run.ts for what must hold.
 *
 *     bun scripts/chaos.ts [--seconds 600] [--seed N] [--rest 120] [--faults container,agent,…]
 *         [--mesh-backend iptables] [--binary dist/shoal] [--keep]
 *
 * A line per fault, then the report. The exit code is 1 when something was violated. The lab is removed,
 * but with --keep.
 */
import { parseArgs } from "node:util";
import { describeReport, FAULT_NAMES, runChaos } from "../test/lab/chaos/run.ts";
import { createLab, DEFAULT_BINARY } from "./lab/lab.ts";

const HOSTS = 4;

const { values: flags } = parseArgs({
  options: {
    seconds: { type: "string", default: "600" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    rest: { type: "string", default: "120" },
    faults: { type: "string", default: FAULT_NAMES.join(",") },
    "mesh-backend": { type: "string" },
    binary: { type: "string", default: DEFAULT_BINARY },
    keep: { type: "boolean", default: false },
  },
});
const faults = flags.faults.split(",").filter((name) => name !== "");
for (const name of faults) {
  if (FAULT_NAMES.includes(name)) continue;
  console.error(`Cannot inject "${name}": known are ${FAULT_NAMES.join(", ")}`);
  process.exit(2);
}
const backend = flags["mesh-backend"];
console.log(`seed ${flags.seed}, ${flags.seconds} s, faults: ${faults.join(", ")}`);
const lab = await createLab({
  hosts: HOSTS,
  binary: flags.binary,
  onProgress: console.log,
  ...(flags.keep ? { name: "chaos" } : {}),
});
let violationCount = 1;
try {
  const report = await runChaos({
    lab,
    faults,
    seed: Number(flags.seed),
    seconds: Number(flags.seconds),
    restSeconds: Number(flags.rest),
    agentFlags: backend === undefined ? [] : ["--mesh-backend", backend],
    note: console.log,
  });
  violationCount = report.violations.length;
  console.log(describeReport(report));
} finally {
  if (!flags.keep) await lab.down();
}
process.exit(violationCount > 0 ? 1 : 0);
