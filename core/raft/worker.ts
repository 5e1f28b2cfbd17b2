/**
 * The consensus thread: raft.db, the loop of host.ts, real ticks, and two message ports (main and the
 * state worker). See core/protocol.ts for the words.
 *
 * Life: `init` → waits for the state worker's `opened` → opens raft.db → answers `ready` → turns until
 * `stop`. Inputs that arrive together are one turn, and so one fsync.
 *
 * Time is only ticks. A tick that comes late means that this thread was stalled, and that messages of
 * the leader may wait unread behind it: it is marked, and nothing is concluded from silence then.
 */
import { performance } from "node:perf_hooks";
import { clearTimeout, setImmediate, setTimeout } from "node:timers";
import type { MessagePort } from "node:worker_threads";
import { crc32 as nativeCrc32 } from "node:zlib";
import { assert, unreachable } from "../assert.ts";
import { ClusterError, fromErrorBody } from "../errors.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import type {
  ConsensusAnswer,
  ConsensusInput,
  ConsensusOutput,
  ConsensusToState,
  PeerLines,
  StateToConsensus,
} from "../protocol.ts";
import type { Random } from "../random.ts";
import type { Room } from "../sqlite-room.ts";
import { createRowSealer } from "../sqlite-seal.ts";
import { serveWorker, type WorkerServer } from "../worker-server.ts";
import { useNativeCrc32 } from "./checksum.ts";
import { createHost, hasWork, type Host, type HostInput, pushInput, runTurn } from "./host.ts";
import { isCommitUntold, raftStatus, type RaftAnswer } from "./raft.ts";
import {
  adoptedBatch,
  bootstrapBatch,
  forceNewClusterBatch,
  openSqliteLog,
  type SqliteLog,
} from "./sqlite-log.ts";

/**
 * The next append brings the word of a commit along. When none follows for so long, the members are
 * told by a message of its own; under load it would double the messages and the work of everybody.
 */
const COMMIT_NOTICE_MS = 1;

type Waiter = { resolve(answer: ConsensusAnswer): void; reject(error: Error): void };
type Init = Extract<ConsensusInput, { type: "init" }>;

type MakeLines = (failed: (nodeId: NodeId) => void) => PeerLines;

type Worker = {
  lines: PeerLines | undefined;
  server: WorkerServer<ConsensusOutput>;
  state: MessagePort;
  log: SqliteLog;
  host: Host;
  waiters: Map<number, Waiter>;
  nextRequestId: number;
  isTurnScheduled: boolean;
  /** The log is about to be closed: a turn that was scheduled before must not touch it. */
  isStopped: boolean;
  noticeTimer: NodeJS.Timeout | undefined;
  tickTimer: NodeJS.Timeout | undefined;
};

/**
 * Serves ConsensusInput in this worker thread. With `makeLines` it sends to peers itself, once it was told
 * where they are; without, main does.
 */
export function startConsensusWorker(makeLines?: MakeLines): void {
  useNativeCrc32(nativeCrc32);
  let worker: Worker | undefined;
  const begin = async (init: Init, port: MessagePort): Promise<ConsensusAnswer> => {
    worker = await open(init, port, server, makeLines);
    const { lost } = worker.log;
    const status = raftStatus(worker.host.raft);
    return { type: "ready", status, ...(lost === undefined ? {} : { lost }) };
  };
  const server: WorkerServer<ConsensusOutput> = serveWorker<
    ConsensusInput,
    ConsensusAnswer,
    ConsensusOutput
  >((input, port) => {
    if (input.type === "init") {
      assert(!worker, "init comes once");
      assert(port, "init carries the state worker's port");
      return begin(input, port);
    }
    return worker ? handle(worker, input) : handleEarly(server, input);
  });
}

