import { describe, expect, test } from "bun:test";
import type { ServiceSpec, UpdateConfig } from "../../../core/objects/service.ts";
import type { Task, TaskState } from "../../../core/objects/task.ts";
import { PLANNERS } from "../../../core/planners.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import {
  type AgentModel,
  aNode,
  anAgent,
  aService,
  aState,
  liveTasks,
  runningTasks,
  runToQuiet,
  set,
  setImage,
  setNodeState,
  stoppingIn,
  type TestCluster,
  updateSpec,
} from "../../fixtures/cluster.ts";

const SECOND = 1e9;
const planners = PLANNERS;

/** Six running replicas of busybox:1 on three nodes. */
function running(update: UpdateConfig, rollback?: UpdateConfig) {
  const service = aService("web", { replicas: 6, update, ...(rollback ? { rollback } : {}) });
  const cluster = aState({
    nodes: [aNode({ id: "n1" }), aNode({ id: "n2" }), aNode({ id: "n3" })],
    services: [service],
  });
  const nowMs = runToQuiet(cluster, { planners });
  return { cluster, nowMs };
}

/** Every task of this image ends so, as soon as it would run. */
function failing(image: string, state: TaskState = "failed") {
  return anAgent((task) => (task.spec.ContainerSpec.Image === image ? state : undefined));
}

function images(view: ClusterView): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const task of runningTasks(view, "web")) {
    const image = task.spec.ContainerSpec.Image;
    counts[image] = (counts[image] ?? 0) + 1;
  }
  return counts;
}

function updateTo(cluster: TestCluster, image: string, nowMs: number): void {
  updateSpec(cluster, "web", (spec) => setImage(spec, image), nowMs);
}

