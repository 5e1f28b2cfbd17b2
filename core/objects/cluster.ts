import type { UnixMs } from "../ids.ts";
import type { Labels, Nanoseconds, ObjectMeta } from "./object-meta.ts";
import type { LogDriver } from "./task.ts";

/** Source: Docker Engine API, definition SwarmSpec, CAConfig.ExternalCAs. */
export type ExternalCa = {
  Protocol: "cfssl";
  URL: string;
  Options?: Record<string, string>;
  /** The root by which it signs; empty: the present one. */
  CACert: string;
};

/** SwarmSpec in the Docker API's shape. Source: Docker Engine API, definition SwarmSpec. */
export type ClusterSpec = {
  Name: string;
  Labels: Labels;
  Orchestration: { TaskHistoryRetentionLimit: number };
  Raft: {
    SnapshotInterval: number;
    KeepOldSnapshots: number;
    LogEntriesForSlowFollowers: number;
    ElectionTick: number;
    HeartbeatTick: number;
  };
  Dispatcher: { HeartbeatPeriod: Nanoseconds };
  CAConfig: { NodeCertExpiry: Nanoseconds; ForceRotate?: number; ExternalCAs?: ExternalCa[] };
  /** For tasks made from then on. */
  TaskDefaults: { LogDriver?: LogDriver };
  EncryptionConfig: { AutoLockManagers: boolean };
};

/** Source of the steps: core/ca/root-rotation.ts. */
export type CaRotation = {
  certificatePem: string;
  /** Empty: an external CA signs. */
  keyPem: string;
  /** Roots of rotations that this one has taken the place of: nodes may still have certificates of theirs. */
  replacedPem?: string;
  /** As nodes name their issuer: base64 of the key's SPKI. */
  issuerPublicKey: string;
  /** They hold the digest of this root. */
  joinTokens: Cluster["joinTokens"];
  /** All nodes trust it, so it signs. */
  isSigning: boolean;
};

/** Of encrypted networks. Source of the steps: core/encryption/mesh-keys.ts. */
export type MeshKey = {
  id: string;
  /** Base64 of 32 bytes; sealed outside of core/. */
  secret: string;
  createdAtMs: UnixMs;
};

/**
 * The one cluster object. Its id is the cluster id (O of every certificate). Keys of roots, tokens and the
 * unlock key are sealed outside of core/, which only passes them along (agent/cluster-secrets.ts).
 */
export type Cluster = ObjectMeta & {
  spec: ClusterSpec;
  /** Without key (empty) the cluster's certificates are signed by an external CA alone. */
  rootCa: { certificatePem: string; keyPem: string };
  /** While another root takes the place of rootCa. */
  caRotation?: CaRotation;
  /** Complete tokens, `SWMTKN-1-<digest>-<secret>`. */
  joinTokens: { worker: string; manager: string };
  /** `SWMKEY-1-…`, while spec.EncryptionConfig.AutoLockManagers: opens managers that start. */
  unlockKey?: string;
  /** Which of the managers' data keys seals; absent: their newest. Source: agent/data-keys.ts. */
  dataKeys?: { sealingId?: string; nextId?: string };
  /** CIDRs from which overlay subnets are cut. */
  addressPools: string[];
  subnetSize: number;
  /** CIDR from which each node gets one /32 mesh address; never overlaps a subnet. */
  meshPool: string;
  /** While there is an encrypted network; the newest last. */
  meshKeys?: MeshKey[];
  dataPathPort: number;
};

/**
 * A node is declared down when no heartbeat came for HEARTBEAT_MISSED_MAX periods. With the default
 * period of 1 s that is 4 s, within the 5 s promised on a LAN (stock Swarm: 5 s × 3).
 */
export const HEARTBEAT_MISSED_MAX = 4;

/** Defaults as stock Swarm's, but for the heartbeat period (1 s instead of 5 s). */
export function defaultClusterSpec(): ClusterSpec {
  return {
    Name: "default",
    Labels: {},
    Orchestration: { TaskHistoryRetentionLimit: 5 },
    Raft: {
      SnapshotInterval: 10_000,
      KeepOldSnapshots: 0,
      LogEntriesForSlowFollowers: 500,
      ElectionTick: 10,
      HeartbeatTick: 1,
    },
    Dispatcher: { HeartbeatPeriod: 1_000_000_000 },
    CAConfig: { NodeCertExpiry: 7_776_000_000_000_000 },
    TaskDefaults: {},
    EncryptionConfig: { AutoLockManagers: false },
  };
}
