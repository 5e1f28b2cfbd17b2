import { describe, expect, test } from "bun:test";
import type { Docker } from "../../../agent/reconciler/docker.ts";
import { executeStep, type ExecutePorts, type Wanted } from "../../../agent/reconciler/execute.ts";
import type { ObservedContainer } from "../../../agent/reconciler/observed.ts";
import type { EngineStep } from "../../../agent/reconciler/task-step.ts";
import { ClusterError } from "../../../core/errors.ts";
import type { Task } from "../../../core/objects/task.ts";
import { aContainer, aNetwork, aSettings, aTask } from "./wanted.ts";

const alpha = aNetwork("neta", { name: "alpha" });
const beta = aNetwork("netb", { name: "beta" });
const both = {
  networks: [
    { networkId: "neta", address: "10.77.1.9", aliases: [] },
    { networkId: "netb", address: "10.77.2.9", aliases: [] },
  ],
};

function setUp(task: Task, failure?: ClusterError) {
  const calls: string[] = [];
  const call = async (text: string) => {
    calls.push(text);
    if (failure) throw failure;
  };
  const docker: Partial<Docker> = {
    createContainer: async (name) => {
      await call(`create ${name}`);
      return "c1";
    },
    connectNetwork: (network, container) => call(`connect ${container} ${network}`),
    startContainer: (id) => call(`start ${id}`),
    stopContainer: (id, graceSeconds) => call(`stop ${id} ${graceSeconds}`),
    removeContainer: (id) => call(`remove ${id}`),
    createVolume: (body) => call(`volume ${body.Name}`),
  };
  let pulled = Promise.resolve();
  const ports: ExecutePorts = {
    // Other calls would be bugs and throw.
    docker: docker as Docker,
    images: { ensure: () => pulled },
    networks: {
      ensure: async (network) => void calls.push(`network ${network.id}`),
      remove: async () => {},
    },
    files: {
      dirOf: (taskId) => `/files/${taskId}`,
      write: () => void calls.push("write files"),
      remove: () => void calls.push("remove files"),
    },
  };
  const wanted: Wanted = {
    settings: aSettings(),
    tasks: new Map([[task.id, task]]),
    networks: new Map([alpha, beta].map((network) => [network.id, network])),
    secrets: new Map(),
    configs: new Map(),
  };
  const abort = new AbortController();
  return {
    calls,
    abort,
    neverPulled: () => (pulled = new Promise(() => {})),
    run: (step: EngineStep, container?: ObservedContainer) =>
      executeStep(ports, {
        step,
        wanted,
        container,
        signal: abort.signal,
        platform: { architecture: "x86_64", os: "linux" },
      }),
  };
}
const prepare: EngineStep = { type: "prepare", taskId: "t1" };

describe("executeStep()", () => {
  test("prepare makes networks, container and further legs", async () => {
    const { run, calls } = setUp(aTask("t1", both));
    expect(await run(prepare)).toEqual({ type: "done" });
    expect(calls).toEqual([
      "network neta",
      "network netb",
      "write files",
      "create web.1.t1",
      "connect web.1.t1 beta",
    ]);
  });

  test("prepare goes on where one that died half way stopped", async () => {
    const { run, calls } = setUp(aTask("t1", both));
    await run(prepare, aContainer({ state: "created", dockerNetworks: ["alpha"] }));
    expect(calls).toEqual(["network neta", "network netb", "connect web.1.t1 beta"]);
  });

  test("prepare stops waiting for a pull when it is aborted, and makes nothing", async () => {
    const { run, calls, abort, neverPulled } = setUp(aTask("t1"));
    void neverPulled();
    const running = run(prepare);
    abort.abort();
    expect(await running).toEqual({ type: "done" });
    expect(calls).toEqual([]);
  });

  test("remove deletes the files before the container, by which a repetition finds them", async () => {
    const { run, calls } = setUp(aTask("t1"));
    await run({ type: "remove", taskId: "t1", containerId: "c1" });
    expect(calls).toEqual(["remove files", "remove c1"]);
  });

  test("stop gives the container's own grace time", async () => {
    const { run, calls } = setUp(aTask("t1"));
    const step: EngineStep = { type: "stop", taskId: "t1", containerId: "c1" };
    await run(step, aContainer({ stopGraceSeconds: 42 }));
    expect(calls).toEqual(["stop c1 42"]);
  });

  const refused = new ClusterError("docker", "port is already allocated");
  const away = new ClusterError("unavailable", "away");
  const container = { taskId: "t1", containerId: "c1" };
  test.each([
    ["prepare refused", prepare, refused, { type: "failed", isFatal: true }],
    ["start refused", { type: "start", ...container }, refused, { type: "failed", isFatal: true }],
    ["stop refused", { type: "stop", ...container }, refused, { type: "failed", isFatal: false }],
    ["engine away", { type: "start", ...container }, away, { type: "engine-away" }],
  ] as [string, EngineStep, ClusterError, object][])(
    "%s gives its outcome",
    async (_name, step, failure, outcome) => {
      const { run } = setUp(aTask("t1"), failure);
      expect(await run(step, undefined)).toMatchObject({ ...outcome, message: failure.message });
    },
  );

  test("what has not arrived yet is no verdict on the task", async () => {
    const networks = [{ networkId: "gone", address: "10.0.0.1", aliases: [] }];
    const { run } = setUp(aTask("t1", { networks }));
    expect(await run(prepare)).toMatchObject({ type: "failed", isFatal: false });
  });
});
