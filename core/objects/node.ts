import type { Labels, ObjectMeta } from "./object-meta.ts";

export type NodeRole = "worker" | "manager";
export type NodeAvailability = "active" | "pause" | "drain";
/** `unknown`: after a change of leader, until the node's first heartbeat or the grace time's end. */
export type NodeState = "unknown" | "down" | "ready" | "disconnected";

/** NodeSpec in the Docker API's shape. `Role` is the wish; `NodeObject.role` what is so. */
export type NodeSpec = {
  Name?: string;
  Labels: Labels;
  Role: NodeRole;
  Availability: NodeAvailability;
};

/** NodeDescription in the Docker API's shape, reported by the node itself. */
export type NodeDescription = {
  Hostname: string;
  Platform: { Architecture: string; OS: string };
  Resources: { NanoCPUs: number; MemoryBytes: number; GenericResources?: unknown[] };
  Engine: {
    EngineVersion: string;
    Labels?: Labels;
    Plugins?: { Type: string; Name: string }[];
  };
  TLSInfo?: { TrustRoot: string; CertIssuerSubject: string; CertIssuerPublicKey: string };
  /** By which it speaks in IPv6; the Docker API does not have it. Absent for none. */
  addresses6?: string[];
  /** Kinds of objects that its version knows beside those of the first one (KNOWN_KINDS); not in the Docker API. */
  knows?: string[];
};
/** One of a kind that some manager does not know must not be proposed: that one would refuse it, the others not. */
export const KNOWN_KINDS = ["stack"] as const;
/** Of one node; more are not told. */
export const ADDRESSES6_MAX = 16;

/** What a node says of encrypted networks. Source: net/mesh/DESIGN.md. */
export type NodeEncryption = {
  /** Why it cannot encrypt, with what to do; absent when it can. */
  lack?: string;
  /** Random numbers that its sending keys are made of, the newest last; others receive by all of them. */
  generations: string[];
  /** Keys of the cluster by which it can receive. */
  keyIds: string[];
};

export type NodeObject = ObjectMeta & {
  spec: NodeSpec;
  /** Absent until the node's first session. */
  description?: NodeDescription;
  status: {
    state: NodeState;
    message: string /** Address seen on its session, no port. */;
    addr: string;
  };
  /** The role that the CA certifies; follows `spec.Role` (promotion, demotion). */
  role: NodeRole;
  /** Where peers reach this manager's RPC, `host:port`. Present while it is a raft member. */
  managerAddr?: string;
  /** Managers: the data key that is to seal next, once it is on this one's disk (cluster.dataKeys.nextId). */
  dataKeyId?: string;
  /** 1..4095: marks and return routes of the mesh are made of it. Unique, not reused soon. */
  index: number;
  /** The node's /32 in the mesh pool, no prefix length. */
  meshAddress: string;
  /** Underlay IPv4 address that carries VXLAN. */
  dataPathAddr: string;
  /** Absent until it has said so (and of nodes of an older shoal, which cannot encrypt). */
  encryption?: NodeEncryption;
};
