import type { Plan, Planner, PlanInput } from "./plan.ts";
import type { StoreAction } from "./store/action.ts";

/**
 * One round of planning: every planner, in the given order, over the same view. What one plans the
 * next sees in the next round, after it was committed; two that change one object meet in `apply`,
 * which drops the later action by its version. `wakeAtMs` is the earliest of all.
 */
export function planAll(planners: readonly Planner[], input: PlanInput): Plan {
  const actions: StoreAction[] = [];
  const plan: Plan = { actions, reasons: [] };
  for (const planner of planners) {
    const part = planner(input);
    // Not `push(...list)`: a plan for 100,000 tasks does not fit on the call stack.
    for (const action of part.actions) actions.push(action);
    for (const reason of part.reasons) plan.reasons.push(reason);
    if (part.wakeAtMs !== undefined) {
      plan.wakeAtMs = Math.min(plan.wakeAtMs ?? part.wakeAtMs, part.wakeAtMs);
    }
  }
  return plan;
}
