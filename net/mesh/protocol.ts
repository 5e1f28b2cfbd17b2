/** Messages between main and the mesh worker: endpoint table → kernel and DNS on this node. */
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import type { NodeEncryption } from "../../core/objects/node.ts";
import type { BackendName } from "./backend.ts";
import type { MeshStatus, NamedConnectionCount } from "./mesh.ts";

export type MeshInput =
  /**
   * First message; its port leads to the DNS thread. Answer `{ type: "ready", backend }`. Probes the
   * kernel; error unavailable says what is missing.
   */
  | {
      type: "init" /** Directory for the last known table. */;
      dir: string;
      backend: "auto" | BackendName;
      engineSocket: string;
    }
  /** Kinds settings, peer, network, service, endpoint; others are ignored. As ReconcilerInput. Notification. */
  | {
      type: "assignments";
      isComplete: boolean;
      put: AssignmentItem[];
      removed: string[];
      /** Counts up; answered by `applied` once this node balances by it. */
      mark?: number;
    }
  /** From the reconciler: overlay networks that exist in the engine on this node. Notification. */
  | { type: "networks-present"; networkIds: string[] }
  /**
   * Another back-end takes over while traffic goes on. Answer ready, with the one that works then;
   * error unavailable, and nothing changed, when the kernel lacks something.
   */
  | { type: "switch"; backend: "auto" | BackendName }
  /** Answer `{ type: "status", … }`. */
  | { type: "status" }
  /** Answer `{ type: "connections", … }`; error unavailable when the kernel cannot be read. */
  | { type: "connections" }
  /** Remove every kernel object made by shoal (leave, uninstall). Answer done. */
  | { type: "wipe" }
  /** Answer done; the kernel state stays. */
  | { type: "stop" };

export type MeshAnswer =
  | { type: "ready"; backend: string }
  | ({ type: "status" } & MeshStatus)
  | { type: "connections"; counts: NamedConnectionCount[] }
  | { type: "done" };

export type MeshOutput =
  /** What came up to the assignments of this mark is in the kernel and in DNS. */
  | { type: "applied"; mark: number }
  /** Drift was found and mended: what it was. */
  | { type: "repaired"; what: string[] }
  /** At the start and at each change: what the managers are to know of this node. */
  | { type: "encryption"; encryption: NodeEncryption }
  | { type: "apply-failed"; message: string };
