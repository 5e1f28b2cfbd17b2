/**
 * What tasks and services give to the plan of one family: routes, and the long lists of the filter. Pure.
 *
 * Each list is made of what single tasks or single services give to it, so that a change of some tasks
 * patches the lists (`patchFamily`) and gives what planning all of them again (`planFamily`) would.
 *
 * That holds as long as nobody else claims the addresses that change: who of several has an address is
 * decided among all of them. So the state counts the claims of each address, and a patch that meets a
 * contested one gives up.
 */
import type { EndpointEntry, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId } from "../../core/ids.ts";
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import { chainNamePart, ENCRYPTED_DEVICE } from "./names.ts";
import type { FilterPlan, MeshProxy, MeshRoute } from "./plan.ts";
import { compareAddress, hostBlock, uniqueAddresses } from "./plan-addresses.ts";
import { chooseVirtualIps, type PortEntry } from "./plan-choices.ts";
import {
  addRun,
  compareText,
  emptyRuns,
  patchRuns,
  patchSorted,
  placeOf,
  type Runs,
  uniqueSorted,
} from "./plan-lists.ts";
import type { Hop } from "./plan-node.ts";

/** A task as the family sees it. */
export type PlannedTask = {
  /** Of its entry in the table. */
  key: string;
  /** With the legs that are planned, in the family's addresses. */
  endpoint: EndpointEntry;
  /** The address to which published ports are translated. */
  published: string | undefined;
};
export type TaskChange = {
  key: string;
  before: PlannedTask | undefined;
  after: PlannedTask | undefined;
};

/** All that the lists depend on beside the tasks. */
export type FamilyContext = {
  selfId: string;
  /** Preferred source of routes: the node's own mesh address. */
  source: string;
  hopOf: ReadonlyMap<string, Hop>;
  networkById: ReadonlyMap<NetworkId, Network>;
  presentIds: ReadonlySet<NetworkId>;
  /** By which addresses a node speaks to others. */
  sources: ReadonlyMap<string, readonly string[]>;
  /** Bridge of every network that is here. */
  bridges: ReadonlyMap<NetworkId, string>;
  /** Bridges that answer for single addresses. */
  proxyBridges: ReadonlySet<string>;
  /** By id, in the family's addresses. */
  services: ReadonlyMap<string, ServiceEntry>;
  /** Ports that are planned, by service. */
  publishedOf: ReadonlyMap<string, PortEntry[]>;
  /** A service that has neither address nor task in this family is none of it. */
  isSparse: boolean;
  /** Service addresses are the host's own. */
  hasLocalVirtualIps: boolean;
  isAddress(text: string): boolean;
};

type VirtualIp = FilterPlan["virtualIps"][number];
type SelfLoop = FilterPlan["selfLoops"][number];
type PublishedTask = FilterPlan["publishedTasks"][number];
type ServiceParts = Pick<FilterPlan, "virtualIps" | "ports">;
type TaskParts = {
  routes: readonly MeshRoute[];
  legs: readonly string[];
  ready: readonly string[];
  localAddresses: readonly string[];
  selfLoops: readonly SelfLoop[];
  publishedTasks: readonly PublishedTask[];
  proxies: readonly MeshProxy[];
};

/** The lists of one family, and what a patch of them needs. */
export type FamilyState = {
  context: FamilyContext;
  /** How many tasks, services and nodes have this address; how many services have this chain. */
  claims: Map<string, number>;
  tasksOf: Map<string, PlannedTask[]>;
  /** To uncontested tasks elsewhere, by key. */
  routes: Runs<MeshRoute>;
  contestedRoutes: MeshRoute[];
  /** To service addresses, sorted. */
  serviceRoutes: MeshRoute[];
  /** By key. */
  legs: Runs<string>;
  ready: Runs<string>;
  /** By service. */
  ports: Runs<FilterPlan["ports"][number]>;
  /** Sorted. */
  virtualIps: FilterPlan["virtualIps"];
  localAddresses: string[];
  selfLoops: SelfLoop[];
  publishedTasks: PublishedTask[];
  proxies: MeshProxy[];
};

/**
 * All lists. The context's services are in the order of their ids, `tasks` in that of their keys. `hosts`:
 * addresses of nodes within the mesh. `conflicts` takes what is left out of the services.
 */
