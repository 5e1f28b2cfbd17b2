import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { Observed, ObservedContainer } from "../../../agent/reconciler/observed.ts";
import {
  NETWORK_LINGER_MS,
  planNetworks,
  planTasks,
  type PlanInput,
} from "../../../agent/reconciler/plan.ts";
import type { Attempt, EngineStep, TaskRecord } from "../../../agent/reconciler/task-step.ts";
import {
  type DesiredState,
  isTaskDead,
  type Task,
  TASK_STATE_ORDER,
} from "../../../core/objects/task.ts";
import { aContainer, aNetwork, aTask } from "./wanted.ts";

const network = aNetwork("neta", { name: "alpha" });
const networks = new Map([[network.id, network]]);
const attached = { networks: [{ networkId: "neta", address: "10.77.1.9", aliases: [] }] };

function planInput(set: Partial<PlanInput> = {}): PlanInput {
  return {
    tasks: new Map(),
    networks,
    records: new Map(),
    attempts: new Map(),
    busyTaskIds: new Set(),
    attachedNetworkIds: new Set(),
    observed: { containers: new Map(), networks: new Map() },
    dockerNetworkName: (network) => network.spec.Name,
    nowMs: 1_000,
    ...set,
  };
}

/** What may happen between two plans, drawn by fast-check. */
type Happening =
  | { type: "desire"; task: number; desired: DesiredState }
  | { type: "exit"; task: number; exitCode: number }
  | { type: "vanish"; task: number }
  | { type: "health"; task: number; health: "healthy" | "unhealthy" }
  | { type: "unassign"; task: number }
  | { type: "agent-restart" }
  | { type: "settle"; fails: number };

const taskIndex = fc.nat({ max: 2 });
const desired = fc.constantFrom<DesiredState>("ready", "running", "complete", "shutdown", "remove");
const happening: fc.Arbitrary<Happening> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant("settle"), fails: fc.nat({ max: 31 }) }) },
  fc.record({ type: fc.constant("desire"), task: taskIndex, desired }),
  fc.record({ type: fc.constant("exit"), task: taskIndex, exitCode: fc.constantFrom(0, 1, 137) }),
  fc.record({ type: fc.constant("vanish"), task: taskIndex }),
  fc.record({
    type: fc.constant("health"),
    task: taskIndex,
    health: fc.constantFrom("healthy", "unhealthy"),
  }),
  fc.record({ type: fc.constant("unassign"), task: taskIndex }),
  fc.record({ type: fc.constant("agent-restart") }),
);

/** A node with an engine in memory; counts what must not happen twice. */
function modelNode(hasHealthcheck: boolean) {
  const ids = ["a", "b", "c"];
  const tasks = new Map<string, Task>(ids.map((id) => [id, aTask(id, attached)]));
  const records = new Map<string, TaskRecord>();
  const attempts = new Map<string, Attempt>();
  const containers = new Map<string, ObservedContainer>();
  const counts = new Map<string, number>();
  let nowMs = 1_000;
  let nextContainer = 1;
  const count = (key: string) => counts.set(key, (counts.get(key) ?? 0) + 1);

  const execute = (step: EngineStep, fails: boolean) => {
    const container = containers.get(step.taskId);
    if (fails) {
      const isFatal = step.type === "prepare" || step.type === "start";
      const last = attempts.get(step.taskId);
      attempts.set(step.taskId, {
        step: step.type,
        message: "no",
        isFatal,
        isEngineAway: false,
        count: (last?.count ?? 0) + 1,
        firstAtMs: nowMs,
        atMs: nowMs,
      });
      return;
    }
    attempts.delete(step.taskId);
    if (step.type === "prepare") {
      count(`create ${step.taskId}`);
      containers.set(
        step.taskId,
        aContainer({
          id: `c${nextContainer++}`,
          taskId: step.taskId,
          state: "created",
          ...(hasHealthcheck ? { health: "starting" } : {}),
        }),
      );
    } else if (step.type === "start" && container) {
      count(`start ${container.id}`);
      containers.set(step.taskId, { ...container, state: "running" });
    } else if (step.type === "stop" && container) {
      containers.set(step.taskId, {
        ...container,
        state: "exited",
        exitCode: 137,
        finishedAtMs: nowMs,
        ...(hasHealthcheck ? { health: "unhealthy" } : {}),
      });
    } else if (step.type === "remove") {
      expect(tasks.has(step.taskId)).toBe(false);
      expect(container?.state).not.toBe("running");
      containers.delete(step.taskId);
    }
  };

  /** Plans and acts until the plan is empty; `fails` says by bits which engine steps fail. */
  const settle = (failBits: number) => {
    let bits = failBits;
    for (let round = 0; round < 100; round++) {
      const observed: Observed = { containers: new Map(containers), networks: new Map() };
      const input = planInput({ tasks, records, attempts, observed, nowMs });
      const plan = planTasks(input);
      const again = planTasks({
        ...input,
        busyTaskIds: new Set(plan.steps.map((step) => step.taskId)),
      });
      expect(again.steps).toEqual([]);
      if (plan.steps.length === 0) {
        if (plan.wakeAtMs === undefined) return;
        nowMs = plan.wakeAtMs;
        continue;
      }
      for (const step of plan.steps) {
        if (step.type === "report") {
          const before = records.get(step.taskId)?.status.state ?? "assigned";
          const after = step.record.status.state;
          expect(TASK_STATE_ORDER[after]).toBeGreaterThanOrEqual(TASK_STATE_ORDER[before]);
          if (isTaskDead(before)) expect(after).toBe(before);
          records.set(step.taskId, step.record);
        } else if (step.type === "forget") {
          records.delete(step.taskId);
        } else {
          execute(step, (bits & 1) === 1);
          bits >>= 1;
        }
      }
    }
    throw new Error("The plan does not come to rest");
  };

  const happen = (what: Happening) => {
    if (what.type === "settle") settle(what.fails);
    if (what.type === "agent-restart") attempts.clear();
    if (!("task" in what)) return;
    const id = ids[what.task] ?? "";
    const task = tasks.get(id);
    const container = containers.get(id);
    if (what.type === "desire" && task) tasks.set(id, { ...task, desiredState: what.desired });
    if (what.type === "unassign") tasks.delete(id);
    if (what.type === "vanish") containers.delete(id);
    if (what.type === "exit" && container?.state === "running") {
      containers.set(id, { ...container, state: "exited", exitCode: what.exitCode });
    }
    if (what.type === "health" && container?.state === "running" && hasHealthcheck) {
      containers.set(id, { ...container, health: what.health });
    }
  };
  return { tasks, records, containers, counts, happen, settle };
}

