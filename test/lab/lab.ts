/**
 * Labs for tests: one per `describeLab`, made before its first test and removed after its last. A
 * lab whose test process was killed is removed by the next one (scripts/lab/lab.ts).
 */
import { afterAll, beforeAll, describe } from "bun:test";
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { createLab, DEFAULT_BINARY, findTraces, type Lab } from "../../scripts/lab/lab.ts";

export type { Lab } from "../../scripts/lab/lab.ts";
export { waitFor } from "../../scripts/lab/command.ts";

export type LabTestOptions = {
  /** @default 3 */
  hosts?: number;
  /** Every host starts with an agent. Needs dist/shoal. @default false */
  agents?: boolean;
  /** Programs that this lab needs beside those that all do. */
  tools?: readonly string[];
};

/** Time to make or remove a lab; it takes some seconds, more when the machine is busy. */
const LAB_TIMEOUT_MS = 180_000;
const TOOLS = ["ip", "nsenter", "unshare", "setsid", "dockerd", "containerd", "docker", "iptables"];

/** Why no lab can be made here; undefined when it can. */
export function labObstacle(options: LabTestOptions = {}): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  const wanted = [...TOOLS, ...(options.tools ?? [])];
  const missing = wanted.filter((tool) => Bun.which(tool) === null);
  if (missing.length > 0) return `needs ${missing.join(", ")}: run scripts/setup.sh`;
  if (options.agents === true && !existsSync(DEFAULT_BINARY)) {
    return "needs dist/shoal: run bun scripts/build.ts";
  }
  return undefined;
}

/**
 * A `describe` with a lab; `lab()` gives it inside of tests. Where none can be made, the tests are
 * skipped with the reason in the title. Give each test that waits a time limit of its own.
 */
export function describeLab(
  title: string,
  options: LabTestOptions,
  body: (lab: () => Lab) => void,
): void {
  const obstacle = labObstacle(options);
  if (obstacle !== undefined) {
    describe.skip(`${title} (skipped: ${obstacle})`, () => body(() => noLab()));
    return;
  }
  describe(title, () => {
    let made: Lab | undefined;
    beforeAll(async () => {
      made = await createLab({ hosts: options.hosts ?? 3, agents: options.agents ?? false });
    }, LAB_TIMEOUT_MS);
    afterAll(async () => {
      if (!made) return;
      keepLogs(made, title);
      await made.down();
      const traces = await findTraces(made.name);
      if (traces.length > 0) throw new Error(`The lab left ${traces.join(", ")}`);
    }, LAB_TIMEOUT_MS);
    body(() => made ?? noLab());
  });
}

function noLab(): never {
  throw new Error("lab() is there only while a test runs");
}

/** The gate shows them when a test fails (scripts/check.ts). */
function keepLogs(lab: Lab, title: string): void {
  const keepDir = process.env["SHOAL_LAB_LOGS"];
  if (keepDir === undefined) return;
  for (const host of lab.hosts) {
    for (const log of ["agent.log", "dockerd.log"]) {
      const from = join(lab.dir, host.name, log);
      const toDir = join(keepDir, title.replaceAll(/[^A-Za-z0-9]+/g, "-"));
      if (!existsSync(from)) continue;
      mkdirSync(toDir, { recursive: true });
      copyFileSync(from, join(toDir, `${host.name}-${log}`));
    }
  }
}
