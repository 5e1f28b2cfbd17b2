/**
 * What is replicated. A raft entry's bytes are one encoded `Proposal`. New ids and times are made by
 * the proposer and travel inside; `apply` (core/store/apply.ts) never makes any, is total, and gives
 * the same outcome on every replica.
 */
import type { ErrorCode } from "../errors.ts";
import type { NodeId, RaftIndex, TaskId, UnixMs } from "../ids.ts";
import type { Attachment } from "../objects/attachment.ts";
import type { Cluster } from "../objects/cluster.ts";
import type { Network } from "../objects/network.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Config, Secret } from "../objects/secret.ts";
import type { Service } from "../objects/service.ts";
import type { Stack } from "../objects/stack.ts";
import type { Task, TaskStatus } from "../objects/task.ts";

export type Tables = {
  cluster: Cluster;
  node: NodeObject;
  network: Network;
  service: Service;
  task: Task;
  secret: Secret;
  config: Config;
  attachment: Attachment;
  stack: Stack;
};
export type TableName = keyof Tables;

type Meta = "version" | "createdAtMs" | "updatedAtMs";
/** An object as proposed: apply fills version and times (and a service's specVersion). */
export type Draft<T extends TableName> = T extends "service"
  ? Omit<Tables["service"], Meta | "specVersion">
  : Omit<Tables[T], Meta>;

export type CreateAction = {
  [T in TableName]: { type: "create"; table: T; object: Draft<T> };
}[TableName];
export type UpdateAction = {
  [T in TableName]: {
    type: "update";
    table: T;
    id: string;
    /** Refused with version-conflict when the object's version differs. */
    ifVersion?: RaftIndex;
    /** Shallow: each named top-level field is replaced. Setting a service's `spec` sets specVersion. */
    set: Partial<Omit<Tables[T], Meta | "id">>;
    /** Top-level optional fields to remove. */
    unset?: string[];
    /** Of a service: its spec says the same in other words (sealed anew), and specVersion stays. */
    isSameSpec?: true;
  };
}[TableName];
export type RemoveAction = { type: "remove"; table: TableName; id: string; ifVersion?: RaftIndex };

/**
 * A status reported by the task's node. Dropped when the task is gone, is not on that node, or the
 * state would move back (same state: the newer message, container and ports are taken).
 */
export type TaskStatusAction = {
  type: "task-status";
  id: TaskId;
  nodeId: NodeId;
  status: TaskStatus;
};

export type StoreAction = CreateAction | UpdateAction | RemoveAction | TaskStatusAction;

export type Proposal = {
  /** Unique; the proposer finds its outcome by it. */
  id: string;
  atMs: UnixMs;
  /** `all`: one refusal refuses the whole proposal. `each`: refused actions are dropped (planners). */
  mode: "all" | "each";
  actions: StoreAction[];
};

export type Outcome =
  | {
      type: "applied";
      index: RaftIndex /** Refused actions in mode `each`. */;
      droppedCount: number;
    }
  | {
      type: "refused";
      index: RaftIndex;
      code: ErrorCode;
      message: string;
      details?: Record<string, unknown>;
    };

/** One item of the change feed. `object` is the state after (before, for a removal). */
export type Change = {
  [T in TableName]: {
    index: RaftIndex;
    kind: "create" | "update" | "remove";
    table: T;
    id: string;
    object: Tables[T];
  };
}[TableName];
