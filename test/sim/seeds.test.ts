import { expect, test } from "bun:test";
import { simulate } from "./simulate.ts";

/** 100 fixed seeds; `bun scripts/sim.ts` runs more, and `--seed N` replays one. */
const SEED_COUNT = 100;

test.each([
  [3, 1],
  [5, 0],
])("Cluster of %d: no seed breaks a rule, and every one converges", (nodeCount, parity) => {
  const bad: string[] = [];
  const totals = { commits: 0, restores: 0, memberships: 0, reads: 0, crashes: 0, transfers: 0 };
  for (let seed = 1; seed <= SEED_COUNT; seed++) {
    if (seed % 2 !== parity) continue;
    const { violations, stats } = simulate({ seed, nodeCount });
    bad.push(...violations.map((violation) => `seed ${seed}: ${violation}`));
    for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += stats[key]; // its own keys
  }
  expect(bad).toEqual([]);
  // A simulator that no longer does anything would find nothing either.
  for (const [what, count] of Object.entries(totals))
    expect([what, count > 5]).toEqual([what, true]);
});

test("Cluster: the same seed gives the same life", () => {
  const lines: string[][] = [[], []];
  for (const trace of lines) {
    simulate({ seed: 42, nodeCount: 5, trace: (line) => trace.push(line) });
  }
  expect(lines[0]?.length).toBeGreaterThan(20);
  expect(lines[0]).toEqual(lines[1]);
});
