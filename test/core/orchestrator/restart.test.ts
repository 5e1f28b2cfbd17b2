import { describe, expect, test } from "bun:test";
import type { RestartPolicy, TaskState } from "../../../core/objects/task.ts";
import { mayRestart } from "../../../core/orchestrator/restart.ts";
import { PLANNERS } from "../../../core/planners.ts";
import {
  aCluster,
  aNode,
  anAgent,
  aService,
  aState,
  aTask,
  runToQuiet,
  setNodeState,
  START_MS,
} from "../../fixtures/cluster.ts";

const SECOND = 1e9;
const planners = PLANNERS;

/** How many tasks one slot saw within `forMs` when each ends so as it would run. */
function attempts(restart: RestartPolicy, end: TaskState, forMs: number, historyLimit = 5): number {
  const cluster = aState({
    cluster: aCluster({
      spec: { ...aCluster().spec, Orchestration: { TaskHistoryRetentionLimit: historyLimit } },
    }),
    nodes: [aNode({ id: "n1" })],
    services: [aService("web", { replicas: 1, restart })],
  });
  const seen = new Set<string>();
  runToQuiet(cluster, {
    planners,
    agent: anAgent(() => end),
    untilMs: START_MS + forMs,
    onRound: (view) => {
      for (const task of view.tasks()) if (task.status.state === end) seen.add(task.id);
    },
  });
  return seen.size;
}

describe("planSlotRestart()", () => {
  test("waits 5 s by default, and Delay when given", () => {
    expect(attempts({}, "failed", 4_900)).toBe(1);
    expect(attempts({}, "failed", 5_100)).toBe(2);
    expect(attempts({ Delay: 20 * SECOND }, "failed", 19_900)).toBe(1);
    expect(attempts({ Delay: 20 * SECOND }, "failed", 20_100)).toBe(2);
  });

  test("follows the condition", () => {
    expect(attempts({ Condition: "none" }, "failed", 60_000)).toBe(1);
    expect(attempts({ Condition: "on-failure" }, "complete", 60_000)).toBe(1);
    expect(attempts({ Condition: "on-failure" }, "failed", 11_000)).toBe(3);
    expect(attempts({ Condition: "any" }, "complete", 11_000)).toBe(3);
  });

  for (const historyLimit of [0, 1, 5]) {
    test(`gives up after MaxAttempts with a history of ${historyLimit}`, () => {
      expect(attempts({ MaxAttempts: 3 }, "failed", 600_000, historyLimit)).toBe(4);
      expect(attempts({ Condition: "on-failure" }, "complete", 600_000, historyLimit)).toBe(1);
    });
  }

  test("counts attempts within Window only", () => {
    const restart = { MaxAttempts: 2, Delay: 10 * SECOND, Window: 15 * SECOND };
    expect(attempts(restart, "failed", 100_000)).toBe(10);
    expect(attempts({ ...restart, Window: 60 * SECOND }, "failed", 100_000)).toBe(3);
  });

  test("a restarted task is held until its time and prepared meanwhile", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" })],
      services: [aService("web", { replicas: 1 })],
    });
    runToQuiet(cluster, {
      planners,
      agent: anAgent(() => "failed"),
      untilMs: START_MS + 3_000,
    });
    const held = cluster.view.tasks().find((task) => task.desiredState === "ready");
    expect(held?.status.state).toBe("ready");
    expect(held?.startAfterMs).toBeGreaterThanOrEqual(START_MS + 5_000);
  });

  test("a task that is rejected while held is replaced only after its delay", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" })],
      services: [aService("web", { replicas: 1 })],
    });
    const obedient = anAgent();
    const seen = new Set<string>();
    runToQuiet(cluster, {
      planners,
      agent: (task, nowMs) =>
        task.status.state === "assigned"
          ? { state: "rejected", atMs: nowMs, message: "" }
          : obedient(task, nowMs),
      untilMs: START_MS + 60_000,
      onRound: (view) => {
        for (const task of view.tasks()) seen.add(task.id);
      },
    });
    // At the start, and then each 5 s.
    expect(seen.size).toBe(13);
  });

  test("a lost node uses up no attempts", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
      services: [aService("web", { replicas: 1, restart: { MaxAttempts: 1 } })],
    });
    let nowMs = runToQuiet(cluster, { planners });
    for (let round = 0; round < 4; round += 1) {
      const nodeId = cluster.view.tasks().find((task) => task.desiredState === "running")?.nodeId;
      setNodeState(cluster, nodeId ?? "", "down", nowMs);
      nowMs = runToQuiet(cluster, { planners, nowMs });
      setNodeState(cluster, nodeId ?? "", "ready", nowMs);
      nowMs = runToQuiet(cluster, { planners, nowMs });
    }
    const running = cluster.view.tasks().filter((task) => task.desiredState === "running");
    expect(running.map((task) => task.status.state)).toEqual(["running"]);
  });
});

describe("mayRestart()", () => {
  const service = aService("web", { replicas: 1 });
  const dead = (id: string, atMs: number, specVersion = 1) =>
    aTask(service, { id, state: "failed", atMs, specVersion });

  test("counts deaths of the same spec version only", () => {
    const last = dead("c", 3_000, 2);
    const history = [dead("a", 1_000), dead("b", 2_000), last];
    expect(mayRestart({ MaxAttempts: 1 }, last, history)).toBe(true);
    expect(mayRestart({ MaxAttempts: 1 }, dead("c", 3_000), history)).toBe(false);
  });

  test("a task stopped on a manager's wish may be made again unless the condition is none", () => {
    const stopped = aTask(service, { state: "shutdown" });
    expect(mayRestart({ Condition: "on-failure" }, stopped, [stopped])).toBe(true);
    expect(mayRestart({ Condition: "none" }, stopped, [stopped])).toBe(false);
  });
});
