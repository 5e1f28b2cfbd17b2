/**
 * Endpoint table → what this node's kernel must hold. Pure: the same table gives the same plan,
 * whatever order the items came in, and whatever was planned before.
 *
 * The design (DESIGN.md): every overlay network is a Docker bridge with the same subnet and gateway
 * on every node; between nodes all is routed over one VXLAN device; service addresses and published
 * ports are translated in the host's namespace. This file decides *what*; `render.ts` and the
 * back-end decide in which tool's words.
 *
 * Entries that contradict each other (two peers with one address, two services with one port,
 * overlapping subnets) must not make the whole kernel transaction fail: one of them is left out and
 * named in `conflicts`.
 *
 * Here: the plan's shape, and how all of it is planned. What single tasks and services give to it is in
 * `plan-family.ts`, what peers and the node itself do in `plan-node.ts`, how a change of few of them is
 * planned without all others in `plan-patch.ts`.
 */
import type { EndpointEntry, Peer, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId } from "../../core/ids.ts";
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import { overlayMtu } from "./docker-network.ts";
import { type EncryptionPlan, planEncryption } from "./encryption-plan.ts";
import { isIpv4 } from "./ipv4.ts";
import {
  BRIDGE_LINK_LOCAL,
  bridgeName,
  ENCRYPTED_DEVICE,
  encryptedMac,
  encryptedProbeAddress,
  meshAddress6,
  MESH_VNI,
  meshMac,
} from "./names.ts";
import { uniqueAddresses } from "./plan-addresses.ts";
import {
  chooseNetworks,
  choosePeers,
  choosePorts,
  type OverlayNetwork,
  type PortEntry,
} from "./plan-choices.ts";
import { type FamilyState, type PlannedTask, planFamily } from "./plan-family.ts";
import {
  hopInIpv6,
  isIpv6,
  meshDevices,
  neighboursInIpv6,
  networksInIpv6,
  planSysctls6,
  servicesInIpv6,
  taskInIpv6,
} from "./plan-ipv6.ts";
import { compareText } from "./plan-lists.ts";
import { groundOf, isSameGround, seenEntries } from "./plan-memory.ts";
import {
  deviceSysctls,
  encryptedReturns,
  type Hop,
  peerRoutes,
  planEncryptedRules,
  planRules,
  planSysctls,
  probeRoutes,
} from "./plan-node.ts";
import { type FixedPlan, patchPlan, type PlanState, withLists } from "./plan-patch.ts";
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
  /** Our bridges on the host, for what can only be told of one that exists. @default all that are asked for */
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
  /** Addresses of this node's tasks that are balanced. */
  ready: string[];
  /** What was left out, and why. */
  conflicts: string[];
};

/** The last plan, and what it takes to patch it; empty before the first one. */
export type PlanMemory = { last?: PlanState };

/** The memory before the first plan. */
export function createPlanMemory(): PlanMemory {
  return {};
}

/**
 * The plan for the node that `table.settings` names, or undefined while the table does not hold the
 * node's own peer entry: then the kernel stays as it is.
 * `presentNetworkIds`: overlay networks that the engine has here. `memory`: of the plans before this
 * one; it changes what planning costs and which parts are the same objects, never what is planned.
 * Entries of the table are replaced, never changed in place: a memory knows them by identity.
 */
export function planMesh(
  table: MeshTable,
  presentNetworkIds: ReadonlySet<NetworkId>,
  options: PlanOptions,
  memory: PlanMemory = createPlanMemory(),
): MeshPlan | undefined {
  const { last } = memory;
  // A patch uses it up.
  delete memory.last;
  const next =
    (last && isSameGround(last.ground, table, presentNetworkIds, options)
      ? patchPlan(last, table)
      : undefined) ?? planAll(table, presentNetworkIds, options);
  if (next) memory.last = next;
  return next?.plan;
}

/** What both families plan from. */
type Choices = {
  self: Peer;
  peers: Peer[];
  networks: OverlayNetwork[];
  presentIds: ReadonlySet<NetworkId>;
  isCarried(network: Network | undefined): boolean;
  hasEncryption: boolean;
  services: ReadonlyMap<string, ServiceEntry>;
  publishedOf: ReadonlyMap<string, PortEntry[]>;
  options: PlanOptions;
  conflicts: string[];
};

