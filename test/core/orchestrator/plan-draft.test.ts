import { expect, test } from "bun:test";
import { openDraft, updateService, updateTask } from "../../../core/orchestrator/plan-draft.ts";
import { seededRandom } from "../../../core/random.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { applyOrThrow, create, serviceDraft, taskDraft } from "../store/objects.ts";

test("a task's end holds whatever was reported of it, every other change only as it was seen", () => {
  const view = createMemoryRows();
  applyOrThrow(view, create("service", serviceDraft("s1")), create("task", taskDraft("t1", "s1")));
  const task = view.task("t1");
  if (!task) throw new Error("no task");
  const draft = openDraft({ view, nowMs: 0, random: seededRandom(1) });
  updateTask(draft, task, { desiredState: "shutdown" });
  updateTask(draft, task, { desiredState: "running" });
  updateTask(draft, task, { desiredState: "remove", status: task.status });
  const versions = draft.actions.map((action) => "ifVersion" in action && action.ifVersion);
  expect(versions).toEqual([false, task.version, task.version]);
  expect(draft.endedIds).toEqual(new Set(["t1"]));
});

test("all changes of a service in one plan are one action", () => {
  const view = createMemoryRows();
  applyOrThrow(view, create("service", serviceDraft("s1")));
  const service = view.service("s1");
  if (!service) throw new Error("no service");
  const draft = openDraft({ view, nowMs: 0, random: seededRandom(1) });
  const slots = { 1: { nodeId: "n1" } };
  updateService(draft, service, { slots });
  const updateStatus = { state: "updating", startedAtMs: 0, message: "" } as const;
  updateService(draft, service, { updateStatus }, ["previousSpec"]);
  const { id, version } = service;
  expect(draft.actions).toEqual([
    {
      type: "update",
      table: "service",
      id,
      ifVersion: version,
      set: { slots, updateStatus },
      unset: ["previousSpec"],
    },
  ]);
});
