/**
 * Slots: the numbered place of a replicated service, or the node of a global one, in which tasks
 * succeed each other.
 *
 * Owns: grouping tasks into slots, what counts as wanted or as possibly still running, and how a
 * new task looks. Does not decide when a task is made: that is restart.ts, update.ts and the
 * planner of the mode.
 *
 * Invariant: a task is created held back (desired `ready`) whenever a task that leaves the slot may
 * still run, so that two tasks of a slot run at once only in a start-first update.
 */
import { type NodeId, newId, type UnixMs } from "../ids.ts";
import type { Service } from "../objects/service.ts";
import { isTaskDead, type Task, taskStateAtLeast } from "../objects/task.ts";
import { failuresUpTo } from "../scheduler/node-info.ts";
import type { ClusterView } from "../store/view.ts";
import { type PlanDraft, updateTask, wakeAt } from "./plan-draft.ts";

/**
 * A held task starts although its predecessor does not stop. Source: SwarmKit updater,
 * OldTaskTimeout.
 */
export const OLD_TASK_STOP_MAX_MS = 60_000;

export type Slot = {
  /** Unique within the service. */
  key: string;
  /** From 1, also for jobs; 0 for global services and jobs. */
  number: number;
  /** Global services only. */
  nodeId?: NodeId;
  /** Oldest first; without those to be removed. */
  tasks: Task[];
  /** Tasks with desired state `remove`: not part of the slot's history, but they may still run. */
  leaving: Task[];
  /** Of stateful services: its home, as long as it has one (stateful.ts). */
  stateful?: { homeId?: NodeId };
};

/** Creation order; ids decide between tasks of one proposal. */
export function compareTasks(a: Task, b: Task): number {
  return a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
}

/** The key of a task's slot: its number, or its node for global services. */
export function slotKeyOf(task: Pick<Task, "slot" | "nodeId">): string {
  return task.slot > 0 ? String(task.slot) : (task.nodeId ?? "");
}

/** Groups a service's tasks; slots are ordered by number, then node. */
export function slotsOf(tasks: readonly Task[]): Slot[] {
  const slots = new Map<string, Slot>();
  for (const task of tasks) {
    const key = slotKeyOf(task);
    let slot = slots.get(key);
    if (!slot) {
      slot = { key, number: task.slot, tasks: [], leaving: [] };
      if (task.slot === 0 && task.nodeId !== undefined) slot.nodeId = task.nodeId;
      slots.set(key, slot);
    }
    (task.desiredState === "remove" ? slot.leaving : slot.tasks).push(task);
  }
  for (const slot of slots.values()) slot.tasks.sort(compareTasks);
  return [...slots.values()].sort(
    (a, b) => a.number - b.number || (a.key < b.key ? -1 : a.key > b.key ? 1 : 0),
  );
}

/**
 * True while the managers want the task to run, now or after its delay. Stays true for a job's task
 * that has completed.
 */
export function isWanted(task: Task): boolean {
  return task.desiredState !== "shutdown" && task.desiredState !== "remove";
}

/** What is wanted of a task that is not held back: a job's runs to its end. */
function runningState(task: { jobIteration?: number }): "running" | "complete" {
  return task.jobIteration === undefined ? "running" : "complete";
}

/** The slot's wanted tasks but those that this plan ends. Oldest first. */
export function wantedIn(draft: PlanDraft, slot: Slot): Task[] {
  return slot.tasks.filter((task) => isWanted(task) && !draft.endedIds.has(task.id));
}

/**
 * True when the task's container may be running on a node that is thought alive. A task of a down
 * node may run as well, but waiting for it would block its successor for as long as the node is
 * away; which is what a stateful slot does on its home, `homeId`.
 */
export function mayStillRun(view: ClusterView, task: Task, homeId?: NodeId): boolean {
  if (isTaskDead(task.status.state) || !taskStateAtLeast(task.status.state, "assigned")) {
    return false;
  }
  const node = task.nodeId === undefined ? undefined : view.node(task.nodeId);
  return node !== undefined && (node.status.state !== "down" || node.id === homeId);
}

/**
 * Adds a task of the service's current spec to the slot. `beside`: tasks of the slot that it may
 * run together with (start-first update); any other that may still run holds it back.
 */
export function createTask(
  draft: PlanDraft,
  options: { service: Service; slot: Slot; beside?: readonly Task[]; startAfterMs?: UnixMs },
): void {
  const { service, slot, beside = [], startAfterMs } = options;
  const { view, nowMs } = draft;
  const isDelayed = startAfterMs !== undefined && startAfterMs > nowMs;
  const isBlocked = [...slot.tasks, ...slot.leaving].some(
    (task) => !beside.includes(task) && mayStillRun(view, task, slot.stateful?.homeId),
  );
  const recentFailures = failuresIn(slot, service, nowMs);
  const logDriver = view.cluster()?.spec.TaskDefaults.LogDriver;
  const isLogOfCluster = logDriver !== undefined && !service.spec.TaskTemplate.LogDriver;
  const job = service.jobStatus ? { jobIteration: service.jobStatus.iteration } : {};
  draft.actions.push({
    type: "create",
    table: "task",
    object: {
      id: newId(draft.random),
      serviceId: service.id,
      serviceName: service.spec.Name,
      serviceLabels: service.spec.Labels ?? {},
      slot: slot.number,
      ...(slot.nodeId === undefined ? {} : { nodeId: slot.nodeId }),
      spec: service.spec.TaskTemplate,
      specVersion: service.specVersion,
      ...job,
      ...(isLogOfCluster ? { logDriver } : {}),
      ...(recentFailures.length > 0 ? { recentFailures } : {}),
      desiredState: isDelayed || isBlocked ? "ready" : runningState(job),
      status: { state: "new", atMs: nowMs, message: "created" },
      ...(isDelayed ? { startAfterMs } : {}),
    },
  });
  if (isDelayed) wakeAt(draft, startAfterMs);
}

/** What the newest task of the slot and of this spec version knows; a slot bound to its node needs none. */
function failuresIn(slot: Slot, service: Service, nowMs: UnixMs) {
  if (slot.nodeId !== undefined) return [];
  const last = slot.tasks.findLast((task) => task.specVersion === service.specVersion);
  return last === undefined ? [] : failuresUpTo(last, nowMs);
}

/** Lets held tasks run once their delay is over and the tasks that leave the slot have stopped. */
export function releaseHeldTasks(draft: PlanDraft, slot: Slot): void {
  const { view, nowMs } = draft;
  const wanted = wantedIn(draft, slot);
  for (const task of wanted) {
    if (task.desiredState !== "ready") continue;
    if (task.startAfterMs !== undefined && task.startAfterMs > nowMs) {
      wakeAt(draft, task.startAfterMs);
      continue;
    }
    const isBlocked = [...slot.tasks, ...slot.leaving].some(
      (other) => !wanted.includes(other) && mayStillRun(view, other, slot.stateful?.homeId),
    );
    // Two of them would write to one volume, however long it takes.
    if (isBlocked && slot.stateful) continue;
    const blockedUntilMs = task.createdAtMs + OLD_TASK_STOP_MAX_MS;
    if (isBlocked && nowMs < blockedUntilMs) {
      wakeAt(draft, blockedUntilMs);
      continue;
    }
    updateTask(
      draft,
      task,
      { desiredState: runningState(task) },
      task.startAfterMs === undefined ? [] : ["startAfterMs"],
    );
  }
}
