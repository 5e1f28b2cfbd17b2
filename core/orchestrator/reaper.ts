/**
 * Forgets tasks: those to be removed once they have stopped, history beyond the limit, and what is
 * left of services and nodes that are gone.
 *
 * The history is also the memory of restart.ts and update.ts, so more than the limit is kept where
 * they need it: MaxAttempts + 1 tasks of a slot, 3 while an update runs, and always the newest task
 * of a slot in which nothing is wanted (else a finished one would be made again), and where a service waits
 * for others one that had a node (else it would wait again). A job's completed
 * tasks are kept as long as its run is the last one: they say which slots are done.
 *
 * A task whose node is gone, or down for ORPHAN_AFTER_MS, becomes `orphaned`: its end can never be
 * observed, but its addresses and resources must be free one day. Not so a stateful slot's at home: it is
 * waited for, and a second one on its volume must not start while the first may run.
 *
 * Source: SwarmKit manager/orchestrator/taskreaper, manager/dispatcher (orphaned).
 */
import type { Service } from "../objects/service.ts";
import { dependenciesOf } from "../objects/start-order.ts";
import { isTaskDead, type Task, taskStateAtLeast } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import type { ClusterView } from "../store/view.ts";
import { closeDraft, openDraft, type PlanDraft, updateTask, wakeAt } from "./plan-draft.ts";
import { compareTasks, isWanted, slotKeyOf } from "./slot.ts";
import { isPlaced } from "./start-order.ts";
import { homeOf } from "./stateful.ts";

/** Source: SwarmKit manager/dispatcher, defaultNodeDownPeriod. */
export const ORPHAN_AFTER_MS = 24 * 3_600_000;
const HISTORY_LIMIT_DEFAULT = 5;
/** The wanted task, the newest dead one of its version, and one of the version before. */
const HISTORY_DURING_UPDATE_MIN = 3;

export const planReaping: Planner = (input) => {
  const draft = openDraft(input);
  const slots = new Map<string, Task[]>();
  const orphans = new Map<Task, string>();
  for (const task of input.view.tasks()) {
    if (planRemoval(draft, task)) continue;
    const why = orphanedBy(draft, task);
    if (why !== undefined) orphans.set(task, why);
    if (task.desiredState === "remove") continue;
    const key = `${task.serviceId}/${slotKeyOf(task)}`;
    const slot = slots.get(key);
    if (slot) slot.push(task);
    else slots.set(key, [task]);
  }
  for (const tasks of slots.values()) reapHistory(draft, tasks, orphans);
  for (const [task, err] of orphans) {
    const { nowMs } = input;
    updateTask(draft, task, {
      status: { state: "orphaned", atMs: nowMs, message: "orphaned", err },
    });
  }
  return closeDraft(draft);
};

/** Removes a task that is to be removed and can be. True when the plan is done with the task. */
function planRemoval(draft: PlanDraft, task: Task): boolean {
  const { view } = draft;
  const isServiceGone = task.serviceId !== "" && !view.service(task.serviceId);
  if (task.desiredState !== "remove" && !isServiceGone) return false;
  const isNodeGone = task.nodeId !== undefined && !view.node(task.nodeId);
  if (isOver(task) || isNodeGone || orphanedBy(draft, task) !== undefined) {
    remove(draft, task);
    return true;
  }
  if (task.desiredState === "remove") return false;
  updateTask(draft, task, { desiredState: "remove" });
  return true;
}

/** Why the task's end can never be observed; `undefined` while it can. */
function orphanedBy(draft: PlanDraft, task: Task): string | undefined {
  if (task.nodeId === undefined || isOver(task)) return undefined;
  const node = draft.view.node(task.nodeId);
  if (node === undefined) return "its node was removed";
  if (node.status.state !== "down") return undefined;
  const service = draft.view.service(task.serviceId);
  const isHome = service && homeOf(draft.view, service, task.slot, draft.nowMs) === node.id;
  if (isHome) return undefined;
  // A node's last change while it is down is at the earliest its going down.
  const orphanAtMs = node.updatedAtMs + ORPHAN_AFTER_MS;
  if (draft.nowMs >= orphanAtMs) return "its node has been down for 24 hours";
  wakeAt(draft, orphanAtMs);
  return undefined;
}

/** True when no container of the task runs or ever will. */
function isOver(task: Task): boolean {
  return isTaskDead(task.status.state) || !taskStateAtLeast(task.status.state, "assigned");
}

function reapHistory(draft: PlanDraft, tasks: Task[], orphans: Map<Task, string>): void {
  const [first] = tasks;
  if (first === undefined) return;
  const limit = limitOf(draft.view, first.serviceId);
  let excess = tasks.length - limit;
  if (limit < 0 || excess <= 0) return;
  tasks.sort(compareTasks);
  const newestToKeep = tasks.some(isWanted) ? undefined : tasks.at(-1);
  const startToKeep = startOf(draft.view.service(first.serviceId), tasks);
  for (const task of tasks) {
    if (excess === 0) return;
    const isReapable = isOver(task) || orphans.has(task);
    const isCompletion = task.jobIteration !== undefined && task.status.state === "complete";
    const isMemory = task === newestToKeep || task === startToKeep;
    if (isWanted(task) || isCompletion || !isReapable || isMemory) continue;
    orphans.delete(task);
    remove(draft, task);
    excess -= 1;
  }
}

/** That a service which waits for others has started is told by a task that had a node: one is kept of each slot. */
function startOf(service: Service | undefined, tasks: readonly Task[]): Task | undefined {
  if (dependenciesOf(service?.spec.Labels).length === 0) return undefined;
  return tasks.findLast((task) => isWanted(task) && isPlaced(task)) ?? tasks.findLast(isPlaced);
}

/** How many tasks of a slot are kept, wanted ones included; negative: all. */
function limitOf(view: ClusterView, serviceId: string): number {
  const limit =
    view.cluster()?.spec.Orchestration.TaskHistoryRetentionLimit ?? HISTORY_LIMIT_DEFAULT;
  if (limit < 0) return limit;
  const service = view.service(serviceId);
  const attemptsMax = service?.spec.TaskTemplate.RestartPolicy?.MaxAttempts ?? 0;
  const state = service?.updateStatus?.state;
  const isUpdating = state === "updating" || state === "rollback_started";
  return Math.max(
    limit,
    attemptsMax > 0 ? attemptsMax + 1 : 0,
    isUpdating ? HISTORY_DURING_UPDATE_MIN : 0,
  );
}

function remove(draft: PlanDraft, task: Task): void {
  draft.actions.push({ type: "remove", table: "task", id: task.id, ifVersion: task.version });
}
