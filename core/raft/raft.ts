/**
 * Consensus as a synchronous state machine: `step` takes an input, `takeReady` gives the duties that
 * follow from it. No clock (ticks are counted), no I/O, and no random source but the one passed in,
 * so the same inputs always give the same duties.
 *
 * Its neighbours: log.ts knows the log, progress.ts one member's replication, quorum.ts counting,
 * membership.ts the rules of change, read-index.ts waiting reads. host.ts carries out the duties, in
 * order, for production and for the simulator alike.
 *
 * Invariants (cited below):
 *  I1  One vote per term, durable before it is told; the term never falls.
 *  I2  A leader never removes or changes entries of its log.
 *  I3  Only entries of the leader's own term are committed by counting (raft §5.4.2).
 *  I4  A member counts (own vote, own match, append-response) only what is durable.
 *  I5  A configuration is in force as soon as it is in the log; the next one is proposed only after
 *      it is committed, and only by a leader that has committed an entry of its own term.
 *  I6  A read is confirmed by a majority after it began.
 *  I7  A member that is no voter in its configuration never campaigns.
 *  I8  A node neither votes nor campaigns before its log has the entry that added it.
 *
 * Not here: forwarding of proposals (net/rpc does it), leases (reads always ask a majority), joint
 * consensus (one member at a time is enough for managers).
 */
import { assert, unreachable } from "../assert.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import type { MembershipChange, RaftStatus } from "../protocol.ts";
import type { Random } from "../random.ts";
import { encodeConfiguration, findMember, isVoter, votersOf } from "./configuration.ts";
import {
  appendEntries,
  compactLog,
  configurationAt,
  entryAt,
  findMatchCandidate,
  isUpToDate,
  lastIndex,
  lastTerm,
  openLog,
  type RaftLog,
  restoreLog,
  sliceEntries,
  termAt,
  tryAppend,
} from "./log.ts";
import { planMembership, type Refusal } from "./membership.ts";
import {
  type Configuration,
  type Entry,
  entrySizeBytes,
  type HardState,
  type LogBase,
  type Message,
  NO_BYTES,
  type OutgoingMessage,
  type SnapshotMeta,
} from "./messages.ts";
import {
  addInflight,
  advanceMatch,
  becomeProbe,
  becomeReplicate,
  becomeSnapshot,
  canAppend,
  freeInflights,
  INFLIGHT_PIECES_MAX,
  newProgress,
  type Progress,
  retreat,
} from "./progress.ts";
import { quorumValue, voteResult } from "./quorum.ts";
import {
  expireReads,
  isLocal,
  newReadState,
  openRound,
  queueRead,
  type Read,
  type ReadState,
  restartReads,
  takeConfirmedRounds,
  takeDueForwards,
  takeForward,
} from "./read-index.ts";

/** The biggest proposal: stock Swarm's gRPC bound is 4 MiB for a whole message. */
export const PROPOSAL_BYTES_MAX = 4 * 1024 * 1024;
/** Proposed and not yet committed; more is refused as busy. */
export const UNCOMMITTED_BYTES_MAX = 32 * 1024 * 1024;
/** Entries of one append message (one bigger entry travels alone). */
export const APPEND_BYTES_MAX = 1024 * 1024;
/** Entries handed to the state machine in one batch, and waiting for it in all. */
export const APPLY_BATCH_BYTES_MAX = 4 * 1024 * 1024;
export const APPLY_PENDING_MAX = 8192;
/** A campaign without result is repeated after this share of the election timeout at the earliest. */
const RETRY_SHARE = 5;

export type RaftOptions = {
  nodeId: NodeId;
  /** Ticks without a leader before an election: drawn between it and its double. */
  electionTicks: number;
  heartbeatTicks: number;
  random: Random;
  proposalBytesMax?: number;
  uncommittedBytesMax?: number;
  appendBytesMax?: number;
};

/** What the disk held when the process began. */
export type StoredRaft = {
  hardState: HardState;
  base: LogBase;
  entries: Entry[];
  snapshot: SnapshotMeta | undefined;
};

export type Role = "follower" | "pre-candidate" | "candidate" | "leader";

export type RaftInput =
  /** `isLate`: the clock was stalled; messages may wait unread, so nothing is concluded from silence. */
  | { type: "tick"; isLate?: boolean }
  | { type: "message"; from: NodeId; message: Message }
  /**
   * Without `requestId` nobody is told what became of it. With `term` it is for this leader of that
   * term only: one that was long under way must not be appended after it was brought to another.
   */
  | { type: "proposal"; requestId?: number; data: Uint8Array; term?: number | undefined }
  | { type: "conf-change"; requestId: number; change: MembershipChange }
  | { type: "read-index"; requestId: number }
  | { type: "transfer"; requestId: number; to?: NodeId }
  /** The last Ready's batch is durable. */
  | { type: "persisted" }
  | { type: "applied"; index: RaftIndex }
  /** The host has stored a snapshot of the state at `index`; the log before `keepFrom` may go. */
  | {
      type: "snapshot-taken";
      index: RaftIndex;
      pieceCount: number;
      sizeBytes: number;
      keepFrom: RaftIndex;
    }
  | { type: "peer-unreachable"; nodeId: NodeId }
  /** Members that lack word of a commit get it now, not with the next append or heartbeat. */
  | { type: "commit-notice" };

export type RaftAnswer =
  | { type: "committed"; requestId: number; index: RaftIndex }
  | { type: "read-ready"; requestId: number; index: RaftIndex }
  | { type: "done"; requestId: number }
  | { type: "refused"; requestId: number; refusal: Refusal };

/** To be made durable as a whole, in this order. */
export type PersistBatch = {
  hardState: HardState;
  /** A snapshot in place of the stored one; its pieces, or staged by the host before when undefined. */
  snapshot?: { meta: SnapshotMeta; pieces: Uint8Array[] | undefined };
  /** The whole log is replaced by the snapshot. */
  isLogCleared: boolean;
  /** Entries up to here are deleted. */
  base?: LogBase;
  /** Entries from the first one's index on are deleted, then these are added. */
  entries: Entry[];
};

/** Duties, to be carried out in the order of the fields; then `persisted` when there was a batch. */
export type Ready = {
  /** May leave before the batch is durable. */
  messagesBefore: OutgoingMessage[];
  persist: PersistBatch | undefined;
  /** Must not leave before the batch is durable. */
  messagesAfter: OutgoingMessage[];
  /** Replace the state machine by this snapshot. */
  restore: { meta: SnapshotMeta; pieces: Uint8Array[] } | undefined;
  /** Commit order, no gaps. */
  committed: Entry[];
  answers: RaftAnswer[];
  isStatusChanged: boolean;
  /** This node is no longer a member, and that is committed. */
  isRemoved: boolean;
};

type Waiter = { index: RaftIndex; term: number; requestId: number };
type Transfer = {
  /** Undefined once the leadership is given up. */
  to: NodeId | undefined;
  requestId: number | undefined;
  startedTick: number;
  isSent: boolean;
};
type IncomingSnapshot = { from: NodeId; term: number; meta: SnapshotMeta; pieces: Uint8Array[] };

