/**
 * The keys of encrypted networks: there is one while there is such a network, and another one takes its
 * place every 12 hours without a lost packet. The order follows from what nodes say of themselves
 * (NodeObject.encryption) and needs no phases:
 *
 * 1. A new key is told to all nodes beside the old one. Each node makes ready to receive by it, then says
 *    so (`keyIds`).
 * 2. A sender uses, towards each node, the newest key by which that node says it can receive
 *    (net/mesh/encryption-plan.ts). A node that the managers do not reach goes on with the old one.
 * 3. The old key is dropped once every node that encrypts has said the new one and an hour has passed (the
 *    senders have long changed); at the latest when the next one is made.
 *
 * Pure: this decides when; the agent of the leader makes the secret bytes and seals them
 * (agent/mesh-keys.ts). A node that is cut off from the managers for more than the life of a key cannot
 * reach the others on encrypted networks until it is back.
 */
import { NODE_LEFT_MESSAGE } from "../ca/root-rotation.ts";
import type { UnixMs } from "../ids.ts";
import type { MeshKey } from "../objects/cluster.ts";
import { isEncrypted } from "../objects/network.ts";
import type { NodeObject } from "../objects/node.ts";
import type { ClusterView } from "../store/view.ts";

/** Source: SwarmKit manager/keymanager, DefaultKeyRotationInterval. */
export const MESH_KEY_LIFETIME_MS = 12 * 3_600_000;
/** How long an old key is kept at least once nobody should send by it. */
export const MESH_KEY_OVERLAP_MS = 3_600_000;

export type MeshKeysStep = {
  /** Those to keep. */
  kept: MeshKey[];
  /** A new one is to be added behind them. */
  isNewWanted: boolean;
  /** False: all is as it should be. */
  isDue: boolean;
};

/** What the keys of the cluster should be now. Asked again after the step was made, it is not due. */
export function planMeshKeys(
  view: Pick<ClusterView, "cluster" | "networks" | "nodes">,
  nowMs: UnixMs,
): MeshKeysStep {
  const keys = view.cluster()?.meshKeys ?? [];
  const step = (kept: MeshKey[], isNewWanted: boolean): MeshKeysStep => ({
    kept,
    isNewWanted,
    isDue: isNewWanted || kept.length !== keys.length,
  });
  if (!view.cluster() || !view.networks().some(isEncrypted)) return step([], false);
  const newest = keys.at(-1);
  if (!newest) return step([], true);
  const ageMs = nowMs - newest.createdAtMs;
  if (ageMs >= MESH_KEY_LIFETIME_MS) return step([newest], true);
  const isTaken = view.nodes().every((node) => !mayEncrypt(node) || hasKey(node, newest.id));
  if (ageMs >= MESH_KEY_OVERLAP_MS && isTaken) return step([newest], false);
  return step(keys, false);
}

function hasKey(node: NodeObject, keyId: string): boolean {
  return node.encryption?.keyIds.includes(keyId) === true;
}

/** Down or not: it may come back and be sent to by a node that has not heard of anything. */
function mayEncrypt({ encryption, status }: NodeObject): boolean {
  const hasLeft = status.state === "down" && status.message === NODE_LEFT_MESSAGE;
  return encryption !== undefined && encryption.lack === undefined && !hasLeft;
}

/** Why a node cannot carry an encrypted network; undefined when it can. */
export function encryptionLack({ encryption }: Pick<NodeObject, "encryption">): string | undefined {
  if (!encryption) return "it has not said that it can";
  return encryption.lack;
}
