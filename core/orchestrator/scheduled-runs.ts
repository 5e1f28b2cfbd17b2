/**
 * Begins the runs of jobs that run at times (core/objects/job-schedule.ts).
 *
 * The memory is the store: `jobStatus` says when the last run began, its tasks when it was last heard of. The
 * next time is the first one after that, so a time that comes while a run goes on is left out, and one
 * that nobody led the cluster at is made up for once, as soon as somebody does. jobs.ts does the rest; a run whose
 * tasks find no node goes on.
 */
import type { UnixMs } from "../ids.ts";
import { isScheduled, nextRunAfter, replacesRuns } from "../objects/job-schedule.ts";
import type { Service } from "../objects/service.ts";
import { isTaskDead } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import type { ClusterView } from "../store/view.ts";
import { closeDraft, openDraft, updateService, wakeAt } from "./plan-draft.ts";
import { failedForGood, hasCompleted, lastRun } from "./service-status.ts";
import { isWanted } from "./slot.ts";

export const planScheduledRuns: Planner = (input) => {
  const draft = openDraft(input);
  const { view, nowMs } = input;
  for (const service of view.services()) {
    const atMs = nextRunAtMs(view, service);
    if (atMs === undefined) continue;
    if (!replacesRuns(service.spec) && !isOver(view, service)) continue;
    if (atMs > nowMs) wakeAt(draft, atMs);
    else {
      const iteration = (service.jobStatus?.iteration ?? 0) + 1;
      updateService(draft, service, { jobStatus: { iteration, lastExecutionAtMs: nowMs } });
    }
  }
  return closeDraft(draft);
};

/** When the next run begins, unless one goes on then; `undefined` for a service that is not scheduled. */
export function nextRunAtMs(view: ClusterView, service: Service): UnixMs | undefined {
  if (!isScheduled(service.spec)) return undefined;
  let sinceMs = service.jobStatus?.lastExecutionAtMs ?? service.createdAtMs;
  if (!replacesRuns(service.spec)) {
    for (const task of lastRun(service, view.tasksByService(service.id))) {
      sinceMs = Math.max(sinceMs, task.updatedAtMs);
    }
  }
  return nextRunAfter(service.spec, sinceMs);
}

/** The last run is, whether it did well or not; so is one that was never begun. */
function isOver(view: ClusterView, service: Service): boolean {
  const run = lastRun(service, view.tasksByService(service.id));
  if (run.length === 0) return service.jobStatus?.iteration === 0;
  if (hasCompleted(service, view)) return true;
  const isActive = run.some((task) => isWanted(task) && !isTaskDead(task.status.state));
  return !isActive && failedForGood(service, view) !== undefined;
}
