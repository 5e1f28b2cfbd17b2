/**
 * Replicated services: as many occupied slots as replicas are wanted.
 *
 * A slot is occupied while it has any task that is not to be removed, also when nothing in it runs
 * because its restart policy said so. Too few: the lowest free numbers are taken. Too many: slots
 * that serve nobody go first, then those on the nodes with most tasks of the service. Slots of a stateful
 * service have homes instead (stateful.ts): the highest go first, and what is drained waits at home.
 *
 * Source: SwarmKit manager/orchestrator/replicated.
 */
import { replicasOf, type Service } from "../objects/service.ts";
import { isOrdered, isStateful } from "../objects/stateful.ts";
import type { Task } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import { planMoves } from "./drain.ts";
import { closeDraft, openDraft, type PlanDraft, updateTask } from "./plan-draft.ts";
import { planSlotRestart } from "./restart.ts";
import { createTask, isWanted, releaseHeldTasks, type Slot, slotsOf, wantedIn } from "./slot.ts";
import { forgetLeft, planHomes } from "./stateful.ts";
import { planUpdate } from "./update.ts";

export const planReplicated: Planner = (input) => {
  const draft = openDraft(input);
  for (const service of input.view.services()) {
    const replicas = replicasOf(service.spec);
    if (replicas !== undefined) planService(draft, service, replicas);
  }
  return closeDraft(draft);
};

function planService(draft: PlanDraft, service: Service, replicas: number): void {
  const slots = slotsOf(draft.view.tasksByService(service.id));
  planHomes(draft, service, slots);
  const hasHomes = isStateful(service.spec);
  const occupied = slots.filter((slot) => slot.tasks.length > 0);
  const inOrder = hasHomes || occupied.length <= replicas ? occupied : inKeepOrder(occupied);
  const kept = inOrder.slice(0, replicas);
  if (kept.length < occupied.length) {
    const keptKeys = new Set(kept.map((slot) => slot.key));
    for (const slot of occupied) {
      if (keptKeys.has(slot.key)) continue;
      for (const task of slot.tasks) updateTask(draft, task, { desiredState: "remove" });
    }
    kept.sort((a, b) => a.number - b.number);
  }
  const touched = new Set<string>();
  // A stateful slot moves nowhere: its successor would hold up the others in vain.
  const moves = hasHomes ? undefined : planMoves(draft, service, kept);
  for (const slot of kept) if (planSlotRestart(draft, service, slot, moves)) touched.add(slot.key);
  planUpdate(draft, service, kept, { touched, ...(moves ? { moves } : {}) });
  for (const slot of kept) releaseHeldTasks(draft, slot);
  fill(draft, service, slots, replicas);
  forgetLeft(draft, service);
}

/** Occupies the lowest free slots. Free ones may still have tasks that leave. */
function fill(draft: PlanDraft, service: Service, slots: readonly Slot[], replicas: number): void {
  const byNumber = new Map(slots.map((slot) => [slot.number, slot]));
  let missing = replicas - slots.filter((slot) => slot.tasks.length > 0).length;
  const isInTurn = isStateful(service.spec) && isOrdered(service.spec.Labels);
  let isHeld = false;
  for (let number = 1; missing > 0; number += 1) {
    const slot = byNumber.get(number) ?? { key: String(number), number, tasks: [], leaving: [] };
    if (slot.tasks.length > 0) {
      isHeld ||= isInTurn && !isServing(draft, slot);
      continue;
    }
    missing -= 1;
    // One that had a home has run before: it waits for nobody.
    if (isHeld && service.slots?.[number] === undefined) continue;
    createTask(draft, { service, slot });
    isHeld ||= isInTurn;
  }
}

function isServing(draft: PlanDraft, slot: Slot): boolean {
  return wantedIn(draft, slot).some(({ status, nodeId = "" }) => {
    const nodeState = draft.view.node(nodeId)?.status.state;
    return status.state === "running" && nodeState !== undefined && nodeState !== "down";
  });
}

/** The slots in the order in which they are worth keeping. */
function inKeepOrder(slots: readonly Slot[]): Slot[] {
  const countByNode = new Map<string, number>();
  const rated = slots.map((slot) => {
    const task = bestTask(slot);
    const serving = task === undefined ? 2 : task.status.state === "running" ? 0 : 1;
    return { slot, serving, nodeId: task?.nodeId ?? "", nthOnNode: 0 };
  });
  rated.sort((a, b) => a.serving - b.serving || a.slot.number - b.slot.number);
  for (const item of rated) {
    item.nthOnNode = countByNode.get(item.nodeId) ?? 0;
    countByNode.set(item.nodeId, item.nthOnNode + 1);
  }
  rated.sort(
    (a, b) => a.serving - b.serving || a.nthOnNode - b.nthOnNode || a.slot.number - b.slot.number,
  );
  return rated.map((item) => item.slot);
}

function bestTask(slot: Slot): Task | undefined {
  const wanted = slot.tasks.filter(isWanted);
  return wanted.find((task) => task.status.state === "running") ?? wanted.at(-1);
}
