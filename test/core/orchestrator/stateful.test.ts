import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { forgetSlot, moveSlot } from "../../../core/objects/stateful.ts";
import { isTaskDead, type Task, taskStateAtLeast } from "../../../core/objects/task.ts";
import { isWanted } from "../../../core/orchestrator/slot.ts";
import { homeOf, wantedSlots } from "../../../core/orchestrator/stateful.ts";
import { PLANNERS } from "../../../core/planners.ts";
import { moveVerdicts } from "../../../core/scheduler/why.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  type AgentModel,
  aCluster,
  aNetwork,
  aNode,
  anAgent,
  aService,
  aState,
  aTask,
  liveTasks,
  runningTasks,
  runToQuiet,
  scaleTo,
  type ServiceWish,
  set,
  setAvailability,
  setImage,
  setNodeState,
  START_MS,
  stoppingIn,
  type TestCluster,
  updateSpec,
} from "../../fixtures/cluster.ts";

const planners = PLANNERS;
const LABELS = { "shoal.stateful": "true" };
const HOUR_MS = 3_600_000;
const network = aNetwork("net", { subnet: "10.0.1.0/26", gateway: "10.0.1.1" });

/** A stateful service `db` on three nodes, running. */
function started(wish: ServiceWish = {}, nodes = ["n1", "n2", "n3"]) {
  const service = aService("db", { replicas: 3, networks: ["net"], labels: LABELS, ...wish });
  const cluster = aState({
    nodes: nodes.map((id) => aNode({ id })),
    networks: [structuredClone(network)],
    services: [service],
  });
  return { cluster, nowMs: runToQuiet(cluster, { planners }) };
}

/** `<slot>: <node> <address>` of the tasks that run and are wanted. */
function places(view: ClusterView): Record<number, string> {
  const found: Record<number, string> = {};
  for (const task of runningTasks(view, "db")) {
    found[task.slot] = `${task.nodeId} ${task.networks?.[0]?.address}`;
  }
  return found;
}

const taskIn = (view: ClusterView, slot: number): Task => {
  const task = view
    .tasksByService("db")
    .findLast((one) => one.slot === slot && one.desiredState !== "shutdown");
  if (!task) throw new Error(`Nothing is wanted in slot ${slot}`);
  return task;
};

function kill(cluster: TestCluster, slot: number, nowMs: number): void {
  const { id, nodeId = "" } = taskIn(cluster.view, slot);
  const status = { state: "failed" as const, atMs: nowMs, message: "task: non-zero exit (1)" };
  cluster.apply([{ type: "task-status", id, nodeId, status }], nowMs);
}

const scale = (cluster: TestCluster, replicas: number, nowMs: number) =>
  updateSpec(cluster, "db", (spec) => scaleTo(spec, replicas), nowMs);

test("a service that becomes stateful has its homes where it serves, whatever was tried elsewhere", () => {
  const service = aService("db", { replicas: 1, labels: LABELS });
  const { view } = aState({
    nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
    services: [service],
    tasks: [
      aTask(service, { id: "a", nodeId: "n1", createdAtMs: START_MS - 9_000 }),
      aTask(service, { id: "b", nodeId: "n2", state: "starting", createdAtMs: START_MS - 5_000 }),
    ],
  });
  expect(homeOf(view, service, 1, START_MS)).toBe("n1");
});

