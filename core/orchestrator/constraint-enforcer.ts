/**
 * Stops tasks whose node no longer satisfies what they were placed by: a constraint (a label was
 * removed, a role changed), a reservation (the node came back with less memory, without a device), or an
 * encrypted network (it came back with a kernel that cannot).
 * The orchestrators then see a slot without a wanted task and replace it. Of tasks that do not all
 * fit any more the older ones stay.
 *
 * Constraints and reservations are those of the task, not of the service: a changed service is the
 * rolling update's affair. Paused and drained nodes are left alone. Source: SwarmKit
 * manager/orchestrator/constraintenforcer. Different: the state is not set to `rejected`, since the
 * container still runs and so its address must not be free; the reason stands in `status.err`.
 */
import { isEncrypted } from "../objects/network.ts";
import type { NodeObject } from "../objects/node.ts";
import { isTaskDead, type Task, taskStateAtLeast } from "../objects/task.ts";
import type { PlanInput, Planner } from "../plan.ts";
import { matchesConstraints } from "../scheduler/constraint.ts";
import { capacityOf, namesOf, reservationsOf } from "../scheduler/node-info.ts";
import { closeDraft, openDraft, updateTask } from "./plan-draft.ts";
import { compareTasks, isWanted } from "./slot.ts";

export const planConstraintEnforcement: Planner = (input) => {
  const draft = openDraft(input);
  for (const node of input.view.nodes()) {
    if (node.spec.Availability !== "active") continue;
    const verdicts = new Map<string, boolean>();
    const ended: Task[] = [];
    const cutOff: Task[] = [];
    const lack = node.encryption?.lack;
    const reserving: Task[] = [];
    for (const task of input.view.tasksByNode(node.id)) {
      if (lack !== undefined && isPlaced(task) && isOnEncrypted(input.view, task)) {
        cutOff.push(task);
        continue;
      }
      const constraints = task.spec.Placement?.Constraints ?? [];
      const isReserving = task.spec.Resources?.Reservations !== undefined;
      if ((constraints.length === 0 && !isReserving) || !isPlaced(task)) continue;
      const key = constraints.join("\n");
      const isMatch = verdicts.get(key) ?? matchesConstraints(constraints, node);
      verdicts.set(key, isMatch);
      if (!isMatch) ended.push(task);
      else if (isReserving) reserving.push(task);
    }
    ended.push(...withoutRoom(node, reserving));
    const stop = (task: Task, err: string) =>
      updateTask(draft, task, {
        desiredState: "shutdown",
        status: { ...task.status, message: "task rejected by constraint enforcer", err },
      });
    for (const task of ended) stop(task, "assigned node no longer meets constraints");
    for (const task of cutOff) stop(task, `assigned node can no longer encrypt: ${lack}`);
  }
  return closeDraft(draft);
};

function isOnEncrypted(view: PlanInput["view"], task: Task): boolean {
  return (task.networks ?? []).some(({ networkId }) => {
    const network = view.network(networkId);
    return network !== undefined && isEncrypted(network);
  });
}

function isPlaced(task: Task): boolean {
  const { state } = task.status;
  return isWanted(task) && !isTaskDead(state) && taskStateAtLeast(state, "assigned");
}

/** Tasks whose reservations the node no longer has. O(n log n). */
function withoutRoom(node: NodeObject, reserving: Task[]): Task[] {
  if (reserving.length === 0) return [];
  const free = new Map(capacityOf(node));
  // A node has both, always: 0 is a description that does not tell.
  for (const kind of ["nanoCpus", "memoryBytes"]) if (free.get(kind) === 0) free.delete(kind);
  const names = namesOf(node);
  return reserving.sort(compareTasks).filter((task) => {
    const hasLostName = (task.genericResources ?? []).some((resource) => {
      if (!("NamedResourceSpec" in resource)) return false;
      const { Kind, Value } = resource.NamedResourceSpec;
      return !names.get(Kind)?.includes(Value);
    });
    const wish = [...reservationsOf(task.spec)];
    const isKnown = (kind: string) => free.has(kind) || kind.startsWith("generic/");
    const isShort = wish.some(([kind, amount]) => isKnown(kind) && (free.get(kind) ?? 0) < amount);
    if (hasLostName || isShort) return true;
    for (const [kind, amount] of wish) {
      const rest = free.get(kind);
      if (rest !== undefined) free.set(kind, rest - amount);
    }
    return false;
  });
}
