/** What the scheduler knows of each node: what is free, and which tasks it has. */
import type { NodeId, RaftIndex, ServiceId, UnixMs } from "../ids.ts";
import { type GenericResource, readGenericResources } from "../objects/generic-resource.ts";
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

/** What is kept free on a node for a slot whose home it is (kept-room.ts). */
export type KeptRoom = {
  serviceId: ServiceId;
  serviceName: string;
  slot: number;
  amounts: Amounts;
  hostPorts: readonly string[];
};

/** A node while a plan is being made: placing a task changes it. */
export type NodeInfo = {
  node: NodeObject;
  free: Map<string, number>;
  /** By kind: named generic resources that no task has. */
  freeNames: Map<string, string[]>;
  /** `<protocol>/<port>` of host-mode ports in use. */
  hostPorts: Set<string>;
  /** Wanted tasks, by service and in total. */
  countByService: Map<ServiceId, number>;
  count: number;
  /** By `failureKey`: recent deaths of tasks. */
  failures: Map<string, number>;
  /** By service and slot: taken from `free` and added to `hostPorts` already. */
  kept: Map<string, KeptRoom>;
};

const GENERIC_PREFIX = "generic/";

export function failureKey(serviceId: ServiceId, specVersion: RaftIndex): string {
  return `${serviceId}/${specVersion}`;
}

/** Failures kept in a task's memory, the newest ones. */
const FAILURES_KEPT_MAX = 32;

/** The recent failures that a task's successor in the slot should know: the task's own and those it knew. */
export function failuresUpTo(
  task: Pick<Task, "id" | "nodeId" | "status" | "recentFailures">,
  nowMs: UnixMs,
): NonNullable<Task["recentFailures"]> {
  const { nodeId, status, recentFailures } = task;
  const hasFailed = status.state === "failed" || status.state === "rejected";
  if (recentFailures === undefined && !hasFailed) return [];
  const failures = [...(recentFailures ?? [])];
  if (hasFailed && nodeId !== undefined)
    failures.push({ taskId: task.id, nodeId, atMs: status.atMs });
  return failures.filter(({ atMs }) => atMs > nowMs - FAILURE_WINDOW_MS).slice(-FAILURES_KEPT_MAX);
}

/** All nodes with the tasks that occupy them and are counted. O(nodes + tasks). */
export function observeNodes(
  view: ClusterView,
  nowMs: UnixMs,
  isCounted: (task: Task) => boolean,
): Map<NodeId, NodeInfo> {
  const infos = new Map<NodeId, NodeInfo>();
  for (const node of view.nodes()) {
    infos.set(node.id, {
      node,
      free: new Map(capacityOf(node)),
      freeNames: namesOf(node),
      hostPorts: new Set(),
      countByService: new Map(),
      count: 0,
      failures: new Map(),
      kept: new Map(),
    });
  }
  // A failure is known by its task and again by the tasks that succeeded it in the slot.
  const seen = new Set<string>();
  for (const task of view.tasks()) {
    for (const { taskId, nodeId } of failuresUpTo(task, nowMs)) {
      const failures = infos.get(nodeId)?.failures;
      if (!failures || seen.has(taskId)) continue;
      seen.add(taskId);
      const key = failureKey(task.serviceId, task.specVersion);
      failures.set(key, (failures.get(key) ?? 0) + 1);
    }
    const info = task.nodeId === undefined ? undefined : infos.get(task.nodeId);
    if (info === undefined || !taskStateAtLeast(task.status.state, "assigned")) continue;
    if (!isTaskDead(task.status.state) && isCounted(task)) occupy(info, task);
  }
  return infos;
}

/** Takes what the task needs; it is on the node until it is dead, but counts only while wanted. */
export function occupy(info: NodeInfo, task: Task): void {
  for (const [kind, amount] of reservationsOf(task.spec)) {
    info.free.set(kind, (info.free.get(kind) ?? 0) - amount);
  }
  for (const resource of task.genericResources ?? []) {
    if (!("NamedResourceSpec" in resource)) continue;
    const { Kind, Value } = resource.NamedResourceSpec;
    const names = info.freeNames.get(Kind)?.filter((name) => name !== Value);
    if (names) info.freeNames.set(Kind, names);
  }
  for (const port of hostPortsOf(task)) info.hostPorts.add(port);
  if (task.desiredState === "shutdown" || task.desiredState === "remove") return;
  info.count += 1;
  info.countByService.set(task.serviceId, (info.countByService.get(task.serviceId) ?? 0) + 1);
}

/** `<protocol>/<port>` of the task's host-mode ports; those the engine chooses are free anyway. */
export function hostPortsOf(task: Pick<Task, "ports">): string[] {
  return (task.ports ?? [])
    .filter((port) => port.PublishMode === "host" && port.PublishedPort !== 0)
    .map((port) => `${port.Protocol}/${port.PublishedPort}`);
}

/**
 * The generic resources that a task which fits is given: names where the node has names, else
 * amounts.
 */
export function takeGenericResources(info: NodeInfo, task: Task): GenericResource[] {
  const taken: GenericResource[] = [];
  for (const [kind, amount] of reservationsOf(task.spec)) {
    if (!kind.startsWith(GENERIC_PREFIX)) continue;
    const Kind = kind.slice(GENERIC_PREFIX.length);
    const names = info.freeNames.get(Kind);
    if (names === undefined) taken.push({ DiscreteResourceSpec: { Kind, Value: amount } });
    for (const Value of names?.slice(0, amount) ?? []) {
      taken.push({ NamedResourceSpec: { Kind, Value } });
    }
  }
  return taken;
}

/** What the node has in all. */
export function capacityOf(node: NodeObject): Amounts {
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

/** Named resources count one each. */
function genericAmounts(resources: readonly unknown[]): Map<string, number> {
  const amounts = new Map<string, number>();
  for (const resource of readGenericResources(resources)) {
    const isNamed = "NamedResourceSpec" in resource;
    const { Kind } = isNamed ? resource.NamedResourceSpec : resource.DiscreteResourceSpec;
    const amount = isNamed ? 1 : resource.DiscreteResourceSpec.Value;
    const kind = `${GENERIC_PREFIX}${Kind}`;
    amounts.set(kind, (amounts.get(kind) ?? 0) + amount);
  }
  return amounts;
}

/** Its named generic resources, by kind. */
export function namesOf(node: NodeObject): Map<string, string[]> {
  const names = new Map<string, string[]>();
  const resources = node.description?.Resources.GenericResources ?? [];
  for (const resource of readGenericResources(resources)) {
    if (!("NamedResourceSpec" in resource)) continue;
    const { Kind, Value } = resource.NamedResourceSpec;
    const found = names.get(Kind) ?? [];
    if (!found.includes(Value)) names.set(Kind, [...found, Value]);
  }
  return names;
}
