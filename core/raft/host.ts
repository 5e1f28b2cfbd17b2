/**
 * The loop between the consensus core and its ports: the same code in the worker (SQLite, threads,
 * real ticks) and in the simulator (fakes), so there is one implementation of the order.
 *
 * A turn: gather inputs → step each → per Ready: (1) send what may leave early, (2) make the batch
 * durable, (3) send the rest, (4) hand over a snapshot, then committed entries, (5) answer. Between
 * any two of these the process may die.
 *
 * Owns: queues and their bounds, framing, when to ask for a snapshot and how it gets to disk. Decides
 * nothing about consensus. Ports must not throw for reasons of the outside world, except storage,
 * whose failure ends the thread: what is on disk is unknown then, and a restart finds out.
 */
import { assert, unreachable } from "../assert.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import type { RaftStatus } from "../protocol.ts";
import { decodeFrame, encodeFrame } from "./codec.ts";
import { type Entry, type Message, type OutgoingMessage } from "./messages.ts";
import {
  APPEND_BYTES_MAX,
  createRaft,
  isLeaderReady,
  isSnapshotInUse,
  type PersistBatch,
  PROPOSAL_BYTES_MAX,
  type Raft,
  type RaftAnswer,
  type RaftInput,
  type RaftOptions,
  raftStatus,
  type Ready,
  step,
  type StoredRaft,
  takeReady,
  UNCOMMITTED_BYTES_MAX,
} from "./raft.ts";

/** Applied entries after which the log is compacted, and log bytes that have the same effect. */
export const SNAPSHOT_ENTRIES = 10_000;
export const SNAPSHOT_LOG_BYTES = 64 * 1024 * 1024;
/** Entries kept before a snapshot, so that a member that is only a little behind needs none. */
export const TAIL_ENTRIES = 500;
export const SNAPSHOT_PIECE_BYTES = 512 * 1024;
/** While a member is being sent the stored snapshot, the log may grow so many times longer. */
const GROWTH_WHILE_STREAMING = 4;
/** Inputs waiting; peers' messages beyond it are dropped, requests refused as busy. */
export const INPUTS_MAX = 20_000;
/** Inputs of one turn: bounds how long a heartbeat may wait. */
export const TURN_INPUTS_MAX = 4_096;
/** Readys of one turn. */
const TURN_READIES_MAX = 16;

/** Durable storage of one member. Everything is synchronous: a return means it is on disk. */
export type LogStorage = {
  /** One transaction, one fsync. */
  persist(batch: PersistBatch): void;
  /** A piece of an own snapshot, written ahead of the batch that puts the snapshot in force. */
  stageSnapshotPiece(index: RaftIndex, piece: number, data: Uint8Array): void;
  /** Undefined when that snapshot is not the stored one (any more). */
  readSnapshotPiece(index: RaftIndex, piece: number): Uint8Array | undefined;
};

/** The state machine; it works in order and reports by `state-applied` and `state-snapshot`. */
export type StatePort = {
  apply(entries: readonly Entry[]): void;
  restore(snapshot: { index: RaftIndex; term: number; data: Uint8Array }): void;
  leadership(leadership: { isLeader: boolean; term: number; leaderId: NodeId | undefined }): void;
  takeSnapshot(): void;
};

export type HostPorts = {
  storage: LogStorage;
  send(to: NodeId, frame: Uint8Array): void;
  state: StatePort;
  answer(answer: RaftAnswer): void;
  statusChanged(status: RaftStatus): void;
  removed(): void;
};

export type HostOptions = RaftOptions & {
  snapshotEntries?: number;
  snapshotLogBytes?: number;
  tailEntries?: number;
  snapshotPieceBytes?: number;
};

export type HostInput =
  | Exclude<RaftInput, { type: "message" | "persisted" | "applied" | "snapshot-taken" }>
  | { type: "peer-frame"; from: NodeId; frame: Uint8Array }
  | { type: "state-applied"; index: RaftIndex }
  | { type: "state-snapshot"; index: RaftIndex; data: Uint8Array };

type StagedSnapshot = { index: RaftIndex; data: Uint8Array; pieceCount: number; nextPiece: number };
type Leadership = { isLeader: boolean; term: number; leaderId: NodeId | undefined };

export type Host = {
  raft: Raft;
  ports: HostPorts;
  options: Required<HostOptions>;
  inputs: HostInput[];
  /** A `take-snapshot` is under way; so is at most one. */
  isSnapshotWanted: boolean;
  staged: StagedSnapshot | undefined;
  told: Leadership;
  /** The last turn ended at its bound. */
  hasMoreDuties: boolean;
  /** Frames or messages that could not be read. */
  damagedCount: number;
  /** Frames that came faster than they could be taken in. */
  overflowCount: number;
};

