/**
 * One look at this node: targets of the table, probes on them, facts. Bounded in time: each probe has a
 * limit, and what has not ended by {@link GATHER_TIMEOUT_MS} is not in the facts.
 *
 * A target that does not answer is tried once more, after the table was read again: in a rolling update a
 * task may be gone before the table on disk says so.
 */
import { randomUUID } from "node:crypto";
import { emptyTable, type MeshTable } from "../../net/mesh/table.ts";
import { MESH_DEVICE } from "../../net/mesh/names.ts";
import { parseIpv4 } from "../../net/mesh/ipv4.ts";
import type { Interface } from "../../net/mesh/observe.ts";
import { parseHostPort, DEFAULT_RPC_PORT } from "../address.ts";
import type { NodeFacts, PeerFact, PeerTarget, TcpOutcome } from "./facts.ts";
import type { DnsQuestion, Probes } from "./probes.ts";
import { chooseTargets } from "./targets.ts";

/** Below the leader's patience with a node (5 s). */
export const GATHER_TIMEOUT_MS = 4_300;
const TCP_TIMEOUT_MS = 1_000;
const DNS_TIMEOUT_MS = 1_600;
const MESH_STATUS_TIMEOUT_MS = 2_000;
/** The table on disk is at most that old. */
const SECOND_TRY_DELAY_MS = 1_100;
/** Processes at once, and packets that must not be cut in one run. */
const PINGS_AT_ONCE_MAX = 8;
const PINGS_MAX = 32;
/** What is known of a peer without them is kept. */
const PINGS_SPARE_MS = 200;
const ROUND_TRIPS_MAX = 16;
/** tcpmux: used by nobody; refused by the peer's kernel when the tunnel works. */
export const UNUSED_PORT = 1;

/** Where the kernel shows them, below /proc/sys; the values are check-node.ts's. */
export const SETTINGS = [
  "net/ipv4/ip_forward",
  "net/bridge/bridge-nf-call-iptables",
  `net/ipv4/conf/${MESH_DEVICE}/rp_filter`,
  `net/ipv4/conf/${MESH_DEVICE}/forwarding`,
] as const;
const CONNTRACK_COUNT = "net/netfilter/nf_conntrack_count";
const CONNTRACK_MAX = "net/netfilter/nf_conntrack_max";

export type GatherOptions = {
  probes: Probes;
  /** The last table of the mesh. */
  loadTable(): Promise<MeshTable>;
  meshStatus(timeoutMs: number): Promise<NodeFacts["mesh"]>;
  turn: number;
  timeoutMs?: number;
};

