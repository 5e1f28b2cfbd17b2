/**
 * The names of the cluster, changed item by item.
 *
 * A change costs what it touches and never what the table holds: a name leads to who has it (the
 * service, its tasks, a task), and addresses are gathered when the name is asked for. An item that
 * is put again replaces what it was. Items may come in any order: a task before its service, a leg
 * before its network; what is not known yet is not answered.
 *
 * Not here: who may see what, and in which order (`answer.ts`).
 */
import { unreachable } from "../../core/assert.ts";
import type { EndpointEntry, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId, ServiceId } from "../../core/ids.ts";
import { type Ipv4Block, parseIpv4Block } from "../mesh/ipv4.ts";
import type { MeshTable } from "../mesh/table.ts";
import { nameItems } from "./name-change.ts";

/** The name servers that a task's user chose, for names that are not the cluster's. */
export type ResolverEntry = {
  /** The task's own addresses: who asks from there. */
  addresses: string[];
  nameservers: string[];
};

/** What DNS needs of each kind of item. */
export type NameBodies = {
  network: {
    id: NetworkId;
    name: string;
    subnet?: string;
    subnet6?: string;
    isInternal: boolean;
  };
  service: Pick<ServiceEntry, "serviceId" | "name" | "mode" | "virtualIps" | "aliases">;
  endpoint: Pick<EndpointEntry, "serviceId" | "name" | "addresses" | "aliases" | "isReady">;
  resolver: ResolverEntry;
};
export type NameKind = keyof NameBodies;
/** `key` is unique among all items. */
export type NameItem = { [K in NameKind]: { key: string; kind: K; body: NameBodies[K] } }[NameKind];
export type NameChange = { put: NameItem[]; removed: string[] };

type Leg = { networkId: NetworkId; address: string; address6?: string };
/** There are many of them, so few objects each: the table is what the thread's garbage collector goes through. */
type EndpointRecord = {
  kind: "endpoint";
  key: string;
  name: string;
  group: TaskGroup;
  /** Nearly all have one. */
  legs: Leg | Leg[];
  aliases: string[] | undefined;
  isReady: boolean;
};
type ServiceRecord = {
  kind: "service";
  key: string;
  body: NameBodies["service"];
  group: TaskGroup;
  /** Where its names are: networks with an address, an alias or a task of it. */
  places: NetworkId[];
};
/** The tasks of one service: `tasks.<service>`. */
type TaskGroup = {
  kind: "tasks";
  serviceId: ServiceId;
  tasks: Set<EndpointRecord>;
  /** How many of them are on each network. */
  legCounts: Map<NetworkId, number>;
  /** Those that are ready, by network, once asked for; dropped at any change. */
  ready: Map<NetworkId, Addresses> | undefined;
  /** One, but for the time between two messages. */
  services: ServiceRecord[];
};
type Source = EndpointRecord | ServiceRecord | TaskGroup;

export type Addresses = { v4: string[]; v6: string[] };
export type FoundName = Addresses & {
  /** Tasks, or several owners: in varying order, and not for long. */
  isList: boolean;
};

export type NetworkNames = {
  id: NetworkId;
  /** Lower-case; undefined until the network itself has come. */
  name: string | undefined;
  block: Ipv4Block | undefined;
  subnet6: string | undefined;
  isInternal: boolean;
  /** By lower-case name. */
  sources: OwnersBy<Source>;
};

export type NameTable = {
  networks: Map<NetworkId, NetworkNames>;
  /** Those that are known, by name: the order in which a name on two networks is looked for. */
  ordered: NetworkNames[];
  endpoints: Map<string, EndpointRecord>;
  services: Map<string, ServiceRecord>;
  groups: Map<ServiceId, TaskGroup>;
  /** Tasks' and services' addresses, of both families. */
  byAddress: OwnersBy<EndpointRecord | ServiceRecord>;
  resolvers: Map<string, ResolverEntry>;
  nameserversOf: Map<string, string[]>;
};

/** Nearly everything has one owner: a list only where there are more, or memory would double. */
type OwnersBy<T> = Map<string, T | T[]>;

function addOwner<T>(map: OwnersBy<T>, name: string, owner: T): void {
  const known = map.get(name);
  if (known === undefined) map.set(name, owner);
  else if (Array.isArray(known)) known.push(owner);
  else map.set(name, [known, owner]);
}