function planAll(
  table: MeshTable,
  presentNetworkIds: ReadonlySet<NetworkId>,
  options: PlanOptions,
): PlanState | undefined {
  const { settings } = table;
  const self = [...table.peers.values()].find((peer) => peer.nodeId === settings?.nodeId);
  if (!settings || !self || !isIpv4(self.dataPathAddr) || !isIpv4(self.meshAddress))
    return undefined;
  const conflicts: string[] = [];
  const peers = choosePeers(table, self, conflicts);
  const networks = chooseNetworks(table, conflicts);
  const networkById = new Map(networks.map((network) => [network.id, network]));
  // Without encryption such a network is none: its packets are never sent in clear.
  const isCarried = (network: Network | undefined) =>
    network !== undefined && (options.canEncrypt === true || !isEncrypted(network));
  const services = servicesInOrder(table, conflicts);
  const portsTaken = new Set<string>();
  const publishedOf = choosePorts(services.values(), portsTaken, conflicts);

  const nodeIds = new Set([self, ...peers].map(({ nodeId }) => nodeId));
  const isUsable = (leg: EndpointEntry["addresses"][number]) =>
    isCarried(networkById.get(leg.networkId)) && isIpv4(leg.address);
  const inIpv4 = (key: string, entry: EndpointEntry): PlannedTask | undefined => {
    if (!nodeIds.has(entry.nodeId)) return undefined;
    const endpoint = entry.addresses.every(isUsable)
      ? entry
      : { ...entry, addresses: entry.addresses.filter(isUsable) };
    return { key, endpoint, published: publishAddressOf(endpoint, networkById) };
  };
  const tasks = [...table.endpoints.keys()].sort(compareText).flatMap((key) => {
    const entry = table.endpoints.get(key);
    return (entry && inIpv4(key, entry)) ?? [];
  });
  const legsHere = new Map<NetworkId, number>();
  for (const { endpoint } of tasks) {
    if (endpoint.nodeId !== self.nodeId) continue;
    for (const { networkId } of endpoint.addresses) {
      legsHere.set(networkId, (legsHere.get(networkId) ?? 0) + 1);
    }
  }
  // A network with an assigned task counts before the engine has it: routes come before packets.
  const presentIds = new Set([...presentNetworkIds, ...legsHere.keys()]);
  const present = networks.filter((network) => presentIds.has(network.id) && isCarried(network));

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
  const hops: Hop[] = peers.map(({ nodeId, index, dataPathAddr, meshAddress }) => ({
    nodeId,
    index,
    clear: dataPathAddr,
    encrypted: dataPathAddr,
    meshAddress,
  }));
  const meshAddresses = uniqueAddresses([self, ...peers].map(({ meshAddress }) => meshAddress));
  const ipv4 = planFamily(
    {
      selfId: self.nodeId,
      source: self.meshAddress,
      hopOf: new Map(hops.map((hop) => [hop.nodeId, hop])),
      networkById,
      presentIds,
      sources: new Map(
        [self, ...peers].map(({ nodeId, dataPathAddr }) => [nodeId, [dataPathAddr]]),
      ),
      bridges: bridgesOf(present),
      proxyBridges: new Set(),
      services,
      publishedOf,
      isSparse: false,
      hasLocalVirtualIps: options.hasLocalVirtualIps === true,
      isAddress: isIpv4,
    },
    tasks,
    // The probe's as well: the encrypted device has them.
    [
      ...meshAddresses,
      ...(encryption ? peers.map(({ index }) => encryptedProbeAddress(index)) : []),
    ],
    conflicts,
  );
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
  const six = planIpv6(
    {
      self,
      peers,
      networks,
      presentIds,
      isCarried,
      hasEncryption: encryption !== undefined,
      services,
      publishedOf,
      options,
      conflicts,
    },
    tasks,
    common,
  );

  const fixed: FixedPlan = {
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
    routes: [
      ...peerRoutes(hops, self.meshAddress),
      ...(encryption
        ? [...encryptedReturns(hops, self.meshAddress), ...probeRoutes(peers, self)]
        : []),
    ],
    rules: [...planRules(peers), ...(encryption ? planEncryptedRules(peers, present) : [])],
    sysctls: [
      ...planSysctls(present, options),
      ...(encryption ? deviceSysctls(ENCRYPTED_DEVICE) : []),
      ...(six?.sysctls ?? []),
    ],
    filter: {
      family: "ipv4",
      ...common,
      meshAddresses,
      ...networkParts(networks, present),
      ...encryptedParts(networks),
    },
    ...(six ? { six: six.fixed } : {}),
    ...(encryption ? { encryption } : {}),
    conflicts,
  };
  return {
    ground: groundOf(table, presentNetworkIds, options),
    services: seenEntries(table.services),
    endpoints: seenEntries(table.endpoints),
    portsTaken,
    fixed,
    ipv4,
    ...(six ? { ipv6: six.state } : {}),
    inIpv4,
    inIpv6: (task) => six?.view(task),
    legsHere,
    plan: withLists(fixed, ipv4, six?.state),
  };
}

