import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { ServiceSpec } from "../../../core/objects/service.ts";
import {
  isTaskDead,
  type RestartPolicy,
  type Task,
  type TaskState,
  taskName,
} from "../../../core/objects/task.ts";
import { planJobs } from "../../../core/orchestrator/jobs.ts";
import { isWanted, slotKeyOf } from "../../../core/orchestrator/slot.ts";
import { PLANNERS } from "../../../core/planners.ts";
import { seededRandom } from "../../../core/random.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  type AgentModel,
  aNode,
  anAgent,
  aService,
  aState,
  aTask,
  type NodeWish,
  runToQuiet,
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
const NODES = ["n1", "n2", "n3"];
const threeNodes = () => NODES.map((id) => aNode({ id }));
const JOB = { total: 5, max: 2 };

/** Containers end by themselves, in the round after they started. */
const finishing = (end: (task: Task) => TaskState = () => "complete"): AgentModel =>
  anAgent((task) => (task.status.state === "running" ? end(task) : undefined));
const agent = finishing();
const neverEnding = anAgent();

const tasksOf = (view: ClusterView, id = "job") => view.tasksByService(id);
const idsOf = (view: ClusterView) =>
  tasksOf(view)
    .map((task) => task.id)
    .sort();
function completedSlots(view: ClusterView, id = "job"): string[] {
  return tasksOf(view, id)
    .filter((task) => task.status.state === "complete")
    .map(slotKeyOf)
    .sort();
}
const inState = (view: ClusterView, state: TaskState) =>
  tasksOf(view).filter((task) => task.status.state === state);
/** Slots in which a task is wanted that has not ended. */
function activeSlots(view: ClusterView, id = "job"): Set<string> {
  const active = tasksOf(view, id).filter((t) => isWanted(t) && !isTaskDead(t.status.state));
  return new Set(active.map(slotKeyOf));
}
const removeNode = (cluster: TestCluster, id: string, nowMs: number) =>
  cluster.apply([{ type: "remove", table: "node", id }], nowMs);
const addNode = (cluster: TestCluster, wish: NodeWish, nowMs: number) =>
  cluster.apply([{ type: "create", table: "node", object: aNode(wish) }], nowMs);
const job = (restart?: RestartPolicy, wish = {}) =>
  aService("job", { job: JOB, ...(restart ? { restart } : {}), ...wish });
const globalJob = (wish = {}) => aService("job", { job: "global", ...wish });

