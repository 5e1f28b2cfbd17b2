/**
 * Rolling updates and rollbacks of one service, slot by slot.
 *
 * The memory is the store: tasks carry the spec version they were made from, `updateStatus` says
 * whether an update goes on, a task's `runningAtMs` since when it ran. From these alone each slot
 * is classified anew:
 *
 *   waiting    only tasks of an outdated spec            → may be started, if parallelism allows
 *   in work    a new task that has not run or died yet, or within Delay after it did
 *   attempted  a task of the current spec version ran or died
 *   untouched  never outdated: not part of the update
 *
 * Invariants: 1. at most `Parallelism` slots are in work. 2. Nothing is started while paused. 3.
 * The old task of a start-first slot is not stopped before a new one runs. 4. A slot is attempted
 * once; what fails then is the restart policy's affair. 5. An update in which slots are in work and
 * nothing has come forward for the progress deadline is given up (`planDeadline`).
 *
 * Relies on: the API unsets `updateStatus` when a user changes the spec, and sets it to
 * `rollback_started` for a rollback by hand; the reaper keeps 3 tasks a slot while an update runs.
 *
 * Source: SwarmKit manager/orchestrator/update/updater.go (states, messages, defaults).
 */
import type { UnixMs } from "../ids.ts";
import { NS_PER_MS } from "../objects/object-meta.ts";
import type { Service, UpdateConfig, UpdateState } from "../objects/service.ts";
import { isStateful } from "../objects/stateful.ts";
import { type Task, taskStateAtLeast } from "../objects/task.ts";
import type { Moves } from "./drain.ts";
import { type PlanDraft, updateService, updateTask, wakeAt } from "./plan-draft.ts";
import { progressDeadlineMs, showDuration } from "./progress-deadline.ts";
import { diedByItself, isStopped } from "./restart.ts";
import { compareTasks, createTask, type Slot, wantedIn } from "./slot.ts";
import { rollbackObstacle } from "./rollback-obstacle.ts";
import { waitOf } from "./start-order.ts";
import type { ClusterView } from "../store/view.ts";
import { isOutdated, isTaskDirty } from "./task-dirty.ts";

export const MONITOR_DEFAULT_MS = 5_000;

type Progress = {
  slot: Slot;
  clean: Task[];
  dirty: Task[];
  /** Tasks of the current spec version that ran or died. */
  attempts: Task[];
  /** When the first of them did, by the leader's clock; absent while none has. */
  attemptedAtMs?: UnixMs;
  isWaiting: boolean;
  /** Some task of the slot, wanted or dead, is of an outdated spec. */
  hasOutdated: boolean;
  /** Part of the running update, done or not. */
  isPart: boolean;
};

/**
 * Plans the next step of the service's update. `slots`: the occupied ones that are to stay.
 * `touched`: keys of slots in which this plan has made a task already; those of slots started here
 * are added. `moves`: slots that leave drained nodes meanwhile; they count as in work.
 */
export function planUpdate(
  draft: PlanDraft,
  service: Service,
  slots: readonly Slot[],
  { touched, moves }: { touched: Set<string>; moves?: Moves },
): void {
  const progress = slots.map((slot) => classify(draft, service, slot, moves));
  const config = settingsOf(service);
  for (const item of progress) {
    endDuplicates(draft, item, config.order);
  }
  const state = service.updateStatus?.state;
  if (state === "paused" || state === "rollback_paused") return;

  const waiting = progress.filter((item) => item.isWaiting && !touched.has(item.slot.key));
  const isActive = state === "updating" || state === "rollback_started";
  if (!isActive && waiting.length === 0) return;
  recordRunning(draft, service, progress);
  if (isActive) {
    if (planFailure(draft, service, progress, config)) return;
    // In a slot that this plan has made a task in, the new one is not among its tasks yet.
    const isBegun = ({ slot, attemptedAtMs, hasOutdated }: Progress) =>
      touched.has(slot.key) && attemptedAtMs === undefined && hasOutdated;
    if (!progress.some(isBegun) && planCompletion(draft, service, progress, config)) return;
  }
  if (planWait(draft, service, config)) return;
  if (isActive && planDeadline(draft, service, progress, config)) return;
  const isBusy = (item: Progress) =>
    isInWork(draft, item, config, touched) ||
    (!item.isWaiting && moves?.moving.has(item.slot.key) === true);
  const busyCount = progress.filter(isBusy).length;
  const limit = config.parallelism === 0 ? waiting.length : config.parallelism - busyCount;
  const order = config.isHighestFirst ? waiting.toReversed() : inStartOrder(waiting);
  for (const item of order.slice(0, Math.max(0, limit))) {
    startSlot(draft, service, item, config.order);
    touched.add(item.slot.key);
  }
}

