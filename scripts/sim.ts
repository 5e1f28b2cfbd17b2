/**
 * Simulates consensus (test/sim) over many seeds.
 *
 *     bun scripts/sim.ts --seeds 1..10000 [--nodes 3|5] [--verbose]
 *     bun scripts/sim.ts --seed 77 [--nodes 5]      replays one seed, a line per transition
 *
 * Without --nodes the seed decides (odd 3, even 5). Ends with `N seeds, N violations, Ns`; the exit
 * code is 1 when there are violations. The seeds are shared out to two processes.
 */
import { parseArgs } from "node:util";
import { simulate, type SimulationResult, type SimulationStats } from "../test/sim/simulate.ts";

const PROCESS_COUNT = 2;
/** Violating seeds that are printed in full. */
const SHOWN_MAX = 20;

type Share = { seeds: number; bad: SimulationResult[]; totals: SimulationStats };

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string" },
    nodes: { type: "string" },
    verbose: { type: "boolean", default: false },
    /** Internal: do every n-th seed from an offset, print a Share. */
    share: { type: "string" },
  },
});

function nodeCountOf(seed: number): number {
  return values.nodes ? Number(values.nodes) : seed % 2 === 1 ? 3 : 5;
}

function parseRange(text: string): { from: number; to: number } {
  const match = /^(\d+)\.\.(\d+)$/.exec(text);
  if (!match) {
    console.error(`Cannot read --seeds "${text}": write a range such as 1..100`);
    process.exit(2);
  }
  return { from: Number(match[1]), to: Number(match[2]) };
}

function runShare(range: { from: number; to: number }, step: number, offset: number): Share {
  const share: Share = { seeds: 0, bad: [], totals: noStats() };
  for (let seed = range.from + offset; seed <= range.to; seed += step) {
    const result = simulate({ seed, nodeCount: nodeCountOf(seed) });
    share.seeds++;
    addStats(share.totals, result.stats);
    if (result.violations.length > 0 && share.bad.length < SHOWN_MAX) share.bad.push(result);
    if (values.verbose) {
      console.error(`seed ${seed}: ${JSON.stringify(result.stats)}`);
    }
  }
  return share;
}

function noStats(): SimulationStats {
  return {
    events: 0,
    terms: 0,
    commits: 0,
    acknowledged: 0,
    reads: 0,
    crashes: 0,
    restores: 0,
    memberships: 0,
    removals: 0,
    wipes: 0,
    transfers: 0,
    convergedMs: 0,
  };
}

/** Sums, except for the time to converge: the longest. */
function addStats(totals: SimulationStats, stats: SimulationStats): void {
  const convergedMs = Math.max(totals.convergedMs, stats.convergedMs);
  for (const key of Object.keys(totals) as (keyof SimulationStats)[]) totals[key] += stats[key]; // its own keys
  totals.convergedMs = convergedMs;
}

async function runAll(range: { from: number; to: number }): Promise<Share> {
  const args = ["--seeds", `${range.from}..${range.to}`];
  if (values.nodes) args.push("--nodes", values.nodes);
  if (values.verbose) args.push("--verbose");
  const shares = await Promise.all(
    Array.from({ length: PROCESS_COUNT }, async (_, offset): Promise<Share> => {
      const child = Bun.spawn(
        [process.execPath, import.meta.path, ...args, "--share", `${PROCESS_COUNT}/${offset}`],
        { stdout: "pipe", stderr: "inherit" },
      );
      const text = await new Response(child.stdout).text();
      if ((await child.exited) !== 0) throw new Error(`A simulating process ended: ${text}`);
      return JSON.parse(text) as Share; // printed by the same program
    }),
  );
  const all: Share = { seeds: 0, bad: [], totals: noStats() };
  for (const share of shares) {
    all.seeds += share.seeds;
    all.bad.push(...share.bad);
    addStats(all.totals, share.totals);
  }
  all.bad.sort((a, b) => a.seed - b.seed);
  return all;
}

function showBad(bad: readonly SimulationResult[]): number {
  let count = 0;
  for (const result of bad) {
    for (const violation of result.violations) {
      console.log(`seed ${result.seed} (${nodeCountOf(result.seed)} nodes): ${violation}`);
      count++;
    }
  }
  return count;
}

const startedMs = performance.now();
if (values.seed !== undefined) {
  const seed = Number(values.seed);
  const result = simulate({
    seed,
    nodeCount: nodeCountOf(seed),
    trace: (line) => console.log(line),
  });
  console.log(JSON.stringify(result.stats));
  finish({ seeds: 1, bad: result.violations.length > 0 ? [result] : [], totals: result.stats });
} else {
  const range = parseRange(values.seeds ?? "1..100");
  if (values.share) {
    const [step, offset] = values.share.split("/").map(Number);
    process.stdout.write(JSON.stringify(runShare(range, step ?? 1, offset ?? 0)));
  } else {
    const all = await runAll(range);
    console.log(JSON.stringify(all.totals));
    finish(all);
  }
}

function finish(all: Share): void {
  const count = showBad(all.bad);
  const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1);
  console.log(`${all.seeds} seeds, ${count} violations, ${seconds}s`);
  if (count > 0) process.exitCode = 1;
}
