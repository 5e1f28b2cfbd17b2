/**
 * One transition of one task: (task, what was reported so far, its container as observed, the last
 * attempt) → the next step. Level-based: nothing depends on how the situation came about.
 *
 * Invariants:
 * T1. A status only moves forward, and a dead status is final.
 * T2. A container is created once per task and started once: one that has exited is not started again, but for one
 *     that ended with its host while no manager can be reached (`restartAtMs`).
 * T3. Until a task's key is gone its container is kept, dead or not (logs, history).
 * T4. A dead or unwanted task has no running container: it is stopped with its grace time.
 * T5. An error before STARTING rejects the task, one from STARTING on fails it.
 *
 * Source of the states and texts: SwarmKit agent/exec/controller.go Do, moby
 * daemon/cluster/executor/container/{controller,errors}.go.
 */
import type { UnixMs } from "../../core/ids.ts";
import { unreachable } from "../../core/assert.ts";
import {
  isTaskDead,
  type Task,
  TASK_STATE_ORDER,
  taskName,
  type TaskStatus,
} from "../../core/objects/task.ts";
import type { ObservedContainer } from "./observed.ts";

/** Steps that change the engine; each is found done by observing, never by its answer. */
export type EngineStep =
  /** Networks, image, volumes, files, container, further legs: whatever of it is missing. */
  | { type: "prepare"; taskId: string }
  | { type: "start"; taskId: string; containerId: string }
  /** With the container's own signal and grace time. A drain before it belongs here (not yet done). */
  | { type: "stop"; taskId: string; containerId: string }
  /** The container with its anonymous volumes, and the task's files. */
  | { type: "remove"; taskId: string; containerId: string };

export type TaskStep =
  | EngineStep
  | { type: "report"; taskId: string; record: TaskRecord }
  /** The task is not wanted and nothing is left of it. */
  | { type: "forget"; taskId: string };

/** What this node knows of a task beyond its assignment; kept in the journal. */
export type TaskRecord = {
  status: TaskStatus;
  /**
   * Set before a container is stopped for bad health: afterwards the engine calls every stopped
   * container with a healthcheck unhealthy, so the reason could not be told from it any more.
   */
  isUnhealthy?: boolean;
  /** Of a plugin's task: the plugin that it has installed, or was about to (plugins.ts). */
  plugin?: string;
};

/** How the last engine step of a task ended, unless what it was to do was observed since. */
export type Attempt = {
  step: EngineStep["type"];
  /** The engine's text, as users know it. */
  message: string;
  /** Trying again cannot help; the task fails by it. */
  isFatal: boolean;
  /** The engine could not be asked: however long it lasts, no task fails by it. */
  isEngineAway: boolean;
  count: number;
  firstAtMs: UnixMs;
  atMs: UnixMs;
};

const RETRY_DELAY_MS = 500;
const RETRY_DELAY_MS_MAX = 30_000;
/** How long a task waits for its networks, secrets and configs. Source: moby waitNodeAttachments. */
export const PREPARE_WAIT_MS = 30_000;

/** When the step may be tried again: 0.5 s, doubled up to 30 s. */
export function retryAtMs(attempt: Pick<Attempt, "count" | "atMs">): UnixMs {
  return (
    attempt.atMs +
    Math.min(RETRY_DELAY_MS * 2 ** Math.min(attempt.count - 1, 10), RETRY_DELAY_MS_MAX)
  );
}

export type TaskSituation = {
  /** Absent: the task is not wanted any more. */
  task?: Task | undefined;
  record?: TaskRecord | undefined;
  container?: ObservedContainer | undefined;
  attempt?: Attempt | undefined;
  /**
   * Its container had ended when this agent began to look (a power cut), and no manager has been heard since. The end
   * is not told before a manager is heard; from this time on the task goes on instead, if its restart policy says so.
   */
  restartAtMs?: UnixMs | undefined;
  /** Engine names of the overlay networks that a prepared container is attached to. */
  wantedDockerNetworks: readonly string[];
  nowMs: UnixMs;
};

/** The next step, none, or the time at which there may be one. */
export type StepDecision = { step?: TaskStep; wakeAtMs?: UnixMs };

