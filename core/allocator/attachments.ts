/**
 * Addresses of the containers that users put on overlay networks themselves: one is taken when its
 * node asks (`planAttachment`, on the leader), and given back when its node says that no container has
 * it any more, or when the node is gone (`planDetachment`).
 */
import { encryptionLack } from "../encryption/mesh-keys.ts";
import { ClusterError } from "../errors.ts";
import { newId, type NodeId } from "../ids.ts";
import { isEncrypted, isNodeLocal, type Network } from "../objects/network.ts";
import type { Plan, PlanInput } from "../plan.ts";
import type { Random } from "../random.ts";
import type { Draft } from "../store/action.ts";
import type { ClusterView } from "../store/view.ts";
import { address6Part } from "./address6.ts";
import { explainExhaustion, openAddressPools, takeAddress, takeGivenAddress } from "./ipam.ts";
import { keepAddresses } from "./slot-addresses.ts";

/** Of one node: more are a loop that creates containers. */
export const ATTACHMENTS_PER_NODE_MAX = 1_000;

export type AttachmentRequest = {
  nodeId: NodeId;
  /** Name or id. */
  network: string;
  name: string;
  aliases: string[];
  /** The one that the user wants. @default the next free one */
  address?: string;
};

/**
 * The network and the attachment to create; two at one time may choose the same address, which apply
 * refuses to the second (failed-precondition). On a network of a local driver one stands for all
 * containers of the node: then `object` may be one that is there already (`isNew` false).
 * @throws {ClusterError} not-found for an unknown network; forbidden for one that is not attachable;
 * failed-precondition when it has no address left, or not the wanted one; invalid-argument for an
 * address that it cannot have; busy for a node that has too many.
 */
export function planAttachment(
  view: ClusterView,
  request: AttachmentRequest,
  random: Random,
): { network: Network; object: Draft<"attachment">; isNew: boolean } {
  const network = view.network(request.network) ?? view.networkByName(request.network);
  if (!network || network.predefined) {
    throw new ClusterError("not-found", `network ${request.network} not found`);
  }
  const { spec } = network;
  if (!spec.Attachable) {
    throw new ClusterError(
      "forbidden",
      // Docker's words, and what to do.
      `Could not attach to network ${spec.Name}: network ${spec.Name} not manually attachable: create it with --attachable`,
    );
  }
  const node = view.node(request.nodeId);
  const lack = node && isEncrypted(network) ? encryptionLack(node) : undefined;
  if (lack !== undefined) {
    throw new ClusterError(
      "failed-precondition",
      `Could not attach to network ${spec.Name}: it is encrypted, and this node cannot encrypt (${lack})`,
    );
  }
  const held = view.attachments().filter(({ nodeId }) => nodeId === request.nodeId).length;
  if (held >= ATTACHMENTS_PER_NODE_MAX) {
    throw new ClusterError(
      "busy",
      `Cannot attach to network ${spec.Name}: containers of this node hold ${held} addresses already, ${ATTACHMENTS_PER_NODE_MAX} are possible; remove containers`,
    );
  }
  const { nodeId, name, aliases } = request;
  if (isNodeLocal(network)) {
    const known = view
      .attachments()
      .find((other) => other.nodeId === nodeId && other.networkId === network.id);
    const fresh = { id: newId(random), nodeId, networkId: network.id, address: "", name, aliases };
    return { network, object: known ?? fresh, isNew: known === undefined };
  }
  const pools = openAddressPools(view);
  keepAddresses(view, pools);
  const pool = pools.get(network.id);
  const wanted = request.address;
  const address =
    pool && (wanted === undefined ? takeAddress(pool) : takeGivenAddress(pool, wanted));
  if (!pool || address === undefined) {
    const why = pool
      ? explainExhaustion(pool)
      : `network "${spec.Name}" has no subnet: remove it and create it again`;
    throw new ClusterError("failed-precondition", why);
  }
  const object = {
    id: newId(random),
    nodeId,
    networkId: network.id,
    address,
    ...address6Part(network, address),
    name,
    aliases,
  };
  return { network, object, isNew: true };
}

/** Takes back what containers of nodes hold that are no longer in the cluster. */
export function planDetachment({ view }: PlanInput): Plan {
  const actions = view
    .attachments()
    .filter(({ nodeId }) => !view.node(nodeId))
    .map(
      ({ id, version }) =>
        ({ type: "remove", table: "attachment", id, ifVersion: version }) as const,
    );
  return { actions, reasons: [] };
}