describe("planJobs() for replicated jobs", () => {
  test("completes each slot once, the lowest first, at most MaxConcurrent at a time", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    let mostActive = 0;
    const onRound = (view: ClusterView) => {
      mostActive = Math.max(mostActive, activeSlots(view).size);
      const slots = tasksOf(view).map(slotKeyOf);
      expect(slots.sort()).toEqual(slots.map((_, index) => String(index + 1)));
    };
    runToQuiet(cluster, { planners, agent, onRound });
    expect(mostActive).toBe(2);
    const tasks = tasksOf(cluster.view);
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
    expect(tasks.every((t) => t.desiredState === "complete" && t.jobIteration === 0)).toBe(true);
    // Users count from 0.
    const names = tasks.map((task) => taskName(task).slice(0, 5)).sort();
    expect(names).toEqual(["job.0", "job.1", "job.2", "job.3", "job.4"]);
  });

  test("runs all at once with a MaxConcurrent of 0", () => {
    const unlimited = aService("job", { job: { total: 4, max: 0 } });
    const cluster = aState({ nodes: threeNodes(), services: [unlimited] });
    runToQuiet(cluster, { planners, agent: neverEnding });
    expect(activeSlots(cluster.view).size).toBe(4);
  });

  test("replaces failed tasks after the delay, whatever `any` says of completed ones", () => {
    const Delay = 3_000_000_000;
    const cluster = aState({ nodes: threeNodes(), services: [job({ Condition: "any", Delay })] });
    const failed = new Set<number>();
    const failingOnce = finishing((task) => {
      if (failed.has(task.slot)) return "complete";
      failed.add(task.slot);
      return "failed";
    });
    const endMs = runToQuiet(cluster, { planners, agent: failingOnce });
    // Two slots at a time: three rounds of one delay each.
    expect(endMs - START_MS).toBeGreaterThanOrEqual(9_000);
    expect(endMs - START_MS).toBeLessThan(10_000);
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
    expect(inState(cluster.view, "failed").length).toBe(5);
  });

  test("leaves a slot stopped after MaxAttempts and goes on with the others", () => {
    const restart = { MaxAttempts: 2, Delay: 0 };
    const cluster = aState({ nodes: threeNodes(), services: [job(restart)] });
    const badSlot = finishing((task) => (task.slot === 2 ? "failed" : "complete"));
    let nowMs = runToQuiet(cluster, { planners, agent: badSlot });
    const seen = () => [completedSlots(cluster.view), inState(cluster.view, "failed").length];
    expect(seen()).toEqual([["1", "3", "4", "5"], 3]);
    // Nor when its node comes and goes.
    for (const id of NODES) setAvailability(cluster, id, "drain", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent: badSlot, nowMs });
    for (const id of NODES) setAvailability(cluster, id, "active", nowMs);
    runToQuiet(cluster, { planners, agent: badSlot, nowMs });
    expect(seen()).toEqual([["1", "3", "4", "5"], 3]);
  });

  test("tries each slot once with the condition none", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job({ Condition: "none" })] });
    runToQuiet(cluster, { planners, agent: finishing(() => "failed") });
    expect(inState(cluster.view, "failed").map((task) => task.slot)).toEqual(
      expect.arrayContaining([1, 2, 3, 4, 5]),
    );
    expect(tasksOf(cluster.view).length).toBe(5);
  });

  test("runs what was on a dead or drained node elsewhere", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    let nowMs = runToQuiet(cluster, { planners, agent: neverEnding });
    const nodes = tasksOf(cluster.view).map((task) => task.nodeId ?? "");
    expect(new Set(nodes).size).toBe(2);
    setNodeState(cluster, nodes[0] ?? "", "down", nowMs);
    setAvailability(cluster, nodes[1] ?? "", "drain", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent: neverEnding, nowMs });
    const wanted = tasksOf(cluster.view).filter(isWanted);
    expect(wanted.map(slotKeyOf).sort()).toEqual(["1", "2"]);
    expect(wanted.every((task) => !nodes.includes(task.nodeId ?? ""))).toBe(true);
    runToQuiet(cluster, { planners, agent, nowMs });
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
  });

  test("takes the completion of a task that was thought lost and ends its replacement", () => {
    const cluster = aState({
      nodes: threeNodes(),
      services: [job(undefined, { job: { total: 1, max: 1 } })],
    });
    let nowMs = runToQuiet(cluster, { planners, agent: neverEnding });
    const [first] = tasksOf(cluster.view);
    const nodeId = first?.nodeId ?? "";
    setNodeState(cluster, nodeId, "down", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent: neverEnding, nowMs });
    expect(tasksOf(cluster.view).length).toBe(2);
    setNodeState(cluster, nodeId, "ready", nowMs);
    const status = { state: "complete" as const, atMs: nowMs, message: "finished" };
    cluster.apply([{ type: "task-status", id: first?.id ?? "", nodeId, status }], nowMs);
    runToQuiet(cluster, { planners, agent: neverEnding, nowMs });
    expect(
      tasksOf(cluster.view)
        .map((task) => task.status.state)
        .sort(),
    ).toEqual(["complete", "shutdown"]);
    expect(tasksOf(cluster.view).find((task) => task.id !== first?.id)?.desiredState).toBe(
      "shutdown",
    );
  });

  test("never runs completed slots again when their nodes are drained, lost or removed", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    let nowMs = runToQuiet(cluster, { planners, agent });
    const before = idsOf(cluster.view);
    setAvailability(cluster, "n1", "drain", nowMs);
    setNodeState(cluster, "n2", "down", nowMs);
    removeNode(cluster, "n3", nowMs);
    addNode(cluster, { id: "n4" }, nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    runToQuiet(cluster, { planners, agent, nowMs: nowMs + 48 * 3_600_000 });
    expect(idsOf(cluster.view)).toEqual(before);
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
  });

  test("runs again after an update, within its limit while the run before still stops", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    const startMs = runToQuiet(cluster, { planners, agent: neverEnding });
    const first = idsOf(cluster.view);
    // Fewer completions: the second slot of the run before has no place in the next one.
    const once = { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 1 } };
    for (const [change, slots] of [
      [(spec: ServiceSpec) => setImage(spec, "busybox:2"), ["1", "2", "3", "4", "5"]],
      [(spec: ServiceSpec) => spec, ["1", "2", "3", "4", "5"]],
      [(spec: ServiceSpec) => ({ ...spec, Mode: once }), ["1"]],
    ] as const) {
      const iteration = (cluster.view.service("job")?.jobStatus?.iteration ?? 0) + 1;
      updateSpec(cluster, "job", change, startMs);
      runToQuiet(cluster, { planners, agent, nowMs: startMs });
      expect(completedSlots(cluster.view)).toEqual([...slots]);
      const tasks = tasksOf(cluster.view);
      expect(tasks.every((t) => t.jobIteration === iteration && !first.includes(t.id))).toBe(true);
    }
  });

  test("counts what still stops of the run before in MaxConcurrent, for a minute at most", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    let startMs = runToQuiet(cluster, { planners, agent: neverEnding });
    for (const [stopMs, mostAlive] of [
      [20_000, 2],
      [90_000, 4],
    ] as const) {
      updateSpec(cluster, "job", (spec) => spec, startMs);
      let alive = 0;
      const onRound = (view: ClusterView) => {
        alive = Math.max(alive, inState(view, "running").length);
      };
      const slowly = { agent: stoppingIn(stopMs), roundMs: 500, onRound };
      const endMs = runToQuiet(cluster, { planners, ...slowly, nowMs: startMs });
      expect([endMs - startMs >= stopMs, alive]).toEqual([true, mostAlive]);
      startMs = endMs;
    }
  });

  test("a lower MaxConcurrent holds from the first task of the next run on", () => {
    const cluster = aState({
      nodes: threeNodes(),
      services: [job(undefined, { job: { total: 5, max: 5 } })],
    });
    const startMs = runToQuiet(cluster, { planners, agent: neverEnding });
    const two = { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 5 } };
    updateSpec(cluster, "job", (spec) => ({ ...spec, Mode: two }), startMs);
    const onRound = (view: ClusterView) => {
      expect(activeSlots(view).size).toBeLessThanOrEqual(2);
    };
    const slowly = { agent: stoppingIn(5_000, agent), roundMs: 500, onRound };
    runToQuiet(cluster, { planners, ...slowly, nowMs: startMs });
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
  });

  test("ends all but one of the tasks that a plan proposed twice made", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    for (const seed of [101, 102]) {
      const plan = planJobs({
        view: aState({ nodes: threeNodes(), services: [job()] }).view,
        nowMs: START_MS,
        random: seededRandom(seed),
      });
      expect(cluster.apply(plan.actions, START_MS)).toBe(0);
    }
    expect(tasksOf(cluster.view).length).toBe(4);
    runToQuiet(cluster, { planners, agent });
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
  });

  test("keeps completions whatever the history limit, and forgets failures beyond it", () => {
    const service = job({ Delay: 0 });
    const done = aTask(service, {
      id: "done",
      slot: 1,
      state: "complete",
      desiredState: "complete",
      jobIteration: 0,
    });
    const lateDone = { ...done, id: "late-done", slot: 2, desiredState: "shutdown" as const };
    const failure = (id: string, slot: number, age: number) =>
      aTask(service, {
        id,
        slot,
        state: "failed",
        desiredState: "shutdown",
        jobIteration: 0,
        createdAtMs: START_MS - age,
      });
    const cluster = aState({
      nodes: threeNodes(),
      services: [service],
      tasks: [
        done,
        lateDone,
        ...[1, 2].flatMap((slot) => [1, 2, 3].map((age) => failure(`f${slot}-${age}`, slot, age))),
      ],
    });
    const { spec } = cluster.view.cluster() ?? {};
    if (spec) {
      const Orchestration = { TaskHistoryRetentionLimit: 0 };
      set(cluster, "cluster", "cluster", { spec: { ...spec, Orchestration } }, START_MS);
    }
    runToQuiet(cluster, { planners, agent });
    expect(inState(cluster.view, "failed")).toEqual([]);
    expect(completedSlots(cluster.view)).toEqual(["1", "2", "3", "4", "5"]);
    expect(idsOf(cluster.view)).toEqual(expect.arrayContaining(["done", "late-done"]));
    expect(tasksOf(cluster.view).length).toBe(5);
  });

  test("is stopped and forgotten when its service is removed", () => {
    const cluster = aState({ nodes: threeNodes(), services: [job()] });
    const nowMs = runToQuiet(cluster, { planners, agent: neverEnding });
    cluster.apply([{ type: "remove", table: "service", id: "job" }], nowMs);
    runToQuiet(cluster, { planners, agent: neverEnding, nowMs });
    expect(cluster.view.tasks()).toEqual([]);
  });
});