export async function gatherFacts(options: GatherOptions): Promise<NodeFacts> {
  const { probes } = options;
  const endsAtMs = performance.now() + (options.timeoutMs ?? GATHER_TIMEOUT_MS);
  const leftMs = () => Math.max(1, endsAtMs - performance.now());
  /** The value, or undefined when it does not come in time; `spareMs`: so long before the end. */
  const inTime = async <T>(work: Promise<T>, spareMs = 0): Promise<T | undefined> => {
    let timer: Timer | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), Math.max(1, leftMs() - spareMs));
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  };

  const [table = emptyTable(), devices] = await Promise.all([
    inTime(options.loadTable()),
    inTime(probes.interfaces()),
  ]);
  const { settings } = table;
  const deviceNames = new Set((devices ?? []).map((device) => device.name));
  const targets = chooseTargets(table, deviceNames, options.turn);
  const overlayMtu = devices?.find((device) => device.name === MESH_DEVICE)?.mtu;
  const port = targets.published.has(UNUSED_PORT) ? UNUSED_PORT + 1 : UNUSED_PORT;

  /** What went wrong is tried again, if the newest table still has it. */
  const second: { table?: Promise<MeshTable> } = {};
  const again = async () => {
    second.table ??= Bun.sleep(SECOND_TRY_DELAY_MS).then(() => options.loadTable());
    await second.table;
  };
  const tryTwice = async (address: string, tcpPort: number, isGood: typeof isConnected) => {
    const first = await probes.tcp(address, tcpPort, TCP_TIMEOUT_MS);
    if (isGood(first)) return first;
    await again();
    return probes.tcp(address, tcpPort, TCP_TIMEOUT_MS);
  };

  const gate = createGate(PINGS_AT_ONCE_MAX);
  const ping = (address: string, sizeBytes: number) =>
    gate(() => probes.ping(address, sizeBytes, TCP_TIMEOUT_MS));
  const lookAtPeer = async (peer: PeerTarget, place: number): Promise<PeerFact> => {
    const { encryptedAddress } = peer;
    const [tcp, encryptedTcp] = await Promise.all([
      tryTwice(peer.meshAddress, port, isReached),
      encryptedAddress === undefined ? undefined : tryTwice(encryptedAddress, port, isReached),
    ]);
    const fact: PeerFact = { ...peer, tcp, ...(encryptedTcp ? { encryptedTcp } : {}) };
    if (place >= PINGS_MAX || overlayMtu === undefined) return fact;
    const more = await inTime(pingPeer(peer, isReached(tcp), overlayMtu), PINGS_SPARE_MS);
    return { ...fact, ...more };
  };
  const pingPeer = async (
    peer: PeerTarget,
    isAnswering: boolean,
    overlayMtu: number,
  ): Promise<Pick<PeerFact, "ping" | "smallPing" | "underlayPing">> => {
    if (!isAnswering) {
      const [smallPing, underlayPing] = await Promise.all([
        ping(peer.meshAddress, SMALL_BYTES),
        ping(peer.dataPathAddr, SMALL_BYTES),
      ]);
      return { smallPing, underlayPing };
    }
    const large = await ping(peer.meshAddress, overlayMtu);
    if (large === "answered" || large === "no-tool") return { ping: large };
    return { ping: large, smallPing: await ping(peer.meshAddress, SMALL_BYTES) };
  };

  /** All that ended in time; `place` counts the targets. */
  const each = async <T, R>(
    list: readonly T[],
    look: (target: T, place: number) => Promise<R>,
  ): Promise<R[]> => {
    const seen = await Promise.all(list.map((target, place) => inTime(look(target, place))));
    return seen.filter((fact): fact is Awaited<R> => fact !== undefined);
  };

  const unknownName = `shoal-doctor-${randomUUID().slice(0, 8)}`;
  const [mesh, peers, managers, endpoints, ports, dns, conntrack, values, firewall, listeners] =
    await Promise.all([
      inTime(options.meshStatus(MESH_STATUS_TIMEOUT_MS)),
      each(targets.peers, lookAtPeer),
      each(targets.managers, async (manager) => {
        const { host, port: rpcPort } = parseHostPort(manager.addr, "addr", DEFAULT_RPC_PORT);
        return { ...manager, tcp: await tryTwice(host, rpcPort, isConnected) };
      }),
      each(targets.endpoints, async (endpoint) => ({
        ...endpoint,
        tcp: await tryTwice(endpoint.address, endpoint.port, isConnected),
      })),
      each(targets.ports, async (published) => ({
        ...published,
        tcp: await tryTwice(published.address, published.publishedPort, isConnected),
      })),
      each(targets.dns, async (target) => {
        const ask = (question: DnsQuestion) => probes.dns(target.gateway, question, DNS_TIMEOUT_MS);
        const [unknown, own] = await Promise.all([
          ask({ type: "A", name: unknownName }),
          // The host's own questions do not come from the network's addresses, so names of services
          // are hidden from it. But only who knows the network is the authority for its addresses.
          ask({ type: "PTR", name: pointerOf(target.gateway) }),
        ]);
        const { task } = target;
        const inside =
          task && (await inTime(gate(() => probes.dnsOf(target, task, DNS_TIMEOUT_MS))));
        return { ...target, unknown, own, ...(inside ? { inside } : {}) };
      }),
      inTime(Promise.all([probes.setting(CONNTRACK_COUNT), probes.setting(CONNTRACK_MAX)])),
      inTime(Promise.all(SETTINGS.map((path) => probes.setting(path)))),
      inTime(probes.firewall()),
      inTime(findListeners(probes, targets.published)),
    ]);

  // All at once they wait for each other; the round trip is taken when it is quiet.
  const quiet = await inTime(measure(probes, peers.slice(0, ROUND_TRIPS_MAX), port));

  const newest = second.table ? await inTime(second.table) : undefined;
  const stillReady = new Set(
    [...(newest?.endpoints.values() ?? [])].flatMap((one) => (one.isReady ? [one.taskId] : [])),
  );
  const [count, max] = conntrack ?? [];
  return {
    nodeId: settings?.nodeId ?? "",
    hostname: settings?.hostname ?? "",
    ...(targets.self ? { self: targets.self } : {}),
    ...(targets.encryption ? { encryption: targets.encryption } : {}),
    dataPathPort: settings?.dataPathPort ?? 4_789,
    mesh: mesh ?? { type: "unknown", message: "the mesh thread does not answer" },
    ...(devices ? { devices: describeDevices(devices, targets.self?.dataPathAddr) } : {}),
    peers: peers.map((peer, place) => ({ ...peer, tcp: quiet?.[place] ?? peer.tcp })),
    managers,
    endpoints: endpoints.filter(
      (one) => isConnected(one.tcp) || !newest || stillReady.has(one.taskId),
    ),
    ports,
    dns,
    leftOut: {
      peers: targets.leftOut.peers + targets.peers.length - peers.length,
      endpoints: targets.leftOut.endpoints + targets.endpoints.length - endpoints.length,
      ports: targets.leftOut.ports + targets.ports.length - ports.length,
      networks: targets.leftOut.networks + targets.dns.length - dns.length,
    },
    ...(count !== undefined && max !== undefined ? { conntrack: { count, max } } : {}),
    settings: Object.fromEntries(
      SETTINGS.flatMap((path, place) => {
        const value = values?.[place];
        return value === undefined ? [] : [[path, value]];
      }),
    ),
    ...(firewall ? { firewall } : {}),
    listeners: listeners ?? [],
  };
}