async function open(
  init: Init,
  state: MessagePort,
  server: WorkerServer<ConsensusOutput>,
  makeLines: MakeLines | undefined,
): Promise<Worker> {
  const line = await openedState(state);
  const { appliedIndex } = line;
  const holder: { worker?: Worker } = {};
  const room: Room = {
    ...(init.ballastPath === undefined ? {} : { ballastPath: init.ballastPath }),
    onFull: (isFull) => tellFull(server, holder.worker, isFull),
  };
  let log = openLog(init, room);
  const last = log.stored.base.index + log.stored.entries.length;
  if (appliedIndex > last && mayLose(init)) {
    log = await adoptState(log, line, state, () => {
      // A new membership is in the log already.
      const { forceNewCluster: _, ...rest } = init;
      return openLog({ ...rest, acceptLoss: true }, room);
    });
  } else if (appliedIndex > last) {
    log.close();
    throw new ClusterError(
      "failed-precondition",
      `Cannot start: state.db is at entry ${appliedIndex}, raft.db in "${init.dir}" ends at ${last}; they belong together, restore both or delete both`,
      // The log has lost its end, and with it perhaps a vote: as if it were damaged.
      { details: { isDamaged: true } },
    );
  }
  const lines = makeLines?.((nodeId) => {
    push(worker, { type: "peer-unreachable", nodeId });
    server.notify({ type: "line-failed", nodeId });
  });
  const worker: Worker = {
    lines,
    server,
    state,
    log,
    waiters: new Map(),
    nextRequestId: 1,
    isTurnScheduled: false,
    isStopped: false,
    noticeTimer: undefined,
    tickTimer: undefined,
    host: createHost(
      {
        nodeId: init.nodeId,
        electionTicks: init.electionTicks,
        heartbeatTicks: 1,
        random: systemRandom(),
      },
      log.stored,
      {
        storage: log,
        send: (to, data) => {
          if (lines?.send(to, data) !== true) server.notify({ type: "send", to, data });
        },
        state: statePort(state),
        answer: (answer) => settle(worker, answer),
        statusChanged: (status) => server.notify({ type: "status-changed", status }),
        removed: () => server.notify({ type: "removed" }),
      },
      appliedIndex,
    ),
  };
  holder.worker = worker;
  line.serve((message) => handleState(worker, message));
  startTicks(worker, init);
  scheduleTurn(worker);
  return worker;
}

type StateLine = {
  appliedIndex: RaftIndex;
  /** Sets who takes the messages after the first, beginning with those that wait already. */
  serve(handler: (message: StateToConsensus) => void): void;
};

/** Waits for `opened`. One listener for good: between two of them a port may lose messages. */
function openedState(state: MessagePort): Promise<StateLine> {
  return new Promise((resolve) => {
    const early: StateToConsensus[] = [];
    let handler: ((message: StateToConsensus) => void) | undefined;
    let isOpened = false;
    const serve = (next: (message: StateToConsensus) => void) => {
      handler = next;
      for (const message of early.splice(0)) next(message);
    };
    state.on("message", (message: StateToConsensus) => {
      if (!isOpened) {
        assert(message.type === "opened", `The state worker said ${message.type} before opened`);
        isOpened = true;
        resolve({ appliedIndex: message.appliedIndex, serve });
      } else if (handler) {
        handler(message);
      } else {
        early.push(message);
      }
    });
  });
}

/** While the disk is full this thread stands still, so what waits for it is told before. */
function tellFull(
  server: WorkerServer<ConsensusOutput>,
  worker: Worker | undefined,
  isFull: boolean,
): void {
  server.notify({ type: "disk-full", isFull });
  if (!worker) return;
  const { host } = worker;
  const status = raftStatus(host.raft);
  if (!isFull) {
    server.notify({ type: "status-changed", status });
    return;
  }
  const { leaderId: _, ...rest } = status;
  server.notify({ type: "status-changed", status: { ...rest, isLeader: false } });
  if (!host.told.isLeader) return;
  // Told again by the end of the turn, if it still leads then.
  host.told = { isLeader: false, term: status.term, leaderId: undefined };
  host.ports.state.leadership(host.told);
}

/**
 * The only manager's log has lost its end, and state.db has applied it: what it holds becomes the log's
 * beginning, and nothing is lost.
 */
async function adoptState(
  log: SqliteLog,
  line: StateLine,
  state: MessagePort,
  reopen: () => SqliteLog,
): Promise<SqliteLog> {
  const asked: ConsensusToState = { type: "take-snapshot" };
  state.postMessage(asked);
  const { index, data } = await new Promise<Extract<StateToConsensus, { type: "snapshot" }>>(
    (resolve) => {
      line.serve((message) => {
        if (message.type === "snapshot") resolve(message);
      });
    },
  );
  log.persist(adoptedBatch(log.stored, index, data));
  log.close();
  return { ...reopen(), lost: `its end was missing; state.db had all of it up to entry ${index}` };
}

