/**
 * IPv4 address management: subnets of networks, addresses within them.
 *
 * Owns: which subnet a new network gets, which address a task or VIP gets next. Keeps nothing: what
 * is used is read from the view. `apply` refuses overlaps, so a choice that was overtaken is made
 * again.
 *
 * 1. A subnet never overlaps another network's or the mesh pool.
 * 2. An address never is the first (network), the last (broadcast) or the gateway.
 * 3. Addresses are given out in a circle that starts after the newest task's, so that one that
 *    became free rests as long as possible: clients and kernels may still hold it.
 */
import { assert } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { Network } from "../objects/network.ts";
import type { Task } from "../objects/task.ts";
import { type AddressRange, parseCidr } from "../store/cidr.ts";
import { holdsAddresses } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";

/** Source: Docker Engine, default address pool of a swarm. */
export const DEFAULT_ADDRESS_POOLS: readonly string[] = ["10.0.0.0/8"];
export const DEFAULT_MESH_POOL = "10.255.0.0/16";
/** Smallest subnet: gateway, one VIP and four tasks. */
const PREFIX_LENGTH_MAX = 29;
const PREFIX_LENGTH_MIN = 8;

/** Where subnets come from and what is taken. `used` are CIDRs. */
export type SubnetSource = {
  addressPools: readonly string[];
  subnetSize: number;
  meshPool: string;
  used: readonly string[];
};
export type ChosenSubnet = { subnet: string; gateway: string };

/**
 * The lowest free subnet of the cluster's pools, with its first address as gateway.
 * @throws {ClusterError} failed-precondition when the pools are used up.
 */
export function chooseSubnet(source: ClusterView | SubnetSource): ChosenSubnet {
  const { addressPools, subnetSize, meshPool, used } =
    "networks" in source ? subnetSourceOf(source) : source;
  const size = 2 ** (32 - subnetSize);
  const taken = [meshPool, ...used]
    .map(parseCidr)
    .filter((range) => range !== undefined)
    .sort((a, b) => a.first - b.first);
  for (const pool of addressPools) {
    const range = mustParse(pool);
    // The ranges are in order, so each is passed once.
    let first = range.first;
    for (const { first: takenFirst, last } of taken) {
      if (first + size - 1 < takenFirst) break;
      if (last >= first) first = Math.ceil((last + 1) / size) * size;
    }
    if (first + size - 1 <= range.last) {
      return {
        subnet: `${formatAddress(first)}/${subnetSize}`,
        gateway: formatAddress(first + 1),
      };
    }
  }
  throw new ClusterError(
    "failed-precondition",
    `Cannot find a free /${subnetSize} subnet in ${addressPools.join(", ")}: ${used.length} networks use them up; remove unused networks, or name a subnet outside the pools with --subnet`,
  );
}

function subnetSourceOf(view: ClusterView): SubnetSource {
  const cluster = view.cluster();
  assert(cluster !== undefined, "Subnets are chosen within a cluster");
  const { addressPools, subnetSize, meshPool } = cluster;
  return {
    addressPools,
    subnetSize,
    meshPool,
    used: [...usedSubnets(view).map(({ subnet }) => subnet), ...orphanedAddresses(view)],
  };
}

/** Addresses that tasks still hold of networks removed meanwhile: a node may have their bridge yet. */
function orphanedAddresses(view: ClusterView): string[] {
  return view
    .tasks()
    .filter(holdsAddresses)
    .flatMap((task) => task.networks ?? [])
    .filter(({ networkId, address }) => address !== undefined && !view.network(networkId))
    .map(({ address }) => `${address}/32`);
}

function usedSubnets(view: ClusterView): { name: string; subnet: string }[] {
  return view
    .networks()
    .flatMap(({ spec, subnet }) => (subnet === undefined ? [] : [{ name: spec.Name, subnet }]));
}