describe("a slot of a stateful service", () => {
  test("keeps node and address when its task dies, and over updates", () => {
    const { cluster, nowMs } = started();
    const before = places(cluster.view);
    expect(Object.keys(before)).toEqual(["1", "2", "3"]);
    kill(cluster, 2, nowMs);
    let at = runToQuiet(cluster, { planners, nowMs });
    expect(places(cluster.view)).toEqual(before);
    updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:2"), at);
    at = runToQuiet(cluster, { planners, nowMs: at, agent: stoppingIn(200), roundMs: 10 });
    expect(places(cluster.view)).toEqual(before);
    expect(cluster.view.service("db")?.updateStatus?.state).toBe("completed");
  });

  test("keeps both while it is scaled away, and history is reaped", () => {
    const { cluster, nowMs } = started();
    const before = places(cluster.view);
    scale(cluster, 1, nowMs);
    let at = runToQuiet(cluster, { planners, nowMs });
    expect(places(cluster.view)).toEqual({ 1: before[1] ?? "" });
    expect(cluster.view.tasks().length).toBe(1);
    // Others fill the nodes and take addresses meanwhile.
    const other = aService("other", { replicas: 7, networks: ["net"] });
    cluster.apply([{ type: "create", table: "service", object: other }], at);
    at = runToQuiet(cluster, { planners, nowMs: at });
    scale(cluster, 3, at);
    runToQuiet(cluster, { planners, nowMs: at });
    expect(places(cluster.view)).toEqual(before);
  });

  test("is not replaced while its node is down, however long, and serves again", () => {
    const { cluster, nowMs } = started();
    const before = cluster.view.tasks().map(({ id }) => id);
    const nodeId = taskIn(cluster.view, 2).nodeId ?? "";
    setNodeState(cluster, nodeId, "down", nowMs);
    let at = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 30 * HOUR_MS });
    expect(cluster.view.tasks().map(({ id }) => id)).toEqual(before);
    at = runToQuiet(cluster, { planners, nowMs: at + 30 * HOUR_MS });
    setNodeState(cluster, nodeId, "ready", at);
    runToQuiet(cluster, { planners, nowMs: at });
    expect(cluster.view.tasks().map(({ id }) => id)).toEqual(before);
    expect(runningTasks(cluster.view, "db").length).toBe(3);
  });

  test("gets another home once its node was down for replace-after", () => {
    const labels = { ...LABELS, "shoal.stateful.replace-after": "1h" };
    const { cluster, nowMs } = started({ labels });
    const { id, nodeId = "" } = taskIn(cluster.view, 2);
    setNodeState(cluster, nodeId, "down", nowMs);
    let at = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + HOUR_MS - 1 });
    expect(taskIn(cluster.view, 2).id).toBe(id);
    at = runToQuiet(cluster, { planners, nowMs: at, untilMs: nowMs + HOUR_MS });
    const moved = taskIn(cluster.view, 2);
    expect([moved.status.state, moved.nodeId === nodeId]).toEqual(["running", false]);
    setNodeState(cluster, nodeId, "ready", at);
    runToQuiet(cluster, { planners, nowMs: at });
    expect(taskIn(cluster.view, 2).id).toBe(moved.id);
    expect(cluster.view.service("db")?.slots?.[2]?.nodeId).toBe(moved.nodeId ?? "");
  });

  test("gets another home when its node is removed", () => {
    const { cluster, nowMs } = started();
    const { nodeId = "" } = taskIn(cluster.view, 3);
    setNodeState(cluster, nodeId, "down", nowMs);
    cluster.apply([{ type: "remove", table: "node", id: nodeId }], nowMs);
    runToQuiet(cluster, { planners, nowMs });
    const task = taskIn(cluster.view, 3);
    expect([task.status.state, task.nodeId === nodeId]).toEqual(["running", false]);
    expect(cluster.view.service("db")?.slots?.[3]?.nodeId).toBe(task.nodeId ?? "");
  });

  test.each([
    ["drain", "is drained: activate it"],
    ["pause", "is paused: activate it"],
  ] as const)("waits at its home, which is on %s, and says so", (availability, text) => {
    const { cluster, nowMs } = started();
    const before = places(cluster.view);
    const { nodeId = "" } = taskIn(cluster.view, 2);
    setAvailability(cluster, nodeId, availability, nowMs);
    if (availability === "pause") kill(cluster, 2, nowMs);
    const at = runToQuiet(cluster, { planners, nowMs });
    const { status } = taskIn(cluster.view, 2);
    expect([status.state, status.err]).toEqual([
      "pending",
      `slot 2 lives on node host-${nodeId}, which ${text}, or give the slot another home (shoal slots move db 2 --node NODE)`,
    ]);
    expect(Object.keys(places(cluster.view))).toEqual(["1", "3"]);
    setAvailability(cluster, nodeId, "active", at);
    runToQuiet(cluster, { planners, nowMs: at });
    expect(places(cluster.view)).toEqual(before);
  });

  test("says that its home has no room, and when it died on a node that is down", () => {
    const { cluster, nowMs } = started();
    const { nodeId = "" } = taskIn(cluster.view, 2);
    kill(cluster, 2, nowMs);
    setNodeState(cluster, nodeId, "down", nowMs);
    let at = runToQuiet(cluster, { planners, nowMs });
    const lives = `slot 2 lives on node host-${nodeId}, which`;
    expect(taskIn(cluster.view, 2).status.err).toContain(`${lives} is down: bring it back, or`);
    const node = cluster.view.node(nodeId);
    const status = { ...node?.status, state: "ready" as const, message: "", addr: "" };
    const labelled = { ...node?.spec, Labels: {}, Role: "worker", Availability: "active" } as const;
    set(cluster, "node", nodeId, { status, spec: labelled }, at);
    updateSpec(
      cluster,
      "db",
      (spec) => {
        spec.TaskTemplate.Placement = { Constraints: [`node.id != ${nodeId}`] };
        return spec;
      },
      at,
    );
    at = runToQuiet(cluster, { planners, nowMs: at, untilMs: at + 1_000 });
    expect(taskIn(cluster.view, 2).status.err).toContain(
      `${lives} cannot take it now (scheduling constraints not satisfied on 1 node): see shoal why db.2, or`,
    );
  });

  test("starts only when the one before it has stopped, without a limit", () => {
    const { cluster, nowMs } = started({ networks: [] });
    updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:2"), nowMs);
    let most = 0;
    runToQuiet(cluster, {
      planners,
      nowMs,
      agent: stoppingIn(300_000),
      roundMs: 5_000,
      untilMs: nowMs + 2 * HOUR_MS,
      onRound: (view) => {
        for (const slot of [1, 2, 3]) {
          const running = liveTasks(view, "db").filter((task) => task.slot === slot);
          most = Math.max(most, running.length);
        }
      },
    });
    expect(most).toBe(1);
    const images = runningTasks(cluster.view, "db").map((task) => task.spec.ContainerSpec.Image);
    expect(images).toEqual(["busybox:2", "busybox:2", "busybox:2"]);
  });

  test.each([[[]], [["net"]]])(
    "does not start beside its predecessor on a home that went down meanwhile, networks %j",
    (networks) => {
      const { cluster, nowMs } = started({ networks });
      const { nodeId = "", id } = taskIn(cluster.view, 3);
      const stubborn: AgentModel = (task, atMs) =>
        isWanted(task) ? anAgent()(task, atMs) : undefined;
      updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:2"), nowMs);
      const untilMs = nowMs + 1_000;
      runToQuiet(cluster, { planners, nowMs, agent: stubborn, untilMs });
      setNodeState(cluster, nodeId, "down", untilMs);
      const options = { planners, nowMs: untilMs, untilMs: nowMs + 30 * HOUR_MS };
      let at = runToQuiet(cluster, { ...options, agent: stubborn });
      expect(cluster.view.task(id)?.status.state).toBe("running");
      const next = taskIn(cluster.view, 3);
      expect(next.id === id || next.desiredState === "ready").toBe(true);
      setNodeState(cluster, nodeId, "ready", at);
      const live: number[] = [];
      at = runToQuiet(cluster, {
        planners,
        nowMs: at,
        agent: stoppingIn(5_000),
        roundMs: 500,
        onRound: (view) =>
          void live.push(liveTasks(view, "db").filter(({ slot }) => slot === 3).length),
      });
      expect(Math.max(...live)).toBe(1);
      expect(runningTasks(cluster.view, "db").length).toBe(3);
    },
  );

  test("moves when it is given another home, with its address", () => {
    const { cluster, nowMs } = started({}, ["n1", "n2", "n3", "n4"]);
    const address = taskIn(cluster.view, 2).networks?.[0]?.address;
    const free = ["n1", "n2", "n3", "n4"].find((id) => cluster.view.tasksByNode(id).length === 0);
    const service = cluster.view.service("db");
    if (!service || free === undefined) throw new Error("No node is free");
    set(cluster, "service", "db", { slots: moveSlot(service, 2, free) }, nowMs);
    let most = 0;
    const at = runToQuiet(cluster, {
      planners,
      nowMs,
      agent: stoppingIn(5_000),
      roundMs: 500,
      onRound: (view) => {
        most = Math.max(most, liveTasks(view, "db").filter(({ slot }) => slot === 2).length);
      },
    });
    expect([places(cluster.view)[2], most]).toEqual([`${free} ${address}`, 1]);
    // Off a node that is down it goes at once.
    setNodeState(cluster, free, "down", at);
    const now = cluster.view.service("db");
    if (now) set(cluster, "service", "db", { slots: moveSlot(now, 2, undefined) }, at);
    runToQuiet(cluster, { planners, nowMs: at });
    const moved = taskIn(cluster.view, 2);
    expect([moved.status.state, moved.nodeId === free]).toEqual(["running", false]);
    expect(cluster.view.service("db")?.slots?.[2]?.nodeId).toBe(moved.nodeId ?? "");
  });
});

