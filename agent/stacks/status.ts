/** How far a stack is from what it shall be. Pure. */
import { unreachable } from "../../core/assert.ts";
import { isScheduled } from "../../core/objects/job-schedule.ts";
import { isJob, type Service } from "../../core/objects/service.ts";
import { STACK_LABEL, type Stack } from "../../core/objects/stack.ts";
import type { Task } from "../../core/objects/task.ts";
import { diedByItself } from "../../core/orchestrator/restart.ts";
import {
  failedForGood,
  hasCompleted,
  serviceStatus,
} from "../../core/orchestrator/service-status.ts";
import { compareTasks, isWanted } from "../../core/orchestrator/slot.ts";
import { UPDATE_IN_PROGRESS } from "../../core/orchestrator/update.ts";
import { isTaskDirty } from "../../core/orchestrator/task-dirty.ts";
import type { ClusterView } from "../../core/store/view.ts";

/**
 * `missing`: removed by somebody else. `rolled-back`, `paused`: by the update's rules, for `reason`. `failed`:
 * a job has, and its restart policy forbids another try. `scheduled`: a job that runs at times, also while it does.
 * `starting`: too few run; `reason` is the newest error, if any. `completed`: a job has.
 */
export const STACK_STATES = [
  "scheduled",
  "completed",
  "running",
  "updating",
  "starting",
  "failed",
  "rolled-back",
  "paused",
  "missing",
] as const;
export type StackState = (typeof STACK_STATES)[number];

export type StackServiceStatus = {
  name: string;
  id?: string;
  image: string;
  state: StackState;
  reason?: string;
  running: number;
  desired: number;
  completed: number;
};

/** The stack's state is that of its service that is furthest from running (the last of STACK_STATES). */
export function stackStatus(
  view: ClusterView,
  stack: Stack,
): { state: StackState; services: StackServiceStatus[] } {
  const wanted = stack.revisions.at(-1)?.model.services ?? [];
  const services = wanted.map((spec): StackServiceStatus => {
    const service = view.serviceByName(spec.Name);
    const image = spec.TaskTemplate.ContainerSpec.Image;
    if (service?.spec.Labels?.[STACK_LABEL] !== stack.spec.Name) {
      return { name: spec.Name, image, state: "missing", running: 0, desired: 0, completed: 0 };
    }
    return statusOf(view, service);
  });
  const rank = Math.max(0, ...services.map(({ state }) => STACK_STATES.indexOf(state)));
  return { state: STACK_STATES[rank] ?? "running", services };
}

function statusOf(view: ClusterView, service: Service): StackServiceStatus {
  const tasks = view.tasksByService(service.id);
  const { RunningTasks, DesiredTasks, CompletedTasks } = serviceStatus(service, view);
  const told = {
    name: service.spec.Name,
    id: service.id,
    image: service.spec.TaskTemplate.ContainerSpec.Image,
    running: RunningTasks,
    desired: DesiredTasks,
    completed: CompletedTasks,
  };
  const { updateStatus } = service;
  const reason = newestError(view, service);
  const withReason = reason === undefined ? {} : { reason };
  if (isJob(service.spec)) {
    if (isScheduled(service.spec)) return { ...told, state: "scheduled", ...withReason };
    if (hasCompleted(service, view)) return { ...told, state: "completed" };
    const failed = failedForGood(service, view);
    if (!failed) return { ...told, state: "starting", ...withReason };
    return { ...told, state: "failed", reason: failed.status.err ?? failed.status.message };
  }
  const updateState = updateStatus?.state;
  switch (updateState) {
    case "paused":
    case "rollback_paused":
      return { ...told, state: "paused", reason: withLastWords(updateStatus?.message, tasks) };
    case "rollback_started":
    case "rollback_completed":
      return {
        ...told,
        state: "rolled-back",
        reason: withLastWords(updateStatus?.message, tasks),
      };
    case "updating":
      return {
        ...told,
        state: "updating",
        ...(updateStatus?.message === UPDATE_IN_PROGRESS
          ? withReason
          : { reason: `${updateStatus?.message}` }),
      };
    case "completed":
    case undefined:
      break;
    default:
      unreachable(updateState);
  }
  const isOutdated = tasks.some((task) => isWanted(task) && isTaskDirty(view, service, task));
  if (isOutdated) return { ...told, state: "updating", ...withReason };
  // The orchestrator has not looked at a global service yet: nothing is wanted, and nothing runs.
  const isNew = service.spec.Mode.Global !== undefined && tasks.length === 0;
  if (isNew || RunningTasks < DesiredTasks) return { ...told, state: "starting", ...withReason };
  return { ...told, state: "running" };
}

/**
 * With the error of the task that died last, of whatever spec: the update was given up by it, or by one like it.
 * A rollback's own end does not tell it any more.
 */
function withLastWords(message: string | undefined, tasks: readonly Task[]): string {
  const dead = tasks.filter((task) => diedByItself(task) && task.status.err !== undefined);
  const err = dead.toSorted((a, b) => a.status.atMs - b.status.atMs).at(-1)?.status.err;
  return err === undefined || message?.includes(err) ? `${message}` : `${message}: ${err}`;
}

/** Why a task waits, or why the last one failed. */
function newestError(view: ClusterView, service: Service): string | undefined {
  const tasks = view
    .tasksByService(service.id)
    .filter((task) => task.specVersion === service.specVersion && task.status.err !== undefined)
    .toSorted(compareTasks);
  return (tasks.findLast(isWanted) ?? tasks.findLast(diedByItself))?.status.err;
}
