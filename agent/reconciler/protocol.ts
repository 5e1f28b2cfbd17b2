/** Messages between main and the reconciler worker: tasks → containers on this node. */
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import type { NodeDescription } from "../../core/objects/node.ts";
import type { TaskStatus } from "../../core/objects/task.ts";

export type ReconcilerInput =
  /** First message. Answer `{ type: "ready" }` (also when the engine is not reachable yet: it is retried). */
  | { type: "init"; engineSocket: string /** Directory of node.db. */; dir: string }
  /**
   * The node's wanted set (kinds settings, task, network, secret, config, and endpoints of users'
   * containers; others are ignored). `complete` replaces all; else put and removed keys. Kept in node.db,
   * and acted on from there after a restart, before any manager is reached. Notification.
   */
  | { type: "assignments"; isComplete: boolean; put: AssignmentItem[]; removed: string[] }
  /** Answer `{ type: "description", … }`: what the engine and machine are. Error: docker. */
  | { type: "describe" }
  /** Every status reported so far again (after a new session). Notification. */
  | { type: "report-all" }
  /** Remove every task container and network made by shoal, forget the assignments (leave). Answer done. */
  | { type: "wipe" }
  /** Answer done; containers go on. */
  | { type: "stop" };

export type ReconcilerAnswer =
  | { type: "ready" }
  | { type: "description"; description: NodeDescription }
  | { type: "done" };

export type ReconcilerOutput =
  /** Batched ≤ 100 ms. Main forwards them to the leader; kept until acknowledged by main's session. */
  | { type: "statuses"; statuses: { taskId: string; status: TaskStatus }[] }
  /** Overlay networks that exist in the engine here now (bridge device up); the mesh binds DNS and sysctls. */
  | { type: "networks-present"; networkIds: string[] }
  /** The engine refuses to make or to drop a network; it is tried again. For the log. */
  | { type: "network-failed"; networkId: string; message: string }
  /** A container of whoever was removed, or has left a network. */
  | { type: "container-gone" }
  /** The description changed (engine restarted with another version, labels). */
  | { type: "description-changed"; description: NodeDescription };
