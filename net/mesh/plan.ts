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
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import { overlayMtu } from "./docker-network.ts";
import { type EncryptionPlan, planEncryption } from "./encryption-plan.ts";
import { compareIpv4, isInBlock, isIpv4, parseIpv4, parseIpv4Block } from "./ipv4.ts";
import {
  BRIDGE_LINK_LOCAL,
  bridgeName,
  chainNamePart,
  ENCRYPTED_DEVICE,
  ENCRYPTED_TABLE,
  encryptedMac,
  encryptedProbeAddress,
  MARK_NODE_MASK,
  meshAddress6,
  MESH_DEVICE,
  MESH_VNI,
  meshMac,
  NODE_INDEX_MAX,
  nodeMark,
  RETURN_TABLE,
  RULE_BRANCH_PRIORITY,
  RULE_ENCRYPTED_PRIORITY,
  RULE_GATE_PRIORITY,
  RULE_PEER_PRIORITY,
} from "./names.ts";
import {
  endpointInIpv6,
  hopInIpv6,
  isIpv6,
  meshDevices,
  neighboursInIpv6,
  networksInIpv6,
  planProxies,
  planSysctls6,
  serviceInIpv6,
} from "./plan-ipv6.ts";
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
  /** False where the kernel has no IPv6: then networks have IPv4 only here. @default true */
  hasIpv6?: boolean;
  /** Encrypted networks are carried; else this node has nothing to do with them. @default false */
  canEncrypt?: boolean;
  /** Devices of the host, for what can only be told of one that exists. @default all that are asked for */
  devices?: ReadonlySet<string>;
  /** Devices with IPv6 addresses that a router gave. @default none */
  advertisedDevices?: readonly string[];
};

export type MeshLink = { mac: string; mtu: number; vni: number; local: string; port: number };
export type MeshRoute = {
  /** `a.b.c.d/32` (in IPv6 `…/128`) or `default`. */
  destination: string;
  /** `main` or a number. */
  table: string;
  /**
   * Underlay address of the node behind which it lies, in IPv6 its mesh address; absent for service
   * addresses (scope link).
   */
  via?: string;
  /** Preferred source, the node's own mesh address. */
  source?: string;
  /** The destination is this host. */
  isLocal?: boolean;
  /** @default MESH_DEVICE */
  device?: string;
};
export type MeshRule =
  | { priority: number; mark: number; mask: number; goto: number }
  | { priority: number; mark: number; mask: number; table: number }
  | { priority: number; from: string; goto: number }
  | { priority: number; from: string; table: number };
export type MeshSysctl = {
  key: string;
  value: number;
  /** Only to be set while this device exists. */
  device?: string;
  /** A higher value is as good. */
  isMinimum?: boolean;
  /** Only to be set where it has this value. */
  from?: number;
};
/** An IPv6 address that a bridge answers for in place of a container elsewhere. */
export type MeshProxy = { bridge: string; address: string };
export type MeshAddress6 = { device: string; address: string; prefixLength: number };
export type MeshNeighbour6 = { device: string; address: string; mac: string };
/** What the routing needs in IPv6. */
export type Ipv6Plan = {
  addresses: MeshAddress6[];
  rules: MeshRule[];
  neighbours: MeshNeighbour6[];
  routes: MeshRoute[];
  proxies: MeshProxy[];
};

export type FilterNetwork = {
  bridge: string;
  subnet: string;
  /** Containers reach each other on it. False for the ingress network. */
  isOpen: boolean;
  /** Nothing of it comes or goes by the mesh device. */
  isEncrypted?: true;
};
export type Family = "ipv4" | "ipv6";
/**
 * What a back-end (nftables, iptables, IPVS) turns into its own rules; one plan a family, of the same
 * shape: addresses, subnets and gateways are of the plan's family, all but those of `peers`.
 */
