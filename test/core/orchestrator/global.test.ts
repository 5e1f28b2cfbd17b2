import { describe, expect, test } from "bun:test";
import { PLANNERS } from "../../../core/planners.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  aNode,
  anAgent,
  aService,
  aState,
  runningTasks,
  runToQuiet,
  set,
  setAvailability,
  setImage,
  setNodeState,
  updateSpec,
} from "../../fixtures/cluster.ts";

const planners = PLANNERS;
const threeNodes = () => [aNode({ id: "n1" }), aNode({ id: "n2" }), aNode({ id: "n3" })];

function nodesOf(view: ClusterView): string[] {
  return runningTasks(view, "agent")
    .map((task) => task.nodeId ?? "")
    .sort();
}

describe("planGlobal()", () => {
  test("runs one task on each ready and active node", () => {
    const cluster = aState({
      nodes: [
        ...threeNodes(),
        aNode({ id: "n4", availability: "drain" }),
        aNode({ id: "n5", availability: "pause" }),
        aNode({ id: "n6", state: "down" }),
      ],
      services: [aService("agent")],
    });
    runToQuiet(cluster, { planners });
    expect(nodesOf(cluster.view)).toEqual(["n1", "n2", "n3"]);
    expect(cluster.view.tasks().every((task) => task.slot === 0)).toBe(true);
    expect(cluster.view.tasks()[0]?.spec.ContainerSpec.Image).toBe("busybox:1");
  });

  test("follows constraints as labels come and go", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1", labels: { disk: "ssd" } }), aNode({ id: "n2" })],
      services: [aService("agent", { placement: { Constraints: ["node.labels.disk == ssd"] } })],
    });
    let nowMs = runToQuiet(cluster, { planners });
    expect(nodesOf(cluster.view)).toEqual(["n1"]);
    const label = (id: string, Labels: Record<string, string>) =>
      set(cluster, "node", id, { spec: { Labels, Role: "worker", Availability: "active" } }, nowMs);
    label("n1", {});
    label("n2", { disk: "ssd" });
    nowMs = runToQuiet(cluster, { planners, nowMs });
    expect(nodesOf(cluster.view)).toEqual(["n2"]);
    label("n1", { disk: "ssd" });
    runToQuiet(cluster, { planners, nowMs });
    expect(nodesOf(cluster.view)).toEqual(["n1", "n2"]);
  });

  test("stops its task on a down or drained node and runs a new one when it is back", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("agent")] });
    let nowMs = runToQuiet(cluster, { planners });
    setNodeState(cluster, "n1", "down", nowMs);
    setAvailability(cluster, "n2", "drain", nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    const wanted = cluster.view.tasks().filter((task) => task.desiredState === "running");
    expect(wanted.map((task) => task.nodeId)).toEqual(["n3"]);
    setNodeState(cluster, "n1", "ready", nowMs);
    setAvailability(cluster, "n2", "active", nowMs);
    runToQuiet(cluster, {
      planners,
      nowMs,
      onRound: (view) => {
        const nodes = view
          .tasks()
          .filter((task) => task.status.state === "running")
          .map((task) => task.nodeId);
        // The old task of n1 may still be told as running until its agent has stopped it.
        expect(new Set(nodes).size).toBe(nodes.length);
      },
    });
    expect(nodesOf(cluster.view)).toEqual(["n1", "n2", "n3"]);
  });

  test("leaves a paused node's task and makes no new one there", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("agent")] });
    let nowMs = runToQuiet(cluster, { planners });
    setAvailability(cluster, "n1", "pause", nowMs);
    updateSpec(cluster, "agent", (spec) => setImage(spec, "busybox:2"), nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    const onPaused = runningTasks(cluster.view, "agent").find((task) => task.nodeId === "n1");
    expect(onPaused?.spec.ContainerSpec.Image).toBe("busybox:1");
    setAvailability(cluster, "n1", "active", nowMs);
    runToQuiet(cluster, { planners, nowMs });
    const images = runningTasks(cluster.view, "agent").map((t) => t.spec.ContainerSpec.Image);
    expect(images).toEqual(["busybox:2", "busybox:2", "busybox:2"]);
  });

  test("forgets the tasks of a removed node and serves a new one", () => {
    const cluster = aState({ nodes: threeNodes(), services: [aService("agent")] });
    const nowMs = runToQuiet(cluster, { planners });
    cluster.apply(
      [
        { type: "remove", table: "node", id: "n1" },
        { type: "create", table: "node", object: aNode({ id: "n4" }) },
      ],
      nowMs,
    );
    runToQuiet(cluster, { planners, nowMs });
    expect(nodesOf(cluster.view)).toEqual(["n2", "n3", "n4"]);
    expect(cluster.view.tasks().length).toBe(3);
  });

  test("updates node by node", () => {
    const service = aService("agent", { update: { Parallelism: 1, Order: "start-first" } });
    const cluster = aState({ nodes: threeNodes(), services: [service] });
    const nowMs = runToQuiet(cluster, { planners });
    updateSpec(cluster, "agent", (spec) => setImage(spec, "busybox:2"), nowMs);
    runToQuiet(cluster, {
      planners,
      nowMs,
      onRound: (view) => {
        const count = runningTasks(view, "agent").length;
        expect(count).toBeGreaterThanOrEqual(3);
        expect(count).toBeLessThanOrEqual(4);
      },
    });
    expect(nodesOf(cluster.view)).toEqual(["n1", "n2", "n3"]);
    expect(cluster.view.service("agent")?.updateStatus?.state).toBe("completed");
  });

  test("a finished task is not made again when the policy forbids it", () => {
    const service = aService("agent", { restart: { Condition: "on-failure" } });
    const cluster = aState({ nodes: threeNodes(), services: [service] });
    runToQuiet(cluster, { planners, agent: anAgent(() => "complete") });
    expect(cluster.view.tasks().map((task) => task.status.state)).toEqual([
      "complete",
      "complete",
      "complete",
    ]);
  });
});
