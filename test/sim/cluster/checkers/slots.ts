/**
 * What holds of the tasks of a slot (a number, or a node for global services) when one is let run:
 *
 * 1. No other task of the slot is wanted running where it may run; with start-first updates, none of the
 *    same spec but on a node that was drained.
 * 2. The one before has stopped, its node was lost since, or it had 60 s to stop; except beside the old
 *    one in a start-first update.
 * 3. After a task died by itself, its successor of the same spec has waited for the restart delay.
 *
 * Of stateful services an end is waited for without a limit, and wherever the node is, unless it was removed.
 *
 * The simulator's services keep the order of their updates for life, and say it by a label.
 */
import { STATEFUL_LABEL } from "../../../../core/objects/stateful.ts";
import type { Task } from "../../../../core/objects/task.ts";
import type { Report } from "../../checkers/report.ts";
import type { History, Step } from "../history.ts";
import { isDead, isPlaced } from "./task-rules.ts";

/** Label of a service whose updates start the new task first. */
export const START_FIRST_LABEL = "sim.start-first";
/** Time that a task has to stop, before its successor is let run all the same. */
const STOP_MS_MAX = 60_000;
const RESTART_DELAY_NS_DEFAULT = 5e9;

type Facts = {
  createdAtIndex: number;
  createdAtMs: number;
  placedAtIndex: number | undefined;
  /** When it was seen to have died by itself while it was wanted. */
  diedAtMs: number | undefined;
};

export function slotRules(options: {
  report: Report;
  /** How far two wall clocks may be apart, jumps included, and how fast they drift apart. */
  clockSkewMsMax: number;
  clockDrift: number;
}): { step(step: Step): void } {
  const { report, clockSkewMsMax, clockDrift } = options;
  const bySlot = new Map<string, Set<string>>();
  const facts = new Map<string, Facts>();
  /** Where a node was last down, drained or gone. */
  const lostAtIndex = new Map<string, number>();

  const wasLostSince = (nodeId: string | undefined, index: number) =>
    (lostAtIndex.get(nodeId ?? "") ?? 0) >= index;

  const learn = (task: Task, before: Task | undefined, step: Step): Facts => {
    const { index, atMs } = step.entry;
    const known = facts.get(task.id) ?? {
      createdAtIndex: index,
      createdAtMs: atMs,
      placedAtIndex: undefined,
      diedAtMs: undefined,
    };
    facts.set(task.id, known);
    if (isPlaced(task)) known.placedAtIndex ??= index;
    const isOwnDeath = ["failed", "rejected", "complete"].includes(task.status.state);
    const wasWanted = ["ready", "running"].includes(before?.desiredState ?? "");
    if (isOwnDeath && wasWanted && before && !isDead(before)) known.diedAtMs = atMs;
    return known;
  };

  const checkOthers = (task: Task, others: readonly Task[], history: History, where: string) => {
    const isStartFirst = task.serviceLabels[START_FIRST_LABEL] !== undefined;
    const mayRun = (other: Task) => !isDead(other) && !isNodeDown(history, other.nodeId);
    const wanted = others.filter((other) => other.desiredState === "running" && mayRun(other));
    // Updates that follow each other closely may leave several beside it, but of other specs; of the
    // same spec only one whose node was drained, or is again active.
    const mayStay = (other: Task) =>
      other.specVersion !== task.specVersion ||
      wasLostSince(other.nodeId, facts.get(other.id)?.placedAtIndex ?? 0);
    const rivals = isStartFirst ? wanted.filter((other) => !mayStay(other)) : wanted;
    if (rivals.length > 0) {
      report("slots", `${where} although ${rivals.map(({ id }) => id).join(", ")} is wanted too`);
    }
    if (isStartFirst) return;
    if (task.serviceLabels[STATEFUL_LABEL] !== undefined) {
      for (const other of others) {
        if (!isPlaced(other) || !history.nodes.has(other.nodeId ?? "")) continue;
        report("slots", `${where} (stateful) while ${other.id} is ${other.status.state}`);
      }
      return;
    }
    const isOverdue = task.createdAtMs + STOP_MS_MAX - 2 * clockSkewMsMax <= task.updatedAtMs;
    for (const other of others) {
      const placedAtIndex = facts.get(other.id)?.placedAtIndex;
      if (!isPlaced(other) || placedAtIndex === undefined || isOverdue) continue;
      // Its end is not waited for, also when its node has come back meanwhile.
      if (isNodeDown(history, other.nodeId) || wasLostSince(other.nodeId, placedAtIndex)) continue;
      report("slots", `${where} while ${other.id} is ${other.status.state} on ${other.nodeId}`);
    }
  };

  const checkDelay = (task: Task, others: readonly Task[], nowMs: number, where: string) => {
    const own = facts.get(task.id);
    const earlier = others
      .map((other) => ({ other, facts: facts.get(other.id) }))
      .filter((item) => (item.facts?.createdAtIndex ?? 0) < (own?.createdAtIndex ?? 0))
      .sort((a, b) => (b.facts?.createdAtIndex ?? 0) - (a.facts?.createdAtIndex ?? 0));
    const previous = earlier[0];
    const diedAtMs = previous?.facts?.diedAtMs;
    if (!own || !previous || diedAtMs === undefined || diedAtMs > own.createdAtMs) return;
    const { other } = previous;
    if (other.specVersion !== task.specVersion || other.desiredState === "remove") return;
    if (wasLostSince(other.nodeId, previous.facts?.placedAtIndex ?? 0)) return;
    const delayMs = (task.spec.RestartPolicy?.Delay ?? RESTART_DELAY_NS_DEFAULT) / 1e6;
    const toleranceMs = 100 + 2 * clockSkewMsMax + 4 * clockDrift * (delayMs + nowMs);
    if (nowMs - diedAtMs < delayMs - toleranceMs) {
      const passedMs = (nowMs - diedAtMs).toFixed(0);
      report("slots", `${where} ${passedMs} ms after ${other.id} died, delay is ${delayMs} ms`);
    }
  };

  return {
    step: (step) => {
      const { change, entry, history } = step;
      if (change.table === "node") {
        const isLost =
          change.kind === "remove" ||
          change.object.status.state === "down" ||
          change.object.spec.Availability === "drain";
        if (isLost) lostAtIndex.set(change.id, entry.index);
        return;
      }
      if (change.table !== "task") return;
      const task = change.object;
      const key = slotOf(task);
      const ids = bySlot.get(key) ?? new Set();
      bySlot.set(key, ids);
      if (change.kind === "remove") {
        ids.delete(task.id);
        return;
      }
      ids.add(task.id);
      const before = step.before as Task | undefined; // of the same table
      learn(task, before, step);
      if (task.desiredState !== "running" || before?.desiredState === "running") return;
      const others = [...ids]
        .filter((id) => id !== task.id)
        .map((id) => history.tasks.get(id))
        .filter((other) => other !== undefined);
      const where = `task ${task.id} of slot ${key} is let run at ${entry.index}`;
      checkOthers(task, others, history, where);
      checkDelay(task, others, entry.atMs, where);
    },
  };
}

function slotOf(task: Task): string {
  return `${task.serviceId}/${task.slot > 0 ? task.slot : (task.nodeId ?? "")}`;
}

function isNodeDown(history: History, nodeId: string | undefined): boolean {
  const node = history.nodes.get(nodeId ?? "");
  return !node || node.status.state === "down";
}
