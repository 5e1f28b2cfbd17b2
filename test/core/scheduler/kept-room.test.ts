import { describe, expect, test } from "bun:test";
import type { NodeObject } from "../../../core/objects/node.ts";
import type { PortConfig, Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import { PLANNERS } from "../../../core/planners.ts";
import { seededRandom } from "../../../core/random.ts";
import { observeRoom, openKeptRoom } from "../../../core/scheduler/kept-room.ts";
import { planSchedule } from "../../../core/scheduler/schedule.ts";
import { verdictsOn } from "../../../core/scheduler/why.ts";
import {
  aNode,
  aService,
  aState,
  aTask,
  runningTasks,
  runToQuiet,
  scaleTo,
  type ServiceWish,
  setAvailability,
  setNodeState,
  START_MS,
  updateSpec,
} from "../../fixtures/cluster.ts";

const LABELS = { "shoal.stateful": "true" };
const PORT: Required<Omit<PortConfig, "Name">> = {
  Protocol: "tcp",
  TargetPort: 5432,
  PublishedPort: 5432,
  PublishMode: "host",
};

/** `db`: a slot for each node id, with its home there. */
function aDatabase(homes: string[], wish: ServiceWish = {}): Service {
  const replicas = homes.length;
  const service = aService("db", { replicas, reserve: { cpus: 3 }, labels: LABELS, ...wish });
  const slots = Object.fromEntries(homes.map((nodeId, index) => [index + 1, { nodeId }]));
  return { ...service, slots };
}
const pending = (service: Service, over: Partial<Task> = {}) =>
  aTask(service, { id: `${service.id}-next`, state: "pending", ...over });

/** Where the pending tasks go, by id, or why nowhere. */
function schedule(nodes: NodeObject[], services: Service[], tasks: Task[]): Record<string, string> {
  const cluster = aState({ nodes, services, tasks });
  const input = { view: cluster.view, nowMs: START_MS, random: seededRandom(1) };
  expect(cluster.apply(planSchedule(input).actions, START_MS)).toBe(0);
  expect(planSchedule(input).actions).toEqual([]);
  const found: Record<string, string> = {};
  for (const { id, status } of tasks) {
    const now = cluster.view.task(id);
    if (status.state !== "pending") continue;
    found[id] = (now?.status.state === "assigned" ? now.nodeId : now?.status.err) ?? "";
  }
  return found;
}

describe("the room of a slot whose task is not placed", () => {
  const web = aService("web", { replicas: 1, reserve: { cpus: 2 } });
  const full = "no suitable node (insufficient resources on 1 node)";

  test("is nobody else's on its home, and the slot's own", () => {
    const n1 = aNode({ id: "n1" });
    // Nothing of the slot is there at all; then its next task, made after the other.
    expect(schedule([n1], [aDatabase(["n1"]), web], [pending(web)])).toEqual({ "web-next": full });
    const db = aDatabase(["n1"]);
    const tasks = [pending(web), pending(db, { createdAtMs: START_MS + 1 })];
    expect(schedule([n1], [db, web], tasks)).toEqual({ "web-next": full, "db-next": "n1" });
    // Elsewhere it is kept from nobody.
    expect(schedule([n1, aNode({ id: "n2" })], [db, web], tasks)["web-next"]).toBe("n2");
  });

  test("is kept from another slot of its service, and from global tasks, which are bound to the node", () => {
    const db = aDatabase(["n1", "n2"], {
      labels: { ...LABELS, "shoal.stateful.order": "parallel" },
    });
    const third = { ...db, spec: { ...db.spec, Mode: { Replicated: { Replicas: 3 } } } };
    const all = aService("all", { reserve: { cpus: 2 } });
    const nodes = [aNode({ id: "n1" }), aNode({ id: "n2" })];
    const tasks = [pending(third, { slot: 3 }), pending(all, { slot: 0, nodeId: "n1" })];
    expect(schedule(nodes, [third, all], tasks)).toEqual({
      "db-next": "no suitable node (insufficient resources on 2 nodes)",
      "all-next": full,
    });
  });

  test("of a slot that is scaled down, or is stateful no longer, is free", () => {
    const db = aDatabase(["n1"]);
    const scaled = { ...db, spec: { ...db.spec, Mode: { Replicated: { Replicas: 0 } } } };
    const plain = { ...db, spec: { ...db.spec, Labels: {} } };
    const n1 = aNode({ id: "n1" });
    for (const service of [scaled, plain]) {
      expect(schedule([n1], [service, web], [pending(web)])).toEqual({ "web-next": "n1" });
    }
  });

  test("counts once while the task before it stops there, with what the next one needs more", () => {
    const old = { ...aDatabase(["n1"], { reserve: { cpus: 2 } }) };
    const stopping = aTask(old, { id: "old", nodeId: "n1", desiredState: "shutdown" });
    const small = aService("small", { replicas: 1, reserve: { cpus: 1 } });
    const n1 = aNode({ id: "n1" });
    expect(schedule([n1], [old, small], [stopping, pending(small)])["small-next"]).toBe("n1");
    const grown = aDatabase(["n1"], { reserve: { cpus: 4 } });
    const tasks = [stopping, pending(small), pending(grown)];
    expect(schedule([n1], [grown, small], tasks)["small-next"]).toBe(full);
  });

  test("includes host ports and generic resources", () => {
    const port = aDatabase(["n1"], { reserve: {} });
    port.endpoint = { specVersion: 1, mode: "vip", ports: [PORT], virtualIps: [] };
    const taker = pending(web, { ports: [PORT] });
    expect(schedule([aNode({ id: "n1" })], [port, web], [taker])["web-next"]).toBe(
      "no suitable node (host-mode port already in use on 1 node)",
    );
    const gpu = (value: number) => [{ DiscreteResourceSpec: { Kind: "gpu", Value: value } }];
    const asking = (service: Service) => {
      service.spec.TaskTemplate.Resources = { Reservations: { GenericResources: gpu(1) } };
      return service;
    };
    const [db, other] = [asking(aDatabase(["n1"])), asking(aService("web", { replicas: 1 }))];
    const n1 = aNode({ id: "n1", generic: gpu(1) });
    expect(schedule([n1], [db, other], [pending(other)])["web-next"]).toBe(full);
  });

  test("that does not fit is kept in part, never from a slot that fits, and not on a node that is too small", () => {
    const n1 = aNode({ id: "n1" });
    const there = aTask(web, { id: "there", nodeId: "n1" });
    const one = aService("one", { replicas: 1, reserve: { cpus: 1 } });
    // 3 CPUs are wanted and 2 are free: they are the slot's once the rest is.
    expect(schedule([n1], [aDatabase(["n1"]), web, one], [there, pending(one)])["one-next"]).toBe(
      full,
    );
    const home = { 1: { nodeId: "n1" } };
    const two: Service = {
      ...aService("two", { replicas: 1, reserve: { cpus: 2 }, labels: LABELS }),
      slots: home,
    };
    const tasks = [there, pending(aDatabase(["n1"])), pending(two)];
    const found = schedule([n1], [aDatabase(["n1"]), two, web], tasks);
    expect(found["two-next"]).toBe("n1");
    expect(found["db-next"]).toContain("cannot take it now (insufficient resources on 1 node)");
    const huge = aDatabase(["n1"], { reserve: { cpus: 5 } });
    expect(schedule([n1], [huge, one], [pending(one)])["one-next"]).toBe("n1");
  });

  test("is told by shoal why, and is none of the slot's own reasons", () => {
    const db = aDatabase(["n1"]);
    db.endpoint = { specVersion: 1, mode: "vip", ports: [PORT], virtualIps: [] };
    const tasks = [pending(web, { ports: [PORT] }), pending(db)];
    const { view } = aState({ nodes: [aNode({ id: "n1" })], services: [db, web], tasks });
    const why = (id: string) =>
      verdictsOn(view, view.task(id) ?? expect.unreachable(), START_MS)[0]?.reasons.map(
        ({ text }) => text,
      );
    expect(why("web-next")).toEqual([
      "CPU: 2 reserved by the task, 1 free of 4, 3 kept for slot 1 of db",
      "port 5432/tcp of the host is slot 1 of db's",
    ]);
    expect(why("db-next")).toEqual([]);
  });
});

test("openKeptRoom() gives back what was kept, and keeps it again", () => {
  const db = aDatabase(["n1"]);
  const { view } = aState({ nodes: [aNode({ id: "n1" })], services: [db] });
  const info = observeRoom(view, START_MS).get("n1") ?? expect.unreachable();
  const free = () => info.free.get("nanoCpus");
  expect(free()).toBe(1e9);
  const keepAgain = openKeptRoom(info, { serviceId: "db", slot: 1 });
  expect([free(), info.kept.size]).toEqual([4e9, 0]);
  keepAgain();
  expect(free()).toBe(1e9);
  openKeptRoom(info, { serviceId: "other", slot: 1 })();
  expect(free()).toBe(1e9);
});

test("services that want all room there is never keep a slot from its home", () => {
  const db = aService("db", {
    replicas: 2,
    labels: LABELS,
    reserve: { cpus: 2 },
    restart: { Delay: 20e9 },
  });
  const greedy = aService("greedy", { replicas: 1, reserve: { cpus: 1 } });
  const nodes = [aNode({ id: "n1" }), aNode({ id: "n2" })];
  const cluster = aState({ nodes, services: [db, greedy] });
  // As the leader does; between a task's death and the next one's placement are rounds then.
  const options = { planners: PLANNERS, isTogether: true };
  let nowMs = runToQuiet(cluster, options);
  updateSpec(cluster, "greedy", (spec) => scaleTo(spec, 20), nowMs);
  nowMs = runToQuiet(cluster, { ...options, nowMs });
  const homes = () =>
    Object.fromEntries(runningTasks(cluster.view, "db").map(({ slot, nodeId }) => [slot, nodeId]));
  const before = homes();
  expect(runningTasks(cluster.view, "greedy").length).toBe(4);
  for (const round of [1, 2, 3]) {
    const task = runningTasks(cluster.view, "db").find(({ slot }) => slot === 1);
    if (!task?.nodeId) throw new Error(`Slot 1 does not run in round ${round}`);
    const { id, nodeId } = task;
    const status = { state: "failed" as const, atMs: nowMs, message: "" };
    // Of its own, on a home that goes away meanwhile, and on one that is emptied.
    if (round === 2) setNodeState(cluster, nodeId, "down", nowMs);
    if (round === 3) setAvailability(cluster, nodeId, "drain", nowMs);
    else cluster.apply([{ type: "task-status", id, nodeId, status }], nowMs);
    nowMs = runToQuiet(cluster, { ...options, nowMs });
    setNodeState(cluster, nodeId, "ready", nowMs);
    setAvailability(cluster, nodeId, "active", nowMs);
    nowMs = runToQuiet(cluster, { ...options, nowMs });
    expect(homes()).toEqual(before);
  }
});
