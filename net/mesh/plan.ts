/**
 * Endpoint table → what this node's kernel must hold. Pure: the same table gives the same plan,
 * whatever order the items came in.
 *
 * The design (DESIGN.md): every overlay network is a Docker bridge with the same subnet and gateway
 * on every node; between nodes all is routed over one VXLAN device; service addresses and published
 * ports are translated in the host's namespace. This file decides *what*; `render.ts` and the
 * back-end decide in which tool's words.
 *
 * Entries that contradict each other (two peers with one address, two services with one port,
 * overlapping subnets) must not make the whole kernel transaction fail: one of them is left out and
 * named in `conflicts`.
 */
import type { EndpointEntry, Peer, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId } from "../../core/ids.ts";
import type { Network } from "../../core/objects/network.ts";
import { overlayMtu } from "./docker-network.ts";
import { compareIpv4, isInBlock, isIpv4, parseIpv4, parseIpv4Block } from "./ipv4.ts";
import {
  bridgeName,
  chainNamePart,
  MARK_NODE_MASK,
  MESH_DEVICE,
  MESH_VNI,
  meshMac,
  NODE_INDEX_MAX,
  nodeMark,
  RETURN_TABLE,
  RULE_GATE_PRIORITY,
  RULE_PEER_PRIORITY,
} from "./names.ts";
import type { MeshTable } from "./table.ts";

export type PlanOptions = {
  /** MTU of the device that carries the node's data path address. */
  underlayMtu: number;
  /** `increment` gives exact turns, for tests. */
  balance: "random" | "increment";
  /** False when bridged packets cannot pass conntrack: a task on the client's node loses the client's address. */
  hasBrNetfilter: boolean;
  /** Service addresses are the host's own (IPVS); else a route that leads nowhere. @default false */
  hasLocalVirtualIps?: boolean;
  /** What the back-end wants beside. @default none */
  sysctls?: readonly MeshSysctl[];
};

export type MeshLink = { mac: string; mtu: number; vni: number; local: string; port: number };
export type MeshRoute = {
  /** `a.b.c.d/32` or `default`. */
  destination: string;
  /** `main` or a number. */
  table: string;
  /** Underlay address of the node behind which it lies; absent for service addresses (scope link). */
  via?: string;
  /** Preferred source, the node's own mesh address. */
  source?: string;
  /** The destination is this host. */
  isLocal?: boolean;
};
export type MeshRule =
  | { priority: number; mark: number; mask: number; goto: number }
  | { priority: number; mark: number; mask: number; table: number };
export type MeshSysctl = {
  key: string;
  value: number;
  /** Only to be set while this device exists. */
  device?: string;
  /** A higher value is as good. */
  isMinimum?: boolean;
};

export type FilterNetwork = {
  bridge: string;
  subnet: string;
  /** Containers reach each other on it. False for the ingress network. */
  isOpen: boolean;
};
export type Family = "ipv4" | "ipv6";
/**
 * What a back-end (nftables, iptables, IPVS) turns into its own rules; one plan a family, of the same
 * shape: addresses, subnets and gateways are of the plan's family, all but those of `peers`.
 */
export type FilterPlan = {
  family: Family;
  dataPathPort: number;
  balance: "random" | "increment";
  hasBrNetfilter: boolean;
  /** Other nodes; `mac` is the source of what they send through the mesh, `address` the underlay's. */
  peers: { address: string; mac: string; index: number }[];
  /** Mesh addresses of all nodes, the own one included. */
  meshAddresses: string[];
  /** Networks that are (or are about to be) on this node. */
  networks: FilterNetwork[];
  /** Subnets and gateways of all networks of the cluster. */
  subnets: string[];
  gateways: string[];
  /** Addresses of local tasks: they may be sent back to where they came from. */
  localAddresses: string[];
  /** Nodes' and tasks' addresses where the task lives on the node itself. */
  selfLoops: { node: string; task: string }[];
  /** Published ports of local tasks, as seen behind the translation. */
  publishedTasks: { address: string; protocol: string; port: number }[];
  virtualIps: {
    serviceId: string;
    bridge: string;
    address: string;
    /** New connections of one client address go to one task, as long as the targets are the same. */
    hasAffinity: boolean;
    chain: string;
    targets: string[];
    /** Tasks that get no new connection but may have old ones. */
    unready: string[];
  }[];
  ports: {
    serviceId: string;
    protocol: "tcp" | "udp" | "sctp";
    publishedPort: number;
    targetPort: number;
    /** As of a service address. */
    hasAffinity: boolean;
    /** Tasks see this node's address and not the client's. */
    isSnat: boolean;
    targets: string[];
    unready: string[];
  }[];
};