describe("planUpdate()", () => {
  test("stop-first with parallelism 2 has at most 2 slots down and no slot twice", () => {
    const { cluster, nowMs } = running({ Parallelism: 2, Delay: 10 * SECOND });
    updateTo(cluster, "busybox:2", nowMs);
    let fewest = 6;
    const end = runToQuiet(cluster, {
      planners,
      nowMs,
      agent: stoppingIn(200),
      roundMs: 10,
      onRound: (view) => {
        const tasks = runningTasks(view, "web");
        const live = liveTasks(view, "web");
        expect(new Set(live.map((task) => task.slot)).size).toBe(live.length);
        fewest = Math.min(fewest, tasks.length);
      },
    });
    expect(fewest).toBe(4);
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
    expect(cluster.view.service("web")?.updateStatus).toMatchObject({
      state: "completed",
      message: "update completed",
      startedAtMs: nowMs,
    });
    // Three pairs with the delay between, and delay + 1 s of watching after the last.
    expect(end - nowMs).toBeGreaterThanOrEqual(31_000);
    expect(end - nowMs).toBeLessThan(33_000);
  });

  test("start-first never has fewer than all replicas running", () => {
    const { cluster, nowMs } = running({ Parallelism: 2, Order: "start-first" });
    updateTo(cluster, "busybox:2", nowMs);
    let most = 0;
    runToQuiet(cluster, {
      planners,
      nowMs,
      onRound: (view) => {
        const count = runningTasks(view, "web").length;
        expect(count).toBeGreaterThanOrEqual(6);
        most = Math.max(most, count);
      },
    });
    expect(most).toBe(8);
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
  });

  test("parallelism 0 updates all slots at once", () => {
    const { cluster, nowMs } = running({ Parallelism: 0 });
    updateTo(cluster, "busybox:2", nowMs);
    let fewest = 6;
    runToQuiet(cluster, {
      planners,
      nowMs,
      onRound: (view) => {
        fewest = Math.min(fewest, runningTasks(view, "web").length);
      },
    });
    expect(fewest).toBe(0);
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
  });

  test("is completed only after the monitor time", () => {
    const { cluster, nowMs } = running({ Parallelism: 0, Monitor: 20 * SECOND });
    updateTo(cluster, "busybox:2", nowMs);
    const midMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 19_000 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("updating");
    runToQuiet(cluster, { planners, nowMs: midMs });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
  });

  for (const state of ["failed", "rejected"] as const) {
    test(`pauses when a new task is ${state}, and leaves the other slots alone`, () => {
      const { cluster, nowMs } = running({ Parallelism: 1, FailureAction: "pause" });
      updateTo(cluster, "busybox:bad", nowMs);
      runToQuiet(cluster, {
        planners,
        nowMs,
        untilMs: nowMs + 30_000,
        agent: failing("busybox:bad", state),
      });
      const status = cluster.view.service("web")?.updateStatus;
      expect(status?.state).toBe("paused");
      expect(status?.message).toMatch(
        /^update paused due to failure or early termination of task /,
      );
      expect(images(cluster.view)).toEqual({ "busybox:1": 5 });
    });
  }

  test("says by which error it was given up, though the task may be forgotten", () => {
    const { cluster, nowMs } = running({ Parallelism: 1, FailureAction: "pause" });
    updateTo(cluster, "busybox:bad", nowMs);
    const plain = failing("busybox:bad", "failed");
    const agent: AgentModel = (task, atMs) => {
      const status = plain(task, atMs);
      return status?.state === "failed" ? { ...status, err: "task: non-zero exit (3)" } : status;
    };
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 30_000, agent });
    expect(cluster.view.service("web")?.updateStatus?.message).toMatch(
      /^update paused due to failure or early termination of task \w+: task: non-zero exit \(3\)$/,
    );
  });

  test.each(["port", "secret"])(
    "pauses where it cannot go back, since its %s is not to be had any more",
    (kind) => {
      const { cluster, nowMs } = running({ Parallelism: 1, FailureAction: "rollback" });
      const Secrets = [{ SecretID: "old", SecretName: "old" }];
      const secret = { id: "old", spec: { Name: "old", Labels: {} } };
      cluster.apply([{ type: "create", table: "secret", object: secret }], nowMs);
      const used = (spec: ServiceSpec) => {
        spec.EndpointSpec = { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] };
        spec.TaskTemplate.ContainerSpec.Secrets = Secrets;
        return spec;
      };
      updateSpec(cluster, "web", used, nowMs);
      const usedMs = runToQuiet(cluster, { planners, nowMs });
      updateSpec(
        cluster,
        "web",
        (spec) => {
          spec.EndpointSpec = { Ports: [] };
          delete spec.TaskTemplate.ContainerSpec.Secrets;
          return setImage(spec, "busybox:bad");
        },
        usedMs,
      );
      // The allocator gives the port up first.
      const agent = failing("busybox:bad", "failed");
      const waiting = (task: Task, atMs: number) =>
        atMs < usedMs + 1_000 ? undefined : agent(task, atMs);
      runToQuiet(cluster, { planners, nowMs: usedMs, untilMs: usedMs + 900, agent: waiting });
      const other = aService("other", {
        replicas: 1,
        ports: [{ TargetPort: 80, PublishedPort: 8080 }],
      });
      const taken =
        kind === "port"
          ? ({ type: "create", table: "service", object: other } as const)
          : ({ type: "remove", table: "secret", id: "old" } as const);
      expect(cluster.apply([taken], usedMs + 950)).toBe(0);
      runToQuiet(cluster, { planners, nowMs: usedMs + 1_000, untilMs: usedMs + 60_000, agent });
      const { state, message } = cluster.view.service("web")?.updateStatus ?? {};
      const why = {
        port: "port 8080/tcp belongs to service other now",
        secret: "secret old, which the spec before uses, is removed",
      }[kind];
      expect([state, message]).toEqual([
        "paused",
        expect.stringMatching(
          new RegExp(`^update paused due to .*; it cannot be rolled back: ${why}$`),
        ),
      ]);
    },
  );

  test("a paused update goes on with the next spec", () => {
    const { cluster, nowMs } = running({ Parallelism: 1 });
    updateTo(cluster, "busybox:bad", nowMs);
    const agent = failing("busybox:bad");
    const midMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 30_000, agent });
    updateTo(cluster, "busybox:3", midMs);
    runToQuiet(cluster, { planners, nowMs: midMs, agent });
    expect(images(cluster.view)).toEqual({ "busybox:3": 6 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
  });

  test("rolls back when a new task dies within the monitor time", () => {
    const { cluster, nowMs } = running({
      Parallelism: 2,
      FailureAction: "rollback",
      Order: "start-first",
    });
    updateTo(cluster, "busybox:bad", nowMs);
    const agent = anAgent((task, atMs) =>
      task.spec.ContainerSpec.Image === "busybox:bad" &&
      task.status.state === "running" &&
      atMs - task.status.atMs >= 3_000
        ? "failed"
        : undefined,
    );
    runToQuiet(cluster, { planners, nowMs, agent, roundMs: 500 });
    const service = cluster.view.service("web");
    expect(service?.updateStatus).toMatchObject({
      state: "rollback_completed",
      message: "rollback completed",
    });
    expect(service?.spec.TaskTemplate.ContainerSpec.Image).toBe("busybox:1");
    expect(service?.previousSpec).toBeUndefined();
    expect(images(cluster.view)).toEqual({ "busybox:1": 6 });
  });

  test("does not count a death after the monitor time", () => {
    const { cluster, nowMs } = running({
      Parallelism: 1,
      Delay: 20 * SECOND,
      Monitor: 5 * SECOND,
      FailureAction: "pause",
    });
    updateTo(cluster, "busybox:2", nowMs);
    const agent = anAgent((task, atMs) =>
      task.slot === 1 &&
      task.spec.ContainerSpec.Image === "busybox:2" &&
      task.status.state === "running" &&
      atMs - task.status.atMs > 8_000 &&
      atMs - nowMs < 15_000
        ? "failed"
        : undefined,
    );
    runToQuiet(cluster, { planners, nowMs, agent, roundMs: 1_000 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
  });

  test("tolerates failures up to MaxFailureRatio", () => {
    const config: UpdateConfig = { Parallelism: 1, FailureAction: "pause", MaxFailureRatio: 0.4 };
    const { cluster, nowMs } = running(config);
    updateTo(cluster, "busybox:2", nowMs);
    const doomed = new Set([1, 4]);
    const agent = anAgent((task) =>
      doomed.has(task.slot) &&
      task.spec.ContainerSpec.Image === "busybox:2" &&
      doomed.delete(task.slot)
        ? "failed"
        : undefined,
    );
    runToQuiet(cluster, { planners, nowMs, agent });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
  });

  test("action continue goes on although every new task fails", () => {
    const { cluster, nowMs } = running({ Parallelism: 2, FailureAction: "continue" });
    updateTo(cluster, "busybox:bad", nowMs);
    runToQuiet(cluster, {
      planners,
      nowMs,
      untilMs: nowMs + 60_000,
      agent: failing("busybox:bad"),
    });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
    expect(images(cluster.view)).toEqual({});
  });

  test("start-first tries a slot once and keeps the old task when the new one may not restart", () => {
    const { cluster, nowMs } = running({ FailureAction: "continue", Order: "start-first" });
    updateSpec(
      cluster,
      "web",
      (spec) => {
        setImage(spec, "busybox:bad").TaskTemplate.RestartPolicy = { Condition: "none" };
        return spec;
      },
      nowMs,
    );
    runToQuiet(cluster, { planners, nowMs, agent: failing("busybox:bad") });
    expect(images(cluster.view)).toEqual({ "busybox:1": 6 });
    const bad = cluster.view.tasks().filter((task) => task.status.state === "failed");
    expect(bad.map((task) => task.slot).sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
  });

  test("a failing rollback pauses", () => {
    const { cluster, nowMs } = running({ FailureAction: "rollback" });
    updateTo(cluster, "busybox:bad", nowMs);
    // The old image has become bad as well: its new tasks die.
    const agent = anAgent((task, atMs) =>
      task.createdAtMs > nowMs || task.spec.ContainerSpec.Image === "busybox:bad"
        ? atMs >= nowMs
          ? "failed"
          : undefined
        : undefined,
    );
    runToQuiet(cluster, { planners, nowMs, agent, untilMs: nowMs + 30_000 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("rollback_paused");
    expect(images(cluster.view)).toEqual({ "busybox:1": 5 });
  });

  test("a rollback by hand uses the rollback settings", () => {
    const { cluster, nowMs } = running({ Parallelism: 1 }, { Parallelism: 0 });
    updateTo(cluster, "busybox:2", nowMs);
    const midMs = runToQuiet(cluster, { planners, nowMs });
    updateTo(cluster, "busybox:1", midMs);
    const service = cluster.view.service("web");
    cluster.apply(
      [
        {
          type: "update",
          table: "service",
          id: "web",
          set: {
            updateStatus: {
              state: "rollback_started",
              startedAtMs: midMs,
              message: "manually requested rollback",
            },
          },
        },
      ],
      midMs,
    );
    expect(service).toBeDefined();
    let fewest = 6;
    runToQuiet(cluster, {
      planners,
      nowMs: midMs,
      onRound: (view) => {
        fewest = Math.min(fewest, runningTasks(view, "web").length);
      },
    });
    expect(fewest).toBe(0);
    expect(images(cluster.view)).toEqual({ "busybox:1": 6 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("rollback_completed");
  });

  test("a change of labels, replicas, update settings or placement redeploys nothing", () => {
    const { cluster, nowMs } = running({ Parallelism: 1 });
    const ids = cluster.view.tasks().map((task) => task.id);
    updateSpec(
      cluster,
      "web",
      (spec) => ({
        ...spec,
        Labels: { a: "b" },
        UpdateConfig: { Parallelism: 3 },
        TaskTemplate: { ...spec.TaskTemplate, Placement: { Constraints: ["node.role == worker"] } },
      }),
      nowMs,
    );
    runToQuiet(cluster, { planners, nowMs });
    expect(cluster.view.tasks().map((task) => task.id)).toEqual(ids);
    expect(cluster.view.service("web")?.updateStatus).toBeUndefined();
  });

  test("a placement that a node no longer fits moves only its tasks", () => {
    const { cluster, nowMs } = running({ Parallelism: 1 });
    const ids = new Set(cluster.view.tasks().map((task) => task.id));
    updateSpec(
      cluster,
      "web",
      (spec) => {
        spec.TaskTemplate.Placement = { Constraints: ["node.id != n2"] };
        return spec;
      },
      nowMs,
    );
    runToQuiet(cluster, { planners, nowMs });
    const after = runningTasks(cluster.view, "web");
    expect(after.length).toBe(6);
    expect(after.filter((task) => ids.has(task.id)).length).toBe(4);
    expect(after.some((task) => task.nodeId === "n2")).toBe(false);
  });

  test("waits for a new task that cannot be scheduled, and starts no other slot", () => {
    const { cluster, nowMs } = running({ Parallelism: 1 });
    updateSpec(
      cluster,
      "web",
      (spec) => {
        setImage(spec, "busybox:2").TaskTemplate.Placement = { Constraints: ["node.id == n9"] };
        return spec;
      },
      nowMs,
    );
    runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 599_000 });
    expect(images(cluster.view)).toEqual({ "busybox:1": 5 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("updating");
  });

  describe("progress deadline", () => {
    const LABELS = { "shoal.update.progress-deadline": "1m" };
    /** To an image that comes, on a node that does not. */
    function updateToNowhere(cluster: TestCluster, nowMs: number, labels = LABELS) {
      updateSpec(
        cluster,
        "web",
        (spec) => {
          setImage(spec, "busybox:2").TaskTemplate.Placement = { Constraints: ["node.id == n9"] };
          return { ...spec, Labels: labels };
        },
        nowMs,
      );
    }
    const statusOf = (cluster: TestCluster) => cluster.view.service("web")?.updateStatus;

    test("pauses an update whose new task no node takes, and says which and why", () => {
      const { cluster, nowMs } = running({ Parallelism: 2 });
      updateToNowhere(cluster, nowMs);
      runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 59_000 });
      expect(statusOf(cluster)?.state).toBe("updating");
      runToQuiet(cluster, { planners, nowMs: nowMs + 59_000 });
      expect(statusOf(cluster)?.state).toBe("paused");
      expect(statusOf(cluster)?.message).toMatch(
        /^update paused due to no progress for 1m: task \w+ is pending: no suitable node \(scheduling constraints not satisfied on 3 nodes\)$/,
      );
      // No other slot is touched, also long after.
      runToQuiet(cluster, { planners, nowMs: nowMs + 3_600_000 });
      expect(images(cluster.view)).toEqual({ "busybox:1": 4 });
    });

    test("rolls back when the failure action says so", () => {
      const { cluster, nowMs } = running({ Parallelism: 1, FailureAction: "rollback" });
      updateToNowhere(cluster, nowMs);
      const messages = new Set<string>();
      runToQuiet(cluster, {
        planners,
        nowMs,
        onRound: () => messages.add(statusOf(cluster)?.message ?? ""),
      });
      expect(
        [...messages].some((text) => text.startsWith("update rolled back due to no progress")),
      ).toBe(true);
      expect(statusOf(cluster)?.state).toBe("rollback_completed");
      expect(images(cluster.view)).toEqual({ "busybox:1": 6 });
    });

    test("pauses a rollback that makes none", () => {
      const { cluster, nowMs } = running({ Parallelism: 1 });
      updateToNowhere(cluster, nowMs);
      const startedAtMs = nowMs;
      const updateStatus = { state: "rollback_started", startedAtMs, message: "" } as const;
      set(cluster, "service", "web", { updateStatus }, nowMs);
      runToQuiet(cluster, { planners, nowMs });
      expect(statusOf(cluster)).toMatchObject({
        state: "rollback_paused",
        message: expect.stringContaining("rollback paused due to no progress for 1m"),
      });
    });

    test("counts from the last progress, delays not included", () => {
      const { cluster, nowMs } = running({ Parallelism: 1, Delay: 50 * SECOND });
      updateSpec(
        cluster,
        "web",
        (spec) => ({ ...setImage(spec, "busybox:2"), Labels: LABELS }),
        nowMs,
      );
      // Each new task takes 50 s to become healthy: 10 minutes in all.
      const agent = anAgent();
      const slow: typeof agent = (task, atMs) => {
        const next = agent(task, atMs);
        if (next?.state !== "running" || task.spec.ContainerSpec.Image !== "busybox:2") return next;
        return atMs - task.status.atMs >= 50_000 ? next : undefined;
      };
      let atMs = nowMs;
      for (let step = 0; step < 900; step += 1) {
        atMs = runToQuiet(cluster, { planners, nowMs: atMs, untilMs: atMs + 1_000, agent: slow });
        atMs = nowMs + (step + 1) * 1_000;
      }
      expect(statusOf(cluster)?.state).toBe("completed");
      expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
    });

    test("does not hold against an update that its node is away from a leader that just began", () => {
      const { cluster, nowMs } = running({ Parallelism: 1 });
      updateSpec(
        cluster,
        "web",
        (spec) => ({ ...setImage(spec, "busybox:2"), Labels: LABELS }),
        nowMs,
      );
      const stuck = anAgent();
      const agent: typeof stuck = (task, atMs) =>
        task.spec.ContainerSpec.Image === "busybox:2" ? undefined : stuck(task, atMs);
      runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 30_000, agent });
      const nodeId = cluster.view
        .tasks()
        .find((task) => task.spec.ContainerSpec.Image === "busybox:2")?.nodeId;
      const laterMs = nowMs + 3_600_000;
      setNodeState(cluster, nodeId ?? "", "unknown", laterMs);
      runToQuiet(cluster, { planners, nowMs: laterMs, agent, untilMs: laterMs + 1 });
      expect(statusOf(cluster)?.state).toBe("updating");
      setNodeState(cluster, nodeId ?? "", "ready", laterMs + 10);
      runToQuiet(cluster, { planners, nowMs: laterMs + 10 });
      expect(statusOf(cluster)?.state).toBe("completed");
    });

    test("pauses a start-first update of a global service that keeps its own host port", () => {
      const ports = [{ TargetPort: 80, PublishedPort: 80, PublishMode: "host" as const }];
      const cluster = aState({
        nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
        services: [aService("web", { ports, update: { Order: "start-first", Parallelism: 1 } })],
      });
      const nowMs = runToQuiet(cluster, { planners });
      updateTo(cluster, "busybox:2", nowMs);
      const endMs = runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 700_000 });
      expect(endMs - nowMs).toBeGreaterThanOrEqual(600_000);
      expect(statusOf(cluster)?.message).toMatch(
        /^update paused due to no progress for 10m: .*host-mode port already in use on 1 node\)$/,
      );
      expect(images(cluster.view)).toEqual({ "busybox:1": 2 });
    });

    test("none: waits for ever", () => {
      const { cluster, nowMs } = running({ Parallelism: 1 });
      updateToNowhere(cluster, nowMs, { "shoal.update.progress-deadline": "none" });
      runToQuiet(cluster, { planners, nowMs, untilMs: nowMs + 86_400_000 });
      runToQuiet(cluster, { planners, nowMs: nowMs + 86_400_000 });
      expect(statusOf(cluster)?.state).toBe("updating");
    });
  });

  test("goes on under a new leader that plans from the state alone", () => {
    const { cluster, nowMs } = running({ Parallelism: 1, Delay: 1 * SECOND });
    updateTo(cluster, "busybox:2", nowMs);
    let atMs = nowMs;
    for (let leader = 1; leader <= 20; leader += 1) {
      atMs = runToQuiet(cluster, { planners, nowMs: atMs, untilMs: atMs + 1_000 }) + 500;
    }
    expect(images(cluster.view)).toEqual({ "busybox:2": 6 });
    expect(cluster.view.service("web")?.updateStatus?.state).toBe("completed");
  });
});