export function planFamily(
  context: FamilyContext,
  tasks: readonly PlannedTask[],
  hosts: readonly string[],
  conflicts: string[],
): FamilyState {
  const tasksOf = groupByService(tasks);
  const ports: FamilyState["ports"] = emptyRuns();
  const candidates: FilterPlan["virtualIps"] = [];
  for (const id of context.services.keys()) {
    const parts = serviceParts(context, id, tasksOf.get(id));
    addRun(ports, id, parts.ports);
    candidates.push(...parts.virtualIps);
  }
  const virtualIps = chooseVirtualIps(candidates, conflicts);

  const claims = new Map<string, number>();
  const claim = (address: string) => claims.set(address, (claims.get(address) ?? 0) + 1);
  for (const address of hosts) claim(address);
  for (const { address, chain } of virtualIps) {
    claim(address);
    claim(chain);
  }
  for (const { endpoint } of tasks) for (const { address } of endpoint.addresses) claim(address);

  const routes: FamilyState["routes"] = emptyRuns();
  const legs: FamilyState["legs"] = emptyRuns();
  const ready: FamilyState["ready"] = emptyRuns();
  const localAddresses: string[] = [];
  const selfLoops: SelfLoop[] = [];
  const publishedTasks: PublishedTask[] = [];
  const proxies = proxiesTo(context, virtualIps);
  const contested: MeshRoute[] = [];
  const nodes = new Set(hosts);
  for (const task of tasks) {
    const parts = taskParts(context, task);
    if (task.endpoint.addresses.every(({ address }) => claims.get(address) === 1)) {
      addRun(routes, task.key, parts.routes);
    } else contested.push(...parts.routes);
    addRun(legs, task.key, parts.legs);
    addRun(ready, task.key, parts.ready);
    localAddresses.push(...parts.localAddresses);
    selfLoops.push(...parts.selfLoops);
    publishedTasks.push(...parts.publishedTasks);
    proxies.push(...parts.proxies);
  }
  return {
    context,
    claims,
    tasksOf,
    routes,
    contestedRoutes: settledRoutes(contested, hosts, localAddresses, virtualIps),
    serviceRoutes: serviceRoutes(
      context,
      virtualIps.filter(({ address }) => !nodes.has(address)),
    ),
    legs,
    ready,
    ports,
    virtualIps,
    localAddresses: uniqueAddresses(localAddresses),
    selfLoops: uniqueSorted(selfLoops, compareLoops),
    publishedTasks: uniqueSorted(publishedTasks, comparePublished),
    proxies: uniqueSorted(proxies, compareProxies),
  };
}

/** Of services the ids, of tasks each key once: those of the services, too. */
export type FamilyChanges = {
  services: ReadonlySet<string>;
  tasks: readonly TaskChange[];
  /** After the changes of services; the one before where there are none. */
  context: FamilyContext;
};

/**
 * The lists after these changes; undefined where the claim to an address is contested. Services change only
 * while all of what they ask for is planned.
 * Uses up the state before, and one that is given up as well.
 */
export function patchFamily(state: FamilyState, changes: FamilyChanges): FamilyState | undefined {
  const { tasks, context } = changes;
  if (!moveTaskClaims(state.claims, tasks)) return undefined;
  const parts = tasks.map(({ key, before, after }) => ({
    key,
    before: before ? taskParts(state.context, before) : NO_PARTS,
    after: after ? taskParts(context, after) : NO_PARTS,
  }));
  const patchByKey = <Item>(list: Runs<Item>, pick: (of: TaskParts) => readonly Item[]) =>
    patchRuns(list, new Map(parts.map(({ key, after }) => [key, pick(after)])));
  const patchUnique = <Item>(
    list: Item[],
    pick: (of: TaskParts) => readonly Item[],
    compare: (a: Item, b: Item) => number,
  ) => {
    const removed = parts.flatMap(({ before }) => pick(before));
    const added = parts.flatMap(({ after }) => pick(after));
    return patchSorted(list, removed, added, compare);
  };
  const patched: FamilyState = {
    ...state,
    context,
    routes: patchByKey(state.routes, (of) => of.routes),
    legs: patchByKey(state.legs, (of) => of.legs),
    ready: patchByKey(state.ready, (of) => of.ready),
    localAddresses: patchUnique(state.localAddresses, (of) => of.localAddresses, compareAddress),
    selfLoops: patchUnique(state.selfLoops, (of) => of.selfLoops, compareLoops),
    publishedTasks: patchUnique(state.publishedTasks, (of) => of.publishedTasks, comparePublished),
    proxies: patchUnique(state.proxies, (of) => of.proxies, compareProxies),
  };
  return patchServices(patched, state.context, changes);
}

