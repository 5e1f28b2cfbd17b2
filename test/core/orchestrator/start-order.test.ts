import { describe, expect, test } from "bun:test";
import type { Task, TaskState } from "../../../core/objects/task.ts";
import { isWanted } from "../../../core/orchestrator/slot.ts";
import { waitOf } from "../../../core/orchestrator/start-order.ts";
import { PLANNERS } from "../../../core/planners.ts";
import {
  type AgentModel,
  aNode,
  anAgent,
  aService,
  aState,
  runningTasks,
  runToQuiet,
  scaleTo,
  type ServiceWish,
  set,
  setAvailability,
  setImage,
  setNodeState,
  type TestCluster,
  updateSpec,
} from "../../fixtures/cluster.ts";

const planners = PLANNERS;
const after = (text: string) => ({ "shoal.depends-on": text });
const JOB = { total: 1, max: 1 };
const NEVER = { Condition: "none" } as const;

type Wishes = Record<string, ServiceWish>;
const clusterOf = (wishes: Wishes) =>
  aState({
    nodes: ["n1", "n2"].map((id) => aNode({ id })),
    services: Object.entries(wishes).map(([name, wish]) =>
      aService(name, wish.job ? wish : { replicas: 1, ...wish }),
    ),
  });

/** Tasks of the services do as told from outside: become healthy, complete, fail. */
function play(fates: Record<string, TaskState | "hangs"> = {}) {
  const fateOf = ({ serviceName, status }: Task): TaskState | undefined => {
    const fate = fates[serviceName];
    if (fate === "hangs") return status.state === "starting" ? undefined : "starting";
    return status.state === "running" ? fate : undefined;
  };
  const plain = anAgent(fateOf);
  const agent: AgentModel = (task, nowMs) => {
    const status = plain(task, nowMs);
    const isHanging = fates[task.serviceName] === "hangs" && task.status.state === "starting";
    return isHanging && status?.state === "running" ? undefined : status;
  };
  return { fates, agent };
}

const errOf = ({ view }: TestCluster, id: string) =>
  view.tasksByService(id).find((task) => isWanted(task) && task.status.state === "pending")?.status
    .err;
const imagesOf = ({ view }: TestCluster, id: string) =>
  runningTasks(view, id).map((task) => task.spec.ContainerSpec.Image);
const statusOf = ({ view }: TestCluster, id: string) => view.service(id)?.updateStatus;

