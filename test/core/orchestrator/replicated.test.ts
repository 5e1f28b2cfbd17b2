import { describe, expect, test } from "bun:test";
import { planReplicated } from "../../../core/orchestrator/replicated.ts";
import { defaultClusterSpec } from "../../../core/objects/cluster.ts";
import { logDriverOf } from "../../../core/objects/task.ts";
import { PLANNERS } from "../../../core/planners.ts";
import { seededRandom } from "../../../core/random.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  aCluster,
  aNode,
  anAgent,
  aService,
  aState,
  aTask,
  liveTasks,
  runningTasks,
  runToQuiet,
  scaleTo,
  setAvailability,
  setNodeState,
  START_MS,
  stoppingIn,
  updateSpec,
} from "../../fixtures/cluster.ts";

const threeNodes = () => [aNode({ id: "n1" }), aNode({ id: "n2" }), aNode({ id: "n3" })];
const planners = PLANNERS;

function countByNode(view: ClusterView, serviceId: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { nodeId = "" } of runningTasks(view, serviceId)) {
    counts[nodeId] = (counts[nodeId] ?? 0) + 1;
  }
  return counts;
}

function slotsOfRunning(view: ClusterView, serviceId: string): number[] {
  return runningTasks(view, serviceId)
    .map((task) => task.slot)
    .sort((a, b) => a - b);
}

