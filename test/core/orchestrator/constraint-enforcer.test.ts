import { expect, test } from "bun:test";
import { PLANNERS } from "../../../core/planners.ts";
import {
  aNode,
  anAgent,
  aService,
  aState,
  runningTasks,
  runToQuiet,
  set,
} from "../../fixtures/cluster.ts";

test("planConstraintEnforcement() stops a task whose node lost its label, and it runs elsewhere", () => {
  const service = aService("web", {
    replicas: 1,
    placement: { Constraints: ["node.labels.disk == ssd"] },
  });
  const cluster = aState({
    nodes: [aNode({ id: "n1", labels: { disk: "ssd" } }), aNode({ id: "n2" })],
    services: [service],
  });
  const nowMs = runToQuiet(cluster, { planners: PLANNERS });
  const relabel = (id: string, Labels: Record<string, string>) =>
    set(cluster, "node", id, { spec: { Labels, Role: "worker", Availability: "active" } }, nowMs);
  relabel("n1", {});
  relabel("n2", { disk: "ssd" });
  const obedient = anAgent();
  const errs: string[] = [];
  runToQuiet(cluster, {
    planners: PLANNERS,
    nowMs,
    agent: (task, atMs) => {
      if (task.status.err) errs.push(task.status.err);
      return obedient(task, atMs);
    },
    onRound: (view) => {
      expect(runningTasks(view, "web").length).toBeLessThanOrEqual(1);
    },
  });
  expect(runningTasks(cluster.view, "web").map((task) => task.nodeId)).toEqual(["n2"]);
  expect(errs).toContain("assigned node no longer meets constraints");
});

test("planConstraintEnforcement() leaves tasks of paused nodes alone", () => {
  const service = aService("web", {
    replicas: 1,
    placement: { Constraints: ["node.labels.disk == ssd"] },
  });
  const cluster = aState({
    nodes: [aNode({ id: "n1", labels: { disk: "ssd" } })],
    services: [service],
  });
  const nowMs = runToQuiet(cluster, { planners: PLANNERS });
  const spec = { Labels: {}, Role: "worker", Availability: "pause" } as const;
  set(cluster, "node", "n1", { spec }, nowMs);
  runToQuiet(cluster, { planners: PLANNERS, nowMs });
  expect(runningTasks(cluster.view, "web").length).toBe(1);
});
