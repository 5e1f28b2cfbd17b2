/** The words of consensus: entries, configurations, snapshots, and what members say to each other. */
import type { NodeId, RaftIndex } from "../ids.ts";
import type { Member } from "../protocol.ts";

export type ConfigurationMember = Member & {
  /**
   * The entry that added it. Tells the memberships of one node apart: a manager may be removed,
   * delete its log, and be added again under the same id. See `epoch` and `joinedIndex`.
   */
  addedAtIndex: RaftIndex;
};

/** Who takes part. Invariant: sorted by nodeId, no nodeId twice. Empty: not in any cluster yet. */
export type Configuration = { members: readonly ConfigurationMember[] };

export type Entry = {
  index: RaftIndex;
  term: number;
  /** `configuration`: data is `encodeConfiguration`'s, in force as soon as it is in the log. */
  type: "normal" | "configuration";
  /** Empty for the entry with which a leader opens its term. */
  data: Uint8Array;
};

/** Written before any answer that depends on it. `commitIndex` may lag behind the truth. */
export type HardState = {
  term: number;
  votedFor: NodeId | undefined;
  commitIndex: RaftIndex;
  /**
   * This node votes and campaigns only once its log reaches this entry, the one that added it;
   * undefined until a leader has told. An earlier life of the node may have answered for entries
   * that this log does not have before.
   */
  joinedIndex: RaftIndex | undefined;
};

/** The point up to which the log was cut off, and what must be known about it. */
export type LogBase = { index: RaftIndex; term: number; configuration: Configuration };

export type SnapshotMeta = LogBase & { pieceCount: number; sizeBytes: number };

/**
 * What one member says to another; the sender's id comes from the transport. Every message carries
 * the sender's term (a pre-vote the term that the sender would campaign for).
 *
 * `epoch` is the member's addedAtIndex. The member echoes it, so that a late answer of its earlier
 * life does not let the leader count entries that are gone.
 */
export type Message =
  /** Would you vote for me in `term`? Changes nothing at the receiver. Source: thesis §9.6. */
  | { type: "pre-vote"; term: number; lastIndex: RaftIndex; lastTerm: number }
  | { type: "pre-vote-response"; term: number; isGranted: boolean }
  /** `isForced`: the leader asked for this election, so its stickiness does not count. */
  | { type: "vote"; term: number; lastIndex: RaftIndex; lastTerm: number; isForced: boolean }
  | { type: "vote-response"; term: number; isGranted: boolean }
  | {
      type: "append";
      term: number;
      previousIndex: RaftIndex;
      previousTerm: number;
      commitIndex: RaftIndex;
      epoch: number;
      entries: readonly Entry[];
    }
  /** The sender's log equals the leader's up to `index`, durably. */
  | { type: "append-response"; term: number; epoch: number; index: RaftIndex }
  /** The log has no entry (previousIndex, previousTerm); the hint is the latest that may match. */
  | {
      type: "append-reject";
      term: number;
      epoch: number;
      previousIndex: RaftIndex;
      hintIndex: RaftIndex;
      hintTerm: number;
    }
  /** `readId`: highest read round to confirm. `removedAtIndex`: the receiver was removed there, else 0. */
  | {
      type: "heartbeat";
      term: number;
      epoch: number;
      commitIndex: RaftIndex;
      readId: number;
      removedAtIndex: RaftIndex;
    }
  | {
      type: "heartbeat-response";
      term: number;
      epoch: number;
      commitIndex: RaftIndex;
      readId: number;
    }
  /** `data` is read from storage by the host just before it leaves. */
  | {
      type: "snapshot-piece";
      term: number;
      epoch: number;
      snapshot: SnapshotMeta;
      piece: number;
      data: Uint8Array;
    }
  /** All pieces before `nextPiece` have arrived. */
  | {
      type: "snapshot-ack";
      term: number;
      epoch: number;
      snapshotIndex: RaftIndex;
      nextPiece: number;
    }
  /** Campaign now: leadership transfer. Source: thesis §3.10. */
  | { type: "timeout-now"; term: number }
  /** A member asks the leader for a read index. `readId` is unique over the sender's restarts. */
  | { type: "read-index"; term: number; readId: number }
  | { type: "read-index-response"; term: number; readId: number; index: RaftIndex };

export type OutgoingMessage = { to: NodeId; message: Message };

export const NO_BYTES = new Uint8Array(0);
export const EMPTY_CONFIGURATION: Configuration = { members: [] };

/** Memory and log cost of an entry, for every size bound. */
export function entrySizeBytes(entry: Entry): number {
  return entry.data.byteLength + ENTRY_OVERHEAD_BYTES;
}
const ENTRY_OVERHEAD_BYTES = 32;
