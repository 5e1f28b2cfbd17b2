/**
 * Draining a node moves the tasks of a replicated service by its update rules: at most `Parallelism`
 * slots at a time (default 1, 0: all), and with order start-first the successor runs before the old
 * task is told to stop. Stock Swarm stops all of them at once, so that a service whose tasks were on
 * one node is gone for as long as the others take to start.
 *
 * The memory is the store. A slot is *moving* while its newest wanted task, which came after one that
 * did not die by itself, does not run yet: slots that an update works on count, and those of a restart
 * do not, so that a task which fails again and again holds up no drain. An outdated task is left to the
 * update that replaces it anyway, unless that is paused.
 *
 * Bounds: a successor that no node takes holds up the others for PLACE_WAIT_MS, one that is placed and
 * does not come up for the service's progress deadline. A start-first move waits for the deadline in
 * both cases; then the old task is stopped all the same, for the node is to be empty. A successor that
 * comes up and fails is tried again by the restart policy, and the old task serves meanwhile.
 */
import type { TaskId, UnixMs } from "../ids.ts";
import type { Service } from "../objects/service.ts";
import { type Task, taskStateAtLeast } from "../objects/task.ts";
import { type PlanDraft, wakeAt } from "./plan-draft.ts";
import { progressDeadlineMs } from "./progress-deadline.ts";
import { diedByItself, lossOf, mayRestart } from "./restart.ts";
import { type Slot, wantedIn } from "./slot.ts";
import { isTaskDirty } from "./task-dirty.ts";

/** A successor that is still without a node after so long lets the next slot move. */
export const PLACE_WAIT_MS = 60_000;

export type Moves = {
  /** Tasks that run on drained nodes and shall go on for now. */
  staying: Set<TaskId>;
  /** Those of them whose successor is to be made in this plan, beside them. */
  followed: Set<TaskId>;
  /** Keys of the slots that are moving, those that begin in this plan included. */
  moving: Set<string>;
};

/** Which tasks on drained nodes may leave now. `slots`: the occupied ones that are to stay. */
export function planMoves(draft: PlanDraft, service: Service, slots: readonly Slot[]): Moves {
  const moves: Moves = { staying: new Set(), followed: new Set(), moving: new Set() };
  const policy = service.spec.TaskTemplate.RestartPolicy;
  const isPaused = service.updateStatus?.state.endsWith("paused") ?? false;
  const waiting: { slot: Slot; leaving: Task[] }[] = [];
  for (const slot of slots) {
    const wanted = wantedIn(draft, slot);
    // One that does not run serves nobody: it leaves at once.
    const leaving = wanted.filter(
      (task) => task.status.state === "running" && lossOf(draft.view, task) === "node-drained",
    );
    const newcomer = wanted.findLast((task) => !leaving.includes(task));
    if (newcomer !== undefined && isMoving(draft, service, slot, newcomer)) {
      moves.moving.add(slot.key);
    }
    // One that has lost its own node meanwhile is replaced.
    const newest = wanted.findLast((task) => lossOf(draft.view, task) === undefined);
    if (leaving.length === 0 || newest?.status.state === "running") continue;
    const hasSuccessor = leaving.some((task) => mayRestart(policy, task, slot.tasks));
    if (newest === undefined && !hasSuccessor) continue;
    const isUpdates = !isPaused && leaving.some((task) => isTaskDirty(draft.view, service, task));
    if (newest === undefined && !isUpdates) waiting.push({ slot, leaving });
    else if (
      newest !== undefined &&
      isDue(draft, newest.createdAtMs + progressDeadlineMs(service.spec))
    )
      continue;
    for (const task of leaving) moves.staying.add(task.id);
  }
  const { Parallelism = 1, Order } = service.spec.UpdateConfig ?? {};
  for (const { slot, leaving } of waiting) {
    // A slot whose newcomer is lost has its turn still.
    const isTurn = moves.moving.has(slot.key) || moves.moving.size < Parallelism;
    if (!isTurn && Parallelism !== 0) continue;
    moves.moving.add(slot.key);
    for (const task of leaving) {
      if (Order === "start-first") moves.followed.add(task.id);
      else moves.staying.delete(task.id);
    }
  }
  return moves;
}

function isMoving(draft: PlanDraft, service: Service, slot: Slot, newest: Task): boolean {
  const { state } = newest.status;
  if (taskStateAtLeast(state, "running")) return false;
  const before = slot.tasks[slot.tasks.indexOf(newest) - 1];
  if (before === undefined || diedByItself(before)) return false;
  const isPlaced = taskStateAtLeast(state, "assigned");
  return !isDue(
    draft,
    isPlaced
      ? newest.updatedAtMs + progressDeadlineMs(service.spec)
      : newest.createdAtMs + PLACE_WAIT_MS,
  );
}

/** Whether that time has come; if not, and it ever will, the plan is made again then. */
function isDue(draft: PlanDraft, atMs: UnixMs): boolean {
  if (draft.nowMs >= atMs) return true;
  if (Number.isFinite(atMs)) wakeAt(draft, atMs);
  return false;
}