export type MeshPlan = {
  link: MeshLink;
  meshAddress: string;
  neighbours: { address: string; mac: string }[];
  forwarding: { mac: string; address: string }[];
  routes: MeshRoute[];
  rules: MeshRule[];
  sysctls: MeshSysctl[];
  filter: FilterPlan;
  /** While the cluster has a network with IPv6. */
  filter6?: FilterPlan;
  /** Every leg of every task as `address@nodeId`; one that goes away leaves dead flows behind. */
  legs: string[];
  /** What was left out, and why. */
  conflicts: string[];
};

type Draft = { conflicts: string[] };

/**
 * The plan for the node that `table.settings` names, or undefined while the table does not hold the
 * node's own peer entry: then the kernel stays as it is.
 * `presentNetworkIds`: overlay networks that the engine has here. `memory`: of the plans before this
 * one; it changes what planning costs and which parts are the same objects, never what is planned.
 */
export function planMesh(
  table: MeshTable,
  presentNetworkIds: ReadonlySet<NetworkId>,
  options: PlanOptions,
  memory: PlanMemory = createPlanMemory(),
): MeshPlan | undefined {
  const { settings } = table;
  const self = [...table.peers.values()].find((peer) => peer.nodeId === settings?.nodeId);
  if (!settings || !self || !isIpv4(self.dataPathAddr) || !isIpv4(self.meshAddress))
    return undefined;
  const draft: Draft = { conflicts: [] };
  const peers = choosePeers(table, self, draft);
  const nodeAddress = new Map(peers.map((peer) => [peer.nodeId, peer.dataPathAddr]));
  nodeAddress.set(self.nodeId, self.dataPathAddr);
  const networks = chooseNetworks(table, draft);
  const networkById = new Map(networks.map((network) => [network.id, network]));
  const services = [...table.services.values()].sort((a, b) =>
    compareText(a.serviceId, b.serviceId),
  );
  const serviceById = new Map(services.map((service) => [service.serviceId, service]));
  const endpoints = [...table.endpoints.values()]
    .filter((endpoint) => nodeAddress.has(endpoint.nodeId))
    .map((endpoint) => {
      const isUsable = (leg: EndpointEntry["addresses"][number]) =>
        networkById.has(leg.networkId) && isIpv4(leg.address);
      // The same object where nothing is left out: the memory knows it again.
      return endpoint.addresses.every(isUsable)
        ? endpoint
        : { ...endpoint, addresses: endpoint.addresses.filter(isUsable) };
    })
    .sort((a, b) => compareText(a.taskId, b.taskId));
  const local = endpoints.filter((endpoint) => endpoint.nodeId === self.nodeId);
  // A network with an assigned task counts before the engine has it: routes come before packets.
  const presentIds = new Set(presentNetworkIds);
  for (const endpoint of local) {
    for (const leg of endpoint.addresses) presentIds.add(leg.networkId);
  }
  const present = networks.filter((network) => presentIds.has(network.id));

  const publishAddress = new Map<string, string>();
  for (const endpoint of endpoints) {
    const address = publishAddressOf(endpoint, networkById);
    if (address !== undefined) publishAddress.set(endpoint.taskId, address);
  }
  const endpointsOf = groupByService(endpoints);
  const publishedOf = choosePorts(services, draft);

  const localAddresses = unique(
    local.flatMap((endpoint) => endpoint.addresses.map((leg) => leg.address)),
  );
  const routes = planRoutes({
    self,
    peers,
    endpoints: endpoints.filter((endpoint) => endpoint.nodeId !== self.nodeId),
    nodeAddress,
    presentIds,
    publishAddress,
    isPublished: (endpoint) => (serviceById.get(endpoint.serviceId)?.ports.length ?? 0) > 0,
    localAddresses: new Set(localAddresses),
  });

  const context: ServiceContext = {
    selfId: self.nodeId,
    networkById,
    presentIds,
    nodeAddress,
    publishAddress,
    bridges: new Map(present.map((network) => [network.id, bridgeName(network.id)])),
  };
  refreshMemory(memory, networks, context);
  const virtualIps: FilterPlan["virtualIps"] = [];
  const ports: FilterPlan["ports"] = [];
  const publishedTasks: FilterPlan["publishedTasks"] = [];
  const selfLoops = new Map<string, { node: string; task: string }>();
  for (const service of services) {
    const mine = endpointsOf.get(service.serviceId) ?? [];
    const published = publishedOf.get(service.serviceId) ?? [];
    const parts = recallService(memory, service, mine, published, context);
    virtualIps.push(...parts.virtualIps);
    ports.push(...parts.ports);
    publishedTasks.push(...parts.publishedTasks);
    for (const loop of parts.selfLoops) selfLoops.set(`${loop.node} ${loop.task}`, loop);
  }
  if (memory.services.size > services.length) {
    for (const id of memory.services.keys()) if (!serviceById.has(id)) memory.services.delete(id);
  }
  const usableVips = chooseVirtualIps(virtualIps, draft);
  for (const { address } of usableVips) {
    const destination = `${address}/32`;
    const route: MeshRoute = options.hasLocalVirtualIps
      ? { destination, table: "local", source: self.meshAddress, isLocal: true }
      : { destination, table: "main" };
    routes.set(`${route.table} ${destination}`, route);
  }

  return {
    link: {
      mac: meshMac(self.dataPathAddr),
      mtu: overlayMtu(options.underlayMtu),
      vni: MESH_VNI,
      local: self.dataPathAddr,
      port: settings.dataPathPort,
    },
    meshAddress: self.meshAddress,
    neighbours: peers.map((peer) => ({
      address: peer.dataPathAddr,
      mac: meshMac(peer.dataPathAddr),
    })),
    forwarding: peers.map((peer) => ({
      mac: meshMac(peer.dataPathAddr),
      address: peer.dataPathAddr,
    })),
    routes: [...routes.values()].sort(
      (a, b) => compareText(a.table, b.table) || compareText(a.destination, b.destination),
    ),
    rules: planRules(peers),
    sysctls: planSysctls(present, options),
    filter: {
      family: "ipv4",
      dataPathPort: settings.dataPathPort,
      balance: options.balance,
      hasBrNetfilter: options.hasBrNetfilter,
      peers: peers.map((peer) => ({
        address: peer.dataPathAddr,
        mac: meshMac(peer.dataPathAddr),
        index: peer.index,
      })),
      meshAddresses: unique([self.meshAddress, ...peers.map((peer) => peer.meshAddress)]),
      networks: present.map((network) => ({
        bridge: bridgeName(network.id),
        subnet: network.subnet,
        isOpen: !network.spec.Ingress,
      })),
      subnets: networks.map((network) => network.subnet),
      gateways: networks.map((network) => network.gateway),
      localAddresses,
      selfLoops: [...selfLoops.values()].sort(
        (a, b) => compareIpv4(a.task, b.task) || compareIpv4(a.node, b.node),
      ),
      publishedTasks,
      virtualIps: usableVips,
      ports,
    },
    legs: endpoints
      .flatMap((endpoint) => endpoint.addresses.map((leg) => `${leg.address}@${endpoint.nodeId}`))
      .sort(),
    conflicts: draft.conflicts,
  };
}

