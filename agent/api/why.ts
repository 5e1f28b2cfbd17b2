/**
 * GET /shoal/v1/why/{service or task}: why it does not run, from what every manager has. Pure.
 * Where a task could go and why not, the scheduler's filters say (core/scheduler/why.ts); why one that
 * had a node is not there any more, its own last status does.
 */
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import { SCHEDULE_LABEL } from "../../core/objects/job-schedule.ts";
import { completionsOf, isJob, replicasOf, type Service } from "../../core/objects/service.ts";
import { isOrdered, isStateful, ORDER_LABEL } from "../../core/objects/stateful.ts";
import { isTaskDead, type Task, taskName, taskStateAtLeast } from "../../core/objects/task.ts";
import { isWanted } from "../../core/orchestrator/slot.ts";
import { nextRunAtMs } from "../../core/orchestrator/scheduled-runs.ts";
import { waitOf } from "../../core/orchestrator/start-order.ts";
import { imagineTask, type NodeVerdict, verdictsOn } from "../../core/scheduler/why.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { goTime } from "./go-values.ts";
import { findService, findTask, nodeName } from "./lookup.ts";

export type WhyReport = {
  kind: "service" | "task";
  id: string;
  name: string;
  summary: string;
  /** What holds things up beside nodes: a paused update, a delay, no replicas wanted. */
  notes: string[];
  /** Tasks without a node, by what they wait for. `nodes` is empty while they wait for something else. */
  pending: { tasks: string[]; reason: string; nodes: NodeVerdict[] }[];
  /** On a node, and not running yet. */
  underWay: { task: string; node: string; state: string; message: string; since: string }[];
  /** The newest first. */
  failures: {
    task: string;
    node: string;
    state: string;
    error: string;
    exitCode?: number;
    at: string;
  }[];
};

const FAILURES_MAX = 20;

/** @throws {ClusterError} not-found, or invalid-argument for a prefix of several. */
export function whyReport(view: ClusterView, ref: string, nowMs: UnixMs): WhyReport {
  const found = serviceOrTask(view, ref);
  const { task } = found;
  const service = found.service ?? (task && view.service(task.serviceId));
  const ofService = view.tasksByService(service?.id ?? task?.serviceId ?? "");
  // A dead task's successor in its slot is what runs or does not run now.
  const tasks = task
    ? ofService.filter((one) => one.slot === task.slot && (task.slot > 0 || sameNode(one, task)))
    : ofService;
  const wanted = tasks.filter((one) => isWanted(one) && !isTaskDead(one.status.state));
  const report: WhyReport = {
    kind: task ? "task" : "service",
    id: task?.id ?? service?.id ?? "",
    name: task ? taskName(task) : (service?.spec.Name ?? ""),
    summary: "",
    notes: notesOf(view, service, wanted, nowMs),
    pending: [
      ...pendingGroups(view, wanted, nowMs),
      ...(service && !task ? nodesLeftOut(view, service, wanted, nowMs) : []),
    ],
    underWay: wanted
      .filter((one) => taskStateAtLeast(one.status.state, "assigned") && !isRunning(one))
      .map((one) => ({
        task: taskName(one),
        node: nodeOf(view, one),
        state: one.status.state,
        message: one.status.err ?? one.status.message,
        since: goTime(one.status.atMs),
      })),
    failures: failuresOf(view, tasks),
  };
  report.summary = task ? taskSummary(view, task, wanted) : serviceSummary(service, wanted, report);
  return report;
}

function serviceOrTask(
  view: ClusterView,
  ref: string,
): { service: Service; task?: undefined } | { service?: undefined; task: Task } {
  try {
    return { service: findService(view, ref) };
  } catch (error) {
    if (!(error instanceof ClusterError) || error.code !== "not-found") throw error;
  }
  try {
    return { task: findTask(view, ref) };
  } catch (error) {
    if (!(error instanceof ClusterError) || error.code !== "not-found") throw error;
    throw new ClusterError(
      "not-found",
      `There is no service and no task "${ref}": see docker service ls, docker service ps`,
    );
  }
}

function sameNode(a: Task, b: Task): boolean {
  return a.nodeId === b.nodeId;
}

function isRunning(task: Task): boolean {
  return task.status.state === "running";
}

function nodeOf(view: ClusterView, task: Task): string {
  if (task.nodeId === undefined) return "";
  const node = view.node(task.nodeId);
  return node ? nodeName(node) || node.id : task.nodeId;
}

function pendingGroups(view: ClusterView, wanted: readonly Task[], nowMs: UnixMs) {
  const groups = new Map<string, Task[]>();
  for (const task of wanted) {
    if (taskStateAtLeast(task.status.state, "assigned")) continue;
    // Tasks of one version are alike to the scheduler, but for the node that they are bound to.
    const key = [task.specVersion, task.nodeId ?? "", task.status.state, task.status.err ?? ""];
    const group = groups.get(key.join("/"));
    if (group) group.push(task);
    else groups.set(key.join("/"), [task]);
  }
  return [...groups.values()].flatMap((tasks) => {
    const [first] = tasks;
    if (!first) return [];
    const isNew = first.status.state === "new";
    const service = view.service(first.serviceId);
    const wait = service && waitOf(view, service);
    return [
      {
        tasks: tasks.map(taskName),
        reason:
          wait?.message ??
          first.status.err ??
          (isNew ? "waits for its addresses" : first.status.message),
        // Before that no node is looked for.
        nodes: isNew || wait ? [] : verdictsOn(view, first, nowMs),
      },
    ];
  });
}

