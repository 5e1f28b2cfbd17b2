/**
 * The order in which a task that serves goes: out of every node's table → acknowledged by the nodes →
 * drain time → told to stop. So a client is never sent to a task that is stopping, and connections that
 * are being answered get the time to end.
 *
 * 1. A withdrawal begins when a task that is balanced is wanted no more. Until its end its node is told
 *    the task as it was (`isHeld`), while its endpoint, which all nodes have, is not ready any more.
 * 2. It ends when every session that was told the endpoint has acknowledged that, or ACK_WAIT_MS after
 *    its begin, and its drain time has passed; at once when the task is dead, gone, or its service is.
 * 3. In the memory of the leader only. A new one knows of no acknowledgements: it waits ACK_WAIT_MS for
 *    the tasks that it finds leaving. A node that was told to stop before does not go back on it.
 *
 * Pure: time is passed in.
 */
import type { TaskId } from "../ids.ts";
import type { Labels } from "../objects/object-meta.ts";
import type { Task } from "../objects/task.ts";
import type { ClusterView } from "../store/view.ts";

/**
 * A node that does not answer for so long is not waited for. Usual are 50 to 150 ms, seconds on a host
 * that is overloaded; a dead node's session ends before (4 s by default).
 */
export const ACK_WAIT_MS = 5_000;
/**
 * From the last acknowledgement to the stop, for connections that are just being opened or answered.
 * Longer by a label of the service.
 */
export const DRAIN_MS = 300;
/**
 * The same for services that are found by their tasks' addresses (`--endpoint-mode dnsrr`): who looked the
 * name up keeps an address for as long as the answer allowed (net/dns, LIST_TTL_S).
 */
export const DRAIN_MS_DNSRR = 3_300;
export const DRAIN_LABEL = "shoal.drain";
export const DRAIN_MS_MAX = 3_600_000;

type Withdrawal = {
  /** Generation that each session must have applied. */
  waiting: Map<string, number>;
  drainMs: number;
  ackDueMs: number;
  /** Known once nothing is waited for any more. */
  stopAtMs: number | undefined;
};
export type Withdrawals = Map<TaskId, Withdrawal>;

/** Whether the task's node is still to be told that the task shall run. */
export function isHeld(withdrawals: Withdrawals, taskId: TaskId): boolean {
  return withdrawals.has(taskId);
}

/** True when a withdrawal begins: the task may be balanced still, is wanted no more, and has none yet. */
export function beginWithdrawal(
  withdrawals: Withdrawals,
  view: ClusterView,
  task: Task,
  nowMs: number,
): boolean {
  if (withdrawals.has(task.id) || !isLeaving(view, task)) return false;
  withdrawals.set(task.id, {
    waiting: new Map(),
    drainMs: drainMsOf(task.serviceLabels) ?? usualDrainMs(view, task),
    ackDueMs: nowMs + ACK_WAIT_MS,
    stopAtMs: undefined,
  });
  return true;
}

function usualDrainMs(view: ClusterView, task: Task): number {
  const isByName = view.service(task.serviceId)?.endpoint?.mode === "dnsrr";
  return isByName ? DRAIN_MS_DNSRR : DRAIN_MS;
}

/** The session was sent that the tasks are out with this generation. */
export function awaitSession(
  withdrawals: Withdrawals,
  taskIds: readonly TaskId[],
  session: { sessionId: string; generation: number },
): void {
  for (const id of taskIds) {
    withdrawals.get(id)?.waiting.set(session.sessionId, session.generation);
  }
}

/** The session's node has applied all up to this generation; a session that has ended, everything. */
export function acknowledgeWithdrawals(
  withdrawals: Withdrawals,
  session: { sessionId: string; generation: number },
): void {
  for (const { waiting } of withdrawals.values()) {
    const wanted = waiting.get(session.sessionId);
    if (wanted !== undefined && wanted <= session.generation) waiting.delete(session.sessionId);
  }
}

/** Ends what is over; gives the tasks whose nodes are to be told now, and when to look again. */
export function endWithdrawals(
  withdrawals: Withdrawals,
  view: ClusterView,
  nowMs: number,
): { ended: Task[]; wakeAtMs: number | undefined } {
  const ended: Task[] = [];
  let wakeAtMs: number | undefined;
  for (const [id, withdrawal] of withdrawals) {
    const task = view.task(id);
    if (withdrawal.waiting.size === 0 || nowMs >= withdrawal.ackDueMs) {
      withdrawal.stopAtMs ??= nowMs + withdrawal.drainMs;
    }
    const dueMs = withdrawal.stopAtMs ?? withdrawal.ackDueMs;
    if (task && isLeaving(view, task) && nowMs < dueMs) {
      wakeAtMs = Math.min(dueMs, wakeAtMs ?? dueMs);
      continue;
    }
    withdrawals.delete(id);
    if (task) ended.push(task);
  }
  return { ended, wakeAtMs };
}

/** Serves still, as far as is known, and shall not. Without its service nobody finds it any more. */
function isLeaving(view: ClusterView, task: Task): boolean {
  const isWanted = task.desiredState !== "shutdown" && task.desiredState !== "remove";
  if (isWanted || task.status.state !== "running" || !view.service(task.serviceId)) return false;
  return task.networks?.some(({ address }) => address !== undefined) ?? false;
}

/**
 * The drain time that the label says, in ms: a number with unit (`0s`, `1500ms`, `2m`, `1h`).
 * Undefined without the label, or when it says no time up to DRAIN_MS_MAX.
 */
export function drainMsOf(labels: Labels | undefined): number | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)$/.exec(labels?.[DRAIN_LABEL] ?? "");
  if (!match) return undefined;
  const [, count = "", unit = ""] = match;
  const ms = Math.round(Number(count) * (UNIT_MS.get(unit) ?? Number.NaN));
  return ms <= DRAIN_MS_MAX ? ms : undefined;
}

/** Why the label cannot be read, for the user who writes it; `undefined` when it can or is absent. */
export function drainProblem(labels: Labels | undefined): string | undefined {
  const text = labels?.[DRAIN_LABEL];
  if (text === undefined || drainMsOf(labels) !== undefined) return undefined;
  return `label ${DRAIN_LABEL}: "${text}" is no duration of at most 1h: use one such as 500ms, 10s or 2m`;
}

const UNIT_MS = new Map([
  ["ms", 1],
  ["s", 1_000],
  ["m", 60_000],
  ["h", 3_600_000],
]);