/** @param taskId of the task; given apart, for an unwanted one has no object. */
export function stepTask(taskId: string, situation: TaskSituation): StepDecision {
  const { task, container } = situation;
  if (!task) {
    if (!container) return { step: { type: "forget", taskId } };
    const type = container.state === "running" ? "stop" : "remove";
    return engineStep({ type, taskId, containerId: container.id }, situation);
  }
  const record = currentRecord(task, situation.record);
  const { state } = record.status;

  if (isTaskDead(state)) {
    if (container?.state === "running") return stop(situation, container);
    // A status made known by the managers (rejected, orphaned) is taken over, not reported back.
    return {};
  }
  if (task.desiredState === "shutdown" || task.desiredState === "remove") {
    if (container?.state === "running") return stop(situation, container);
    return report(task, record, situation, { state: "shutdown", message: "shutdown" });
  }

  switch (state) {
    case "new":
    case "pending":
    case "assigned":
      return report(task, record, situation, { state: "accepted", message: "accepted" });
    case "accepted":
      return report(task, record, situation, { state: "preparing", message: "preparing" });
    case "preparing":
      return stepPreparing(task, record, situation);
    case "ready":
      if (!container) return fail(task, record, situation, goneText(task));
      if (task.desiredState === "ready") return {};
      return report(task, record, situation, { state: "starting", message: "starting" });
    case "starting":
      return stepStarting(task, record, situation);
    case "running":
      return stepRunning(task, record, situation);
    case "complete":
    case "shutdown":
    case "failed":
    case "rejected":
    case "remove":
    case "orphaned":
      return {};
    default:
      return unreachable(state);
  }
}

/** The furthest of what the managers know and what was reported here; they know more after a lost journal. */
export function currentRecord(task: Task, record: TaskRecord | undefined): TaskRecord {
  if (!record) return { status: task.status };
  return TASK_STATE_ORDER[record.status.state] >= TASK_STATE_ORDER[task.status.state]
    ? record
    : { ...record, status: task.status };
}

function stepPreparing(task: Task, record: TaskRecord, situation: TaskSituation): StepDecision {
  const { container, attempt, nowMs } = situation;
  if (container) {
    const isPrepared =
      container.state !== "created" ||
      situation.wantedDockerNetworks.every((name) => container.dockerNetworks.includes(name));
    if (isPrepared) {
      return report(task, record, situation, { state: "ready", message: "prepared" });
    }
  }
  if (attempt?.step === "prepare") {
    const hasWaited = !attempt.isEngineAway && nowMs - attempt.firstAtMs >= PREPARE_WAIT_MS;
    if (attempt.isFatal || hasWaited) return fail(task, record, situation, attempt.message);
  }
  return engineStep({ type: "prepare", taskId: task.id }, situation);
}

function stepStarting(task: Task, record: TaskRecord, situation: TaskSituation): StepDecision {
  const { container, attempt } = situation;
  if (!container) return fail(task, record, situation, goneText(task));
  switch (container.state) {
    case "created":
      if (attempt?.step === "start" && attempt.isFatal) {
        return fail(task, record, situation, attempt.message);
      }
      return engineStep({ type: "start", taskId: task.id, containerId: container.id }, situation);
    case "running":
      if (record.isUnhealthy) return stop(situation, container);
      if (container.health === "starting") return {};
      if (container.health === "unhealthy") return markUnhealthy(task, record);
      return report(task, record, situation, { state: "running", message: "started" });
    case "exited":
      // A container without a healthcheck has run; one with a healthcheck was never RUNNING.
      return container.health === undefined
        ? report(task, record, situation, { state: "running", message: "started" })
        : finish(task, record, situation, container);
    default:
      return unreachable(container.state);
  }
}

