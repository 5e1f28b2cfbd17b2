/**
 * What holds of tasks at every index: status and desired state only move forward, a dead status stays, a
 * task keeps its node, service and spec; only a task that is wanted or placed is ever changed to run.
 */
import type { Task, TaskState } from "../../../../core/objects/task.ts";
import type { Report } from "../../checkers/report.ts";
import type { Step } from "../history.ts";

/** As docker shows them; written down again, so that a changed table in core shows. */
const STATUS_ORDER: readonly TaskState[] = [
  "new",
  "pending",
  "assigned",
  "accepted",
  "preparing",
  "ready",
  "starting",
  "running",
  "complete",
  "shutdown",
  "failed",
  "rejected",
  "remove",
  "orphaned",
];
const DESIRED_ORDER: readonly string[] = ["ready", "running", "complete", "shutdown", "remove"];
const DEAD: ReadonlySet<string> = new Set([
  "complete",
  "shutdown",
  "failed",
  "rejected",
  "orphaned",
]);

export function isDead(task: Task): boolean {
  return DEAD.has(task.status.state);
}

/** It may have a container, now or before long. */
export function isPlaced(task: Task): boolean {
  return (
    !isDead(task) && STATUS_ORDER.indexOf(task.status.state) >= STATUS_ORDER.indexOf("assigned")
  );
}

export function checkTaskStep(step: Step, report: Report): void {
  const { change, before } = step;
  if (change.table !== "task") return;
  if (change.kind === "remove") {
    const isNodeThere = step.history.nodes.has(change.object.nodeId ?? "");
    if (isPlaced(change.object) && isNodeThere) {
      report(
        "task-rules",
        `task ${change.id} is forgotten at ${step.entry.index} while it may run`,
      );
    }
    return;
  }
  if (!before) return;
  const was = before as Task; // of the same table
  const is = change.object;
  const where = `task ${is.id} at ${step.entry.index}`;
  if (STATUS_ORDER.indexOf(is.status.state) < STATUS_ORDER.indexOf(was.status.state)) {
    report("task-rules", `${where} goes back from ${was.status.state} to ${is.status.state}`);
  }
  if (DESIRED_ORDER.indexOf(is.desiredState) < DESIRED_ORDER.indexOf(was.desiredState)) {
    report("task-rules", `${where} is wanted ${is.desiredState} after ${was.desiredState}`);
  }
  if (isDead(was) && was.status.state !== is.status.state) {
    report("task-rules", `${where} was ${was.status.state} and is ${is.status.state}`);
  }
  if (was.nodeId !== undefined && was.nodeId !== is.nodeId) {
    report("task-rules", `${where} moves from ${was.nodeId} to ${is.nodeId}`);
  }
  if (was.serviceId !== is.serviceId || was.specVersion !== is.specVersion) {
    report("task-rules", `${where} changes its service or spec`);
  }
}