/**
 * A user's own subnet in canonical form, with its gateway (unless given the first address, of the range
 * of addresses that are given out, where there is one).
 * @throws {ClusterError} invalid-argument when it is no usable IPv4 subnet, or gateway or range lie
 * outside; failed-precondition when it overlaps a network or the mesh pool.
 */
export function validateSubnet(
  view: ClusterView,
  wish: { subnet: string; gateway?: string; ipRange?: string },
): ChosenSubnet & { ipRange?: string } {
  const range = parseCidr(wish.subnet);
  if (range === undefined) {
    const what = wish.subnet.includes(":") ? "IPv6 subnets are not supported" : "not an IPv4 CIDR";
    throw new ClusterError("invalid-argument", `invalid subnet ${wish.subnet} : ${what}`);
  }
  const length = prefixLengthOf(range);
  if (length < PREFIX_LENGTH_MIN || length > PREFIX_LENGTH_MAX) {
    throw new ClusterError(
      "invalid-argument",
      `invalid subnet ${wish.subnet} : the prefix length is ${length}, choose one from ${PREFIX_LENGTH_MIN} to ${PREFIX_LENGTH_MAX}`,
    );
  }
  const subnet = `${formatAddress(range.first)}/${length}`;
  const meshPool = view.cluster()?.meshPool;
  const others = usedSubnets(view);
  if (meshPool !== undefined) others.push({ name: "the mesh pool", subnet: meshPool });
  for (const other of others) {
    if (!overlaps(range, mustParse(other.subnet))) continue;
    throw new ClusterError(
      "failed-precondition",
      `invalid pool request: Pool overlaps with other one on this address space: ${subnet} and ${other.subnet} of ${other.name}`,
    );
  }
  const inner = wish.ipRange === undefined ? undefined : rangeWithin(range, subnet, wish.ipRange);
  const chosen = inner && { ipRange: `${formatAddress(inner.first)}/${prefixLengthOf(inner)}` };
  if (!wish.gateway) {
    const first = Math.max(range.first + 1, inner?.first ?? 0);
    return { subnet, gateway: formatAddress(first), ...chosen };
  }
  const gateway = parseAddress(wish.gateway.split("/")[0] ?? "");
  if (gateway === undefined || gateway <= range.first || gateway >= range.last) {
    throw new ClusterError(
      "invalid-argument",
      `no matching subnet for gateway ${wish.gateway}: choose an address within ${subnet}`,
    );
  }
  return { subnet, gateway: formatAddress(gateway), ...chosen };
}

function rangeWithin(outer: AddressRange, subnet: string, ipRange: string): AddressRange {
  const refuse = (why: string) =>
    new ClusterError("invalid-argument", `invalid ip-range ${ipRange} : ${why}`);
  const range = parseCidr(ipRange);
  if (range === undefined) {
    throw refuse(
      ipRange.includes(":")
        ? "IPv6 addresses follow the IPv4 addresses of a network: give a range of these"
        : "not an IPv4 CIDR",
    );
  }
  if (range.first < outer.first || range.last > outer.last)
    throw refuse(`it is not within ${subnet}`);
  if (prefixLengthOf(range) > PREFIX_LENGTH_MAX) {
    throw refuse(
      `the prefix length is ${prefixLengthOf(range)}, choose one up to ${PREFIX_LENGTH_MAX}`,
    );
  }
  return range;
}

/**
 * Checks the pools of a new cluster.
 * @throws {ClusterError} invalid-argument when one is no CIDR, too small for a subnet, overlaps
 * another, or lies within the mesh pool.
 */
