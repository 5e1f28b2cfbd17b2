/**
 * Wanted × found → the fewest commands. Pure. Both sides are maps from an object's key to one
 * canonical line (the object as the tool takes it), so "is it as wanted" is one comparison of text,
 * and the same code serves a change (found = what was applied last) and a resync (found = what the
 * kernel shows).
 */
import {
  addressLine6,
  neighbourKey6,
  neighbourLine6,
  proxyLine,
  routeLine6,
} from "./ipv6-lines.ts";
import {
  BRIDGE_LINK_LOCAL,
  isBridgeName,
  isMeshAddress6,
  isMeshDevice,
  MESH_DEVICE,
  ROUTE_PROTOCOL,
} from "./names.ts";
import type { Interface } from "./observe.ts";
import type { MeshPlan, MeshProxy, MeshRoute, MeshSysctl } from "./plan.ts";
import { differenceOf } from "./plan-lists.ts";
import { fdbLine, linkLine, neighbourLine, routeLine, ruleLine } from "./render.ts";

export type DriftKind =
  | "link"
  | "address"
  | "neighbour"
  | "forwarding"
  | "proxy"
  | "route"
  | "rule"
  | "sysctl"
  | "hairpin"
  | "nft-table"
  | "iptables-chains"
  | "ipvs"
  | "iptables"
  | "ipsec";

/** How many objects of which kind. */
export type Counts = Partial<Record<DriftKind, number>>;

/** Adds `more` to `counts`. */
export function addCounts(counts: Counts, more: Counts): void {
  // The keys of such an object are its kinds.
  for (const [kind, count] of Object.entries(more) as [DriftKind, number][]) {
    counts[kind] = (counts[kind] ?? 0) + count;
  }
}

/** Everything below the filter: lines by key. */
export type RoutingState = {
  /** The mesh device as made; undefined when it is missing or must be made again. */
  link: string | undefined;
  mtu: number;
  addresses: Map<string, string>;
  neighbours: Map<string, string>;
  forwarding: Map<string, string>;
  routes: Map<string, string>;
  rules: Map<string, string>;
  /** Absent while there is nothing of IPv6. */
  six?: RoutingState6;
};
export type RoutingState6 = Record<
  "addresses" | "neighbours" | "routes" | "rules" | "proxies",
  Map<string, string>
>;

export type RoutingSteps = {
  /** Lines for `ip -batch`, before the filter changes. */
  ip: string[];
  /** Lines for `bridge -batch`. */
  bridge: string[];
  /** Lines for `ip -batch` and `bridge -batch`, after the filter has changed. */
  ipLast: string[];
  bridgeLast: string[];
  /** As `ip` and `ipLast`, for `ip -6 -batch`. */
  ip6: string[];
  ip6Last: string[];
  /** How many objects of which kind were not as wanted. */
  counts: Counts;
};

/** What the kernel holds once the plan is applied. */
export function wantedRouting(plan: MeshPlan): RoutingState {
  const byKey = <T>(items: T[], key: (item: T) => string, line: (item: T) => string) =>
    new Map(items.map((item) => [key(item), line(item)]));
  const address = `${plan.meshAddress}/32`;
  const six = plan.ipv6 && {
    addresses: byKey(plan.ipv6.addresses, addressLine6, addressLine6),
    neighbours: byKey(plan.ipv6.neighbours, neighbourKey6, neighbourLine6),
    routes: byKey(plan.ipv6.routes, routeKey, routeLine6),
    rules: byKey(plan.ipv6.rules, ruleLine, ruleLine),
    proxies: byKey(plan.ipv6.proxies, proxyLine, proxyLine),
  };
  return {
    link: identityOf(plan.link),
    mtu: plan.link.mtu,
    addresses: new Map([[address, address]]),
    neighbours: byKey(plan.neighbours, (entry) => entry.address, neighbourLine),
    forwarding: byKey(plan.forwarding, (entry) => entry.mac, fdbLine),
    routes: byKey(plan.routes, routeKey, routeLine),
    rules: byKey(plan.rules, ruleLine, ruleLine),
    ...(six ? { six } : {}),
  };
}

/**
 * The step from one plan to the next: both without the routes and proxy entries that they share, which with
 * ten thousand services are nearly all.
 */
