/**
 * Gives pending tasks a node.
 *
 * Tasks of one service version are placed together: the filters run once per node, then each task
 * goes to the best node that is left (spread.ts). Those of a service that waits for others get none
 * yet (start-order.ts). A task whose node is given (global services) is
 * only checked; so is the home of a stateful service's slot, where its room is kept free of others
 * (kept-room.ts). What cannot be placed stays pending with
 * the reason in `status.err`, written only when it changed. There is no rebalancing: a running task
 * never moves because of this planner.
 *
 * Cost: O(groups × nodes) filters + O(tasks × nodes) comparisons.
 * Source: SwarmKit manager/scheduler/scheduler.go.
 */
import type { Task } from "../objects/task.ts";
import { closeDraft, openDraft, type PlanDraft, updateTask } from "../orchestrator/plan-draft.ts";
import { compareTasks, isWanted } from "../orchestrator/slot.ts";
import { waitOf } from "../orchestrator/start-order.ts";
import { homeOf } from "../orchestrator/stateful.ts";
import type { Planner } from "../plan.ts";
import { explain, type Filter, failedFilter, type Wish, wishOf } from "./filters.ts";
import { explainHome } from "./home.ts";
import { observeRoom, openKeptRoom } from "./kept-room.ts";
import { failureKey, type NodeInfo, occupy, takeGenericResources } from "./node-info.ts";
import { buildTree, type Candidate, choose, place } from "./spread.ts";

const PENDING_MESSAGE = "pending task scheduling";

export const planSchedule: Planner = (input) => {
  const draft = openDraft(input);
  const pending = input.view
    .tasks()
    .filter((task) => task.status.state === "pending" && isWanted(task))
    .sort(compareTasks);
  if (pending.length === 0) return closeDraft(draft);

  const infos = observeRoom(input.view, input.nowMs);
  const groups = new Map<string, Task[]>();
  const waits = new Map<string, string | undefined>();
  for (const task of pending) {
    const service = input.view.service(task.serviceId);
    if (service && !waits.has(service.id)) {
      waits.set(service.id, waitOf(input.view, service)?.message);
    }
    const wait = waits.get(task.serviceId);
    if (wait !== undefined) {
      refuse(draft, task, wait);
      continue;
    }
    if (task.nodeId !== undefined) {
      confirmNode(draft, task, infos.get(task.nodeId));
      continue;
    }
    const homeId = service && homeOf(input.view, service, task.slot, input.nowMs);
    const home = homeId === undefined ? undefined : infos.get(homeId);
    if (home) {
      placeAtHome(draft, task, home);
      continue;
    }
    const key = failureKey(task.serviceId, task.specVersion);
    const group = groups.get(key);
    if (group) group.push(task);
    else groups.set(key, [task]);
  }
  for (const group of groups.values()) placeGroup(draft, group, [...infos.values()]);
  return closeDraft(draft);
};

function confirmNode(draft: PlanDraft, task: Task, info: NodeInfo | undefined): void {
  const failed = info === undefined ? undefined : failedFilter(wishOf(task, draft.view), info);
  if (info === undefined || failed !== undefined) {
    refuse(draft, task, explain(new Map(failed ? [[failed, 1]] : [])));
    return;
  }
  assign(draft, task, info, "scheduler confirmed task can run on preassigned node");
}

function placeAtHome(draft: PlanDraft, task: Task, home: NodeInfo): void {
  const keepAgain = openKeptRoom(home, task);
  const failed = failedFilter(wishOf(task, draft.view), home);
  if (!failed) return assign(draft, task, home, "scheduler assigned task to the home of its slot");
  keepAgain();
  refuse(draft, task, explainHome(task, home.node, failed));
}

function placeGroup(draft: PlanDraft, group: readonly Task[], infos: readonly NodeInfo[]): void {
  const [first] = group;
  if (first === undefined) return;
  const wish = wishOf(first, draft.view);
  const key = failureKey(first.serviceId, first.specVersion);
  const descriptors = (first.spec.Placement?.Preferences ?? []).map(
    (preference) => preference.Spread.SpreadDescriptor,
  );
  const tree = buildTree(
    descriptors,
    infos.map((info) => ({
      candidate: candidateOf(info, wish, key),
      isSuitable: !failedFilter(wish, info),
    })),
  );
  let refusal: string | undefined;
  for (const task of group) {
    const chosen = choose(tree);
    if (chosen === undefined) {
      refusal ??= explain(countFailures(wish, infos));
      refuse(draft, task, refusal);
      continue;
    }
    assign(draft, task, chosen.info, "scheduler assigned task to node");
    place(tree, descriptors, chosen, failedFilter(wish, chosen.info) === undefined);
  }
}

function candidateOf(info: NodeInfo, wish: Wish, key: string): Candidate {
  return {
    info,
    failureCount: info.failures.get(key) ?? 0,
    serviceCount: info.countByService.get(wish.serviceId) ?? 0,
  };
}

function countFailures(wish: Wish, infos: readonly NodeInfo[]): Map<Filter, number> {
  const counts = new Map<Filter, number>();
  for (const info of infos) {
    const filter = failedFilter(wish, info);
    if (filter) counts.set(filter, (counts.get(filter) ?? 0) + 1);
  }
  return counts;
}

function assign(draft: PlanDraft, task: Task, info: NodeInfo, message: string): void {
  const genericResources = takeGenericResources(info, task);
  const given = genericResources.length > 0 ? { genericResources } : {};
  occupy(info, { ...task, ...given });
  updateTask(draft, task, {
    nodeId: info.node.id,
    ...given,
    status: { state: "assigned", atMs: draft.nowMs, message },
  });
}

function refuse(draft: PlanDraft, task: Task, err: string): void {
  draft.reasons.push({ objectId: task.id, message: err });
  if (task.status.err === err) return;
  updateTask(draft, task, {
    status: { state: "pending", atMs: draft.nowMs, message: PENDING_MESSAGE, err },
  });
}
