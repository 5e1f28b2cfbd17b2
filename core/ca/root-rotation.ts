/**
 * A new root CA takes the place of the old one without a moment in which two nodes do not believe each
 * other. The steps follow from what the nodes themselves say of their certificates (TLSInfo):
 *
 * 1. All nodes are told to trust both roots; the old one still signs.
 * 2. Once every node trusts both, the new one signs, and all renew again.
 * 3. Once every manager shows a certificate of the new root, the join tokens change to its digest: a
 *    joining node looks for that root behind the manager's certificate.
 * 4. Once every node's certificate is of the new root, the old one is dropped, and nobody trusts it any more.
 *
 * Another rotation takes the place of one under way (as in stock): it begins with 1, and what the first one has
 * made trusted stays so until the end. Nothing but 2 needs a signature: a CA that is gone can be rotated away.
 *
 * A node that is down holds the rotation up, for it would be shut out; it goes on when the node returns
 * or is removed. Stock Swarm signs the new root by the old one instead; two trusted roots need no chains.
 */
import type { CaRotation, Cluster } from "../objects/cluster.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Plan, PlanInput } from "../plan.ts";
import type { StoreAction } from "../store/action.ts";

/** What every node believes, in PEM: one root, or all that are in use while they change. */
export function trustedRoots(cluster: Cluster): string {
  const { rootCa, caRotation } = cluster;
  if (!caRotation) return rootCa.certificatePem;
  const { certificatePem, replacedPem = "" } = caRotation;
  const isBack = certificatePem === rootCa.certificatePem;
  return rootCa.certificatePem + replacedPem + (isBack ? "" : certificatePem);
}

/** The root that signs now. */
export function signingCa(cluster: Cluster): Cluster["rootCa"] {
  const { rootCa, caRotation } = cluster;
  if (!caRotation?.isSigning) return rootCa;
  return { certificatePem: caRotation.certificatePem, keyPem: caRotation.keyPem };
}

/** Nodes that the rotation waits for in its present step. */
export function lateNodes(rotation: CaRotation, nodes: readonly NodeObject[]): NodeObject[] {
  const isThere = rotation.isSigning ? isIssued : isTrusting;
  return nodes.filter((node) => !hasLeft(node) && !isThere(rotation, node));
}

/** The next step of a rotation under way, once all nodes have followed the last. */
export function planRootRotation({ view }: PlanInput): Plan {
  const cluster = view.cluster();
  const rotation = cluster?.caRotation;
  if (!cluster || !rotation) return { actions: [], reasons: [] };
  const { id, version } = cluster;
  const late = lateNodes(rotation, view.nodes());
  const base = { type: "update", table: "cluster", id, ifVersion: version } as const;
  const actions: StoreAction[] = [];
  if (!rotation.isSigning) {
    if (late.length === 0) {
      actions.push({ ...base, set: { caRotation: { ...rotation, isSigning: true } } });
    }
  } else if (cluster.joinTokens.worker !== rotation.joinTokens.worker) {
    if (late.every((node) => node.role !== "manager")) {
      actions.push({ ...base, set: { joinTokens: rotation.joinTokens } });
    }
  } else if (late.length === 0) {
    const { certificatePem, keyPem } = rotation;
    actions.push({ ...base, set: { rootCa: { certificatePem, keyPem } }, unset: ["caRotation"] });
  }
  return { actions, reasons: [] };
}

const isTrusting = (rotation: CaRotation, node: NodeObject) =>
  node.description?.TLSInfo?.TrustRoot.includes(rotation.certificatePem.trim()) === true;

const isIssued = (rotation: CaRotation, node: NodeObject) =>
  node.description?.TLSInfo?.CertIssuerPublicKey === rotation.issuerPublicKey;

/** It has no certificate any more, only its entry in the list is left. */
const hasLeft = ({ status }: NodeObject) =>
  status.state === "down" && status.message === NODE_LEFT_MESSAGE;

/** Source: SwarmKit, the status of a node after `docker swarm leave`. */
export const NODE_LEFT_MESSAGE = "node left the swarm";
