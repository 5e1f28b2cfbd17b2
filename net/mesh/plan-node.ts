/**
 * What the plan has of the node itself and of each peer, whatever tasks there are: routing rules, the routes
 * between nodes, settings of the kernel. Pure.
 */
import type { Peer } from "../../core/dispatcher/assignment.ts";
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import {
  bridgeName,
  ENCRYPTED_DEVICE,
  ENCRYPTED_TABLE,
  encryptedProbeAddress,
  MARK_NODE_MASK,
  MESH_DEVICE,
  nodeMark,
  RETURN_TABLE,
  RULE_BRANCH_PRIORITY,
  RULE_ENCRYPTED_PRIORITY,
  RULE_GATE_PRIORITY,
  RULE_PEER_PRIORITY,
} from "./names.ts";
import type { MeshRoute, MeshRule, MeshSysctl, PlanOptions } from "./plan.ts";
import { hostBlock } from "./plan-addresses.ts";

/** Another node in one family. */
export type Hop = {
  nodeId: string;
  index: number;
  meshAddress: string;
  /** By which it is the next hop on the mesh device, and on the encrypted one. */
  clear: string;
  encrypted: string;
};

/** To the nodes themselves, and for answers to clients who came by them. */
export function peerRoutes(hops: readonly Hop[], source: string): MeshRoute[] {
  return hops.flatMap(({ index, clear: via, meshAddress }) => {
    const way = { destination: hostBlock(meshAddress), table: "main", source };
    return [
      // A next hop itself lies on the device.
      via === meshAddress ? way : { ...way, via },
      { destination: "default", table: String(RETURN_TABLE + index), via },
    ];
  });
}

/** What comes back by a peer goes out by it: tables by mark. */
export function planRules(peers: Peer[]): MeshRule[] {
  const mask = MARK_NODE_MASK;
  // The gate: rules are a linear list, and unmarked packets (nearly all) skip it in one step.
  const rules: MeshRule[] = [{ priority: RULE_GATE_PRIORITY, mark: 0, mask, goto: 32_766 }];
  for (const { index } of peers) {
    rules.push({
      priority: RULE_PEER_PRIORITY + index,
      mark: nodeMark(index),
      mask,
      table: RETURN_TABLE + index,
    });
  }
  return rules;
}
/** What comes from an encrypted network's bridge: nodes by their mesh addresses, outside clients by return tables. */
export function encryptedReturns(hops: readonly Hop[], source: string): MeshRoute[] {
  const device = ENCRYPTED_DEVICE;
  return hops.flatMap(({ index, encrypted: via, meshAddress }) => [
    { destination: hostBlock(meshAddress), table: String(ENCRYPTED_TABLE), via, source, device },
    { destination: "default", table: String(ENCRYPTED_TABLE + index), via, device },
  ]);
}

/** The underlay is one for both families, so one of them is enough to tell whether ESP gets through. */
export function probeRoutes(peers: readonly Peer[], self: Peer): MeshRoute[] {
  const source = encryptedProbeAddress(self.index);
  return peers.map(({ index, dataPathAddr: via }) => ({
    destination: hostBlock(encryptedProbeAddress(index)),
    table: "main",
    via,
    source,
    device: ENCRYPTED_DEVICE,
  }));
}

/** What comes from an encrypted network's bridge goes by tables of its own. */
export function planEncryptedRules(peers: Peer[], present: Network[]): MeshRule[] {
  const mask = MARK_NODE_MASK;
  const table = ENCRYPTED_TABLE;
  const rules: MeshRule[] = [
    // Where the rules of peers begin; the branch needs something to go to.
    { priority: RULE_ENCRYPTED_PRIORITY, mark: 0, mask, goto: 32_766 },
  ];
  for (const network of present.filter(isEncrypted)) {
    const from = bridgeName(network.id);
    rules.push(
      { priority: RULE_GATE_PRIORITY - 1, from, table },
      { priority: RULE_BRANCH_PRIORITY, from, goto: RULE_ENCRYPTED_PRIORITY },
    );
  }
  for (const { index } of peers) {
    rules.push({
      priority: RULE_ENCRYPTED_PRIORITY + index,
      mark: nodeMark(index),
      mask,
      table: ENCRYPTED_TABLE + index,
    });
  }
  return rules;
}

/** Of a device of the mesh. */
export function deviceSysctls(device: string): MeshSysctl[] {
  return [
    // Answers of published flows leave by another device than the one a strict filter expects.
    { key: `net.ipv4.conf.${device}.rp_filter`, value: 2, device },
    { key: `net.ipv4.conf.${device}.route_localnet`, value: 1, device },
    { key: `net.ipv4.conf.${device}.send_redirects`, value: 0, device },
    { key: `net.ipv4.conf.${device}.forwarding`, value: 1, device },
  ];
}

/** Of the host, of the mesh device and of each bridge that is here. */
export function planSysctls(present: Network[], options: PlanOptions): MeshSysctl[] {
  const sysctls: MeshSysctl[] = [
    ...deviceSysctls(MESH_DEVICE),
    // The default of 60 s resets half-closed connections (moby issue 29655).
    {
      key: "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
      value: 3_600,
      isMinimum: true,
    },
    {
      key: "net.netfilter.nf_conntrack_tcp_timeout_established",
      value: 86_400,
      isMinimum: true,
    },
  ];
  sysctls.push(...(options.sysctls ?? []));
  if (options.hasBrNetfilter) {
    sysctls.push({ key: "net.bridge.bridge-nf-call-iptables", value: 1 });
  }
  for (const network of present) {
    const bridge = bridgeName(network.id);
    const values = [
      ["proxy_arp", 1],
      ["send_redirects", 0],
      ["route_localnet", 1],
      ["rp_filter", 2],
      ["forwarding", 1],
    ] as const;
    for (const [name, value] of values) {
      sysctls.push({ key: `net.ipv4.conf.${bridge}.${name}`, value, device: bridge });
    }
    // The default delays each proxied ARP answer by up to 0.8 s at random.
    sysctls.push({ key: `net.ipv4.neigh.${bridge}.proxy_delay`, value: 0, device: bridge });
  }
  return sysctls;
}
