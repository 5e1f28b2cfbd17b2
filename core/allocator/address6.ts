/**
 * IPv6 of overlay networks: the subnet of a network, and the addresses within it.
 *
 * An address is not chosen but follows from the IPv4 address on the same network: the n-th of one
 * subnet has the n-th of the other. The IPv6 subnet has at least as many addresses, so two holders of
 * different IPv4 addresses have different IPv6 addresses, and everything that is true of the first
 * (who holds it, how long it rests, which one a user has fixed) is true of the second. One exception
 * keeps the gateway free: whoever would have it gets the one in the place of the IPv4 gateway, which
 * nobody can have.
 */
import { assert } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { Network } from "../objects/network.ts";
import { parseCidr } from "../store/cidr.ts";
import { cidrs6Overlap, formatAddress6, parseAddress6, parseCidr6 } from "../store/cidr6.ts";
import { holdsAddresses } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import { parseAddress } from "./ipam.ts";

/** Nodes have mesh addresses in it (net/mesh/names.ts): no network may. */
export const MESH_POOL6 = "fd73:686f:616c::/48";
/** Of a user's own subnet. At the other end it must hold the IPv4 subnet. */
const PREFIX_LENGTH_MIN = 48;
/** Subnets in a cluster's own /48. */
const SUBNETS_MAX = 2 ** 16;

export type ChosenSubnet6 = { subnet6: string; gateway6: string };

/** The /48 that networks without a subnet of the user's own are cut from. Source: RFC 4193 §3.2. */
export function clusterPrefix6(clusterId: string): string {
  let bits = 0;
  // Ids are random, so 40 bits of one are: no random choice is needed, and none has to be stored.
  for (let place = 0; place < clusterId.length; place += 1) {
    bits = (bits * 36 + (clusterId.codePointAt(place) ?? 0)) % 2 ** 40;
  }
  return `${formatAddress6(((0xfdn << 40n) | BigInt(bits)) << 80n)}/48`;
}

/**
 * The lowest free /64 of the cluster's own prefix, with its first address as gateway.
 * @throws {ClusterError} failed-precondition when all are used.
 */
export function chooseSubnet6(view: ClusterView): ChosenSubnet6 {
  const cluster = view.cluster();
  assert(cluster !== undefined, "Subnets are chosen within a cluster");
  const prefix = clusterPrefix6(cluster.id);
  const range = parseCidr6(prefix);
  assert(range !== undefined, `"${prefix}" is an IPv6 prefix`);
  const taken = [MESH_POOL6, ...usedSubnets6(view).map(({ subnet }) => subnet), ...orphans6(view)]
    .flatMap((text) => parseCidr6(text) ?? [])
    .filter(({ first, last }) => first <= range.last && last >= range.first);
  for (let number = 0; number < SUBNETS_MAX; number += 1) {
    const first = range.first + (BigInt(number) << 64n);
    const last = first + (1n << 64n) - 1n;
    if (taken.some((other) => other.first <= last && other.last >= first)) continue;
    return { subnet6: `${formatAddress6(first)}/64`, gateway6: formatAddress6(first + 1n) };
  }
  throw new ClusterError(
    "failed-precondition",
    `Cannot find a free /64 subnet in ${prefix}: remove unused networks, or name a subnet with --subnet`,
  );
}

/**
 * A user's own subnet in canonical form, with its gateway (the first address unless given). `subnet`:
 * the network's IPv4 subnet, whose addresses must all have their place in it.
 * @throws {ClusterError} invalid-argument when it is no usable IPv6 subnet, or the gateway lies
 * outside; failed-precondition when it overlaps a network or the nodes' own prefix.
 */
export function validateSubnet6(
  view: ClusterView,
  wish: { subnet6: string; gateway6?: string; subnet: string },
): ChosenSubnet6 {
  const refuse = (why: string): never => {
    throw new ClusterError("invalid-argument", `invalid subnet ${wish.subnet6} : ${why}`);
  };
  const range = parseCidr6(wish.subnet6) ?? refuse("not an IPv6 CIDR");
  const { prefixLength } = range;
  const lengthMax = prefixLengthMax(wish.subnet);
  if (prefixLength < PREFIX_LENGTH_MIN || prefixLength > lengthMax) {
    refuse(
      `the prefix length is ${prefixLength}, choose one from ${PREFIX_LENGTH_MIN} to ${lengthMax} (each address of the IPv4 subnet ${wish.subnet} has one)`,
    );
  }
  const isIn = (block: string) => cidrs6Overlap(wish.subnet6, block);
  if (isIn("fe80::/10") || isIn("ff00::/8") || isIn("::/96")) {
    refuse("link-local, multicast and loopback addresses are not for networks");
  }
  const subnet6 = `${formatAddress6(range.first)}/${prefixLength}`;
  const others = [...usedSubnets6(view), { name: "the nodes' own prefix", subnet: MESH_POOL6 }];
  for (const other of others) {
    if (!cidrs6Overlap(subnet6, other.subnet)) continue;
    throw new ClusterError(
      "failed-precondition",
      `invalid pool request: Pool overlaps with other one on this address space: ${subnet6} and ${other.subnet} of ${other.name}`,
    );
  }
  if (!wish.gateway6) return { subnet6, gateway6: formatAddress6(range.first + 1n) };
  const gateway = parseAddress6(wish.gateway6.split("/")[0] ?? "");
  if (gateway === undefined || gateway <= range.first || gateway > range.last) {
    throw new ClusterError(
      "invalid-argument",
      `no matching subnet for gateway ${wish.gateway6}: choose an address within ${subnet6}`,
    );
  }
  return { subnet6, gateway6: formatAddress6(gateway) };
}

function usedSubnets6(view: ClusterView): { name: string; subnet: string }[] {
  return view
    .networks()
    .flatMap(({ spec, subnet6 }) => (subnet6 ? [{ name: spec.Name, subnet: subnet6 }] : []));
}

/** As for IPv4: a node may have the bridge of a removed network yet. */
function orphans6(view: ClusterView): string[] {
  return view
    .tasks()
    .filter(holdsAddresses)
    .flatMap((task) => task.networks ?? [])
    .filter(({ networkId, address6 }) => address6 !== undefined && !view.network(networkId))
    .map(({ address6 }) => `${address6}/128`);
}

function prefixLengthMax(subnet: string): number {
  const range = parseCidr(subnet);
  return 128 - (range ? Math.log2(range.last - range.first + 1) : 32);
}

/** The address that belongs to this IPv4 address of the network; undefined where it has no IPv6. */
export function address6Of(network: Network, address: string): string | undefined {
  const { subnet, gateway, subnet6, gateway6 } = network;
  if (subnet === undefined || subnet6 === undefined) return undefined;
  const range = parseCidr(subnet);
  const range6 = parseCidr6(subnet6);
  const value = parseAddress(address);
  assert(range !== undefined && range6 !== undefined && value !== undefined, "checked when stored");
  assert(value >= range.first && value <= range.last, `${address} lies in ${subnet}`);
  const own = range6.first + BigInt(value - range.first);
  const isGateway = gateway6 !== undefined && parseAddress6(gateway6) === own;
  if (!isGateway) return formatAddress6(own);
  const place = parseAddress(gateway ?? "") ?? range.first + 1;
  return formatAddress6(range6.first + BigInt(place - range.first));
}

/** To spread into an object with addresses: `{ address6 }`, or nothing. */
export function address6Part(network: Network | undefined, address: string): { address6?: string } {
  const address6 = network && address6Of(network, address);
  return address6 === undefined ? {} : { address6 };
}
