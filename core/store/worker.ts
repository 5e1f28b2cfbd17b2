/**
 * The shell of the state worker: messages in, messages out. It applies what consensus has committed
 * (sqlite-store.ts), tells everybody, and while this manager leads runs worker-leader.ts.
 *
 * An error here that no request waits for ends the thread, and with it the process: memory may then
 * be ahead of state.db, and a restart replays the log from what the file says. A full disk is none: the
 * thread stands still until there is room (sqlite-room.ts), reads of others go on.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { clearTimeout, setTimeout } from "node:timers";
import type { MessagePort } from "node:worker_threads";
import { assert, unreachable } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { RaftIndex } from "../ids.ts";
import type { Planner } from "../plan.ts";
import { PLANNERS } from "../planners.ts";
import type {
  ConsensusToState,
  StateAnswer,
  StateInput,
  StateOutput,
  StateToConsensus,
} from "../protocol.ts";
import type { Random } from "../random.ts";
import type { Room } from "../sqlite-room.ts";
import { createRowSealer } from "../sqlite-seal.ts";
import { serveWorker } from "../worker-server.ts";
import { CLEAR_ROWS, sealedRows } from "./sqlite-row-form.ts";
import { type AppliedBatch, openOrRebuildStateStore, type StateStore } from "./sqlite-store.ts";
import { type Leader, type LeaderTime, startLeader } from "./worker-leader.ts";

/** A longer backlog (replay after a start) is applied in several transactions. */
const ENTRIES_PER_TRANSACTION_MAX = 1_000;
/**
 * Consensus is told how far the state is at most this often: it bounds its backlog and cuts its log by
 * it, and each word costs its thread a turn. It has many more entries than these under way.
 */
const APPLIED_REPORT_MS = 20;
const APPLIED_REPORT_ENTRIES = 1_000;
/**
 * A follower that nobody waits for writes state.db so often, or after so many entries: objects that
 * change often are written once, and the leader is not slowed down on a machine or disk shared with it.
 */
const PERSIST_MS = 50;
const PERSIST_ENTRIES = 1_000;