/**
 * Begins from what is on disk. When the state machine is behind the cut-off log (its file was lost),
 * it is given the stored snapshot first.
 */
export function createHost(
  options: HostOptions,
  stored: StoredRaft,
  ports: HostPorts,
  appliedIndex: RaftIndex,
): Host {
  let applied = appliedIndex;
  if (applied < stored.base.index) {
    const { snapshot } = stored;
    assert(snapshot, "A log that was cut off has a snapshot");
    const { index, term } = snapshot;
    ports.state.restore({ index, term, data: readSnapshot(ports.storage, snapshot) });
    applied = index;
  }
  const filled: Required<HostOptions> = {
    snapshotEntries: SNAPSHOT_ENTRIES,
    snapshotLogBytes: SNAPSHOT_LOG_BYTES,
    tailEntries: TAIL_ENTRIES,
    snapshotPieceBytes: SNAPSHOT_PIECE_BYTES,
    proposalBytesMax: PROPOSAL_BYTES_MAX,
    uncommittedBytesMax: UNCOMMITTED_BYTES_MAX,
    appendBytesMax: APPEND_BYTES_MAX,
    ...options,
  };
  const raft = createRaft(filled, stored, applied);
  return {
    raft,
    ports,
    options: filled,
    inputs: [],
    isSnapshotWanted: false,
    staged: undefined,
    told: { isLeader: false, term: 0, leaderId: undefined },
    hasMoreDuties: false,
    damagedCount: 0,
    overflowCount: 0,
  };
}

/** Adds an input for the next turn. */
export function pushInput(host: Host, input: HostInput): void {
  if (host.inputs.length < INPUTS_MAX) {
    host.inputs.push(input);
    return;
  }
  switch (input.type) {
    case "peer-frame":
    case "peer-unreachable":
    case "commit-notice":
      host.overflowCount++; // raft sends again
      break;
    case "proposal":
    case "conf-change":
    case "read-index":
    case "transfer":
      if (input.requestId !== undefined) {
        const { requestId } = input;
        const message = `Cannot take the request: ${host.inputs.length} inputs wait; try again later`;
        host.ports.answer({ type: "refused", requestId, refusal: { code: "busy", message } });
      }
      break;
    case "tick":
    case "state-applied":
    case "state-snapshot":
      // A few per turn at most, and never to be lost.
      host.inputs.push(input);
      break;
    default:
      unreachable(input);
  }
}

/** Whether another turn has something to do. */
export function hasWork(host: Host): boolean {
  return host.inputs.length > 0 || host.staged !== undefined || host.hasMoreDuties;
}

/** One turn of the loop. */
export function runTurn(host: Host): void {
  const { raft } = host;
  stageNextPiece(host);
  const inputs = host.inputs.splice(0, TURN_INPUTS_MAX);
  for (const input of inputs) stepInput(host, input);
  host.hasMoreDuties = true;
  for (let i = 0; i < TURN_READIES_MAX && host.hasMoreDuties; i++) {
    const ready = takeReady(raft);
    if (ready) carryOut(host, ready);
    else host.hasMoreDuties = false;
  }
  tellLeadership(host);
  wantSnapshot(host);
}

function stepInput(host: Host, input: HostInput): void {
  const { raft } = host;
  switch (input.type) {
    case "peer-frame": {
      const { messages, damagedCount } = decodeFrame(input.frame);
      host.damagedCount += damagedCount;
      for (const message of messages) step(raft, { type: "message", from: input.from, message });
      break;
    }
    case "state-applied":
      step(raft, { type: "applied", index: input.index });
      break;
    case "state-snapshot":
      beginStaging(host, input.index, input.data);
      break;
    case "tick":
    case "proposal":
    case "conf-change":
    case "read-index":
    case "transfer":
    case "peer-unreachable":
    case "commit-notice":
      step(raft, input);
      break;
    default:
      unreachable(input);
  }
}

/** The duties of a Ready, in the order that safety depends on (raft.ts, I1 and I4). */
function carryOut(host: Host, ready: Ready): void {
  const { raft, ports } = host;
  sendAll(host, ready.messagesBefore);
  if (ready.persist) {
    ports.storage.persist(ready.persist);
    step(raft, { type: "persisted" });
  }
  sendAll(host, ready.messagesAfter);
  // A leader that lost its role must not be told the entries of the next one first.
  if (host.told.isLeader && !(isLeaderReady(raft) && raft.term === host.told.term)) {
    tellLeadership(host);
  }
  if (ready.restore) {
    const { meta, pieces } = ready.restore;
    ports.state.restore({ index: meta.index, term: meta.term, data: concat(pieces) });
  }
  if (ready.committed.length > 0) ports.state.apply(ready.committed);
  for (const answer of ready.answers) ports.answer(answer);
  if (ready.isStatusChanged) ports.statusChanged(raftStatus(raft));
  if (ready.isRemoved) ports.removed();
}

