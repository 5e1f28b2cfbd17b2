/**
 * Jobs: services whose tasks run to their end, once for each slot (replicated) or node (global).
 *
 * Each update of the service begins a new run (iteration): the tasks of the run before are removed,
 * and all slots are to be completed again. Within a run a slot is
 *
 *   done     some task of it completed: nothing runs in it any more, wherever its node is now
 *   active   a task is wanted in it, also one that waits for its restart delay
 *   stopped  its last task failed and the restart policy forbids another: for the next run
 *   free     no task yet
 *
 * Invariants: 1. at most MaxConcurrent slots of a replicated job are active, those counted in which
 * a task of the run before still stops. 2. A done slot is never left. 3. Slots are taken from the
 * lowest number on, so that the docker CLI finds them without gaps. 4. In a slot one task is wanted.
 *
 * The memory is the tasks: the reaper keeps the completed ones of the last run (reaper.ts).
 *
 * Source: SwarmKit manager/orchestrator/jobs. Different: a stopped slot stays stopped (stock makes a
 * new task in it as if it were free); MaxAttempts holds for global jobs as well; a global job runs
 * on nodes that joined after it was created; completed tasks of earlier runs are removed.
 */
import { isScheduled } from "../objects/job-schedule.ts";
import { completionsOf, type Service } from "../objects/service.ts";
import { TASK_STATE_ORDER, type Task } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import type { ClusterView } from "../store/view.ts";
import { nodeFit } from "./node-fit.ts";
import { closeDraft, openDraft, type PlanDraft, updateTask, wakeAt } from "./plan-draft.ts";
import { planSlotRestart } from "./restart.ts";
import {
  compareTasks,
  createTask,
  isWanted,
  mayStillRun,
  OLD_TASK_STOP_MAX_MS,
  releaseHeldTasks,
  type Slot,
  slotsOf,
  wantedIn,
} from "./slot.ts";

export const planJobs: Planner = (input) => {
  const draft = openDraft(input);
  for (const service of input.view.services()) {
    if (isBeforeFirstRun(input.view, service)) continue;
    const completions = completionsOf(service.spec);
    if (completions) planReplicatedJob(draft, service, completions);
    else if (service.spec.Mode.GlobalJob) planGlobalJob(draft, service);
  }
  return closeDraft(draft);
};

/** Of a job that runs at times: being made is no run. */
function isBeforeFirstRun(view: ClusterView, service: Service): boolean {
  if (!isScheduled(service.spec) || service.jobStatus?.iteration !== 0) return false;
  return view.tasksByService(service.id).length === 0;
}

function planReplicatedJob(
  draft: PlanDraft,
  service: Service,
  { totalCount, concurrentMax }: { totalCount: number; concurrentMax: number },
): void {
  const slots = slotsOfRun(draft, service);
  const byNumber = new Map(slots.map((slot) => [slot.number, slot]));
  const active = new Set<number>();
  for (const slot of slots) {
    const isActive = slot.tasks.length > 0 && settleSlot(draft, service, slot);
    if (isActive || isVacating(draft, service, slot)) active.add(slot.number);
  }
  for (let number = 1; number <= totalCount; number += 1) {
    const slot = byNumber.get(number) ?? { key: String(number), number, tasks: [], leaving: [] };
    if (slot.tasks.length > 0) continue;
    // The slot itself may be counted already: its new task waits until the old one has stopped.
    active.add(number);
    if (active.size > concurrentMax) break;
    createTask(draft, { service, slot });
  }
}

function planGlobalJob(draft: PlanDraft, service: Service): void {
  const byNode = new Map(slotsOfRun(draft, service).map((slot) => [slot.key, slot]));
  for (const node of draft.view.nodes()) {
    const fit = nodeFit(service, node);
    const { id } = node;
    const slot = byNode.get(id) ?? { key: id, number: 0, nodeId: id, tasks: [], leaving: [] };
    byNode.delete(id);
    if (fit === "open") {
      if (slot.tasks.length === 0) createTask(draft, { service, slot });
      else settleSlot(draft, service, slot);
    } else if (fit === "barred") {
      for (const task of slot.tasks) if (isUnfinished(task)) end(draft, task);
    }
  }
  for (const slot of byNode.values()) {
    for (const task of slot.tasks) updateTask(draft, task, { desiredState: "remove" });
  }
}

/** The slots with the tasks of the last run; those of runs before leave them. */
function slotsOfRun(draft: PlanDraft, service: Service): Slot[] {
  const iteration = service.jobStatus?.iteration;
  const slots = slotsOf(draft.view.tasksByService(service.id));
  for (const slot of slots) {
    for (const task of slot.tasks) {
      if (task.jobIteration === iteration) continue;
      updateTask(draft, task, { desiredState: "remove" });
      slot.leaving.push(task);
    }
    slot.tasks = slot.tasks.filter((task) => task.jobIteration === iteration);
  }
  return slots;
}

/**
 * Does what an occupied slot needs: ends what a completion made superfluous, replaces what is lost,
 * lets go what was held. True when the slot is active after that.
 */
function settleSlot(draft: PlanDraft, service: Service, slot: Slot): boolean {
  if (slot.tasks.some((task) => task.status.state === "complete")) {
    // A task on a node that was away may complete after its replacement was made.
    for (const task of slot.tasks) if (isUnfinished(task)) end(draft, task);
    return false;
  }
  if (planSlotRestart(draft, service, slot)) return true;
  endDuplicates(draft, slot);
  releaseHeldTasks(draft, slot);
  return wantedIn(draft, slot).length > 0;
}

/** A plan that was proposed twice made two tasks in the slot: the one that got further stays. */
function endDuplicates(draft: PlanDraft, slot: Slot): void {
  const [, ...rest] = wantedIn(draft, slot).sort(
    (a, b) =>
      TASK_STATE_ORDER[b.status.state] - TASK_STATE_ORDER[a.status.state] || compareTasks(a, b),
  );
  for (const task of rest) end(draft, task);
}

/** True while a task of the run before may still run in the slot, but not for ever. */
function isVacating(draft: PlanDraft, service: Service, slot: Slot): boolean {
  const untilMs = (service.jobStatus?.lastExecutionAtMs ?? 0) + OLD_TASK_STOP_MAX_MS;
  if (draft.nowMs >= untilMs) return false;
  if (!slot.leaving.some((task) => mayStillRun(draft.view, task))) return false;
  wakeAt(draft, untilMs);
  return true;
}

function isUnfinished(task: Task): boolean {
  return isWanted(task) && task.status.state !== "complete";
}

function end(draft: PlanDraft, task: Task): void {
  updateTask(draft, task, { desiredState: "shutdown" });
}
