import { assert } from "../assert.ts";
import type { ServiceId, TaskId, UnixMs } from "../ids.ts";
import type { Service } from "../objects/service.ts";
import type { Task } from "../objects/task.ts";
import type { Plan, PlanInput, Reason } from "../plan.ts";
import type { StoreAction, UpdateAction } from "../store/action.ts";

/** A plan while it is being made. */
export type PlanDraft = PlanInput & {
  actions: StoreAction[];
  reasons: Reason[];
  wakeAtMs: UnixMs | undefined;
  /** Tasks whose desired state this plan sets to `shutdown` or `remove`. */
  endedIds: Set<TaskId>;
  /** What this plan changes of services. */
  serviceUpdates: Map<ServiceId, UpdateAction>;
};

/** An empty plan over what the planner is given. */
export function openDraft(input: PlanInput): PlanDraft {
  return {
    ...input,
    actions: [],
    reasons: [],
    wakeAtMs: undefined,
    endedIds: new Set(),
    serviceUpdates: new Map(),
  };
}

export function closeDraft(draft: PlanDraft): Plan {
  const { actions, reasons, wakeAtMs } = draft;
  return { actions, reasons, ...(wakeAtMs === undefined ? {} : { wakeAtMs }) };
}

/** Asks to be planned again at `atMs`, which lies in the future; the earliest wish wins. */
export function wakeAt(draft: PlanDraft, atMs: UnixMs): void {
  assert(atMs > draft.nowMs, `Wake time ${atMs} is not after ${draft.nowMs}`);
  draft.wakeAtMs = Math.min(draft.wakeAtMs ?? atMs, atMs);
}

type TaskSet = Partial<Omit<Task, "id" | "version" | "createdAtMs" | "updatedAtMs">>;

/**
 * Changes a task as it was seen: dropped by apply when it has changed since. But for its end alone: that
 * holds whatever its node has reported meanwhile, and a successor may be in the same plan, which would
 * otherwise stand beside it.
 */
export function updateTask(draft: PlanDraft, task: Task, set: TaskSet, unset?: string[]): void {
  const isEnd = set.desiredState === "shutdown" || set.desiredState === "remove";
  if (isEnd) draft.endedIds.add(task.id);
  const isEndOnly = isEnd && Object.keys(set).length === 1;
  draft.actions.push({
    type: "update",
    table: "task",
    id: task.id,
    ...(isEndOnly ? {} : { ifVersion: task.version }),
    set,
    ...(unset && unset.length > 0 ? { unset } : {}),
  });
}

type ServiceSet = Partial<Omit<Service, "id" | "version" | "createdAtMs" | "updatedAtMs">>;

/**
 * Changes a service as it was seen: dropped by apply when it has changed since. All changes of one plan
 * are one action, or the first would make the others late.
 */
export function updateService(
  draft: PlanDraft,
  service: Service,
  set: ServiceSet,
  unset?: string[],
): void {
  const planned = draft.serviceUpdates.get(service.id);
  if (planned) {
    Object.assign(planned.set, set);
    if (unset) planned.unset = [...(planned.unset ?? []), ...unset];
    return;
  }
  const action: UpdateAction = {
    type: "update",
    table: "service",
    id: service.id,
    ifVersion: service.version,
    set: { ...set },
    ...(unset && unset.length > 0 ? { unset } : {}),
  };
  draft.serviceUpdates.set(service.id, action);
  draft.actions.push(action);
}

/** The service with the changes of this plan so far. */
export function plannedService(draft: PlanDraft, service: Service): Service {
  const planned = draft.serviceUpdates.get(service.id);
  return planned?.table === "service" ? { ...service, ...planned.set } : service;
}
