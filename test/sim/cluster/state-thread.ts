/**
 * The state thread (core/store/worker.ts) in virtual time: the real apply over rows in memory, and the
 * real leader's loop. What its file would hold outlives it in `StateFile`.
 */
import { assert, unreachable } from "../../../core/assert.ts";
import { ClusterError } from "../../../core/errors.ts";
import type { RaftIndex } from "../../../core/ids.ts";
import { PLANNERS } from "../../../core/planners.ts";
import type {
  ConsensusToState,
  StateAnswer,
  StateInput,
  StateOutput,
  StateToConsensus,
} from "../../../core/protocol.ts";
import type { Random } from "../../../core/random.ts";
import { applyEntry } from "../../../core/store/apply.ts";
import { createMemoryRows, type MemoryRows, type Row } from "../../../core/store/memory-rows.ts";
import { bodiesOf, decodeSnapshot, encodeSnapshot } from "../../../core/store/sqlite-snapshot.ts";
import type { AppliedBatch } from "../../../core/store/sqlite-store.ts";
import { type Leader, startLeader } from "../../../core/store/worker-leader.ts";
import type { CrashPoints } from "./crash-points.ts";
import type { ClusterFaults } from "./faults.ts";
import { createThread, type Line, type Thread } from "./threads.ts";
import type { Process, VirtualTime } from "./virtual-time.ts";

/** As in core/store/worker.ts. */
const PERSIST_MS = 50;
const PERSIST_ENTRIES = 1_000;
const APPLIED_REPORT_MS = 20;

/** What state.db holds, and what it held some entries ago: a power cut may fall back to that. */
export type StateFile = {
  index: RaftIndex;
  rows: Row[];
  older: { index: RaftIndex; rows: Row[] }[];
};

const OLDER_MAX = 4;
/** Entries between what is kept as older. */
const OLDER_STEP = 12;

export function emptyStateFile(): StateFile {
  return { index: 0, rows: [], older: [] };
}

export type StateObserver = {
  /** After each entry. */
  applied(entry: {
    index: RaftIndex;
    result: ReturnType<typeof applyEntry>;
    rows: MemoryRows;
  }): void;
  /** After a start or a snapshot. */
  replaced(rows: MemoryRows): void;
  leads(isLeader: boolean): void;
};

export type StateThread = {
  thread: Thread<StateOutput>;
  fromConsensus(message: ConsensusToState): void;
  rows: MemoryRows;
  /** What the file holds: main reads there. On a follower it is somewhat behind. */
  fileRows: MemoryRows;
  /** The process has ended: the file is what was committed last. */
  closeFile(): void;
};