export function validatePools(
  addressPools: readonly string[],
  subnetSize: number,
  meshPool: string,
): void {
  const ranges: { pool: string; range: AddressRange }[] = [];
  for (const pool of addressPools) {
    const range = parseCidr(pool);
    if (range === undefined) {
      throw new ClusterError("invalid-argument", `invalid CIDR address: ${pool}`);
    }
    if (prefixLengthOf(range) > subnetSize) {
      throw new ClusterError(
        "invalid-argument",
        `Cannot cut /${subnetSize} subnets from pool ${pool}: give a larger pool or a longer --default-addr-pool-mask-length`,
      );
    }
    const other = ranges.find((item) => overlaps(item.range, range));
    if (other) {
      throw new ClusterError(
        "invalid-argument",
        `Cannot use pool ${pool}: it overlaps pool ${other.pool}`,
      );
    }
    ranges.push({ pool, range });
  }
  const mesh = mustParse(meshPool);
  const inside = ranges.find(({ range }) => mesh.first <= range.first && range.last <= mesh.last);
  if (inside) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot use pool ${inside.pool}: it lies within the mesh pool ${meshPool}`,
    );
  }
}

/** Address of the first node of a cluster. */
export function firstMeshAddress(meshPool: string): string {
  return formatAddress(mustParse(meshPool).first + 1);
}

// ---- addresses within a subnet ------------------------------------------------------------------

/** The addresses of one network while a plan is being made. */
export type AddressPool = {
  network: Network;
  /** Usable addresses, both ends included. */
  range: AddressRange;
  /** Those of them that are given out to who asks for none: the network's IP range, or all. */
  chosen: AddressRange;
  gateway: number | undefined;
  used: Set<number>;
  /** The search starts after this one. */
  last: number;
};

/**
 * The pool of every network that has a subnet, less what services, tasks and containers of users hold. O(tasks).
 * A task of a down node holds its addresses: it may be running, unseen.
 */
export function openAddressPools(view: ClusterView): Map<string, AddressPool> {
  const pools = new Map<string, AddressPool>();
  for (const network of view.networks()) {
    const range = network.subnet === undefined ? undefined : parseCidr(network.subnet);
    if (range === undefined || network.predefined) continue;
    const gateway = network.gateway === undefined ? undefined : parseAddress(network.gateway);
    const usable = { first: range.first + 1, last: range.last - 1 };
    const chosen = chosenOf(network, usable);
    pools.set(network.id, {
      network,
      range: usable,
      chosen,
      gateway,
      used: new Set(),
      last: chosen.first - 1,
    });
  }
  const newest = new Map<string, Task>();
  for (const task of view.tasks()) {
    for (const { networkId, address } of task.networks ?? []) {
      const pool = pools.get(networkId);
      const value = address === undefined ? undefined : parseAddress(address);
      if (pool === undefined || value === undefined) continue;
      if (holdsAddresses(task)) pool.used.add(value);
      // Dead tasks count here: they are the memory of what was given out lately.
      const before = newest.get(networkId);
      if (before === undefined || isNewer(task, before)) {
        newest.set(networkId, task);
        if (isIn(pool.chosen, value)) pool.last = value;
      }
    }
  }
  for (const service of view.services()) {
    for (const { networkId, address } of service.endpoint?.virtualIps ?? []) {
      const value = parseAddress(address);
      const pool = pools.get(networkId);
      if (pool === undefined || value === undefined) continue;
      pool.used.add(value);
      const isLast = !newest.has(networkId) && value > pool.last;
      if (isLast && isIn(pool.chosen, value)) pool.last = value;
    }
  }
  for (const { networkId, address } of view.attachments()) {
    const value = parseAddress(address);
    if (value !== undefined) pools.get(networkId)?.used.add(value);
  }
  return pools;
}

/** Tasks are given addresses in this order. */
function isNewer(a: Task, b: Task): boolean {
  return a.createdAtMs > b.createdAtMs || (a.createdAtMs === b.createdAtMs && a.id > b.id);
}

/**
 * Takes the next free address; `undefined` when there is none. Amortised O(1) for a sparse subnet.
 */
export function takeAddress(pool: AddressPool): string | undefined {
  const { first, last } = pool.chosen;
  const size = last - first + 1;
  // Without this, each refusal would scan a /16.
  if (pool.used.size >= poolSize(pool) && freeCount(pool) === 0) return undefined;
  for (let step = 1; step <= size; step += 1) {
    const value = first + ((pool.last - first + step + size) % size);
    if (value === pool.gateway || pool.used.has(value)) continue;
    pool.used.add(value);
    pool.last = value;
    return formatAddress(value);
  }
  return undefined;
}

/** How many addresses are given out to who asks for none, used ones included. */
export function poolSize({ chosen, gateway }: AddressPool): number {
  const hasGateway = gateway !== undefined && isIn(chosen, gateway);
  return chosen.last - chosen.first + (hasGateway ? 0 : 1);
}

/** How many of them are not used. O(1), but for a network with an IP range. */
export function freeCount(pool: AddressPool): number {
  const { chosen, range, used } = pool;
  const isWhole = chosen.first === range.first && chosen.last === range.last;
  const count = isWhole ? used.size : [...used].filter((value) => isIn(chosen, value)).length;
  return poolSize(pool) - count;
}

function chosenOf({ spec }: Network, usable: AddressRange): AddressRange {
  const ipRange = parseCidr(spec.IPAM.Config[0]?.IPRange ?? "");
  if (!ipRange) return usable;
  return {
    first: Math.max(usable.first, ipRange.first),
    last: Math.min(usable.last, ipRange.last),
  };
}

function isIn(range: AddressRange, value: number): boolean {
  return value >= range.first && value <= range.last;
}

/**
 * Takes this very address, for who asks for it by name.
 * @throws {ClusterError} invalid-argument when nobody can have it on that network; failed-precondition
 * when somebody has it.
 */
export function takeGivenAddress(pool: AddressPool, address: string): string {
  const { spec, subnet } = pool.network;
  const value = parseAddress(address);
  const isUsable = value !== undefined && isIn(pool.range, value);
  if (!isUsable || value === pool.gateway) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot give address ${address} on network ${spec.Name}: ${isUsable ? "it is the gateway's" : `it is none of ${subnet}`}; choose another one`,
    );
  }
  if (pool.used.has(value)) {
    throw new ClusterError(
      "failed-precondition",
      `Address already in use: ${address} on network ${spec.Name}; choose another one, or leave it to the cluster`,
    );
  }
  pool.used.add(value);
  return formatAddress(value);
}

