/**
 * Question × names × asker → answer. Pure.
 *
 * Who asks decides what is seen: a task finds the names of the networks it is on, and nothing of
 * others. Names:
 *   `web`            the service's address on the asker's network, or (dnsrr) its ready tasks
 *   `tasks.web`      its ready tasks
 *   `web.1.<id>`     one task, ready or not
 *   an alias         as the services that have it
 *   `<name>.<network>` the same, on that network only
 * A name of ours has A records only; every other type is answered with "no such record", because
 * "no such name" for AAAA would make resolvers drop the A answer as well. A single label that is
 * not ours does not exist, and we are its authority: Docker's own resolver would otherwise ask on.
 */
import type { EndpointEntry, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId } from "../../core/ids.ts";
import { isInBlock, type Ipv4Block, parseIpv4, parseIpv4Block } from "../mesh/ipv4.ts";
import type { MeshTable } from "../mesh/table.ts";

/** Lists of tasks change at any time; a service's address stays. */
export const LIST_TTL_S = 3;
export const ADDRESS_TTL_S = 30;
/** Records of one answer; the rest is left out (and is in another order next time). */
const RECORDS_MAX = 512;

type NetworkNames = {
  id: NetworkId;
  name: string;
  block: Ipv4Block;
  /** Lower-case name to addresses. */
  names: Map<string, { addresses: string[]; isList: boolean }>;
  /** Address to name, for PTR. */
  owners: Map<string, string>;
};
export type NameTable = {
  /** Ordered by network name: the order in which a name on two networks is looked for. */
  networks: NetworkNames[];
  /** Networks by the address of a task. */
  askers: Map<string, NetworkNames[]>;
};

export type DnsQuestion = { name: string; type: string };
export type DnsReply = {
  type: "reply";
  code: "NOERROR" | "NXDOMAIN";
  records: { name: string; type: "A" | "PTR"; ttlS: number; data: string }[];
};
export type DnsAnswer = DnsReply | { type: "forward" };

/** The names in an endpoint table, made once for each change of it. */
export function nameTable(table: MeshTable): NameTable {
  const byId = new Map<NetworkId, NetworkNames>();
  for (const network of table.networks.values()) {
    const block = network.subnet === undefined ? undefined : parseIpv4Block(network.subnet);
    if (!block) continue;
    byId.set(network.id, {
      id: network.id,
      name: network.spec.Name.toLowerCase(),
      block,
      names: new Map(),
      owners: new Map(),
    });
  }
  const networks = [...byId.values()].sort((a, b) =>
    a.name < b.name ? -1 : a.name > b.name ? 1 : 0,
  );
  const rank = new Map(networks.map((network, place) => [network, place]));
  const askers = new Map<string, NetworkNames[]>();
  const tasksOf = new Map<string, EndpointEntry[]>();
  for (const endpoint of table.endpoints.values()) {
    const tasks = tasksOf.get(endpoint.serviceId);
    if (tasks) tasks.push(endpoint);
    else tasksOf.set(endpoint.serviceId, [endpoint]);
    const mine = networksById(
      byId,
      endpoint.addresses.map((leg) => leg.networkId),
    );
    mine.sort((a, b) => (rank.get(a) ?? 0) - (rank.get(b) ?? 0));
    for (const { networkId, address } of endpoint.addresses) {
      askers.set(address, mine);
      const network = byId.get(networkId);
      if (!network) continue;
      for (const name of new Set([endpoint.name, ...(endpoint.aliases ?? [])])) {
        addName(network, name, [address], false);
      }
      network.owners.set(address, endpoint.name);
    }
  }
  for (const service of table.services.values()) {
    addService(service, tasksOf.get(service.serviceId) ?? [], byId);
  }
  return { networks, askers };
}

function networksById(byId: Map<NetworkId, NetworkNames>, ids: NetworkId[]): NetworkNames[] {
  return [...new Set(ids)].flatMap((id) => byId.get(id) ?? []);
}