type ServiceContext = {
  selfId: string;
  networkById: ReadonlyMap<NetworkId, Network>;
  presentIds: ReadonlySet<NetworkId>;
  nodeAddress: ReadonlyMap<string, string>;
  publishAddress: ReadonlyMap<string, string>;
  /** Bridge of every network that is here. */
  bridges: ReadonlyMap<NetworkId, string>;
};
type ServiceParts = Pick<FilterPlan, "virtualIps" | "ports" | "publishedTasks" | "selfLoops">;

/** What the last plan made of each service, and of what. */
export type PlanMemory = {
  /** Everything that the parts of every service depend on, as text. */
  environment: string;
  services: Map<
    string,
    {
      service: ServiceEntry;
      endpoints: EndpointEntry[];
      published: PortEntry[];
      parts: ServiceParts;
    }
  >;
};

export function createPlanMemory(): PlanMemory {
  return { environment: "", services: new Map() };
}

/** Forgets everything when something changed that concerns all services. */
function refreshMemory(memory: PlanMemory, networks: Network[], context: ServiceContext): void {
  const environment = JSON.stringify([
    context.selfId,
    [...context.nodeAddress],
    networks.map(({ id, spec }) => [id, spec.Name, spec.Internal, context.presentIds.has(id)]),
  ]);
  if (environment === memory.environment) return;
  memory.environment = environment;
  memory.services.clear();
}

