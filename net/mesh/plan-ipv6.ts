/**
 * IPv6 of the plan: the table as it looks in IPv6, and what IPv6 needs beside the same kinds of objects
 * as IPv4. Pure.
 *
 * An entry "in IPv6" is the same entry with its IPv6 addresses in the places of the IPv4 ones, so that
 * `plan.ts` plans both families by the same rules. The kernel answers for a whole block in IPv4 (proxy
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
import type { Hop, MeshNeighbour6, MeshProxy, MeshSysctl, OverlayNetwork } from "./plan.ts";

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

const endpointsSeen = new WeakMap<EndpointEntry, EndpointEntry>();
const servicesSeen = new WeakMap<ServiceEntry, ServiceEntry>();

/** The same object for the same entry: the memory of plans knows it again. */
export function endpointInIpv6(endpoint: EndpointEntry): EndpointEntry {
  const known = endpointsSeen.get(endpoint);
  if (known) return known;
  const made = { ...endpoint, addresses: legsInIpv6(endpoint.addresses) };
  endpointsSeen.set(endpoint, made);
  return made;
}

/** As `endpointInIpv6`. */
export function serviceInIpv6(service: ServiceEntry): ServiceEntry {
  const known = servicesSeen.get(service);
  if (known) return known;
  const made = { ...service, virtualIps: legsInIpv6(service.virtualIps) };
  servicesSeen.set(service, made);
  return made;
}

function legsInIpv6(legs: EndpointEntry["addresses"]): EndpointEntry["addresses"] {
  return legs.flatMap(({ networkId, address6 }) =>
    address6 !== undefined && isIpv6(address6) ? [{ networkId, address: address6 }] : [],
  );
}

export function isIpv6(text: string): boolean {
  return parseAddress6(text) !== undefined;
}

/** What each bridge that exists has to answer for: tasks elsewhere, and service addresses. */
export function planProxies(input: {
  bridges: ReadonlyMap<string, string>;
  endpoints: readonly EndpointEntry[];
  virtualIps: readonly { bridge: string; address: string }[];
  isMade(bridge: string): boolean;
}): MeshProxy[] {
  const proxies = new Map<string, MeshProxy>();
  const add = (bridge: string | undefined, address: string) => {
    if (bridge === undefined || !input.isMade(bridge)) return;
    proxies.set(`${bridge} ${address}`, { bridge, address });
  };
  for (const { addresses } of input.endpoints) {
    for (const { networkId, address } of addresses) add(input.bridges.get(networkId), address);
  }
  for (const { bridge, address } of input.virtualIps) add(bridge, address);
  return [...proxies].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, proxy]) => proxy);
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