function addService(
  service: ServiceEntry,
  all: EndpointEntry[],
  byId: Map<NetworkId, NetworkNames>,
): void {
  // A service whose tasks are all unready still exists: no address, but not "no such name".
  const ids = [...service.virtualIps, ...service.aliases, ...all.flatMap((task) => task.addresses)];
  const networks = networksById(
    byId,
    ids.map((leg) => leg.networkId),
  );
  const ready = all.filter((task) => task.isReady);
  for (const network of networks) {
    const isHere = (leg: { networkId: NetworkId }) => leg.networkId === network.id;
    const tasks = ready.flatMap((task) => task.addresses.filter(isHere).map((leg) => leg.address));
    const virtual = service.virtualIps.find(isHere)?.address;
    const aliases = service.aliases.filter(isHere).flatMap((alias) => alias.names);
    const isVirtual = service.mode === "vip" && virtual !== undefined;
    for (const name of new Set([service.name, ...aliases])) {
      addName(network, name, isVirtual ? [virtual] : tasks, !isVirtual);
    }
    addName(network, `tasks.${service.name}`, tasks, true);
    if (virtual !== undefined) network.owners.set(virtual, service.name);
  }
}

/** Two owners of one name (a shared alias) are answered together. */
function addName(network: NetworkNames, name: string, addresses: string[], isList: boolean): void {
  const key = name.toLowerCase();
  const entry = network.names.get(key);
  if (!entry) {
    network.names.set(key, { addresses: [...addresses], isList });
    return;
  }
  for (const address of addresses) {
    if (!entry.addresses.includes(address)) entry.addresses.push(address);
  }
  entry.isList = true;
}

/**
 * What to answer to the asker at this address; `random` (uniform in [0, 1)) shuffles lists.
 * `forward` means that the name is not ours.
 */
export function answerQuestion(
  question: DnsQuestion,
  table: NameTable,
  asker: string,
  random: () => number,
): DnsAnswer {
  const name = question.name.toLowerCase().replace(/\.$/, "");
  const networks = networksOf(table, asker);
  if (name.endsWith(".in-addr.arpa")) return answerPointer(question, name, table, networks);
  const found = findName(networks, name);
  if (!found) {
    const isOurs = !name.includes(".") || /^tasks\.[^.]*$/.test(name);
    // The root (an empty name) belongs to others: clients ask it for name servers.
    if (!isOurs || name === "") return { type: "forward" };
    return { type: "reply", code: "NXDOMAIN", records: [] };
  }
  if (question.type !== "A" && question.type !== "ANY") {
    return { type: "reply", code: "NOERROR", records: [] };
  }
  const ttlS = found.isList ? LIST_TTL_S : ADDRESS_TTL_S;
  return {
    type: "reply",
    code: "NOERROR",
    records: shuffle(found.addresses, random)
      .slice(0, RECORDS_MAX)
      .map((data) => ({ name: question.name, type: "A", ttlS, data })),
  };
}

/** The networks of the task with this address; else (a container made by hand) the one it lies in. */
function networksOf(table: NameTable, asker: string): NetworkNames[] {
  const known = table.askers.get(asker);
  if (known) return known;
  const value = parseIpv4(asker);
  return value === undefined
    ? []
    : table.networks.filter((network) => isInBlock(network.block, value));
}

function findName(
  networks: NetworkNames[],
  name: string,
): { addresses: string[]; isList: boolean } | undefined {
  for (const network of networks) {
    const entry = network.names.get(name);
    if (entry) return entry;
  }
  for (const network of networks) {
    if (!name.endsWith(`.${network.name}`)) continue;
    const entry = network.names.get(name.slice(0, -network.name.length - 1));
    if (entry) return entry;
  }
  return undefined;
}

function answerPointer(
  question: DnsQuestion,
  name: string,
  table: NameTable,
  networks: NetworkNames[],
): DnsAnswer {
  const labels = name.slice(0, -".in-addr.arpa".length).split(".");
  const value = parseIpv4(labels.reverse().join("."));
  if (value === undefined) return { type: "forward" };
  if (!table.networks.some((network) => isInBlock(network.block, value))) {
    return { type: "forward" };
  }
  const address = labels.join(".");
  for (const network of networks) {
    const owner = network.owners.get(address);
    if (owner === undefined) continue;
    const isAsked = question.type === "PTR" || question.type === "ANY";
    return {
      type: "reply",
      code: "NOERROR",
      records: isAsked
        ? [
            {
              name: question.name,
              type: "PTR",
              ttlS: LIST_TTL_S,
              data: `${owner}.${network.name}`,
            },
          ]
        : [],
    };
  }
  return { type: "reply", code: "NXDOMAIN", records: [] };
}

function shuffle(addresses: string[], random: () => number): string[] {
  const order = [...addresses];
  for (let last = order.length - 1; last > 0; last -= 1) {
    const place = Math.floor(random() * (last + 1));
    const [a, b] = [order[last], order[place]];
    if (a === undefined || b === undefined) continue;
    order[last] = b;
    order[place] = a;
  }
  return order;
}