export type FilterPlan = {
  family: Family;
  dataPathPort: number;
  /** While the cluster has an encrypted network: what is for this port comes and goes by IPsec only. */
  encryptedPort?: number;
  /** Of all encrypted networks, also where this node cannot encrypt: what is for them leaves by no other way. */
  encryptedSubnets?: string[];
  balance: "random" | "increment";
  hasBrNetfilter: boolean;
  /** Other nodes; `mac` is the source of what they send through the mesh, `address` the underlay's. */
  peers: {
    address: string;
    mac: string;
    /** Of what they send encrypted, while the cluster has such a network. */
    encryptedMac?: string;
    index: number;
  }[];
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

/** Sources of what a peer sends, whichever device it comes by. */
export function macsOf(peer: FilterPlan["peers"][number]): string[] {
  return peer.encryptedMac === undefined ? [peer.mac] : [peer.mac, peer.encryptedMac];
}

export type MeshPlan = {
  link: MeshLink;
  meshAddress: string;
  neighbours: { address: string; mac: string }[];
  forwarding: { mac: string; address: string }[];
  routes: MeshRoute[];
  rules: MeshRule[];
  sysctls: MeshSysctl[];
  filter: FilterPlan;
  /** While the cluster has a network with IPv6; both or none. */
  filter6?: FilterPlan;
  /** While the cluster has an encrypted network, and this node can carry it. */
  encryption?: EncryptionPlan;
  ipv6?: Ipv6Plan;
  /** Every leg of every task as `address@nodeId@taskId`; one that goes away leaves dead flows behind. */
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
  // Without encryption such a network is none: its packets are never sent in clear.
  const isCarried = (network: Network | undefined) =>
    network !== undefined && (options.canEncrypt === true || !isEncrypted(network));
  const services = [...table.services.values()].sort((a, b) =>
    compareText(a.serviceId, b.serviceId),
  );
  const serviceById = new Map(services.map((service) => [service.serviceId, service]));
  const facts = recallEndpoints(memory, table, networks, isCarried).filter(({ usable }) =>
    nodeAddress.has(usable.nodeId),
  );
  const endpoints = facts.map(({ usable }) => usable);
  const local = endpoints.filter((endpoint) => endpoint.nodeId === self.nodeId);
  // A network with an assigned task counts before the engine has it: routes come before packets.
  const presentIds = new Set(presentNetworkIds);
  for (const endpoint of local) {
    for (const leg of endpoint.addresses) presentIds.add(leg.networkId);
  }
  const present = networks.filter((network) => presentIds.has(network.id) && isCarried(network));

  const publishAddress = new Map<string, string>();
  for (const { usable, published } of facts) {
    if (published !== undefined) publishAddress.set(usable.taskId, published);
  }
  const endpointsOf = groupByService(endpoints);
  const publishedOf = choosePorts(services, draft);

  const isPublished = (endpoint: EndpointEntry) =>
    (serviceById.get(endpoint.serviceId)?.ports.length ?? 0) > 0;
  const localAddresses = unique(
    local.flatMap((endpoint) => endpoint.addresses.map((leg) => leg.address)),
  );
  const hops: Hop[] = peers.map(({ nodeId, index, dataPathAddr, meshAddress }) => ({
    nodeId,
    index,
    clear: dataPathAddr,
    encrypted: dataPathAddr,
    meshAddress,
  }));
  const routes = planRoutes({
    self,
    hops,
    endpoints: endpoints.filter((endpoint) => endpoint.nodeId !== self.nodeId),
    encryptedIds: new Set(networks.filter(isEncrypted).map(({ id }) => id)),
    presentIds,
    publishAddress,
    isPublished,
    localAddresses: new Set(localAddresses),
  });

  const encryption = options.canEncrypt
    ? planEncryption({
        networks,
        self,
        peers,
        keys: table.keys,
        dataPathPort: settings.dataPathPort,
        underlayMtu: options.underlayMtu,
      })
    : undefined;
  if (encryption) {
    addEncryptedReturns(routes, hops, self.meshAddress);
    addProbeRoutes(routes, peers, self);
  }

  const context: ServiceContext = {
    selfId: self.nodeId,
    networkById,
    presentIds,
    sources: new Map([...nodeAddress].map(([nodeId, address]) => [nodeId, [address]])),
    publishAddress,
    bridges: new Map(present.map((network) => [network.id, bridgeName(network.id)])),
    isAddress: isIpv4,
  };
  refreshMemory(memory, networks, context);
  const parts = planServices(memory, { services, endpointsOf, publishedOf, context, draft });
  addVirtualIpRoutes(routes, parts.virtualIps, self.meshAddress, options);
  const common = {
    dataPathPort: settings.dataPathPort,
    balance: options.balance,
    hasBrNetfilter: options.hasBrNetfilter,
    peers: peers.map((peer) => ({
      address: peer.dataPathAddr,
      mac: meshMac(peer.dataPathAddr),
      index: peer.index,
      ...(encryption ? { encryptedMac: encryptedMac(peer.dataPathAddr) } : {}),
    })),
    ...(encryption ? { encryptedPort: encryption.link.port } : {}),
  };
  const six = planIpv6({
    self,
    peers,
    networks,
    presentIds,
    isCarried,
    hasEncryption: encryption !== undefined,
    endpoints,
    services,
    publishedOf,
    publishAddress,
    isPublished,
    options,
    memory,
    draft,
    common,
  });

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
    routes: [...routes.values()],
    rules: [...planRules(peers), ...(encryption ? planEncryptedRules(peers, present) : [])],
    sysctls: [
      ...planSysctls(present, options),
      ...(encryption ? deviceSysctls(ENCRYPTED_DEVICE) : []),
      ...(six?.sysctls ?? []),
    ],
    filter: {
      family: "ipv4",
      ...common,
      meshAddresses: unique([self.meshAddress, ...peers.map((peer) => peer.meshAddress)]),
      ...networkParts(networks, present),
      ...encryptedParts(networks),
      localAddresses,
      ...parts,
    },
    ...(six ? { filter6: six.filter, ipv6: six.routing } : {}),
    ...(encryption ? { encryption } : {}),
    legs: [...facts.flatMap(({ legs }) => legs), ...(six?.legs ?? [])],
    conflicts: draft.conflicts,
  };
}

