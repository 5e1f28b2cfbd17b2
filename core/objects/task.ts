import type { NetworkId, NodeId, RaftIndex, ServiceId, TaskId, UnixMs } from "../ids.ts";
import type { ContainerOptions } from "./container-options.ts";
import type { GenericResource } from "./generic-resource.ts";
import type { Labels, Nanoseconds, ObjectMeta } from "./object-meta.ts";

/** ContainerSpec in the Docker API's shape. Source: Docker Engine API, TaskSpec.ContainerSpec. */
export type ContainerSpec = {
  Image: string;
  Labels?: Labels;
  Command?: string[];
  Args?: string[];
  Hostname?: string;
  Env?: string[];
  Dir?: string;
  User?: string;
  Groups?: string[];
  Privileges?: Record<string, unknown>;
  Init?: boolean;
  StopSignal?: string;
  TTY?: boolean;
  OpenStdin?: boolean;
  ReadOnly?: boolean;
  Mounts?: Record<string, unknown>[];
  StopGracePeriod?: Nanoseconds;
  Healthcheck?: {
    Test?: string[];
    Interval?: Nanoseconds;
    Timeout?: Nanoseconds;
    Retries?: number;
    StartPeriod?: Nanoseconds;
    StartInterval?: Nanoseconds;
  };
  Hosts?: string[];
  DNSConfig?: { Nameservers?: string[]; Search?: string[]; Options?: string[] };
  Secrets?: Record<string, unknown>[];
  Configs?: Record<string, unknown>[];
  Isolation?: string;
  Sysctls?: Record<string, string>;
  CapabilityAdd?: string[];
  CapabilityDrop?: string[];
  Ulimits?: { Name: string; Hard: number; Soft: number }[];
  OomScoreAdj?: number;
  /** Credentials for the pull, stored here by the API border from X-Registry-Auth. Never shown. */
  PullOptions?: { RegistryAuth: string };
  /** Ours: what Docker's API has no word for, as the user gave it. */
  Shoal?: ContainerOptions;
  /**
   * `Shoal` and the labels `shoal.…` of service and container, resolved by the API border: what the
   * node applies. In the task's spec, so that a changed service label replaces the tasks. Never shown.
   */
  EngineOptions?: ContainerOptions;
};

export type RestartPolicy = {
  Condition?: "none" | "on-failure" | "any";
  Delay?: Nanoseconds;
  MaxAttempts?: number;
  Window?: Nanoseconds;
};

/**
 * A plugin of each node's engine, in place of a container. Source: moby api/types/swarm/runtime, whose
 * names are written so.
 */
export type PluginSpec = {
  /** On the node; by default the remote's. */
  name?: string;
  remote: string;
  privileges?: { name: string; description?: string; value?: string[] }[];
  /** Installed, and not enabled. */
  disabled?: boolean;
  env?: string[];
};

export type TaskSpec = {
  /** Of a plugin: only what it is pulled from, and the credentials for that. */
  ContainerSpec: ContainerSpec;
  PluginSpec?: PluginSpec;
  Resources?: {
    Limits?: { NanoCPUs?: number; MemoryBytes?: number; Pids?: number };
    Reservations?: { NanoCPUs?: number; MemoryBytes?: number; GenericResources?: unknown[] };
    /** Swap beside MemoryBytes; -1 is without limit. Source: Docker Engine API 1.52. */
    SwapBytes?: number;
    /** 0 to 100; -1 is the host's. */
    MemorySwappiness?: number;
  };
  RestartPolicy?: RestartPolicy;
  Placement?: {
    Constraints?: string[];
    Preferences?: { Spread: { SpreadDescriptor: string } }[];
    MaxReplicas?: number;
    Platforms?: { Architecture?: string; OS?: string }[];
  };
  /** `Target` is a network id (the API border resolves names). */
  Networks?: { Target: string; Aliases?: string[]; DriverOpts?: Record<string, string> }[];
  LogDriver?: LogDriver;
  ForceUpdate?: number;
  Runtime?: string;
};

export type LogDriver = { Name: string; Options?: Record<string, string> };

/** How the task's container logs: as its service says, or else the cluster; else the engine decides. */
export function logDriverOf(task: Pick<Task, "spec" | "logDriver">): LogDriver | undefined {
  return task.spec.LogDriver ?? task.logDriver;
}

