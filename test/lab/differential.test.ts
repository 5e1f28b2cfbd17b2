/**
 * The differential run as a test: every case of test/differential against stock swarm and against
 * shoal. `bun scripts/differential.ts` shows more of it.
 */
import { expect, test } from "bun:test";
import { runSuite, showSummary } from "../differential/suite.ts";
import { labObstacle } from "./lab.ts";

const TIMEOUT_MS = 9 * 60_000;
const obstacle = labObstacle({ agents: true });
const title = "stock swarm and shoal give the same answers, but for the accepted differences";

if (obstacle === undefined) {
  test(
    title,
    async () => {
      const lines: string[] = [];
      const result = await runSuite({ onLine: (line) => void lines.push(line) });
      for (const line of lines.filter((text) => text.startsWith("FAILED"))) console.log(line);
      for (const line of showSummary(result)) console.log(line);
      expect(result.failed.map((one) => one.name)).toEqual([]);
      expect(result.unused.map((entry) => entry.reason)).toEqual([]);
      // A table that has lost its cases would pass, too.
      expect(result.passed).toBeGreaterThan(300);
    },
    TIMEOUT_MS,
  );
} else {
  test.skip(`${title} (skipped: ${obstacle})`, () => undefined);
}