/** The same for IPv6; undefined while the cluster has no network with it. */
function planIpv6(input: {
  self: Peer;
  peers: Peer[];
  networks: OverlayNetwork[];
  presentIds: Set<NetworkId>;
  isCarried(network: Network): boolean;
  hasEncryption: boolean;
  /** With the legs that are carried. */
  endpoints: EndpointEntry[];
  services: ServiceEntry[];
  publishedOf: Map<string, PortEntry[]>;
  publishAddress: ReadonlyMap<string, string>;
  isPublished(endpoint: EndpointEntry): boolean;
  options: PlanOptions;
  memory: PlanMemory;
  draft: Draft;
  common: Pick<
    FilterPlan,
    "dataPathPort" | "encryptedPort" | "balance" | "hasBrNetfilter" | "peers"
  >;
}): { filter: FilterPlan; routing: Ipv6Plan; sysctls: MeshSysctl[]; legs: string[] } | undefined {
  const { self, peers, presentIds, hasEncryption, options, draft } = input;
  if (!input.networks.some((network) => network.subnet6 !== undefined)) return undefined;
  if (options.hasIpv6 === false) {
    draft.conflicts.push("IPv6 of all networks: this kernel has none");
    return undefined;
  }
  const networks = networksInIpv6(input.networks, draft.conflicts);
  const networkById = new Map(networks.map((network) => [network.id, network]));
  const present = networks.filter(
    (network) => presentIds.has(network.id) && input.isCarried(network),
  );
  const endpoints: EndpointEntry[] = [];
  const publishAddress = new Map<string, string>();
  for (const endpoint of input.endpoints) {
    const seen = endpointInIpv6(endpoint);
    const isUsable = (leg: EndpointEntry["addresses"][number]) => networkById.has(leg.networkId);
    const usable = seen.addresses.every(isUsable)
      ? seen
      : { ...seen, addresses: seen.addresses.filter(isUsable) };
    if (usable.addresses.length === 0) continue;
    endpoints.push(usable);
    // The engine takes the way out of IPv6 from the leg that has that of IPv4, or from none.
    const four = input.publishAddress.get(endpoint.taskId);
    const leg = endpoint.addresses.find(({ address }) => address === four);
    const published = usable.addresses.find(({ networkId }) => networkId === leg?.networkId);
    if (published) publishAddress.set(endpoint.taskId, published.address);
  }
  const isHere = (endpoint: EndpointEntry) => endpoint.nodeId === self.nodeId;
  const localAddresses = unique(
    endpoints.filter(isHere).flatMap((endpoint) => endpoint.addresses.map((leg) => leg.address)),
  );
  const meshAddress = meshAddress6(self.meshAddress);
  const elsewhere = endpoints.filter((endpoint) => !isHere(endpoint));
  const hops = peers.map((peer) => hopInIpv6(peer));
  const routes = planRoutes({
    self: { meshAddress },
    hops,
    endpoints: elsewhere,
    encryptedIds: new Set(networks.filter(isEncrypted).map(({ id }) => id)),
    presentIds,
    publishAddress,
    isPublished: input.isPublished,
    localAddresses: new Set(localAddresses),
  });
  if (hasEncryption) addEncryptedReturns(routes, hops, meshAddress);
  const context: ServiceContext = {
    selfId: self.nodeId,
    networkById,
    presentIds,
    sources: new Map(
      [self, ...peers].map(({ nodeId, addresses6 }) => [nodeId, (addresses6 ?? []).filter(isIpv6)]),
    ),
    publishAddress,
    bridges: new Map(present.map((network) => [network.id, bridgeName(network.id)])),
    isAddress: isIpv6,
  };
  const memory = (input.memory.six ??= createPlanMemory());
  // The leg with the way out is chosen among all networks.
  refreshMemory(memory, [...input.networks, ...networks], context);
  const endpointsOf = groupByService(endpoints);
  const services = input.services
    .map(serviceInIpv6)
    .filter(({ serviceId, virtualIps }) => virtualIps.length > 0 || endpointsOf.has(serviceId));
  const { publishedOf } = input;
  const parts = planServices(memory, { services, endpointsOf, publishedOf, context, draft });
  addVirtualIpRoutes(routes, parts.virtualIps, meshAddress, options);
  const isMade = (bridge: string) => options.devices?.has(bridge) ?? true;
  return {
    filter: {
      family: "ipv6",
      ...input.common,
      meshAddresses: unique([meshAddress, ...hops.map((hop) => hop.meshAddress)]),
      ...networkParts(networks, present),
      ...encryptedParts(networks),
      localAddresses,
      ...parts,
    },
    routing: {
      addresses: [
        ...meshDevices(hasEncryption).map((device) => ({
          device,
          address: meshAddress,
          prefixLength: 128,
        })),
        ...[...context.bridges.values()].filter(isMade).map((device) => ({
          device,
          address: BRIDGE_LINK_LOCAL,
          prefixLength: 64,
        })),
      ],
      rules: [...planRules(peers), ...(hasEncryption ? planEncryptedRules(peers, present) : [])],
      neighbours: peers.flatMap((peer) => neighboursInIpv6(peer, hasEncryption)),
      routes: [...routes.values()],
      proxies: planProxies({
        bridges: context.bridges,
        endpoints: elsewhere,
        virtualIps: parts.virtualIps,
        isMade,
      }),
    },
    sysctls: planSysctls6(meshDevices(hasEncryption), [...context.bridges.values()], {
      hasBrNetfilter: options.hasBrNetfilter,
      advertisedDevices: options.advertisedDevices ?? [],
    }),
    legs: legsOf(endpoints),
  };
}

