import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { PLACE_WAIT_MS } from "../../../core/orchestrator/drain.ts";
import { PROGRESS_DEADLINE_DEFAULT_MS } from "../../../core/orchestrator/progress-deadline.ts";
import { PLANNERS } from "../../../core/planners.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  aNode,
  anAgent,
  aService,
  aState,
  liveTasks,
  runningTasks,
  runToQuiet,
  scaleTo,
  type ServiceWish,
  setAvailability,
  setImage,
  stoppingIn,
  type TestCluster,
  updateSpec,
} from "../../fixtures/cluster.ts";

const planners = PLANNERS;
const SECOND_NS = 1_000_000_000;

/** All replicas run on n1, which is drained; `others` may take them then. */
function drained(wish: ServiceWish, others = ["n2", "n3"]) {
  const service = aService("web", { replicas: 6, ...wish });
  const cluster = aState({ nodes: [aNode({ id: "n1" })], services: [service] });
  const nowMs = runToQuiet(cluster, { planners });
  for (const id of others) {
    const node = aNode({ id });
    cluster.apply([{ type: "create", table: "node", object: node }], nowMs);
  }
  setAvailability(cluster, "n1", "drain", nowMs);
  return { cluster, nowMs };
}

/** Runs to the end; how many ran at the least and at the most of times. */
function watched(cluster: TestCluster, nowMs: number, onRound?: (view: ClusterView) => void) {
  const seen = { fewest: Number.POSITIVE_INFINITY, most: 0 };
  runToQuiet(cluster, {
    planners,
    nowMs,
    agent: stoppingIn(200),
    roundMs: 10,
    onRound: (view) => {
      const count = runningTasks(view, "web").length;
      seen.fewest = Math.min(seen.fewest, count);
      seen.most = Math.max(seen.most, count);
      onRound?.(view);
    },
  });
  return seen;
}

const countOn = (cluster: TestCluster, nodeId: string) =>
  liveTasks(cluster.view, "web").filter((task) => task.nodeId === nodeId).length;