function removeOwner<T>(map: OwnersBy<T>, name: string, owner: T): void {
  const known = map.get(name);
  if (known === owner) map.delete(name);
  if (!Array.isArray(known)) return;
  const left = known.filter((other) => other !== owner);
  if (left.length > 1) map.set(name, left);
  else if (left[0] === undefined) map.delete(name);
  else map.set(name, left[0]);
}

function ownersOf<T>(map: OwnersBy<T>, name: string): readonly T[] {
  const known = map.get(name);
  if (known === undefined) return [];
  return Array.isArray(known) ? known : [known];
}

/** A table without names. */
export function createNameTable(): NameTable {
  return {
    networks: new Map(),
    ordered: [],
    endpoints: new Map(),
    services: new Map(),
    groups: new Map(),
    byAddress: new Map(),
    resolvers: new Map(),
    nameserversOf: new Map(),
  };
}

/** The table of all names that the mesh's table holds. */
export function nameTable(table: MeshTable): NameTable {
  const names = createNameTable();
  changeNames(names, { put: nameItems(table), removed: [] });
  return names;
}

/** Changes the table in place: first what is put, then what is removed. */
export function changeNames(table: NameTable, change: NameChange): void {
  for (const item of change.put) putName(table, item);
  for (const key of change.removed) removeName(table, key);
}

function putName(table: NameTable, item: NameItem): void {
  switch (item.kind) {
    case "network": {
      const network = networkOf(table, item.body.id);
      network.name = item.body.name.toLowerCase();
      network.block = item.body.subnet === undefined ? undefined : parseIpv4Block(item.body.subnet);
      network.subnet6 = item.body.subnet6;
      network.isInternal = item.body.isInternal;
      orderNetworks(table);
      return;
    }
    case "endpoint":
      removeEndpoint(table, item.key);
      addEndpoint(table, item.key, item.body);
      return;
    case "service":
      removeService(table, item.key);
      addService(table, item.key, item.body);
      return;
    case "resolver":
      removeResolver(table, item.key);
      table.resolvers.set(item.key, item.body);
      for (const address of item.body.addresses) {
        table.nameserversOf.set(address, item.body.nameservers);
      }
  }
}

function removeName(table: NameTable, key: string): void {
  removeEndpoint(table, key);
  removeService(table, key);
  removeResolver(table, key);
  if (!key.startsWith("network/")) return;
  const network = table.networks.get(key.slice("network/".length));
  if (!network) return;
  network.name = undefined;
  forgetEmptyNetwork(table, network);
  orderNetworks(table);
}

function orderNetworks(table: NameTable): void {
  table.ordered = [...table.networks.values()].filter(
    ({ name, block }) => name !== undefined && block !== undefined,
  );
  const nameOf = (network: NetworkNames) => network.name ?? "";
  table.ordered.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : nameOf(a) > nameOf(b) ? 1 : 0));
}

function networkOf(table: NameTable, id: NetworkId): NetworkNames {
  const known = table.networks.get(id);
  if (known) return known;
  const network: NetworkNames = {
    id,
    name: undefined,
    block: undefined,
    subnet6: undefined,
    isInternal: false,
    sources: new Map(),
  };
  table.networks.set(id, network);
  return network;
}

function forgetEmptyNetwork(table: NameTable, network: NetworkNames): void {
  if (network.name === undefined && network.sources.size === 0) table.networks.delete(network.id);
}

function groupOf(table: NameTable, serviceId: ServiceId): TaskGroup {
  const known = table.groups.get(serviceId);
  if (known) return known;
  const group: TaskGroup = {
    kind: "tasks",
    serviceId,
    tasks: new Set(),
    legCounts: new Map(),
    ready: undefined,
    services: [],
  };
  table.groups.set(serviceId, group);
  return group;
}

function forgetEmptyGroup(table: NameTable, group: TaskGroup): void {
  if (group.tasks.size === 0 && group.services.length === 0) table.groups.delete(group.serviceId);
}

function forAddresses(legs: readonly Leg[], visit: (address: string) => void): void {
  for (const { address, address6 } of legs) {
    visit(address);
    if (address6 !== undefined) visit(address6);
  }
}

function legsOf({ legs }: EndpointRecord): readonly Leg[] {
  return Array.isArray(legs) ? legs : [legs];
}