/** One frame per peer; the pieces of a snapshot are read only here. */
function sendAll(host: Host, outgoing: readonly OutgoingMessage[]): void {
  const byPeer = new Map<NodeId, Message[]>();
  for (const { to, message } of outgoing) {
    const filled = message.type === "snapshot-piece" ? fillPiece(host, message) : message;
    if (!filled) continue;
    const messages = byPeer.get(to);
    if (messages) messages.push(filled);
    else byPeer.set(to, [filled]);
  }
  for (const [to, messages] of byPeer) host.ports.send(to, encodeFrame(messages));
}

function fillPiece(
  host: Host,
  message: Extract<Message, { type: "snapshot-piece" }>,
): Message | undefined {
  const data = host.ports.storage.readSnapshotPiece(message.snapshot.index, message.piece);
  return data && { ...message, data };
}

/** Told after the entries before it, so that a leader's planners see everything committed. */
function tellLeadership(host: Host): void {
  const { raft, told } = host;
  const isLeader = isLeaderReady(raft);
  const leaderId = raft.role === "leader" && !isLeader ? undefined : raft.leaderId;
  const now = { isLeader, term: raft.term, leaderId };
  if (now.isLeader === told.isLeader && now.term === told.term && now.leaderId === told.leaderId) {
    return;
  }
  if (told.isLeader && isLeader) {
    // Leader again, of a later term: planners of the old term must stop first.
    host.ports.state.leadership({ isLeader: false, term: raft.term, leaderId: undefined });
  }
  host.told = now;
  host.ports.state.leadership(now);
}

// ---- snapshots ----------------------------------------------------------------------------------

function wantSnapshot(host: Host): void {
  const { raft, options } = host;
  if (host.isSnapshotWanted) return;
  const { log } = raft;
  const growth = isSnapshotInUse(raft) ? GROWTH_WHILE_STREAMING : 1;
  const appliedEntries = log.appliedIndex - (raft.snapshot?.index ?? 0);
  const isLong = appliedEntries >= options.snapshotEntries * growth;
  // What a snapshot cannot shorten, because it is not applied or is the tail, is no reason for one.
  const isBig =
    log.sizeBytes >= options.snapshotLogBytes * growth && appliedEntries > options.tailEntries;
  if (!isLong && !isBig) return;
  host.isSnapshotWanted = true;
  host.ports.state.takeSnapshot();
}

function beginStaging(host: Host, index: RaftIndex, data: Uint8Array): void {
  assert(host.isSnapshotWanted, `Snapshot ${index} came without being asked for`);
  step(host.raft, { type: "applied", index });
  if (index <= (host.raft.snapshot?.index ?? 0)) {
    host.isSnapshotWanted = false; // a leader's has overtaken it
    return;
  }
  const pieceCount = Math.max(1, Math.ceil(data.byteLength / host.options.snapshotPieceBytes));
  host.staged = { index, data, pieceCount, nextPiece: 0 };
}

/** One piece a turn, so that a big snapshot does not hold up heartbeats. */
function stageNextPiece(host: Host): void {
  const { staged, ports, raft, options } = host;
  if (!staged) return;
  if (staged.nextPiece < staged.pieceCount && staged.index > (raft.snapshot?.index ?? 0)) {
    const from = staged.nextPiece * options.snapshotPieceBytes;
    const piece = staged.data.subarray(from, from + options.snapshotPieceBytes);
    ports.storage.stageSnapshotPiece(staged.index, staged.nextPiece, piece);
    staged.nextPiece++;
    return;
  }
  host.staged = undefined;
  host.isSnapshotWanted = false;
  step(raft, {
    type: "snapshot-taken",
    index: staged.index,
    pieceCount: staged.pieceCount,
    sizeBytes: staged.data.byteLength,
    keepFrom: staged.index - options.tailEntries + 1,
  });
}

function readSnapshot(
  storage: LogStorage,
  snapshot: { index: RaftIndex; pieceCount: number },
): Uint8Array {
  const pieces: Uint8Array[] = [];
  for (let piece = 0; piece < snapshot.pieceCount; piece++) {
    const data = storage.readSnapshotPiece(snapshot.index, piece);
    assert(data, `Piece ${piece} of snapshot ${snapshot.index} is stored`);
    pieces.push(data);
  }
  return concat(pieces);
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}
