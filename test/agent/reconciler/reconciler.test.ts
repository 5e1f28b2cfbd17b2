/** The reconciler against a real dockerd of its own; see engine.ts. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import type { Task, TaskStatus } from "../../../core/objects/task.ts";
import { taskName } from "../../../core/objects/task.ts";
import { createDocker } from "../../../agent/reconciler/docker.ts";
import { createImages } from "../../../agent/reconciler/image.ts";
import { openJournal } from "../../../agent/reconciler/journal.ts";
import { createDockerNetworks } from "../../../agent/reconciler/networks.ts";
import type {
  ReconcilerAnswer,
  ReconcilerInput,
  ReconcilerOutput,
} from "../../../agent/reconciler/protocol.ts";
import { type Reconciler, startReconciler } from "../../../agent/reconciler/reconciler.ts";
import { createTaskFiles } from "../../../agent/reconciler/task-files.ts";
import { workerClient } from "../../../agent/worker-client.ts";
import { engineUnavailable, startEngine, TEST_IMAGE, type TestEngine, until } from "./engine.ts";
import { aNetwork, aSecret, aSettings, aTask, items } from "./wanted.ts";

const WAIT_MS = 10_000;
const reason = engineUnavailable();
if (reason) console.log(`SKIP reconciler.test.ts: ${reason}`);

describe.skipIf(reason !== undefined)("reconciler", () => {
  let engine: TestEngine;
  let node: TestNode;
  beforeAll(async () => {
    engine = await startEngine();
    node = startNode(engine);
  }, 60_000);
  afterAll(async () => {
    await node.reconciler.stop();
    await engine.stop();
  }, 60_000);
  afterEach(async () => {
    node.assign([], { isComplete: true });
    await until("all containers are gone", WAIT_MS, () => engine.docker("ps", "-aq") === "");
  });

  test("a task goes through all states to running, and to shutdown when asked", async () => {
    const task = aTask("t1", { container: { Env: ["WHO={{.Service.Name}}-{{.Task.Slot}}"] } });
    node.assign([items.task(task)]);
    const running = await node.untilState("t1", "running");
    expect(node.sequence("t1")).toEqual([
      "accepted accepted",
      "preparing preparing",
      "ready prepared",
      "starting starting",
      "running started",
    ]);
    expect(running.container?.pid).toBeGreaterThan(0);
    const name = taskName(task);
    expect(engine.docker("inspect", "-f", "{{.Id}}", name)).toBe(running.container?.id ?? "");
    expect(engine.docker("inspect", "-f", "{{.Config.Env}}", name)).toContain("WHO=web-1");
    node.assign([items.task({ ...task, desiredState: "shutdown" })]);
    const shutdown = await node.untilState("t1", "shutdown");
    expect(shutdown.message).toBe("shutdown");
    // Kept while it is assigned: its logs are still there.
    expect(engine.docker("inspect", "-f", "{{.State.Status}}", name)).toBe("exited");
    await until("main was told", WAIT_MS, () => node.sent.get("t1")?.state === "shutdown");
  });

  test("exit codes decide between complete and failed", async () => {
    node.assign([
      items.task(aTask("ok", { container: { Command: ["true"] } })),
      items.task(aTask("bad", { slot: 2, container: { Command: ["sh", "-c", "exit 3"] } })),
    ]);
    const ok = await node.untilState("ok", "complete");
    expect(ok).toMatchObject({ message: "finished", container: { exitCode: 0 } });
    expect(node.sequence("ok")).toContain("running started");
    const bad = await node.untilState("bad", "failed");
    expect(bad).toMatchObject({
      message: "started",
      err: "task: non-zero exit (3)",
      container: { exitCode: 3 },
    });
  });

  test("a task held back stays ready until it is wanted running", async () => {
    const task = aTask("held", { desiredState: "ready" });
    node.assign([items.task(task)]);
    await node.untilState("held", "ready");
    expect(engine.docker("inspect", "-f", "{{.State.Status}}", taskName(task))).toBe("created");
    node.assign([items.task({ ...task, desiredState: "running" })]);
    await node.untilState("held", "running");
  });

  test("a missing image rejects the task with the engine's text", async () => {
    node.assign([items.task(aTask("noimg", { container: { Image: "127.0.0.1:1/none" } }))]);
    const status = await node.untilState("noimg", "rejected");
    expect(status.message).toBe("preparing");
    expect(status.err).toStartWith("No such image: 127.0.0.1:1/none:latest");
  });

  test("a command that cannot be started fails the task with the engine's text", async () => {
    node.assign([items.task(aTask("nocmd", { container: { Command: ["/nowhere"] } }))]);
    const status = await node.untilState("nocmd", "failed");
    expect(status.message).toBe("starting");
    expect(status.err).toContain("/nowhere");
  });

  test("a healthcheck gates running, and bad health fails the task", async () => {
    const container = {
      Command: ["sh", "-c", "sleep 600 & wait"],
      Healthcheck: {
        Test: ["CMD", "test", "-e", "/tmp/healthy"],
        Interval: 100_000_000,
        Timeout: 2_000_000_000,
        Retries: 1,
        StartPeriod: 60_000_000_000,
      },
    };
    const task = aTask("health", { container });
    const bad = aTask("sick", {
      slot: 2,
      container: { ...container, Healthcheck: { ...container.Healthcheck, StartPeriod: 0 } },
    });
    node.assign([items.task(task), items.task(bad)]);
    const sick = await node.untilState("sick", "failed");
    expect(sick.err).toBe("task: non-zero exit (137): dockerexec: unhealthy container");
    expect(node.sequence("sick")).not.toContain("running started");
    expect(node.last("health")?.state).toBe("starting");
    engine.docker("exec", taskName(task), "touch", "/tmp/healthy");
    await node.untilState("health", "running");
  });

  test("a container killed or removed by hand fails its task", async () => {
    const [killed, removed] = [aTask("killed"), aTask("removed", { slot: 2 })];
    node.assign([items.task(killed), items.task(removed)]);
    await node.untilState("killed", "running");
    await node.untilState("removed", "running");
    engine.docker("kill", taskName(killed));
    engine.docker("rm", "-f", taskName(removed));
    expect(await node.untilState("killed", "failed")).toMatchObject({
      err: "task: non-zero exit (137)",
    });
    expect((await node.untilState("removed", "failed")).err).toBe(
      `No such container: ${taskName(removed)}`,
    );
  });

  test("a restarted reconciler adopts the container, and tells an exit it was away for", async () => {
    const [stays, ends] = [aTask("stays"), aTask("ends", { slot: 2 })];
    node.assign([items.task(stays), items.task(ends)]);
    const before = await node.untilState("stays", "running");
    await node.untilState("ends", "running");
    await node.reconciler.stop();
    engine.docker("stop", "-t", "0", taskName(ends));
    const finishedAt = engine.docker("inspect", "-f", "{{.State.FinishedAt}}", taskName(ends));
    node = startNode(engine, node.sent);
    // A manager is heard.
    node.reconciler.reportAll();
    const ended = await node.untilState("ends", "failed");
    expect(ended.err).toBe("task: non-zero exit (137)");
    expect(ended.atMs).toBe(Date.parse(finishedAt));
    // Nothing is assigned again: it goes on from the journal.
    await until("reported again", WAIT_MS, () => node.sent.get("stays")?.state === "running");
    expect(engine.docker("inspect", "-f", "{{.Id}}", taskName(stays))).toBe(
      before.container?.id ?? "",
    );
    expect(node.sequence("stays")).toEqual([]);
  });

  test("what ended with its host goes on when no manager is heard, and fails once when one is", async () => {
    const withPolicy = (task: Task, Condition: "on-failure" | "none"): Task => ({
      ...task,
      spec: { ...task.spec, RestartPolicy: { Condition } },
    });
    const tasks = [
      aTask("lost"),
      withPolicy(aTask("failing", { slot: 2 }), "on-failure"),
      withPolicy(aTask("once", { slot: 3 }), "none"),
    ];
    node.assign(tasks.map((task) => items.task(task)));
    for (const { id } of tasks) await node.untilState(id, "running");
    await node.reconciler.stop();
    for (const task of tasks) engine.docker("stop", "-t", "0", taskName(task));
    const clock = { aheadMs: 0 };
    node = startNode(engine, node.sent, clock);
    clock.aheadMs = 27_000;
    // Its policy says that it does not go on: no manager need be heard for that.
    await node.untilState("once", "failed");
    expect(node.sequence("lost")).toEqual([]);
    const isRunning = (task: Task) =>
      engine.docker("inspect", "-f", "{{.State.Running}}", taskName(task)) === "true";
    expect(tasks.map(isRunning)).toEqual([false, false, false]);
    for (const task of tasks.slice(0, 2)) {
      await until(`${task.id} goes on`, WAIT_MS, () => isRunning(task));
    }
    await until("its pid is known", WAIT_MS, () => node.sequence("lost").length > 0);
    expect(node.sequence("lost")).toEqual(["running started"]);
    // From now on it is as any other.
    engine.docker("kill", taskName(tasks[0]!));
    expect((await node.untilState("lost", "failed")).err).toBe("task: non-zero exit (137)");
    node.reconciler.reportAll();
    expect(isRunning(tasks[1]!)).toBe(true);
  }, 30_000);

  test("an engine restart harms no task", async () => {
    const task = aTask("lasting");
    node.assign([items.task(task)]);
    const before = await node.untilState("lasting", "running");
    await engine.halt();
    const late = aTask("late", { slot: 2 });
    node.assign([items.task(late)]);
    await engine.resume();
    await node.untilState("late", "running");
    expect(node.last("lasting")).toEqual(before);
    expect(engine.docker("inspect", "-f", "{{.Id}}", taskName(task))).toBe(
      before.container?.id ?? "",
    );
  }, 40_000);

  test("overlay legs have their addresses, secrets are files in memory, all goes with the task", async () => {
    const alpha = aNetwork("netalpha0001", { name: "alpha" });
    const beta = aNetwork("netbeta00002", {
      name: "beta",
      subnet: "10.77.2.0/24",
      gateway: "10.77.2.1",
    });
    const task = aTask("net", {
      networks: [
        { networkId: beta.id, address: "10.77.2.9", aliases: ["web"] },
        { networkId: alpha.id, address: "10.77.1.9", aliases: ["web"] },
      ],
      container: {
        Secrets: [
          {
            File: { Name: "pass", UID: "7", GID: "8", Mode: 0o440 },
            SecretID: "s1",
            SecretName: "pass",
          },
        ],
        Mounts: [{ Type: "volume", Target: "/data" }],
      },
    });
    node.assign([
      items.network(alpha),
      items.network(beta),
      items.secret(aSecret("s1", "pass", "xyzzy")),
      items.task(task),
    ]);
    await node.untilState("net", "running");
    const name = taskName(task);
    const exec = (...args: string[]) => engine.docker("exec", name, ...args);
    expect(exec("cat", "/run/secrets/pass")).toBe("xyzzy");
    expect(exec("stat", "-c", "%a %u %g", "/run/secrets/pass")).toBe("440 7 8");
    expect(exec("ip", "-4", "addr")).toContain("10.77.1.9/24");
    expect(exec("ip", "-4", "addr")).toContain("10.77.2.9/24");
    expect(exec("ip", "route")).toContain("default via 10.77.1.1");
    expect(engine.docker("inspect", "-f", "{{.HostConfig.Dns}}", name)).toBe("[10.77.1.1]");
    expect(node.networks()).toEqual([alpha.id, beta.id]);
    const dir = join(engine.dir, "tasks", task.id);
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    expect(engine.docker("volume", "ls", "-q")).not.toBe("");
    node.assign([], { removed: ["task/net"] });
    await until("the container is gone", WAIT_MS, () => engine.docker("ps", "-aq") === "");
    expect(existsSync(dir)).toBe(false);
    expect(engine.docker("volume", "ls", "-q")).toBe("");
    await until("it is forgotten", WAIT_MS, () => node.journal.records().size === 0);
    // Networks removed by hand are made again.
    engine.docker("network", "rm", "alpha", "beta");
    node.assign([items.task({ ...task, id: "net2" })]);
    await node.untilState("net2", "running");
    expect(engine.docker("network", "ls", "--format", "{{.Name}}")).toContain("beta");
  });

  test("a host-mode port is bound and told", async () => {
    const port = { Protocol: "tcp", TargetPort: 80, PublishedPort: 0, PublishMode: "host" };
    node.assign([items.task(aTask("port", { ports: [port] }))]);
    const { ports } = await node.untilState("port", "running");
    expect(ports).toEqual([{ ...port, PublishMode: "host", PublishedPort: expect.any(Number) }]);
    expect(ports?.[0]?.PublishedPort).toBeGreaterThan(0);
  });

  test("containers of others are never touched", async () => {
    const labels = (cluster: string) =>
      [
        `shoal.cluster.id=${cluster}`,
        "shoal.task.id=gone",
        "com.docker.swarm.task.name=web.1.gone",
      ].flatMap((label) => ["--label", label]);
    engine.docker("create", "--name", "other", ...labels("cluster2"), TEST_IMAGE, "true");
    // As run from an image committed from a task's container: our labels, another name.
    engine.docker("create", "--name", "copy", ...labels("cluster1"), TEST_IMAGE, "true");
    engine.docker("create", "--name", "web.1.gone", ...labels("cluster1"), TEST_IMAGE, "true");
    node.assign([]);
    await until("the unwanted one is gone", WAIT_MS, () => {
      return engine.docker("ps", "-a", "--format", "{{.Names}}") === "copy\nother";
    });
    engine.docker("rm", "copy", "other");
  });

  test("a container that somebody renamed is still the task's", async () => {
    node.assign([items.task(aTask("renamed"))]);
    const { container } = await node.untilState("renamed", "running");
    engine.docker("rename", container?.id ?? "", "anything");
    await node.reconciler.stop();
    node = startNode(engine, node.sent);
    node.reconciler.reportAll();
    await until("it is told again", WAIT_MS, () => node.sent.get("renamed")?.state === "running");
    expect(engine.docker("ps", "-a", "--format", "{{.Names}}")).toBe("anything");
    node.assign([], { isComplete: true });
    await until("it is gone", WAIT_MS, () => engine.docker("ps", "-aq") === "");
  });

  test("the worker thread answers its protocol", async () => {
    const worker = new Worker(new URL("../../../agent/reconciler-worker.ts", import.meta.url));
    const client = workerClient<ReconcilerInput, ReconcilerAnswer, ReconcilerOutput>(
      worker,
      "reconciler",
    );
    const exited = new Promise<{ code: number }>((resolve) => client.onExit(resolve));
    const dir = join(engine.dir, "worker-node");
    expect(await client.request({ type: "init", engineSocket: engine.socket, dir })).toEqual({
      type: "ready",
    });
    const answer = await client.request({ type: "describe" });
    expect(answer).toMatchObject({
      description: { Platform: { OS: "linux" }, Engine: { EngineVersion: expect.any(String) } },
    });
    expect(statSync(join(dir, "node.db")).mode & 0o777).toBe(0o600);
    expect(await client.request({ type: "wipe" })).toEqual({ type: "done" });
    expect(await client.request({ type: "stop" })).toEqual({ type: "done" });
    expect((await exited).code).toBe(0);
  });

  test("wipe removes containers and networks and forgets", async () => {
    const alpha = aNetwork("netalpha0001", { name: "alpha" });
    const networks = [{ networkId: alpha.id, address: "10.77.1.9", aliases: [] }];
    node.assign([items.network(alpha), items.task(aTask("wiped", { networks }))]);
    await node.untilState("wiped", "running");
    await node.reconciler.wipe();
    expect(engine.docker("ps", "-aq")).toBe("");
    expect(engine.docker("network", "ls", "-q", "--filter", "label=shoal.network.id")).toBe("");
    expect(node.journal.assignments()).toEqual([]);
  });
});

type TestNode = ReturnType<typeof startNode>;

function startNode(
  engine: TestEngine,
  sent = new Map<string, TaskStatus>(),
  clock = { aheadMs: 0 },
) {
  const docker = createDocker(engine.socket);
  const journal = openJournal(join(engine.dir, "node"));
  const reported: { taskId: string; status: TaskStatus }[] = [];
  const last = new Map([...journal.records()].map(([id, record]) => [id, record.status]));
  let networkIds: string[] = [];
  const output = (output: ReconcilerOutput) => {
    if (output.type === "networks-present") networkIds = output.networkIds;
    if (output.type !== "statuses") return;
    for (const { taskId, status } of output.statuses) sent.set(taskId, status);
  };
  const reconciler: Reconciler = startReconciler({
    docker,
    images: createImages(docker),
    networks: createDockerNetworks(docker, 1_500),
    files: createTaskFiles(join(engine.dir, "tasks")),
    // The journal sees every status, the output only the latest of each batch.
    journal: {
      ...journal,
      putRecord: (taskId, record) => {
        journal.putRecord(taskId, record);
        reported.push({ taskId, status: record.status });
        last.set(taskId, record.status);
      },
    },
    nowMs: () => Date.now() + clock.aheadMs,
    output,
  });
  return {
    reconciler,
    journal,
    sent,
    networks: () => networkIds,
    last: (taskId: string) => last.get(taskId),
    sequence: (taskId: string) =>
      reported
        .filter((item) => item.taskId === taskId)
        .map(({ status }) => `${status.state} ${status.message}`),
    assign: (put: AssignmentItem[], { isComplete = false, removed = [] as string[] } = {}) =>
      reconciler.assignments({
        isComplete: isComplete || !journal.hasCompleteSet(),
        put: [items.settings(aSettings()), ...put],
        removed,
      }),
    untilState: (taskId: Task["id"], state: TaskStatus["state"]) =>
      until(`${taskId} is ${state}`, WAIT_MS, () => {
        const status = last.get(taskId);
        return status?.state === state ? status : undefined;
      }),
  };
}