/** A task's own names on each of its networks. */
function forEndpointNames(
  record: EndpointRecord,
  visit: (networkId: NetworkId, name: string) => void,
): void {
  const own = record.name.toLowerCase();
  const all = record.aliases
    ? new Set([own, ...record.aliases.map((alias) => alias.toLowerCase())])
    : [own];
  for (const { networkId } of legsOf(record)) for (const name of all) visit(networkId, name);
}

function addEndpoint(table: NameTable, key: string, body: NameBodies["endpoint"]): void {
  // The network's own copy of its id, for each message brings a new one.
  const legs = body.addresses.map((leg) => ({
    ...leg,
    networkId: networkOf(table, leg.networkId).id,
  }));
  const [first] = legs;
  const group = groupOf(table, body.serviceId);
  const { name, aliases, isReady } = body;
  const record: EndpointRecord = {
    kind: "endpoint",
    key,
    name,
    group,
    legs: first && legs.length === 1 ? first : legs,
    aliases,
    isReady,
  };
  table.endpoints.set(key, record);
  forEndpointNames(record, (id, one) => addOwner(networkOf(table, id).sources, one, record));
  forAddresses(legs, (address) => addOwner(table.byAddress, address, record));
  group.tasks.add(record);
  group.ready = undefined;
  countLegs(table, group, legs, 1);
}

function removeEndpoint(table: NameTable, key: string): void {
  const record = table.endpoints.get(key);
  if (!record) return;
  const { group } = record;
  const legs = legsOf(record);
  table.endpoints.delete(key);
  forEndpointNames(record, (id, name) => removeSource(table, id, name, record));
  forAddresses(legs, (address) => removeOwner(table.byAddress, address, record));
  group.tasks.delete(record);
  group.ready = undefined;
  countLegs(table, group, legs, -1);
  forgetEmptyGroup(table, group);
}

function removeSource(table: NameTable, id: NetworkId, name: string, source: Source): void {
  const network = table.networks.get(id);
  if (!network) return;
  removeOwner(network.sources, name, source);
  forgetEmptyNetwork(table, network);
}

/** A service's name appears on a network with its first task there, and goes with the last. */
function countLegs(table: NameTable, group: TaskGroup, legs: readonly Leg[], step: 1 | -1): void {
  let isPlaced = true;
  for (const { networkId } of legs) {
    const count = (group.legCounts.get(networkId) ?? 0) + step;
    if (count === 0) group.legCounts.delete(networkId);
    else group.legCounts.set(networkId, count);
    if (count === 0 || (step === 1 && count === 1)) isPlaced = false;
  }
  if (isPlaced) return;
  for (const service of group.services) {
    unplaceService(table, service);
    placeService(table, service);
  }
}

function addService(table: NameTable, key: string, body: NameBodies["service"]): void {
  const group = groupOf(table, body.serviceId);
  const record: ServiceRecord = { kind: "service", key, body, group, places: [] };
  group.services.push(record);
  table.services.set(key, record);
  forAddresses(body.virtualIps, (address) => addOwner(table.byAddress, address, record));
  placeService(table, record);
}

function removeService(table: NameTable, key: string): void {
  const record = table.services.get(key);
  if (!record) return;
  table.services.delete(key);
  unplaceService(table, record);
  forAddresses(record.body.virtualIps, (address) => removeOwner(table.byAddress, address, record));
  record.group.services = record.group.services.filter((other) => other !== record);
  forgetEmptyGroup(table, record.group);
}

function ownNames({ body }: ServiceRecord, id: NetworkId): Set<string> {
  const aliases = body.aliases.filter((alias) => alias.networkId === id);
  const all = [body.name, ...aliases.flatMap((alias) => alias.names)];
  return new Set(all.map((name) => name.toLowerCase()));
}

function placeService(table: NameTable, record: ServiceRecord): void {
  const { body, group } = record;
  const ids = [...body.virtualIps, ...body.aliases].map((leg) => leg.networkId);
  record.places = [...new Set([...ids, ...group.legCounts.keys()])];
  for (const id of record.places) {
    const { sources } = networkOf(table, id);
    for (const name of ownNames(record, id)) addOwner<Source>(sources, name, record);
    addOwner<Source>(sources, `tasks.${body.name.toLowerCase()}`, group);
  }
}

