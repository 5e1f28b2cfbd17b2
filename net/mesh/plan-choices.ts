/**
 * What of the table is planned at all: of entries that contradict each other one is left out and named.
 * Pure; which one it is depends on what they say and not on the order in which they came.
 */
import type { Peer, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { Network } from "../../core/objects/network.ts";
import { isInBlock, isIpv4, parseIpv4, parseIpv4Block } from "./ipv4.ts";
import { bridgeName, NODE_INDEX_MAX } from "./names.ts";
import type { FilterPlan } from "./plan.ts";
import { sortByAddress } from "./plan-addresses.ts";
import { compareText } from "./plan-lists.ts";
import type { MeshTable } from "./table.ts";

/** Other nodes; of those with one underlay address only the newest (a node that joined again). */
export function choosePeers(table: MeshTable, self: Peer, conflicts: string[]): Peer[] {
  const byAddress = new Map<string, Peer>();
  const indexes = new Set([self.index]);
  const newestFirst = [...table.peers.values()].sort((a, b) => b.index - a.index);
  for (const peer of newestFirst) {
    if (peer.nodeId === self.nodeId) continue;
    const isUsable =
      isIpv4(peer.dataPathAddr) &&
      isIpv4(peer.meshAddress) &&
      peer.index >= 1 &&
      peer.index <= NODE_INDEX_MAX;
    if (!isUsable) {
      conflicts.push(`node ${peer.nodeId}: bad address or index`);
      continue;
    }
    if (
      peer.dataPathAddr === self.dataPathAddr ||
      byAddress.has(peer.dataPathAddr) ||
      indexes.has(peer.index)
    ) {
      conflicts.push(
        `node ${peer.nodeId}: another node has address ${peer.dataPathAddr} or index ${peer.index}`,
      );
      continue;
    }
    byAddress.set(peer.dataPathAddr, peer);
    indexes.add(peer.index);
  }
  return [...byAddress.values()].sort((a, b) => a.index - b.index);
}

export type OverlayNetwork = Network & { subnet: string; gateway: string };

/** Networks with a subnet, ordered by it; one that overlaps an earlier one is left out. */
export function chooseNetworks(table: MeshTable, conflicts: string[]): OverlayNetwork[] {
  const candidates: { network: OverlayNetwork; first: number; last: number }[] = [];
  for (const network of table.networks.values()) {
    const { subnet, gateway } = network;
    if (network.predefined || subnet === undefined || gateway === undefined) continue;
    const block = parseIpv4Block(subnet);
    const gatewayValue = parseIpv4(gateway);
    if (!block || gatewayValue === undefined || !isInBlock(block, gatewayValue)) {
      conflicts.push(`network ${network.spec.Name}: bad subnet ${subnet} or gateway ${gateway}`);
      continue;
    }
    candidates.push({ network: { ...network, subnet, gateway }, ...block });
  }
  candidates.sort((a, b) => a.first - b.first || compareText(a.network.id, b.network.id));
  const chosen: OverlayNetwork[] = [];
  const bridges = new Set<string>();
  let lastTaken = -1;
  for (const { network, first, last } of candidates) {
    const bridge = bridgeName(network.id);
    if (first <= lastTaken || bridges.has(bridge)) {
      conflicts.push(`network ${network.spec.Name}: subnet ${network.subnet} is taken`);
      continue;
    }
    lastTaken = last;
    bridges.add(bridge);
    chosen.push(network);
  }
  return chosen;
}

const PROTOCOLS: ReadonlySet<string> = new Set(["tcp", "udp", "sctp"]);

function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 1 && port <= 65_535;
}

export type PortEntry = ServiceEntry["ports"][number];

export function portKey({ publishedPort, protocol }: PortEntry): string {
  return `${publishedPort}/${protocol}`;
}

/**
 * Published ports by service; a port that two services claim stays with the first by id. `taken`: by others
 * already, and then by these as well.
 */
export function choosePorts(
  services: Iterable<ServiceEntry>,
  taken: Set<string>,
  conflicts: string[],
): Map<string, PortEntry[]> {
  const chosen = new Map<string, PortEntry[]>();
  for (const service of services) {
    const ports = [];
    for (const port of service.ports) {
      const { protocol, publishedPort, targetPort } = port;
      const key = portKey(port);
      // Text of a table is one transaction: nothing in it may be what nft does not know.
      if (!PROTOCOLS.has(protocol) || !isPort(publishedPort) || !isPort(targetPort)) {
        conflicts.push(`service ${service.name}: bad port ${key} to ${targetPort}`);
        continue;
      }
      if (taken.has(key)) {
        conflicts.push(`service ${service.name}: port ${key} is taken`);
        continue;
      }
      taken.add(key);
      ports.push(port);
    }
    chosen.set(service.serviceId, ports);
  }
  return chosen;
}

/** One address, and one chain, is of one service: the first by id. */
export function chooseVirtualIps(
  virtualIps: FilterPlan["virtualIps"],
  conflicts: string[],
): FilterPlan["virtualIps"] {
  const taken = new Set<string>();
  const chosen: FilterPlan["virtualIps"] = [];
  for (const virtualIp of virtualIps) {
    if (taken.has(virtualIp.address) || taken.has(virtualIp.chain)) {
      conflicts.push(`service address ${virtualIp.address}: given twice`);
      continue;
    }
    taken.add(virtualIp.address).add(virtualIp.chain);
    chosen.push(virtualIp);
  }
  return sortByAddress(chosen, ({ address }) => address);
}
