/** How far a service is: counts of its tasks. */
import { completionsOf, isJob, type Service } from "../objects/service.ts";
import type { Task } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";
import { diedByItself, mayRestart } from "./restart.ts";
import { isWanted, slotsOf } from "./slot.ts";

export type ServiceStatus = { RunningTasks: number; DesiredTasks: number; CompletedTasks: number };

/** Counts for `docker service ls`. Source: SwarmKit controlapi ListServiceStatuses. */
export function serviceStatus(service: Service, view: ClusterView): ServiceStatus {
  const tasks = view.tasksByService(service.id);
  if (isJob(service.spec)) return jobStatus(service, tasks);
  const wanted = tasks.filter((task) => task.desiredState === "running");
  // Unlike stock, a task that is being replaced is not counted: its status can stay "running" for
  // as long as its node is away.
  // That of a stateful slot stays wanted meanwhile, and does not count either.
  const running = wanted.filter(
    ({ status, nodeId = "" }) =>
      status.state === "running" && view.node(nodeId)?.status.state !== "down",
  );
  const replicated = service.spec.Mode.Replicated;
  return {
    RunningTasks: running.length,
    DesiredTasks: replicated ? (replicated.Replicas ?? 1) : wanted.length,
    CompletedTasks: tasks.filter((task) => task.status.state === "complete").length,
  };
}

/**
 * Of the last run. Completions are counted by slot: two tasks of one, the first of which was thought
 * lost, are one completion. A global job's desired ones are those yet to complete, as the CLI adds
 * the completed ones itself; failed ones that are not tried again are among them.
 */
function jobStatus(service: Service, tasks: readonly Task[]): ServiceStatus {
  const run = lastRun(service, tasks);
  const status = { RunningTasks: 0, DesiredTasks: 0, CompletedTasks: 0 };
  for (const slot of slotsOf(run)) {
    const wanted = slot.tasks.filter(isWanted);
    const last = slot.tasks.at(-1);
    if (slot.tasks.some((task) => task.status.state === "complete")) status.CompletedTasks += 1;
    else if (wanted.length > 0 || (last && diedByItself(last))) status.DesiredTasks += 1;
    if (wanted.some((task) => task.status.state === "running")) status.RunningTasks += 1;
  }
  // Source: SwarmKit controlapi ListServiceStatuses.
  const completions = completionsOf(service.spec);
  return completions ? { ...status, DesiredTasks: completions.concurrentMax } : status;
}

/** True for a job of whose last run every slot has completed. */
export function hasCompleted(service: Service, view: ClusterView): boolean {
  const tasks = view.tasksByService(service.id);
  // A global job that nobody has looked at yet has nothing to complete.
  if (!isJob(service.spec) || lastRun(service, tasks).length === 0) return false;
  const { DesiredTasks, CompletedTasks } = jobStatus(service, tasks);
  return (
    CompletedTasks >= (completionsOf(service.spec)?.totalCount ?? DesiredTasks + CompletedTasks)
  );
}

/** The task by which a job's last run can complete no more: its restart policy forbids another in its slot. */
export function failedForGood(job: Service, view: ClusterView): Task | undefined {
  const policy = job.spec.TaskTemplate.RestartPolicy;
  for (const { tasks } of slotsOf(lastRun(job, view.tasksByService(job.id)))) {
    const last = tasks.at(-1);
    const isOpen = tasks.some((task) => isWanted(task) || task.status.state === "complete");
    if (!isOpen && last && diedByItself(last) && !mayRestart(policy, last, tasks)) return last;
  }
  return undefined;
}

/** Of all tasks of a job those of the run that was begun last. */
export function lastRun(job: Service, tasks: readonly Task[]): Task[] {
  return tasks.filter((task) => task.jobIteration === job.jobStatus?.iteration);
}
