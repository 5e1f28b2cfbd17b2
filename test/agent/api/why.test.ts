import { expect, test } from "bun:test";
import { whyReport } from "../../../agent/api/why.ts";
import { renderWhy } from "../../../agent/cli/why.ts";
import type { Task } from "../../../core/objects/task.ts";
import { aNode, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

const nodes = [aNode({ id: "n1" }), aNode({ id: "n2" })];
const web = aService("web", {
  replicas: 4,
  placement: { Constraints: ["node.labels.zone==a"] },
});
const failed = (id: string, atMs: number): Task =>
  aTask(web, {
    id,
    slot: 2,
    nodeId: "n1",
    desiredState: "shutdown",
    state: "failed",
    err: "task: non-zero exit (3)",
    atMs,
  });
const wait = { state: "pending", err: "no suitable node (…)" } as const;
const tasks = [
  aTask(web, { id: "runs", slot: 1, nodeId: "n1" }),
  failed("old", START_MS - 60_000),
  failed("new", START_MS - 10_000),
  aTask(web, {
    id: "next",
    slot: 2,
    nodeId: "n1",
    desiredState: "ready",
    state: "ready",
    startAfterMs: START_MS + 4_000,
  }),
  aTask(web, { id: "wait1", slot: 3, ...wait }),
  aTask(web, { id: "wait2", slot: 4, ...wait }),
];
const { view } = aState({ nodes, services: [web, aService("none", { replicas: 0 })], tasks });
const report = (ref: string) => whyReport(view, ref, START_MS);

test("a service's report counts, groups what waits, and has the failures, newest first", () => {
  const found = report("web");
  expect(found.summary).toBe(
    "1 of 4 tasks of web run, 2 wait for a node, 1 are being started, 2 have failed lately",
  );
  expect(found.notes).toEqual(["web.2.next starts in 4 s: the restart delay of the service"]);
  expect(found.pending).toHaveLength(1);
  expect(found.pending[0]?.tasks).toEqual(["web.3.wait1", "web.4.wait2"]);
  expect(found.pending[0]?.nodes.map((node) => node.hostname)).toEqual(["host-n1", "host-n2"]);
  expect(found.underWay.map((one) => one.task)).toEqual(["web.2.next"]);
  expect(found.failures.map((one) => [one.task, one.node, one.error])).toEqual([
    ["web.2.new", "host-n1", "task: non-zero exit (3)"],
    ["web.2.old", "host-n1", "task: non-zero exit (3)"],
  ]);
});

test("a stateful service's report tells for which slot the next one waits", () => {
  const spec = aService("db", { replicas: 3 });
  const db = { ...spec, spec: { ...spec.spec, Labels: { "shoal.stateful": "true" } } };
  const first = aTask(db, { id: "one", slot: 1, nodeId: "n1", state: "preparing" });
  const state = aState({ nodes, services: [db], tasks: [first] });
  expect(whyReport(state.view, "db", START_MS).notes).toEqual([
    "Slot 2 is made when all slots below it run: label shoal.stateful.order=parallel makes them at once",
  ]);
});

test("a service that waits for another one says so, and looks for no node", () => {
  const web = aService("web", { replicas: 1, labels: { "shoal.depends-on": "db:healthy" } });
  const db = aService("db", { replicas: 2 });
  const tasks = [
    aTask(web, { state: "pending", err: "of before" }),
    aTask(db, { slot: 1, nodeId: "n1" }),
    aTask(db, { slot: 2, nodeId: "n1", state: "starting" }),
  ];
  const { view } = aState({ nodes, services: [web, db], tasks });
  expect(whyReport(view, "web", START_MS).pending).toEqual([
    {
      tasks: ["web.1.web-1"],
      reason: "waits for db to be healthy: 1 of 2 tasks run",
      nodes: [],
    },
  ]);
});

test("a task's report is of its slot, and names what has its place now", () => {
  const found = report("web.2.old");
  expect(found).toMatchObject({ kind: "task", id: "old", name: "web.2.old" });
  expect(found.summary).toContain(
    "is failed on host-n1: task: non-zero exit (3). Its place has web.2.next",
  );
  expect(found.failures).toHaveLength(2);
  expect(found.pending).toEqual([]);
  expect(report("wait1").pending[0]?.tasks).toEqual(["web.3.wait1"]);
});

test("of a global service it says which nodes get no task, and why", () => {
  const all = aService("all", { placement: { Constraints: ["node.labels.zone==a"] } });
  all.spec.Mode = { Global: {} };
  const state = aState({
    nodes: [aNode({ id: "n1", labels: { zone: "a" } }), aNode({ id: "n2" })],
    services: [all],
    tasks: [aTask(all, { id: "here", slot: 0, nodeId: "n1" })],
  });
  const found = whyReport(state.view, "all", START_MS);
  expect(found.summary).toBe("1 of 1 tasks of all run");
  expect(found.pending[0]?.nodes.map((node) => node.hostname)).toEqual(["host-n2"]);
  expect(renderWhy(found, START_MS)).toContain("all: 1 node has no task of it");
});

test("no replicas and unknown names are said", () => {
  expect(report("none").notes).toEqual(["0 replicas are wanted: docker service scale none=1"]);
  expect(() => report("nobody")).toThrow('There is no service and no task "nobody"');
});

test("the text has the tables and the nearest fix", () => {
  const text = renderWhy(report("web"), START_MS);
  const line = (start: string) => text.split("\n").find((one) => one.startsWith(start));
  expect(line("web.3.wait1")).toBe("web.3.wait1, web.4.wait2: no suitable node (…)");
  expect(line("host-n2")).toMatch(
    /^host-n2 +constraint +node\.labels\.zone==a: it has none +docker node update --label-add zone=a host-n2$/,
  );
  expect(line("Nearest")).toBe(
    "Nearest is host-n1: docker node update --label-add zone=a host-n1.",
  );
  expect(line("web.2.new")).toMatch(/host-n1 +failed +10 s ago +task: non-zero exit \(3\)$/);
});