export type Raft = {
  readonly options: Required<RaftOptions>;
  readonly nodeId: NodeId;
  term: number;
  votedFor: NodeId | undefined;
  /** See HardState. */
  joinedIndex: RaftIndex | undefined;
  role: Role;
  leaderId: NodeId | undefined;
  log: RaftLog;
  snapshot: SnapshotMeta | undefined;
  /** The one in force: the last in the log. */
  configuration: Configuration;
  configurationIndex: RaftIndex;
  voters: NodeId[];

  /** Ticks since the start; only differences matter. */
  tick: number;
  electionElapsed: number;
  electionTimeout: number;
  /** The connection to the leader broke, and nothing was heard of it since. */
  isLeaderSuspect: boolean;
  votes: Map<NodeId, boolean>;

  // Leader only.
  progress: Map<NodeId, Progress>;
  /** The entry with which this term was opened. */
  noopIndex: RaftIndex;
  heartbeatElapsed: number;
  isCommitNoticeDue: boolean;
  uncommittedBytes: number;
  transfer: Transfer | undefined;

  waiters: Waiter[];
  /** No longer leader: waiters are given up at this tick. */
  waitersUntilTick: number;
  reads: ReadState;
  incoming: IncomingSnapshot | undefined;
  /** Told by a leader, or seen as one: removed by the entry at this index. */
  removedAtIndex: RaftIndex;
  isRemovalReported: boolean;

  // Collected for the next Ready.
  outbox: OutgoingMessage[];
  answers: RaftAnswer[];
  durable: HardState;
  newSnapshot: { meta: SnapshotMeta; pieces: Uint8Array[] | undefined } | undefined;
  isBaseChanged: boolean;
  isStatusChanged: boolean;
  /** Between takeReady with a batch and `persisted`. */
  persisting: { hardState: HardState; lastIndex: RaftIndex } | undefined;
  /** Messages that made no sense: malformed, from strangers, out of date beyond the rules. */
  droppedCount: number;
};

/** @param appliedIndex where the state machine stands; replay begins after it. */
export function createRaft(
  options: RaftOptions,
  stored: StoredRaft,
  appliedIndex: RaftIndex,
): Raft {
  assert(
    options.electionTicks > options.heartbeatTicks,
    "An election takes longer than a heartbeat",
  );
  const log = openLog({ ...stored, commitIndex: stored.hardState.commitIndex, appliedIndex });
  const raft: Raft = {
    options: {
      proposalBytesMax: PROPOSAL_BYTES_MAX,
      uncommittedBytesMax: UNCOMMITTED_BYTES_MAX,
      appendBytesMax: APPEND_BYTES_MAX,
      ...options,
    },
    nodeId: options.nodeId,
    term: stored.hardState.term,
    votedFor: stored.hardState.votedFor,
    joinedIndex: stored.hardState.joinedIndex,
    role: "follower",
    leaderId: undefined,
    log,
    snapshot: stored.snapshot,
    configuration: stored.base.configuration,
    configurationIndex: 0,
    voters: [],
    tick: 0,
    electionElapsed: 0,
    electionTimeout: 0,
    isLeaderSuspect: false,
    votes: new Map(),
    progress: new Map(),
    noopIndex: 0,
    heartbeatElapsed: 0,
    isCommitNoticeDue: false,
    uncommittedBytes: 0,
    transfer: undefined,
    waiters: [],
    waitersUntilTick: 0,
    reads: newReadState(options.random),
    incoming: undefined,
    removedAtIndex: 0,
    isRemovalReported: false,
    outbox: [],
    answers: [],
    durable: stored.hardState,
    newSnapshot: undefined,
    isBaseChanged: false,
    isStatusChanged: true,
    persisting: undefined,
    droppedCount: 0,
  };
  useConfiguration(raft);
  drawElectionTimeout(raft);
  return raft;
}

/** Takes one input; what follows from it comes out of takeReady(). Never refuses: answers are duties. */
export function step(raft: Raft, input: RaftInput): void {
  assert(
    raft.persisting === undefined || input.type === "persisted",
    `Input ${input.type} came between a Ready and its persisted`,
  );
  switch (input.type) {
    case "tick":
      stepTick(raft, input.isLate === true);
      break;
    case "message":
      stepMessage(raft, input.from, input.message);
      break;
    case "proposal":
      stepProposal(raft, input);
      break;
    case "conf-change":
      stepMembershipChange(raft, input.change, input.requestId);
      break;
    case "read-index":
      stepRead(raft, { requestId: input.requestId, startedTick: raft.tick });
      break;
    case "transfer":
      stepTransfer(raft, input.to, input.requestId);
      break;
    case "persisted":
      stepPersisted(raft);
      break;
    case "applied":
      stepApplied(raft, input.index);
      break;
    case "snapshot-taken":
      stepSnapshotTaken(raft, input);
      break;
    case "peer-unreachable": {
      const progress = raft.progress.get(input.nodeId);
      if (progress?.state === "replicate") becomeProbe(progress);
      if (raft.role === "follower" && raft.leaderId === input.nodeId) suspectLeader(raft);
      break;
    }
    case "commit-notice":
      raft.isCommitNoticeDue = true;
      break;
    default:
      unreachable(input);
  }
}

// ---- time ---------------------------------------------------------------------------------------

function stepTick(raft: Raft, isLate: boolean): void {
  raft.tick++;
  raft.electionElapsed++;
  for (const read of expireReads(raft.reads, raft.tick - 2 * raft.options.electionTicks)) {
    refuse(raft, read.requestId, {
      code: "no-quorum",
      message: `Cannot read: no quorum of the ${raft.voters.length} managers confirmed a leader`,
    });
  }
  if (raft.role !== "leader") {
    expireWaiters(raft);
    // The leader's messages may be waiting behind this tick: look again at the next one.
    if (isLate) return;
    // The only voter has nobody to wait for.
    const isAlone = raft.voters.length === 1 && raft.voters[0] === raft.nodeId;
    if ((raft.electionElapsed >= raft.electionTimeout || isAlone) && canCampaign(raft)) {
      campaign(raft, "pre-vote");
    }
    return;
  }
  raft.heartbeatElapsed++;
  if (raft.heartbeatElapsed >= raft.options.heartbeatTicks) {
    raft.heartbeatElapsed = 0;
    for (const progress of raft.progress.values()) progress.isHeartbeatDue = true;
  }
  for (const [nodeId, progress] of raft.progress) {
    if (progress.leaving && raft.tick >= progress.leaving.untilTick) raft.progress.delete(nodeId);
  }
  expireTransfer(raft);
  // CheckQuorum: a leader that a majority no longer answers steps down. Source: thesis §6.2.
  if (!isLate && !hasQuorum(raft)) becomeFollower(raft, raft.term, undefined);
}

function hasQuorum(raft: Raft): boolean {
  const active = new Map(raft.voters.map((voter) => [voter, isActive(raft, voter)]));
  return voteResult(raft.voters, active) === "won";
}

function isActive(raft: Raft, nodeId: NodeId): boolean {
  if (nodeId === raft.nodeId) return true;
  const progress = raft.progress.get(nodeId);
  return progress !== undefined && raft.tick - progress.activeTick <= raft.options.electionTicks;
}

function drawElectionTimeout(raft: Raft): void {
  const { electionTicks, random } = raft.options;
  raft.electionTimeout = electionTicks + Math.floor(random.next() * (electionTicks + 1));
}

/**
 * Votes come within a round trip or not at all. Two candidates that began at once, and so share the
 * votes, or one that was a little too early for the others, try again soon and at different times;
 * each attempt begins with a pre-vote, so it disturbs nobody.
 */
function drawRetryTimeout(raft: Raft): void {
  const { electionTicks, random } = raft.options;
  const shortest = Math.max(1, Math.floor(electionTicks / RETRY_SHARE));
  raft.electionTimeout = shortest + Math.floor(random.next() * electionTicks);
}

/**
 * A dead process breaks its connections at once: there is no need to wait a whole election timeout,
 * only for a heartbeat that may still come by another connection. Who hears the leader all the same,
 * be it this member or another, goes on refusing pre-votes, so one broken connection changes nothing.
 */