describe("a first start", () => {
  test("waits until what it needs is healthy, and says so", () => {
    const cluster = clusterOf({
      db: { replicas: 2 },
      web: { replicas: 2, labels: after("db:healthy") },
    });
    const { fates, agent } = play({ db: "hangs" });
    const nowMs = runToQuiet(cluster, { planners, agent });
    expect(cluster.view.tasksByService("web")).toHaveLength(2);
    expect(errOf(cluster, "web")).toBe("waits for db to be healthy: 0 of 2 tasks run");
    expect(runningTasks(cluster.view, "web")).toEqual([]);
    delete fates["db"];
    runToQuiet(cluster, { planners, agent, nowMs });
    expect(runningTasks(cluster.view, "web")).toHaveLength(2);
    const service = cluster.view.service("web");
    expect(service && waitOf(cluster.view, service)).toBeUndefined();
  });

  test("goes on once it is started, healthy or not, where that is what is asked", () => {
    const cluster = clusterOf({ db: {}, web: { labels: after("db") } });
    const { agent } = play({ db: "hangs" });
    runToQuiet(cluster, { planners, agent });
    expect(runningTasks(cluster.view, "db")).toEqual([]);
    expect(runningTasks(cluster.view, "web")).toHaveLength(1);
  });

  test("waits for a service that is not there", () => {
    const cluster = clusterOf({ web: { labels: after("db") } });
    const nowMs = runToQuiet(cluster, { planners });
    expect(errOf(cluster, "web")).toBe("waits for db, which is not there: create it");
    const object = aService("db", { replicas: 1 });
    cluster.apply([{ type: "create", table: "service", object }], nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(runningTasks(cluster.view, "web")).toHaveLength(1);
  });

  test("goes along a chain with a job in it, also for a global service", () => {
    const cluster = clusterOf({
      db: {},
      migrate: { job: JOB, labels: after("db:healthy") },
      web: { labels: after("migrate:completed,db:healthy") },
    });
    const object = aService("proxy", { labels: after("web:healthy") });
    cluster.apply([{ type: "create", table: "service", object }], 0);
    const order: string[] = [];
    const seen = new Set<string>();
    const { agent } = play({ migrate: "complete" });
    const onRound = () => {
      for (const task of cluster.view.tasks()) {
        if (task.nodeId === undefined || task.status.state === "pending") continue;
        if (!seen.has(task.serviceName)) order.push(task.serviceName);
        seen.add(task.serviceName);
      }
    };
    runToQuiet(cluster, { planners, agent, onRound });
    expect(order).toEqual(["db", "migrate", "web", "proxy"]);
    expect(runningTasks(cluster.view, "proxy")).toHaveLength(2);
  });

  test("says that a job has failed for good, and goes on when it is run again", () => {
    const cluster = clusterOf({
      migrate: { job: JOB, restart: NEVER },
      web: { labels: after("migrate:completed") },
    });
    const { fates, agent } = play({ migrate: "failed" });
    let nowMs = runToQuiet(cluster, { planners, agent });
    expect(errOf(cluster, "web")).toMatch(
      /^waits for migrate to complete, and migrate\.0\.\w+ has failed: failed: mend it, and run it again \(docker service update --force migrate\)$/,
    );
    fates["migrate"] = "complete";
    updateSpec(cluster, "migrate", (spec) => setImage(spec, "busybox:2"), nowMs);
    nowMs = runToQuiet(cluster, { planners, agent, nowMs });
    expect(runningTasks(cluster.view, "web")).toHaveLength(1);
  });
});

test("what has started is replaced and scaled whatever became of what it needs", () => {
  const cluster = clusterOf({ db: {}, web: { replicas: 2, labels: after("db:healthy") } });
  let nowMs = runToQuiet(cluster, { planners });
  cluster.apply([{ type: "remove", table: "service", id: "db" }], nowMs);
  const [task] = runningTasks(cluster.view, "web");
  if (!task?.nodeId) throw new Error("Nothing runs");
  const status = { state: "failed" as const, atMs: nowMs, message: "" };
  cluster.apply([{ type: "task-status", id: task.id, nodeId: task.nodeId, status }], nowMs);
  nowMs = runToQuiet(cluster, { planners, nowMs });
  expect(runningTasks(cluster.view, "web")).toHaveLength(2);
  updateSpec(cluster, "web", (spec) => scaleTo(spec, 3), nowMs);
  runToQuiet(cluster, { planners, nowMs });
  expect(runningTasks(cluster.view, "web")).toHaveLength(3);
});

test.each([0, 1, 5])(
  "that is so with a history of %d tasks, and without a node for a while",
  (limit) => {
    const cluster = clusterOf({ db: {}, web: { labels: after("db:healthy") } });
    const spec = cluster.view.cluster()?.spec;
    if (!spec) throw new Error("No cluster");
    const Orchestration = { TaskHistoryRetentionLimit: limit };
    set(cluster, "cluster", "cluster", { spec: { ...spec, Orchestration } }, 0);
    let nowMs = runToQuiet(cluster, { planners });
    cluster.apply([{ type: "remove", table: "service", id: "db" }], nowMs);
    for (const id of ["n1", "n2"]) setNodeState(cluster, id, "down", nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    for (const id of ["n1", "n2"]) cluster.apply([{ type: "remove", table: "node", id }], nowMs);
    nowMs = runToQuiet(cluster, { planners, nowMs });
    cluster.apply([{ type: "create", table: "node", object: aNode({ id: "n3" }) }], nowMs);
    runToQuiet(cluster, { planners, nowMs });
    expect(runningTasks(cluster.view, "web")).toHaveLength(1);
  },
);

test.each([
  [{ replicas: 0 }, "db:healthy", "waits for db, which is scaled to 0: scale it up"],
  [{ replicas: 0 }, "db", "waits for db, which is scaled to 0: scale it up"],
  [
    { job: "global", placement: { Constraints: ["node.labels.no==where"] } },
    "db:completed",
    "waits for db to complete, for which there is no node: see shoal why db",
  ],
] satisfies [ServiceWish, string, string][])("%j as %s: %s", (db, text, why) => {
  const cluster = clusterOf({ db, web: { labels: after(text) } });
  runToQuiet(cluster, { planners });
  expect(errOf(cluster, "web")).toBe(why);
});

test("a global service is not being updated for what it left on a paused node", () => {
  const cluster = clusterOf({});
  const object = aService("db", {});
  cluster.apply([{ type: "create", table: "service", object }], 0);
  let nowMs = runToQuiet(cluster, { planners });
  setAvailability(cluster, "n2", "pause", nowMs);
  updateSpec(cluster, "db", (spec) => setImage(spec, "busybox:2"), nowMs);
  nowMs = runToQuiet(cluster, { planners, nowMs });
  expect(imagesOf(cluster, "db").sort()).toEqual(["busybox:1", "busybox:2"]);
  const web = aService("web", { replicas: 1, labels: after("db") });
  cluster.apply([{ type: "create", table: "service", object: web }], nowMs);
  runToQuiet(cluster, { planners, nowMs });
  expect(runningTasks(cluster.view, "web")).toHaveLength(1);
});

describe("an update", () => {
  const wishes = (update = {}): Wishes => ({
    migrate: { job: JOB, restart: NEVER },
    web: { replicas: 2, labels: after("migrate:completed"), update },
  });
  /** Both get a new image in one change, as a stack does it. */
  const deploy = (cluster: TestCluster, nowMs: number) => {
    for (const id of ["migrate", "web"]) {
      updateSpec(cluster, id, (spec) => setImage(spec, "busybox:2"), nowMs);
    }
  };
  const started = (update = {}) => {
    const cluster = clusterOf(wishes(update));
    const played = play({ migrate: "complete" });
    const nowMs = runToQuiet(cluster, { planners, agent: played.agent });
    expect(imagesOf(cluster, "web")).toEqual(["busybox:1", "busybox:1"]);
    return { cluster, nowMs, ...played };
  };

  test("waits for the job's new run while the old version serves", () => {
    const { cluster, fates, agent, nowMs } = started();
    fates["migrate"] = "hangs";
    deploy(cluster, nowMs);
    const heldMs = runToQuiet(cluster, { planners, agent, nowMs });
    expect(imagesOf(cluster, "web")).toEqual(["busybox:1", "busybox:1"]);
    expect(statusOf(cluster, "web")).toMatchObject({
      state: "updating",
      message: "update waits for migrate to complete",
    });
    // However long that takes: the progress deadline has not begun.
    const longMs = runToQuiet(cluster, { planners, agent, nowMs: heldMs + 3_600_000 });
    expect(statusOf(cluster, "web")?.state).toBe("updating");
    fates["migrate"] = "complete";
    runToQuiet(cluster, { planners, agent, nowMs: longMs });
    expect(imagesOf(cluster, "web")).toEqual(["busybox:2", "busybox:2"]);
    expect(statusOf(cluster, "web")?.state).toBe("completed");
  });

  test.each([
    ["pause", "paused", "busybox:1"],
    ["continue", "paused", "busybox:1"],
    ["rollback", "rollback_completed", "busybox:1"],
  ] as const)("whose job fails for good is given up: %s", (FailureAction, state, image) => {
    const { cluster, fates, agent, nowMs } = started({ FailureAction });
    fates["migrate"] = "failed";
    deploy(cluster, nowMs);
    const tasks = runningTasks(cluster.view, "web").map(({ id }) => id);
    runToQuiet(cluster, { planners, agent, nowMs });
    expect(imagesOf(cluster, "web")).toEqual([image, image]);
    // Nothing was stopped for it.
    expect(runningTasks(cluster.view, "web").map(({ id }) => id)).toEqual(tasks);
    const status = statusOf(cluster, "web");
    expect(["paused", "rollback_completed", "rollback_started", undefined]).toContain(
      status?.state,
    );
    if (state === "paused") {
      expect(status?.message).toContain("update paused since it waits for migrate to complete");
    } else expect(cluster.view.service("web")?.spec.TaskTemplate.ContainerSpec.Image).toBe(image);
  });

  test.each(["complete", "failed"] as const)(
    "goes on to wait when its old tasks die meanwhile, until the job is %s",
    (end) => {
      const { cluster, fates, agent, nowMs } = started({ FailureAction: "rollback" });
      fates["migrate"] = "hangs";
      deploy(cluster, nowMs);
      const heldMs = runToQuiet(cluster, { planners, agent, nowMs });
      for (const { id, nodeId = "" } of runningTasks(cluster.view, "web")) {
        const status = { state: "failed" as const, atMs: heldMs, message: "" };
        cluster.apply([{ type: "task-status", id, nodeId, status }], heldMs);
      }
      // Longer than the progress deadline.
      const longMs = runToQuiet(cluster, {
        planners,
        agent,
        nowMs: heldMs,
        untilMs: heldMs + 3_600_000,
      });
      expect(runningTasks(cluster.view, "web")).toEqual([]);
      expect(statusOf(cluster, "web")).toMatchObject({
        state: "updating",
        message: "update waits for migrate to complete",
      });
      fates["migrate"] = end;
      const lateMs = Math.max(longMs, heldMs + 3_600_000);
      runToQuiet(cluster, { planners, agent, nowMs: lateMs });
      const image = end === "complete" ? "busybox:2" : "busybox:1";
      expect(imagesOf(cluster, "web")).toEqual([image, image]);
    },
  );

  test("waits while what it needs is being updated, but not for one that was given up", () => {
    const cluster = clusterOf({
      db: { replicas: 2 },
      web: { labels: after("db:healthy") },
    });
    const { fates, agent } = play();
    let nowMs = runToQuiet(cluster, { planners, agent });
    fates["db"] = "failed";
    for (const id of ["db", "web"]) {
      updateSpec(cluster, id, (spec) => setImage(spec, "busybox:2"), nowMs);
    }
    let hasWaited = false;
    const onRound = () => {
      hasWaited ||= statusOf(cluster, "web")?.message === "update waits for the update of db";
      const isPaused = statusOf(cluster, "db")?.state === "paused";
      if (!isPaused) expect(imagesOf(cluster, "web")).toEqual(["busybox:1"]);
    };
    nowMs = runToQuiet(cluster, { planners, agent, nowMs, onRound, untilMs: nowMs + 5_000 });
    expect(hasWaited).toBe(true);
    expect(statusOf(cluster, "db")?.state).toBe("paused");
    expect(imagesOf(cluster, "web")).toEqual(["busybox:2"]);
  });

  test("of what waits for its first start takes the place of it at once", () => {
    const cluster = clusterOf({ web: { labels: after("db") } });
    const nowMs = runToQuiet(cluster, { planners });
    updateSpec(cluster, "web", (spec) => setImage(spec, "busybox:2"), nowMs);
    runToQuiet(cluster, { planners, nowMs });
    const wanted = cluster.view.tasksByService("web").filter(isWanted);
    expect(wanted.map((task) => task.spec.ContainerSpec.Image)).toEqual(["busybox:2"]);
    expect(errOf(cluster, "web")).toBe("waits for db, which is not there: create it");
  });
});
