/**
 * One engine step → calls. Every step may be repeated at any point: it first looks what is there.
 * What came of it is found by the next observation; the outcome only tells why it was not done.
 */
import { unreachable } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import type { NodeSettings } from "../../core/dispatcher/assignment.ts";
import type { Network } from "../../core/objects/network.ts";
import type { Config, Secret } from "../../core/objects/secret.ts";
import type { Task } from "../../core/objects/task.ts";
import { type ContainerPlan, containerPlan, STOP_GRACE_SECONDS_DEFAULT } from "./container-spec.ts";
import { type Docker, isEngineAway } from "./docker.ts";
import type { Images } from "./image.ts";
import { dockerNetworkName, type DockerNetworks } from "./networks.ts";
import type { ObservedContainer } from "./observed.ts";
import { type Plugins, preparePlugin } from "./plugins.ts";
import type { EngineStep } from "./task-step.ts";
import type { TaskFiles } from "./task-files.ts";

/** What is wanted of this node, by id. */
export type Wanted = {
  settings?: NodeSettings | undefined;
  tasks: Map<string, Task>;
  networks: Map<string, Network>;
  secrets: Map<string, Secret>;
  configs: Map<string, Config>;
};

export type StepOutcome =
  | { type: "done" }
  /** Nothing is known but that the engine could not be asked; not the task's fault. */
  | { type: "engine-away"; message: string }
  | { type: "failed"; message: string; isFatal: boolean };

export type ExecutePorts = {
  docker: Docker;
  images: Images;
  networks: DockerNetworks;
  files: TaskFiles;
  /** Absent: services of runtime plugin are refused. */
  plugins?: Plugins;
};

export type ExecuteInput = {
  step: EngineStep;
  wanted: Wanted;
  platform: { architecture: string; os: string; engineVersion?: string };
  container: ObservedContainer | undefined;
  /** Of a plugin's task: the plugin, and whether what there is of it is ours. */
  plugin?: { name: string; isOwn: boolean } | undefined;
  /** Aborted when the task is to stop: a pull is not waited for any longer. */
  signal: AbortSignal;
};

/** Carries out the step. Never rejects but for a bug. */
export async function executeStep(ports: ExecutePorts, input: ExecuteInput): Promise<StepOutcome> {
  try {
    await runStep(ports, input);
    return { type: "done" };
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    // Something of the assignment has not arrived yet; the task waits a bounded time for it.
    if (error.code === "failed-precondition") {
      return { type: "failed", message: error.message, isFatal: false };
    }
    if (isEngineAway(error)) return { type: "engine-away", message: error.message };
    // A container that cannot be stopped or removed now is tried again for ever; SwarmKit likewise.
    const isFatal = input.step.type === "prepare" || input.step.type === "start";
    return { type: "failed", message: error.message, isFatal };
  }
}

async function runStep(ports: ExecutePorts, input: ExecuteInput): Promise<void> {
  const { step, plugin } = input;
  if (plugin) {
    await runPluginStep(ports, input, plugin);
    return;
  }
  switch (step.type) {
    case "prepare":
      await prepare(ports, input);
      return;
    case "start": {
      const { plan } = planOf(ports, input);
      ports.files.write(step.taskId, plan.files);
      await ports.docker.startContainer(step.containerId);
      return;
    }
    case "stop":
      await ports.docker.stopContainer(
        step.containerId,
        input.container?.stopGraceSeconds ?? STOP_GRACE_SECONDS_DEFAULT,
      );
      return;
    case "remove":
      ports.files.remove(step.taskId);
      await ports.docker.removeContainer(step.containerId);
      return;
    default:
      unreachable(step);
  }
}

async function runPluginStep(
  { plugins, files }: ExecutePorts,
  { step, wanted }: ExecuteInput,
  { name, isOwn }: NonNullable<ExecuteInput["plugin"]>,
): Promise<void> {
  if (!plugins) throw new ClusterError("invalid-argument", `Cannot have plugin ${name} here`);
  const { PluginSpec, ContainerSpec } = wanted.tasks.get(step.taskId)?.spec ?? {};
  switch (step.type) {
    case "prepare": {
      const registryAuth = ContainerSpec?.PullOptions?.RegistryAuth;
      if (PluginSpec) await preparePlugin(plugins, PluginSpec, { isOwn, registryAuth });
      return;
    }
    case "start":
      if (!PluginSpec?.disabled) await plugins.enable(name);
      return;
    case "stop":
      await plugins.disable(name);
      return;
    case "remove":
      files.remove(step.taskId);
      await plugins.remove(name);
      return;
    default:
      unreachable(step);
  }
}

async function prepare(ports: ExecutePorts, input: ExecuteInput): Promise<void> {
  const { docker, images, networks, files } = ports;
  const { step, wanted, signal } = input;
  const { plan, task, clusterId } = planOf(ports, input);
  for (const leg of plan.legs) {
    const network = wanted.networks.get(leg.networkId);
    if (network) await networks.ensure(network, clusterId);
  }
  await untilAborted(images.ensure(task.spec.ContainerSpec), signal);
  if (signal.aborted) return;
  if (!input.container) {
    files.write(step.taskId, plan.files);
    for (const volume of plan.volumes) await docker.createVolume(volume);
    await docker.createContainer(plan.name, plan.body);
  }
  await connectLegs(docker, plan, input.container);
}

/** The first leg came with the creation; what an earlier try connected is left. */
async function connectLegs(
  docker: Docker,
  plan: ContainerPlan,
  container: ObservedContainer | undefined,
): Promise<void> {
  const connected = new Set(
    container?.dockerNetworks ?? plan.legs.slice(0, 1).map(dockerNetworkOf),
  );
  for (const leg of plan.legs) {
    if (connected.has(leg.dockerNetwork)) continue;
    // By their names: both are unique in an engine, and known without asking.
    await docker.connectNetwork(leg.dockerNetwork, plan.name, leg.endpoint);
  }
}

function dockerNetworkOf(leg: ContainerPlan["legs"][number]): string {
  return leg.dockerNetwork;
}

function planOf(ports: ExecutePorts, input: ExecuteInput) {
  const { wanted, step } = input;
  const task = wanted.tasks.get(step.taskId);
  const { settings } = wanted;
  if (!task || !settings) {
    // Unassigned since the step was planned; the next plan knows.
    throw new ClusterError(
      "failed-precondition",
      `task ${step.taskId} is not assigned to this node`,
    );
  }
  const plan = containerPlan({
    task,
    settings,
    platform: input.platform,
    networks: wanted.networks,
    secrets: wanted.secrets,
    configs: wanted.configs,
    dockerNetworkName,
    filesDir: ports.files.dirOf(task.id),
  });
  return { plan, task, clusterId: settings.clusterId };
}

async function untilAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) {
    work.catch(() => {});
    return;
  }
  let onAbort = () => {};
  const aborted = new Promise<void>((resolve) => {
    onAbort = resolve;
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
    // Left alone after an abort: its failure is nobody's any more.
    work.catch(() => {});
  }
}