export function changedRouting(
  before: MeshPlan,
  after: MeshPlan,
): { plan: MeshPlan; found: RoutingState } {
  // A device that is made again has none of them.
  if (identityOf(before.link) !== identityOf(after.link)) {
    return { plan: after, found: wantedRouting(before) };
  }
  const [oldRoutes, routes] = differenceOf(before.routes, after.routes, isSameRoute);
  const left = { ...before, routes: oldRoutes };
  const plan = { ...after, routes };
  if (before.ipv6 && after.ipv6) {
    const [old6, now6] = differenceOf(before.ipv6.routes, after.ipv6.routes, isSameRoute);
    const [oldProxies, proxies] = differenceOf(
      before.ipv6.proxies,
      after.ipv6.proxies,
      isSameProxy,
    );
    left.ipv6 = { ...before.ipv6, routes: old6, proxies: oldProxies };
    plan.ipv6 = { ...after.ipv6, routes: now6, proxies };
  }
  return { plan, found: wantedRouting(left) };
}

function isSameRoute(a: MeshRoute, b: MeshRoute): boolean {
  return (
    a.destination === b.destination &&
    a.via === b.via &&
    a.table === b.table &&
    a.source === b.source &&
    a.isLocal === b.isLocal &&
    a.device === b.device
  );
}

function isSameProxy(a: MeshProxy, b: MeshProxy): boolean {
  return a.address === b.address && a.bridge === b.bridge;
}

function routeKey(route: { destination: string; table: string }): string {
  return `${route.destination} table ${route.table}`;
}

/** What cannot be changed on a VXLAN device that exists. */
function identityOf(link: { mac: string; vni: number; local: string; port: number }): string {
  return `${link.mac} ${link.vni} ${link.local} ${link.port}`;
}

/** The mesh device among the host's interfaces, as `RoutingState` has it. */
export function foundLink(
  interfaces: Interface[],
): Pick<RoutingState, "link" | "mtu" | "addresses"> {
  const device = interfaces.find((candidate) => candidate.name === MESH_DEVICE);
  const { vxlan } = device ?? {};
  if (!device || !vxlan || !device.isUp || vxlan.isLearning) {
    return { link: undefined, mtu: 0, addresses: new Map() };
  }
  return {
    link: identityOf({ mac: device.mac, vni: vxlan.id, local: vxlan.local, port: vxlan.port }),
    mtu: device.mtu,
    addresses: new Map(
      device.addresses
        .map(({ address, prefixLength }) => `${address}/${prefixLength}`)
        .map((address) => [address, address]),
    ),
  };
}

/** Addresses of IPv6 that we gave devices, in this or an earlier run; the kernel gives them others. */
export function foundAddresses6(interfaces: Interface[]): Map<string, string> {
  const isOurs = (device: string, address: string) =>
    isMeshDevice(device)
      ? isMeshAddress6(address)
      : isBridgeName(device) && address === BRIDGE_LINK_LOCAL;
  const lines = interfaces.flatMap(({ name, addresses6 = [] }) =>
    addresses6
      .filter(({ address }) => isOurs(name, address))
      .map(({ address, prefixLength }) => addressLine6({ device: name, address, prefixLength })),
  );
  return new Map(lines.map((line) => [line, line]));
}