/** By id, in order; of two entries with one id the later one by key. */
function servicesInOrder(table: MeshTable, conflicts: string[]): Map<string, ServiceEntry> {
  const sorted = [...table.services].sort(
    ([key, a], [other, b]) => compareText(a.serviceId, b.serviceId) || compareText(key, other),
  );
  const services = new Map<string, ServiceEntry>();
  for (const [, service] of sorted) {
    if (services.has(service.serviceId)) conflicts.push(`service ${service.name}: given twice`);
    services.set(service.serviceId, service);
  }
  return services;
}

function bridgesOf(present: readonly Network[]): Map<NetworkId, string> {
  return new Map(present.map((network) => [network.id, bridgeName(network.id)]));
}

type Ipv6Part = {
  state: FamilyState;
  fixed: NonNullable<FixedPlan["six"]>;
  sysctls: MeshSysctl[];
  view(task: PlannedTask): PlannedTask | undefined;
};

/** The same for IPv6; undefined while the cluster has no network with it. `tasks`: in IPv4. */
function planIpv6(
  choices: Choices,
  tasks: readonly PlannedTask[],
  common: Pick<
    FilterPlan,
    "dataPathPort" | "encryptedPort" | "balance" | "hasBrNetfilter" | "peers"
  >,
): Ipv6Part | undefined {
  const { self, peers, presentIds, hasEncryption, options, conflicts } = choices;
  if (!choices.networks.some((network) => network.subnet6 !== undefined)) return undefined;
  if (options.hasIpv6 === false) {
    conflicts.push("IPv6 of all networks: this kernel has none");
    return undefined;
  }
  const networks = networksInIpv6(choices.networks, conflicts);
  const networkById = new Map(networks.map((network) => [network.id, network]));
  const present = networks.filter(
    (network) => presentIds.has(network.id) && choices.isCarried(network),
  );
  const view = (task: PlannedTask) => taskInIpv6(task, networkById);
  const source = meshAddress6(self.meshAddress);
  const hops = peers.map((peer) => hopInIpv6(peer));
  const meshAddresses = uniqueAddresses([source, ...hops.map(({ meshAddress }) => meshAddress)]);
  const bridges = bridgesOf(present);
  const madeBridges = [...bridges.values()].filter((name) => options.devices?.has(name) ?? true);
  const state = planFamily(
    {
      selfId: self.nodeId,
      source,
      hopOf: new Map(hops.map((hop) => [hop.nodeId, hop])),
      networkById,
      presentIds,
      sources: new Map(
        [self, ...peers].map(({ nodeId, addresses6 }) => [
          nodeId,
          (addresses6 ?? []).filter(isIpv6),
        ]),
      ),
      bridges,
      proxyBridges: new Set(madeBridges),
      services: servicesInIpv6(choices.services),
      publishedOf: choices.publishedOf,
      isSparse: true,
      hasLocalVirtualIps: options.hasLocalVirtualIps === true,
      isAddress: isIpv6,
    },
    tasks.flatMap((task) => view(task) ?? []),
    meshAddresses,
    conflicts,
  );
  return {
    state,
    view,
    fixed: {
      filter: {
        family: "ipv6",
        ...common,
        meshAddresses,
        ...networkParts(networks, present),
        ...encryptedParts(networks),
      },
      routing: {
        addresses: [
          ...meshDevices(hasEncryption).map((device) => ({
            device,
            address: source,
            prefixLength: 128,
          })),
          ...madeBridges.map((device) => ({
            device,
            address: BRIDGE_LINK_LOCAL,
            prefixLength: 64,
          })),
        ],
        rules: [...planRules(peers), ...(hasEncryption ? planEncryptedRules(peers, present) : [])],
        neighbours: peers.flatMap((peer) => neighboursInIpv6(peer, hasEncryption)),
        routes: [
          ...peerRoutes(hops, source),
          ...(hasEncryption ? encryptedReturns(hops, source) : []),
        ],
      },
    },
    sysctls: planSysctls6(meshDevices(hasEncryption), [...bridges.values()], {
      hasBrNetfilter: options.hasBrNetfilter,
      advertisedDevices: options.advertisedDevices ?? [],
    }),
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
