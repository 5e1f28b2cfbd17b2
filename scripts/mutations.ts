/**
 * Shows that the simulators catch what they are there for: a list of deliberate bugs, each put into a copy
 * of the tree, and seeds run until one sees it.
 *
 *     bun scripts/mutations.ts [--only WORD] [--simulator raft|cluster] [--seeds 2000] [--seconds 240] [--count]
 *
 * Prints per bug `caught by seed N (checker)` or `NOT CAUGHT`, and at last `N mutations, N caught`; the exit
 * code is 1 unless all were. `--only`: those whose name has the word in it. `--seconds`: time for one bug.
 * `--count` tells how many of the seeds see it instead, up to 20 of a simulator's process: how sure a catch
 * is, for whoever changes a simulator. The tree itself is never touched.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

type Mutation = {
  name: string;
  /** Which simulator is to see it. */
  simulator: "raft" | "cluster";
  file: string;
  /** Occurs exactly once in the file. */
  find: string;
  replace: string;
};

const MUTATIONS: readonly Mutation[] = [
  // ---- raft: scripts/sim.ts ---------------------------------------------------------------------
  {
    name: "vote not persisted",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    hardState,\n    isLogCleared",
    replace: "    hardState: { ...hardState, votedFor: undefined },\n    isLogCleared",
  },
  {
    name: "second vote in a term",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    : raft.votedFor === from || (raft.votedFor === undefined && raft.leaderId === undefined);",
    replace: "    : raft.leaderId === undefined;",
  },
  {
    name: "entries of earlier terms committed by counting",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "if (index <= log.commitIndex || termAt(log, index) !== raft.term) return;",
    replace: "if (index <= log.commitIndex) return;",
  },
  {
    name: "acknowledged before it is durable",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    (isEarly ? messagesBefore : messagesAfter).push(outgoing);",
    replace: "    (isEarly || true ? messagesBefore : messagesAfter).push(outgoing);",
  },
  {
    name: "leader counts itself before its own disk",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    voter === raft.nodeId ? log.persistedIndex : (raft.progress.get(voter)?.matchIndex ?? 0),",
    replace:
      "    voter === raft.nodeId ? lastIndex(log) : (raft.progress.get(voter)?.matchIndex ?? 0),",
  },
  {
    name: "ReadIndex without a round of the quorum",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  for (const round of takeConfirmedRounds(raft.reads, confirmedId)) {",
    replace:
      "  for (const round of takeConfirmedRounds(raft.reads, confirmedId + raft.reads.lastRoundId)) {",
  },
  {
    name: "ReadIndex before the own term's first commit",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  if (log.commitIndex < raft.noopIndex) return; // R1",
    replace: "",
  },
  {
    name: "vote without looking at the candidate's log",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    isUpToDate(raft.log, message);",
    replace:
      "    isUpToDate(raft.log, { lastIndex: lastIndex(raft.log), lastTerm: lastTerm(raft.log) });",
  },
  {
    name: "an append cuts off what follows it",
    simulator: "raft",
    file: "core/raft/log.ts",
    find: "    if (term === entry.term) continue;",
    replace: "",
  },
  {
    name: "append taken without a matching predecessor",
    simulator: "raft",
    file: "core/raft/log.ts",
    find: "  if (termAt(log, previous.index) !== previous.term) return undefined;",
    replace: "  if (termAt(log, previous.index) === undefined) return undefined;",
  },
  // "Follower commits up to its last entry, not only up to what matches" is not here: it changes nothing.
  // The leader looks for the place where the logs part from above (hints are never below it), so the first
  // append that is taken replaces all that may differ.
  {
    name: "the commit index of an append that is refused counts",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  if (!result) {\n    const hint",
    replace:
      "  if (!result) {\n    commitTo(raft, Math.min(message.commitIndex, lastIndex(log)));\n    const hint",
  },
  {
    name: "a heartbeat names a commit beyond what matches",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  const commitIndex = Math.min(progress.matchIndex, raft.log.commitIndex);",
    replace: "  const commitIndex = raft.log.commitIndex;",
  },
  {
    name: "snapshot without its membership",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  const { configuration } = configurationAt(log, taken.index);",
    replace: "  const { configuration } = configurationAt(log, log.base.index);",
  },
  {
    name: "two membership changes at once",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  if (log.commitIndex < raft.noopIndex || log.commitIndex < raft.configurationIndex) {",
    replace: "  if (log.commitIndex < 0) {",
  },
  {
    name: "answers to an earlier membership count",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: '  if (raft.role !== "leader" || progress?.epoch !== message.epoch || !progress) {',
    replace: '  if (raft.role !== "leader" || !progress) {',
  },
  {
    name: "a member with an empty log votes",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  return raft.joinedIndex !== undefined && lastIndex(raft.log) >= raft.joinedIndex;",
    replace: "  return true;",
  },
  {
    name: "the term is not persisted",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    hardState,\n    isLogCleared",
    replace: "    hardState: { ...hardState, term: durable.term },\n    isLogCleared",
  },
  {
    name: "half is a majority",
    simulator: "raft",
    file: "core/raft/quorum.ts",
    find: "  return Math.floor(count / 2) + 1;",
    replace: "  return Math.ceil(count / 2);",
  },
  {
    name: "a configuration stays when its entry is replaced",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "  if (result.truncatedFrom !== undefined || hasConfiguration(message.entries)) {",
    replace: "  if (hasConfiguration(message.entries)) {",
  },
  {
    name: "a snapshot is stored beside the old log",
    simulator: "raft",
    file: "core/raft/raft.ts",
    find: "    isLogCleared: raft.newSnapshot?.pieces !== undefined,",
    replace: "    isLogCleared: false,",
  },
  {
    name: "what was committed counts as applied after a restart",
    simulator: "raft",
    file: "core/raft/log.ts",
    find: "  log.handedIndex = log.appliedIndex;",
    replace: "  log.handedIndex = Math.max(log.appliedIndex, stored.commitIndex);",
  },
  {
    name: "a damaged frame is taken",
    simulator: "raft",
    file: "core/raft/codec.ts",
    find: "      if (crc32(bytes) !== checksum) {",
    replace: "      if (crc32(bytes) !== checksum && bytes.length < 0) {",
  },

  // ---- control plane: scripts/sim-cluster.ts ------------------------------------------------------
  {
    name: "ifVersion ignored",
    simulator: "cluster",
    file: "core/store/refusals.ts",
    find: "  if (ifVersion === undefined || ifVersion === version) return undefined;",
    replace: "  if (ifVersion === undefined || ifVersion >= 0) return undefined;",
  },
  {
    name: "a reported status may move back",
    simulator: "cluster",
    file: "core/store/refusals.ts",
    find: "  if ((to > from && !isEnded) || (to === from && status.atMs >= task.status.atMs)) return undefined;",
    replace: "  if (to > from || status.atMs >= 0 || isEnded) return undefined;",
  },
  {
    name: "an address is free while the container still runs",
    simulator: "cluster",
    file: "core/store/claims.ts",
    find: "  if (isTaskDead(task.status.state)) return false;\n  const isGivenUp",
    replace:
      '  if (isTaskDead(task.status.state) || task.desiredState === "shutdown") return false;\n  const isGivenUp',
  },
  {
    name: "apply takes the time of its own host",
    simulator: "cluster",
    file: "core/store/apply.ts",
    find: '  next["updatedAtMs"] = context.atMs;',
    replace: '  next["updatedAtMs"] = Date.now();',
  },
  {
    name: "a refused proposal is undone but for its last step",
    simulator: "cluster",
    file: "core/store/apply.ts",
    find: "      for (const step of undo.reverse()) step();",
    replace: "      for (const step of undo.reverse().slice(1)) step();",
  },
  {
    name: "a lost task is replaced and never stopped",
    simulator: "cluster",
    file: "core/orchestrator/restart.ts",
    find: '  for (const task of lost) updateTask(draft, task, { desiredState: "shutdown" });',
    replace: "",
  },
  {
    name: "no delay before a restart",
    simulator: "cluster",
    file: "core/orchestrator/restart.ts",
    find: "  return heldUntilMs + delayMs;",
    replace: "  return heldUntilMs + 0 * delayMs;",
  },
  {
    name: "a successor starts beside the task that it replaces",
    simulator: "cluster",
    file: "core/orchestrator/slot.ts",
    find: '      desiredState: isDelayed || isBlocked ? "ready" : runningState(job),',
    replace: '      desiredState: isDelayed ? "ready" : runningState(job),',
  },
  {
    name: "a held task does not wait for the one that stops",
    simulator: "cluster",
    file: "core/orchestrator/slot.ts",
    find: "    if (isBlocked && nowMs < blockedUntilMs) {",
    replace: "    if (isBlocked && nowMs < 0) {",
  },
  {
    name: "drained nodes get tasks",
    simulator: "cluster",
    file: "core/scheduler/filters.ts",
    find: '      node.status.state === "ready" && node.spec.Availability === "active",',
    replace: '      node.status.state === "ready",',
  },
  {
    name: "a difference of assignments drops its removals",
    simulator: "cluster",
    file: "core/dispatcher/assignments.ts",
    find: "    if (!after.has(key)) diff.removed.push(key);",
    replace: "    if (after.has(key)) continue;",
  },
  {
    name: "an endpoint's end is not told",
    simulator: "cluster",
    file: "core/dispatcher/dispatch.ts",
    find: "      if (shared.delete(key)) diff.removed.push(key);",
    replace: "      shared.delete(key);",
  },
  {
    name: "a gap in the generations is ignored",
    simulator: "cluster",
    file: "agent/session.ts",
    find: "          message.generation !== open.generation + 1 ||",
    replace: "          message.generation < open.generation + 1 ||",
  },
  {
    name: "a status is forgotten before it was taken",
    simulator: "cluster",
    file: "agent/session.ts",
    find: "    const batch = [...waiting.entries()].slice(0, batchMax);\n",
    replace:
      "    const batch = [...waiting.entries()].slice(0, batchMax);\n    forgetReported(batch);\n",
  },
  {
    name: "a returning node keeps tasks that were replaced",
    simulator: "cluster",
    file: "agent/reconciler/task-step.ts",
    find: '  if (task.desiredState === "shutdown" || task.desiredState === "remove") {',
    replace: '  if (task.desiredState === "remove") {',
  },
  {
    name: "containers of forgotten tasks stay",
    simulator: "cluster",
    file: "agent/reconciler/task-step.ts",
    find: '    if (!container) return { step: { type: "forget", taskId } };',
    replace:
      '    if (!container || container.state === "exited") return { step: { type: "forget", taskId } };',
  },
  {
    name: "a read without its barrier",
    simulator: "cluster",
    file: "agent/manager.ts",
    find: "      const leaderLostMs = await passBarrier(onStale !== undefined);",
    replace:
      "      const leaderLostMs = onStale === undefined ? undefined : await passBarrier(true);",
  },
  {
    name: "a proposal is sent again without the barrier",
    simulator: "cluster",
    file: "agent/manager.ts",
    find: "          const settled = settleBy(deadlineMs).then((isSettled) => {",
    replace: "          const settled = waitStatus(LEADER_POLL_MS).then((isSettled = true) => {",
  },
];

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    simulator: { type: "string", default: "" },
    count: { type: "boolean", default: false },
    seeds: { type: "string", default: "2000" },
    seconds: { type: "string", default: "240" },
  },
});
const SEEDS_MAX = Number(values.seeds);
const SECONDS_MAX = Number(values.seconds);
/** Seeds of the first run; each next run has twice as many, up to the bound. */
const SEEDS_FIRST = 20;
const SEEDS_STEP_MAX = 320;

