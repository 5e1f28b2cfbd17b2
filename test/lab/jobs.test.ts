/**
 * Jobs on real engines, by the stock docker CLI. The tests build on each other, in order, in one
 * lab: h1 is the manager, h2 a worker from the first, h3 joins in between.
 */
import { beforeAll, expect, test } from "bun:test";
import { waitFor } from "../../scripts/lab/command.ts";
import type { Lab } from "../../scripts/lab/lab.ts";
import { describeLab } from "./lab.ts";

let lab: Lab;
const lines = (text: string) => text.split("\n").filter((line) => line !== "");
const docker = (...args: string[]) => lab.host(1).docker(...args);
const shell = (script: string) => ["lab:latest", "sh", "-c", script];
const create = (name: string, mode: string, ...rest: string[]) =>
  docker("service", "create", "--no-resolve-image", "--name", name, "--mode", mode, ...rest);

/** What is shown under REPLICAS. */
const replicas = (name: string) =>
  docker("service", "ls", "--filter", `name=${name}`, "--format", "{{.Replicas}}");
const untilReplicas = (name: string, wanted: string | RegExp, timeoutMs = 30_000) =>
  waitFor(
    `${name} at ${wanted}`,
    async () => {
      const text = await replicas(name);
      if (typeof wanted === "string" ? text === wanted : wanted.test(text)) return text;
      throw new Error(`It is at "${text}"`);
    },
    { timeoutMs },
  );

type Task = {
  ID: string;
  Slot?: number;
  NodeID: string;
  DesiredState: string;
  Status: { State: string };
  JobIteration?: { Index?: number };
};
async function tasksOf(service: string): Promise<Task[]> {
  const filters = encodeURIComponent(JSON.stringify({ service: [service] }));
  const answer = await fetch(`http://lab/tasks?filters=${filters}`, {
    unix: lab.host(1).agentSocket(),
  });
  // The agent's own answer, whose form the API tests check.
  return (await answer.json()) as Task[];
}
const idsOf = async (service: string) => (await tasksOf(service)).map((task) => task.ID).sort();
const statesOf = async (service: string) =>
  (await tasksOf(service)).map((task) => task.Status.State).sort();
async function iteration(service: string): Promise<number> {
  const format = "{{.JobStatus.JobIteration.Index}} {{.JobStatus.LastExecution}}";
  const text = await docker("service", "inspect", "--format", format, service);
  expect(text).toMatch(/^\d+ 20\d\d-/);
  return Number(text.split(" ")[0]);
}
async function join(host: number): Promise<void> {
  const token = await docker("swarm", "join-token", "-q", "worker");
  await lab.host(host).docker("swarm", "join", "--token", token, `${lab.host(1).address}:2377`);
}
const nodeIs = (name: string, state: string) =>
  waitFor(
    `${name} to be ${state}`,
    async () =>
      lines(await docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}")).includes(
        `${name} ${state}`,
      ),
    { timeoutMs: 60_000 },
  );

