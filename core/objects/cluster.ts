import type { Labels, Nanoseconds, ObjectMeta } from "./object-meta.ts";
import type { LogDriver } from "./task.ts";

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
  CAConfig: { NodeCertExpiry: Nanoseconds; ForceRotate?: number; ExternalCAs?: unknown[] };
  /** For tasks made from then on. */
  TaskDefaults: { LogDriver?: LogDriver };
  EncryptionConfig: { AutoLockManagers: boolean };
};

/** Source of the steps: core/ca/root-rotation.ts. */
export type CaRotation = {
  certificatePem: string;
  keyPem: string;
  /** As nodes name their issuer: base64 of the key's SPKI. */
  issuerPublicKey: string;
  /** They hold the digest of this root. */
  joinTokens: Cluster["joinTokens"];
  /** All nodes trust it, so it signs. */
  isSigning: boolean;
};

/**
 * The one cluster object. Its id is the cluster id (O of every certificate). Keys of roots, tokens and the
 * unlock key are sealed outside of core/, which only passes them along (agent/cluster-secrets.ts).
 */
export type Cluster = ObjectMeta & {
  spec: ClusterSpec;
  rootCa: { certificatePem: string; keyPem: string };
  /** While another root takes the place of rootCa. */
  caRotation?: CaRotation;
  /** Complete tokens, `SWMTKN-1-<digest>-<secret>`. */
  joinTokens: { worker: string; manager: string };
  /** `SWMKEY-1-…`, while spec.EncryptionConfig.AutoLockManagers: opens managers that start. */
  unlockKey?: string;
  /** CIDRs from which overlay subnets are cut. */
  addressPools: string[];
  subnetSize: number;
  /** CIDR from which each node gets one /32 mesh address; never overlaps a subnet. */
  meshPool: string;
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