/** Whether a seed is passed by the code as it is. */
const cleanSeeds = new Map<string, boolean>();
const root = join(import.meta.dir, "..");
const copy = mkdtempSync(join(tmpdir(), "shoal-mutations-"));
try {
  for (const name of ["core", "agent", "net", "test", "scripts", "tsconfig.json", "package.json"]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  const chosen = MUTATIONS.filter(
    ({ name, simulator }) => name.includes(values.only) && simulator.includes(values.simulator),
  );
  let caughtCount = 0;
  for (const mutation of chosen) {
    const result = await hunt(mutation);
    if (result.isCaught) caughtCount++;
    console.log(`${mutation.simulator.padEnd(7)}  ${mutation.name.padEnd(54)}  ${result.text}`);
  }
  console.log(`${chosen.length} mutations, ${caughtCount} caught`);
  if (caughtCount < chosen.length) process.exitCode = 1;
} finally {
  rmSync(copy, { recursive: true, force: true });
}

async function hunt(mutation: Mutation): Promise<{ isCaught: boolean; text: string }> {
  const path = join(copy, mutation.file);
  const source = readFileSync(path, "utf8");
  if (source.split(mutation.find).length !== 2) {
    return { isCaught: false, text: `NOT FOUND in ${mutation.file}: the code has changed` };
  }
  const mutated = source.replace(mutation.find, () => mutation.replace);
  const script = mutation.simulator === "raft" ? "scripts/sim.ts" : "scripts/sim-cluster.ts";
  const endsAtMs = performance.now() + SECONDS_MAX * 1_000;
  let from = 1;
  let count = SEEDS_FIRST;
  if (values.count) count = SEEDS_MAX;
  try {
    while (from <= SEEDS_MAX) {
      const to = Math.min(from + count - 1, SEEDS_MAX);
      const leftMs = endsAtMs - performance.now();
      if (leftMs <= 0) break;
      writeFileSync(path, mutated);
      const output = await runScript(script, `${from}..${to}`, leftMs);
      writeFileSync(path, source);
      if (!/^\d+ seeds, /m.test(output) && performance.now() < endsAtMs) {
        return { isCaught: false, text: `NO RESULT of seeds ${from}..${to}: ${script} failed` };
      }
      const caught = [...output.matchAll(/^seed (\d+)[^:]*: (\S+)/gm)];
      if (values.count) {
        const seeds = new Set(caught.map(([, seed]) => seed));
        return { isCaught: seeds.size > 0, text: `seen by ${seeds.size} of ${to} seeds` };
      }
      for (const [, seed = "", checker = ""] of caught) {
        // A seed that the code as it is does not pass either shows nothing.
        if (await isClean(script, seed)) {
          return { isCaught: true, text: `caught by seed ${seed} (${checker})` };
        }
      }
      from = to + 1;
      count = Math.min(2 * count, SEEDS_STEP_MAX);
    }
  } finally {
    writeFileSync(path, source);
  }
  return { isCaught: false, text: `NOT CAUGHT in ${from - 1} seeds` };
}

async function isClean(script: string, seed: string): Promise<boolean> {
  const key = `${script} ${seed}`;
  const known = cleanSeeds.get(key);
  if (known !== undefined) return known;
  const output = await runScript(script, `${seed}..${seed}`, SECONDS_MAX * 1_000);
  const clean = output.includes("1 seeds, 0 violations");
  cleanSeeds.set(key, clean);
  return clean;
}

/** What the script printed; when it takes longer than it may, it is ended. */
async function runScript(script: string, seeds: string, timeoutMs: number): Promise<string> {
  const child = Bun.spawn([process.execPath, script, "--seeds", seeds], {
    cwd: copy,
    stdout: "pipe",
    stderr: "ignore",
    // A group of its own, so that its children can be ended with it.
    detached: true,
  });
  const timer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), timeoutMs);
  const text = await new Response(child.stdout).text();
  clearTimeout(timer);
  await child.exited;
  return text;
}
