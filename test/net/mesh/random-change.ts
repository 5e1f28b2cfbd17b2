/**
 * A table that changes at random, as no cluster would: tasks and services come, go and move, take each
 * other's addresses and ports, networks lose IPv6 or become encrypted, options change.
 */
import { address6Of } from "../../../core/allocator/address6.ts";
import type { EndpointEntry, ServiceEntry } from "../../../core/dispatcher/assignment.ts";
import { PUBLISH_POLICIES } from "../../../core/objects/balancing.ts";
import type { Network } from "../../../core/objects/network.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import type { PlanOptions } from "../../../net/mesh/plan.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import { labItems6, labNetwork6 } from "./ipv6-lab.ts";
import { networkId, NODE_ID } from "./lab-state.ts";
import { seededRandom } from "./random-plan.ts";

export type ChangingTable = {
  table: MeshTable;
  present: ReadonlySet<string>;
  options: PlanOptions;
  /** Changes a few services and tasks; now and then something that concerns all. */
  change(): void;
};

const NETWORKS = ["netA", "netB", "netC", "netI", "ingress"];

/** The lab's cluster as node 1 sees it, and what becomes of it. */
export function changingTable(seed: number): ChangingTable {
  const random = seededRandom(seed);
  const below = (count: number) => Math.floor(random() * count);
  const pick = <Item>(items: readonly Item[]): Item => {
    const item = items[below(items.length)];
    if (item === undefined) throw new Error("Nothing to choose from");
    return item;
  };
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });
  const networks = new Map(table.networks);
  const peers = new Map(table.peers);
  /** How often somebody asks for what another has. */
  const clash = [0, 0.05, 0.4][seed % 3] ?? 0;
  /** Addresses that nobody had yet; after as many, old ones are given again. */
  let fresh = 40;
  const takenHosts = () =>
    [...table.endpoints.values()]
      .flatMap(({ addresses }) => addresses)
      .concat([...table.services.values()].flatMap(({ virtualIps }) => virtualIps))
      .map(({ address }) => Number(address.split(".")[3]));

  const legOn = (name: string) => {
    fresh = fresh >= 250 ? 40 : fresh + 1;
    const taken = random() < clash ? takenHosts() : [];
    const host = taken.length > 0 ? pick(taken) : fresh;
    const network = labNetwork6(name);
    const address = `10.${network.subnet?.split(".")[1]}.0.${host}`;
    const address6 = random() < 0.9 ? address6Of(network, address) : undefined;
    const leg = { networkId: networkId(name), address };
    return address6 === undefined ? leg : { ...leg, address6 };
  };
  const someLegs = () => {
    const first = below(NETWORKS.length);
    const names = random() < 0.3 ? [first, first + 1] : [first];
    return names.map((place) => legOn(NETWORKS[place % NETWORKS.length] ?? "netA"));
  };
  const putEndpoint = (entry: EndpointEntry) => {
    table.endpoints.set(`endpoint/${entry.taskId}`, entry);
  };
  const putService = (entry: ServiceEntry) => {
    table.services.set(`service/${entry.serviceId}`, entry);
  };
  const somePorts = (): ServiceEntry["ports"] =>
    Array.from({ length: below(3) }, () => ({
      protocol: pick(["tcp", "udp"] as const),
      publishedPort: random() < clash / 4 ? 70_000 : 8_000 + below(clash > 0.1 ? 10 : 3_000),
      targetPort: pick([80, 81]),
      publish: pick(PUBLISH_POLICIES),
    }));
  const someBalancing = () => ({
    ...(random() < 0.3 ? { hasAffinity: true as const } : {}),
    ...(random() < 0.3 ? { isLocalFirst: true as const } : {}),
  });
  let made = 0;
  const changeTask = (entry: EndpointEntry) => {
    const key = `endpoint/${entry.taskId}`;
    const what = random();
    if (what < 0.4) putEndpoint({ ...entry, isReady: !entry.isReady });
    else if (what < 0.55) table.endpoints.delete(key);
    else if (what < 0.65) putEndpoint({ ...entry, nodeId: NODE_ID(1 + below(4)) });
    else if (what < 0.75) putEndpoint({ ...entry, addresses: someLegs() });
    else if (what < 0.8) putEndpoint(structuredClone(entry));
    else if (what < 0.85) {
      table.endpoints.delete(key);
      putEndpoint(entry);
    } else {
      made += 1;
      putEndpoint({
        taskId: `made${made % 40}`,
        serviceId: pick([entry.serviceId, entry.serviceId, "", "service-nowhere"]),
        name: `made.${made}`,
        nodeId: NODE_ID(1 + below(3)),
        addresses: someLegs(),
        isReady: random() < 0.7,
      });
    }
  };
  const changeService = (entry: ServiceEntry) => {
    const what = random();
    if (what < 0.25) putService({ ...entry, ports: somePorts() });
    else if (what < 0.5) putService({ ...entry, balancing: someBalancing() });
    else if (what < 0.6) table.services.delete(`service/${entry.serviceId}`);
    else if (what < 0.7) putService({ ...entry, virtualIps: someLegs() });
    else if (what < 0.8) {
      putService({ ...entry, mode: entry.mode === "vip" ? "dnsrr" : "vip" });
    } else if (what < 0.82 && clash > 0) {
      const key = "service/again";
      if (!table.services.delete(key)) table.services.set(key, { ...entry, ports: somePorts() });
    } else {
      made += 1;
      putService({
        serviceId: `service-made${made % 10}`,
        name: `made${made}`,
        mode: "vip",
        virtualIps: someLegs(),
        ports: somePorts(),
        aliases: [],
        balancing: someBalancing(),
      });
    }
  };
  const changeNetwork = (network: Network) => {
    const { spec } = network;
    const key = `network/${network.id}`;
    const { subnet6, gateway6, ...without } = labNetwork6(spec.Name);
    const variants: (Network | undefined)[] = [
      undefined,
      { ...network, spec: { ...spec, Internal: !spec.Internal } },
      {
        ...network,
        spec: { ...spec, Options: "encrypted" in spec.Options ? {} : { encrypted: "" } },
      },
      { ...without, spec },
      {
        ...without,
        spec,
        ...(subnet6 === undefined || gateway6 === undefined ? {} : { subnet6, gateway6 }),
      },
    ];
    const next = variants[below(variants.length)];
    if (next) table.networks.set(key, next);
    else if (table.networks.has(key)) table.networks.delete(key);
    else table.networks.set(key, network);
  };
  const changeOptions = (options: PlanOptions): PlanOptions => {
    const bridges = [...networks.keys()].map((key) => bridgeName(key.replace("network/", "")));
    const variants: Partial<PlanOptions>[] = [
      { canEncrypt: options.canEncrypt !== true },
      { devices: new Set(bridges.filter(() => random() < 0.6)) },
      { hasIpv6: random() < 0.8 },
      { hasLocalVirtualIps: random() < 0.5 },
      { balance: random() < 0.5 ? "random" : "increment" },
      { underlayMtu: random() < 0.5 ? 1_500 : 9_000 },
    ];
    return { ...options, ...variants[below(variants.length)] };
  };

  const state: ChangingTable = {
    table,
    present: new Set(),
    options: { underlayMtu: 1_500, balance: "random", hasBrNetfilter: true, canEncrypt: true },
    change: () => {
      for (let count = below(4); count >= 0; count -= 1) {
        const tasks = [...table.endpoints.values()];
        if (tasks.length > 0) changeTask(pick(tasks));
        const services = [...table.services.values()];
        if (services.length > 0 && random() < 0.25) changeService(pick(services));
      }
      const what = random();
      if (what < 0.05) changeNetwork(pick([...networks.values()]));
      else if (what < 0.1) state.options = changeOptions(state.options);
      else if (what < 0.13) {
        const [key, peer] = pick([...peers].slice(1));
        if (!table.peers.delete(key)) {
          table.peers.set(key, random() < 0.5 ? { ...peer, addresses6: [] } : peer);
        }
      } else if (what < 0.17) {
        state.present = new Set(NETWORKS.filter(() => random() < 0.5).map(networkId));
      } else if (what < 0.2) {
        // As after a lost session: everything as it should be, in other objects.
        applyAssignments(table, { isComplete: true, put: labItems6(1), removed: [] });
      }
    },
  };
  return state;
}
