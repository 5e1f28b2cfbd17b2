/**
 * Stops tasks whose node no longer satisfies the constraints they were placed by (a label was
 * removed, a role changed). The orchestrators then see a slot without a wanted task and replace it.
 *
 * The constraints are those of the task, not of the service: a changed service is the rolling
 * update's affair. Paused and drained nodes are left alone. Source: SwarmKit
 * manager/orchestrator/constraintenforcer. Different: the state is not set to `rejected`, since the
 * container still runs and so its address must not be free; the reason stands in `status.err`.
 */
import { isTaskDead, taskStateAtLeast } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import { matchesConstraints } from "../scheduler/constraint.ts";
import { closeDraft, openDraft, updateTask } from "./plan-draft.ts";
import { isWanted } from "./slot.ts";

export const planConstraintEnforcement: Planner = (input) => {
  const draft = openDraft(input);
  for (const node of input.view.nodes()) {
    if (node.spec.Availability !== "active") continue;
    const verdicts = new Map<string, boolean>();
    for (const task of input.view.tasksByNode(node.id)) {
      const constraints = task.spec.Placement?.Constraints ?? [];
      if (constraints.length === 0 || !isWanted(task)) continue;
      const { state } = task.status;
      if (isTaskDead(state) || !taskStateAtLeast(state, "assigned")) continue;
      const key = constraints.join("\n");
      const isMatch = verdicts.get(key) ?? matchesConstraints(constraints, node);
      verdicts.set(key, isMatch);
      if (isMatch) continue;
      updateTask(draft, task, {
        desiredState: "shutdown",
        status: {
          ...task.status,
          message: "task rejected by constraint enforcer",
          err: "assigned node no longer meets constraints",
        },
      });
    }
  }
  return closeDraft(draft);
};