describe("planTasks()", () => {
  test("comes to rest after anything, moves states forward only, creates and starts once", () => {
    fc.assert(
      fc.property(fc.array(happening, { maxLength: 30 }), fc.boolean(), (happenings, health) => {
        const node = modelNode(health);
        for (const what of happenings) node.happen(what);
        node.settle(0);
        for (const [key, value] of node.counts) expect([key, value]).toEqual([key, 1]);
        for (const [id, container] of node.containers) {
          const task = node.tasks.get(id);
          const state = node.records.get(id)?.status.state;
          // Only tasks have containers, and only living, wanted ones have running containers.
          expect(task).toBeDefined();
          if (container.state === "running") {
            expect(["starting", "running"]).toContain(state ?? "");
            expect(["shutdown", "remove"]).not.toContain(task?.desiredState ?? "");
          }
        }
        for (const id of node.records.keys()) expect(node.tasks.has(id)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("leaves tasks with a step under way alone", () => {
    const tasks = new Map([["a", aTask("a")]]);
    expect(planTasks(planInput({ tasks, busyTaskIds: new Set(["a"]) })).steps).toEqual([]);
  });
});

describe("planNetworks()", () => {
  const present = new Map([["neta", { dockerId: "d1", name: "alpha", networkId: "neta" }]]);
  const idle = (lastUsedMs: number, nowMs: number) =>
    planNetworks({
      ...planInput({ nowMs, observed: { containers: new Map(), networks: present } }),
      lastUsedMs: new Map([["neta", lastUsedMs]]),
    });

  test("makes what a living task needs and lacks", () => {
    const tasks = new Map([["a", aTask("a", attached)]]);
    const plan = planNetworks({ ...planInput({ tasks }), lastUsedMs: new Map() });
    expect(plan.create).toEqual([network]);
  });

  test("makes nothing for a dead or unwanted task", () => {
    for (const set of [
      { status: { state: "failed", atMs: 1, message: "" } },
      { desiredState: "shutdown" },
    ] as Partial<Task>[]) {
      const tasks = new Map([["a", aTask("a", { ...attached, ...set })]]);
      const plan = planNetworks({ ...planInput({ tasks }), lastUsedMs: new Map() });
      expect(plan.create).toEqual([]);
    }
  });

  test("drops an unused one only after its time", () => {
    expect(idle(1_000, 1_000 + NETWORK_LINGER_MS - 1)).toMatchObject({
      remove: [],
      wakeAtMs: 1_000 + NETWORK_LINGER_MS,
    });
    expect(idle(1_000, 1_000 + NETWORK_LINGER_MS).remove).toEqual(["neta"]);
  });

  test("drops one at once whose name a new network waits for, and makes that afterwards", () => {
    const tasks = new Map([["a", aTask("a", attached)]]);
    const old = { dockerId: "d9", name: network.spec.Name, networkId: "gone" };
    const plan = planNetworks({
      ...planInput({
        tasks,
        nowMs: 1_000,
        observed: { containers: new Map(), networks: new Map([["gone", old]]) },
      }),
      lastUsedMs: new Map([["gone", 1_000]]),
    });
    expect([plan.remove, plan.create]).toEqual([["gone"], []]);
  });

  test("drops one at once whose subnet a new network has, and makes that afterwards", () => {
    const tasks = new Map([["a", aTask("a", attached)]]);
    const old = { dockerId: "d9", name: "before", networkId: "gone" };
    const planned = (subnet: string) =>
      planNetworks({
        ...planInput({
          tasks,
          nowMs: 1_000,
          observed: {
            containers: new Map(),
            networks: new Map([["gone", { ...old, subnets: [subnet] }]]),
          },
        }),
        lastUsedMs: new Map([["gone", 1_000]]),
      });
    const inTheWay = planned(network.subnet ?? "");
    expect([inTheWay.remove, inTheWay.create]).toEqual([["gone"], []]);
    const elsewhere = planned("192.168.5.0/24");
    expect([elsewhere.remove, elsewhere.create]).toEqual([[], [network]]);
  });

  test("drops one of a local driver as soon as it is unused", () => {
    const local = new Map([
      ["netm", { dockerId: "d2", name: "mv", networkId: "netm", isLocal: true as const }],
    ]);
    const plan = planNetworks({
      ...planInput({ nowMs: 1_000, observed: { containers: new Map(), networks: local } }),
      lastUsedMs: new Map([["netm", 1_000]]),
    });
    expect(plan.remove).toEqual(["netm"]);
  });

  test("keeps one while a container of an unwanted task is on it", () => {
    const containers = new Map([["gone", aContainer({ taskId: "gone" })]]);
    const plan = planNetworks({
      ...planInput({ nowMs: 1_000_000, observed: { containers, networks: present } }),
      lastUsedMs: new Map([["neta", 0]]),
    });
    expect(plan.remove).toEqual([]);
  });
});
