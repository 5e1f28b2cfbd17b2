import type { UnixMs } from "./ids.ts";
import type { Random } from "./random.ts";
import type { StoreAction } from "./store/action.ts";
import type { ClusterView } from "./store/view.ts";

/** Why something wanted was not done; reaches the user through the task's `status.err` or the log. */
export type Reason = { objectId: string; message: string };

/**
 * What a planner returns. Planning again after applying its own plan, at the same time, gives no
 * actions. `wakeAtMs` takes the place of a timer: the earliest time at which the plan may change
 * although the view does not.
 */
export type Plan = { actions: StoreAction[]; wakeAtMs?: UnixMs; reasons: Reason[] };

/** Planners schedule nothing and remember nothing; `random` gives ids for new objects. */
export type PlanInput = { view: ClusterView; nowMs: UnixMs; random: Random };
export type Planner = (input: PlanInput) => Plan;
