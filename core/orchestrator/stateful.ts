/**
 * The slots of stateful services (objects/stateful.ts): where each one's home is, and what is remembered
 * of it on the service.
 *
 * 1. A slot's home is the node of its first task; its tasks are placed only there, whatever becomes of the
 *    node, until the node is removed, was down for `replace-after`, or a user moves the home.
 * 2. `Service.slots` is written from the tasks that are there, after they were placed; what is not written
 *    yet is read from them in the same way (`homeOf`, `addressesOf`), so a lost or late write loses nothing.
 * 3. A home that is written is good until it is given up: a task elsewhere follows it, not it the task.
 * 4. An address is remembered with the home, from the slot's task that serves there, else from its newest
 *    one; of a network that the service has left, until no task of the service has it and no update can be
 *    rolled back to it.
 *
 * Not here: placing (scheduler/schedule.ts), giving addresses (allocator/slot-addresses.ts), the order in
 * which slots are made, updated and removed (replicated.ts, update.ts).
 */
import type { NetworkId, NodeId, UnixMs } from "../ids.ts";
import type { NodeObject } from "../objects/node.ts";
import { replicasOf, type Service } from "../objects/service.ts";
import { isStateful, replaceAfterMs, type SlotMemory } from "../objects/stateful.ts";
import type { Task } from "../objects/task.ts";
import { holdsAddresses } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import { type PlanDraft, plannedService, updateService, wakeAt } from "./plan-draft.ts";
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

/** The numbers of the slots that the service shall have now: as replicated.ts keeps and fills them. */
export function wantedSlots(service: Service, tasks: readonly Task[]): Set<number> {
  const replicas = replicasOf(service.spec) ?? 0;
  const occupied = new Set(
    tasks.filter((task) => task.desiredState !== "remove").map(({ slot }) => slot),
  );
  const wanted = new Set([...occupied].sort((a, b) => a - b).slice(0, replicas));
  for (let number = 1; wanted.size < replicas; number += 1) wanted.add(number);
  return wanted;
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
 * Gives the slots of a stateful service their homes, and remembers what is new of them. `slots`: all that
 * have tasks.
 */
export function planHomes(draft: PlanDraft, service: Service, slots: readonly Slot[]): void {
  if (!isStateful(service.spec)) return;
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

/**
 * Forgets what will not be needed again, once this plan knows whether the service's update goes on: until it
 * has ended it may be rolled back, and the service have its label and networks again. All slots of a service that
 * is stateful no longer, and the addresses of networks that it has left.
 */
export function forgetLeft(draft: PlanDraft, service: Service): void {
  const planned = plannedService(draft, service);
  const { spec, previousSpec, slots } = planned;
  if (!slots) return;
  if (!isStateful(spec)) {
    const mayReturn = previousSpec && isStateful(previousSpec) && isUnderWay(planned);
    if (!mayReturn) updateService(draft, service, {}, ["slots"]);
    return;
  }
  const left = withoutLeftNetworks(draft.view, planned);
  if (Object.keys(left).length > 0) updateService(draft, service, { slots: { ...slots, ...left } });
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
  // Of one elsewhere they are not the slot's: it leaves, or is of a time when the service was not stateful.
  const found = addressesIn(memory ? wanted.filter((task) => task.nodeId === nodeId) : tasks);
  return makeMemory(nodeId, { ...memory?.addresses, ...found });
}

function makeMemory(nodeId: NodeId | undefined, addresses: Record<NetworkId, string>): SlotMemory {
  return {
    ...(nodeId === undefined ? {} : { nodeId }),
    ...(Object.keys(addresses).length > 0 ? { addresses } : {}),
  };
}

/** The slots with addresses of networks that the service has left, without those. */
function withoutLeftNetworks(view: ClusterView, service: Service): Record<number, SlotMemory> {
  const shorter: Record<number, SlotMemory> = {};
  const own = networksOf(view, service);
  for (const [number, { nodeId, addresses = {} }] of Object.entries(service.slots ?? {})) {
    const rest = Object.entries(addresses).filter(([networkId]) => own.has(networkId));
    if (rest.length === Object.keys(addresses).length) continue;
    shorter[Number(number)] = makeMemory(nodeId, Object.fromEntries(rest));
  }
  return shorter;
}

/** The service is on them, is about to leave them or may return to them: no update to be rolled back is lost. */
function networksOf(view: ClusterView, service: Service): Set<NetworkId> {
  const found = new Set<NetworkId>();
  const specs = [service.spec];
  if (service.previousSpec && isUnderWay(service)) specs.push(service.previousSpec);
  for (const { TaskTemplate, EndpointSpec } of specs) {
    for (const { Target } of TaskTemplate.Networks ?? []) {
      const network = view.network(Target) ?? view.networkByName(Target);
      if (network) found.add(network.id);
    }
    if (!EndpointSpec?.Ports?.some(({ PublishMode }) => PublishMode !== "host")) continue;
    for (const network of view.networks()) if (network.spec.Ingress) found.add(network.id);
  }
  for (const task of view.tasksByService(service.id)) {
    if (!holdsAddresses(task)) continue;
    for (const { networkId } of task.networks ?? []) found.add(networkId);
  }
  return found;
}

/** True while an update has begun and may be rolled back, by its failure action or by a user. */
function isUnderWay({ updateStatus }: Service): boolean {
  const state = updateStatus?.state;
  return state !== undefined && state !== "completed" && state !== "rollback_completed";
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
