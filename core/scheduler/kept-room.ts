/**
 * Room on a node for the slots of stateful services whose home it is: while a slot's task is not placed,
 * what it reserves there counts as used for all other tasks, so that nobody takes its place between two
 * tasks of the slot, nor while its home is down or drained.
 *
 * 1. Kept for slots that are wanted: one that was scaled down keeps none.
 * 2. Kept: CPU, memory, generic resources (as amounts) and host-mode ports; what a task of the slot that is
 *    still stopping there occupies counts as part of it.
 * 3. A slot that fits is never kept out by one that does not: those that fit are served first. The others
 *    are kept what is left, so that what becomes free next is theirs; nothing when the node is too small.
 *
 * Nothing is remembered: it follows from `Service.slots` and the tasks, anew in each round.
 */
import type { NodeId, UnixMs } from "../ids.ts";
import type { Service } from "../objects/service.ts";
import { isStateful } from "../objects/stateful.ts";
import { isTaskDead, type Task, taskStateAtLeast } from "../objects/task.ts";
import { isWanted } from "../orchestrator/slot.ts";
import { homeOf, wantedSlots } from "../orchestrator/stateful.ts";
import type { ClusterView } from "../store/view.ts";
import {
  type Amounts,
  capacityOf,
  hostPortsOf,
  type KeptRoom,
  type NodeInfo,
  observeNodes,
  reservationsOf,
} from "./node-info.ts";

/** As observeNodes, less the room that is kept. `isCounted`: the tasks that occupy their nodes. */
export function observeRoom(
  view: ClusterView,
  nowMs: UnixMs,
  isCounted: (task: Task) => boolean = () => true,
): Map<NodeId, NodeInfo> {
  const infos = observeNodes(view, nowMs, isCounted);
  const waiting: [NodeInfo, Claim][] = [];
  for (const service of view.services()) {
    if (!isStateful(service.spec)) continue;
    for (const claim of claimsOf(view, service, nowMs)) {
      const info = infos.get(claim.homeId);
      if (!info) continue;
      if (fits(claim, info.free) && !claim.hostPorts.some((port) => info.hostPorts.has(port))) {
        keep(info, claim);
      } else if (fits(claim, capacityOf(info.node))) {
        waiting.push([info, claim]);
      }
    }
  }
  for (const [info, claim] of waiting) {
    const amounts = [...claim.amounts].map(([kind, amount]): [string, number] => [
      kind,
      Math.max(0, Math.min(amount, info.free.get(kind) ?? 0)),
    ]);
    const hostPorts = claim.hostPorts.filter((port) => !info.hostPorts.has(port));
    keep(info, { ...claim, amounts: new Map(amounts), hostPorts });
  }
  return infos;
}

/**
 * Opens to the task what is kept on the node for its own slot. The result keeps it again, for when the
 * task is not placed there.
 */
export function openKeptRoom(info: NodeInfo, task: Pick<Task, "serviceId" | "slot">): () => void {
  const key = roomKey(task.serviceId, task.slot);
  const room = info.kept.get(key);
  if (!room) return () => undefined;
  info.kept.delete(key);
  for (const [kind, amount] of room.amounts) {
    info.free.set(kind, (info.free.get(kind) ?? 0) + amount);
  }
  for (const port of room.hostPorts) info.hostPorts.delete(port);
  return () => keep(info, room);
}

type Claim = KeptRoom & { homeId: NodeId };

/** What the wanted slots of a service that have a home lack there. */
function claimsOf(view: ClusterView, service: Service, nowMs: UnixMs): Claim[] {
  const tasks = view.tasksByService(service.id);
  const bySlot = new Map<number, Task[]>(
    Object.keys(service.slots ?? {}).map((slot) => [Number(slot), []]),
  );
  for (const task of tasks) {
    const others = bySlot.get(task.slot);
    if (others) others.push(task);
    else bySlot.set(task.slot, [task]);
  }
  const wanted = wantedSlots(service, tasks);
  return [...bySlot].flatMap(([slot, inSlot]) => {
    const homeId = wanted.has(slot) ? homeOf(view, service, slot, nowMs) : undefined;
    if (homeId === undefined) return [];
    const there = inSlot.filter((task) => task.nodeId === homeId && occupies(task));
    // The next one is placed already, or none is needed yet.
    if (there.some(isWanted)) return [];
    const next = inSlot.findLast(
      (task) => isWanted(task) && !taskStateAtLeast(task.status.state, "assigned"),
    );
    const amounts = new Map(reservationsOf(next?.spec ?? service.spec.TaskTemplate));
    for (const [kind, amount] of there.flatMap((task) => [...reservationsOf(task.spec)])) {
      const rest = (amounts.get(kind) ?? 0) - amount;
      if (rest > 0) amounts.set(kind, rest);
      else amounts.delete(kind);
    }
    const taken = new Set(there.flatMap(hostPortsOf));
    const ports = next?.ports ?? service.endpoint?.ports ?? [];
    const hostPorts = hostPortsOf({ ports }).filter((port) => !taken.has(port));
    if (amounts.size === 0 && hostPorts.length === 0) return [];
    const { Name: serviceName } = service.spec;
    return [{ serviceId: service.id, serviceName, slot, homeId, amounts, hostPorts }];
  });
}

function occupies({ status: { state } }: Task): boolean {
  return taskStateAtLeast(state, "assigned") && !isTaskDead(state);
}

function fits({ amounts }: Claim, free: Amounts): boolean {
  return [...amounts].every(([kind, amount]) => (free.get(kind) ?? 0) >= amount);
}

function keep(info: NodeInfo, room: KeptRoom): void {
  info.kept.set(roomKey(room.serviceId, room.slot), room);
  for (const [kind, amount] of room.amounts) {
    info.free.set(kind, (info.free.get(kind) ?? 0) - amount);
  }
  for (const port of room.hostPorts) info.hostPorts.add(port);
}

function roomKey(serviceId: string, slot: number): string {
  return `${serviceId}/${slot}`;
}
