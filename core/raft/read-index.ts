/**
 * Linearizable reads without a log entry. Source: thesis §6.4.
 *
 * The leader notes its commit index when reads arrive, asks the members once whether it still leads
 * (a heartbeat with the round's id), and answers when a majority has said so. Reads that arrive
 * meanwhile share the next round. A follower sends one request for all reads of a loop turn, and
 * sends it again while unanswered.
 *
 * Invariants: (R1) a round's index is taken after its reads arrived, and only once the leader has
 * committed an entry of its own term; (R2) an answer never goes to a read that began after the round;
 * (R3) `readId`s begin at a random point, so a late answer to an earlier life of this node fits none.
 */
import type { NodeId, RaftIndex } from "../ids.ts";
import type { Random } from "../random.ts";

/** Reads waiting on one member, its own and its followers'. */
export const READS_MAX = 10_000;

export type LocalRead = { requestId: number; startedTick: number };
export type RemoteRead = { from: NodeId; readId: number; startedTick: number };
export type Read = LocalRead | RemoteRead;

export type ReadRound = { id: number; index: RaftIndex; reads: Read[] };
export type ForwardedReads = { readId: number; reads: LocalRead[]; sentTick: number | undefined };

export type ReadState = {
  /** Not yet in a round or a forward. */
  queue: Read[];
  /** Leader: waiting for a majority, ids ascending. */
  rounds: ReadRound[];
  lastRoundId: number;
  /** Follower: waiting for the leader's answer. */
  forwards: ForwardedReads[];
  lastReadId: number;
  /** In all three lists. */
  count: number;
};

export function newReadState(random: Random): ReadState {
  const lastReadId = Math.floor(random.next() * 0x1_0000_0000) * 0x10_0000;
  return { queue: [], rounds: [], lastRoundId: 0, forwards: [], lastReadId, count: 0 };
}

/** False when too many wait already. */
export function queueRead(state: ReadState, read: Read): boolean {
  if (state.count >= READS_MAX) return false;
  state.count++;
  state.queue.push(read);
  return true;
}

/** Leader: puts what waits into a round; undefined when nothing does. */
export function openRound(state: ReadState, commitIndex: RaftIndex): ReadRound | undefined {
  if (state.queue.length === 0) return undefined;
  const round = { id: ++state.lastRoundId, index: commitIndex, reads: state.queue };
  state.queue = [];
  state.rounds.push(round);
  return round;
}

/** Leader: a majority has confirmed every round up to `confirmedId`; takes those out. */
export function takeConfirmedRounds(state: ReadState, confirmedId: number): ReadRound[] {
  let confirmedCount = 0;
  for (const round of state.rounds) {
    if (round.id > confirmedId) break;
    confirmedCount++;
    state.count -= round.reads.length;
  }
  return confirmedCount === 0 ? [] : state.rounds.splice(0, confirmedCount);
}

/** Follower: puts what waits into a request to the leader, and lists the requests to send now. */
export function takeDueForwards(
  state: ReadState,
  tick: number,
  retryTicks: number,
): ForwardedReads[] {
  const reads = state.queue.filter(isLocal);
  state.count -= state.queue.length - reads.length;
  state.queue = [];
  if (reads.length > 0) {
    state.forwards.push({ readId: ++state.lastReadId, reads, sentTick: undefined });
  }
  const due = state.forwards.filter(
    (f) => f.sentTick === undefined || tick - f.sentTick >= retryTicks,
  );
  for (const forward of due) forward.sentTick = tick;
  return due;
}

/** Follower: the reads that the leader's answer is for; none when it is unknown or late. */
export function takeForward(state: ReadState, readId: number): LocalRead[] {
  const at = state.forwards.findIndex((forward) => forward.readId === readId);
  if (at < 0) return [];
  const [forward] = state.forwards.splice(at, 1);
  const reads = forward?.reads ?? [];
  state.count -= reads.length;
  return reads;
}

/** The role or the leader has changed: own reads begin anew, those of others are asked again by them. */
export function restartReads(state: ReadState): void {
  state.queue = [
    ...state.forwards.flatMap((forward) => forward.reads),
    ...state.rounds.flatMap((round) => round.reads.filter(isLocal)),
    ...state.queue.filter(isLocal),
  ];
  state.forwards = [];
  state.rounds = [];
  state.count = state.queue.length;
}

/** Takes out the reads that began before `beforeTick` and returns this member's own among them. */
export function expireReads(state: ReadState, beforeTick: number): LocalRead[] {
  if (state.count === 0) return [];
  const expired: LocalRead[] = [];
  const keep = (read: Read) => {
    if (read.startedTick >= beforeTick) return true;
    if (isLocal(read)) expired.push(read);
    state.count--;
    return false;
  };
  state.queue = state.queue.filter(keep);
  for (const round of state.rounds) round.reads = round.reads.filter(keep);
  for (const forward of state.forwards) forward.reads = forward.reads.filter(keep);
  state.rounds = state.rounds.filter((round) => round.reads.length > 0);
  state.forwards = state.forwards.filter((forward) => forward.reads.length > 0);
  return expired;
}

export function isLocal(read: Read): read is LocalRead {
  return "requestId" in read;
}
