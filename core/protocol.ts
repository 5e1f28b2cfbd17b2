/**
 * Messages between the threads of a manager: main, the consensus worker (core/raft) and the state
 * worker (core/store and, on the leader, the planners and the dispatcher). Types are the contract:
 * both sides are one build.
 *
 * Envelope (agent/worker-client.ts): a request is `{ id, input }`, its answer `{ id, output }` or
 * `{ id, error: ErrorBody }`; a notification has no id. Consensus and state talk to each other over
 * a MessagePort given to both in `init`, without passing through main.
 */
import type { AssignmentsMessage } from "./dispatcher/assignment.ts";
import type { NodeId, RaftIndex, UnixMs } from "./ids.ts";
import type { NodeDescription } from "./objects/node.ts";
import type { TaskStatus } from "./objects/task.ts";
import type { Change, Outcome, Proposal } from "./store/action.ts";

export type Member = {
  nodeId: NodeId;
  /** RPC address, `host:port`. */
  addr: string;
  /** Learners receive the log but do not vote. */
  isLearner: boolean;
};

export type MembershipChange =
  | { type: "add-learner"; nodeId: NodeId; addr: string }
  /** A learner becomes a voter; refused with failed-precondition while it is not caught up. */
  | { type: "promote"; nodeId: NodeId }
  | { type: "remove"; nodeId: NodeId }
  | { type: "set-addr"; nodeId: NodeId; addr: string };

export type RaftStatus = {
  term: number;
  leaderId?: NodeId;
  isLeader: boolean;
  commitIndex: RaftIndex;
  appliedIndex: RaftIndex;
  members: (Member & {
    /** Leader only: acknowledged index and whether it answered within an election timeout. */
    matchIndex?: RaftIndex;
    isReachable?: boolean;
  })[];
};

// ---- main ↔ consensus -------------------------------------------------------------------------

export type ConsensusInput =
  /** First message. Answer: `{ type: "ready", status }` when the log is open. */
  | {
      type: "init";
      nodeId: NodeId;
      /** Directory of raft.db. */
      dir: string;
      /** Present when this node begins a cluster: it is the only voter. Ignored if a log exists. */
      bootstrap?: { addr: string };
      /** Rewrite the membership to this node alone (--force-new-cluster). */
      forceNewCluster?: { addr: string };
      /** Opens a log that has lost what it answered for: this node is the only manager there is. */
      acceptLoss?: boolean;
      /** A file that may be removed when a write finds the disk full. */
      ballastPath?: string;
      /** By which it seals what it stores. */
      storageKey?: Uint8Array;
      electionTicks: number;
      tickMs: number;
    }
  /**
   * Answer `{ type: "committed", index }` once committed (not yet applied); errors: not-leader,
   * proposal-dropped, busy. With `term` it is appended in that term or not at all (not-leader).
   */
  | { type: "propose"; data: Uint8Array; term?: number | undefined }
  /**
   * Answer `{ type: "read-ready", index }`: state applied up to it is linearizable. Works on
   * followers. Errors: no-quorum, deadline.
   */
  | { type: "read-index" }
  /** Leader only. Answer `{ type: "committed", index }`. */
  | { type: "change-membership"; change: MembershipChange }
  /** Leader only; answer `{ type: "done" }` once another leads or deadline. `to` absent: the best caught-up voter. */
  | { type: "transfer-leadership"; to?: NodeId }
  /** Answer `{ type: "status", status }`. */
  | { type: "status" }
  /** Notification: bytes from a peer's consensus (net/rpc note "raft"). */
  | { type: "peer-message"; from: NodeId; data: Uint8Array }
  /**
   * Notification, at start and when the cluster's spec changes: entries after which the log is
   * compacted, and entries kept before a snapshot for members that are a little behind.
   */
  | { type: "set-compaction"; snapshotEntries: number; tailEntries: number }
  /** Notification: peers that this thread is to reach itself from now on, and by what certificate. */
  | { type: "lines"; settings: LineSettings }
  /** Notification: the transport could not deliver to this peer (advisory). */
  | { type: "peer-unreachable"; nodeId: NodeId }
  /** Answer `{ type: "done" }`, then the worker exits 0. */
  | { type: "stop" };

export type ConsensusAnswer =
  /** `lost`: what was missing in the log, and accepted. */
  | { type: "ready"; status: RaftStatus; lost?: string }
  | { type: "committed"; index: RaftIndex }
  | { type: "read-ready"; index: RaftIndex }
  | { type: "status"; status: RaftStatus }
  | { type: "done" };

/** Notifications of the consensus worker to main. */
export type ConsensusOutput =
  /** To a peer that this thread has no line to. */
  | { type: "send"; to: NodeId; data: Uint8Array }
  /** A line of this thread could not deliver (advisory). */
  | { type: "line-failed"; nodeId: NodeId }
  /** Leader, term or membership changed. `isLeader` is told only after the own term's first entry is applied. */
  | { type: "status-changed"; status: RaftStatus }
  /** This node was removed from the membership (entry applied here). */
  | { type: "removed" }
  | DiskFull;