/** Of a global service: nodes that have no task of it, since they may not have one. */
function nodesLeftOut(
  view: ClusterView,
  service: Service,
  wanted: readonly Task[],
  nowMs: UnixMs,
): WhyReport["pending"] {
  const { Mode: mode, Name: name } = service.spec;
  if (!mode.Global && !mode.GlobalJob) return [];
  const served = new Set(wanted.map((task) => task.nodeId));
  const nodes = verdictsOn(view, imagineTask(view, service, 0, nowMs), nowMs).filter(
    ({ nodeId, reasons }) => reasons.length > 0 && !served.has(nodeId),
  );
  if (nodes.length === 0) return [];
  return [
    {
      tasks: [name],
      reason: `${nodes.length === 1 ? "1 node has" : `${nodes.length} nodes have`} no task of it`,
      nodes,
    },
  ];
}

function notesOf(
  view: ClusterView,
  service: Service | undefined,
  wanted: readonly Task[],
  nowMs: UnixMs,
): string[] {
  const notes: string[] = [];
  if (!service) return ["The service is removed; its tasks are being stopped"];
  const update = service.updateStatus;
  if (update && update.state !== "completed" && update.state !== "rollback_completed") {
    notes.push(`Update ${update.state.replace("_", " ")}: ${update.message}`);
  }
  if (replicasOf(service.spec) === 0) {
    notes.push(`0 replicas are wanted: docker service scale ${service.spec.Name}=1`);
  }
  const runsAtMs = nextRunAtMs(view, service);
  if (runsAtMs !== undefined) {
    notes.push(`It runs next at ${goTime(runsAtMs)}: label ${SCHEDULE_LABEL}`);
  }
  const nextSlot = slotInTurn(service, wanted);
  if (nextSlot !== undefined) {
    notes.push(
      `Slot ${nextSlot} is made when all slots below it run: label ${ORDER_LABEL}=parallel makes them at once`,
    );
  }
  for (const task of wanted) {
    const { startAfterMs } = task;
    if (task.desiredState !== "ready" || startAfterMs === undefined || startAfterMs <= nowMs)
      continue;
    const seconds = Math.ceil((startAfterMs - nowMs) / 1000);
    notes.push(`${taskName(task)} starts in ${seconds} s: the restart delay of the service`);
  }
  return notes;
}

/** The first slot of an ordered stateful service that is not there yet, as it waits for those below it. */
function slotInTurn({ spec, slots }: Service, wanted: readonly Task[]): number | undefined {
  if (!isStateful(spec) || !isOrdered(spec.Labels)) return undefined;
  const replicas = replicasOf(spec) ?? 0;
  for (let number = 2; number <= replicas; number += 1) {
    if (slots?.[number] === undefined && !wanted.some(({ slot }) => slot === number)) return number;
  }
  return undefined;
}

function failuresOf(view: ClusterView, tasks: readonly Task[]): WhyReport["failures"] {
  return tasks
    .filter(({ status }) => ["failed", "rejected", "orphaned"].includes(status.state))
    .toSorted((a, b) => b.status.atMs - a.status.atMs)
    .slice(0, FAILURES_MAX)
    .map((task) => {
      const exitCode = task.status.container?.exitCode;
      return {
        task: taskName(task),
        node: nodeOf(view, task),
        state: task.status.state,
        error: task.status.err ?? task.status.message,
        ...(exitCode === undefined ? {} : { exitCode }),
        at: goTime(task.status.atMs),
      };
    });
}

function taskSummary(view: ClusterView, task: Task, wanted: readonly Task[]): string {
  const { state, err, message } = task.status;
  const where = task.nodeId === undefined ? "" : ` on ${nodeOf(view, task)}`;
  const what = `${taskName(task)} is ${state}${where}: ${err ?? message}`;
  const successor = wanted.find((one) => one.id !== task.id);
  if (!isTaskDead(state) || !successor) return what;
  return `${what}. Its place has ${taskName(successor)}, which is ${successor.status.state}`;
}

function serviceSummary(
  service: Service | undefined,
  wanted: readonly Task[],
  report: WhyReport,
): string {
  if (!service) return "The service is removed";
  const name = service.spec.Name;
  const runningCount = wanted.filter(isRunning).length;
  const all =
    (isJob(service.spec) ? completionsOf(service.spec)?.concurrentMax : replicasOf(service.spec)) ??
    wanted.length;
  const pendingCount = wanted.filter(
    (task) => !taskStateAtLeast(task.status.state, "assigned"),
  ).length;
  const parts = [`${runningCount} of ${all} tasks of ${name} run`];
  if (pendingCount > 0) parts.push(`${pendingCount} wait for a node`);
  if (report.underWay.length > 0) parts.push(`${report.underWay.length} are being started`);
  if (report.failures.length > 0) parts.push(`${report.failures.length} have failed lately`);
  return parts.join(", ");
}
