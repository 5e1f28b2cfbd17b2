/**
 * What a node must fulfil to get a task, in the order in which it is checked, with the words that
 * tell the user how many nodes failed. Source: SwarmKit manager/scheduler/filter.go.
 */
import { encryptionLack } from "../encryption/mesh-keys.ts";
import type { ServiceId } from "../ids.ts";
import { isEncrypted } from "../objects/network.ts";
import type { NodeObject } from "../objects/node.ts";
import { logDriverOf, type Task } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";
import { architectureOf, type Constraint, readConstraints, satisfiesAll } from "./constraint.ts";
import { type Amounts, hostPortsOf, type NodeInfo, reservationsOf } from "./node-info.ts";

/** What the tasks of one service version ask of a node. */
export type Wish = {
  serviceId: ServiceId;
  reservations: Amounts;
  plugins: { type: string; name: string }[];
  /** `undefined`: one cannot be read. */
  constraints: readonly Constraint[] | undefined;
  platforms: readonly Platform[];
  hostPorts: string[];
  /** 0: no limit. */
  maxReplicas: number;
  /** It is on an encrypted network. */
  isEncrypted: boolean;
};

export type Platform = { Architecture?: string; OS?: string };

export type Filter = {
  name: string;
  check(wish: Wish, info: NodeInfo): boolean;
  /** `nodeCount` is at least 1. */
  explain(nodeCount: number): string;
};

/**
 * What the task asks of a node, parsed once per task and not once per node. A placement that was not
 * given wishes for nothing; constraints that cannot be read match no node.
 */
export function wishOf(task: Task, view: Pick<ClusterView, "network">): Wish {
  const placement = task.spec.Placement;
  return {
    serviceId: task.serviceId,
    reservations: reservationsOf(task.spec),
    plugins: pluginsOf(task, view),
    constraints: readConstraints(placement?.Constraints ?? []),
    platforms: placement?.Platforms ?? [],
    hostPorts: hostPortsOf(task),
    maxReplicas: placement?.MaxReplicas ?? 0,
    isEncrypted: (task.networks ?? []).some(({ networkId }) => {
      const network = view.network(networkId);
      return network !== undefined && isEncrypted(network);
    }),
  };
}

export const FILTERS: readonly Filter[] = [
  {
    name: "ready",
    check: (_wish, { node }) =>
      node.status.state === "ready" && node.spec.Availability === "active",
    explain: (count) =>
      count === 1
        ? "1 node not available for new tasks"
        : `${count} nodes not available for new tasks`,
  },
  {
    name: "resources",
    check: ({ reservations }, { free }) => {
      for (const [kind, amount] of reservations) if ((free.get(kind) ?? 0) < amount) return false;
      return true;
    },
    explain: (count) => `insufficient resources on ${nodes(count)}`,
  },
  {
    name: "plugin",
    check: ({ plugins }, { node }) => {
      const found = node.description?.Engine.Plugins;
      // A node that lists no plugins may have them all the same.
      if (plugins.length === 0 || !found || found.length === 0) return true;
      return plugins.every(({ type, name }) =>
        found.some(
          (plugin) => plugin.Type === type && withoutTag(plugin.Name) === withoutTag(name),
        ),
      );
    },
    explain: (count) => `missing plugin on ${nodes(count)}`,
  },
  {
    name: "encryption",
    check: ({ isEncrypted }, { node }) => !isEncrypted || encryptionLack(node) === undefined,
    explain: (count) =>
      `${count === 1 ? "1 node" : `${count} nodes`} cannot encrypt (kernel lacks ESP: load module esp4)`,
  },
  {
    name: "constraint",
    check: ({ constraints }, { node }) =>
      constraints !== undefined && satisfiesAll(constraints, node),
    explain: (count) => `scheduling constraints not satisfied on ${nodes(count)}`,
  },
  {
    name: "platform",
    check: ({ platforms }, { node }) => supportsPlatform(platforms, node),
    explain: (count) => `unsupported platform on ${nodes(count)}`,
  },
  {
    name: "host-port",
    check: ({ hostPorts }, info) => !hostPorts.some((port) => info.hostPorts.has(port)),
    explain: (count) => `host-mode port already in use on ${nodes(count)}`,
  },
  {
    name: "max-replicas",
    check: ({ maxReplicas, serviceId }, info) =>
      maxReplicas === 0 || (info.countByService.get(serviceId) ?? 0) < maxReplicas,
    explain: () => "max replicas per node limit exceed",
  },
];

/** The first filter that the node fails, or `undefined` when it can take the task. */
export function failedFilter(wish: Wish, info: NodeInfo): Filter | undefined {
  return FILTERS.find((filter) => !filter.check(wish, info));
}

/** The text for the user, from the number of nodes that failed each filter; most failures first. */
export function explain(failures: ReadonlyMap<Filter, number>): string {
  // Of as many nodes each: in the filters' order, so that the text does not hang on the nodes' ids.
  const parts = [...failures].sort(
    ([one, a], [other, b]) => b - a || FILTERS.indexOf(one) - FILTERS.indexOf(other),
  );
  if (parts.length === 0) return "no suitable node";
  return `no suitable node (${parts.map(([filter, count]) => filter.explain(count)).join("; ")})`;
}

/** True when the list is empty or names the node's platform; an empty field stands for any. */
export function supportsPlatform(platforms: readonly Platform[], node: NodeObject): boolean {
  if (platforms.length === 0) return true;
  const found = node.description?.Platform;
  if (!found) return false;
  return platforms.some(
    ({ Architecture = "", OS = "" }) =>
      (Architecture === "" ||
        architectureOf(Architecture) === architectureOf(found.Architecture)) &&
      (OS === "" || OS.toLowerCase() === found.OS.toLowerCase()),
  );
}

function nodes(count: number): string {
  return count === 1 ? "1 node" : `${count} nodes`;
}

/** Drivers of logs, volumes and networks that the task needs and that not every node has. */
function pluginsOf(task: Task, view: Pick<ClusterView, "network">): Wish["plugins"] {
  const plugins: Wish["plugins"] = [];
  for (const { networkId } of task.networks ?? []) {
    const network = view.network(networkId);
    // An overlay network is the agent's own work (net/mesh), a predefined one every engine has.
    if (!network || network.predefined || network.spec.Driver === "overlay") continue;
    plugins.push({ type: "Network", name: network.spec.Driver });
  }
  const log = logDriverOf(task)?.Name ?? "";
  if (log !== "" && log !== "none") plugins.push({ type: "Log", name: log });
  for (const mount of task.spec.ContainerSpec.Mounts ?? []) {
    // The mount is stored as the Docker API has it; only this path of it matters here.
    const options = mount["VolumeOptions"] as { DriverConfig?: { Name?: string } } | undefined;
    const driver = options?.DriverConfig?.Name ?? "";
    if (mount["Type"] === "volume" && driver !== "" && driver !== "local") {
      plugins.push({ type: "Volume", name: driver });
    }
  }
  return plugins;
}

function withoutTag(name: string): string {
  return name.endsWith(":latest") ? name.slice(0, -":latest".length) : name;
}
