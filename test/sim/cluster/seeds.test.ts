/** Fixed seeds of the control-plane simulator; `bun scripts/sim-cluster.ts` runs many more. */
import "reflect-metadata";
import { describe, expect, test } from "bun:test";
import { simulateCluster } from "./simulate.ts";

const SEED_COUNT = 40;

describe("Cluster: fixed seeds", () => {
  for (let seed = 1; seed <= SEED_COUNT; seed++) {
    test(`seed ${seed} breaks no rule and converges`, () => {
      expect(simulateCluster({ seed }).violations).toEqual([]);
    });
  }

  test("one seed is one story", () => {
    const tell = () => {
      const lines: string[] = [];
      const { stats } = simulateCluster({ seed: 7, trace: (line) => lines.push(line) });
      return { stats, text: lines.join("\n") };
    };
    const first = tell();
    expect(first.stats.entries).toBeGreaterThan(20);
    expect(tell()).toEqual(first);
  });
});
