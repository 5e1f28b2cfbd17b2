import type { NetworkId, NodeId } from "../ids.ts";
import type { ObjectMeta } from "./object-meta.ts";

/**
 * A container that a user has put on an overlay network by hand (`docker run --network`), on one node.
 * It holds its address until the node says that no container has it any more. On a network of a local
 * driver one stands for all containers of the node, which keeps the network there.
 */
export type Attachment = ObjectMeta & {
  nodeId: NodeId;
  networkId: NetworkId;
  /** Without prefix length; empty on a network of a local driver, where the engine gives it. */
  address: string;
  /** On a network with IPv6. */
  address6?: string;
  /** The container's; other containers on the network find it by this name and by its aliases. */
  name: string;
  aliases: string[];
};