function encryptedParts(networks: OverlayNetwork[]): Pick<FilterPlan, "encryptedSubnets"> {
  const encryptedSubnets = networks.filter(isEncrypted).map(({ subnet }) => subnet);
  return encryptedSubnets.length > 0 ? { encryptedSubnets } : {};
}

function networkParts(
  networks: OverlayNetwork[],
  present: OverlayNetwork[],
): Pick<FilterPlan, "networks" | "subnets" | "gateways"> {
  return {
    networks: present.map((network) => ({
      bridge: bridgeName(network.id),
      subnet: network.subnet,
      isOpen: !network.spec.Ingress,
      ...(isEncrypted(network) ? { isEncrypted: true as const } : {}),
    })),
    subnets: networks.map((network) => network.subnet),
    gateways: networks.map((network) => network.gateway),
  };
}

function legsOf(endpoints: EndpointEntry[]): string[] {
  return endpoints.flatMap((endpoint) =>
    endpoint.addresses.map((leg) => `${leg.address}@${endpoint.nodeId}@${endpoint.taskId}`),
  );
}

/** What the filter has of all services. */
function planServices(
  memory: PlanMemory,
  input: {
    services: ServiceEntry[];
    endpointsOf: Map<string, EndpointEntry[]>;
    publishedOf: Map<string, PortEntry[]>;
    context: ServiceContext;
    draft: Draft;
  },
): ServiceParts {
  const virtualIps: FilterPlan["virtualIps"] = [];
  const ports: FilterPlan["ports"] = [];
  const publishedTasks: FilterPlan["publishedTasks"] = [];
  const selfLoops = new Map<string, { node: string; task: string }>();
  for (const service of input.services) {
    const mine = input.endpointsOf.get(service.serviceId) ?? [];
    const published = input.publishedOf.get(service.serviceId) ?? [];
    const parts = recallService(memory, service, mine, published, input.context);
    virtualIps.push(...parts.virtualIps);
    ports.push(...parts.ports);
    publishedTasks.push(...parts.publishedTasks);
    for (const loop of parts.selfLoops) selfLoops.set(`${loop.node} ${loop.task}`, loop);
  }
  if (memory.services.size > input.services.length) {
    const known = new Set(input.services.map((service) => service.serviceId));
    for (const id of memory.services.keys()) if (!known.has(id)) memory.services.delete(id);
  }
  return {
    selfLoops: [...selfLoops.values()].sort(
      (a, b) => compareAddress(a.task, b.task) || compareAddress(a.node, b.node),
    ),
    publishedTasks,
    virtualIps: chooseVirtualIps(virtualIps, input.draft),
    ports,
  };
}