function recallService(
  memory: PlanMemory,
  service: ServiceEntry,
  endpoints: EndpointEntry[],
  published: PortEntry[],
  context: ServiceContext,
): ServiceParts {
  const known = memory.services.get(service.serviceId);
  const isSamePort = (a: PortEntry, b: PortEntry | undefined) =>
    a.protocol === b?.protocol &&
    a.publishedPort === b.publishedPort &&
    a.targetPort === b.targetPort &&
    a.publish === b.publish;
  if (
    known?.service === service &&
    known.endpoints.length === endpoints.length &&
    known.endpoints.every((endpoint, place) => endpoint === endpoints[place]) &&
    known.published.length === published.length &&
    known.published.every((port, place) => isSamePort(port, published[place]))
  ) {
    return known.parts;
  }
  const parts = planService(service, endpoints, published, context);
  memory.services.set(service.serviceId, { service, endpoints, published, parts });
  return parts;
}

function planService(
  service: ServiceEntry,
  mine: EndpointEntry[],
  published: PortEntry[],
  context: ServiceContext,
): ServiceParts {
  const { networkById, publishAddress, nodeAddress } = context;
  const parts: ServiceParts = { virtualIps: [], ports: [], publishedTasks: [], selfLoops: [] };
  const ready = mine.filter((endpoint) => endpoint.isReady);
  const isHere = (endpoint: EndpointEntry) => endpoint.nodeId === context.selfId;
  const { balancing } = service;
  const hasAffinity = balancing?.hasAffinity === true;
  /** Those on this node before all others, where that is asked for. */
  const nearest = (some: EndpointEntry[]) => {
    const here = balancing?.isLocalFirst ? some.filter(isHere) : [];
    return here.length > 0 ? here : some;
  };
  for (const virtualIp of service.mode === "vip" ? service.virtualIps : []) {
    const network = networkById.get(virtualIp.networkId);
    const bridge = context.bridges.get(virtualIp.networkId);
    if (!network || bridge === undefined || !isIpv4(virtualIp.address)) continue;
    const legsOf = (some: EndpointEntry[]) =>
      unique(
        some.flatMap((endpoint) =>
          endpoint.addresses
            .filter((leg) => leg.networkId === network.id)
            .map((leg) => leg.address),
        ),
      );
    const targets = legsOf(nearest(ready));
    parts.virtualIps.push({
      serviceId: service.serviceId,
      bridge,
      address: virtualIp.address,
      hasAffinity,
      chain: `vip_${chainNamePart(service.serviceId)}_${bridge}`,
      targets,
      // What is ready elsewhere keeps the connections that it has, as a task that drains does.
      unready: without(legsOf(mine), targets),
    });
  }
  const addressesOf = (some: EndpointEntry[]) =>
    unique(some.flatMap((endpoint) => publishAddress.get(endpoint.taskId) ?? []));
  for (const { publish, ...port } of published) {
    const targets = addressesOf(publish === "local" ? ready.filter(isHere) : nearest(ready));
    parts.ports.push({
      serviceId: service.serviceId,
      ...port,
      hasAffinity,
      isSnat: publish === "snat",
      targets,
      unready: without(addressesOf(mine), targets),
    });
    for (const address of addressesOf(mine.filter(isHere))) {
      parts.publishedTasks.push({ address, protocol: port.protocol, port: port.targetPort });
    }
  }
  if (published.length === 0) return parts;
  for (const endpoint of mine) {
    const node = nodeAddress.get(endpoint.nodeId);
    const task = publishAddress.get(endpoint.taskId);
    if (node !== undefined && task !== undefined) parts.selfLoops.push({ node, task });
  }
  return parts;
}

