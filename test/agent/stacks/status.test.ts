import { expect, test } from "bun:test";
import { stackStatus } from "../../../agent/stacks/status.ts";
import type { Service } from "../../../core/objects/service.ts";
import { STACK_LABEL, type Stack } from "../../../core/objects/stack.ts";
import type { Task } from "../../../core/objects/task.ts";
import {
  aNode,
  aService,
  aState,
  aTask,
  type ServiceWish,
  START_MS,
} from "../../fixtures/cluster.ts";

const META = { version: 1, createdAtMs: START_MS, updatedAtMs: START_MS };
const inStack = (name: string, wish: ServiceWish) =>
  aService(name, { ...wish, labels: { [STACK_LABEL]: "s" } });

function statusOf(services: Service[], tasks: Task[]) {
  const { view } = aState({ nodes: [aNode({ id: "n1" })], services, tasks });
  const none = { networks: [], secrets: [], configs: [] };
  const model = { services: services.map(({ spec }) => spec), ...none, externals: none };
  const revision = { number: 1, atMs: START_MS, files: [], model, images: {} };
  const stack: Stack = { ...META, id: "stack", spec: { Name: "s" }, revisions: [revision] };
  return stackStatus(view, stack);
}

const job = inStack("job", {
  job: { total: 1, max: 1 },
  restart: { Condition: "on-failure", MaxAttempts: 1 },
});
const run = (id: string, state: Task["status"]["state"], isWanted = false) =>
  aTask(job, {
    id,
    state,
    nodeId: "n1",
    jobIteration: 0,
    desiredState: isWanted ? "complete" : "shutdown",
    ...(state === "failed" ? { err: "task: non-zero exit (1)" } : {}),
  });

test.each([
  ["that runs is starting", [run("a", "running", true)], "starting", undefined],
  [
    "that is tried again is starting",
    [run("a", "failed"), run("b", "ready", true)],
    "starting",
    "task: non-zero exit (1)",
  ],
  [
    "that has failed and is not tried again has failed",
    [run("a", "failed"), run("b", "failed")],
    "failed",
    "task: non-zero exit (1)",
  ],
  [
    "that completed in the end has completed",
    [run("a", "failed"), run("b", "complete")],
    "completed",
    undefined,
  ],
] as const)("a job %s", (_what, tasks, state, reason) => {
  const status = statusOf([job], [...tasks]);
  expect(status.state).toBe(state);
  expect(status.services[0]?.reason).toBe(reason);
});

test("an update that waits for another service says for which", () => {
  const web = inStack("web", { replicas: 1 });
  const message = "update waits for job to complete";
  const updateStatus = { state: "updating", startedAtMs: START_MS, message } as const;
  const status = statusOf([{ ...web, updateStatus }], [aTask(web, { nodeId: "n1" })]);
  expect(status).toMatchObject({ state: "updating", services: [{ reason: message }] });
});

test("the stack is as far as its service that is furthest from running", () => {
  const web = inStack("web", { replicas: 1 });
  const tasks = [aTask(web, { nodeId: "n1" }), run("a", "failed"), run("b", "failed")];
  expect(statusOf([web, job], tasks)).toMatchObject({
    state: "failed",
    services: [{ state: "running" }, { state: "failed" }],
  });
});