const SMALL_BYTES = 84;

function pointerOf(address: string): string {
  return `${address.split(".").reverse().join(".")}.in-addr.arpa`;
}

function isConnected(outcome: TcpOutcome): boolean {
  return outcome.type === "connected";
}

/** Refused is an answer of the peer, too. */
function isReached(outcome: TcpOutcome): boolean {
  return outcome.type === "connected" || outcome.type === "refused";
}

/** Of those that answered, the outcome of a second attempt, one after the other. */
async function measure(
  probes: Probes,
  peers: readonly PeerFact[],
  port: number,
): Promise<TcpOutcome[]> {
  const outcomes: TcpOutcome[] = [];
  for (const { meshAddress, tcp } of peers) {
    const quiet = isReached(tcp) ? await probes.tcp(meshAddress, port, TCP_TIMEOUT_MS) : tcp;
    outcomes.push(isReached(quiet) ? quiet : tcp);
  }
  return outcomes;
}

async function findListeners(
  probes: Probes,
  published: ReadonlyMap<number, string>,
): Promise<NodeFacts["listeners"]> {
  if (published.size === 0) return [];
  const found = (await probes.listeners()).filter(({ port }) => published.has(port));
  const processes = await probes.processes(found.map(({ inode }) => inode));
  const byPort = new Map(
    found.map(({ port, inode }) => [port, processes.get(inode) ?? "a process"]),
  );
  return [...byPort].map(([port, process]) => ({
    port,
    process,
    service: published.get(port) ?? "",
  }));
}

function describeDevices(
  devices: readonly Interface[],
  dataPathAddr: string | undefined,
): NonNullable<NodeFacts["devices"]> {
  const mesh = devices.find((device) => device.name === MESH_DEVICE);
  const wanted = dataPathAddr === undefined ? undefined : parseIpv4(dataPathAddr);
  for (const device of devices) {
    if (device.name === MESH_DEVICE) continue;
    const own = device.addresses.find(({ address }) => parseIpv4(address) === wanted);
    if (!own || wanted === undefined) continue;
    const { name, mtu } = device;
    return {
      underlay: { name, mtu, prefixLength: own.prefixLength },
      ...(mesh ? { mesh: { mtu: mesh.mtu, isUp: mesh.isUp } } : {}),
    };
  }
  return mesh ? { mesh: { mtu: mesh.mtu, isUp: mesh.isUp } } : {};
}

/** Runs at most so many at once; the others wait their turn. */
function createGate(max: number) {
  let free = max;
  const waiting: (() => void)[] = [];
  return async <T>(run: () => Promise<T>): Promise<T> => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await run();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free += 1;
    }
  };
}