function stepRunning(task: Task, record: TaskRecord, situation: TaskSituation): StepDecision {
  const { container } = situation;
  if (!container || container.state === "created") {
    return fail(task, record, situation, goneText(task));
  }
  if (container.state === "exited") return stepEnded(task, record, situation, container);
  if (record.isUnhealthy) return stop(situation, container);
  if (container.health === "unhealthy") return markUnhealthy(task, record);
  const { status } = record;
  const facts = containerFacts(container);
  const isChanged =
    status.container?.id !== container.id ||
    status.container.pid !== container.pid ||
    JSON.stringify(status.ports ?? []) !== JSON.stringify(container.hostPorts);
  if (!isChanged) return {};
  // Restarted by hand, or the managers' status knows no container: same state, new facts.
  return reportStep(task, { ...record, status: { ...status, ...facts } });
}

function stepEnded(
  task: Task,
  record: TaskRecord,
  situation: TaskSituation,
  container: ObservedContainer,
): StepDecision {
  const { restartAtMs, attempt, nowMs } = situation;
  const isRefused = attempt?.step === "start" && attempt.isFatal;
  const isOver = isRefused || record.isUnhealthy === true || !mayRestart(task, container);
  if (restartAtMs === undefined || isOver) return finish(task, record, situation, container);
  if (nowMs < restartAtMs) return { wakeAtMs: restartAtMs };
  return engineStep({ type: "start", taskId: task.id, containerId: container.id }, situation);
}

function mayRestart({ spec }: Task, { exitCode }: ObservedContainer): boolean {
  const condition = spec.RestartPolicy?.Condition ?? "any";
  return condition === "any" || (condition === "on-failure" && exitCode !== 0);
}

function finish(
  task: Task,
  record: TaskRecord,
  situation: TaskSituation,
  container: ObservedContainer,
): StepDecision {
  const atMs = container.finishedAtMs ?? situation.nowMs;
  const { exitCode } = container;
  if (exitCode === 0 && !record.isUnhealthy) {
    return report(task, record, situation, { state: "complete", message: "finished", atMs });
  }
  const unhealthy = "dockerexec: unhealthy container";
  const exit = `task: non-zero exit (${exitCode})`;
  const err = !record.isUnhealthy ? exit : exitCode === 0 ? unhealthy : `${exit}: ${unhealthy}`;
  return fail(task, record, situation, err, atMs);
}

function fail(
  task: Task,
  record: TaskRecord,
  situation: TaskSituation,
  err: string,
  atMs?: UnixMs,
): StepDecision {
  const isBeforeStart = TASK_STATE_ORDER[record.status.state] < TASK_STATE_ORDER.starting;
  return report(task, record, situation, {
    state: isBeforeStart ? "rejected" : "failed",
    // As stock Swarm: the message stays that of the state in which it went wrong.
    message: record.status.message,
    err,
    ...(atMs === undefined ? {} : { atMs }),
  });
}

function goneText(task: Task): string {
  return `No such container: ${taskName(task)}`;
}

function markUnhealthy(task: Task, record: TaskRecord): StepDecision {
  return reportStep(task, { ...record, isUnhealthy: true });
}

function stop(situation: TaskSituation, container: ObservedContainer): StepDecision {
  return engineStep(
    { type: "stop", taskId: container.taskId, containerId: container.id },
    situation,
  );
}

function engineStep(step: EngineStep, situation: TaskSituation): StepDecision {
  const { attempt, nowMs } = situation;
  if (attempt && attempt.step === step.type) {
    const wakeAtMs = retryAtMs(attempt);
    if (wakeAtMs > nowMs) return { wakeAtMs };
  }
  return { step };
}

function report(
  task: Task,
  record: TaskRecord,
  situation: TaskSituation,
  next: Pick<TaskStatus, "state" | "message"> & { err?: string; atMs?: UnixMs },
): StepDecision {
  const facts = situation.container
    ? containerFacts(situation.container)
    : record.status.container
      ? { container: record.status.container }
      : {};
  return reportStep(task, {
    ...record,
    status: { ...facts, ...next, atMs: next.atMs ?? situation.nowMs },
  });
}

function reportStep(task: Task, record: TaskRecord): StepDecision {
  return { step: { type: "report", taskId: task.id, record } };
}

function containerFacts(container: ObservedContainer): Pick<TaskStatus, "container" | "ports"> {
  return {
    container: { id: container.id, pid: container.pid, exitCode: container.exitCode },
    ...(container.hostPorts.length > 0 ? { ports: container.hostPorts } : {}),
  };
}