/** Serves the parent thread as the state worker; `planners` is for tests. */
export function startStateWorker(planners: readonly Planner[] = PLANNERS): void {
  let store: StateStore | undefined;
  let consensus: MessagePort | undefined;
  let leader: Leader | undefined;
  let leaderTerm = 0;
  let isAwaited = false;
  /** Without room on disk: what planners and nodes propose is dropped, and proposed again later. */
  let isHeld = false;

  const server = serveWorker<StateInput, StateAnswer, StateOutput>((input, port) => {
    switch (input.type) {
      case "init":
        return init(input, port);
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
        else sessionEnd(input.sessionId);
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
          .then(() => ({ type: "done" }));
      case "hold":
        isHeld = input.isHeld;
        return undefined;
      case "snapshot": {
        assert(store, "init comes first");
        return { type: "snapshot", ...store.snapshot() };
      }
      case "stop":
        clearTimeout(reportTimer);
        clearTimeout(persistTimer);
        stopLeader();
        store?.close();
        // After the answer is written.
        setImmediate(() => server.exit());
        return { type: "done" };
      default:
        return unreachable(input);
    }
  });

  const init = (
    { dir, ballastPath, storageKey }: Extract<StateInput, { type: "init" }>,
    port: MessagePort | undefined,
  ): StateAnswer => {
    assert(!store, "init comes once");
    assert(port, "init brings the port to consensus");
    const room: Room = {
      ...(ballastPath === undefined ? {} : { ballastPath }),
      onFull: (isFull) => server.notify({ type: "disk-full", isFull }),
    };
    const form = storageKey ? sealedRows(createRowSealer(storageKey)) : CLEAR_ROWS;
    const opened = openOrRebuildStateStore(join(dir, "state.db"), room, form);
    store = opened.store;
    toldIndex = store.appliedIndex;
    consensus = port;
    port.on("message", receive);
    tell({ type: "opened", appliedIndex: store.appliedIndex });
    const { rebuiltBecause } = opened;
    return {
      type: "ready",
      appliedIndex: store.appliedIndex,
      ...(rebuiltBecause === undefined ? {} : { rebuiltBecause }),
    };
  };

  const tell = (message: StateToConsensus, transfer: ArrayBuffer[] = []) => {
    assert(consensus, "init comes first");
    consensus.postMessage(message, transfer);
  };

  let reported = { index: 0, atMs: Number.NEGATIVE_INFINITY };
  let reportTimer: NodeJS.Timeout | undefined;
  const reportApplied = (index: RaftIndex) => {
    const waitMs = reported.atMs + APPLIED_REPORT_MS - performance.now();
    if (waitMs > 0 && index - reported.index < APPLIED_REPORT_ENTRIES) {
      reportTimer ??= setTimeout(() => {
        reportTimer = undefined;
        reportApplied(toldIndex);
      }, waitMs);
      return;
    }
    clearTimeout(reportTimer);
    reportTimer = undefined;
    reported = { index, atMs: performance.now() };
    tell({ type: "applied", index });
  };

  let untold: AppliedBatch = { outcomes: [], changes: [] };
  let toldIndex = 0;
  let persistTimer: NodeJS.Timeout | undefined;
  /** Brings what was applied to the file, where the main thread may read it, and says so. */
  const persist = () => {
    clearTimeout(persistTimer);
    persistTimer = undefined;
    if (!store || store.appliedIndex === toldIndex) return;
    store.persist();
    toldIndex = store.appliedIndex;
    server.notify({ type: "applied", index: toldIndex, ...untold });
    untold = { outcomes: [], changes: [] };
    reportApplied(toldIndex);
  };

  const receive = (message: ConsensusToState) => {
    assert(store, "init comes first");
    switch (message.type) {
      case "apply":
        for (let from = 0; from < message.entries.length; from += ENTRIES_PER_TRANSACTION_MAX) {
          const batch = store.takeEntries(
            message.entries.slice(from, from + ENTRIES_PER_TRANSACTION_MAX),
          );
          for (const outcome of batch.outcomes) untold.outcomes.push(outcome);
          for (const change of batch.changes) untold.changes.push(change);
          if (leader || isAwaited || store.appliedIndex - toldIndex >= PERSIST_ENTRIES) persist();
          else persistTimer ??= setTimeout(persist, PERSIST_MS);
          leader?.applied(batch);
        }
        break;
      case "restore":
        // Only a follower is sent a snapshot; a leader that sees one has lost its leadership.
        stopLeader();
        // What was applied before is told while it is known.
        persist();
        store.restore(message.data, message);
        toldIndex = store.appliedIndex;
        server.notify({ type: "restored", index: store.appliedIndex });
        tell({ type: "applied", index: store.appliedIndex });
        break;
      case "leadership":
        if (leader && message.isLeader && message.term === leaderTerm) break;
        stopLeader();
        if (message.isLeader) {
          leaderTerm = message.term;
          persist();
          leader = startLeader({
            view: store.rows,
            planners,
            random: SYSTEM_RANDOM,
            propose: (data) => {
              if (!isHeld) tell({ type: "propose", data });
            },
            output: (output) => server.notify(output),
            time: SYSTEM_TIME,
          });
        }
        break;
      case "take-snapshot": {
        const { index, data } = store.snapshot();
        tell({ type: "snapshot", index, data }, [data.buffer]);
        break;
      }
      default:
        unreachable(message);
    }
  };

  const leading = (): Leader => {
    if (leader) return leader;
    throw new ClusterError("not-leader", "This manager does not lead");
  };
  const stopLeader = () => {
    leader?.stop();
    leader = undefined;
  };
  const sessionEnd = (sessionId: string) =>
    server.notify({ type: "session-end", sessionId, reason: "leadership lost" });
}

const SYSTEM_TIME: LeaderTime = {
  // oxlint-disable-next-line no-restricted-globals -- the proposer's clock, read only here
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after: (delayMs, run) => {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
};

const SYSTEM_RANDOM: Random = {
  next: () => randomBytes(4).readUInt32BE() / 0x1_0000_0000,
  bytes: (count) => randomBytes(count),
};
