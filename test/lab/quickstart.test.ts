/** The README's first command, as a reader runs it. */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { tryRun } from "../../scripts/lab/command.ts";
import { findTraces, removeLab } from "../../scripts/lab/lab.ts";
import { labObstacle } from "./lab.ts";

const SCRIPT = join(import.meta.dir, "../../scripts/quickstart.sh");
const obstacle = labObstacle({ agents: true });

describe.skipIf(obstacle !== undefined)(
  `quickstart.sh${obstacle ? ` (skipped: ${obstacle})` : ""}`,
  () => {
    // The reader's own lab, if one is up, is called "shoal".
    const name = `q${process.pid.toString(36)}`;
    afterAll(async () => {
      await removeLab(name);
    });

    test("forms a cluster, answers through every host, and leaves nothing", async () => {
      const result = await tryRun([SCRIPT, "--name", name], { timeoutMs: 280_000 });
      // Shown whole when it fails: it holds the ends of the agents' logs.
      if (result.code !== 0) console.error(`${result.stdout}\n${result.stderr}`);
      expect(result.code).toBe(0);
      expect(result.stdout).toMatch(/first answer \d+\.\d s after/);
      expect(result.stdout).toMatch(/all 3 tasks answer through every host/);
      expect(result.stdout).toContain("the tasks see 203.0.113.9)");
      expect(await findTraces(name)).toEqual([]);
    }, 300_000);
  },
);
