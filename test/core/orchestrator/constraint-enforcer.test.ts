import { expect, test } from "bun:test";
import { PLANNERS } from "../../../core/planners.ts";
import {
  aNode,
  aNetwork,
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

test("planConstraintEnforcement() moves the younger tasks when the node has less than they reserve", () => {
  const service = aService("web", { replicas: 4, reserve: { cpus: 2 } });
  const cluster = aState({
    nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
    services: [service],
  });
  let nowMs = runToQuiet(cluster, { planners: PLANNERS });
  const before = runningTasks(cluster.view, "web").filter((task) => task.nodeId === "n1");
  expect(before).toHaveLength(2);
  const shrinkTo = (id: string, cpus: number) => {
    const { description } = aNode({ id, cpus });
    if (description) set(cluster, "node", id, { description }, nowMs);
  };
  shrinkTo("n1", 3);
  shrinkTo("n2", 8);
  nowMs = runToQuiet(cluster, { planners: PLANNERS, nowMs });
  const left = runningTasks(cluster.view, "web").filter((task) => task.nodeId === "n1");
  expect(left.map((task) => task.id)).toEqual(
    before
      .map((task) => task.id)
      .sort()
      .slice(0, 1),
  );
  expect(runningTasks(cluster.view, "web")).toHaveLength(4);
  // A description that tells nothing moves nothing.
  shrinkTo("n1", 0);
  runToQuiet(cluster, { planners: PLANNERS, nowMs });
  expect(runningTasks(cluster.view, "web").some((task) => task.nodeId === "n1")).toBe(true);
});

test("planConstraintEnforcement() stops a task whose named resource is gone", () => {
  const service = aService("web", { replicas: 1 });
  service.spec.TaskTemplate.Resources = {
    Reservations: { GenericResources: [{ DiscreteResourceSpec: { Kind: "gpu", Value: 1 } }] },
  };
  const gpu = (Value: string) => ({ NamedResourceSpec: { Kind: "gpu", Value } });
  const cluster = aState({
    nodes: [aNode({ id: "n1", generic: [gpu("a"), gpu("b")] })],
    services: [service],
  });
  const nowMs = runToQuiet(cluster, { planners: PLANNERS });
  expect(runningTasks(cluster.view, "web")[0]?.genericResources).toEqual([gpu("a")]);
  const { description } = aNode({ id: "n1", generic: [gpu("b"), gpu("c")] });
  if (description) set(cluster, "node", "n1", { description }, nowMs);
  runToQuiet(cluster, { planners: PLANNERS, nowMs });
  expect(runningTasks(cluster.view, "web")[0]?.genericResources).toEqual([gpu("b")]);
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

test("planConstraintEnforcement() moves tasks of an encrypted network off a node that can no longer encrypt", () => {
  const net = aNetwork("net", { subnet: "10.9.0.0/24", gateway: "10.9.0.1" });
  const says = (lack?: string) => ({ generations: [], keyIds: [], ...(lack ? { lack } : {}) });
  const cluster = aState({
    nodes: ["n1", "n2"].map((id) => ({ ...aNode({ id }), encryption: says() })),
    networks: [{ ...net, spec: { ...net.spec, Options: { encrypted: "" } } }],
    services: [
      aService("web", { replicas: 2, networks: ["net"] }),
      aService("db", { replicas: 2 }),
    ],
  });
  const nowMs = runToQuiet(cluster, { planners: PLANNERS });
  const nodesOf = (name: string) =>
    runningTasks(cluster.view, name)
      .map((task) => task.nodeId ?? "")
      .sort();
  expect(nodesOf("web")).toEqual(["n1", "n2"]);
  set(cluster, "node", "n1", { encryption: says("kernel lacks ESP: load module esp4") }, nowMs);
  const obedient = anAgent();
  const errs = new Set<string>();
  runToQuiet(cluster, {
    planners: PLANNERS,
    nowMs,
    agent: (task, atMs) => {
      if (task.status.err) errs.add(task.status.err);
      return obedient(task, atMs);
    },
  });
  expect(nodesOf("web")).toEqual(["n2", "n2"]);
  expect(nodesOf("db")).toEqual(["n1", "n2"]);
  expect([...errs]).toContain(
    "assigned node can no longer encrypt: kernel lacks ESP: load module esp4",
  );
});