export function startStateThread(options: {
  time: VirtualTime;
  process: Process;
  random: Random;
  faults: ClusterFaults;
  file: StateFile;
  crashes: CrashPoints;
  observer: StateObserver;
  toConsensus: Line<StateToConsensus>;
}): StateThread {
  const { time, process, random, faults, file, crashes, observer, toConsensus } = options;
  const rows = createMemoryRows();
  rows.replaceAll(file.rows, file.index);
  observer.replaced(rows);
  let leader: Leader | undefined;
  let leaderTerm = 0;
  const fileRows = createMemoryRows();
  fileRows.replaceAll(file.rows, file.index);
  let isAwaited = false;
  let untold: AppliedBatch = { outcomes: [], changes: [] };
  let persistTimer: ReturnType<typeof setTimeout> | undefined;
  let reportTimer: ReturnType<typeof setTimeout> | undefined;

  const closeFile = () => {
    file.rows = exportRows(fileRows);
    file.index = fileRows.index;
  };

  const reportApplied = () => {
    reportTimer ??= setTimeout(() => {
      reportTimer = undefined;
      toConsensus({ type: "applied", index: fileRows.index });
    }, APPLIED_REPORT_MS);
  };

  /** One transaction: rows and index together. */
  const persist = () => {
    clearTimeout(persistTimer);
    persistTimer = undefined;
    if (fileRows.index === rows.index) return;
    crashes.pass("before-state-commit");
    // In the order in which they were made: claims change hands.
    for (const change of untold.changes) {
      if (change.kind === "remove") fileRows.delete(change.table, change.id);
      else fileRows.put(change.table, change.object);
    }
    fileRows.setIndex(rows.index);
    keepOlder(file, fileRows);
    thread.notify({ type: "applied", index: rows.index, ...untold });
    untold = { outcomes: [], changes: [] };
    crashes.pass("after-state-commit");
    reportApplied();
  };

  const applyEntries = (
    entries: Extract<ConsensusToState, { type: "apply" }>["entries"],
  ): AppliedBatch => {
    const batch: AppliedBatch = { outcomes: [], changes: [] };
    for (const entry of entries) {
      if (entry.index <= rows.index) continue;
      assert(
        entry.index === rows.index + 1,
        `Entry ${entry.index} follows applied index ${rows.index}`,
      );
      const result = applyEntry(rows, entry);
      if (result.proposalId !== undefined && result.outcome) {
        batch.outcomes.push({ proposalId: result.proposalId, outcome: result.outcome });
      }
      batch.changes.push(...result.changes);
      observer.applied({ index: entry.index, result, rows });
    }
    return batch;
  };

  const fromConsensus = (message: ConsensusToState) => {
    switch (message.type) {
      case "apply": {
        const batch = applyEntries(message.entries);
        untold.outcomes.push(...batch.outcomes);
        untold.changes.push(...batch.changes);
        if (leader || isAwaited || rows.index - fileRows.index >= PERSIST_ENTRIES) persist();
        else persistTimer ??= setTimeout(persist, PERSIST_MS);
        leader?.applied(batch);
        break;
      }
      case "restore": {
        stopLeader();
        persist();
        const contents = decodeSnapshot(message.data).rows;
        rows.replaceAll(contents, message.index);
        fileRows.replaceAll(contents, message.index);
        file.older = [];
        observer.replaced(rows);
        thread.notify({ type: "restored", index: rows.index });
        toConsensus({ type: "applied", index: rows.index });
        break;
      }
      case "leadership":
        if (leader && message.isLeader && message.term === leaderTerm) break;
        stopLeader();
        if (message.isLeader) {
          leaderTerm = message.term;
          persist();
          observer.leads(true);
          leader = startLeader({
            view: rows,
            planners: PLANNERS,
            random,
            propose: (data) => toConsensus({ type: "propose", data }),
            output: (output) => thread.notify(output),
            time: {
              wallMs: () => Date.now(),
              monotonicMs: () => performance.now(),
              after: (delayMs, run) => {
                const timer = setTimeout(run, delayMs);
                return () => clearTimeout(timer);
              },
            },
          });
        }
        break;
      case "take-snapshot":
        toConsensus({
          type: "snapshot",
          index: rows.index,
          data: encodeSnapshot(rows.index, bodiesOf(rows)),
        });
        break;
      default:
        unreachable(message);
    }
  };

  const leading = (): Leader => {
    if (leader) return leader;
    throw new ClusterError("not-leader", "This manager does not lead");
  };
  const stopLeader = () => {
    if (leader) observer.leads(false);
    leader?.stop();
    leader = undefined;
  };

  const handle = (input: StateInput): Promise<StateAnswer> | StateAnswer | undefined => {
    switch (input.type) {
      case "init":
        toConsensus({ type: "opened", appliedIndex: rows.index });
        return { type: "ready", appliedIndex: rows.index };
      case "session-open": {
        const { nodeId, sessionId, description, addr, dataPathAddr } = input;
        const session = { nodeId, sessionId, description, addr, dataPathAddr };
        return { type: "session", ...leading().openSession(session) };
      }
      case "session-close":
        leader?.closeSession(input.sessionId);
        return { type: "done" };
      case "heartbeat":
        if (leader) leader.heartbeat(input);
        else {
          const { sessionId } = input;
          thread.notify({ type: "session-end", sessionId, reason: "leadership lost" });
        }
        return undefined;
      case "assignments-applied":
        leader?.assignmentsApplied(input);
        return undefined;
      case "silent-members":
        leader?.silentMembers(input.nodeIds);
        return undefined;
      case "awaited":
        isAwaited = input.isAwaited;
        if (isAwaited) persist();
        return undefined;
      case "report-status":
        return leading()
          .report(input)
          .then((): StateAnswer => ({ type: "done" }));
      case "hold":
      case "snapshot":
        // Backup and restore are tested elsewhere.
        throw new ClusterError("not-implemented", `The simulator does not ${input.type}`);
      case "stop":
        stopLeader();
        clearTimeout(persistTimer);
        clearTimeout(reportTimer);
        persist();
        thread.exit();
        return { type: "done" };
      default:
        return unreachable(input);
    }
  };
  const thread: Thread<StateOutput> = createThread<StateInput, StateAnswer, StateOutput>(
    { time, process, random, delayMsMax: () => faults.threadDelayMsMax },
    handle,
  );
  return { thread, fromConsensus, rows, fileRows, closeFile };
}

function exportRows(rows: MemoryRows): Row[] {
  const cluster = rows.cluster();
  const row = (table: Row["table"]) => (object: Row["object"]) => ({ table, object }) as Row; // its own
  return [
    ...(cluster ? [row("cluster")(cluster)] : []),
    ...rows.nodes().map(row("node")),
    ...rows.networks().map(row("network")),
    ...rows.secrets().map(row("secret")),
    ...rows.configs().map(row("config")),
    ...rows.services().map(row("service")),
    ...rows.tasks().map(row("task")),
    ...rows.attachments().map(row("attachment")),
    ...rows.stacks().map(row("stack")),
  ];
}

function keepOlder(file: StateFile, rows: MemoryRows): void {
  const newest = file.older.at(-1)?.index ?? 0;
  if (rows.index < newest + OLDER_STEP) return;
  file.older.push({ index: rows.index, rows: exportRows(rows) });
  if (file.older.length > OLDER_MAX) file.older.shift();
}

/** A power cut: the file is as it was some entries ago. */
export function loseStateTail(file: StateFile, random: Random): void {
  const chosen = file.older[Math.floor(random.next() * file.older.length)];
  if (!chosen || chosen.index >= file.index) return;
  file.index = chosen.index;
  file.rows = chosen.rows;
  file.older = file.older.filter((one) => one.index <= chosen.index);
}
