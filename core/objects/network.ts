import type { Labels, ObjectMeta } from "./object-meta.ts";

/** NetworkSpec: the body of POST /networks/create, normalised. */
export type NetworkSpec = {
  Name: string;
  Labels: Labels;
  /** `overlay`, or `host` / `bridge` / `null` for the node-local predefined networks. */
  Driver: string;
  Options: Record<string, string>;
  Internal: boolean;
  Attachable: boolean;
  Ingress: boolean;
  EnableIPv6: boolean;
  IPAM: { Driver: string; Config: { Subnet?: string; Gateway?: string; IPRange?: string }[] };
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