/** False where one of these addresses is not claimed once only, before or after. */
function moveTaskClaims(claims: Map<string, number>, changes: readonly TaskChange[]): boolean {
  for (const { before } of changes) {
    for (const { address } of before?.endpoint.addresses ?? []) {
      if (claims.get(address) !== 1) return false;
      claims.delete(address);
    }
  }
  for (const { after } of changes) {
    for (const { address } of after?.endpoint.addresses ?? []) {
      if (claims.has(address)) return false;
      claims.set(address, 1);
    }
  }
  return true;
}

/** The lists by service; `contextBefore`: for what the services that change gave to them. */
function patchServices(
  state: FamilyState,
  contextBefore: FamilyContext,
  { services, tasks, context }: FamilyChanges,
): FamilyState | undefined {
  const { tasksOf } = state;
  const gone = [...services].flatMap(
    (id) => serviceParts(contextBefore, id, tasksOf.get(id)).virtualIps,
  );
  const ids = new Set(services);
  for (const { before, after } of tasks) {
    if (before) ids.add(before.endpoint.serviceId);
    if (after) ids.add(after.endpoint.serviceId);
  }
  moveTasks(tasksOf, ids, tasks);
  const changed = [...ids].map((id) => ({ id, ...serviceParts(context, id, tasksOf.get(id)) }));
  const come = changed.flatMap(({ id, virtualIps }) => (services.has(id) ? virtualIps : []));
  if (!moveServiceClaims(state.claims, gone, come)) return undefined;
  return {
    ...state,
    virtualIps: replaceVirtualIps(
      patchSorted(state.virtualIps, gone, come, compareVirtualIps),
      changed.flatMap(({ virtualIps }) => virtualIps),
    ),
    ports: patchRuns(state.ports, new Map(changed.map(({ id, ports }) => [id, ports]))),
    serviceRoutes: patchSorted(
      state.serviceRoutes,
      serviceRoutes(contextBefore, gone),
      serviceRoutes(context, come),
      compareRoutes,
    ),
    proxies: patchSorted(
      state.proxies,
      proxiesTo(context, gone),
      proxiesTo(context, come),
      compareProxies,
    ),
  };
}

function moveTasks(
  tasksOf: Map<string, PlannedTask[]>,
  serviceIds: Iterable<string>,
  changes: readonly TaskChange[],
): void {
  const keys = new Set(changes.map(({ key }) => key));
  const comeTo = groupByService(changes.flatMap(({ after }) => after ?? []));
  for (const id of serviceIds) {
    const kept = (tasksOf.get(id) ?? []).filter(({ key }) => !keys.has(key));
    const come = comeTo.get(id) ?? [];
    if (kept.length + come.length === 0) tasksOf.delete(id);
    else tasksOf.set(id, [...kept, ...come]);
  }
}

/** As `moveTaskClaims`, of service addresses and their chains. */
function moveServiceClaims(
  claims: Map<string, number>,
  gone: readonly VirtualIp[],
  come: readonly VirtualIp[],
): boolean {
  for (const name of gone.flatMap(({ address, chain }) => [address, chain])) {
    if (claims.get(name) !== 1) return false;
    claims.delete(name);
  }
  for (const name of come.flatMap(({ address, chain }) => [address, chain])) {
    if (claims.has(name)) return false;
    claims.set(name, 1);
  }
  return true;
}

/** One that is not in the list has lost its address or chain to another, and stays out of it. */
function replaceVirtualIps(list: VirtualIp[], changed: readonly VirtualIp[]): VirtualIp[] {
  const next = list.slice();
  for (const one of changed) {
    const place = placeOf(next, one, compareVirtualIps);
    if (next[place]?.address === one.address && next[place].chain === one.chain) next[place] = one;
  }
  return next;
}