/** The message of an update that waits for nothing but its own tasks. */
export const UPDATE_IN_PROGRESS = "update in progress";

/**
 * Holds an update while the service waits for others; what has not been placed may be replaced at once. One
 * that would wait for ever is given up. True when nothing more is to be done in this round: an update that was
 * held begins in the next one, by whose status its time counts from now.
 */
function planWait(draft: PlanDraft, service: Service, config: Settings): boolean {
  const { updateStatus: before, spec } = service;
  if (before?.state === "rollback_started") return false;
  const wait = waitOf(draft.view, service);
  const isHeld = wait !== undefined && !wait.isFirst;
  if (isHeld && wait.isHopeless) {
    giveUp(draft, service, config, `since it ${wait.message}; then update ${spec.Name} again`);
    return true;
  }
  const message = isHeld ? `update ${wait.message}` : UPDATE_IN_PROGRESS;
  if (before?.message !== message) setStatus(draft, service, "updating", message);
  return isHeld || (before?.state === "updating" && before.message !== message);
}

type Settings = {
  /** 0: all at once. */
  parallelism: number;
  delayMs: number;
  monitorMs: number;
  failureAction: NonNullable<UpdateConfig["FailureAction"]>;
  failureRatioMax: number;
  order: NonNullable<UpdateConfig["Order"]>;
  /** Stateful: from the highest slot to the lowest, whether they serve or not. */
  isHighestFirst: boolean;
};

function settingsOf(service: Service): Settings {
  const isRollback = service.updateStatus?.state.startsWith("rollback") ?? false;
  const config = (isRollback ? service.spec.RollbackConfig : service.spec.UpdateConfig) ?? {};
  const isHighestFirst = isStateful(service.spec);
  return {
    parallelism: config.Parallelism ?? 1,
    delayMs: (config.Delay ?? 0) / NS_PER_MS,
    // A monitor of 0 means the default. Source: SwarmKit api/defaults.
    monitorMs: config.Monitor ? config.Monitor / NS_PER_MS : MONITOR_DEFAULT_MS,
    failureAction: config.FailureAction ?? "pause",
    failureRatioMax: config.MaxFailureRatio ?? 0,
    // The API refuses start-first of a stateful service; two of a slot would write to one volume.
    order: isHighestFirst ? "stop-first" : (config.Order ?? "stop-first"),
    isHighestFirst,
  };
}

function classify(draft: PlanDraft, service: Service, slot: Slot, moves?: Moves): Progress {
  const isDirty = (task: Task) => isTaskDirty(draft.view, service, task);
  const wanted = wantedIn(draft, slot);
  const dirty = wanted.filter(isDirty);
  const others = wanted.filter((task) => !dirty.includes(task));
  // Beside its successor a task that leaves a drained node is no duplicate; alone it is the slot's.
  const successors = others.filter((task) => !moves?.staying.has(task.id));
  const clean = successors.length > 0 ? successors : others;
  const current = slot.tasks.filter((task) => task.specVersion === service.specVersion);
  const attempts = current.filter((task) => taskStateAtLeast(task.status.state, "running"));
  const last = slot.tasks.at(-1);
  const isRevivable =
    wanted.length === 0 &&
    last !== undefined &&
    isStopped(draft, service, slot) &&
    isOutdated(service, last);
  const isWaiting =
    clean.length === 0 && attempts.length === 0 && (dirty.length > 0 || isRevivable);
  const hasOutdated = slot.tasks.some(isDirty);
  const isPart = isWaiting || (current.length > 0 && (attempts.some(diedByItself) || hasOutdated));
  return {
    slot,
    clean,
    dirty,
    attempts,
    ...(attempts.length > 0
      ? { attemptedAtMs: Math.min(...attempts.map((task) => task.updatedAtMs)) }
      : {}),
    isWaiting,
    hasOutdated,
    isPart,
  };
}

/**
 * Ends the tasks that have been superseded within their slot. Of outdated ones a start-first update
 * keeps the one that serves: updates that follow each other closely would else leave one each, and
 * all of them would go on for as long as the newest spec cannot be placed.
 */
