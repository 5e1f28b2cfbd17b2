/** What the HTTP faces need of the node; `agent/node.ts` provides it, tests fake it. */
import type { NodeAvailability } from "../../core/objects/node.ts";
import type { ClusterSpec } from "../../core/objects/cluster.ts";
import type { RaftIndex, UnixMs } from "../../core/ids.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { Random } from "../../core/random.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { NetReport, RpcMethods } from "../../net/rpc/methods.ts";
import type { CertificateStatus } from "../certificate.ts";
import type { LogPorts } from "../logs/collect.ts";
import type { Vault } from "../vault.ts";
import type { ClusterEvents } from "./cluster-events.ts";
import type { SpecVersions } from "./spec-versions.ts";

export type LocalNode = {
  /** As Docker's LocalNodeState. */
  state: "inactive" | "pending" | "active" | "error" | "locked";
  error?: string;
  nodeId?: string;
  clusterId?: string;
  /** Advertised address without port. */
  nodeAddr?: string;
  isManager: boolean;
  managers: { nodeId: string; addr: string }[];
  /** Managers: for so long no leader has been known. Absent while one is, or only just lost. */
  leaderLostMs?: number;
  /** Managers: the file system of the data directory. */
  disk?: { state: "ok" | "low" | "critical"; freeBytes: number };
  /** While the node has one. */
  certificate?: CertificateStatus;
};

/** InitRequest of POST /swarm/init, in Docker's shape. */
export type InitRequest = {
  ListenAddr?: string;
  AdvertiseAddr?: string;
  DataPathAddr?: string;
  DataPathPort?: number;
  ForceNewCluster?: boolean;
  Spec?: Partial<ClusterSpec>;
  AutoLockManagers?: boolean;
  Availability?: NodeAvailability;
  DefaultAddrPool?: string[];
  SubnetSize?: number;
};

/** POST /shoal/v1/restore; the addresses are as those of `docker swarm init`. */
export type RestoreRequest = {
  /** A backup file that is not encrypted. */
  backup: Uint8Array;
  ListenAddr?: string;
  AdvertiseAddr?: string;
  DataPathAddr?: string;
  Availability?: NodeAvailability;
};
export type RestoreResult = {
  nodeId: string;
  clusterId: string;
  /** What the backup held besides. */
  services: number;
  workers: number;
  formerManagers: number;
};

export type JoinRequest = {
  ListenAddr?: string;
  AdvertiseAddr?: string;
  DataPathAddr?: string;
  RemoteAddrs: string[];
  JoinToken: string;
  Availability?: NodeAvailability;
};

export type ApiPorts = {
  engineSocket: string;
  /** shoal's version, for /version and /info. */
  version: string;
  localNode(): LocalNode;
  /**
   * Runs `read` over a linearizable view (ReadIndex barrier first); without a leader over what is
   * applied here, when the request may be answered so (stale.ts).
   * @throws {ClusterError} unavailable with Docker's texts when this node is no manager or there is no leader.
   */
  read<T>(read: (view: ClusterView) => T): Promise<T>;
  /**
   * Proposes all actions as one, forwarded to the leader when another node leads; resolves when
   * applied on this node.
   * @throws {ClusterError} the refusal's code and message; no-quorum, deadline (outcome unknown).
   */
  propose(actions: StoreAction[]): Promise<{ index: RaftIndex }>;
  /** As the leader sees it, for ManagerStatus. */
  clusterStatus(): Promise<RaftStatus>;
  /** Resolves with the node id. */
  init(request: InitRequest): Promise<string>;
  join(request: JoinRequest): Promise<void>;
  leave(options: { force: boolean }): Promise<void>;
  /**
   * Goes on with the start of a manager that is locked; resolves when it manages.
   * @throws {ClusterError} unauthenticated for another key, name-conflict when it is not locked.
   */
  unlock(unlockKey: Uint8Array): Promise<void>;
  /** An address on an overlay network for a user's container here. @throws {ClusterError} as agent/attachments.ts */
  attach(request: RpcMethods["attach"]["params"]): Promise<RpcMethods["attach"]["result"]>;
  /** Whether a container was made with the address of that id. */
  attached(id: string, isMade: boolean): void;
  /**
   * All nodes look at their network, or the named one; without a leader, and on a worker, this node alone.
   * @throws {ClusterError} unavailable outside of a cluster; not-found for a node that is not there.
   */
  netDoctor(request: { node?: string }): Promise<NetReport>;
  /** The bytes of a backup file, not encrypted. @throws {ClusterError} as read. */
  backup(): Promise<Uint8Array>;
  /**
   * Makes this node the only manager of the backup's cluster.
   * @throws {ClusterError} unavailable when it is in a cluster; as backup.ts and init. Nothing is made then.
   */
  restore(request: RestoreRequest): Promise<RestoreResult>;
  /** What a log collection needs (agent/logs). */
  logs: LogPorts;
  /** Begins to replace the key by which secrets are sealed (agent/data-keys.ts). @throws {ClusterError} as propose. */
  rotateDataKey(): Promise<void>;
  /**
   * Has a certificate signed for this manager, and throws it away.
   * @throws {ClusterError} unavailable saying why none of these external CAs signs by that root.
   */
  proveExternalCa(urls: readonly string[], rootPem: string): Promise<void>;
  /** Seals what is not to lie anywhere in clear (agent/vault.ts); without keys on a node that is no manager. */
  vault: Vault;
  /** Empty on a node that is no manager. */
  clusterEvents: ClusterEvents;
  specVersions: SpecVersions;
  /** Prometheus text; needs no quorum (agent/metrics.ts). */
  metrics(): Promise<string>;
  /** A handler failed in a way that nobody foresaw: the caller gets a 500, the log the cause. */
  reportBug(where: string, error: unknown): void;
  nowMs(): UnixMs;
  random: Random;
};