/** The address to which published ports are translated; none for a task with internal legs only. */
export function publishAddressOf(
  endpoint: Pick<EndpointEntry, "addresses">,
  networkById: ReadonlyMap<NetworkId, Network>,
): string | undefined {
  // The leg with the container's default route: both directions of a published flow use one bridge.
  // Source: libnetwork, order of a sandbox's endpoints (non-internal first, then by network name).
  let best: { name: string; address: string } | undefined;
  for (const leg of endpoint.addresses) {
    const network = networkById.get(leg.networkId);
    if (!network || network.spec.Internal) continue;
    if (!best || compareText(network.spec.Name, best.name) < 0) {
      best = { name: network.spec.Name, address: leg.address };
    }
  }
  return best?.address;
}

/** Other nodes; of those with one underlay address only the newest (a node that joined again). */
function choosePeers(table: MeshTable, self: Peer, draft: Draft): Peer[] {
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
      draft.conflicts.push(`node ${peer.nodeId}: bad address or index`);
      continue;
    }
    if (
      peer.dataPathAddr === self.dataPathAddr ||
      byAddress.has(peer.dataPathAddr) ||
      indexes.has(peer.index)
    ) {
      draft.conflicts.push(
        `node ${peer.nodeId}: another node has address ${peer.dataPathAddr} or index ${peer.index}`,
      );
      continue;
    }
    byAddress.set(peer.dataPathAddr, peer);
    indexes.add(peer.index);
  }
  return [...byAddress.values()].sort((a, b) => a.index - b.index);
}

type OverlayNetwork = Network & { subnet: string; gateway: string };