function suspectLeader(raft: Raft): void {
  if (raft.isLeaderSuspect) return;
  raft.isLeaderSuspect = true;
  const { heartbeatTicks, electionTicks, random } = raft.options;
  // One tick more than it takes the other to believe it.
  const waitTicks = 3 * heartbeatTicks + Math.floor((random.next() * electionTicks) / 3);
  raft.electionTimeout = Math.min(raft.electionTimeout, raft.electionElapsed + waitTicks);
}

// ---- roles --------------------------------------------------------------------------------------

/**
 * A voter may campaign; so may one whose removal is in its log but not known as committed, for that
 * entry may depend on its vote (thesis §4.2.2).
 */
function canCampaign(raft: Raft): boolean {
  if (!hasJoined(raft)) return false;
  if (isVoter(raft.configuration, raft.nodeId)) return true;
  const { log } = raft;
  return (
    raft.configurationIndex > log.commitIndex &&
    isVoter(configurationAt(log, log.commitIndex).configuration, raft.nodeId)
  );
}

/**
 * I8. A node that begins with an empty log replays the cluster's history, in which it may be a voter
 * of long ago: until it has its own addition it must not act on that.
 */
function hasJoined(raft: Raft): boolean {
  return raft.joinedIndex !== undefined && lastIndex(raft.log) >= raft.joinedIndex;
}

function becomeFollower(raft: Raft, term: number, leaderId: NodeId | undefined): void {
  assert(term >= raft.term, `Term ${term} falls from ${raft.term}`); // I1
  const wasLeader = raft.role === "leader";
  if (term !== raft.term) {
    raft.term = term;
    raft.votedFor = undefined;
    raft.incoming = undefined;
  }
  if (wasLeader || leaderId !== raft.leaderId) restartReads(raft.reads);
  raft.role = "follower";
  raft.leaderId = leaderId;
  raft.isLeaderSuspect = false;
  raft.isStatusChanged = true;
  raft.electionElapsed = 0;
  drawElectionTimeout(raft);
  raft.votes.clear();
  if (wasLeader) {
    raft.progress.clear();
    raft.uncommittedBytes = 0;
    raft.waitersUntilTick = raft.tick + 2 * raft.options.electionTicks;
    if (raft.transfer) raft.transfer.to = undefined;
  }
  if (leaderId !== undefined && raft.transfer) finishTransfer(raft);
}

/** Source: raft §5.2; pre-vote: thesis §9.6. */
function campaign(raft: Raft, kind: "pre-vote" | "vote" | "forced-vote"): void {
  if (raft.leaderId !== undefined) restartReads(raft.reads);
  raft.leaderId = undefined;
  raft.isStatusChanged = true;
  raft.electionElapsed = 0;
  drawRetryTimeout(raft);
  raft.votes.clear();
  raft.votes.set(raft.nodeId, true);
  if (kind === "pre-vote") {
    raft.role = "pre-candidate";
  } else {
    raft.role = "candidate";
    raft.term++;
    raft.votedFor = raft.nodeId;
    raft.incoming = undefined;
  }
  const position = { lastIndex: lastIndex(raft.log), lastTerm: lastTerm(raft.log) };
  for (const voter of raft.voters) {
    if (voter === raft.nodeId) continue;
    send(
      raft,
      voter,
      kind === "pre-vote"
        ? { type: "pre-vote", term: raft.term + 1, ...position }
        : { type: "vote", term: raft.term, ...position, isForced: kind === "forced-vote" },
    );
  }
  countVotes(raft);
}

function countVotes(raft: Raft): void {
  const result = voteResult(raft.voters, raft.votes);
  if (result === "pending") return;
  if (result === "lost") {
    becomeFollower(raft, raft.term, undefined);
  } else if (raft.role === "pre-candidate") {
    campaign(raft, "vote");
  } else {
    becomeLeader(raft);
  }
}

function becomeLeader(raft: Raft): void {
  assert(raft.role === "candidate", `A ${raft.role} cannot become leader`);
  raft.role = "leader";
  raft.leaderId = raft.nodeId;
  raft.isStatusChanged = true;
  raft.heartbeatElapsed = 0;
  raft.uncommittedBytes = 0;
  raft.votes.clear();
  restartReads(raft.reads);
  raft.reads.lastRoundId = 0;
  if (raft.transfer) abortTransfer(raft, "this manager was elected again");
  raft.progress.clear();
  useConfiguration(raft);
  // A removal that is still to be committed: its node should hear of it.
  const { log } = raft;
  if (raft.configurationIndex > log.commitIndex) {
    const before = configurationAt(log, raft.configurationIndex - 1).configuration;
    for (const member of before.members) keepLeaving(raft, member.nodeId);
  }
  // Opens the term: nothing of earlier terms is committed by counting (I3, raft §5.4.2, §8).
  raft.noopIndex = appendOwn(raft, "normal", NO_BYTES);
}

/** The last configuration in the log is in force (I5); the leader's progress follows it. */
function useConfiguration(raft: Raft): void {
  const { index, configuration } = configurationAt(raft.log, lastIndex(raft.log));
  raft.configuration = configuration;
  raft.configurationIndex = index;
  raft.voters = votersOf(configuration);
  raft.isStatusChanged = true;
  if (raft.role !== "leader") return;
  for (const { nodeId, addedAtIndex } of configuration.members) {
    if (nodeId === raft.nodeId) continue;
    const known = raft.progress.get(nodeId);
    if (known && !known.leaving) continue;
    // New, or added again and perhaps with an empty log: nothing known before counts.
    raft.progress.set(nodeId, newProgress(lastIndex(raft.log) + 1, raft.tick, addedAtIndex));
  }
  for (const nodeId of raft.progress.keys()) keepLeaving(raft, nodeId);
  const target = raft.transfer?.to;
  if (target !== undefined && !isVoter(configuration, target))
    abortTransfer(raft, "it was removed");
}

/**
 * A removed member is replicated to for a while, not counted, so that it learns of its removal. It may
 * have deleted its log already and begin anew: the epoch of its old membership would tell it that it
 * has joined, and it would act on old configurations (a seed showed it: a snapshot in which it was the only
 * voter). So it is told that it has not, until it is added again.
 */
function keepLeaving(raft: Raft, nodeId: NodeId): void {
  if (nodeId === raft.nodeId || findMember(raft.configuration, nodeId)) return;
  if (raft.progress.get(nodeId)?.leaving) return;
  const progress = newProgress(lastIndex(raft.log) + 1, raft.tick, LEAVING_EPOCH);
  progress.leaving = {
    index: raft.configurationIndex,
    untilTick: raft.tick + LEAVING_ELECTIONS * raft.options.electionTicks,
  };
  raft.progress.set(nodeId, progress);
}
const LEAVING_ELECTIONS = 10;
/** No log is so long: `hasJoined` stays false for a member that has lost its own. */
const LEAVING_EPOCH = Number.MAX_SAFE_INTEGER;

// ---- messages -----------------------------------------------------------------------------------

