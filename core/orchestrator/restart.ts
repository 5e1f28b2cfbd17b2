/**
 * Restarts: what takes the place of a task that died or lost its node.
 *
 * The memory is the slot's history in the store: how often a task of this spec version died tells
 * the attempts, `startAfterMs` of the replacement tells the delay. The reaper therefore keeps
 * MaxAttempts + 1 tasks of a slot.
 *
 * Source: SwarmKit manager/orchestrator/restart. On purpose different: only deaths of the task's
 * own (failed, rejected, complete) use up attempts, not drained nodes; and no delay after a lost
 * node.
 */
import type { UnixMs } from "../ids.ts";
import { NS_PER_MS } from "../objects/object-meta.ts";
import type { Service } from "../objects/service.ts";
import { isTaskDead, type RestartPolicy, type Task } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";
import type { Moves } from "./drain.ts";
import { type PlanDraft, updateTask, wakeAt } from "./plan-draft.ts";
import { createTask, isWanted, type Slot, wantedIn } from "./slot.ts";
import { isTaskDirty } from "./task-dirty.ts";

/** Source: SwarmKit api/defaults/service.go. */
export const RESTART_DELAY_DEFAULT_MS = 5_000;

/** Why a wanted task must be replaced. `moved`: the slot of a stateful service has another home. */
export type Loss = "dead" | "node-lost" | "node-drained" | "moved";

/**
 * `undefined` while the task can go on where it is. Nodes of unknown state are left alone; so is a
 * home that is down: what runs there is in service again when it returns. `stateful`: the slot's.
 */
export function lossOf(
  view: ClusterView,
  task: Task,
  stateful?: Slot["stateful"],
): Loss | undefined {
  if (task.nodeId !== undefined) {
    const node = view.node(task.nodeId);
    if (node === undefined) return "node-lost";
    const { homeId } = stateful ?? {};
    if (homeId !== undefined && homeId !== node.id) return "moved";
    if (node.status.state === "down") {
      if (homeId !== node.id) return "node-lost";
    } else if (node.spec.Availability === "drain") return "node-drained";
  }
  return isTaskDead(task.status.state) ? "dead" : undefined;
}

/**
 * True for tasks that ended by themselves, not because a manager wanted it or their node is gone.
 */
export function diedByItself(task: Task): boolean {
  const { state } = task.status;
  return state === "failed" || state === "rejected" || state === "complete";
}

/**
 * Whether the service's policy wants a successor for `task`, which is dead or lost. `history`: all
 * retained tasks of its slot.
 */
export function mayRestart(
  policy: RestartPolicy | undefined,
  task: Task,
  history: readonly Task[],
): boolean {
  const condition = policy?.Condition ?? "any";
  if (condition === "none") return false;
  // For a job, `any` means on-failure.
  const isEnough = condition === "on-failure" || task.jobIteration !== undefined;
  if (isEnough && task.status.state === "complete") return false;
  const attemptsMax = policy?.MaxAttempts ?? 0;
  if (attemptsMax === 0 || !diedByItself(task)) return true;
  const windowMs = (policy?.Window ?? 0) / NS_PER_MS;
  const earlierDeaths = history.filter(
    (other) =>
      other.id !== task.id &&
      other.specVersion === task.specVersion &&
      diedByItself(other) &&
      (windowMs === 0 || task.status.atMs - other.status.atMs <= windowMs),
  );
  return earlierDeaths.length < attemptsMax;
}

/** When the successor of `task` may start. */
function startAfterMs(draft: PlanDraft, service: Service, slot: Slot, task: Task): UnixMs {
  const { view, nowMs } = draft;
  const wasStopped = task.status.state === "shutdown" && !isWanted(task);
  const heldUntilMs = Math.max(nowMs, task.startAfterMs ?? 0);
  if (
    lossOf(view, task, slot.stateful) !== "dead" ||
    task.status.state === "orphaned" ||
    wasStopped
  ) {
    return heldUntilMs;
  }
  const delayNs = service.spec.TaskTemplate.RestartPolicy?.Delay;
  const delayMs = delayNs === undefined ? RESTART_DELAY_DEFAULT_MS : delayNs / NS_PER_MS;
  return heldUntilMs + delayMs;
}

/**
 * Replaces what is lost in one occupied slot; `moves`: of tasks on drained nodes, which else are lost
 * as those on dead ones are. True when a task was made. A slot in which nothing is wanted any more and
 * the policy forbids a successor stays as it is (`isStopped`), for an update to revive.
 */
export function planSlotRestart(
  draft: PlanDraft,
  service: Service,
  slot: Slot,
  moves?: Moves,
): boolean {
  const { view, nowMs } = draft;
  const wanted = slot.tasks.filter(isWanted);
  const isFollowed = (task: Task) => moves?.followed.has(task.id) ?? false;
  const lost = wanted.filter((task) => {
    if (moves?.staying.has(task.id)) return false;
    const loss = lossOf(view, task, slot.stateful);
    // A held task is prepared at once and may be rejected at once (no such image). To replace it
    // before its time would go round without any delay.
    if (loss !== "dead" || (task.startAfterMs ?? 0) <= nowMs) return loss !== undefined;
    wakeAt(draft, task.startAfterMs ?? 0);
    return false;
  });
  const kept = wanted.filter((task) => !lost.includes(task));
  for (const task of lost) updateTask(draft, task, { desiredState: "shutdown" });
  // What was wanted is the newest, whatever the clocks of the leaders that made the others said.
  const last = (wanted.length > 0 ? lost : slot.tasks).at(-1) ?? kept.findLast(isFollowed);
  if (last === undefined) return false;
  // A start-first update's newcomer that failed is tried again beside the old task.
  const isNeeded =
    kept.every(isFollowed) ||
    (!isTaskDirty(view, service, last) && kept.every((task) => isTaskDirty(view, service, task)));
  const policy = service.spec.TaskTemplate.RestartPolicy;
  if (!isNeeded || !mayRestart(policy, last, slot.tasks)) return false;
  createTask(draft, {
    service,
    slot,
    beside: kept,
    startAfterMs: startAfterMs(draft, service, slot, last),
  });
  return true;
}

/** True when no task of the slot is wanted any more and the policy forbids another. */
export function isStopped(draft: PlanDraft, service: Service, slot: Slot): boolean {
  const last = slot.tasks.at(-1);
  if (last === undefined || wantedIn(draft, slot).length > 0) return false;
  return !mayRestart(service.spec.TaskTemplate.RestartPolicy, last, slot.tasks);
}
