/**
 * IPv6 of the plan: the table as it looks in IPv6, and what IPv6 needs beside the same kinds of objects
 * as IPv4. Pure.
 *
 * An entry "in IPv6" is the same entry with its IPv6 addresses in the places of the IPv4 ones, so that
 * both families are planned by the same rules. The kernel answers for a whole block in IPv4 (proxy
 * ARP follows the routes); in IPv6 it answers for single addresses: a *proxy* is one that a bridge
 * answers for.
 */
import type { EndpointEntry, Peer, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import { parseAddress6, parseCidr6 } from "../../core/store/cidr6.ts";
import {
  ENCRYPTED_DEVICE,
  encryptedGateway6,
  encryptedMac,
  MESH_DEVICE,
  meshAddress6,
  meshMac,
} from "./names.ts";
import type { MeshNeighbour6, MeshSysctl } from "./plan.ts";
import type { OverlayNetwork } from "./plan-choices.ts";
import type { PlannedTask } from "./plan-family.ts";
import type { Hop } from "./plan-node.ts";

/** Networks that have IPv6, in IPv6, by subnet; one that is malformed or overlaps an earlier one is left out. */
export function networksInIpv6(
  networks: readonly OverlayNetwork[],
  conflicts: string[],
): OverlayNetwork[] {
  const candidates = networks.flatMap((network) => {
    const { subnet6, gateway6, spec } = network;
    if (subnet6 === undefined || gateway6 === undefined) return [];
    const block = parseCidr6(subnet6);
    const gateway = parseAddress6(gateway6);
    if (!block || gateway === undefined || gateway < block.first || gateway > block.last) {
      conflicts.push(`network ${spec.Name}: bad subnet ${subnet6} or gateway ${gateway6}`);
      return [];
    }
    return [{ network: { ...network, subnet: subnet6, gateway: gateway6 }, ...block }];
  });
  candidates.sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const chosen: OverlayNetwork[] = [];
  let lastTaken = -1n;
  for (const { network, first, last } of candidates) {
    if (first <= lastTaken) {
      conflicts.push(`network ${network.spec.Name}: subnet ${network.subnet} is taken`);
      continue;
    }
    lastTaken = last;
    chosen.push(network);
  }
  return chosen;
}

/** Undefined for a task without a leg in these networks of IPv6. */
export function taskInIpv6(
  { key, endpoint, published: published4 }: PlannedTask,
  networkById: ReadonlyMap<string, unknown>,
): PlannedTask | undefined {
  const addresses = legsInIpv6(endpoint.addresses).filter(({ networkId }) =>
    networkById.has(networkId),
  );
  if (addresses.length === 0) return undefined;
  // The engine takes the way out of IPv6 from the leg that has that of IPv4, or from none.
  const wayOut = endpoint.addresses.find(({ address }) => address === published4)?.networkId;
  const published = addresses.find(({ networkId }) => networkId === wayOut)?.address;
  return { key, endpoint: { ...endpoint, addresses }, published };
}

/** The same services with their addresses of IPv6. */
export function servicesInIpv6(
  services: ReadonlyMap<string, ServiceEntry>,
): Map<string, ServiceEntry> {
  return new Map(
    [...services].map(([id, service]) => [
      id,
      { ...service, virtualIps: legsInIpv6(service.virtualIps) },
    ]),
  );
}

function legsInIpv6(legs: EndpointEntry["addresses"]): EndpointEntry["addresses"] {
  return legs.flatMap(({ networkId, address6 }) =>
    address6 !== undefined && isIpv6(address6) ? [{ networkId, address: address6 }] : [],
  );
}

export function isIpv6(text: string): boolean {
  return parseAddress6(text) !== undefined;
}

/** Both, while there is an encrypted network that this node carries. */
export function meshDevices(hasEncryption: boolean): string[] {
  return hasEncryption ? [MESH_DEVICE, ENCRYPTED_DEVICE] : [MESH_DEVICE];
}

/** The underlay is IPv4, so that next hops are addresses within the mesh. */
export function hopInIpv6({ nodeId, index, meshAddress }: Peer): Hop {
  const address = meshAddress6(meshAddress);
  const encrypted = encryptedGateway6(meshAddress);
  return { nodeId, index, meshAddress: address, clear: address, encrypted };
}

/** The next hops of `hopInIpv6`. */
export function neighboursInIpv6(peer: Peer, hasEncryption: boolean): MeshNeighbour6[] {
  const { clear, encrypted } = hopInIpv6(peer);
  const neighbours = [{ device: MESH_DEVICE, address: clear, mac: meshMac(peer.dataPathAddr) }];
  if (hasEncryption) {
    const mac = encryptedMac(peer.dataPathAddr);
    neighbours.push({ device: ENCRYPTED_DEVICE, address: encrypted, mac });
  }
  return neighbours;
}

/**
 * `advertisedDevices`: those whose addresses routers gave; a host that forwards takes no more
 * advertisements, and would lose its default route, unless it is told to.
 */
export function planSysctls6(
  devices: readonly string[],
  bridges: readonly string[],
  options: { hasBrNetfilter: boolean; advertisedDevices: readonly string[] },
): MeshSysctl[] {
  const sysctls: MeshSysctl[] = options.advertisedDevices.map((device) => ({
    // sysctl writes a dot within a name as a slash.
    key: `net.ipv6.conf.${device.replaceAll(".", "/")}.accept_ra`,
    value: 2,
    from: 1,
    device,
  }));
  sysctls.push({ key: "net.ipv6.conf.all.forwarding", value: 1 });
  if (options.hasBrNetfilter) {
    sysctls.push({ key: "net.bridge.bridge-nf-call-ip6tables", value: 1 });
  }
  const of = (device: string, values: Record<string, number>) => {
    for (const [name, value] of Object.entries(values)) {
      sysctls.push({ key: `net.ipv6.conf.${device}.${name}`, value, device });
    }
  };
  for (const device of devices) of(device, { accept_ra: 0, forwarding: 1 });
  for (const bridge of bridges) {
    of(bridge, { accept_ra: 0, forwarding: 1, proxy_ndp: 1 });
    // As for ARP: the default delays each answer.
    sysctls.push({ key: `net.ipv6.neigh.${bridge}.proxy_delay`, value: 0, device: bridge });
  }
  return sysctls;
}