/** Objects that go with the mesh device are gone when it has to be made again. */
export function diffRouting(plan: MeshPlan, found: RoutingState): RoutingSteps {
  const wanted = wantedRouting(plan);
  const steps: RoutingSteps = {
    ip: [],
    bridge: [],
    ipLast: [],
    bridgeLast: [],
    ip6: [],
    ip6Last: [],
    counts: {},
  };
  const count = (kind: DriftKind, number: number) => {
    if (number > 0) steps.counts[kind] = (steps.counts[kind] ?? 0) + number;
  };
  let base = found;
  if (found.link !== wanted.link) {
    count("link", 1);
    steps.ip.push(
      `link del ${MESH_DEVICE}`,
      `link add ${linkLine(plan.link)}`,
      `link set ${MESH_DEVICE} up`,
    );
    const empty = () => new Map<string, string>();
    base = {
      link: wanted.link,
      mtu: wanted.mtu,
      addresses: empty(),
      neighbours: empty(),
      forwarding: empty(),
      routes: empty(),
      rules: found.rules,
      ...(found.six
        ? { six: { ...emptyState6(), rules: found.six.rules, proxies: found.six.proxies } }
        : {}),
    };
  } else if (found.mtu !== wanted.mtu) {
    count("link", 1);
    steps.ip.push(`link set ${MESH_DEVICE} mtu ${wanted.mtu}`);
  }
  const isLinkNew = base !== found;
  const compare = (
    kind: DriftKind,
    want: Map<string, string>,
    have: Map<string, string>,
    put: (line: string) => void,
    remove: (key: string) => void,
  ) => {
    let changes = 0;
    for (const [key, line] of want) {
      if (have.get(key) === line) continue;
      changes += 1;
      put(line);
    }
    for (const key of have.keys()) {
      if (want.has(key)) continue;
      changes += 1;
      remove(key);
    }
    // A new device has nothing: that is one drift, not hundreds.
    if (!isLinkNew || kind === "rule" || kind === "proxy") count(kind, changes);
  };
  compare(
    "address",
    wanted.addresses,
    base.addresses,
    (line) => steps.ip.push(`addr replace ${line} dev ${MESH_DEVICE}`),
    (key) => steps.ipLast.push(`addr del ${key} dev ${MESH_DEVICE}`),
  );
  compare(
    "neighbour",
    wanted.neighbours,
    base.neighbours,
    (line) => steps.ip.push(`neigh replace ${line}`),
    (key) => steps.ipLast.push(`neigh del ${key} dev ${MESH_DEVICE}`),
  );
  compare(
    "forwarding",
    wanted.forwarding,
    base.forwarding,
    (line) => steps.bridge.push(`fdb replace ${line}`),
    (key) => steps.bridgeLast.push(`fdb del ${key} dev ${MESH_DEVICE} self`),
  );
  compare(
    "route",
    wanted.routes,
    base.routes,
    (line) => steps.ip.push(`route replace ${line}`),
    (key) => steps.ipLast.push(`route del ${key} proto ${ROUTE_PROTOCOL}`),
  );
  compare(
    "rule",
    wanted.rules,
    base.rules,
    (line) => steps.ip.push(`rule add ${line}`),
    (key) => steps.ipLast.push(`rule del ${key}`),
  );
  if (!wanted.six && !base.six) return steps;
  const want = wanted.six ?? emptyState6();
  const have = base.six ?? emptyState6();
  compare(
    "address",
    want.addresses,
    have.addresses,
    // The kernel would look for others with this address first, and not use it meanwhile.
    (line) => steps.ip6.push(`addr replace ${line} nodad`),
    (key) => steps.ip6Last.push(`addr del ${key}`),
  );
  compare(
    "neighbour",
    want.neighbours,
    have.neighbours,
    (line) => steps.ip6.push(`neigh replace ${line}`),
    (key) => steps.ip6Last.push(`neigh del ${key}`),
  );
  compare(
    "route",
    want.routes,
    have.routes,
    (line) => steps.ip6.push(`route replace ${line}`),
    (key) => steps.ip6Last.push(`route del ${key} proto ${ROUTE_PROTOCOL}`),
  );
  compare(
    "rule",
    want.rules,
    have.rules,
    (line) => steps.ip6.push(`rule add ${line}`),
    (key) => steps.ip6Last.push(`rule del ${key}`),
  );
  compare(
    "proxy",
    want.proxies,
    have.proxies,
    (line) => steps.ip6.push(`neigh replace proxy ${line}`),
    (key) => steps.ip6Last.push(`neigh del proxy ${key}`),
  );
  return steps;
}

function emptyState6(): RoutingState6 {
  const empty = () => new Map<string, string>();
  return {
    addresses: empty(),
    neighbours: empty(),
    routes: empty(),
    rules: empty(),
    proxies: empty(),
  };
}

/** Settings to write: `key=value`. A setting whose key is not found does not exist in this kernel. */
export function diffSysctls(
  wanted: MeshSysctl[],
  found: Map<string, number>,
): { line: string; device: string | undefined }[] {
  return wanted
    .filter(({ key, value, isMinimum, from }) => {
      const current = found.get(key);
      if (current === undefined || (from !== undefined && current !== from)) return false;
      return isMinimum ? current < value : current !== value;
    })
    .map(({ key, value, device }) => ({ line: `${key}=${value}`, device }));
}