describeLab("jobs", { hosts: 3, agents: true }, (made) => {
  beforeAll(async () => {
    lab = made();
    await docker("swarm", "init");
    await join(2);
    await nodeIs("h2", "Ready");
    const schedule = ["--label", "shoal.schedule=* * * * *"];
    const { code, stderr } = await lab
      .host(1)
      .tryRun(
        ["docker", "service", "create", "--detach", "--no-resolve-image", "--name", "tick"].concat(
          ["--mode", "replicated-job", ...schedule],
          shell("date"),
        ),
      );
    expect([code, stderr]).toEqual([0, expect.stringMatching(/tick runs first at 20\d\d-.*:00Z/)]);
  }, 60_000);

  test("a replicated job completes each slot, one at a time, and the CLI waits for it", async () => {
    const output = await create(
      "count",
      "replicated-job",
      "--replicas",
      "3",
      "--max-concurrent",
      "1",
      "--env",
      "SLOT={{.Task.Slot}}",
      ...shell("echo slot=$SLOT; sleep 1"),
    );
    expect(output).toContain("job complete");
    expect(await replicas("count")).toBe("0/1 (3/3 completed)");
    const ofMode = ["--filter", "mode=replicated-job", "--format", "{{.Name}} {{.Mode}}"];
    expect(lines(await docker("service", "ls", ...ofMode)).sort()).toEqual([
      "count replicated job",
      "tick replicated job",
    ]);
    const tasks = await tasksOf("count");
    expect(tasks.map((task) => task.Slot ?? 0).sort((a, b) => a - b)).toEqual([0, 1, 2]);
    expect(tasks.every((task) => task.DesiredState === "complete")).toBe(true);
    const states = await docker(
      "service",
      "ps",
      "--format",
      "{{.Name}} {{.CurrentState}}",
      "count",
    );
    expect(lines(states).every((line) => /^count\.\S+ Complete /.test(line))).toBe(true);
    expect(await iteration("count")).toBe(0);
    // Each slot had one container, and they did not overlap.
    const runs: { slot: string; from: string; to: string }[] = [];
    for (const host of [1, 2]) {
      const filter = "label=com.docker.swarm.service.name=count";
      for (const id of lines(await lab.host(host).engine("ps", "-aq", "--filter", filter))) {
        const format = "{{.State.StartedAt}} {{.State.FinishedAt}}";
        const times = await lab.host(host).engine("inspect", "--format", format, id);
        const [from = "", to = ""] = times.split(" ");
        runs.push({ slot: await lab.host(host).engine("logs", id), from, to });
      }
    }
    runs.sort((a, b) => (a.from < b.from ? -1 : 1));
    expect(runs.map((run) => run.slot)).toEqual(["slot=0", "slot=1", "slot=2"]);
    expect(runs.every((run, i) => i === 0 || (runs[i - 1]?.to ?? "") <= run.from)).toBe(true);
  }, 90_000);

  test("any update and a scale run it again, with new tasks only", async () => {
    const first = await idsOf("count");
    const updated = await docker("service", "update", "--label-add", "a=b", "count");
    expect(updated).toContain("job complete");
    const second = await idsOf("count");
    expect(second.filter((id) => first.includes(id))).toEqual([]);
    expect([await iteration("count"), await replicas("count")]).toEqual([1, "0/1 (3/3 completed)"]);
    expect(await docker("service", "scale", "count=2")).toContain("job complete");
    expect([await iteration("count"), await replicas("count")]).toEqual([2, "0/1 (2/2 completed)"]);
    expect((await tasksOf("count")).map((task) => task.JobIteration?.Index)).toEqual([2, 2]);
    expect(await docker("service", "rollback", "count")).toContain("job complete");
    expect([await iteration("count"), await replicas("count")]).toEqual([3, "0/1 (3/3 completed)"]);
  }, 120_000);

  test("an update while it runs stops the run before", async () => {
    const grace = ["--stop-grace-period", "1s"];
    await create(
      "long",
      "replicated-job",
      "-d",
      "--replicas",
      "2",
      ...grace,
      ...shell("exec sleep 300"),
    );
    await untilReplicas("long", "2/2 (0/2 completed)");
    const before = await idsOf("long");
    const output = await docker("service", "update", "--args", "true", "long");
    expect(output).toContain("job complete");
    await waitFor("the first tasks to be forgotten", async () =>
      (await idsOf("long")).every((id) => !before.includes(id)),
    );
    expect(await statesOf("long")).toEqual(["complete", "complete"]);
    await docker("service", "rm", "long");
  }, 90_000);

  test("failing tasks are tried again as the policy says, in each slot and on each node", async () => {
    const policy = ["--restart-max-attempts", "2", "--restart-delay", "200ms"];
    await create("bad", "replicated-job", "-d", "--replicas", "2", ...policy, ...shell("exit 3"));
    await create("everybad", "global-job", "-d", ...policy, ...shell("exit 4"));
    for (const name of ["bad", "everybad"]) {
      await waitFor(
        `${name} to give up`,
        async () => (await statesOf(name)).filter((state) => state === "failed").length === 6,
        { timeoutMs: 60_000 },
      );
    }
    const once = ["--restart-condition", "none"];
    await create("once", "replicated-job", "-d", ...once, ...shell("exit 5"));
    await waitFor("the one try", async () => (await statesOf("once")).includes("failed"));
    // Long after the delay: nothing was added.
    await Bun.sleep(3_000);
    expect(await statesOf("bad")).toEqual(Array(6).fill("failed"));
    expect(await statesOf("everybad")).toEqual(Array(6).fill("failed"));
    expect(await statesOf("once")).toEqual(["failed"]);
    expect(await replicas("bad")).toBe("0/2 (0/2 completed)");
    expect(await replicas("everybad")).toBe("0/2 (0/2 completed)");
    // An update gives it another chance.
    expect(await docker("service", "update", "--args", "true", "bad")).toContain("job complete");
    await docker("service", "rm", "bad", "everybad", "once");
  }, 120_000);

  test("a global job runs once on each node, also on one that joins later", async () => {
    const output = await create("each", "global-job", ...shell("sleep 1"));
    expect(output).toContain("job complete");
    expect(await replicas("each")).toBe("0/0 (2/2 completed)");
    await join(3);
    await untilReplicas("each", "0/0 (3/3 completed)", 60_000);
    const tasks = await tasksOf("each");
    expect(new Set(tasks.map((task) => task.NodeID)).size).toBe(3);
    expect(tasks.every((task) => task.Slot === undefined)).toBe(true);
    expect(await docker("service", "update", "--force", "each")).toContain("job complete");
    expect(await replicas("each")).toBe("0/0 (3/3 completed)");
  }, 120_000);

  test("refuses what jobs cannot have", async () => {
    const post = async (path: string, body: unknown) => {
      const answer = await fetch(`http://lab${path}`, {
        method: "POST",
        unix: lab.host(1).agentSocket(),
        body: JSON.stringify(body),
      });
      return `${answer.status} ${await answer.text()}`;
    };
    const spec = {
      Name: "wrong",
      TaskTemplate: { ContainerSpec: { Image: "lab:latest" } },
      Mode: { ReplicatedJob: {} },
    };
    expect(await post("/services/create", { ...spec, UpdateConfig: {} })).toContain(
      "Jobs may not have an update config",
    );
    const scaled = await lab.host(1).tryRun(["docker", "service", "scale", "each=2"]);
    expect(`${scaled.stdout}${scaled.stderr}`).toContain("can only be used with replicated");
  }, 30_000);

  test("completed tasks survive a restart of the manager and the loss of their nodes; running ones move", async () => {
    const place = ["--constraint", "node.hostname!=h1"];
    await create(
      "move",
      "replicated-job",
      "-d",
      "--replicas",
      "2",
      ...place,
      ...shell("exec sleep 600"),
    );
    await untilReplicas("move", "2/2 (0/2 completed)");
    const before = [await idsOf("count"), await idsOf("each")];
    await lab.host(2).killAgent("SIGKILL");
    await lab.host(1).killAgent("SIGKILL");
    await lab.host(1).startAgent();
    await nodeIs("h2", "Down");
    const nodeId = await docker("node", "inspect", "--format", "{{.ID}}", "h3");
    await waitFor(
      "both slots to run on h3",
      async () =>
        (await tasksOf("move")).filter(
          (task) =>
            task.NodeID === nodeId &&
            task.DesiredState === "complete" &&
            task.Status.State === "running",
        ).length === 2,
      { timeoutMs: 60_000 },
    );
    await docker("node", "rm", "--force", "h2");
    await docker("node", "update", "--availability", "drain", "h1");
    await docker("node", "update", "--availability", "active", "h1");
    await Bun.sleep(3_000);
    expect(await replicas("count")).toBe("0/1 (3/3 completed)");
    expect(await idsOf("count")).toEqual(before[0] ?? []);
    // A global job's completions go with their node.
    expect(await replicas("each")).toBe("0/0 (2/2 completed)");
    const left = await idsOf("each");
    expect(left.every((id) => before[1]?.includes(id))).toBe(true);
    expect(left.length).toBe(2);
  }, 180_000);

  test("a job with a schedule has run by itself, and runs at once when it is forced", async () => {
    // The minutes since it was made are over but for the rest of one.
    await waitFor("a run", async () => (await iteration("tick")) > 0, { timeoutMs: 65_000 });
    await untilReplicas("tick", "0/1 (1/1 completed)");
    const runs = await iteration("tick");
    await docker("service", "update", "--detach", "--label-add", "a=b", "tick");
    await docker("service", "update", "--detach", "--force", "tick");
    expect(await iteration("tick")).toBeGreaterThan(runs);
    await untilReplicas("tick", "0/1 (1/1 completed)");
    expect(await lab.host(1).run(["shoal", "why", "tick"])).toContain("It runs next at 20");
  }, 120_000);
});