function stepMessage(raft: Raft, from: NodeId, message: Message): void {
  if (from === raft.nodeId) {
    raft.droppedCount++;
    return;
  }
  if (message.term > raft.term && !admitHigherTerm(raft, from, message)) return;
  if (message.term < raft.term) {
    answerLowerTerm(raft, from, message);
    return;
  }
  switch (message.type) {
    case "pre-vote":
    case "vote":
      stepVoteRequest(raft, from, message);
      break;
    case "pre-vote-response":
    case "vote-response":
      stepVoteResponse(raft, from, message);
      break;
    case "append":
      if (hearLeader(raft, from, message.epoch)) stepAppend(raft, from, message);
      break;
    case "heartbeat":
      if (hearLeader(raft, from, message.epoch)) stepHeartbeat(raft, from, message);
      break;
    case "snapshot-piece":
      if (hearLeader(raft, from, message.epoch)) stepSnapshotPiece(raft, from, message);
      break;
    case "append-response":
    case "append-reject":
    case "heartbeat-response":
    case "snapshot-ack":
      stepFollowerMessage(raft, from, message);
      break;
    case "timeout-now":
      if (raft.role !== "leader" && canCampaign(raft)) campaign(raft, "forced-vote");
      break;
    case "read-index":
      if (raft.role === "leader" && raft.progress.has(from)) {
        stepRead(raft, { from, readId: message.readId, startedTick: raft.tick });
      }
      break;
    case "read-index-response":
      for (const read of takeForward(raft.reads, message.readId)) {
        raft.answers.push({ type: "read-ready", requestId: read.requestId, index: message.index });
      }
      break;
    default:
      unreachable(message);
  }
}

/** Moves to the sender's higher term where the message is reason enough; false: drop the message. */
function admitHigherTerm(raft: Raft, from: NodeId, message: Message): boolean {
  switch (message.type) {
    case "pre-vote":
      return true; // asks about a future term, changes nothing
    case "pre-vote-response":
      if (message.isGranted) return true; // grants carry the term asked for
      break;
    case "vote":
      // Leader stickiness: whoever hears a leader does not help to replace it (thesis §4.2.3, §6.2),
      // so a removed or returning node disturbs nobody.
      if (!message.isForced && hearsLeader(raft)) return false;
      becomeFollower(raft, message.term, undefined);
      return true;
    case "append":
    case "heartbeat":
    case "snapshot-piece":
      becomeFollower(raft, message.term, from);
      return true;
    case "timeout-now":
    case "vote-response":
    case "append-response":
    case "append-reject":
    case "heartbeat-response":
    case "snapshot-ack":
    case "read-index":
    case "read-index-response":
      break;
    default:
      unreachable(message);
  }
  // Answers count only from members: a removed node's term must not end this leader's.
  if (!findMember(raft.configuration, from)) {
    raft.droppedCount++;
    return false;
  }
  becomeFollower(raft, message.term, undefined);
  return true;
}

function hearsLeader(raft: Raft): boolean {
  // A leader's own CheckQuorum decides when it is none any more.
  if (raft.role === "leader") return true;
  const { electionTicks, heartbeatTicks } = raft.options;
  const silentTicksMax = raft.isLeaderSuspect ? 2 * heartbeatTicks : electionTicks;
  return raft.leaderId !== undefined && raft.electionElapsed < silentTicksMax;
}

function answerLowerTerm(raft: Raft, from: NodeId, message: Message): void {
  const { type } = message;
  if (type === "append" || type === "heartbeat" || type === "snapshot-piece") {
    // An old leader: tell it the term, or it would go on until CheckQuorum ends it; and a member
    // that is ahead in terms could never be taken in by one that is behind.
    const nothing = { epoch: 0, previousIndex: 0, hintIndex: 0, hintTerm: 0 };
    send(raft, from, { type: "append-reject", term: raft.term, ...nothing });
  } else if (type === "pre-vote") {
    send(raft, from, { type: "pre-vote-response", term: raft.term, isGranted: false });
  }
}

type MessageOf<T extends Message["type"]> = Extract<Message, { type: T }>;

function stepVoteRequest(raft: Raft, from: NodeId, message: MessageOf<"pre-vote" | "vote">): void {
  const isPreVote = message.type === "pre-vote";
  const isForced = !isPreVote && message.isForced;
  const isFree = isPreVote
    ? message.term > raft.term
    : raft.votedFor === from || (raft.votedFor === undefined && raft.leaderId === undefined);
  const isGranted =
    isFree && // I1
    hasJoined(raft) && // I8
    (isForced || !hearsLeader(raft)) &&
    isUpToDate(raft.log, message);
  if (isPreVote) {
    // A refusal carries the own term: a candidate that is behind in terms must catch up to be heard.
    send(raft, from, {
      type: "pre-vote-response",
      term: isGranted ? message.term : raft.term,
      isGranted,
    });
    return;
  }
  if (isGranted) {
    raft.votedFor = from;
    raft.electionElapsed = 0;
  }
  send(raft, from, { type: "vote-response", term: raft.term, isGranted });
}

function stepVoteResponse(
  raft: Raft,
  from: NodeId,
  message: MessageOf<"pre-vote-response" | "vote-response">,
): void {
  const isPreVote = message.type === "pre-vote-response";
  if (raft.role !== (isPreVote ? "pre-candidate" : "candidate")) return;
  // A grant for another term than the one asked for is an old one.
  if (isPreVote && message.isGranted && message.term !== raft.term + 1) return;
  if (!raft.votes.has(from)) raft.votes.set(from, message.isGranted);
  countVotes(raft);
}

/** A leader of this term speaks. False when that cannot be: two leaders in a term. */
function hearLeader(raft: Raft, from: NodeId, epoch: number): boolean {
  if (raft.role === "leader") {
    raft.droppedCount++;
    return false;
  }
  if (raft.role !== "follower" || raft.leaderId !== from) becomeFollower(raft, raft.term, from);
  if (raft.isLeaderSuspect) {
    raft.isLeaderSuspect = false;
    drawElectionTimeout(raft);
  }
  raft.electionElapsed = 0;
  // Not joined yet: the leader's word counts, also when another one's addition was lost.
  if (!hasJoined(raft)) raft.joinedIndex = epoch;
  return true;
}

// ---- follower -----------------------------------------------------------------------------------

function stepAppend(raft: Raft, from: NodeId, message: MessageOf<"append">): void {
  const { log, term } = raft;
  const { epoch } = message;
  if (message.previousIndex < log.commitIndex) {
    // Old news, or repeated: everything up to the commit index is the leader's anyway.
    send(raft, from, { type: "append-response", term, epoch, index: log.commitIndex });
    return;
  }
  const previous = { index: message.previousIndex, term: message.previousTerm };
  const result = tryAppend(log, previous, message.entries);
  if (!result) {
    const hint = findMatchCandidate(log, message.previousIndex, message.previousTerm);
    send(raft, from, {
      type: "append-reject",
      term,
      epoch,
      previousIndex: message.previousIndex,
      hintIndex: hint.index,
      hintTerm: hint.term,
    });
    return;
  }
  if (result.truncatedFrom !== undefined) dropWaiters(raft, result.truncatedFrom);
  if (result.truncatedFrom !== undefined || hasConfiguration(message.entries)) {
    useConfiguration(raft);
  }
  commitTo(raft, Math.min(message.commitIndex, result.matchedIndex));
  send(raft, from, { type: "append-response", term, epoch, index: result.matchedIndex });
}

function hasConfiguration(entries: readonly Entry[]): boolean {
  return entries.some((entry) => entry.type === "configuration");
}

function stepHeartbeat(raft: Raft, from: NodeId, message: MessageOf<"heartbeat">): void {
  const { log } = raft;
  // The leader names no more than what it knows this log to have in common with its own.
  if (message.commitIndex > lastIndex(log)) raft.droppedCount++;
  else commitTo(raft, message.commitIndex);
  if (message.removedAtIndex > 0) raft.removedAtIndex = message.removedAtIndex;
  send(raft, from, {
    type: "heartbeat-response",
    term: raft.term,
    epoch: message.epoch,
    commitIndex: log.commitIndex,
    readId: message.readId,
  });
}