/** Nobody else has what this log has lost, or the operator has said that it is to go on alone. */
function mayLose({ acceptLoss, forceNewCluster }: Init): boolean {
  return acceptLoss === true || forceNewCluster !== undefined;
}

function openLog(init: Init, room: Room): SqliteLog {
  const { dir, nodeId, bootstrap, forceNewCluster } = init;
  return openSqliteLog({
    dir,
    nodeId,
    room,
    ...(init.storageKey ? { sealer: createRowSealer(init.storageKey) } : {}),
    acceptLoss: mayLose(init),
    begin: (stored, isEmpty) => {
      if (bootstrap && isEmpty) return bootstrapBatch(nodeId, bootstrap.addr);
      if (!forceNewCluster) return undefined;
      if (isEmpty) {
        throw new ClusterError(
          "failed-precondition",
          `Cannot force a new cluster: "${dir}" has no log; start without --force-new-cluster`,
        );
      }
      return forceNewClusterBatch(stored, nodeId, forceNewCluster.addr);
    },
  });
}

function statePort(state: MessagePort) {
  const post = (message: ConsensusToState, transfer: ArrayBuffer[] = []) =>
    state.postMessage(message, transfer);
  return {
    apply: (entries: readonly { index: number; term: number; type: string; data: Uint8Array }[]) =>
      post({
        type: "apply",
        entries: entries.map(({ index, term, type, data }) => ({
          index,
          term,
          // Membership is consensus's own: the state machine sees that an index has passed.
          data: type === "normal" ? data : new Uint8Array(0),
        })),
      }),
    restore: (snapshot: { index: RaftIndex; term: number; data: Uint8Array<ArrayBuffer> }) =>
      post({ type: "restore", ...snapshot }, [snapshot.data.buffer]),
    leadership: (told: { isLeader: boolean; term: number; leaderId: string | undefined }) => {
      const { isLeader, term, leaderId } = told;
      post({ type: "leadership", isLeader, term, ...(leaderId === undefined ? {} : { leaderId }) });
    },
    takeSnapshot: () => post({ type: "take-snapshot" }),
  };
}

function handleState(worker: Worker, message: StateToConsensus): void {
  switch (message.type) {
    case "opened":
      assert(false, "The state worker opens once");
      break;
    case "applied":
      push(worker, { type: "state-applied", index: message.index });
      break;
    case "propose":
      push(worker, { type: "proposal", data: ownBytes(message.data) });
      break;
    case "snapshot":
      push(worker, { type: "state-snapshot", index: message.index, data: message.data });
      break;
    default:
      unreachable(message);
  }
}

/** Before `ready`: peers do not wait for this node to open its log, and send again. */
function handleEarly(
  server: WorkerServer<ConsensusOutput>,
  input: Exclude<ConsensusInput, Init>,
): ConsensusAnswer | undefined {
  if (["peer-message", "peer-unreachable", "lines"].includes(input.type)) return undefined;
  if (input.type === "stop") {
    setImmediate(() => server.exit());
    return { type: "done" };
  }
  throw new ClusterError("unavailable", `Cannot ${input.type}: the log is still being opened`);
}

function handle(
  worker: Worker,
  input: Exclude<ConsensusInput, Init>,
): Promise<ConsensusAnswer> | ConsensusAnswer | undefined {
  switch (input.type) {
    case "propose":
      return request(worker, (requestId) => {
        const { data, term } = input;
        push(worker, { type: "proposal", requestId, data: ownBytes(data), term });
      });
    case "read-index":
      return request(worker, (requestId) => push(worker, { type: "read-index", requestId }));
    case "change-membership": {
      const { change } = input;
      return request(worker, (requestId) => {
        push(worker, { type: "conf-change", requestId, change });
      });
    }
    case "transfer-leadership": {
      const { to } = input;
      return request(worker, (requestId) => {
        push(worker, { type: "transfer", requestId, ...(to === undefined ? {} : { to }) });
      });
    }
    case "status":
      return { type: "status", status: raftStatus(worker.host.raft) };
    case "peer-message":
      push(worker, { type: "peer-frame", from: input.from, frame: input.data });
      return undefined;
    case "set-compaction":
      worker.host.options.snapshotEntries = Math.max(1, input.snapshotEntries);
      worker.host.options.tailEntries = Math.max(0, input.tailEntries);
      return undefined;
    case "lines":
      worker.lines?.configure(input.settings);
      return undefined;
    case "peer-unreachable":
      push(worker, { type: "peer-unreachable", nodeId: input.nodeId });
      return undefined;
    case "stop":
      stop(worker);
      return { type: "done" };
    default:
      return unreachable(input);
  }
}