/** Order of the states; a status only moves forward. Source: SwarmKit api/types.proto TaskState. */
export const TASK_STATE_ORDER = {
  new: 0,
  pending: 64,
  assigned: 192,
  accepted: 256,
  preparing: 320,
  ready: 384,
  starting: 448,
  running: 512,
  complete: 576,
  shutdown: 640,
  failed: 704,
  rejected: 768,
  remove: 800,
  orphaned: 832,
} as const;
export type TaskState = keyof typeof TASK_STATE_ORDER;
/** What the manager wants of a task: held back, run, run to its end, stop, stop and forget. */
export type DesiredState = "ready" | "running" | "complete" | "shutdown" | "remove";

export function taskStateAtLeast(state: TaskState, other: TaskState): boolean {
  return TASK_STATE_ORDER[state] >= TASK_STATE_ORDER[other];
}
/** True when the container can no longer run: complete, shutdown, failed, rejected, orphaned. */
export function isTaskDead(state: TaskState): boolean {
  return TASK_STATE_ORDER[state] > TASK_STATE_ORDER.running;
}

export type TaskStatus = {
  state: TaskState;
  atMs: UnixMs;
  /** Stock Swarm's words: created, pending task scheduling, …, started, finished, shutdown. */
  message: string;
  err?: string;
  container?: { id: string; pid: number; exitCode: number };
  /** Host-mode ports as the engine bound them. */
  ports?: { Protocol: string; TargetPort: number; PublishedPort: number; PublishMode: "host" }[];
};

export type TaskNetwork = {
  networkId: NetworkId;
  /** Address without prefix length; absent for node-local networks (host, bridge). */
  address?: string;
  /** On overlay networks with IPv6. */
  address6?: string;
  aliases: string[];
};

export type Task = ObjectMeta & {
  serviceId: ServiceId;
  /** Copied from the service, so that a task outlives it with a name. */
  serviceName: string;
  serviceLabels: Labels;
  /**
   * Counted from 1 for replicated services and jobs, 0 for global ones. Users see those of jobs
   * counted from 0: `shownSlot`.
   */
  slot: number;
  /** Absent until scheduled. */
  nodeId?: NodeId;
  spec: TaskSpec;
  /** The service's specVersion from which it was made. */
  specVersion: RaftIndex;
  desiredState: DesiredState;
  status: TaskStatus;
  /** Written by the allocator; absent while state is `new`. */
  networks?: TaskNetwork[];
  /** The service's ports at the time, with published ports filled in. */
  ports?: { Protocol: string; TargetPort: number; PublishedPort: number; PublishMode: string }[];
  /** Restart delay: the orchestrator sets desiredState to `running` from this time on. */
  startAfterMs?: UnixMs;
  /** The cluster's default at the time, where the service names none. Source: SwarmKit, NewTask. */
  logDriver?: LogDriver;
  /** Jobs only: which run of the job it belongs to. Source: SwarmKit, JobIteration. */
  jobIteration?: number;
  /** What of its node's generic resources it is given; written by the scheduler with the node. */
  genericResources?: GenericResource[];
  /**
   * Where tasks of its slot and spec version failed shortly before it was made: the memory of the
   * scheduler, since history may be shorter than what makes a node be avoided.
   */
  recentFailures?: { taskId: TaskId; nodeId: NodeId; atMs: UnixMs }[];
  /** When it was first seen running, by its node's clock; recorded while its service is being updated. */
  runningAtMs?: UnixMs;
};

/** The slot as users see it: from 1, of jobs from 0; `undefined` for tasks that are a node's. */
export function shownSlot(task: Pick<Task, "slot" | "jobIteration">): number | undefined {
  if (task.slot === 0) return undefined;
  return task.jobIteration === undefined ? task.slot : task.slot - 1;
}

/** `<service>.<slot>.<task id>`, or the node id in place of the slot for global services. */
export function taskName(
  task: Pick<Task, "id" | "serviceName" | "slot" | "nodeId" | "jobIteration">,
): string {
  return `${task.serviceName}.${shownSlot(task) ?? task.nodeId ?? ""}.${task.id}`;
}