describe("the order of slots", () => {
  test.each([
    [LABELS, [1, 2]],
    [{ ...LABELS, "shoal.stateful.order": "parallel" }, [1, 2, 3]],
  ])("with labels %j, while slot 2 fails there are slots %j; then all run", (labels, slots) => {
    const service = aService("db", { replicas: 3, labels });
    const cluster = aState({ nodes: ["n1", "n2"].map((id) => aNode({ id })), services: [service] });
    const failing = anAgent((task) => (task.slot === 2 ? "failed" : undefined));
    const untilMs = START_MS + 20_000;
    const nowMs = runToQuiet(cluster, { planners, agent: failing, untilMs });
    expect(new Set(cluster.view.tasks().map((task) => task.slot))).toEqual(new Set(slots));
    runToQuiet(cluster, { planners, nowMs });
    expect(runningTasks(cluster.view, "db").length).toBe(3);
  });

  test("scaled up again, slots that ran before start at once", () => {
    const { cluster, nowMs } = started();
    scale(cluster, 0, nowMs);
    const at = runToQuiet(cluster, { planners, nowMs });
    scale(cluster, 3, at);
    const { length } = PLANNERS.flatMap(
      (planner) => planner({ view: cluster.view, nowMs: at, random: cluster.random }).actions,
    ).filter(({ type }) => type === "create");
    expect(length).toBe(3);
  });

  test("scaling down removes the highest slots, whichever serve", () => {
    const { cluster, nowMs } = started({ restart: { Condition: "none" } });
    kill(cluster, 1, nowMs);
    scale(cluster, 1, nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasks().map((task) => task.slot)).toEqual([1]);
  });

  test("an update goes from the highest slot to the lowest", () => {
    const { cluster, nowMs } = started();
    updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:2"), nowMs);
    const order: number[] = [];
    const onRound = (view: ClusterView) => {
      for (const task of runningTasks(view, "db")) {
        const isNew = task.spec.ContainerSpec.Image === "busybox:2" && !order.includes(task.slot);
        if (isNew) order.push(task.slot);
      }
    };
    runToQuiet(cluster, { planners, nowMs, onRound });
    expect(order).toEqual([3, 2, 1]);
  });
});