/** Source: raft §7; pieces and their window are ours. */
function stepSnapshotPiece(raft: Raft, from: NodeId, message: MessageOf<"snapshot-piece">): void {
  const { log, term } = raft;
  const { epoch, snapshot: meta } = message;
  if (meta.index <= log.commitIndex) {
    raft.incoming = undefined;
    send(raft, from, { type: "append-response", term, epoch, index: log.commitIndex });
    return;
  }
  if (termAt(log, meta.index) === meta.term) {
    // The log already has what the snapshot stands for.
    raft.incoming = undefined;
    commitTo(raft, meta.index);
    send(raft, from, { type: "append-response", term, epoch, index: meta.index });
    return;
  }
  if (
    !raft.incoming ||
    raft.incoming.from !== from ||
    raft.incoming.term !== term ||
    raft.incoming.meta.index !== meta.index
  ) {
    raft.incoming = { from, term, meta, pieces: [] };
  }
  const { pieces } = raft.incoming;
  if (message.piece === pieces.length) pieces.push(message.data);
  send(raft, from, {
    type: "snapshot-ack",
    term,
    epoch,
    snapshotIndex: meta.index,
    nextPiece: pieces.length,
  });
  if (pieces.length < meta.pieceCount) return;
  raft.incoming = undefined;
  restoreLog(log, meta);
  raft.snapshot = meta;
  raft.newSnapshot = { meta, pieces };
  raft.isBaseChanged = true;
  failWaiters(raft, "the log was replaced by a snapshot");
  useConfiguration(raft);
  send(raft, from, { type: "append-response", term, epoch, index: meta.index });
}

// ---- leader -------------------------------------------------------------------------------------

function stepFollowerMessage(
  raft: Raft,
  from: NodeId,
  message: MessageOf<"append-response" | "append-reject" | "heartbeat-response" | "snapshot-ack">,
): void {
  const progress = raft.progress.get(from);
  if (raft.role !== "leader" || progress?.epoch !== message.epoch || !progress) {
    raft.droppedCount++;
    return;
  }
  if (!isActive(raft, from)) raft.isStatusChanged = true;
  progress.activeTick = raft.tick;
  switch (message.type) {
    case "append-response":
      stepAppendResponse(raft, from, progress, message.index);
      break;
    case "append-reject": {
      const { log } = raft;
      const hint = findMatchCandidate(log, message.hintIndex, message.hintTerm);
      retreat(progress, message.previousIndex, hint.index);
      break;
    }
    case "heartbeat-response":
      stepHeartbeatResponse(raft, from, progress, message);
      break;
    case "snapshot-ack": {
      const { snapshot } = progress;
      if (snapshot?.index !== message.snapshotIndex || !snapshot) return;
      if (message.nextPiece !== snapshot.ackedPieces) snapshot.newsTick = raft.tick;
      // A receiver that restarted begins at 0 again: follow it back too.
      if (message.nextPiece < snapshot.ackedPieces) snapshot.nextPiece = message.nextPiece;
      snapshot.ackedPieces = Math.min(message.nextPiece, snapshot.pieceCount);
      snapshot.nextPiece = Math.max(snapshot.nextPiece, snapshot.ackedPieces);
      break;
    }
    default:
      unreachable(message);
  }
}

function stepAppendResponse(raft: Raft, from: NodeId, progress: Progress, index: RaftIndex): void {
  const { log } = raft;
  if (index > lastIndex(log)) {
    raft.droppedCount++; // it answers another leader, or its disk was changed under it
    return;
  }
  const isNews = advanceMatch(progress, index);
  if (progress.state === "snapshot") {
    const wanted = progress.snapshot?.index ?? 0;
    if (progress.matchIndex < wanted && progress.matchIndex < log.base.index) return;
    becomeReplicate(progress);
  } else if (progress.state === "probe") {
    // Also when it is no news: the answer to a probe that changed nothing.
    if (isNews || index === progress.matchIndex) becomeReplicate(progress);
  } else {
    freeInflights(progress, index);
  }
  if (!isNews) return;
  advanceCommit(raft);
  if (raft.transfer?.to === from) continueTransfer(raft);
}

function stepHeartbeatResponse(
  raft: Raft,
  from: NodeId,
  progress: Progress,
  message: MessageOf<"heartbeat-response">,
): void {
  progress.readAck = Math.max(progress.readAck, message.readId);
  progress.isProbing = false;
  confirmReads(raft);
  if (progress.leaving && message.commitIndex >= progress.leaving.index) {
    raft.progress.delete(from);
    return;
  }
  const { log, options } = raft;
  const oldest = progress.inflights[0];
  if (
    progress.state === "replicate" &&
    progress.matchIndex < lastIndex(log) &&
    (!oldest || raft.tick - oldest.sentTick > 2 * options.heartbeatTicks)
  ) {
    // Appends may be lost: an empty one after them is accepted or rejected, and either tells.
    sendEmptyAppend(raft, from, progress);
  }
  const { snapshot } = progress;
  if (snapshot && raft.tick - snapshot.newsTick > options.electionTicks / 2) {
    // Pieces, or the answer to the last one, may be lost.
    snapshot.newsTick = raft.tick;
    snapshot.nextPiece = Math.min(snapshot.ackedPieces, snapshot.pieceCount - 1);
  }
}

/** Commits what a majority has made durable, entries of this term only (I3, I4). */
function advanceCommit(raft: Raft): void {
  if (raft.role !== "leader") return;
  const { log } = raft;
  const index = quorumValue(raft.voters, (voter) =>
    voter === raft.nodeId ? log.persistedIndex : (raft.progress.get(voter)?.matchIndex ?? 0),
  );
  if (index <= log.commitIndex || termAt(log, index) !== raft.term) return;
  commitTo(raft, index);
  if (raft.configurationIndex <= index && !isVoter(raft.configuration, raft.nodeId)) {
    leaveLeadership(raft);
  }
}

/** The leader's own removal is committed: its work is done (thesis §4.2.2). */
function leaveLeadership(raft: Raft): void {
  const best = bestSuccessor(raft);
  for (const [nodeId, progress] of raft.progress) sendHeartbeat(raft, nodeId, progress);
  if (best !== undefined) send(raft, best, { type: "timeout-now", term: raft.term });
  raft.removedAtIndex = raft.configurationIndex;
  becomeFollower(raft, raft.term, undefined);
}

function commitTo(raft: Raft, index: RaftIndex): void {
  const { log } = raft;
  if (index <= log.commitIndex) return;
  assert(index <= lastIndex(log), `Commit ${index} is beyond the log's ${lastIndex(log)}`);
  if (raft.role === "leader" && raft.uncommittedBytes > 0) {
    for (let i = log.commitIndex + 1; i <= index; i++) {
      const entry = entryAt(log, i);
      if (entry) raft.uncommittedBytes -= entrySizeBytes(entry);
    }
    // Entries of earlier terms were not counted when they came.
    raft.uncommittedBytes = Math.max(0, raft.uncommittedBytes);
  }
  log.commitIndex = index;
  let doneCount = 0;
  for (const waiter of raft.waiters) {
    if (waiter.index > index) break;
    doneCount++;
    if (termAt(log, waiter.index) === waiter.term) {
      raft.answers.push({ type: "committed", requestId: waiter.requestId, index: waiter.index });
    } else {
      dropWaiter(raft, waiter);
    }
  }
  if (doneCount > 0) raft.waiters.splice(0, doneCount);
}

