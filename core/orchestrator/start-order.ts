/**
 * Start order: when a service that waits for others (label `shoal.depends-on`) may start.
 *
 *   first start, and each run of a job   until every condition holds and nothing that it waits for is
 *                                        being updated
 *   update                               until the jobs that it waits for have completed their run and
 *                                        nothing else that it waits for is being updated
 *   afterwards                           not at all: what dies is replaced whatever became of the others
 *
 * A first start is held at the scheduler, so that its tasks are there and say what they wait for; an
 * update at the updater, so that what runs goes on running. The memory is the tasks: one that was given a
 * node by the present spec is the end of the waiting. A rollback waits for nobody.
 */
import type { NodeObject } from "../objects/node.ts";
import { isJob, replicasOf, type Service } from "../objects/service.ts";
import { type Dependency, dependenciesOf, misfitOf } from "../objects/start-order.ts";
import { isTaskDead, type Task, taskName, taskStateAtLeast } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";
import { nodeFit } from "./node-fit.ts";
import { failedForGood, hasCompleted, serviceStatus } from "./service-status.ts";
import { isWanted } from "./slot.ts";
import { isTaskDirty } from "./task-dirty.ts";

/** Why a service waits, for its user. */
export type Wait = {
  message: string;
  /** No task of it was ever given a node: there is nothing that could go on running meanwhile. */
  isFirst: boolean;
  /** It ends by a user's doing only: a job has failed for good. */
  isHopeless: boolean;
};

/** `undefined` for a service that may start. */
export function waitOf(view: ClusterView, service: Service): Wait | undefined {
  const dependencies = dependenciesOf(service.spec.Labels);
  if (dependencies.length === 0) return undefined;
  const placed = view.tasksByService(service.id).filter(isPlaced);
  if (placed.some((task) => isOfPresentSpec(view, service, task))) return undefined;
  const isFirst = isJob(service.spec) || placed.length === 0;
  for (const dependency of dependencies) {
    const other = view.serviceByName(dependency.serviceName);
    const why = other ? lackOf(view, dependency, other, isFirst) : missing(dependency, isFirst);
    if (why) return { isFirst, isHopeless: false, ...why };
  }
  return undefined;
}

/** True for a task that was given a node, whatever became of it. */
export function isPlaced(task: Task): boolean {
  return task.nodeId !== undefined && taskStateAtLeast(task.status.state, "assigned");
}

function isOfPresentSpec(view: ClusterView, service: Service, task: Task): boolean {
  if (isJob(service.spec)) return task.jobIteration === service.jobStatus?.iteration;
  return !isTaskDirty(view, service, task);
}

type Lack = Pick<Wait, "message"> & { isHopeless?: boolean };

function missing({ serviceName }: Dependency, isFirst: boolean): Lack | undefined {
  // What runs has no need of it.
  if (!isFirst) return undefined;
  return { message: `waits for ${serviceName}, which is not there: create it` };
}

function lackOf(
  view: ClusterView,
  dependency: Dependency,
  other: Service,
  isFirst: boolean,
): Lack | undefined {
  const { serviceName: name, condition } = dependency;
  const misfit = misfitOf(dependency, other.spec);
  if (misfit !== undefined) return isFirst ? { message: `waits for ever: ${misfit}` } : undefined;
  if (condition === "completed") return jobLack(view, other);
  if (isBeingUpdated(view, other)) return { message: `waits for the update of ${name}` };
  if (!isFirst) return undefined;
  if (replicasOf(other.spec) === 0) {
    return { message: `waits for ${name}, which is scaled to 0: scale it up` };
  }
  if (condition === "started") {
    const isStarted = view.tasksByService(other.id).some(hasStarted);
    return isStarted ? undefined : { message: `waits for ${name} to be started` };
  }
  const { RunningTasks, DesiredTasks } = serviceStatus(other, view);
  // Before the first look at a global service nothing is wanted.
  if (RunningTasks >= Math.max(1, DesiredTasks)) return undefined;
  return {
    message: `waits for ${name} to be healthy: ${RunningTasks} of ${DesiredTasks} tasks run`,
  };
}

function jobLack(view: ClusterView, job: Service): Lack | undefined {
  if (hasCompleted(job, view)) return undefined;
  const { Name: name } = job.spec;
  const failed = failedForGood(job, view);
  if (!failed) {
    const isNowhere = job.spec.Mode.GlobalJob && !view.nodes().some((node) => isOpen(job, node));
    const why = isNowhere ? `, for which there is no node: see shoal why ${name}` : "";
    return { message: `waits for ${name} to complete${why}` };
  }
  const { err, message } = failed.status;
  const why = `${taskName(failed)} has failed: ${err || message || failed.status.state}`;
  return {
    message: `waits for ${name} to complete, and ${why}: mend it, and run it again (docker service update --force ${name})`,
    isHopeless: true,
  };
}

function hasStarted(task: Task): boolean {
  const { state } = task.status;
  if (state === "complete") return true;
  return isWanted(task) && taskStateAtLeast(state, "starting") && !isTaskDead(state);
}

function isBeingUpdated(view: ClusterView, service: Service): boolean {
  const state = service.updateStatus?.state;
  if (state === "updating" || state === "rollback_started") return true;
  // A user has to look after it; others are not held up by that.
  if (state === "paused" || state === "rollback_paused" || isJob(service.spec)) return false;
  return view.tasksByService(service.id).some((task) => {
    if (!isWanted(task) || !isTaskDirty(view, service, task)) return false;
    // A global service leaves what it has on a paused node as it is, for as long as it is paused.
    const node = view.node(task.nodeId ?? "");
    return service.spec.Mode.Global === undefined || (node !== undefined && isOpen(service, node));
  });
}

function isOpen(service: Service, node: NodeObject): boolean {
  return nodeFit(service, node) === "open";
}