function endDuplicates(draft: PlanDraft, item: Progress, order: Settings["order"]): void {
  const [best, ...rest] = inKeepOrder(item.clean);
  const [serving, ...outdated] = inKeepOrder(item.dirty);
  const isSuperseded =
    best !== undefined && (order === "stop-first" || best.status.state === "running");
  const ended = [...rest, ...outdated];
  if (isSuperseded && serving) ended.push(serving);
  for (const task of ended) updateTask(draft, task, { desiredState: "shutdown" });
  item.dirty = item.dirty.filter((task) => !ended.includes(task));
}

/** Those that run first, then the older ones. */
function inKeepOrder(tasks: readonly Task[]): Task[] {
  return tasks.toSorted(
    (a, b) =>
      Number(b.status.state === "running") - Number(a.status.state === "running") ||
      compareTasks(a, b),
  );
}

function isInWork(
  draft: PlanDraft,
  item: Progress,
  config: Settings,
  touched: ReadonlySet<string>,
): boolean {
  const isNew = touched.has(item.slot.key) && item.attemptedAtMs === undefined;
  if (isNew) return item.hasOutdated;
  if (!item.isPart || item.isWaiting) return false;
  if (item.attemptedAtMs === undefined) return true;
  const endMs = item.attemptedAtMs + config.delayMs;
  if (draft.nowMs >= endMs) return false;
  wakeAt(draft, endMs);
  return true;
}

/** Slots that serve nobody first, then by number. */
function inStartOrder(waiting: Progress[]): Progress[] {
  const isServing = (item: Progress) => item.dirty.some((task) => task.status.state === "running");
  return [...waiting].sort((a, b) => Number(isServing(a)) - Number(isServing(b)));
}

function startSlot(
  draft: PlanDraft,
  service: Service,
  item: Progress,
  order: Settings["order"],
): void {
  if (order === "start-first") {
    createTask(draft, { service, slot: item.slot, beside: item.dirty });
    return;
  }
  for (const task of item.dirty) updateTask(draft, task, { desiredState: "shutdown" });
  createTask(draft, { service, slot: item.slot });
}

/**
 * Keeps since when new tasks run, so that a later death tells whether it was within the monitor
 * time.
 */
function recordRunning(draft: PlanDraft, service: Service, progress: readonly Progress[]): void {
  for (const item of progress) {
    if (!item.isPart) continue;
    for (const task of item.clean) {
      if (draft.endedIds.has(task.id)) continue;
      const isNew = task.specVersion === service.specVersion && task.runningAtMs === undefined;
      if (isNew && task.desiredState === "running" && task.status.state === "running") {
        updateTask(draft, task, { runningAtMs: task.status.atMs });
      }
    }
  }
}

/**
 * The first task of the slot made by this update that died before it ran, or within the monitor
 * time after.
 */
function failureOf(item: Progress, startedAtMs: UnixMs, monitorMs: number): Task | undefined {
  return item.attempts.find(
    (task) =>
      diedByItself(task) &&
      task.createdAtMs >= startedAtMs &&
      (task.runningAtMs === undefined || task.status.atMs - task.runningAtMs <= monitorMs),
  );
}

/** Pauses or rolls back when too many slots failed. True when it did. */
function planFailure(
  draft: PlanDraft,
  service: Service,
  progress: readonly Progress[],
  config: Settings,
): boolean {
  if (config.failureAction === "continue") return false;
  const startedAtMs = service.updateStatus?.startedAtMs ?? draft.nowMs;
  const parts = progress.filter((item) => item.isPart);
  const failures = parts
    .map((item) => failureOf(item, startedAtMs, config.monitorMs))
    .filter((task) => task !== undefined)
    .sort((a, b) => a.status.atMs - b.status.atMs || compareTasks(a, b));
  const last = failures.at(-1);
  if (last === undefined || failures.length / parts.length <= config.failureRatioMax) return false;
  // Stock names the task alone, which the reaper may have taken when somebody looks.
  const why = last.status.err === undefined ? "" : `: ${last.status.err}`;
  giveUp(draft, service, config, `due to failure or early termination of task ${last.id}${why}`);
  return true;
}

/**
 * Gives up an update that waits for tasks which neither run nor die: no node takes them, an image
 * does not come, a container does not become healthy. True when it did.
 *
 * Progress is a slot that was attempted, and a task that was made, moved on to another state, or
 * whose node was lost and came back. While that node is unknown nothing can be told.
 */
