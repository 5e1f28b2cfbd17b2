/** /tasks. Source: Docker Engine API, tag Task; SwarmKit manager/controlapi/task.go. */
import { Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import { TASK_STATE_ORDER, type Task, taskName } from "../../core/objects/task.ts";
import { isTaskDirty } from "../../core/orchestrator/task-dirty.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { ApiContext } from "./context.ts";
import {
  type Filters,
  matchesExactly,
  matchesLabels,
  matchesPrefix,
  parseFilters,
} from "./filters.ts";
import { isTruthy } from "./go-values.ts";
import { findNode, findService, findTask } from "./lookup.ts";
import { renderTask } from "./render.ts";

const FILTERS = [
  "desired-state",
  "id",
  "label",
  "name",
  "node",
  "runtime",
  "service",
  "_up-to-date",
] as const;

export function taskRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();

  app.get("/", async (c) => {
    const given = parseFilters(c.req.query("filters"), FILTERS);
    const states = given.get("desired-state");
    // Case does not matter, as in stock.
    const filters = states
      ? new Map([...given, ["desired-state", states.map((state) => state.toLowerCase())]])
      : given;
    const unknown = states?.find((state) => !Object.hasOwn(TASK_STATE_ORDER, state.toLowerCase()));
    if (unknown !== undefined) {
      throw new ClusterError("invalid-argument", `Invalid desired-state filter: '${unknown}'`);
    }
    const tasks = await ports.read((view) =>
      selectTasks(view, filters).map((task) => renderTask(task, view)),
    );
    return c.json(tasks);
  });

  app.get("/:id", async (c) => {
    const task = await ports.read((view) => renderTask(findTask(view, c.req.param("id")), view));
    return c.json(task);
  });
  return app;
}

/** @throws {ClusterError} not-found when a filter names a service or node that is not there. */
function selectTasks(view: ClusterView, filters: Filters): readonly Task[] {
  const serviceIds = filters.get("service")?.map((ref) => findService(view, ref).id);
  const nodeIds = filters.get("node")?.map((ref) => findNode(view, ref).id);
  let tasks: readonly Task[];
  if (serviceIds) {
    const found = [...new Set(serviceIds)].flatMap((id) => view.tasksByService(id));
    tasks = found.sort((a, b) => (a.id < b.id ? -1 : 1));
  } else if (nodeIds) tasks = [...new Set(nodeIds)].flatMap((id) => view.tasksByNode(id));
  else tasks = view.tasks();
  const onlyUpToDate = (filters.get("_up-to-date") ?? []).some(isTruthy);
  return tasks.filter((task) => {
    if (nodeIds && !nodeIds.includes(task.nodeId ?? "")) return false;
    return (
      matchesPrefix(filters, "id", task.id) &&
      matchesPrefix(filters, "name", taskName(task)) &&
      matchesLabels(filters, "label", task.serviceLabels) &&
      matchesExactly(filters, "desired-state", task.desiredState) &&
      matchesExactly(filters, "runtime", task.spec.Runtime || "container") &&
      (!onlyUpToDate || isUpToDate(view, task))
    );
  });
}

function isUpToDate(view: ClusterView, task: Task): boolean {
  const service = view.service(task.serviceId);
  if (service === undefined || task.jobIteration !== service.jobStatus?.iteration) return false;
  return !isTaskDirty(view, service, task);
}
