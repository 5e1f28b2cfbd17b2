/**
 * What one node looks at, of its endpoint table. Pure. Every list is bounded; where there is more, `turn`
 * (which counts the runs) moves the window, so that in time everything is looked at.
 */
import type { EndpointEntry, Peer } from "../../core/dispatcher/assignment.ts";
import { isEncrypted } from "../../core/objects/network.ts";
import { bridgeName, encryptedProbeAddress } from "../../net/mesh/names.ts";
import { publishAddressOf } from "../../net/mesh/plan.ts";
import type { MeshTable } from "../../net/mesh/table.ts";
import type {
  DnsTarget,
  EndpointTarget,
  ManagerTarget,
  NodeFacts,
  PeerTarget,
  PortTarget,
} from "./facts.ts";

export const PEERS_MAX = 100;
export const ENDPOINTS_MAX = 100;
export const PORTS_MAX = 100;
export const NETWORKS_MAX = 32;
const MANAGERS_MAX = 16;

export type Targets = {
  self?: PeerTarget;
  encryption?: NonNullable<NodeFacts["encryption"]>;
  peers: PeerTarget[];
  managers: ManagerTarget[];
  endpoints: EndpointTarget[];
  ports: PortTarget[];
  dns: DnsTarget[];
  /** Published TCP ports with their services: where no host process should listen. */
  published: Map<number, string>;
  leftOut: NodeFacts["leftOut"];
};

/** `devices`: names of the network devices that are here. */
export function chooseTargets(
  told: MeshTable,
  devices: ReadonlySet<string>,
  turn: number,
): Targets {
  const { settings } = told;
  const all = [...told.peers.values()];
  const me = all.find((peer) => peer.nodeId === settings?.nodeId);
  const encryption = encryptionOf(told, me);
  // That tasks on encrypted networks cannot be reached from here is one finding, not one for each.
  const table = encryption?.lack === undefined ? told : withoutEncrypted(told);
  const hostnames = new Map(all.map((peer) => [peer.nodeId, peer.hostname || peer.nodeId]));
  const nameOf = (nodeId: string) => hostnames.get(nodeId) ?? nodeId;
  const target = (peer: Peer): PeerTarget => ({
    nodeId: peer.nodeId,
    hostname: nameOf(peer.nodeId),
    dataPathAddr: peer.dataPathAddr,
    meshAddress: peer.meshAddress,
    ...(encryption && encryption.lack === undefined && canEncrypt(peer) && peer !== me
      ? { encryptedAddress: encryptedProbeAddress(peer.index) }
      : {}),
  });
  const peers = byKey(
    all.filter((peer) => peer.nodeId !== me?.nodeId),
    (peer) => peer.nodeId,
  );
  const endpoints = endpointTargets(table, nameOf);
  const ports = portTargets(table, me?.dataPathAddr);
  const dns = dnsTargets(table, devices);
  const some = <T>(list: T[], max: number) => window(list, max, turn);
  const chosen = {
    peers: some(peers, PEERS_MAX).map(target),
    endpoints: some(endpoints, ENDPOINTS_MAX),
    ports: some(ports, PORTS_MAX),
    dns: some(dns, NETWORKS_MAX),
  };
  return {
    ...(me ? { self: target(me) } : {}),
    ...(encryption ? { encryption } : {}),
    ...chosen,
    managers: (settings?.managers ?? [])
      .filter(({ nodeId }) => nodeId !== settings?.nodeId)
      .slice(0, MANAGERS_MAX)
      .map(({ nodeId, addr }) => ({ nodeId, hostname: nameOf(nodeId), addr })),
    published: publishedTcp(table),
    leftOut: {
      peers: peers.length - chosen.peers.length,
      endpoints: endpoints.length - chosen.endpoints.length,
      ports: ports.length - chosen.ports.length,
      networks: dns.length - chosen.dns.length,
    },
  };
}

/** Undefined while the cluster has no encrypted network. */
function encryptionOf(table: MeshTable, me: Peer | undefined): Targets["encryption"] {
  if (!me || ![...table.networks.values()].some(isEncrypted)) return undefined;
  if (!me.encryption) return { lack: "it has not told the managers yet whether it can" };
  const { lack } = me.encryption;
  return lack === undefined ? {} : { lack };
}

