/**
 * Plugins of the engine that services of runtime `plugin` want on this node: installed, set, enabled;
 * disabled and removed again. The task state machine (task-step.ts) is that of containers: an installed
 * plugin is shown to it as one, so that preparing is to install, starting to enable, stopping to disable.
 *
 * Invariants:
 * P1. A plugin has one task at a time: of those that name it the one that is wanted, else the newest.
 * P2. Only what a task of ours has installed is changed or removed: which, is in the tasks' records
 *     (`plugin`), written before the installation. A plugin of the user's own rejects the task.
 *     Whose it is by P1 has it in its record before the record of the task before it can go.
 * P3. Privileges are granted that the spec names, no others.
 *
 * Source: moby daemon/cluster/controllers/plugin/controller.go.
 */
import { ClusterError } from "../../core/errors.ts";
import {
  isTaskDead,
  type PluginSpec,
  type Task,
  taskStateAtLeast,
} from "../../core/objects/task.ts";
import type { ObservedContainer } from "./observed.ts";
import { currentRecord, type TaskRecord } from "./task-step.ts";

export type EnginePlugin = {
  id: string;
  /** With its tag. */
  name: string;
  isEnabled: boolean;
  /** What it was installed from. */
  reference: string;
  env: readonly string[];
};
export type Privilege = { Name: string; Description: string; Value: string[] };

/** The engine's calls; errors as docker.ts. */
export type Plugins = {
  list(): Promise<EnginePlugin[]>;
  privilegesOf(remote: string, registryAuth: string | undefined): Promise<Privilege[]>;
  /** Pulls it under this name, or another version of one that is disabled. Ends when it is there. */
  install(
    what: { name: string; remote: string; isUpgrade: boolean; privileges: Privilege[] },
    registryAuth: string | undefined,
  ): Promise<void>;
  set(name: string, env: readonly string[]): Promise<void>;
  enable(name: string): Promise<void>;
  disable(name: string): Promise<void>;
  /** Also when it is gone already. */
  remove(name: string): Promise<void>;
};

/** The plugin's name on the node, with its tag. */
export function pluginName(spec: PluginSpec): string {
  return withTag(spec.name || spec.remote);
}

function withTag(name: string): string {
  return /:[^/]+$/.test(name) || name.includes("@") ? name : `${name}:latest`;
}

/** Names of plugins that a task here has, or had, installed. */
export function ownPlugins(records: ReadonlyMap<string, TaskRecord>): Set<string> {
  return new Set([...records.values()].flatMap(({ plugin }) => plugin ?? []));
}

/** True when the engine need not be asked: no task here is or was a plugin. */
export function hasNoPlugins(
  tasks: ReadonlyMap<string, Task>,
  records: ReadonlyMap<string, TaskRecord>,
): boolean {
  for (const { spec } of tasks.values()) if (spec.PluginSpec) return false;
  for (const { plugin } of records.values()) if (plugin !== undefined) return false;
  return true;
}

/** P2: the tasks that take a plugin over from another one, with the record to write down for each. */
export function takenOverPlugins(
  plugins: readonly EnginePlugin[],
  tasks: ReadonlyMap<string, Task>,
  records: ReadonlyMap<string, TaskRecord>,
): Map<string, TaskRecord> {
  const own = ownPlugins(records);
  const taken = new Map<string, TaskRecord>();
  for (const { name } of plugins) {
    const taskId = own.has(name) ? ownerOf(name, tasks, records) : undefined;
    const task = taskId === undefined ? undefined : tasks.get(taskId);
    if (!task || records.get(task.id)?.plugin === name) continue;
    taken.set(task.id, { ...currentRecord(task, records.get(task.id)), plugin: name });
  }
  return taken;
}

/** What the tasks' plugins look like as containers, by task id. */
export function pluginContainers(
  plugins: readonly EnginePlugin[],
  tasks: ReadonlyMap<string, Task>,
  records: ReadonlyMap<string, TaskRecord>,
): Map<string, ObservedContainer> {
  const own = ownPlugins(records);
  const found = new Map<string, ObservedContainer>();
  for (const plugin of plugins) {
    if (!own.has(plugin.name)) continue;
    const taskId = ownerOf(plugin.name, tasks, records);
    if (taskId === undefined) continue;
    const state = stateOf(plugin, tasks.get(taskId), records.get(taskId));
    if (state === undefined) continue;
    found.set(taskId, {
      id: plugin.id,
      taskId,
      name: plugin.name,
      state,
      pid: 0,
      exitCode: 0,
      stopGraceSeconds: 0,
      dockerNetworks: [],
      hostPorts: [],
    });
  }
  return found;
}

