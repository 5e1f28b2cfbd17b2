/**
 * Real faults for a long time: a cluster of three managers in a lab, write load through every host,
 * one fault after the other; after each round the history and the states are checked (test/lab/faults).
 *
 *     bun scripts/soak.ts [--kills 100] [--seconds 600] [--faults kill,kill-two,partition,deaf,mute,
 *         flapping,freeze,full-disk,slow-disk,rot] [--hold 30] [--seed N] [--binary dist/shoal]
 *
 * Kills come between the other kinds, which take turns, until `--seconds` are over and (with `kill`)
 * `--kills` are done: whichever comes last, but never longer than three times `--seconds`. A line per
 * fault; the last is `N faults, N violations`. The exit code is 1 when there are violations. The lab is removed.
 */
import { parseArgs } from "node:util";
import {
  type Cluster,
  formCluster,
  startAgents,
  waitManagers,
} from "../test/lab/faults/cluster.ts";
import {
  type FaultOptions,
  type FaultReport,
  fillDisk,
  flipBytes,
  freeze,
  killOne,
  killTwo,
  partitionBothWays,
  partitionDeaf,
  partitionFlapping,
  partitionMute,
  slowDisk,
} from "../test/lab/faults/inject.ts";
import { startLoad } from "../test/lab/faults/load.ts";
import { seededRandom } from "../test/lab/faults/random.ts";
import { slowDiskObstacle } from "../test/lab/faults/slow-disk.ts";
import { verify } from "../test/lab/faults/verify.ts";
import { createLab, DEFAULT_BINARY } from "./lab/lab.ts";

type Kind = (options: FaultOptions) => Promise<FaultReport>;
const KINDS: Record<string, Kind> = {
  kill: killOne,
  "kill-two": killTwo,
  partition: partitionBothWays,
  deaf: partitionDeaf,
  mute: partitionMute,
  flapping: partitionFlapping,
  freeze,
  "full-disk": fillDisk,
  "slow-disk": slowDisk,
  rot: (options) => flipBytes(options, options.random() < 0.5 ? "raft.db" : "raft.db-wal"),
};
/** Faults between two checks of the history: more make its search and the last reads long. */
const FAULTS_PER_ROUND = 10;

const { values: flags } = parseArgs({
  options: {
    kills: { type: "string", default: "100" },
    seconds: { type: "string", default: "600" },
    faults: { type: "string", default: Object.keys(KINDS).join(",") },
    hold: { type: "string", default: "30" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    binary: { type: "string", default: DEFAULT_BINARY },
    verbose: { type: "boolean", default: false },
  },
});

const names = flags.faults.split(",");
for (const name of names) {
  if (KINDS[name]) continue;
  console.error(`Cannot inject "${name}": known are ${Object.keys(KINDS).join(", ")}`);
  process.exit(2);
}
const obstacle = slowDiskObstacle();
const usable = names.filter((name) => name !== "slow-disk" || obstacle === undefined);
if (usable.length < names.length) console.log(`slow-disk left out: ${obstacle}`);
const killsWanted = usable.includes("kill") ? Number(flags.kills) : 0;
const secondsMax = Number(flags.seconds);
const random = seededRandom(Number(flags.seed));

let faultCount = 0;
let killCount = 0;
/** Faults that were no kills: their kinds take turns. */
let otherCount = 0;
let operationCount = 0;
let acknowledgedCount = 0;
let unknownCount = 0;
const violations: string[] = [];
const writableMs = new Map<string, number[]>();
/** Set anew when the cluster stands. */
let startedMs = performance.now();
const elapsed = () => (performance.now() - startedMs) / 1_000;
const isOver = () =>
  elapsed() > secondsMax * 3 || (elapsed() > secondsMax && killCount >= killsWanted);

function violate(text: string): void {
  violations.push(text);
  console.log(`  VIOLATION: ${text}`);
}

async function inject(cluster: Cluster, name: string): Promise<void> {
  const kind = KINDS[name];
  if (!kind) return;
  faultCount++;
  if (name === "kill") killCount++;
  const holdMs = Number(flags.hold) * 1_000;
  try {
    const report = await kind({ cluster, random, holdMs });
    console.log(`${elapsed().toFixed(0).padStart(5)} s  ${report.fault}: ${report.detail}`);
    writableMs.set(report.fault, [...(writableMs.get(report.fault) ?? []), report.writableMs]);
    for (const text of report.violations) violate(text);
  } catch (error) {
    violate(`${name}: ${error instanceof Error ? error.message : String(error)}`);
  }
  for (const text of cluster.incidents.splice(0)) violate(text);
}

/** What comes next: mostly kills while some are owed, the other kinds in turn between them. */
function nextKind(): string {
  const rest = usable.filter((name) => name !== "kill");
  const isKillDue = killCount < killsWanted && (rest.length === 0 || random() < killShare());
  return isKillDue ? "kill" : (rest[otherCount++ % rest.length] ?? "kill");
}
/** Of the time that is left, so that all kills fit. */
function killShare(): number {
  return elapsed() > secondsMax ? 1 : 0.75;
}

async function round(cluster: Cluster, index: number): Promise<void> {
  const load = startLoad({ hosts: cluster.hosts, name: `r${index}`, random: Math.random });
  for (let i = 0; i < FAULTS_PER_ROUND && !isOver(); i++) await inject(cluster, nextKind());
  await waitManagers(cluster).catch((error: unknown) => violate(String(error)));
  const found = await verify(cluster, load);
  operationCount += found.operationCount;
  acknowledgedCount += found.acknowledgedCount;
  unknownCount += found.unknownCount;
  console.log(
    `${elapsed().toFixed(0).padStart(5)} s  round ${index}: ${found.operationCount} operations, ${found.acknowledgedCount} writes acknowledged, ${found.unknownCount} unknown, ${found.failedCount} refused, slowest write ${found.slowestWriteMs.toFixed(0)} ms`,
  );
  if (flags.verbose)
    for (const [text, count] of load.strange) console.log(`    ${count} × ${text}`);
  for (const text of found.violations) violate(text);
}

console.log(`seed ${flags.seed}, faults: ${usable.join(", ")}`);
const lab = await createLab({ binary: flags.binary, onProgress: console.log });
try {
  await startAgents(lab, undefined);
  const cluster = await formCluster(lab);
  startedMs = performance.now();
  for (let index = 1; !isOver(); index++) await round(cluster, index);
  await cluster.close();
} catch (error) {
  violate(error instanceof Error ? (error.stack ?? error.message) : String(error));
} finally {
  await lab.down();
}
for (const [fault, times] of writableMs) {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0);
  console.log(
    `${fault}: ${times.length} times, writable again after ${at(0.5)} ms (median), ${at(1)} ms (longest)`,
  );
}
console.log(
  `${operationCount} operations, ${acknowledgedCount} writes acknowledged, ${unknownCount} unknown, ${elapsed().toFixed(0)} s`,
);
console.log(`${faultCount} faults, ${violations.length} violations`);
process.exit(violations.length > 0 ? 1 : 0);
