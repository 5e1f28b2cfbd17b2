/**
 * The slots of stateful services (objects/stateful.ts): where each one's home is, and what is remembered
 * of it on the service.
 *
 * 1. A slot's home is the node of its first task; its tasks are placed only there, whatever becomes of the
 *    node, until the node is removed, was down for `replace-after`, or a user moves the home.
 * 2. `Service.slots` is written from the tasks that are there, after they were placed; what is not written
 *    yet is read from them in the same way (`homeOf`, `addressesOf`), so a lost or late write loses nothing.
 * 3. A home that is written is good until it is given up: a task elsewhere follows it, not it the task.
 * 4. An address is remembered with the home, from the slot's task that serves, else from its newest one.
 *
 * Not here: placing (scheduler/schedule.ts), giving addresses (allocator/slot-addresses.ts), the order in
 * which slots are made, updated and removed (replicated.ts, update.ts).
 */
import type { NetworkId, NodeId, UnixMs } from "../ids.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Service } from "../objects/service.ts";
import { isStateful, replaceAfterMs, type SlotMemory } from "../objects/stateful.ts";
import type { Task } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";
import { type PlanDraft, updateService, wakeAt } from "./plan-draft.ts";
import { compareTasks, isWanted, type Slot } from "./slot.ts";
import { isSameSpec } from "./task-dirty.ts";

/** The node on which the slot's next task is placed; `undefined` while any may have it. */
export function homeOf(
  view: ClusterView,
  service: Service,
  slotNumber: number,
  nowMs: UnixMs,
): NodeId | undefined {
  if (!isStateful(service.spec)) return undefined;
  const memory = service.slots?.[slotNumber];
  const nodeId = memory ? memory.nodeId : lastNodeOf(tasksOf(view, service, slotNumber));
  if (nodeId === undefined || isGivenUp(view, service, nodeId, nowMs)) return undefined;
  return nodeId;
}

/** The addresses that the slot's next task should have. */
export function addressesOf(
  view: ClusterView,
  service: Service,
  slotNumber: number,
): Record<NetworkId, string> {
  const memory = service.slots?.[slotNumber];
  return memory?.addresses ?? addressesIn(tasksOf(view, service, slotNumber));
}

/** When the slots of a node that is down leave it, if ever. */
function leaveAtMs(service: Service, node: NodeObject): UnixMs {
  // A node's last change while it is down is at the earliest its going down.
  return node.updatedAtMs + replaceAfterMs(service.spec.Labels);
}

/** True once a node is nobody's home any more, of this service. */
function isGivenUp(view: ClusterView, service: Service, nodeId: NodeId, nowMs: UnixMs): boolean {
  const node = view.node(nodeId);
  if (node === undefined) return true;
  return node.status.state === "down" && nowMs >= leaveAtMs(service, node);
}

/**
 * Gives the slots of a stateful service their homes, and remembers what is new of them. Of a service that
 * is stateful no longer everything is forgotten. `slots`: all that have tasks.
 */
export function planHomes(draft: PlanDraft, service: Service, slots: readonly Slot[]): void {
  if (!isStateful(service.spec)) {
    if (service.slots) updateService(draft, service, {}, ["slots"]);
    return;
  }
  const { view, nowMs } = draft;
  const changed: Record<number, SlotMemory> = {};
  for (const slot of slots) {
    const tasks = [...slot.leaving, ...slot.tasks].sort(compareTasks);
    const memory = service.slots?.[slot.number];
    const next = memoryOf(draft, service, memory, tasks);
    if (next && !isSameSpec(next, memory)) changed[slot.number] = next;
    const homeId = (next ?? memory)?.nodeId;
    const isHome = homeId !== undefined && !isGivenUp(view, service, homeId, nowMs);
    slot.stateful = isHome ? { homeId } : {};
    const home = isHome ? view.node(homeId) : undefined;
    if (home?.status.state !== "down") continue;
    const untilMs = leaveAtMs(service, home);
    if (Number.isFinite(untilMs)) wakeAt(draft, untilMs);
  }
  if (Object.keys(changed).length === 0) return;
  updateService(draft, service, { slots: { ...service.slots, ...changed } });
}

/** What is to be remembered of the slot from now on; `undefined` until it has a home. */
function memoryOf(
  { view, nowMs }: PlanDraft,
  service: Service,
  memory: SlotMemory | undefined,
  tasks: readonly Task[],
): SlotMemory | undefined {
  const isGone = (nodeId: NodeId) => isGivenUp(view, service, nodeId, nowMs);
  const wanted = tasks.filter(isWanted);
  let nodeId = memory?.nodeId;
  if (memory === undefined) {
    nodeId = lastNodeOf(tasks);
    if (nodeId === undefined || isGone(nodeId)) return undefined;
  } else if (nodeId === undefined) {
    // The user gave it up: a task on a node that is away or to be emptied is no reason to take it back.
    nodeId = wanted.findLast((task) => isOpen(view, task.nodeId))?.nodeId;
  } else if (isGone(nodeId)) {
    nodeId = wanted.findLast(({ nodeId: id }) => id !== undefined && !isGone(id))?.nodeId ?? nodeId;
  }
  const found = addressesIn(memory ? wanted : tasks);
  const addresses = Object.keys(found).length > 0 ? found : memory?.addresses;
  return {
    ...(nodeId === undefined ? {} : { nodeId }),
    ...(addresses === undefined ? {} : { addresses }),
  };
}

function isOpen(view: ClusterView, nodeId: NodeId | undefined): boolean {
  const node = nodeId === undefined ? undefined : view.node(nodeId);
  return node !== undefined && node.status.state !== "down" && node.spec.Availability !== "drain";
}

/**
 * Of tasks in the order of their creation; all were on one node, unless the service was not stateful then: one that
 * runs has the data, whatever came after it.
 */
function lastNodeOf(tasks: readonly Task[]): NodeId | undefined {
  return (servingOf(tasks) ?? tasks.findLast((task) => task.nodeId !== undefined))?.nodeId;
}

function servingOf(tasks: readonly Task[]): Task | undefined {
  return tasks.find((task) => isWanted(task) && task.status.state === "running");
}

function addressesIn(tasks: readonly Task[]): Record<NetworkId, string> {
  const newest =
    servingOf(tasks) ??
    tasks.findLast((task) => task.networks?.some((leg) => leg.address !== undefined));
  const addresses: Record<NetworkId, string> = {};
  for (const { networkId, address } of newest?.networks ?? []) {
    if (address !== undefined) addresses[networkId] = address;
  }
  return addresses;
}

function tasksOf(view: ClusterView, service: Service, slotNumber: number): Task[] {
  return view
    .tasksByService(service.id)
    .filter((task) => task.slot === slotNumber)
    .sort(compareTasks);
}