function unplaceService(table: NameTable, record: ServiceRecord): void {
  for (const id of record.places) {
    for (const name of ownNames(record, id)) removeSource(table, id, name, record);
    removeSource(table, id, `tasks.${record.body.name.toLowerCase()}`, record.group);
  }
  record.places = [];
}

function removeResolver(table: NameTable, key: string): void {
  const entry = table.resolvers.get(key);
  if (!entry) return;
  table.resolvers.delete(key);
  for (const address of entry.addresses) {
    if (table.nameserversOf.get(address) === entry.nameservers) table.nameserversOf.delete(address);
  }
}

// --- reading

/** Networks of the task with this address, in order; undefined when no task has it. */
export function networksOfTask(table: NameTable, address: string): NetworkNames[] | undefined {
  let owner: EndpointRecord | undefined;
  for (const one of ownersOf(table.byAddress, address)) {
    // Two tasks cannot have one address; if they do, the order in which they came decides nothing.
    if (one.kind === "endpoint" && (!owner || one.key > owner.key)) owner = one;
  }
  if (!owner) return undefined;
  const { legs } = owner;
  if (!Array.isArray(legs)) {
    const network = table.networks.get(legs.networkId);
    return network?.name !== undefined && network.block ? [network] : [];
  }
  const ids = new Set(legs.map((leg) => leg.networkId));
  return table.ordered.filter((network) => ids.has(network.id));
}

/** Addresses of a (lower-case) name on one network; undefined when nobody has it. */
export function findNameOn(network: NetworkNames, name: string): FoundName | undefined {
  const source = network.sources.get(name);
  if (source === undefined) return undefined;
  if (!Array.isArray(source)) return resolveSource(source, network.id);
  // Owners of one name (a shared alias) are answered together.
  const all = source.map((one) => resolveSource(one, network.id));
  return {
    v4: [...new Set(all.flatMap((found) => found.v4))],
    v6: [...new Set(all.flatMap((found) => found.v6))],
    isList: true,
  };
}

function resolveSource(source: Source, id: NetworkId): FoundName {
  switch (source.kind) {
    case "endpoint":
      return { ...addressesOn(legsOf(source), id), isList: false };
    case "tasks":
      return { ...readyTasks(source, id), isList: true };
    case "service": {
      const { mode, virtualIps } = source.body;
      const virtual = mode === "vip" ? addressesOn(virtualIps, id) : undefined;
      // A service whose tasks are all unready still exists: no address, but not "no such name".
      return virtual && virtual.v4.length + virtual.v6.length > 0
        ? { ...virtual, isList: false }
        : { ...readyTasks(source.group, id), isList: true };
    }
    default:
      return unreachable(source);
  }
}

function addressesOn(legs: readonly Leg[], id: NetworkId): Addresses {
  const found: Addresses = { v4: [], v6: [] };
  for (const leg of legs) {
    if (leg.networkId !== id) continue;
    found.v4.push(leg.address);
    if (leg.address6 !== undefined) found.v6.push(leg.address6);
  }
  return found;
}

function readyTasks(group: TaskGroup, id: NetworkId): Addresses {
  const known = group.ready?.get(id);
  if (known) return known;
  const found: Addresses = { v4: [], v6: [] };
  for (const task of group.tasks) {
    if (!task.isReady) continue;
    const { v4, v6 } = addressesOn(legsOf(task), id);
    found.v4.push(...v4);
    found.v6.push(...v6);
  }
  group.ready ??= new Map();
  group.ready.set(id, found);
  return found;
}

/** Name of the task or service with this address on this network. */
export function ownerOn(
  table: NameTable,
  network: NetworkNames,
  address: string,
): string | undefined {
  const isHere = (leg: Leg) =>
    leg.networkId === network.id && (leg.address === address || leg.address6 === address);
  let owner: EndpointRecord | ServiceRecord | undefined;
  for (const one of ownersOf(table.byAddress, address)) {
    const legs = one.kind === "endpoint" ? legsOf(one) : one.body.virtualIps;
    if (legs.some(isHere) && (!owner || one.key > owner.key)) owner = one;
  }
  if (!owner) return undefined;
  return owner.kind === "endpoint" ? owner.name : owner.body.name;
}

/** Name servers that the task with this address asks beside the cluster's; undefined: the host's. */
export function nameserversOf(table: NameTable, address: string): string[] | undefined {
  return table.nameserversOf.get(address);
}