function appendOwn(raft: Raft, type: Entry["type"], data: Uint8Array): RaftIndex {
  const index = lastIndex(raft.log) + 1;
  const entry: Entry = { index, term: raft.term, type, data };
  appendEntries(raft.log, [entry]);
  raft.uncommittedBytes += entrySizeBytes(entry);
  return index;
}

/** Sends what the window of each member allows: appends, snapshot pieces, heartbeats that are due. */
function replicate(raft: Raft): void {
  const last = lastIndex(raft.log);
  for (const [nodeId, progress] of raft.progress) {
    while (progress.nextIndex <= last && canAppend(progress)) {
      if (!sendAppend(raft, nodeId, progress)) break;
    }
    // A probe without entries: finds out where a silent member's log ends.
    if (progress.state === "probe" && progress.matchIndex === 0 && !progress.isProbing) {
      sendAppend(raft, nodeId, progress);
    }
    if (progress.state === "snapshot") sendPieces(raft, nodeId, progress);
    const isNoticeDue = raft.isCommitNoticeDue && lacksCommit(progress, raft.log.commitIndex);
    if (progress.isHeartbeatDue || isNoticeDue) sendHeartbeat(raft, nodeId, progress);
  }
  raft.isCommitNoticeDue = false;
}

/** A member has the entry, and does not know that it is committed. */
function lacksCommit(progress: Progress, commitIndex: RaftIndex): boolean {
  return progress.commitSent < Math.min(progress.matchIndex, commitIndex);
}

/** Whether a member lacks word of the commit of `index`. */
export function isCommitUntold(raft: Raft, index: RaftIndex): boolean {
  if (raft.role !== "leader") return false;
  for (const progress of raft.progress.values()) if (lacksCommit(progress, index)) return true;
  return false;
}

/** False when the entries were cut off and a snapshot goes instead. */
function sendAppend(raft: Raft, to: NodeId, progress: Progress): boolean {
  const { log, options } = raft;
  const previousIndex = progress.nextIndex - 1;
  const previousTerm = termAt(log, previousIndex);
  if (previousTerm === undefined) {
    const { snapshot } = raft;
    assert(snapshot && snapshot.index >= log.base.index, "A cut-off log has a snapshot");
    becomeSnapshot(progress, snapshot, raft.tick);
    return false;
  }
  const entries = sliceEntries(log, {
    from: progress.nextIndex,
    to: lastIndex(log),
    sizeBytesMax: options.appendBytesMax,
  });
  const reached = previousIndex + entries.length;
  if (progress.state === "replicate") {
    let sizeBytes = 0;
    for (const entry of entries) sizeBytes += entrySizeBytes(entry);
    addInflight(progress, { lastIndex: reached, sizeBytes, sentTick: raft.tick });
    progress.nextIndex = reached + 1;
  } else {
    progress.isProbing = true;
  }
  progress.commitSent = Math.max(progress.commitSent, Math.min(log.commitIndex, reached));
  send(raft, to, {
    type: "append",
    term: raft.term,
    epoch: progress.epoch,
    previousIndex,
    previousTerm,
    commitIndex: log.commitIndex,
    entries,
  });
  return true;
}

function sendEmptyAppend(raft: Raft, to: NodeId, progress: Progress): void {
  const { log } = raft;
  const previousIndex = progress.nextIndex - 1;
  const previousTerm = termAt(log, previousIndex);
  if (previousTerm === undefined) {
    becomeProbe(progress); // cut off meanwhile: the next send finds that a snapshot is needed
    return;
  }
  send(raft, to, {
    type: "append",
    term: raft.term,
    epoch: progress.epoch,
    previousIndex,
    previousTerm,
    commitIndex: log.commitIndex,
    entries: [],
  });
}

function sendHeartbeat(raft: Raft, to: NodeId, progress: Progress): void {
  const commitIndex = Math.min(progress.matchIndex, raft.log.commitIndex);
  progress.isHeartbeatDue = false;
  progress.commitSent = Math.max(progress.commitSent, commitIndex);
  const leavingIndex = progress.leaving?.index ?? 0;
  send(raft, to, {
    type: "heartbeat",
    term: raft.term,
    epoch: progress.epoch,
    commitIndex,
    readId: raft.reads.lastRoundId,
    removedAtIndex: leavingIndex <= raft.log.commitIndex ? leavingIndex : 0,
  });
}

function sendPieces(raft: Raft, to: NodeId, progress: Progress): void {
  const { snapshot } = raft;
  assert(snapshot, "A member in snapshot state is sent one");
  // A newer one has taken its place on disk: begin again with that.
  if (progress.snapshot?.index !== snapshot.index) becomeSnapshot(progress, snapshot, raft.tick);
  const sending = progress.snapshot;
  assert(sending, "becomeSnapshot() gives the progress");
  while (
    sending.nextPiece < sending.pieceCount &&
    sending.nextPiece - sending.ackedPieces < INFLIGHT_PIECES_MAX
  ) {
    const piece = sending.nextPiece++;
    send(raft, to, {
      type: "snapshot-piece",
      term: raft.term,
      epoch: progress.epoch,
      snapshot,
      piece,
      data: NO_BYTES,
    });
  }
}

// ---- requests -----------------------------------------------------------------------------------

function refuse(raft: Raft, requestId: number | undefined, refusal: Refusal): void {
  if (requestId !== undefined) raft.answers.push({ type: "refused", requestId, refusal });
}

function notLeader(raft: Raft, what: string): Refusal {
  const { leaderId } = raft;
  if (leaderId === undefined || leaderId === raft.nodeId) {
    return { code: "not-leader", message: `Cannot ${what}: no leader is known` };
  }
  const addr = findMember(raft.configuration, leaderId)?.addr;
  return {
    code: "not-leader",
    message: `Cannot ${what}: node "${leaderId}" leads`,
    details: addr === undefined ? {} : { leader: { nodeId: leaderId, addr } },
  };
}

/** Why a proposal of this size cannot be taken now. */
function checkProposal(raft: Raft, sizeBytes: number, what: string): Refusal | undefined {
  if (raft.role !== "leader") return notLeader(raft, what);
  if (raft.transfer) {
    return { code: "busy", message: `Cannot ${what}: the leadership is being handed over` };
  }
  const { proposalBytesMax, uncommittedBytesMax } = raft.options;
  if (sizeBytes > proposalBytesMax) {
    return {
      code: "invalid-argument",
      message: `Cannot ${what}: it has ${sizeBytes} bytes, at most ${proposalBytesMax} are allowed`,
    };
  }
  if (raft.uncommittedBytes > 0 && raft.uncommittedBytes + sizeBytes > uncommittedBytesMax) {
    return {
      code: "busy",
      message: `Cannot ${what}: ${raft.uncommittedBytes} bytes of proposals wait to be committed; try again later`,
    };
  }
  return undefined;
}

function checkTerm(raft: Raft, term: number | undefined): Refusal | undefined {
  if (term === undefined || term === raft.term) return undefined;
  const message = `Cannot propose: it was for the leader of term ${term}, the term is ${raft.term} now`;
  return { code: "not-leader", message };
}

function stepProposal(raft: Raft, input: Extract<RaftInput, { type: "proposal" }>): void {
  const { data, requestId, term } = input;
  const refusal = checkProposal(raft, data.byteLength, "propose") ?? checkTerm(raft, term);
  if (refusal) {
    refuse(raft, requestId, refusal);
    return;
  }
  const index = appendOwn(raft, "normal", data);
  if (requestId !== undefined) raft.waiters.push({ index, term: raft.term, requestId });
}