function addVirtualIpRoutes(
  routes: Map<string, MeshRoute>,
  virtualIps: FilterPlan["virtualIps"],
  source: string,
  { hasLocalVirtualIps }: PlanOptions,
): void {
  for (const { address } of virtualIps) {
    const destination = hostBlock(address);
    addRoute(
      routes,
      hasLocalVirtualIps
        ? { destination, table: "local", source, isLocal: true }
        : { destination, table: "main" },
    );
  }
}

/** The block of this one address. */
function hostBlock(address: string): string {
  return `${address}/${address.includes(":") ? 128 : 32}`;
}

type ServiceContext = {
  selfId: string;
  networkById: ReadonlyMap<NetworkId, Network>;
  presentIds: ReadonlySet<NetworkId>;
  /** By which addresses a node speaks to others. */
  sources: ReadonlyMap<string, readonly string[]>;
  publishAddress: ReadonlyMap<string, string>;
  /** Bridge of every network that is here. */
  bridges: ReadonlyMap<NetworkId, string>;
  isAddress(text: string): boolean;
};
type ServiceParts = Pick<FilterPlan, "virtualIps" | "ports" | "publishedTasks" | "selfLoops">;

/** What the last plan made of each service, and of what. */
export type PlanMemory = {
  endpoints: {
    /** As of the services. */
    environment: string;
    /** Keys of all endpoints, sorted. */
    order: string[];
    facts: WeakMap<EndpointEntry, EndpointFacts>;
  };
  /** Everything that the parts of every service depend on, as text. */
  environment: string;
  /** The same for IPv6. */
  six?: PlanMemory;
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

/** The memory before the first plan. */
export function createPlanMemory(): PlanMemory {
  return {
    endpoints: { environment: "", order: [], facts: new WeakMap() },
    environment: "",
    services: new Map(),
  };
}

/** What of an endpoint follows from it and from the networks alone. */
type EndpointFacts = {
  /** With the legs that are planned; the same object where none is left out. */
  usable: EndpointEntry;
  published: string | undefined;
  legs: string[];
};

/** Of all endpoints, ordered by key; only those that have changed are looked at. */
function recallEndpoints(
  memory: PlanMemory,
  table: MeshTable,
  networks: OverlayNetwork[],
  isCarried: (network: Network | undefined) => boolean,
): EndpointFacts[] {
  const { endpoints: known } = memory;
  const environment = JSON.stringify(
    networks.map((network) => [
      network.id,
      network.spec.Name,
      network.spec.Internal,
      isCarried(network),
    ]),
  );
  if (environment !== known.environment) known.facts = new WeakMap();
  known.environment = environment;
  known.order = sortedKeys(table.endpoints, known.order);
  const networkById = new Map(networks.map((network) => [network.id, network]));
  return known.order.flatMap((key) => {
    const endpoint = table.endpoints.get(key);
    if (!endpoint) return [];
    let facts = known.facts.get(endpoint);
    if (!facts) {
      const isUsable = (leg: EndpointEntry["addresses"][number]) =>
        isCarried(networkById.get(leg.networkId)) && isIpv4(leg.address);
      const usable = endpoint.addresses.every(isUsable)
        ? endpoint
        : { ...endpoint, addresses: endpoint.addresses.filter(isUsable) };
      const published = publishAddressOf(usable, networkById);
      facts = { usable, published, legs: legsOf([usable]) };
      known.facts.set(endpoint, facts);
    }
    return facts;
  });
}

/** The keys in order. `before`: of the last time; nearly all are the same, and in order already. */
function sortedKeys(map: ReadonlyMap<string, unknown>, before: readonly string[]): string[] {
  const kept = before.filter((key) => map.has(key));
  if (kept.length === map.size) return kept;
  const old = new Set(kept);
  const added = [...map.keys()].filter((key) => !old.has(key));
  return [...kept, ...added].sort(compareText);
}

/** Forgets everything when something changed that concerns all services. */
function refreshMemory(memory: PlanMemory, networks: Network[], context: ServiceContext): void {
  const environment = JSON.stringify([
    context.selfId,
    [...context.sources],
    networks.map(({ id, spec }) => [id, spec.Name, spec.Internal, context.presentIds.has(id)]),
    [...context.bridges.keys()],
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
  const { networkById, publishAddress, sources } = context;
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
    if (!network || bridge === undefined || !context.isAddress(virtualIp.address)) continue;
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
    const task = publishAddress.get(endpoint.taskId);
    if (task === undefined) continue;
    for (const node of sources.get(endpoint.nodeId) ?? []) parts.selfLoops.push({ node, task });
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

export type OverlayNetwork = Network & { subnet: string; gateway: string };

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
  return chosen.sort((a, b) => compareAddress(a.address, b.address));
}

/** Another node in one family. */
export type Hop = {
  nodeId: string;
  index: number;
  meshAddress: string;
  /** By which it is the next hop on the mesh device, and on the encrypted one. */
  clear: string;
  encrypted: string;
};

function addRoute(routes: Map<string, MeshRoute>, route: MeshRoute): void {
  routes.set(`${route.table} ${route.destination}`, route);
}

/** To tasks; those on encrypted networks are reached over the encrypted device only. */
function planRoutes(input: {
  self: { meshAddress: string };
  hops: readonly Hop[];
  /** On other nodes. */
  endpoints: EndpointEntry[];
  encryptedIds: ReadonlySet<NetworkId>;
  presentIds: Set<NetworkId>;
  publishAddress: Map<string, string>;
  isPublished(endpoint: EndpointEntry): boolean;
  localAddresses: Set<string>;
}): Map<string, MeshRoute> {
  const routes = new Map<string, MeshRoute>();
  const source = input.self.meshAddress;
  const hopOf = new Map(input.hops.map((hop) => [hop.nodeId, hop]));
  for (const { index, clear: via, meshAddress } of input.hops) {
    const way = { destination: hostBlock(meshAddress), table: "main", source };
    // A next hop itself lies on the device.
    addRoute(routes, via === meshAddress ? way : { ...way, via });
    addRoute(routes, { destination: "default", table: String(RETURN_TABLE + index), via });
  }
  for (const endpoint of input.endpoints) {
    const hop = hopOf.get(endpoint.nodeId);
    if (!hop) continue;
    const published = input.isPublished(endpoint)
      ? input.publishAddress.get(endpoint.taskId)
      : undefined;
    for (const { networkId, address } of endpoint.addresses) {
      if (!input.presentIds.has(networkId) && address !== published) continue;
      // A /32 to elsewhere for an address that lives here would be a black hole.
      if (input.localAddresses.has(address)) continue;
      const destination = hostBlock(address);
      const isSecret = input.encryptedIds.has(networkId);
      addRoute(
        routes,
        isSecret
          ? { destination, table: "main", via: hop.encrypted, source, device: ENCRYPTED_DEVICE }
          : { destination, table: "main", via: hop.clear, source },
      );
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

/** What comes from an encrypted network's bridge: nodes by their mesh addresses, outside clients by return tables. */
function addEncryptedReturns(
  routes: Map<string, MeshRoute>,
  hops: readonly Hop[],
  source: string,
): void {
  const device = ENCRYPTED_DEVICE;
  for (const { index, encrypted: via, meshAddress } of hops) {
    const table = String(ENCRYPTED_TABLE);
    addRoute(routes, { destination: hostBlock(meshAddress), table, via, source, device });
    addRoute(routes, {
      destination: "default",
      table: String(ENCRYPTED_TABLE + index),
      via,
      device,
    });
  }
}

/** The underlay is one for both families, so one of them is enough to tell whether ESP gets through. */
function addProbeRoutes(routes: Map<string, MeshRoute>, peers: readonly Peer[], self: Peer): void {
  const source = encryptedProbeAddress(self.index);
  for (const { index, dataPathAddr: via } of peers) {
    const destination = hostBlock(encryptedProbeAddress(index));
    addRoute(routes, { destination, table: "main", via, source, device: ENCRYPTED_DEVICE });
  }
}

/** What comes from an encrypted network's bridge goes by tables of its own. */
function planEncryptedRules(peers: Peer[], present: Network[]): MeshRule[] {
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

function deviceSysctls(device: string): MeshSysctl[] {
  return [
    // Answers of published flows leave by another device than the one a strict filter expects.
    { key: `net.ipv4.conf.${device}.rp_filter`, value: 2, device },
    { key: `net.ipv4.conf.${device}.route_localnet`, value: 1, device },
    { key: `net.ipv4.conf.${device}.send_redirects`, value: 0, device },
    { key: `net.ipv4.conf.${device}.forwarding`, value: 1, device },
  ];
}

function planSysctls(present: Network[], options: PlanOptions): MeshSysctl[] {
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
  return [...new Set(addresses)].sort(compareAddress);
}

/** By value in IPv4, by text in IPv6. */
function compareAddress(a: string, b: string): number {
  return compareIpv4(a, b) || compareText(a, b);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
