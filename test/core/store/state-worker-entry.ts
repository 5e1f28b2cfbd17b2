/** A state worker with a planner of the test's own: one task for each service, started after a delay. */
import { newId } from "../../../core/ids.ts";
import type { Plan, Planner } from "../../../core/plan.ts";
import { startStateWorker } from "../../../core/store/worker.ts";
import { create, taskDraft, taskStatus } from "./objects.ts";

export const START_DELAY_MS = 150;

const planOneTask: Planner = ({ view, nowMs, random }) => {
  const plan: Plan = { actions: [], reasons: [] };
  for (const service of view.services()) {
    const [task] = view.tasksByService(service.id);
    if (!task) {
      const startAfterMs = nowMs + START_DELAY_MS;
      const draft = taskDraft(newId(random), service.id, {
        nodeId: "n1",
        desiredState: "ready",
        status: taskStatus("assigned"),
        startAfterMs,
      });
      plan.actions.push(create("task", draft));
    } else if (task.desiredState === "ready" && task.startAfterMs !== undefined) {
      if (nowMs < task.startAfterMs) plan.wakeAtMs = task.startAfterMs;
      else {
        plan.actions.push({
          type: "update",
          table: "task",
          id: task.id,
          ifVersion: task.version,
          set: { desiredState: "running" },
        });
      }
    }
  }
  return plan;
};

// Imported for the constant by the test, run as an entry by its worker.
if (!Bun.isMainThread) startStateWorker([planOneTask]);
