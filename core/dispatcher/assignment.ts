/**
 * What one node must have. The dispatcher computes the whole set from a view, keeps what it sent,
 * and sends the difference: first `complete`, then `incremental`, counted by `generation`. A node
 * that misses a generation opens its session again and gets a complete set.
 */
import type { NetworkId, NodeId, ServiceId, TaskId } from "../ids.ts";
import type { Balancing, PublishPolicy } from "../objects/balancing.ts";
import type { Network } from "../objects/network.ts";
import type { NodeEncryption, NodeRole } from "../objects/node.ts";
import type { Config, Secret } from "../objects/secret.ts";
import type { Task } from "../objects/task.ts";

/** Another node as the mesh needs it. The node itself is among them. */
export type Peer = {
  nodeId: NodeId;
  hostname: string;
  /** 1..4095. */
  index: number;
  /** Underlay IPv4 for VXLAN. */
  dataPathAddr: string;
  /** /32 without prefix length. */
  meshAddress: string;
  /** By which it speaks in IPv6, as far as it has told. */
  addresses6?: string[];
  /** Absent while there is no encrypted network. */
  encryption?: NodeEncryption;
};

/** A service as every node's mesh and DNS need it. */
export type ServiceEntry = {
  serviceId: ServiceId;
  name: string;
  mode: "vip" | "dnsrr";
  /** `address6` where the network has IPv6. */
  virtualIps: { networkId: NetworkId; address: string; address6?: string }[];
  /** Ingress-mode ports only. */
  ports: {
    protocol: "tcp" | "udp" | "sctp";
    targetPort: number;
    publishedPort: number;
    /** Absent: `preserve`. */
    publish?: PublishPolicy;
  }[];
  /** How new connections are spread, where not evenly over all ready tasks. */
  balancing?: Balancing;
  /** Network aliases of the service, by network. */
  aliases: { networkId: NetworkId; names: string[] }[];
};

/**
 * A task's leg on the overlay networks. Sent from ASSIGNED on (routes exist before the first packet)
 * until the task's addresses are free again.
 */
export type EndpointEntry = {
  taskId: TaskId;
  /** Empty for a user's container. */
  serviceId: ServiceId;
  /** `<service>.<slot>.<task id>`: also the container's name. */
  name: string;
  nodeId: NodeId;
  /** `address6` where the network has IPv6. */
  addresses: { networkId: NetworkId; address: string; address6?: string }[];
  /** Of users' containers: the network of a local driver that they keep on this node. */
  localNetworkId?: NetworkId;
  /**
   * Its other names: of a user's container (core/objects/attachment.ts, whose id is `taskId`), or of a
   * stateful service's task (objects/stateful.ts).
   */
  aliases?: string[];
  /** True while RUNNING (so healthy) and wanted: it gets new connections and DNS answers. */
  isReady: boolean;
};

/** Facts about the cluster and the node itself that its agent needs. */
export type NodeSettings = {
  nodeId: NodeId;
  clusterId: string;
  /** The role that the node's certificate should carry. */
  role: NodeRole;
  /** RPC addresses of the managers, `host:port`, for reconnecting. */
  managers: { nodeId: NodeId; addr: string }[];
  /** The roots to trust. */
  caCertificatePem: string;
  /** Which of them the node's certificate should be of, while they change; base64 of the key's SPKI. */
  issuerPublicKey?: string;
  heartbeatPeriodMs: number;
  dataPathPort: number;
  hostname: string;
};

/** The keys of encrypted networks, the newest last; in clear on the way to a node only. */
export const MESH_KEYS_KEY = "mesh-keys/cluster";
export type MeshKeys = { keys: { id: string; secret: string }[] };

export type AssignmentBodies = {
  settings: NodeSettings;
  task: Task;
  network: Network;
  secret: Secret;
  config: Config;
  peer: Peer;
  service: ServiceEntry;
  endpoint: EndpointEntry;
  "mesh-keys": MeshKeys;
};
export type AssignmentKind = keyof AssignmentBodies;
/** `key` is `<kind>/<id>` and unique in a node's set. */
export type AssignmentItem = {
  [K in AssignmentKind]: { key: string; kind: K; body: AssignmentBodies[K] };
}[AssignmentKind];

export type AssignmentsMessage = {
  type: "complete" | "incremental";
  /** Counts from 1 (the complete set) within a session. */
  generation: number;
  put: AssignmentItem[];
  /** Keys; always empty for `complete`. */
  removed: string[];
  /** The leader waits for the word (`assignments-applied`) that the node's tables hold this. */
  isAckWanted?: true;
};