function groupByService(tasks: readonly PlannedTask[]): Map<string, PlannedTask[]> {
  const groups = new Map<string, PlannedTask[]>();
  for (const task of tasks) {
    const group = groups.get(task.endpoint.serviceId);
    if (group) group.push(task);
    else groups.set(task.endpoint.serviceId, [task]);
  }
  return groups;
}

const NONE: readonly never[] = [];
const NO_PARTS: TaskParts = {
  routes: NONE,
  legs: NONE,
  ready: NONE,
  localAddresses: NONE,
  selfLoops: NONE,
  publishedTasks: NONE,
  proxies: NONE,
};

function taskParts(context: FamilyContext, task: PlannedTask): TaskParts {
  const { nodeId, taskId, addresses, isReady } = task.endpoint;
  const isHere = nodeId === context.selfId;
  const own = isHere ? addresses.map(({ address }) => address) : NONE;
  return {
    routes: isHere ? NONE : routesOf(context, task),
    legs: addresses.map(({ address }) => `${address}@${nodeId}@${taskId}`),
    ready: isReady ? own : NONE,
    localAddresses: own,
    selfLoops: loopsOf(context, task),
    publishedTasks: isHere ? publishedPortsOf(context, task) : NONE,
    proxies: isHere || context.proxyBridges.size === 0 ? NONE : proxiesOf(context, task),
  };
}

/** To a task elsewhere; on an encrypted network it is reached over the encrypted device only. */
function routesOf(context: FamilyContext, { endpoint, published }: PlannedTask): MeshRoute[] {
  const { source } = context;
  const hop = context.hopOf.get(endpoint.nodeId);
  if (!hop) return [];
  const hasPorts = (context.services.get(endpoint.serviceId)?.ports.length ?? 0) > 0;
  const routes: MeshRoute[] = [];
  for (const { networkId, address } of endpoint.addresses) {
    if (!context.presentIds.has(networkId) && !(hasPorts && address === published)) continue;
    const destination = hostBlock(address);
    const network = context.networkById.get(networkId);
    routes.push(
      network && isEncrypted(network)
        ? { destination, table: "main", via: hop.encrypted, source, device: ENCRYPTED_DEVICE }
        : { destination, table: "main", via: hop.clear, source },
    );
  }
  return routes;
}

/**
 * Of contested addresses the last route by key. None leads away from what is this node's own or a service's:
 * a route to elsewhere for an address that lives here would be a black hole.
 */
function settledRoutes(
  contested: readonly MeshRoute[],
  hosts: readonly string[],
  localAddresses: readonly string[],
  virtualIps: FilterPlan["virtualIps"],
): MeshRoute[] {
  const routes = new Map(contested.map((route) => [route.destination, route]));
  if (routes.size === 0) return [];
  const served = virtualIps.map(({ address }) => address);
  for (const address of [...hosts, ...localAddresses, ...served]) routes.delete(hostBlock(address));
  return [...routes.values()];
}

function serviceRoutes(context: FamilyContext, virtualIps: readonly VirtualIp[]): MeshRoute[] {
  const { hasLocalVirtualIps, source } = context;
  return virtualIps.map(({ address }) => ({
    destination: hostBlock(address),
    ...(hasLocalVirtualIps ? { table: "local", source, isLocal: true } : { table: "main" }),
  }));
}

function loopsOf(context: FamilyContext, { endpoint, published }: PlannedTask) {
  const ports = context.publishedOf.get(endpoint.serviceId);
  if (published === undefined || !ports || ports.length === 0) return NONE;
  const sources = context.sources.get(endpoint.nodeId) ?? [];
  return sources.map((node) => ({ node, task: published }));
}

/** Two published ports may lead to one port of the task. */
function publishedPortsOf(context: FamilyContext, { endpoint, published }: PlannedTask) {
  if (published === undefined) return NONE;
  const ports = context.publishedOf.get(endpoint.serviceId) ?? [];
  return ports
    .filter(
      ({ protocol, targetPort }, place) =>
        ports.findIndex((one) => one.protocol === protocol && one.targetPort === targetPort) ===
        place,
    )
    .map(({ protocol, targetPort }) => ({ address: published, protocol, port: targetPort }));
}