function request(worker: Worker, ask: (requestId: number) => void): Promise<ConsensusAnswer> {
  return new Promise((resolve, reject) => {
    const requestId = worker.nextRequestId++;
    worker.waiters.set(requestId, { resolve, reject });
    ask(requestId);
  });
}

function settle(worker: Worker, answer: RaftAnswer): void {
  const waiter = worker.waiters.get(answer.requestId);
  assert(waiter, `Request ${answer.requestId} was answered before`);
  worker.waiters.delete(answer.requestId);
  switch (answer.type) {
    case "committed":
      waiter.resolve({ type: "committed", index: answer.index });
      break;
    case "read-ready":
      waiter.resolve({ type: "read-ready", index: answer.index });
      break;
    case "done":
      waiter.resolve({ type: "done" });
      break;
    case "refused":
      waiter.reject(fromErrorBody(answer.refusal));
      break;
    default:
      unreachable(answer);
  }
}

/** Bytes that own their buffer: a view would carry the sender's whole buffer to every thread. */
function ownBytes(data: Uint8Array): Uint8Array {
  return data.byteLength === data.buffer.byteLength ? data : data.slice();
}

// ---- turns and ticks ----------------------------------------------------------------------------

function push(worker: Worker, input: HostInput): void {
  pushInput(worker.host, input);
  scheduleTurn(worker);
}

/** After the messages that have arrived by now: they share the turn's fsync. */
function scheduleTurn(worker: Worker): void {
  if (worker.isTurnScheduled || worker.isStopped) return;
  worker.isTurnScheduled = true;
  setImmediate(() => {
    worker.isTurnScheduled = false;
    if (worker.isStopped) return;
    runTurn(worker.host);
    planCommitNotice(worker);
    if (hasWork(worker.host)) scheduleTurn(worker);
  });
}

function planCommitNotice(worker: Worker): void {
  const { raft } = worker.host;
  const { commitIndex } = raft.log;
  if (worker.noticeTimer || !isCommitUntold(raft, commitIndex)) return;
  worker.noticeTimer = setTimeout(() => {
    worker.noticeTimer = undefined;
    if (isCommitUntold(raft, commitIndex)) push(worker, { type: "commit-notice" });
    else planCommitNotice(worker);
  }, COMMIT_NOTICE_MS);
}

function startTicks(worker: Worker, init: Init): void {
  const { tickMs, electionTicks } = init;
  const lateMs = (electionTicks * tickMs) / 2;
  let dueMs = performance.now() + tickMs;
  const tick = () => {
    const nowMs = performance.now();
    const isLate = nowMs - dueMs > lateMs;
    // One tick for a stall of any length: time in which nothing could be heard does not count.
    dueMs = isLate ? nowMs + tickMs : Math.max(dueMs + tickMs, nowMs);
    push(worker, isLate ? { type: "tick", isLate } : { type: "tick" });
    worker.tickTimer = setTimeout(tick, Math.max(0, dueMs - nowMs));
  };
  worker.tickTimer = setTimeout(tick, tickMs);
}

function stop(worker: Worker): void {
  clearTimeout(worker.tickTimer);
  clearTimeout(worker.noticeTimer);
  worker.isStopped = true;
  worker.lines?.close();
  worker.state.close();
  // After the answer, which is posted when this task's promises have run.
  setImmediate(() => {
    worker.log.close();
    worker.server.exit();
  });
}

function systemRandom(): Random {
  return {
    next: () => Math.random(),
    bytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
  };
}
