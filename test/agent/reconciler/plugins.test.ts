import { describe, expect, test } from "bun:test";
import {
  type EnginePlugin,
  pluginContainers,
  pluginName,
  type Plugins,
  preparePlugin,
  takenOverPlugins,
} from "../../../agent/reconciler/plugins.ts";
import type { TaskRecord } from "../../../agent/reconciler/task-step.ts";
import type { PluginSpec, Task, TaskState } from "../../../core/objects/task.ts";
import { aTask } from "./wanted.ts";

const spec: PluginSpec = { name: "driver", remote: "reg:5000/lab:1", env: ["A=1"] };
const plugin = (set: Partial<EnginePlugin> = {}): EnginePlugin => ({
  id: "p1",
  name: "driver:latest",
  isEnabled: false,
  reference: "reg:5000/lab:1",
  env: ["A=1", "B=2"],
  ...set,
});
function pluginTask(id: string, set: Partial<Task> = {}, given: PluginSpec = spec): Task {
  const task = aTask(id, set);
  return { ...task, spec: { ...task.spec, PluginSpec: given } };
}
const record = (state: TaskState, isOurs = true): TaskRecord => ({
  status: { state, atMs: 1, message: "" },
  ...(isOurs ? { plugin: "driver:latest" } : {}),
});

test.each([
  [{ remote: "lab" }, "lab:latest"],
  [{ remote: "reg:5000/lab" }, "reg:5000/lab:latest"],
  [{ remote: "reg:5000/lab:1", name: "" }, "reg:5000/lab:1"],
  [{ remote: "lab:1", name: "mine" }, "mine:latest"],
])("pluginName() of %j is %s", (given, name) => {
  expect(pluginName(given)).toBe(name);
});

describe("pluginContainers()", () => {
  const seen = (state: TaskState, found: EnginePlugin, task = pluginTask("t")) =>
    pluginContainers([found], new Map([["t", task]]), new Map([["t", record(state)]])).get("t")
      ?.state;

  test.each([
    ["preparing", {}, "created"],
    ["preparing", { isEnabled: true }, undefined],
    ["preparing", { reference: "reg:5000/lab:0" }, undefined],
    ["preparing", { env: ["A=0"] }, undefined],
    ["starting", {}, "created"],
    ["starting", { isEnabled: true }, "running"],
    ["running", { isEnabled: true }, "running"],
    ["running", {}, "exited"],
    ["failed", { isEnabled: true }, "running"],
    ["failed", {}, "exited"],
  ] as const)("%s, the plugin %j: %s", (state, found, wanted) => {
    expect(seen(state, plugin(found))).toBe(wanted);
  });

  test("one that shall be disabled runs when it was started, and not when it shall go", () => {
    const disabled = { ...spec, disabled: true };
    expect(seen("ready", plugin(), pluginTask("t", {}, disabled))).toBe("created");
    expect(seen("running", plugin(), pluginTask("t", {}, disabled))).toBe("running");
    const stopped = pluginTask("t", { desiredState: "shutdown" }, disabled);
    expect(seen("running", plugin(), stopped)).toBe("exited");
  });

  test("belongs to the wanted task of those that name it, to nobody when a user installed it", () => {
    const tasks = new Map([
      ["new", pluginTask("new")],
      ["old", pluginTask("old", { desiredState: "shutdown", createdAtMs: 5_000 })],
    ]);
    const records = new Map([
      ["old", record("running")],
      ["gone", record("running")],
    ]);
    const enabled = plugin({ isEnabled: true });
    // Prepared anew by the new one; the old one has nothing any more.
    expect([...pluginContainers([enabled], tasks, records).keys()]).toEqual([]);
    expect([...pluginContainers([plugin()], tasks, records).keys()]).toEqual(["new"]);
    tasks.clear();
    records.delete("old");
    expect(pluginContainers([enabled], tasks, records).get("gone")?.state).toBe("running");
    expect(pluginContainers([enabled], tasks, new Map()).size).toBe(0);
  });
});

test("a task that follows another one owns its plugin before the other is forgotten", () => {
  const next = pluginTask("next", { status: { state: "assigned", atMs: 1, message: "" } });
  const records = new Map([["old", record("shutdown")]]);
  const taken = () => takenOverPlugins([plugin()], new Map([["next", next]]), records);
  expect([...taken()]).toEqual([["next", { status: next.status, plugin: "driver:latest" }]]);
  // It is removed before it has prepared anything: the plugin goes with it.
  records.delete("old");
  records.set("next", record("shutdown"));
  expect(taken().size).toBe(0);
  expect([...pluginContainers([plugin()], new Map(), records).keys()]).toEqual(["next"]);
  // A user's own is taken over by nobody.
  records.clear();
  expect(taken().size).toBe(0);
});

describe("preparePlugin()", () => {
  async function prepare(found: EnginePlugin[], isOwn: boolean, given = spec) {
    const calls: string[] = [];
    const plugins: Plugins = {
      list: async () => found,
      privilegesOf: async () => [{ Name: "network", Description: "", Value: ["host"] }],
      install: async ({ name, remote, isUpgrade }) =>
        void calls.push(`${isUpgrade ? "upgrade" : "pull"} ${name} ${remote}`),
      set: async (name, env) => void calls.push(`set ${name} ${env.join()}`),
      enable: async () => {},
      disable: async (name) => void calls.push(`disable ${name}`),
      remove: async () => {},
    };
    const privileged = { privileges: [{ name: "network", value: ["host"] }], ...given };
    const refusal = await preparePlugin(plugins, privileged, {
      isOwn,
      registryAuth: undefined,
    }).then(() => undefined, String);
    return refusal ?? calls;
  }

  test("installs, upgrades or only sets, as what there is needs it", async () => {
    const set = "set driver:latest A=1";
    expect(await prepare([], true)).toEqual(["pull driver:latest reg:5000/lab:1", set]);
    expect(await prepare([plugin({ isEnabled: true })], true)).toEqual([
      "disable driver:latest",
      set,
    ]);
    const old = plugin({ reference: "docker.io/lab:1", isEnabled: true });
    expect(await prepare([old], true)).toEqual([
      "disable driver:latest",
      "upgrade driver:latest reg:5000/lab:1",
      set,
    ]);
  });

  test("leaves a plugin of the user's own, and grants what the spec names only", async () => {
    expect(await prepare([plugin()], false)).toContain("plugin already exists: driver:latest");
    const ungranted = await prepare([], true, { ...spec, privileges: [] });
    expect(ungranted).toContain("also wants network [host]");
  });
});