function proxiesOf(context: FamilyContext, { endpoint }: PlannedTask): MeshProxy[] {
  return endpoint.addresses.flatMap(({ networkId, address }) => {
    const bridge = context.bridges.get(networkId);
    return bridge !== undefined && context.proxyBridges.has(bridge) ? [{ bridge, address }] : [];
  });
}

function proxiesTo(context: FamilyContext, virtualIps: readonly VirtualIp[]): MeshProxy[] {
  return virtualIps
    .filter(({ bridge }) => context.proxyBridges.has(bridge))
    .map(({ bridge, address }) => ({ bridge, address }));
}

/** What one service gives to the filter; `tasks` in any order. */
function serviceParts(
  context: FamilyContext,
  serviceId: string,
  tasks: readonly PlannedTask[] = [],
): ServiceParts {
  const parts: ServiceParts = { virtualIps: [], ports: [] };
  const service = context.services.get(serviceId);
  if (!service) return parts;
  if (context.isSparse && service.virtualIps.length + tasks.length === 0) return parts;
  const ready = tasks.filter(({ endpoint }) => endpoint.isReady);
  const isHere = ({ endpoint }: PlannedTask) => endpoint.nodeId === context.selfId;
  const { balancing } = service;
  const hasAffinity = balancing?.hasAffinity === true;
  /** Those on this node before all others, where that is asked for. */
  const nearest = (some: readonly PlannedTask[]) => {
    const here = balancing?.isLocalFirst ? some.filter(isHere) : [];
    return here.length > 0 ? here : some;
  };
  for (const virtualIp of service.mode === "vip" ? service.virtualIps : []) {
    const network = context.networkById.get(virtualIp.networkId);
    const bridge = context.bridges.get(virtualIp.networkId);
    if (!network || bridge === undefined || !context.isAddress(virtualIp.address)) continue;
    const legsOf = (some: readonly PlannedTask[]) =>
      uniqueAddresses(
        some.flatMap(({ endpoint }) =>
          endpoint.addresses
            .filter((leg) => leg.networkId === network.id)
            .map((leg) => leg.address),
        ),
      );
    const targets = legsOf(nearest(ready));
    parts.virtualIps.push({
      serviceId,
      bridge,
      address: virtualIp.address,
      hasAffinity,
      chain: `vip_${chainNamePart(serviceId)}_${bridge}`,
      targets,
      // What is ready elsewhere keeps the connections that it has, as a task that drains does.
      unready: without(legsOf(tasks), targets),
    });
  }
  const addressesOf = (some: readonly PlannedTask[]) =>
    uniqueAddresses(some.flatMap(({ published }) => published ?? []));
  for (const { publish, ...port } of context.publishedOf.get(serviceId) ?? []) {
    const targets = addressesOf(publish === "local" ? ready.filter(isHere) : nearest(ready));
    parts.ports.push({
      serviceId,
      ...port,
      hasAffinity,
      isSnat: publish === "snat",
      targets,
      unready: without(addressesOf(tasks), targets),
    });
  }
  return parts;
}

/** `others`: some of the addresses. */
function without(addresses: readonly string[], others: readonly string[]): string[] {
  if (addresses.length === others.length) return [];
  const left = new Set(others);
  return addresses.filter((address) => !left.has(address));
}

function compareVirtualIps(a: VirtualIp, b: VirtualIp): number {
  return compareAddress(a.address, b.address);
}

function compareRoutes(a: MeshRoute, b: MeshRoute): number {
  const addressOf = ({ destination }: MeshRoute) => destination.slice(0, destination.indexOf("/"));
  return compareAddress(addressOf(a), addressOf(b));
}

function compareLoops(a: SelfLoop, b: SelfLoop): number {
  return compareAddress(a.task, b.task) || compareAddress(a.node, b.node);
}

function comparePublished(a: PublishedTask, b: PublishedTask): number {
  return (
    compareAddress(a.address, b.address) || compareText(a.protocol, b.protocol) || a.port - b.port
  );
}

function compareProxies(a: MeshProxy, b: MeshProxy): number {
  return compareText(a.bridge, b.bridge) || compareText(a.address, b.address);
}
