/** What the HTTP faces need of the node; `agent/node.ts` provides it, tests fake it. */
import type { NodeAvailability } from "../../core/objects/node.ts";
import type { ClusterSpec } from "../../core/objects/cluster.ts";
import type { RaftIndex, UnixMs } from "../../core/ids.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { Random } from "../../core/random.ts";
import type { StoreAction } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";

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
   * Runs `read` over a linearizable view (ReadIndex barrier first).
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
  nowMs(): UnixMs;
  random: Random;
};