function stepMembershipChange(raft: Raft, change: MembershipChange, requestId: number): void {
  const what = `change the membership of "${change.nodeId}"`;
  const refusal = checkProposal(raft, 0, what);
  if (refusal) {
    refuse(raft, requestId, refusal);
    return;
  }
  const { log } = raft;
  // I5. Source: thesis §4.1 and its correction ("bug in single-server membership changes", 2015).
  if (log.commitIndex < raft.noopIndex || log.commitIndex < raft.configurationIndex) {
    refuse(raft, requestId, {
      code: "busy",
      message: `Cannot ${what}: entry ${Math.max(raft.noopIndex, raft.configurationIndex)} is not committed yet; try again later`,
    });
    return;
  }
  const plan = planMembership(raft.configuration, change, {
    isActive: (nodeId) => isActive(raft, nodeId),
    matchIndex: (nodeId) => {
      const progress = raft.progress.get(nodeId);
      if (progress?.state !== "replicate" || !isActive(raft, nodeId)) return undefined;
      return progress.matchIndex;
    },
    lastIndex: lastIndex(log),
  });
  switch (plan.type) {
    case "refused":
      refuse(raft, requestId, plan.refusal);
      break;
    case "unchanged":
      raft.answers.push({ type: "committed", requestId, index: raft.configurationIndex });
      break;
    case "changed": {
      const index = appendOwn(raft, "configuration", encodeConfiguration(plan.configuration));
      raft.waiters.push({ index, term: raft.term, requestId });
      useConfiguration(raft);
      break;
    }
    default:
      unreachable(plan);
  }
}

function stepRead(raft: Raft, read: Read): void {
  if (!queueRead(raft.reads, read) && isLocal(read)) {
    refuse(raft, read.requestId, {
      code: "busy",
      message: `Cannot read: ${raft.reads.count} reads wait for a quorum; try again later`,
    });
  }
}

function flushReads(raft: Raft): void {
  const { reads, log, options } = raft;
  if (reads.count === 0) return;
  if (raft.role !== "leader") {
    // Keep what was never asked for until a leader is known.
    if (raft.leaderId === undefined) return;
    const retryTicks = Math.max(1, Math.floor(options.electionTicks / 2));
    for (const forward of takeDueForwards(reads, raft.tick, retryTicks)) {
      send(raft, raft.leaderId, { type: "read-index", term: raft.term, readId: forward.readId });
    }
    return;
  }
  if (log.commitIndex < raft.noopIndex) return; // R1
  if (!openRound(reads, log.commitIndex)) return;
  for (const progress of raft.progress.values()) progress.isHeartbeatDue = true;
  confirmReads(raft);
}

/** I6: a round is good once a majority has answered a heartbeat that was sent after it began. */
function confirmReads(raft: Raft): void {
  if (raft.reads.rounds.length === 0) return;
  const confirmedId = quorumValue(raft.voters, (voter) =>
    voter === raft.nodeId ? raft.reads.lastRoundId : (raft.progress.get(voter)?.readAck ?? 0),
  );
  for (const round of takeConfirmedRounds(raft.reads, confirmedId)) {
    for (const read of round.reads) {
      if (isLocal(read)) {
        raft.answers.push({ type: "read-ready", requestId: read.requestId, index: round.index });
      } else {
        const { term } = raft;
        const { readId } = read;
        send(raft, read.from, { type: "read-index-response", term, readId, index: round.index });
      }
    }
  }
}

// ---- waiting proposals --------------------------------------------------------------------------

function dropWaiter(raft: Raft, waiter: Waiter): void {
  refuse(raft, waiter.requestId, {
    code: "proposal-dropped",
    message: `Proposal at entry ${waiter.index} was replaced by another leader's; propose again`,
    details: { isCommitted: false },
  });
}

/** Own entries from `index` on have been replaced. */
function dropWaiters(raft: Raft, index: RaftIndex): void {
  while ((raft.waiters.at(-1)?.index ?? 0) >= index) {
    const waiter = raft.waiters.pop();
    if (waiter) dropWaiter(raft, waiter);
  }
}

/** Gives up on all: what became of them cannot be known here. */
function failWaiters(raft: Raft, why: string): void {
  for (const waiter of raft.waiters) {
    refuse(raft, waiter.requestId, {
      code: "proposal-dropped",
      message: `Proposal at entry ${waiter.index} may or may not be committed: ${why}`,
    });
  }
  raft.waiters = [];
}

function expireWaiters(raft: Raft): void {
  if (raft.waiters.length > 0 && raft.tick >= raft.waitersUntilTick) {
    failWaiters(raft, "this manager no longer leads");
  }
  expireTransfer(raft);
}

// ---- leadership transfer ------------------------------------------------------------------------

/** Source: thesis §3.10. */
function stepTransfer(raft: Raft, wanted: NodeId | undefined, requestId: number): void {
  const what = "hand over the leadership";
  const refusal = checkProposal(raft, 0, what);
  if (refusal) {
    refuse(raft, requestId, refusal);
    return;
  }
  if (wanted === raft.nodeId) {
    raft.answers.push({ type: "done", requestId });
    return;
  }
  const to = wanted ?? bestSuccessor(raft);
  if (to === undefined || !isVoter(raft.configuration, to) || !raft.progress.has(to)) {
    refuse(raft, requestId, {
      code: "failed-precondition",
      message:
        wanted === undefined
          ? `Cannot ${what}: no other manager can be reached`
          : `Cannot ${what} to "${wanted}": it is not a voting manager`,
    });
    return;
  }
  raft.transfer = { to, requestId, startedTick: raft.tick, isSent: false };
  continueTransfer(raft);
}

/** The active voter with the longest log; the first by id among equals. */
function bestSuccessor(raft: Raft): NodeId | undefined {
  let best: NodeId | undefined;
  let bestIndex = -1;
  for (const voter of raft.voters) {
    const progress = raft.progress.get(voter);
    if (!progress || !isActive(raft, voter) || progress.matchIndex <= bestIndex) continue;
    best = voter;
    bestIndex = progress.matchIndex;
  }
  return best;
}

function continueTransfer(raft: Raft): void {
  const { transfer } = raft;
  if (transfer?.to === undefined || transfer.isSent) return;
  if (raft.progress.get(transfer.to)?.matchIndex !== lastIndex(raft.log)) return;
  transfer.isSent = true;
  send(raft, transfer.to, { type: "timeout-now", term: raft.term });
}

function finishTransfer(raft: Raft): void {
  const { transfer } = raft;
  raft.transfer = undefined;
  if (transfer?.requestId !== undefined) {
    raft.answers.push({ type: "done", requestId: transfer.requestId });
  }
}

function abortTransfer(raft: Raft, why: string): void {
  const { transfer } = raft;
  raft.transfer = undefined;
  refuse(raft, transfer?.requestId, {
    code: "deadline",
    message: `Cannot hand over the leadership: ${why}`,
  });
}

function expireTransfer(raft: Raft): void {
  const { transfer } = raft;
  if (!transfer) return;
  const elections = transfer.to === undefined ? 3 : 1;
  if (raft.tick - transfer.startedTick < elections * raft.options.electionTicks) return;
  abortTransfer(
    raft,
    transfer.to === undefined
      ? "no new leader appeared in time"
      : `"${transfer.to}" did not take it in time`,
  );
}

// ---- disk ---------------------------------------------------------------------------------------

function stepPersisted(raft: Raft): void {
  const { persisting } = raft;
  assert(persisting, "Nothing was being persisted");
  raft.persisting = undefined;
  raft.durable = persisting.hardState;
  raft.log.persistedIndex = Math.max(raft.log.persistedIndex, persisting.lastIndex);
  advanceCommit(raft);
}