/** P1. */
function ownerOf(
  name: string,
  tasks: ReadonlyMap<string, Task>,
  records: ReadonlyMap<string, TaskRecord>,
): string | undefined {
  let owner: { id: string; rank: number[] } | undefined;
  for (const id of new Set([...tasks.keys(), ...records.keys()])) {
    const task = tasks.get(id);
    const wanted = task?.spec.PluginSpec && pluginName(task.spec.PluginSpec);
    if ((wanted ?? records.get(id)?.plugin) !== name) continue;
    const rank = [task && isLive(task, records.get(id)) ? 2 : task ? 1 : 0, task?.createdAtMs ?? 0];
    const isBefore = (index: number) => (rank[index] ?? 0) - (owner?.rank[index] ?? -1);
    if ((isBefore(0) || isBefore(1)) >= 0) owner = { id, rank };
  }
  return owner?.id;
}

function isLive(task: Task, record: TaskRecord | undefined): boolean {
  const isWanted = task.desiredState !== "shutdown" && task.desiredState !== "remove";
  return isWanted && !isTaskDead(currentRecord(task, record).status.state);
}

/** `undefined`: not (yet) what the task wants, so that it is prepared. */
function stateOf(
  plugin: EnginePlugin,
  task: Task | undefined,
  record: TaskRecord | undefined,
): ObservedContainer["state"] | undefined {
  const spec = task?.spec.PluginSpec;
  if (!task || !spec || !isLive(task, record)) return plugin.isEnabled ? "running" : "exited";
  const { state } = currentRecord(task, record).status;
  if (!taskStateAtLeast(state, "ready")) {
    return !plugin.isEnabled && isAsWanted(plugin, spec) ? "created" : undefined;
  }
  if (plugin.isEnabled) return "running";
  // One that shall be there and disabled runs as soon as it was started.
  if (spec.disabled) return taskStateAtLeast(state, "starting") ? "running" : "created";
  return taskStateAtLeast(state, "running") ? "exited" : "created";
}

function isAsWanted(plugin: EnginePlugin, spec: PluginSpec): boolean {
  return isFrom(plugin, spec) && (spec.env ?? []).every((line) => plugin.env.includes(line));
}

/** The engine tells references in full. */
function isFrom({ reference }: EnginePlugin, { remote }: PluginSpec): boolean {
  return reference === withTag(remote) || reference.endsWith(`/${withTag(remote)}`);
}

/**
 * Has the plugin there as the spec wants it, disabled. `isOwn`: what is there, a task of ours installed.
 * @throws {ClusterError} docker: the engine refuses; or privileges are missing, or the name is taken.
 */
export async function preparePlugin(
  plugins: Plugins,
  spec: PluginSpec,
  { isOwn, registryAuth }: { isOwn: boolean; registryAuth: string | undefined },
): Promise<void> {
  const name = pluginName(spec);
  const { remote } = spec;
  const present = (await plugins.list()).find((plugin) => plugin.name === name);
  if (present && !isOwn) {
    throw new ClusterError(
      "docker",
      `plugin already exists: ${name}: it was not installed by a service; remove it from this node, or give the service's plugin another name`,
    );
  }
  if (present?.isEnabled) await plugins.disable(name);
  if (!present || !isFrom(present, spec)) {
    const privileges = await plugins.privilegesOf(remote, registryAuth);
    refuseMissingPrivileges(remote, spec, privileges);
    await plugins.install(
      { name, remote, isUpgrade: present !== undefined, privileges },
      registryAuth,
    );
  }
  if (spec.env?.length) await plugins.set(name, spec.env);
}

/** P3. The engine itself only says that they are not the same. */
function refuseMissingPrivileges(remote: string, spec: PluginSpec, wanted: Privilege[]): void {
  const missing = wanted.flatMap(({ Name, Value }) => {
    const given = spec.privileges?.find(({ name }) => name === Name)?.value ?? [];
    const values = Value.filter((value) => !given.includes(value));
    return values.length > 0 ? [`${Name} [${values.join(" ")}]`] : [];
  });
  if (missing.length === 0) return;
  throw new ClusterError(
    "docker",
    `incorrect privileges: plugin ${remote} also wants ${missing.join(", ")}: name them in the privileges of the service's PluginSpec, if it may have them`,
  );
}
