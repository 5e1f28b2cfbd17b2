/**
 * Simulates the whole control plane (test/sim/cluster) over many seeds.
 *
 *     bun scripts/sim-cluster.ts --seeds 1..1000 [--verbose]
 *     bun scripts/sim-cluster.ts --seed 77 [--verbose]      replays one seed; with a line per transition
 *
 * Ends with `N seeds, N violations, Ns`; the exit code is 1 when there are violations. `--first` ends at the
 * first violation, `--processes N` shares the seeds out (default 2).
 */
import { parseArgs } from "node:util";
import type {
  ClusterSimulationResult,
  ClusterSimulationStats,
} from "../test/sim/cluster/simulate.ts";

// The X.509 library under agent/ wants it first.
await import("reflect-metadata");
const { simulateCluster } = await import("../test/sim/cluster/simulate.ts");

/** Violating seeds that are printed in full. */
const SHOWN_MAX = 20;

type Share = { seeds: number; bad: ClusterSimulationResult[]; totals: Record<string, number> };

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string", default: "1..100" },
    verbose: { type: "boolean", default: false },
    first: { type: "boolean", default: false },
    processes: { type: "string", default: "2" },
    /** Internal: do every n-th seed from an offset, print a Share. */
    share: { type: "string" },
  },
});

function parseRange(text: string): { from: number; to: number } {
  const match = /^(\d+)\.\.(\d+)$/.exec(text);
  if (!match) {
    console.error(`Cannot read --seeds "${text}": write a range such as 1..100`);
    process.exit(2);
  }
  return { from: Number(match[1]), to: Number(match[2]) };
}

function runShare(range: { from: number; to: number }, step: number, offset: number): Share {
  const share: Share = { seeds: 0, bad: [], totals: {} };
  for (let seed = range.from + offset; seed <= range.to; seed += step) {
    const startedMs = performance.now();
    const result = simulateCluster({ seed });
    share.seeds++;
    addStats(share.totals, result.stats);
    if (result.violations.length > 0 && share.bad.length < SHOWN_MAX) share.bad.push(result);
    if (values.verbose) {
      const tookMs = Math.round(performance.now() - startedMs);
      console.error(`seed ${seed}: ${tookMs} ms ${JSON.stringify(result.stats)}`);
    }
    if (values.first && result.violations.length > 0) break;
  }
  return share;
}

/** Sums, and the longest time to converge. */
function addStats(
  totals: Record<string, number>,
  stats: ClusterSimulationStats | Record<string, number>,
): void {
  for (const [key, value] of Object.entries(stats)) {
    const before = totals[key] ?? 0;
    totals[key] = key === "convergedMs" ? Math.max(before, value) : before + value;
  }
}

async function runAll(range: { from: number; to: number }, processCount: number): Promise<Share> {
  const args = ["--seeds", `${range.from}..${range.to}`];
  if (values.verbose) args.push("--verbose");
  if (values.first) args.push("--first");
  const shares = await Promise.all(
    Array.from({ length: processCount }, async (_, offset): Promise<Share> => {
      const child = Bun.spawn(
        [process.execPath, import.meta.path, ...args, "--share", `${processCount}/${offset}`],
        { stdout: "pipe", stderr: "inherit" },
      );
      const text = await new Response(child.stdout).text();
      if ((await child.exited) !== 0) throw new Error(`A simulating process ended: ${text}`);
      return JSON.parse(text) as Share; // printed by the same program
    }),
  );
  const all: Share = { seeds: 0, bad: [], totals: {} };
  for (const share of shares) {
    all.seeds += share.seeds;
    all.bad.push(...share.bad);
    addStats(all.totals, share.totals);
  }
  all.bad.sort((a, b) => a.seed - b.seed);
  return all;
}

function finish(all: Share, startedMs: number): void {
  let count = 0;
  for (const { seed, violations } of all.bad) {
    for (const violation of violations) {
      console.log(`seed ${seed}: ${violation}`);
      count++;
    }
  }
  const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1);
  console.log(`${all.seeds} seeds, ${count} violations, ${seconds}s`);
  if (count > 0) process.exitCode = 1;
}

const startedMs = performance.now();
if (values.seed !== undefined) {
  const seed = Number(values.seed);
  const trace = (line: string) => console.log(line);
  const result = simulateCluster({ seed, ...(values.verbose ? { trace } : {}) });
  console.log(JSON.stringify(result.stats));
  finish({ seeds: 1, bad: result.violations.length > 0 ? [result] : [], totals: {} }, startedMs);
} else {
  const range = parseRange(values.seeds);
  if (values.share) {
    const [step, offset] = values.share.split("/").map(Number);
    process.stdout.write(JSON.stringify(runShare(range, step ?? 1, offset ?? 0)));
  } else {
    const all = await runAll(range, Number(values.processes));
    console.log(JSON.stringify(all.totals));
    finish(all, startedMs);
  }
}
