import { planAllocation } from "./allocator/allocate.ts";
import { planDetachment } from "./allocator/attachments.ts";
import { planRootRotation } from "./ca/root-rotation.ts";
import { planConstraintEnforcement } from "./orchestrator/constraint-enforcer.ts";
import { planGlobal } from "./orchestrator/global.ts";
import { planJobs } from "./orchestrator/jobs.ts";
import { planReaping } from "./orchestrator/reaper.ts";
import { planReplicated } from "./orchestrator/replicated.ts";
import { planScheduledRuns } from "./orchestrator/scheduled-runs.ts";
import { planStackReaping } from "./orchestrator/stack-reaper.ts";
import type { Planner } from "./plan.ts";
import { planSchedule } from "./scheduler/schedule.ts";

/**
 * All planners, in running order. Where two change one task in one round, the earlier one wins:
 * forgetting first, then what takes tasks away from nodes, then what makes and places them.
 */
export const PLANNERS: readonly Planner[] = [
  planReaping,
  planConstraintEnforcement,
  planReplicated,
  planGlobal,
  planScheduledRuns,
  planJobs,
  planAllocation,
  planSchedule,
  planDetachment,
  planStackReaping,
  planRootRotation,
];
