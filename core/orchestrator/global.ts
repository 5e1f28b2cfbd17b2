/**
 * Global services: one task on every node that fits.
 *
 * Each node of the cluster is, for a service, one of:
 *   open     ready, active and fitting: it has a task
 *   closed   paused, or not known to be alive: what is there stays, nothing new comes
 *   barred   down, drained or not fitting: its task is stopped; once it is open a new one comes
 *   gone     no longer a member: its tasks are removed
 *
 * Source: SwarmKit manager/orchestrator/global. Different: an outdated task is replaced by the
 * rolling update only, never at once because of a node's event.
 */
import type { Service } from "../objects/service.ts";
import type { Planner } from "../plan.ts";
import { nodeFit } from "./node-fit.ts";
import { closeDraft, openDraft, type PlanDraft, updateTask } from "./plan-draft.ts";
import { planSlotRestart } from "./restart.ts";
import { createTask, isWanted, releaseHeldTasks, type Slot, slotsOf } from "./slot.ts";
import { planUpdate } from "./update.ts";

export const planGlobal: Planner = (input) => {
  const draft = openDraft(input);
  for (const service of input.view.services()) {
    if (service.spec.Mode.Global) planService(draft, service);
  }
  return closeDraft(draft);
};

function planService(draft: PlanDraft, service: Service): void {
  const slots = slotsOf(draft.view.tasksByService(service.id));
  const byNode = new Map(slots.map((slot) => [slot.key, slot]));
  const open: Slot[] = [];
  for (const node of draft.view.nodes()) {
    const fit = nodeFit(service, node);
    const slot = byNode.get(node.id) ?? {
      key: node.id,
      number: 0,
      nodeId: node.id,
      tasks: [],
      leaving: [],
    };
    byNode.delete(node.id);
    if (fit === "open") open.push(slot);
    if (fit !== "barred") continue;
    for (const task of slot.tasks) {
      if (isWanted(task)) updateTask(draft, task, { desiredState: "shutdown" });
    }
  }
  for (const slot of byNode.values()) {
    for (const task of slot.tasks) updateTask(draft, task, { desiredState: "remove" });
  }

  const touched = new Set<string>();
  for (const slot of open) {
    if (slot.tasks.length === 0) createTask(draft, { service, slot });
    else if (planSlotRestart(draft, service, slot)) touched.add(slot.key);
  }
  planUpdate(draft, service, open, { touched });
  for (const slot of open) releaseHeldTasks(draft, slot);
}
