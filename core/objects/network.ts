import type { Labels, ObjectMeta } from "./object-meta.ts";

/** NetworkSpec: the body of POST /networks/create, normalised. */
export type NetworkSpec = {
  Name: string;
  Labels: Labels;
  /**
   * `overlay`; `host`, `bridge` or `null` of the predefined networks; or another driver of the engines'
   * (macvlan, ipvlan, bridge, a plugin), of which each node makes a network of its own (`isNodeLocal`).
   */
  Driver: string;
  Options: Record<string, string>;
  Internal: boolean;
  Attachable: boolean;
  Ingress: boolean;
  EnableIPv6: boolean;
  IPAM: { Driver: string; Config: { Subnet?: string; Gateway?: string; IPRange?: string }[] };
  /** Networks of local drivers: name of the config-only network on each node that says the rest. */
  ConfigFrom?: string;
};

export type Network = ObjectMeta & {
  spec: NetworkSpec;
  /** Chosen when created (proposer picks, apply refuses overlaps). Overlay networks only. */
  subnet?: string;
  gateway?: string;
  /** The same for IPv6, on networks with `EnableIPv6`; canonical text (RFC 5952). */
  subnet6?: string;
  gateway6?: string;
  /** Counted from 4096; shown as vxlanid_list. Unused by the datapath, which routes by address. */
  vni?: number;
  /** Node-local predefined network (`host`, `bridge`, `none`): no addresses, no VIPs. */
  predefined?: boolean;
};

/** True for networks that the mesh carries from node to node: they have the cluster's addresses. */
export function isOverlay(network: Network): boolean {
  return !network.predefined && network.spec.Driver === "overlay";
}

/**
 * True for a network of the cluster that each node makes with a driver of its engine (macvlan, ipvlan,
 * bridge) when a task is there: the engine gives addresses, and there are no virtual IPs.
 */
export function isNodeLocal(network: Network): boolean {
  return !network.predefined && network.spec.Driver !== "overlay";
}

/** Driver option of an overlay network. */
export const ENCRYPTED_OPTION = "encrypted";

/** Traffic of this network between nodes is encrypted. Source: libnetwork's overlay driver; any value counts. */
export function isEncrypted(network: Pick<Network, "spec">): boolean {
  return network.spec.Driver === "overlay" && ENCRYPTED_OPTION in network.spec.Options;
}