describe("planJobs() for global jobs", () => {
  test("completes once on each fitting node, also on those that join or fit later", () => {
    const placement = { Constraints: ["node.labels.disk == ssd"] };
    const labels = { disk: "ssd" };
    const cluster = aState({
      nodes: [
        aNode({ id: "n1", labels }),
        aNode({ id: "n2" }),
        aNode({ id: "n3", labels, availability: "drain" }),
      ],
      services: [globalJob({ placement })],
    });
    let nowMs = runToQuiet(cluster, { planners, agent });
    expect(completedSlots(cluster.view)).toEqual(["n1"]);
    const [first] = tasksOf(cluster.view);
    expect([first?.slot, first?.jobIteration, first?.desiredState]).toEqual([0, 0, "complete"]);
    addNode(cluster, { id: "n4", labels }, nowMs);
    setAvailability(cluster, "n3", "active", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    expect(completedSlots(cluster.view)).toEqual(["n1", "n3", "n4"]);
    // What is done stays done.
    for (const id of ["n1", "n3", "n4"]) setAvailability(cluster, id, "drain", nowMs);
    setNodeState(cluster, "n4", "down", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    for (const id of ["n1", "n3", "n4"]) setAvailability(cluster, id, "active", nowMs);
    setNodeState(cluster, "n4", "ready", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    expect(tasksOf(cluster.view).length).toBe(3);
    updateSpec(cluster, "job", (spec) => spec, nowMs);
    runToQuiet(cluster, { planners, agent, nowMs });
    expect(completedSlots(cluster.view)).toEqual(["n1", "n3", "n4"]);
    expect(tasksOf(cluster.view).every((task) => task.jobIteration === 1)).toBe(true);
  });

  test("holds MaxAttempts on each node", () => {
    const cluster = aState({
      nodes: threeNodes(),
      services: [globalJob({ restart: { MaxAttempts: 1, Delay: 1_000_000_000 } })],
    });
    const failing = finishing((task) => (task.nodeId === "n2" ? "complete" : "failed"));
    runToQuiet(cluster, { planners, agent: failing });
    expect(completedSlots(cluster.view)).toEqual(["n2"]);
    const failures = inState(cluster.view, "failed").map(slotKeyOf);
    expect(failures.sort()).toEqual(["n1", "n1", "n3", "n3"]);
  });

  test("stops on a drained node and runs there again when it is back", () => {
    const cluster = aState({ nodes: threeNodes(), services: [globalJob()] });
    let nowMs = runToQuiet(cluster, { planners, agent: neverEnding });
    setAvailability(cluster, "n1", "drain", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent: neverEnding, nowMs });
    expect([...activeSlots(cluster.view)].sort()).toEqual(["n2", "n3"]);
    setAvailability(cluster, "n1", "active", nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    expect(completedSlots(cluster.view)).toEqual(["n1", "n2", "n3"]);
    removeNode(cluster, "n1", nowMs);
    runToQuiet(cluster, { planners, agent, nowMs });
    expect(completedSlots(cluster.view)).toEqual(["n2", "n3"]);
  });
});

const nodeId = fc.constantFrom(...NODES);
const eventArbitrary = fc.oneof(
  fc.record({ type: fc.constant("node-state" as const), nodeId, isUp: fc.boolean() }),
  fc.record({
    type: fc.constant("availability" as const),
    nodeId,
    availability: fc.constantFrom("active" as const, "pause" as const, "drain" as const),
  }),
  fc.record({
    type: fc.constant("update" as const),
    service: fc.constantFrom("job", "everywhere"),
  }),
  fc.record({ type: fc.constant("wait" as const), seconds: fc.integer({ min: 1, max: 90 }) }),
);
type ClusterEvent = typeof eventArbitrary extends fc.Arbitrary<infer T> ? T : never;

function play(cluster: TestCluster, event: ClusterEvent, nowMs: number): void {
  if (event.type === "node-state") {
    setNodeState(cluster, event.nodeId, event.isUp ? "ready" : "down", nowMs);
  } else if (event.type === "availability") {
    setAvailability(cluster, event.nodeId, event.availability, nowMs);
  } else if (event.type === "update") {
    updateSpec(cluster, event.service, (spec) => spec, nowMs);
  }
}

test("planJobs() keeps to its limits in random histories, loses no completion, and completes", () => {
  const scenario = fc.record({
    seed: fc.integer({ min: 1, max: 1_000_000 }),
    total: fc.integer({ min: 1, max: 7 }),
    max: fc.integer({ min: 1, max: 4 }),
    historyLimit: fc.constantFrom(0, 1, 5),
    isTogether: fc.boolean(),
    events: fc.array(eventArbitrary, { maxLength: 10 }),
  });
  fc.assert(
    fc.property(scenario, ({ seed, total, max, historyLimit, isTogether, events }) => {
      const cluster = aState({
        seed,
        nodes: threeNodes(),
        services: [
          aService("job", { job: { total, max } }),
          aService("everywhere", { job: "global", restart: { Delay: 0 } }),
        ],
      });
      const { spec } = cluster.view.cluster() ?? {};
      if (spec) {
        const Orchestration = { TaskHistoryRetentionLimit: historyLimit };
        set(cluster, "cluster", "cluster", { spec: { ...spec, Orchestration } }, 1);
      }
      // Which tasks fail, and how long each runs, is in its id.
      const startedAtMs = new Map<string, number>();
      const random = anAgent((task, nowMs) => {
        if (task.status.state !== "running") return undefined;
        const sinceMs = startedAtMs.get(task.id) ?? nowMs;
        startedAtMs.set(task.id, sinceMs);
        if (nowMs - sinceMs < (task.id.charCodeAt(1) % 5) * 100) return "running";
        return task.id < "d" ? "failed" : "complete";
      });
      const done = new Map<string, Set<string>>();
      const check = (view: ClusterView) => {
        const active = activeSlots(view);
        expect(active.size).toBeLessThanOrEqual(max);
        for (const id of ["job", "everywhere"]) {
          const run = `${id}/${view.service(id)?.jobStatus?.iteration}`;
          const slots = tasksOf(view, id)
            .filter(
              (task) => `${id}/${task.jobIteration}` === run && task.status.state === "complete",
            )
            .map(slotKeyOf);
          const known = done.get(run) ?? new Set();
          for (const slot of slots) known.add(slot);
          done.set(run, known);
          expect(new Set(slots)).toEqual(known);
          if (id === "job") expect(known.size).toBeLessThanOrEqual(total);
          // A planner of a round ago may have begun beside a completion that it had not seen.
          const wanted = tasksOf(view, id).filter(
            (t) => isWanted(t) && !isTaskDead(t.status.state),
          );
          if (!isTogether) expect(wanted.length).toBe(activeSlots(view, id).size);
        }
      };
      const options = { planners, agent: random, isTogether, roundMs: 50, onRound: check };
      let nowMs = START_MS;
      for (const event of events) {
        play(cluster, event, nowMs);
        const untilMs = nowMs + (event.type === "wait" ? event.seconds * 1_000 : 500);
        nowMs = Math.max(untilMs, runToQuiet(cluster, { ...options, nowMs, untilMs }));
      }
      for (const id of NODES) {
        setNodeState(cluster, id, "ready", nowMs);
        setAvailability(cluster, id, "active", nowMs);
      }
      nowMs = runToQuiet(cluster, { ...options, nowMs });
      const slots = Array.from({ length: total }, (_, index) => String(index + 1));
      expect([...new Set(completedSlots(cluster.view))]).toEqual(slots);
      expect([...new Set(completedSlots(cluster.view, "everywhere"))]).toEqual(NODES);
      expect(tasksOf(cluster.view).filter(isWanted).length).toBeLessThanOrEqual(total);
    }),
    { numRuns: 150 },
  );
}, 60_000);