function stepApplied(raft: Raft, index: RaftIndex): void {
  const { log } = raft;
  const before = log.appliedIndex;
  // Reports from before a restored snapshot may still come.
  log.appliedIndex = Math.max(before, Math.min(index, log.handedIndex));
  if (before < raft.noopIndex && log.appliedIndex >= raft.noopIndex) raft.isStatusChanged = true;
}

function stepSnapshotTaken(
  raft: Raft,
  taken: { index: RaftIndex; pieceCount: number; sizeBytes: number; keepFrom: RaftIndex },
): void {
  const { log } = raft;
  // A snapshot of the leader may have come in while this one was taken.
  if (taken.index <= (raft.snapshot?.index ?? 0) || taken.index < log.base.index) return;
  assert(taken.index <= log.appliedIndex, `Snapshot ${taken.index} of unapplied entries`);
  const term = termAt(log, taken.index);
  assert(term !== undefined, `Entry ${taken.index} of the snapshot is in the log`);
  const { configuration } = configurationAt(log, taken.index);
  const { pieceCount, sizeBytes, index } = taken;
  raft.snapshot = { index, term, configuration, pieceCount, sizeBytes };
  raft.newSnapshot = { meta: raft.snapshot, pieces: undefined };
  const baseIndex = Math.min(taken.keepFrom - 1, index);
  if (baseIndex > log.base.index) {
    compactLog(log, baseIndex);
    raft.isBaseChanged = true;
  }
}

/** Whether some member is being sent the stored snapshot; a new one would make it begin again. */
export function isSnapshotInUse(raft: Raft): boolean {
  for (const [nodeId, progress] of raft.progress) {
    if (progress.state === "snapshot" && isActive(raft, nodeId)) return true;
  }
  return false;
}

// ---- duties -------------------------------------------------------------------------------------

function send(raft: Raft, to: NodeId, message: Message): void {
  raft.outbox.push({ to, message });
}

/**
 * The duties since the last call; undefined when there are none. With a batch, the next input must
 * be `persisted`.
 */
export function takeReady(raft: Raft): Ready | undefined {
  assert(raft.persisting === undefined, "The last Ready is still being persisted");
  flushReads(raft);
  if (raft.role === "leader") replicate(raft);
  const persist = takeBatch(raft);
  const { messagesBefore, messagesAfter } = splitMessages(raft, persist !== undefined);
  const restored = persist?.isLogCleared ? persist.snapshot : undefined;
  const restore = restored?.pieces ? { meta: restored.meta, pieces: restored.pieces } : undefined;
  if (restore) {
    // What is handed over from here on comes after the snapshot, in order.
    raft.log.handedIndex = restore.meta.index;
    raft.log.appliedIndex = restore.meta.index;
  }
  const committed = takeCommitted(raft);
  const isRemoved = takeRemoval(raft);
  const { answers, isStatusChanged } = raft;
  raft.answers = [];
  raft.isStatusChanged = false;
  if (
    !persist &&
    messagesBefore.length === 0 &&
    messagesAfter.length === 0 &&
    committed.length === 0 &&
    answers.length === 0 &&
    !isStatusChanged &&
    !isRemoved
  ) {
    return undefined;
  }
  return {
    messagesBefore,
    persist,
    messagesAfter,
    restore,
    committed,
    answers,
    isStatusChanged,
    isRemoved,
  };
}

function takeBatch(raft: Raft): PersistBatch | undefined {
  const { log, durable } = raft;
  const last = lastIndex(log);
  const hasEntries = log.unstableFrom <= last;
  const isVoteChanged = raft.term !== durable.term || raft.votedFor !== durable.votedFor;
  // A commit index alone is not worth an fsync: it is learnt again, and replay is idempotent.
  if (!hasEntries && !isVoteChanged && !raft.newSnapshot && !raft.isBaseChanged) return undefined;
  const hardState: HardState = {
    term: raft.term,
    votedFor: raft.votedFor,
    commitIndex: log.commitIndex,
    joinedIndex: raft.joinedIndex,
  };
  const entries = hasEntries
    ? log.entries.slice(Math.max(0, log.unstableFrom - log.base.index - 1))
    : [];
  const batch: PersistBatch = {
    hardState,
    isLogCleared: raft.newSnapshot?.pieces !== undefined,
    entries,
  };
  if (raft.newSnapshot) batch.snapshot = raft.newSnapshot;
  if (raft.isBaseChanged) batch.base = log.base;
  raft.newSnapshot = undefined;
  raft.isBaseChanged = false;
  log.unstableFrom = last + 1;
  raft.persisting = { hardState, lastIndex: last };
  return batch;
}

/** A leader's messages of a durable term depend on nothing in the batch; all others may (I1, I4). */
function splitMessages(
  raft: Raft,
  hasBatch: boolean,
): { messagesBefore: OutgoingMessage[]; messagesAfter: OutgoingMessage[] } {
  const { outbox } = raft;
  raft.outbox = [];
  if (!hasBatch) return { messagesBefore: outbox, messagesAfter: [] };
  const messagesBefore: OutgoingMessage[] = [];
  const messagesAfter: OutgoingMessage[] = [];
  for (const outgoing of outbox) {
    const { type, term } = outgoing.message;
    const isLeaders = type === "append" || type === "heartbeat" || type === "snapshot-piece";
    const isEarly = isLeaders && term <= raft.durable.term;
    (isEarly ? messagesBefore : messagesAfter).push(outgoing);
  }
  return { messagesBefore, messagesAfter };
}

function takeCommitted(raft: Raft): Entry[] {
  const { log } = raft;
  const to = Math.min(
    log.commitIndex,
    log.persistedIndex, // I4: what is applied must be found again after a crash
    log.appliedIndex + APPLY_PENDING_MAX,
  );
  if (to <= log.handedIndex) return [];
  const entries = sliceEntries(log, {
    from: log.handedIndex + 1,
    to,
    sizeBytesMax: APPLY_BATCH_BYTES_MAX,
  });
  log.handedIndex += entries.length;
  return entries;
}

function takeRemoval(raft: Raft): boolean {
  if (raft.isRemovalReported || raft.removedAtIndex === 0) return false;
  if (raft.log.handedIndex < raft.removedAtIndex) return false;
  if (findMember(raft.configuration, raft.nodeId)) {
    raft.removedAtIndex = 0; // added again meanwhile
    return false;
  }
  raft.isRemovalReported = true;
  return true;
}

// ---- facts --------------------------------------------------------------------------------------

/** Leads, and everything committed before its term has been given to the state machine. */
export function isLeaderReady(raft: Raft): boolean {
  return raft.role === "leader" && raft.log.handedIndex >= raft.noopIndex;
}

/** What this member knows; of the others' progress only while it leads. */
export function raftStatus(raft: Raft): RaftStatus {
  const { log } = raft;
  const isLeader = raft.role === "leader" && log.appliedIndex >= raft.noopIndex;
  // A leader that is still catching up with itself is not one to send anybody to.
  const leaderId = raft.role === "leader" && !isLeader ? undefined : raft.leaderId;
  return {
    term: raft.term,
    ...(leaderId === undefined ? {} : { leaderId }),
    isLeader,
    commitIndex: log.commitIndex,
    appliedIndex: log.appliedIndex,
    members: raft.configuration.members.map(({ nodeId, addr, isLearner }) => {
      const member = { nodeId, addr, isLearner };
      if (raft.role !== "leader") return member;
      const matchIndex =
        nodeId === raft.nodeId ? log.persistedIndex : (raft.progress.get(nodeId)?.matchIndex ?? 0);
      return { ...member, matchIndex, isReachable: isActive(raft, nodeId) };
    }),
  };
}