function planDeadline(
  draft: PlanDraft,
  service: Service,
  progress: readonly Progress[],
  config: Settings,
): boolean {
  const { view } = draft;
  let progressAtMs = service.updateStatus?.startedAtMs ?? draft.nowMs;
  const stuck: Task[] = [];
  for (const item of progress) {
    if (!item.isPart || item.isWaiting) continue;
    if (item.attemptedAtMs !== undefined) {
      progressAtMs = Math.max(progressAtMs, item.attemptedAtMs + config.delayMs);
      continue;
    }
    for (const task of item.clean) {
      stuck.push(task);
      progressAtMs = Math.max(progressAtMs, movedAtMs(view, task));
    }
  }
  const [first] = stuck.sort(compareTasks);
  const deadlineMs = progressDeadlineMs(service.spec);
  if (first === undefined || deadlineMs === Number.POSITIVE_INFINITY) return false;
  if (stuck.some((task) => isNodeUnknown(view, task))) return false;
  const endMs = progressAtMs + deadlineMs;
  if (draft.nowMs < endMs) {
    wakeAt(draft, endMs);
    return false;
  }
  const { state, err } = first.status;
  const why = err ? `: ${err}` : "";
  giveUp(
    draft,
    service,
    config,
    `due to no progress for ${showDuration(deadlineMs)}: task ${first.id} is ${state}${why}`,
  );
  return true;
}

/** When the task last came forward. A reason that is written anew while it waits is no progress. */
function movedAtMs(view: ClusterView, task: Task): UnixMs {
  if (!taskStateAtLeast(task.status.state, "assigned")) return task.createdAtMs;
  const node = task.nodeId === undefined ? undefined : view.node(task.nodeId);
  return Math.max(task.updatedAtMs, node?.updatedAtMs ?? 0);
}

function isNodeUnknown(view: ClusterView, task: Task): boolean {
  const nodes = task.nodeId === undefined ? view.nodes() : [view.node(task.nodeId)];
  return nodes.some((node) => node?.status.state === "unknown");
}

/** Pauses or rolls back, as the settings say and as it can; a failing rollback is only ever paused. */
function giveUp(draft: PlanDraft, service: Service, config: Settings, cause: string): void {
  const { previousSpec } = service;
  const isToGoBack = config.failureAction === "rollback" && previousSpec !== undefined;
  const obstacle = isToGoBack ? rollbackObstacle(draft.view, service, previousSpec) : undefined;
  if (service.updateStatus?.state === "rollback_started") {
    setStatus(draft, service, "rollback_paused", `rollback paused ${cause}`);
  } else if (obstacle !== undefined) {
    const message = `update paused ${cause}; it cannot be rolled back: ${obstacle}`;
    setStatus(draft, service, "paused", message);
  } else if (isToGoBack) {
    updateService(
      draft,
      service,
      {
        spec: previousSpec,
        updateStatus: {
          state: "rollback_started",
          startedAtMs: draft.nowMs,
          message: `update rolled back ${cause}`,
        },
      },
      ["previousSpec", "previousSpecVersion"],
    );
  } else {
    setStatus(draft, service, "paused", `update paused ${cause}`);
  }
}

/**
 * Ends the update once every slot was attempted and watched for the monitor time. True when it did.
 */
function planCompletion(
  draft: PlanDraft,
  service: Service,
  progress: readonly Progress[],
  config: Settings,
): boolean {
  const parts = progress.filter((item) => item.isPart);
  let endMs = draft.nowMs;
  for (const { attemptedAtMs } of parts) {
    if (attemptedAtMs === undefined) return false;
    const watchMs = config.delayMs >= config.monitorMs ? config.delayMs + 1_000 : config.monitorMs;
    endMs = Math.max(endMs, attemptedAtMs + watchMs);
  }
  if (endMs > draft.nowMs) {
    wakeAt(draft, endMs);
    return false;
  }
  const isRollback = service.updateStatus?.state === "rollback_started";
  setStatus(
    draft,
    service,
    isRollback ? "rollback_completed" : "completed",
    isRollback ? "rollback completed" : "update completed",
  );
  return true;
}

function setStatus(draft: PlanDraft, service: Service, state: UpdateState, message: string): void {
  const hasEnded = state === "completed" || state === "rollback_completed";
  const startedAtMs =
    state === "updating" ? draft.nowMs : (service.updateStatus?.startedAtMs ?? draft.nowMs);
  updateService(draft, service, {
    updateStatus: {
      state,
      startedAtMs,
      ...(hasEnded ? { completedAtMs: draft.nowMs } : {}),
      message,
    },
  });
}