describe("a drained node", () => {
  test.each([
    [undefined, 5],
    [{ Parallelism: 2 }, 4],
    [{ Parallelism: 4 }, 2],
    [{ Parallelism: 0 }, 0],
  ])("gives its tasks away by the update settings %j: at least %d run", (update, least) => {
    const { cluster, nowMs } = drained(update ? { update } : {});
    const seen = watched(cluster, nowMs, (view) => {
      const slots = liveTasks(view, "web").map((task) => task.slot);
      expect(new Set(slots).size).toBe(slots.length);
    });
    expect(seen.fewest).toBe(least);
    expect(runningTasks(cluster.view, "web").length).toBe(6);
    expect(countOn(cluster, "n1")).toBe(0);
  });

  test("with start-first all replicas run at every moment", () => {
    const { cluster, nowMs } = drained({ update: { Order: "start-first", Parallelism: 2 } });
    const seen = watched(cluster, nowMs);
    expect(seen.fewest).toBe(6);
    expect(seen.most).toBeLessThanOrEqual(8);
    expect(runningTasks(cluster.view, "web").length).toBe(6);
    expect(countOn(cluster, "n1")).toBe(0);
  });

  test("that no other can stand in for is left slot by slot, each after its wait", () => {
    const { cluster, nowMs } = drained({ replicas: 3 }, []);
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + PLACE_WAIT_MS - 1_000 });
    expect(countOn(cluster, "n1")).toBe(2);
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 3 * PLACE_WAIT_MS });
    expect(countOn(cluster, "n1")).toBe(0);
    expect(cluster.view.service("web")?.updateStatus).toBeUndefined();
  });

  test("keeps what start-first cannot start elsewhere, until the progress deadline", () => {
    const { cluster, nowMs } = drained({ replicas: 2, update: { Order: "start-first" } }, []);
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + PROGRESS_DEADLINE_DEFAULT_MS - 1_000 });
    expect(countOn(cluster, "n1")).toBe(2);
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 3 * PROGRESS_DEADLINE_DEFAULT_MS });
    expect(countOn(cluster, "n1")).toBe(0);
  });

  test("that is active again keeps what it has, and the successors under way are ended", () => {
    const { cluster, nowMs } = drained({ replicas: 2, update: { Order: "start-first" } }, []);
    const laterMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 1_000 });
    expect(cluster.view.tasksByService("web").length).toBe(3);
    setAvailability(cluster, "n1", "active", laterMs);
    runToQuiet(cluster, { planners, nowMs: laterMs });
    expect(countOn(cluster, "n1")).toBe(2);
    expect(runningTasks(cluster.view, "web").length).toBe(2);
  });

  test("is not held up by a task that fails again and again", () => {
    const { cluster, nowMs } = drained({ restart: { Delay: 0, Condition: "any" } });
    const failing = anAgent((task) =>
      task.slot === 1 && task.nodeId !== "n1" ? "failed" : undefined,
    );
    runToQuiet(cluster, {
      planners,
      nowMs,
      untilMs: nowMs + 20_000,
      agent: (task, atMs) => (atMs < nowMs + 20_000 ? failing(task, atMs) : undefined),
      roundMs: 100,
    });
    expect(countOn(cluster, "n1")).toBe(0);
    expect(runningTasks(cluster.view, "web").length).toBe(5);
  });

  test("stops what its restart policy does not want again, by order start-first too", () => {
    const { cluster, nowMs } = drained({
      restart: { Condition: "none" },
      update: { Order: "start-first" },
    });
    runToQuiet(cluster, { planners, nowMs });
    expect(liveTasks(cluster.view, "web")).toEqual([]);
    expect(cluster.view.tasksByService("web").length).toBe(6);
  });

  test("shares the parallelism with an update that goes on", () => {
    const { cluster, nowMs } = drained({ update: { Parallelism: 2, Monitor: SECOND_NS } });
    updateSpec(cluster, "web", (spec) => setImage(spec, "busybox:2"), nowMs);
    expect(watched(cluster, nowMs).fewest).toBe(4);
    expect(countOn(cluster, "n1")).toBe(0);
    expect(
      runningTasks(cluster.view, "web").every(
        (task) => task.spec.ContainerSpec.Image === "busybox:2",
      ),
    ).toBeTrue();
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
  });

  test("never has fewer running than the settings allow, whatever else is done", () => {
    const order = fc.constantFrom("stop-first" as const, "start-first" as const);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 }),
        order,
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 40 }),
        fc.boolean(),
        (Parallelism, Order, replicas, atRound, isUpdated) => {
          const update = { Parallelism, Order, Monitor: SECOND_NS };
          const service = aService("web", { replicas, update });
          const nodes = ["n1", "n2", "n3"].map((id) => aNode({ id }));
          const cluster = aState({ nodes, services: [service] });
          let nowMs = runToQuiet(cluster, { planners });
          setAvailability(cluster, "n1", "drain", nowMs);
          let rounds = 0;
          const options = {
            planners,
            agent: stoppingIn(50),
            roundMs: 10,
            onRound: (view: ClusterView, atMs: number) => {
              rounds += 1;
              const least = replicas - (Order === "start-first" ? 0 : Parallelism);
              expect(runningTasks(view, "web").length).toBeGreaterThanOrEqual(least);
              if (rounds !== atRound) return;
              // The second node goes before the first is empty, perhaps in the midst of an update.
              setAvailability(cluster, "n2", "drain", atMs);
              if (isUpdated) updateSpec(cluster, "web", (spec) => setImage(spec, "b:2"), atMs);
            },
          };
          // What was changed in a last round is planned in another run.
          nowMs = runToQuiet(cluster, { ...options, nowMs });
          const left = rounds < atRound ? ["n2", "n3"] : ["n3"];
          rounds = Math.max(rounds, atRound);
          runToQuiet(cluster, { ...options, nowMs });
          const tasks = runningTasks(cluster.view, "web");
          expect(tasks.length).toBe(replicas);
          expect(tasks.every((task) => left.includes(task.nodeId ?? ""))).toBeTrue();
        },
      ),
      { numRuns: 60 },
    );
  });

  test("lets a service be scaled meanwhile", () => {
    const { cluster, nowMs } = drained({});
    const laterMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 1 });
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 2), laterMs);
    runToQuiet(cluster, { planners, nowMs: laterMs });
    expect(runningTasks(cluster.view, "web").length).toBe(2);
    expect(countOn(cluster, "n1")).toBe(0);
  });
});