/** Networks with a subnet, ordered by it; one that overlaps an earlier one is left out. */
function chooseNetworks(table: MeshTable, draft: Draft): OverlayNetwork[] {
  const candidates: { network: OverlayNetwork; first: number; last: number }[] = [];
  for (const network of table.networks.values()) {
    const { subnet, gateway } = network;
    if (network.predefined || subnet === undefined || gateway === undefined) continue;
    const block = parseIpv4Block(subnet);
    const gatewayValue = parseIpv4(gateway);
    if (!block || gatewayValue === undefined || !isInBlock(block, gatewayValue)) {
      draft.conflicts.push(
        `network ${network.spec.Name}: bad subnet ${subnet} or gateway ${gateway}`,
      );
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
      draft.conflicts.push(`network ${network.spec.Name}: subnet ${network.subnet} is taken`);
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

type PortEntry = ServiceEntry["ports"][number];

/** Published ports by service; a port that two services claim stays with the first by id. */
function choosePorts(services: ServiceEntry[], draft: Draft): Map<string, PortEntry[]> {
  const taken = new Set<string>();
  const chosen = new Map<string, PortEntry[]>();
  for (const service of services) {
    const ports = [];
    for (const port of service.ports) {
      const { protocol, publishedPort, targetPort } = port;
      const key = `${publishedPort}/${protocol}`;
      // Text of a table is one transaction: nothing in it may be what nft does not know.
      if (!PROTOCOLS.has(protocol) || !isPort(publishedPort) || !isPort(targetPort)) {
        draft.conflicts.push(`service ${service.name}: bad port ${key} to ${targetPort}`);
        continue;
      }
      if (taken.has(key)) {
        draft.conflicts.push(`service ${service.name}: port ${key} is taken`);
        continue;
      }
      taken.add(key);
      ports.push(port);
    }
    chosen.set(service.serviceId, ports);
  }
  return chosen;
}

function chooseVirtualIps(
  virtualIps: FilterPlan["virtualIps"],
  draft: Draft,
): FilterPlan["virtualIps"] {
  const taken = new Set<string>();
  const chosen: FilterPlan["virtualIps"] = [];
  for (const virtualIp of virtualIps) {
    if (taken.has(virtualIp.address) || taken.has(virtualIp.chain)) {
      draft.conflicts.push(`service address ${virtualIp.address}: given twice`);
      continue;
    }
    taken.add(virtualIp.address).add(virtualIp.chain);
    chosen.push(virtualIp);
  }
  return chosen.sort((a, b) => compareIpv4(a.address, b.address));
}

function planRoutes(input: {
  self: Peer;
  peers: Peer[];
  /** On other nodes. */
  endpoints: EndpointEntry[];
  nodeAddress: Map<string, string>;
  presentIds: Set<NetworkId>;
  publishAddress: Map<string, string>;
  isPublished(endpoint: EndpointEntry): boolean;
  localAddresses: Set<string>;
}): Map<string, MeshRoute> {
  const routes = new Map<string, MeshRoute>();
  const add = (route: MeshRoute) => routes.set(`${route.table} ${route.destination}`, route);
  const source = input.self.meshAddress;
  for (const peer of input.peers) {
    const via = peer.dataPathAddr;
    add({ destination: `${peer.meshAddress}/32`, table: "main", via, source });
    add({ destination: "default", table: String(RETURN_TABLE + peer.index), via });
  }
  for (const endpoint of input.endpoints) {
    const via = input.nodeAddress.get(endpoint.nodeId);
    if (via === undefined) continue;
    const wanted = endpoint.addresses
      .filter((leg) => input.presentIds.has(leg.networkId))
      .map((leg) => leg.address);
    const published = input.publishAddress.get(endpoint.taskId);
    if (published !== undefined && input.isPublished(endpoint)) wanted.push(published);
    for (const address of wanted) {
      // A /32 to elsewhere for an address that lives here would be a black hole.
      if (input.localAddresses.has(address)) continue;
      add({ destination: `${address}/32`, table: "main", via, source });
    }
  }
  return routes;
}

function planRules(peers: Peer[]): MeshRule[] {
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

function planSysctls(present: Network[], options: PlanOptions): MeshSysctl[] {
  const device = MESH_DEVICE;
  const sysctls: MeshSysctl[] = [
    // Answers of published flows leave by another device than the one a strict filter expects.
    { key: `net.ipv4.conf.${device}.rp_filter`, value: 2, device },
    { key: `net.ipv4.conf.${device}.route_localnet`, value: 1, device },
    { key: `net.ipv4.conf.${device}.send_redirects`, value: 0, device },
    { key: `net.ipv4.conf.${device}.forwarding`, value: 1, device },
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
    ] as const;
    for (const [name, value] of values) {
      sysctls.push({ key: `net.ipv4.conf.${bridge}.${name}`, value, device: bridge });
    }
    // The default delays each proxied ARP answer by up to 0.8 s at random.
    sysctls.push({ key: `net.ipv4.neigh.${bridge}.proxy_delay`, value: 0, device: bridge });
  }
  return sysctls;
}

function groupByService(endpoints: EndpointEntry[]): Map<string, EndpointEntry[]> {
  const groups = new Map<string, EndpointEntry[]>();
  for (const endpoint of endpoints) {
    const group = groups.get(endpoint.serviceId);
    if (group) group.push(endpoint);
    else groups.set(endpoint.serviceId, [endpoint]);
  }
  return groups;
}

function without(addresses: string[], others: string[]): string[] {
  const left = new Set(others);
  return addresses.filter((address) => !left.has(address));
}

function unique(addresses: string[]): string[] {
  return [...new Set(addresses)].sort(compareIpv4);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