describe("planReplicated()", () => {
  test("creates slots 1 to 3, which run spread over 3 nodes", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    runToQuiet(cluster, { planners });
    expect(countByNode(cluster.view, "web")).toEqual({ n1: 1, n2: 1, n3: 1 });
    expect(slotsOfRunning(cluster.view, "web")).toEqual([1, 2, 3]);
  });

  test("tells new tasks the cluster's log driver where their service names none", () => {
    const services = [aService("web", { replicas: 1 }), aService("own", { replicas: 1 })];
    const own = { Name: "journald" };
    Object.assign(services[1]?.spec.TaskTemplate ?? {}, { LogDriver: own });
    const log = { Name: "json-file", Options: { "max-size": "1m" } };
    const spec = { ...defaultClusterSpec(), TaskDefaults: { LogDriver: log } };
    const cluster = aState({ cluster: aCluster({ spec }), nodes: threeNodes(), services });
    runToQuiet(cluster, { planners });
    const logOf = (service: string) =>
      cluster.view.tasksByService(service).map((task) => logDriverOf(task));
    expect([logOf("web"), logOf("own")]).toEqual([[log], [own]]);
  });

  test("scales 3 to 10 to 2 to 0 and leaves nothing over", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    let nowMs = runToQuiet(cluster, { planners });
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 10), nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    expect(slotsOfRunning(cluster.view, "web")).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(Object.values(countByNode(cluster.view, "web")).toSorted((a, b) => a - b)).toEqual([
      3, 3, 4,
    ]);
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 2), nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    expect(Object.values(countByNode(cluster.view, "web"))).toEqual([1, 1]);
    expect(cluster.view.tasks().length).toBe(2);
    expect(cluster.view.service("web")?.updateStatus).toBeUndefined();
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 0), nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasks()).toEqual([]);
  });

  test("removes slots that do not run before those on the most crowded node", () => {
    const service = aService("web", { replicas: 2 });
    const cluster = aState({
      nodes: threeNodes(),
      services: [service],
      tasks: [
        aTask(service, { slot: 1, nodeId: "n1" }),
        aTask(service, { slot: 2, nodeId: "n1" }),
        aTask(service, { slot: 3, nodeId: "n2" }),
        aTask(service, { slot: 4, nodeId: "n3", state: "starting" }),
      ],
    });
    const { actions } = planReplicated({
      view: cluster.view,
      nowMs: START_MS,
      random: seededRandom(1),
    });
    const removed = actions.map((action) => action.type === "update" && action.id);
    expect(removed).toEqual(["web-2", "web-4"]);
  });

  test("scaled to zero never creates", () => {
    const service = aService("web", { replicas: 0 });
    const cluster = aState({
      nodes: [aNode({ id: "n1", state: "down" })],
      services: [service],
      tasks: [
        aTask(service, { slot: 1, nodeId: "n1" }),
        aTask(service, { slot: 2, state: "failed" }),
      ],
    });
    const input = { view: cluster.view, nowMs: START_MS, random: seededRandom(1) };
    expect(planReplicated(input).actions.some((action) => action.type === "create")).toBe(false);
  });

  test("replaces the tasks of a down node within one plan, without delay", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    const nowMs = runToQuiet(cluster, { planners });
    setNodeState(cluster, "n2", "down", nowMs);
    const { actions } = planReplicated({ view: cluster.view, nowMs, random: seededRandom(2) });
    expect(actions.map((action) => action.type)).toEqual(["update", "create"]);
    expect(actions[1]).toMatchObject({ object: { desiredState: "running" } });
  });

  test("runs the wanted count while a node is down and after it is back", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    let nowMs = runToQuiet(cluster, { planners });
    setNodeState(cluster, "n2", "down", nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    expect(runningTasks(cluster.view, "web").length).toBe(3);
    expect(countByNode(cluster.view, "web")["n2"]).toBeUndefined();
    setNodeState(cluster, "n2", "ready", nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(runningTasks(cluster.view, "web").length).toBe(3);
    const onNode = cluster.view.tasksByNode("n2").map((task) => task.status.state);
    expect(onNode).toEqual(["shutdown"]);
  });

  test("orphans the tasks of a node that is down for a day, and forgets them with the service", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    let nowMs = runToQuiet(cluster, { planners });
    setNodeState(cluster, "n2", "down", nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasksByNode("n2")[0]?.status.state).toBe("running");
    nowMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 25 * 3_600_000 });
    expect(cluster.view.tasksByNode("n2")[0]?.status.state).toBe("orphaned");
    cluster.apply([{ type: "remove", table: "service", id: "web" }], nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasks()).toEqual([]);
  });

  test("moves tasks off a drained node, starting each after its predecessor has stopped", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    const nowMs = runToQuiet(cluster, { planners });
    setAvailability(cluster, "n1", "drain", nowMs);
    const end = runToQuiet(cluster, {
      planners,
      nowMs,
      agent: stoppingIn(3_000),
      roundMs: 100,
      onRound: (view) => expect(liveTasks(view, "web").length).toBeLessThanOrEqual(3),
    });
    expect(end - nowMs).toBeGreaterThan(3_000);
    expect(end - nowMs).toBeLessThan(5_000);
    expect(runningTasks(cluster.view, "web").length).toBe(3);
    expect(countByNode(cluster.view, "web")["n1"]).toBeUndefined();
  });

  test("does not wait longer than a minute for a predecessor that does not stop", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
      services: [aService("web", { replicas: 1 })],
    });
    let nowMs = runToQuiet(cluster, { planners });
    const nodeId = runningTasks(cluster.view, "web")[0]?.nodeId ?? "";
    setAvailability(cluster, nodeId, "drain", nowMs);
    const obedient = anAgent();
    const agent = (...[task, atMs]: Parameters<typeof obedient>) =>
      task.nodeId === nodeId ? undefined : obedient(task, atMs);
    const startMs = nowMs;
    nowMs = runToQuiet(cluster, { planners, nowMs, agent, untilMs: startMs + 59_000 });
    expect(runningTasks(cluster.view, "web").filter((task) => task.nodeId !== nodeId)).toEqual([]);
    nowMs = runToQuiet(cluster, { planners, nowMs, agent, untilMs: startMs + 61_000 });
    expect(runningTasks(cluster.view, "web").length).toBe(1);
  });

  test("stops and forgets the tasks of a removed service", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("web", { replicas: 3 })] });
    const nowMs = runToQuiet(cluster, { planners });
    cluster.apply([{ type: "remove", table: "service", id: "web" }], nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasks()).toEqual([]);
  });
});
