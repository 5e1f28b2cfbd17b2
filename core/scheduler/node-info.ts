/** What the scheduler knows of each node: what is free, and which tasks it has. */
import type { NodeId, RaftIndex, ServiceId, UnixMs } from "../ids.ts";
import type { NodeObject } from "../objects/node.ts";
import { isTaskDead, type Task, type TaskSpec, taskStateAtLeast } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";

/**
 * Deaths older than this do not count against a node. Source: SwarmKit scheduler, monitorFailures.
 */
export const FAILURE_WINDOW_MS = 5 * 60_000;
/** From so many deaths of a service version on, a node is chosen last. */
export const FAILURES_MAX = 5;

/** Amounts by kind: `nanoCpus`, `memoryBytes`, `generic/<Kind>`. */
export type Amounts = ReadonlyMap<string, number>;

/** A node while a plan is being made: placing a task changes it. */
export type NodeInfo = {
  node: NodeObject;
  free: Map<string, number>;
  /** `<protocol>/<port>` of host-mode ports in use. */
  hostPorts: Set<string>;
  /** Wanted tasks, by service and in total. */
  countByService: Map<ServiceId, number>;
  count: number;
  /** By `failureKey`: recent deaths of tasks. */
  failures: Map<string, number>;
};

export function failureKey(serviceId: ServiceId, specVersion: RaftIndex): string {
  return `${serviceId}/${specVersion}`;
}

/** All nodes with the tasks that occupy them. O(nodes + tasks). */
export function observeNodes(view: ClusterView, nowMs: UnixMs): Map<NodeId, NodeInfo> {
  const infos = new Map<NodeId, NodeInfo>();
  for (const node of view.nodes()) {
    infos.set(node.id, {
      node,
      free: new Map(capacityOf(node)),
      hostPorts: new Set(),
      countByService: new Map(),
      count: 0,
      failures: new Map(),
    });
  }
  for (const task of view.tasks()) {
    const info = task.nodeId === undefined ? undefined : infos.get(task.nodeId);
    if (info === undefined || !taskStateAtLeast(task.status.state, "assigned")) continue;
    const { state, atMs } = task.status;
    if (!isTaskDead(state)) {
      occupy(info, task);
    } else if ((state === "failed" || state === "rejected") && atMs > nowMs - FAILURE_WINDOW_MS) {
      const key = failureKey(task.serviceId, task.specVersion);
      info.failures.set(key, (info.failures.get(key) ?? 0) + 1);
    }
  }
  return infos;
}

/** Takes what the task needs; it is on the node until it is dead, but counts only while wanted. */
export function occupy(info: NodeInfo, task: Task): void {
  for (const [kind, amount] of reservationsOf(task.spec)) {
    info.free.set(kind, (info.free.get(kind) ?? 0) - amount);
  }
  for (const port of hostPortsOf(task)) info.hostPorts.add(port);
  if (task.desiredState === "shutdown" || task.desiredState === "remove") return;
  info.count += 1;
  info.countByService.set(task.serviceId, (info.countByService.get(task.serviceId) ?? 0) + 1);
}

/** `<protocol>/<port>` of the task's host-mode ports; those the engine chooses are free anyway. */
export function hostPortsOf(task: Task): string[] {
  return (task.ports ?? [])
    .filter((port) => port.PublishMode === "host" && port.PublishedPort !== 0)
    .map((port) => `${port.Protocol}/${port.PublishedPort}`);
}

function capacityOf(node: NodeObject): Amounts {
  const resources = node.description?.Resources;
  return new Map([
    ["nanoCpus", resources?.NanoCPUs ?? 0],
    ["memoryBytes", resources?.MemoryBytes ?? 0],
    ...genericAmounts(resources?.GenericResources ?? []),
  ]);
}

/** What the spec reserves; kinds of amount 0 are left out. */
export function reservationsOf(spec: TaskSpec): Amounts {
  const reservations = spec.Resources?.Reservations;
  const amounts = new Map<string, number>();
  if (!reservations) return amounts;
  if (reservations.NanoCPUs) amounts.set("nanoCpus", reservations.NanoCPUs);
  if (reservations.MemoryBytes) amounts.set("memoryBytes", reservations.MemoryBytes);
  for (const [kind, amount] of genericAmounts(reservations.GenericResources ?? [])) {
    amounts.set(kind, amount);
  }
  return amounts;
}

type GenericResource = {
  NamedResourceSpec?: { Kind?: string };
  DiscreteResourceSpec?: { Kind?: string; Value?: number };
};

/** Named resources count one each. Which of them a task gets is not decided here. */
function genericAmounts(resources: readonly unknown[]): Map<string, number> {
  const amounts = new Map<string, number>();
  for (const resource of resources) {
    // The API border checked the shape; what is missing counts as nothing.
    const { NamedResourceSpec: named, DiscreteResourceSpec: discrete } =
      resource as GenericResource;
    const kind = `generic/${named?.Kind ?? discrete?.Kind ?? ""}`;
    const amount = named ? 1 : (discrete?.Value ?? 0);
    if (amount !== 0) amounts.set(kind, (amounts.get(kind) ?? 0) + amount);
  }
  return amounts;
}