function withoutEncrypted(table: MeshTable): MeshTable {
  const networks = [...table.networks.values()].filter(isEncrypted);
  const secret = new Set(networks.map(({ id }) => id));
  const endpoints = [...table.endpoints].flatMap(([key, endpoint]) => {
    const addresses = endpoint.addresses.filter(({ networkId }) => !secret.has(networkId));
    return addresses.length > 0 ? [[key, { ...endpoint, addresses }] as const] : [];
  });
  return { ...table, endpoints: new Map(endpoints) };
}

function canEncrypt({ encryption }: Peer): boolean {
  return encryption !== undefined && encryption.lack === undefined;
}

/** A window of the list that moves by its own length with each turn, round the end. */
export function window<T>(list: readonly T[], max: number, turn: number): T[] {
  if (list.length <= max) return [...list];
  const start = (turn * max) % list.length;
  return [...list.slice(start), ...list.slice(0, start)].slice(0, max);
}

/** Ready tasks of services with published TCP ports, at the address to which those lead. */
function endpointTargets(table: MeshTable, nameOf: (nodeId: string) => string): EndpointTarget[] {
  const networkById = new Map([...table.networks.values()].map((one) => [one.id, one]));
  const targets: EndpointTarget[] = [];
  const readyOf = readyByService(table);
  for (const service of byKey([...table.services.values()], (one) => one.serviceId)) {
    const targetPorts = new Set(
      service.ports.flatMap((port) => (port.protocol === "tcp" ? [port.targetPort] : [])),
    );
    if (targetPorts.size === 0) continue;
    for (const endpoint of readyOf.get(service.serviceId) ?? []) {
      const address = publishAddressOf(endpoint, networkById);
      if (address === undefined) continue;
      for (const port of targetPorts) {
        targets.push({
          name: endpoint.name,
          taskId: endpoint.taskId,
          service: service.name,
          hostname: nameOf(endpoint.nodeId),
          isLocal: endpoint.nodeId === table.settings?.nodeId,
          address,
          port,
        });
      }
    }
  }
  return targets;
}

/** Published TCP ports of services with ready tasks, on this node's own address. */
function portTargets(table: MeshTable, address: string | undefined): PortTarget[] {
  if (address === undefined) return [];
  const readyOf = readyByService(table);
  return byKey([...table.services.values()], (one) => one.serviceId)
    .filter((service) => readyOf.has(service.serviceId))
    .flatMap((service) =>
      service.ports
        .filter((port) => port.protocol === "tcp")
        .map(({ publishedPort }) => ({ service: service.name, address, publishedPort })),
    );
}

/** The DNS servers of the networks that are here; each with a ready task that can be asked from, if there is one. */
function dnsTargets(table: MeshTable, devices: ReadonlySet<string>): DnsTarget[] {
  const services = new Map([...table.services.values()].map((one) => [one.serviceId, one.name]));
  const tasks = new Map<string, DnsTarget["task"]>();
  for (const { nodeId, isReady, serviceId, name, addresses } of table.endpoints.values()) {
    const service = services.get(serviceId);
    if (nodeId !== table.settings?.nodeId || !isReady || service === undefined) continue;
    const task = { container: name, name: service };
    for (const { networkId } of addresses) tasks.set(networkId, task);
  }
  return byKey([...table.networks.values()], (network) => network.id).flatMap((network) => {
    if (network.gateway === undefined || !devices.has(bridgeName(network.id))) return [];
    const task = tasks.get(network.id);
    return [{ network: network.spec.Name, gateway: network.gateway, ...(task ? { task } : {}) }];
  });
}

function publishedTcp(table: MeshTable): Map<number, string> {
  const published = new Map<number, string>();
  for (const { name, ports } of table.services.values()) {
    for (const { protocol, publishedPort } of ports) {
      if (protocol === "tcp") published.set(publishedPort, name);
    }
  }
  return published;
}

function readyByService(table: MeshTable): Map<string, EndpointEntry[]> {
  const ready = byKey(
    [...table.endpoints.values()].filter((one) => one.isReady && one.serviceId !== ""),
    (one) => one.taskId,
  );
  return Map.groupBy(ready, (one) => one.serviceId);
}

function byKey<T>(list: T[], keyOf: (one: T) => string): T[] {
  const keyed = list.map((one) => [keyOf(one), one] as const);
  keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return keyed.map(([, one]) => one);
}