test("a service that is stateful no longer forgets its homes; one that becomes it takes those it has", () => {
  const { cluster, nowMs } = started({ labels: {} });
  expect(cluster.view.service("db")?.slots).toBeUndefined();
  const relabel = (Labels: Record<string, string>) =>
    updateSpec(cluster, "db", (spec) => ({ ...spec, Labels }), nowMs);
  relabel(LABELS);
  let at = runToQuiet(cluster, { planners, nowMs });
  const homes = Object.values(cluster.view.service("db")?.slots ?? {}).map((slot) => slot.nodeId);
  expect(new Set(homes)).toEqual(new Set(["n1", "n2", "n3"]));
  relabel({});
  at = runToQuiet(cluster, { planners, nowMs: at });
  expect(cluster.view.service("db")?.slots).toBeUndefined();
});

describe("addresses of networks that the service has left", () => {
  const old = aNetwork("old", { subnet: "10.0.2.0/26", gateway: "10.0.2.1" });
  /** On both networks, slot 3 scaled away. */
  function scaledDown() {
    const cluster = aState({
      nodes: ["n1", "n2", "n3"].map((id) => aNode({ id })),
      networks: [structuredClone(network), structuredClone(old)],
      services: [aService("db", { replicas: 3, networks: ["net", "old"], labels: LABELS })],
    });
    let nowMs = runToQuiet(cluster, { planners });
    scale(cluster, 2, nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    return { cluster, nowMs };
  }
  const leave = (cluster: TestCluster, image: string, nowMs: number) =>
    updateSpec(
      cluster,
      "db",
      (spec) => {
        spec.TaskTemplate.Networks = [{ Target: "net" }];
        spec.UpdateConfig = { FailureAction: "rollback" };
        return setImage(spec, image);
      },
      nowMs,
    );
  const networksIn = ({ view }: TestCluster, slot: number) =>
    Object.keys(view.service("db")?.slots?.[slot]?.addresses ?? {}).sort();

  test("are released once no task has them, also of slots without a task", () => {
    const { cluster, nowMs } = scaledDown();
    expect(networksIn(cluster, 3)).toEqual(["net", "old"]);
    leave(cluster, "busybox:2", nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect([1, 2, 3].map((slot) => networksIn(cluster, slot))).toEqual([["net"], ["net"], ["net"]]);
  });

  test("are there again when the update that left them is rolled back", () => {
    const { cluster, nowMs } = scaledDown();
    const before = cluster.view.service("db")?.slots;
    leave(cluster, "busybox:bad", nowMs);
    const agent = anAgent((task) =>
      task.spec.ContainerSpec.Image === "busybox:bad" ? "failed" : undefined,
    );
    runToQuiet(cluster, { planners, nowMs, agent });
    expect(cluster.view.service("db")?.updateStatus?.state).toBe("rollback_completed");
    expect(cluster.view.service("db")?.slots).toEqual(before ?? {});
    const addresses = runningTasks(cluster.view, "db").map(({ slot, networks = [] }) => [
      slot,
      Object.fromEntries(networks.map((leg) => [leg.networkId, leg.address ?? ""])),
    ]);
    expect(Object.fromEntries(addresses)).toEqual({
      1: before?.[1]?.addresses,
      2: before?.[2]?.addresses,
    });
  });
});

describe("an update that takes the label away", () => {
  const unlabel = (
    cluster: TestCluster,
    image: string,
    nowMs: number,
    FailureAction: "rollback" | "pause" = "rollback",
  ) =>
    updateSpec(
      cluster,
      "db",
      (spec) => {
        const update = { FailureAction, Order: "start-first" as const };
        return setImage({ ...spec, Labels: {}, UpdateConfig: update }, image);
      },
      nowMs,
    );

  test("and fails has its homes and addresses again after the rollback, and nobody has them meanwhile", () => {
    const { cluster, nowMs } = started({}, ["n1", "n2", "n3", "n4"]);
    const before = places(cluster.view);
    const slots = cluster.view.service("db")?.slots;
    unlabel(cluster, "busybox:bad", nowMs);
    const agent = anAgent((task) =>
      task.spec.ContainerSpec.Image === "busybox:bad" ? "failed" : undefined,
    );
    const other = aService("other", { replicas: 5, networks: ["net"] });
    cluster.apply([{ type: "create", table: "service", object: other }], nowMs);
    runToQuiet(cluster, { planners, nowMs, agent });
    expect(cluster.view.service("db")?.updateStatus?.state).toBe("rollback_completed");
    expect(places(cluster.view)).toEqual(before);
    expect(cluster.view.service("db")?.slots).toEqual(slots ?? {});
  });

  test("and is paused keeps them for a rollback by hand", () => {
    const { cluster, nowMs } = started({}, ["n1", "n2", "n3", "n4"]);
    const before = places(cluster.view);
    const spec = cluster.view.service("db")?.spec ?? expect.unreachable();
    unlabel(cluster, "busybox:bad", nowMs, "pause");
    const agent = anAgent((task) =>
      task.spec.ContainerSpec.Image === "busybox:bad" ? "failed" : undefined,
    );
    const at = runToQuiet(cluster, { planners, nowMs, agent, untilMs: nowMs + 60_000 });
    expect(cluster.view.service("db")?.updateStatus?.state).toBe("paused");
    expect(cluster.view.service("db")?.slots).toBeDefined();
    const updateStatus = { state: "rollback_started" as const, startedAtMs: at, message: "" };
    set(cluster, "service", "db", { spec, updateStatus }, at);
    runToQuiet(cluster, { planners, nowMs: at, agent });
    expect(places(cluster.view)).toEqual(before);
  });

  test("forgets the homes when it has ended well", () => {
    const { cluster, nowMs } = started();
    unlabel(cluster, "busybox:2", nowMs);
    const states = new Set<string>();
    runToQuiet(cluster, {
      planners,
      nowMs,
      onRound: (view) => {
        const { slots, updateStatus } = view.service("db") ?? {};
        if (updateStatus) states.add(`${updateStatus.state} ${slots !== undefined}`);
      },
    });
    expect([...states]).toContain("updating true");
    expect(cluster.view.service("db")?.updateStatus?.state).toBe("completed");
    expect(cluster.view.service("db")?.slots).toBeUndefined();
  });
});

test("wantedSlots() are those that the planner keeps and makes", () => {
  const db = aService("db", { replicas: 3, labels: LABELS });
  const inSlots = (...slots: number[]) => slots.map((one) => aTask(db, { slot: one }));
  const numbers = (tasks: Task[]) => [...wantedSlots(db, tasks)].sort((a, b) => a - b);
  expect(numbers([])).toEqual([1, 2, 3]);
  expect(numbers(inSlots(2, 3, 4, 5))).toEqual([2, 3, 4]);
  expect(numbers(inSlots(4))).toEqual([1, 2, 4]);
  const leaving = inSlots(4).map((task) => ({ ...task, desiredState: "remove" as const }));
  expect(numbers([...inSlots(1), ...leaving])).toEqual([1, 2, 3]);
});

const NODES = ["n1", "n2", "n3", "n4"];
const nodeId = fc.constantFrom(...NODES);
const slot = fc.integer({ min: 1, max: 4 });
const eventArbitrary = fc.oneof(
  fc.record({ type: fc.constant("node-state" as const), nodeId, isUp: fc.boolean() }),
  fc.record({
    type: fc.constant("availability" as const),
    nodeId,
    availability: fc.constantFrom("active" as const, "pause" as const, "drain" as const),
  }),
  fc.record({ type: fc.constant("scale" as const), replicas: fc.integer({ min: 0, max: 4 }) }),
  fc.record({ type: fc.constant("image" as const), image: fc.integer({ min: 1, max: 3 }) }),
  fc.record({ type: fc.constant("kill" as const), slot }),
  fc.record({ type: fc.constant("move" as const), slot, nodeId: fc.option(nodeId) }),
  fc.record({ type: fc.constant("forget" as const), slot }),
  fc.record({ type: fc.constant("remove-node" as const), nodeId: fc.constant("n4") }),
  fc.record({ type: fc.constant("wait" as const), seconds: fc.integer({ min: 1, max: 200_000 }) }),
);
type SlotEvent = typeof eventArbitrary extends fc.Arbitrary<infer T> ? T : never;

/** What must hold at every moment, whatever came before. */
function watcher() {
  const released = new Set<string>();
  /** Left behind on nodes that were down, by a user who gave up their home: they run until it is back. */
  const abandoned = new Set<string>();
  const known = new Map<string, Task>();
  let slots: NonNullable<ReturnType<ClusterView["service"]>>["slots"];
  /** A user's change of the slots, between two rounds. */
  const look = (view: ClusterView) => {
    slots = view.service("db")?.slots;
  };
  const onRound = (view: ClusterView, nowMs: number) => {
    const service = view.service("db");
    if (!service) return;
    const mayRun = new Map<number, string[]>();
    for (const task of view.tasksByService("db")) {
      const before = known.get(task.id);
      const memory = slots?.[task.slot];
      const node = view.node(task.nodeId ?? "");
      if (task.nodeId !== undefined && before?.nodeId === undefined) {
        const isThere = memory?.nodeId !== undefined && view.node(memory.nodeId) !== undefined;
        expect(isThere ? task.nodeId : undefined).toBe(isThere ? memory.nodeId : undefined);
      }
      const address = task.networks?.[0]?.address;
      const remembered = memory?.addresses?.["net"];
      if (address !== undefined && !before?.networks && remembered !== undefined) {
        // A slot that left a down node leaves the address there too.
        const isHeld = [...known.values()].some(
          (other) =>
            other.id !== task.id &&
            view.node(other.nodeId ?? "")?.status.state === "down" &&
            other.networks?.[0]?.address === remembered,
        );
        if (!isHeld) expect(address).toBe(remembered);
      }
      if (task.desiredState === "running") released.add(task.id);
      const { state } = task.status;
      const isPlaced = taskStateAtLeast(state, "assigned") && !isTaskDead(state);
      const isHome = homeOf(view, service, task.slot, nowMs) === node?.id;
      if (node?.status.state === "down" && !isHome) abandoned.add(task.id);
      if (isPlaced && node && released.has(task.id) && !abandoned.has(task.id)) {
        mayRun.set(task.slot, [...(mayRun.get(task.slot) ?? []), task.id]);
      }
    }
    for (const [number, ids] of mayRun) expect([number, ...ids].length).toBeLessThanOrEqual(2);
    known.clear();
    for (const task of view.tasksByService("db")) known.set(task.id, task);
    look(view);
  };
  return { look, onRound };
}

test("random histories: one task a slot, at its home, with its address, and all run in the end", () => {
  fc.assert(
    fc.property(
      fc.record({
        seed: fc.integer({ min: 1, max: 1_000_000 }),
        historyLimit: fc.constantFrom(0, 1, 5),
        parallelism: fc.integer({ min: 0, max: 2 }),
        isTogether: fc.boolean(),
        stopMs: fc.constantFrom(0, 300),
        events: fc.array(eventArbitrary, { maxLength: 14 }),
      }),
      ({ seed, historyLimit, parallelism, isTogether, stopMs, events }) => {
        const clusterObject = aCluster();
        clusterObject.spec.Orchestration.TaskHistoryRetentionLimit = historyLimit;
        const update = { Parallelism: parallelism, FailureAction: "continue" as const };
        const cluster = aState({
          seed,
          cluster: clusterObject,
          nodes: NODES.map((id) => aNode({ id })),
          networks: [structuredClone(network)],
          services: [
            aService("db", { replicas: 3, networks: ["net"], labels: LABELS, update }),
            aService("other", { replicas: 3, networks: ["net"], update }),
          ],
        });
        const agent = stoppingIn(stopMs);
        const { look, onRound } = watcher();
        const options = { planners, agent, isTogether, roundMs: 100, onRound };
        let nowMs = runToQuiet(cluster, options);
        for (const event of events) {
          play(cluster, event, nowMs);
          look(cluster.view);
          const forMs = event.type === "wait" ? event.seconds * 1_000 : 250;
          const untilMs = nowMs + forMs;
          nowMs = Math.max(untilMs, runToQuiet(cluster, { ...options, nowMs, untilMs }));
        }
        for (const { id } of cluster.view.nodes()) {
          setNodeState(cluster, id, "ready", nowMs);
          setAvailability(cluster, id, "active", nowMs);
        }
        updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:good"), nowMs);
        runToQuiet(cluster, { ...options, nowMs });
        const service = cluster.view.service("db");
        const running = runningTasks(cluster.view, "db");
        expect(running.length).toBe(service?.spec.Mode.Replicated?.Replicas ?? 0);
        for (const task of running) {
          expect(task.nodeId).toBe(service?.slots?.[task.slot]?.nodeId ?? "none");
          expect(task.spec.ContainerSpec.Image).toBe("busybox:good");
        }
      },
    ),
    { numRuns: 200 },
  );
}, 60_000);

const CPUS = 4;
test("random histories on nodes that others fill: room is never given twice, and no slot loses its own", () => {
  const events = eventArbitrary.filter(({ type }) => type !== "scale" && type !== "remove-node");
  fc.assert(
    fc.property(
      fc.record({
        seed: fc.integer({ min: 1, max: 1_000_000 }),
        stopMs: fc.constantFrom(0, 300),
        events: fc.array(events, { maxLength: 14 }),
      }),
      ({ seed, stopMs, events: all }) => {
        const cluster = aState({
          seed,
          nodes: NODES.map((id) => aNode({ id, cpus: CPUS })),
          services: [
            aService("db", { replicas: 3, labels: LABELS, reserve: { cpus: 2 } }),
            aService("other", { replicas: 2, reserve: { cpus: 1 } }),
          ],
        });
        const onRound = (view: ClusterView) => {
          for (const { id } of view.nodes()) {
            let reserved = 0;
            for (const { spec, status } of view.tasksByNode(id)) {
              const { state } = status;
              if (!taskStateAtLeast(state, "assigned") || isTaskDead(state)) continue;
              reserved += (spec.Resources?.Reservations?.NanoCPUs ?? 0) / 1e9;
            }
            expect(reserved).toBeLessThanOrEqual(CPUS);
          }
        };
        const agent = stoppingIn(stopMs);
        // As the leader does; between death and placement are rounds then.
        const options = { planners, agent, isTogether: true, roundMs: 100, onRound };
        let nowMs = runToQuiet(cluster, options);
        updateSpec(cluster, "other", (spec) => scaleTo(spec, 20), nowMs);
        nowMs = runToQuiet(cluster, { ...options, nowMs });
        for (const event of all) {
          // As the API does.
          const service = cluster.view.service("db") ?? expect.unreachable();
          const isRefused =
            event.type === "move" &&
            !moveVerdicts(cluster.view, service, event.slot, nowMs).some(
              ({ nodeId: id, reasons }) => id === event.nodeId && reasons.length === 0,
            );
          if (!isRefused) play(cluster, event, nowMs);
          const untilMs = nowMs + (event.type === "wait" ? event.seconds * 1_000 : 250);
          nowMs = Math.max(untilMs, runToQuiet(cluster, { ...options, nowMs, untilMs }));
        }
        for (const { id } of cluster.view.nodes()) {
          setNodeState(cluster, id, "ready", nowMs);
          setAvailability(cluster, id, "active", nowMs);
        }
        runToQuiet(cluster, { ...options, nowMs });
        const slots = cluster.view.service("db")?.slots;
        const running = runningTasks(cluster.view, "db");
        expect(new Set(running.map((task) => task.slot))).toEqual(new Set([1, 2, 3]));
        expect(running.length).toBe(3);
        for (const task of running) expect(task.nodeId).toBe(slots?.[task.slot]?.nodeId ?? "none");
      },
    ),
    { numRuns: 150 },
  );
}, 60_000);

function play(cluster: TestCluster, event: SlotEvent, nowMs: number): void {
  const { view } = cluster;
  switch (event.type) {
    case "node-state":
      if (!view.node(event.nodeId)) return;
      return setNodeState(cluster, event.nodeId, event.isUp ? "ready" : "down", nowMs);
    case "availability":
      if (!view.node(event.nodeId)) return;
      return setAvailability(cluster, event.nodeId, event.availability, nowMs);
    case "scale":
      return scale(cluster, event.replicas, nowMs);
    case "image":
      return updateSpec(cluster, "db", (spec) => setImage(spec, `busybox:${event.image}`), nowMs);
    case "kill": {
      const task = liveTasks(view, "db").find((one) => one.slot === event.slot);
      const isSeen = view.node(task?.nodeId ?? "")?.status.state === "ready";
      if (task?.desiredState === "running" && isSeen) kill(cluster, event.slot, nowMs);
      return;
    }
    case "move": {
      const service = view.service("db");
      if (!service || (event.nodeId !== null && !view.node(event.nodeId))) return;
      const slots = moveSlot(service, event.slot, event.nodeId ?? undefined);
      return set(cluster, "service", "db", { slots }, nowMs);
    }
    case "forget": {
      // As the API does.
      const service = view.service("db") ?? expect.unreachable();
      const tasks = view.tasksByService("db");
      const isWantedSlot = wantedSlots(service, tasks).has(event.slot);
      if (isWantedSlot || tasks.some((one) => one.slot === event.slot)) return;
      return set(cluster, "service", "db", { slots: forgetSlot(service, event.slot) }, nowMs);
    }
    case "remove-node":
      if (!view.node(event.nodeId)) return;
      cluster.apply([{ type: "remove", table: "node", id: event.nodeId }], nowMs);
      return;
    case "wait":
  }
}
