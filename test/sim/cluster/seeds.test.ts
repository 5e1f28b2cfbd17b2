/** Fixed seeds of the control-plane simulator; `bun scripts/sim-cluster.ts` runs many more. */
import "reflect-metadata";
import { describe, expect, test } from "bun:test";
import { simulateCluster } from "./simulate.ts";

const SEED_COUNT = 40;
/** Of one seed, which takes a tenth of a second or two by itself. */
const TIMEOUT_MS = 60_000;

describe("Cluster: fixed seeds", () => {
  for (let seed = 1; seed <= SEED_COUNT; seed++) {
    const title = `seed ${seed} breaks no rule and converges`;
    test(title, { timeout: TIMEOUT_MS }, () => {
      expect(simulateCluster({ seed }).violations).toEqual([]);
    });
  }

  test("one seed is one story", () => {
    const tell = () => {
      const lines: string[] = [];
      const { stats } = simulateCluster({ seed: 8, trace: (line) => lines.push(line) });
      return { stats, text: lines.join("\n") };
    };
    const first = tell();
    expect(first.stats.entries).toBeGreaterThan(20);
    expect(tell()).toEqual(first);
  });
});