/** Where the peers are, `host:port`, and what a node shows them (PEM). */
export type LineSettings = {
  tls: { certificatePem: string; keyPem: string; caCertificatePem: string };
  peers: { nodeId: NodeId; addr: string }[];
};
/** Connections to peers that the consensus thread keeps itself; made outside of core. */
export type PeerLines = {
  configure(settings: LineSettings): void;
  /** False for a peer that it was not told of. */
  send(to: NodeId, data: Uint8Array): boolean;
  close(): void;
};

/** The thread stands still until a write has room on disk; then it goes on. */
export type DiskFull = { type: "disk-full"; isFull: boolean };

// ---- consensus ↔ state (MessagePort) ----------------------------------------------------------

export type ConsensusToState =
  /** Committed normal entries in order, without gaps; empty data is a no-op that still advances the index. */
  | { type: "apply"; entries: { index: RaftIndex; term: number; data: Uint8Array }[] }
  /** Replace the whole state. */
  | { type: "restore"; index: RaftIndex; term: number; data: Uint8Array }
  /** Ordered with `apply`: when it says isLeader, everything committed before is applied. */
  | { type: "leadership"; isLeader: boolean; term: number; leaderId?: NodeId }
  /** Answer with `snapshot` at the applied index. */
  | { type: "take-snapshot" };

export type StateToConsensus =
  /** First message: where the state stands, so that replay starts after it. */
  | { type: "opened"; appliedIndex: RaftIndex }
  | { type: "applied"; index: RaftIndex }
  /** A proposal of the leader's planners; lost silently when leadership is. */
  | { type: "propose"; data: Uint8Array }
  | { type: "snapshot"; index: RaftIndex; data: Uint8Array };

// ---- main ↔ state -----------------------------------------------------------------------------

export type StateInput =
  /** First message. Answer `{ type: "ready", appliedIndex }`. */
  | {
      type: "init";
      nodeId: NodeId;
      /** Directory of state.db. */
      dir: string;
      /** As consensus's. */
      ballastPath?: string;
      storageKey?: Uint8Array;
    }
  /** Leader: a node's session is open on this manager; it gets a complete set. Answer `{ type: "session", … }`. */
  | {
      type: "session-open";
      nodeId: NodeId;
      sessionId: string;
      description: NodeDescription;
      addr: string;
      dataPathAddr: string;
      nowMs: UnixMs;
    }
  | { type: "session-close"; sessionId: string }
  /** Notification. */
  | { type: "heartbeat"; nodeId: NodeId; sessionId: string; nowMs: UnixMs }
  /** The session's node balances by what it was sent up to this generation. Notification. */
  | { type: "assignments-applied"; sessionId: string; generation: number }
  /** Leader, once a second: raft members of which consensus has no word. Notification. */
  | { type: "silent-members"; nodeIds: NodeId[] }
  /**
   * Notification: whether somebody here waits for what is applied. On a leader it is on disk and told
   * at once; elsewhere, unless somebody waits, within some milliseconds and many entries together.
   */
  | { type: "awaited"; isAwaited: boolean }
  /** Answer `{ type: "done" }` once applied; proposed in batches. */
  | {
      type: "report-status";
      nodeId: NodeId;
      sessionId: string;
      statuses: { taskId: string; status: TaskStatus }[];
    }
  /** Notification: while held, nothing is proposed by this thread (no room on disk). */
  | { type: "hold"; isHeld: boolean }
  /** Answer `{ type: "snapshot", … }`: everything at the applied index (backup). */
  | { type: "snapshot" }
  | { type: "stop" };

export type StateAnswer =
  /** `rebuiltBecause`: state.db could not be used and was begun anew; consensus fills it again. */
  | { type: "ready"; appliedIndex: RaftIndex; rebuiltBecause?: string }
  | { type: "session"; heartbeatPeriodMs: number }
  | { type: "snapshot"; index: RaftIndex; data: Uint8Array }
  | { type: "done" };

export type StateOutput =
  /** After each apply transaction. `outcomes`: of every proposal in it, whoever proposed. */
  | {
      type: "applied";
      index: RaftIndex;
      outcomes: { proposalId: string; outcome: Outcome }[];
      changes: Change[];
    }
  | { type: "restored"; index: RaftIndex }
  /** To be sent on the session's connection, in order. */
  | { type: "assignments"; sessionId: string; message: AssignmentsMessage }
  /** The session is over for the dispatcher (node removed, replaced by a newer session). */
  | { type: "session-end"; sessionId: string; reason: string }
  | DiskFull;

/** Codec of proposals: JSON text, since object-rich payloads are 2–4 × faster so (bun-notes §1). */
export function encodeProposal(proposal: Proposal): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(proposal));
}
export function decodeProposal(data: Uint8Array): Proposal {
  // The bytes were written by encodeProposal on some replica and checked by the log's checksum.
  return JSON.parse(new TextDecoder().decode(data)) as Proposal;
}