/** Gives back an address that a plan took and does not use after all. */
export function returnAddress(pool: AddressPool, address: string): void {
  const value = parseAddress(address);
  assert(value !== undefined && pool.used.delete(value), `Address ${address} is not taken`);
}

/** Why `takeAddress` found nothing, and what to do. */
export function explainExhaustion(pool: AddressPool): string {
  const { spec, subnet } = pool.network;
  const ipRange = spec.IPAM.Config[0]?.IPRange;
  const whole = ipRange === undefined ? subnet : `ip-range ${ipRange}`;
  const count = poolSize(pool) - freeCount(pool);
  return `could not find an available IP on network "${spec.Name}": all ${count} addresses of ${whole} are in use; remove unused services or tasks, or use a network with a larger ${ipRange === undefined ? "subnet" : "range"}`;
}

export function parseAddress(text: string): number | undefined {
  return parseCidr(`${text}/32`)?.first;
}

export function formatAddress(value: number): string {
  assert(value >= 0 && value < 2 ** 32, `${value} is not an IPv4 address`);
  const byte = (shift: number) => Math.floor(value / 2 ** shift) % 256;
  return `${byte(24)}.${byte(16)}.${byte(8)}.${byte(0)}`;
}

function prefixLengthOf(range: AddressRange): number {
  return 32 - Math.log2(range.last - range.first + 1);
}

function overlaps(a: AddressRange, b: AddressRange): boolean {
  return a.first <= b.last && b.first <= a.last;
}

/** For CIDRs that were checked when they were stored. */
function mustParse(cidr: string): AddressRange {
  const range = parseCidr(cidr);
  assert(range !== undefined, `"${cidr}" is not an IPv4 CIDR`);
  return range;
}
