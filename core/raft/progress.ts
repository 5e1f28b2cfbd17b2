/**
 * What the leader knows of one member, and how fast it may send to it. Source: etcd-io/raft's
 * progress design.
 *
 *     probe ──answer──▶ replicate        probe: one append at a time, to find where the logs agree
 *       ▲ ◀─reject, unreachable─┘        replicate: a window of appends in flight, `nextIndex` optimistic
 *       └──installed── snapshot ◀─ log cut off    snapshot: a window of pieces in flight
 *
 * Invariants: matchIndex < nextIndex; matchIndex never falls while the leader leads.
 */
import { unreachable } from "../assert.ts";
import type { RaftIndex } from "../ids.ts";

/** Appends on their way to one member. */
export const INFLIGHT_APPENDS_MAX = 128;
export const INFLIGHT_BYTES_MAX = 8 * 1024 * 1024;
/** Snapshot pieces on their way to one member. */
export const INFLIGHT_PIECES_MAX = 4;

export type SnapshotProgress = {
  index: RaftIndex;
  pieceCount: number;
  /** All before it have arrived. */
  ackedPieces: number;
  /** Next to send. */
  nextPiece: number;
  /** Tick of the last news; after a silence the window is sent again. */
  newsTick: number;
};

export type Progress = {
  /** Which membership of this node it is about, see messages.ts. */
  readonly epoch: number;
  state: "probe" | "replicate" | "snapshot";
  matchIndex: RaftIndex;
  nextIndex: RaftIndex;
  /** Probe: an append is under way and unanswered. */
  isProbing: boolean;
  inflights: { lastIndex: RaftIndex; sizeBytes: number; sentTick: number }[];
  inflightBytes: number;
  /** Tick of the last message from it. */
  activeTick: number;
  /** Highest commit index told to it. */
  commitSent: RaftIndex;
  /** Highest read round it confirmed this leader in. */
  readAck: number;
  /** A heartbeat is due with the next Ready. */
  isHeartbeatDue: boolean;
  snapshot?: SnapshotProgress;
  /** Removed at this index, but kept until it has been told, or until the tick. */
  leaving?: { index: RaftIndex; untilTick: number };
};

/** Nothing is known yet; the first append tries `nextIndex`. */
export function newProgress(nextIndex: RaftIndex, tick: number, epoch: number): Progress {
  return {
    epoch,
    state: "probe",
    matchIndex: 0,
    nextIndex,
    isProbing: false,
    inflights: [],
    inflightBytes: 0,
    activeTick: tick,
    commitSent: 0,
    readAck: 0,
    isHeartbeatDue: false,
  };
}

/** Whether another append with entries may leave now. */
export function canAppend(progress: Progress): boolean {
  switch (progress.state) {
    case "probe":
      return !progress.isProbing;
    case "replicate":
      return (
        progress.inflights.length < INFLIGHT_APPENDS_MAX &&
        progress.inflightBytes < INFLIGHT_BYTES_MAX
      );
    case "snapshot":
      return false;
    default:
      return unreachable(progress.state);
  }
}

/** Begins again behind what is known to match. */
export function becomeProbe(progress: Progress): void {
  progress.state = "probe";
  progress.isProbing = false;
  progress.nextIndex = progress.matchIndex + 1;
  clearInflights(progress);
  delete progress.snapshot;
}

/** The logs are known to agree up to matchIndex: send ahead from there. */
export function becomeReplicate(progress: Progress): void {
  progress.state = "replicate";
  progress.isProbing = false;
  progress.nextIndex = progress.matchIndex + 1;
  clearInflights(progress);
  delete progress.snapshot;
}

/** The log the member needs was cut off: it is sent the stored snapshot. */
export function becomeSnapshot(
  progress: Progress,
  snapshot: { index: RaftIndex; pieceCount: number },
  tick: number,
): void {
  progress.state = "snapshot";
  clearInflights(progress);
  progress.snapshot = { ...snapshot, ackedPieces: 0, nextPiece: 0, newsTick: tick };
}

function clearInflights(progress: Progress): void {
  progress.inflights = [];
  progress.inflightBytes = 0;
}

/** An append has left. */
export function addInflight(
  progress: Progress,
  inflight: { lastIndex: RaftIndex; sizeBytes: number; sentTick: number },
): void {
  progress.inflights.push(inflight);
  progress.inflightBytes += inflight.sizeBytes;
}

/** Appends up to `index` have arrived. */
export function freeInflights(progress: Progress, index: RaftIndex): void {
  let count = 0;
  for (const inflight of progress.inflights) {
    if (inflight.lastIndex > index) break;
    progress.inflightBytes -= inflight.sizeBytes;
    count++;
  }
  if (count > 0) progress.inflights.splice(0, count);
}

/** The member's log equals ours up to `index`; false when that was known. */
export function advanceMatch(progress: Progress, index: RaftIndex): boolean {
  const isNews = index > progress.matchIndex;
  if (isNews) {
    progress.matchIndex = index;
    progress.isProbing = false;
  }
  progress.nextIndex = Math.max(progress.nextIndex, index + 1);
  return isNews;
}

/**
 * The member had no entry before `rejectedIndex + 1`; `hintIndex` is the latest that may agree.
 * False when the rejection is old news (delayed or repeated).
 */
export function retreat(
  progress: Progress,
  rejectedIndex: RaftIndex,
  hintIndex: RaftIndex,
): boolean {
  if (progress.state === "replicate") {
    if (rejectedIndex <= progress.matchIndex) return false;
    becomeProbe(progress);
    return true;
  }
  if (progress.state !== "probe" || progress.nextIndex - 1 !== rejectedIndex) return false;
  progress.nextIndex = Math.max(Math.min(rejectedIndex, hintIndex + 1), progress.matchIndex + 1);
  progress.isProbing = false;
  return true;
}
