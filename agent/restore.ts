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
import { join } from "node:path";
import { chooseMeshAddress, chooseNodeIndex } from "../core/allocator/node-index.ts";
import { trustedRoots } from "../core/ca/root-rotation.ts";
import { ClusterError } from "../core/errors.ts";
import { newId, type NodeId, type RaftIndex, type UnixMs } from "../core/ids.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import type { NodeAvailability, NodeObject } from "../core/objects/node.ts";
import { configurationOf } from "../core/raft/configuration.ts";
import { openSqliteLog } from "../core/raft/sqlite-log.ts";
import type { Random } from "../core/random.ts";
import { createRowSealer } from "../core/sqlite-seal.ts";
import { createMemoryRows } from "../core/store/memory-rows.ts";
import { bodiesOf, decodeSnapshot, encodeSnapshot } from "../core/store/sqlite-snapshot.ts";
import { sealedRows } from "../core/store/sqlite-row-form.ts";
import { openStateStore } from "../core/store/sqlite-store.ts";
import { createKeyAndCsr } from "../net/pki/issue.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { NodeAddresses } from "./address.ts";
import type { Backup } from "./backup.ts";
import { createCertificateSigner } from "./certificate-signer.ts";
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
  rows.put("cluster", withKnownKeys(cluster, input.backup));
  const nodes = rows.nodes();
  const managers = nodes.filter((node) => node.role === "manager" || node.spec.Role === "manager");
  for (const node of managers) rows.put("node", demoted(node, index, nowMs));

  const nodeId = newId(random);
  const { keyPem, csrPem } = await createKeyAndCsr();
  const { dataKeys } = input.backup;
  const keys = { open: (context: string, text: string) => openByKeys(dataKeys, context, text) };
  // An external CA is asked without a certificate: there is none yet.
  const sign = createCertificateSigner({ vault: keys, nowMs: () => nowMs });
  const certificatePem = await sign(cluster, { csrPem, nodeId, role: "manager" });
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

/** A rotation of the data key that the backup does not have the key of is over, for nobody else has it either. */
function withKnownKeys({ dataKeys, ...cluster }: Cluster, backup: Backup): Cluster {
  const isKnown = (id: string | undefined) => backup.dataKeys.some((key) => key.id === id);
  if (!dataKeys) return cluster;
  const { sealingId, nextId } = dataKeys;
  return {
    ...cluster,
    dataKeys: {
      ...(sealingId !== undefined && isKnown(sealingId) ? { sealingId } : {}),
      ...(nextId !== undefined && isKnown(nextId) ? { nextId } : {}),
    },
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

/**
 * raft.db of a cluster's only manager whose log is lost, from its state.db: what was applied to that is what is left.
 * @throws {ClusterError} failed-precondition when it holds no cluster; what is wrong with it.
 */
export function writeLogFromState(
  dataDir: string,
  me: { nodeId: NodeId; addr: string },
  storageKey: Uint8Array,
): RaftIndex {
  const form = sealedRows(createRowSealer(storageKey));
  const store = openStateStore(join(dataDir, "state/state.db"), undefined, form);
  let data: Uint8Array;
  try {
    ({ data } = store.snapshot());
  } finally {
    store.close();
  }
  const { index, rows } = decodeSnapshot(data);
  if (!rows.some(({ table }) => table === "cluster")) {
    throw new ClusterError("failed-precondition", "its state.db holds no cluster");
  }
  // Above whatever the lost part of the log had given out.
  const next = index + INDEX_GAP;
  const bodies = rows.map(({ table, object }) => ({ table, body: JSON.stringify(object) }));
  const snapshot = encodeSnapshot(next, bodies);
  writeRestoredLog(
    join(dataDir, "raft"),
    me.addr,
    { nodeId: me.nodeId, index: next, snapshot },
    storageKey,
  );
  return index;
}

/** Writes raft.db of the restored cluster's only member. What was in `raftDir` is removed. */
export function writeRestoredLog(
  raftDir: string,
  addr: string,
  restored: Pick<Restored, "nodeId" | "index" | "snapshot">,
  storageKey?: Uint8Array,
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
    ...(storageKey ? { sealer: createRowSealer(storageKey) } : {}),
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
