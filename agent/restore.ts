/**
 * From a backup to the disk of a new cluster's only manager: the same cluster id, CA, services,
 * networks, secrets and worker nodes, one new manager node, and a raft log that begins with all of
 * it as its snapshot. state.db is filled from there at the first start, as after its loss.
 *
 * 1. The restored log begins INDEX_GAP above the backup: versions that the old cluster gave out after
 *    the backup are never given out again for something else, so a client that remembers one gets
 *    "update out of sequence" and not somebody else's object. Source: etcdutl restore --bump-revision.
 * 2. The manager is a node with a new id and key. A manager of the old cluster that comes back finds no
 *    member of its id at any known address, and that its node is a worker.
 * 3. The old managers' nodes stay as workers that are down: their tasks run elsewhere, their owners
 *    remove them or find them taking part again.
 *
 * Nothing here is in force before node.json is written (node.ts).
 */
import { rmSync } from "node:fs";
import { chooseMeshAddress, chooseNodeIndex } from "../core/allocator/node-index.ts";
import { trustedRoots } from "../core/ca/root-rotation.ts";
import { ClusterError } from "../core/errors.ts";
import { newId, type NodeId, type RaftIndex, type UnixMs } from "../core/ids.ts";
import type { NodeAvailability, NodeObject } from "../core/objects/node.ts";
import { configurationOf } from "../core/raft/configuration.ts";
import { openSqliteLog } from "../core/raft/sqlite-log.ts";
import type { Random } from "../core/random.ts";
import { createMemoryRows } from "../core/store/memory-rows.ts";
import { bodiesOf, decodeSnapshot, encodeSnapshot } from "../core/store/sqlite-snapshot.ts";
import { createKeyAndCsr, issueCertificate } from "../net/pki/issue.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { NodeAddresses } from "./address.ts";
import type { Backup } from "./backup.ts";
import { openSigningCa } from "./cluster-secrets.ts";
import { openByKeys } from "./vault.ts";

/** More changes than any cluster makes between its last backup and its end. */
const INDEX_GAP = 1_000_000;
const SNAPSHOT_PIECE_BYTES = 512 * 1024;
const FIRST_TERM = 1;

export type Restored = {
  nodeId: NodeId;
  clusterId: string;
  tls: TlsIdentity;
  index: RaftIndex;
  /** The state that the new cluster begins with. */
  snapshot: Uint8Array;
  /** Nodes of the old cluster that stay: workers, and managers that are workers now. */
  workerCount: number;
  formerManagerCount: number;
};

/** @throws {ClusterError} failed-precondition when the backup holds no cluster; nothing has been made then. */
export async function restoreCluster(input: {
  backup: Backup;
  addresses: NodeAddresses;
  availability?: NodeAvailability;
  nowMs: UnixMs;
  random: Random;
}): Promise<Restored> {
  const { addresses, nowMs, random } = input;
  const decoded = decodeSnapshot(input.backup.snapshot);
  const index = decoded.index + INDEX_GAP;
  const rows = createMemoryRows();
  rows.replaceAll(decoded.rows, index);
  const cluster = rows.cluster();
  if (!cluster) {
    throw new ClusterError(
      "failed-precondition",
      "Cannot restore: the backup was made before its cluster was complete; use another one",
    );
  }
  const nodes = rows.nodes();
  const managers = nodes.filter((node) => node.role === "manager" || node.spec.Role === "manager");
  for (const node of managers) rows.put("node", demoted(node, index, nowMs));

  const nodeId = newId(random);
  const { keyPem, csrPem } = await createKeyAndCsr();
  const { dataKeys } = input.backup;
  const keys = { open: (context: string, text: string) => openByKeys(dataKeys, context, text) };
  const certificatePem = await issueCertificate({
    ca: openSigningCa(keys, cluster),
    csrPem,
    nodeId,
    role: "manager",
    clusterId: cluster.id,
    lifetimeMs: cluster.spec.CAConfig.NodeCertExpiry / 1e6,
    nowMs,
  });
  rows.put("node", {
    id: nodeId,
    version: index,
    createdAtMs: nowMs,
    updatedAtMs: nowMs,
    spec: { Labels: {}, Role: "manager", Availability: input.availability ?? "active" },
    status: { state: "unknown", message: "", addr: addresses.advertise.host },
    role: "manager",
    managerAddr: `${addresses.advertise.host}:${addresses.advertise.port}`,
    index: chooseNodeIndex(rows),
    meshAddress: chooseMeshAddress(rows),
    dataPathAddr: addresses.dataPath,
  });
  return {
    nodeId,
    clusterId: cluster.id,
    tls: { certificatePem, keyPem, caCertificatePem: trustedRoots(cluster) },
    index,
    snapshot: encodeSnapshot(index, bodiesOf(rows)),
    workerCount: nodes.length - managers.length,
    formerManagerCount: managers.length,
  };
}

function demoted(node: NodeObject, index: RaftIndex, nowMs: UnixMs): NodeObject {
  const { managerAddr: _, ...rest } = node;
  return {
    ...rest,
    version: index,
    updatedAtMs: nowMs,
    role: "worker",
    spec: { ...node.spec, Role: "worker" },
    status: { ...node.status, state: "down", message: "cluster restored from a backup" },
  };
}

/** Writes raft.db of the restored cluster's only member. What was in `raftDir` is removed. */
export function writeRestoredLog(
  raftDir: string,
  addr: string,
  restored: Pick<Restored, "nodeId" | "index" | "snapshot">,
): void {
  const { nodeId, index, snapshot } = restored;
  rmSync(raftDir, { recursive: true, force: true });
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < snapshot.length; at += SNAPSHOT_PIECE_BYTES) {
    pieces.push(snapshot.subarray(at, at + SNAPSHOT_PIECE_BYTES));
  }
  const configuration = configurationOf([{ nodeId, addr, isLearner: false, addedAtIndex: index }]);
  const base = { index, term: FIRST_TERM, configuration };
  const log = openSqliteLog({
    dir: raftDir,
    nodeId,
    begin: () => ({
      hardState: {
        term: FIRST_TERM,
        votedFor: undefined,
        commitIndex: index,
        joinedIndex: index,
      },
      snapshot: {
        meta: { ...base, pieceCount: pieces.length, sizeBytes: snapshot.length },
        pieces,
      },
      isLogCleared: true,
      base,
      entries: [],
    }),
  });
  log.close();
}
