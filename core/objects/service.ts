import type { NetworkId, RaftIndex, UnixMs } from "../ids.ts";
import type { Labels, Nanoseconds, ObjectMeta } from "./object-meta.ts";
import type { SlotMemory } from "./stateful.ts";
import type { TaskSpec } from "./task.ts";

export type PortProtocol = "tcp" | "udp" | "sctp";
export type PublishMode = "ingress" | "host";
export type PortConfig = {
  Name?: string;
  Protocol?: PortProtocol;
  TargetPort: number;
  PublishedPort?: number;
  PublishMode?: PublishMode;
};
export type EndpointSpec = { Mode?: "vip" | "dnsrr"; Ports?: PortConfig[] };

export type FailureAction = "pause" | "continue" | "rollback";
export type UpdateConfig = {
  Parallelism?: number;
  Delay?: Nanoseconds;
  FailureAction?: FailureAction;
  Monitor?: Nanoseconds;
  MaxFailureRatio?: number;
  Order?: "stop-first" | "start-first";
};

export type ServiceMode = {
  Replicated?: { Replicas?: number };
  Global?: Record<string, never>;
  ReplicatedJob?: { MaxConcurrent?: number; TotalCompletions?: number };
  GlobalJob?: Record<string, never>;
};

/** ServiceSpec in the Docker API's shape, stored as the user gave it (defaults are not written in). */
export type ServiceSpec = {
  Name: string;
  Labels?: Labels;
  TaskTemplate: TaskSpec;
  Mode: ServiceMode;
  UpdateConfig?: UpdateConfig;
  RollbackConfig?: UpdateConfig;
  EndpointSpec?: EndpointSpec;
  /** Legacy place of TaskTemplate.Networks (API < 1.25); moved there by the API border. */
  Networks?: { Target: string; Aliases?: string[] }[];
};

export type UpdateState =
  | "updating"
  | "paused"
  | "completed"
  | "rollback_started"
  | "rollback_paused"
  | "rollback_completed";

export type Service = ObjectMeta & {
  spec: ServiceSpec;
  /** Index of the change that last set `spec`; tasks carry it. Set by apply. */
  specVersion: RaftIndex;
  previousSpec?: ServiceSpec;
  previousSpecVersion?: RaftIndex;
  /** Written by the allocator. Absent until it has run for this specVersion. */
  endpoint?: ServiceEndpoint;
  updateStatus?: {
    state: UpdateState;
    startedAtMs: UnixMs;
    completedAtMs?: UnixMs;
    message: string;
  };
  /** Jobs only. Set by the API border: 0 at the creation, one more with each update of the spec. */
  jobStatus?: { iteration: number; lastExecutionAtMs: UnixMs };
  /** Stateful services only (stateful.ts): what is remembered of each slot, by its number. */
  slots?: Record<number, SlotMemory>;
};

export type ServiceEndpoint = {
  /** The specVersion for which this was allocated. */
  specVersion: RaftIndex;
  mode: "vip" | "dnsrr";
  /** With PublishedPort, Protocol and PublishMode filled in. */
  ports: Required<Omit<PortConfig, "Name">>[];
  /** One per overlay network in vip mode; addresses without prefix length, IPv6 where the network has it. */
  virtualIps: { networkId: NetworkId; address: string; address6?: string }[];
};

export type ServiceModeName = "replicated" | "global" | "replicated-job" | "global-job";

/** The mode by the name that `docker service create --mode` gives it. */
export function modeOf(spec: ServiceSpec): ServiceModeName {
  if (spec.Mode.Global) return "global";
  if (spec.Mode.ReplicatedJob) return "replicated-job";
  return spec.Mode.GlobalJob ? "global-job" : "replicated";
}

/** True for services whose tasks run to their end, once. */
export function isJob(spec: ServiceSpec): boolean {
  return spec.Mode.ReplicatedJob !== undefined || spec.Mode.GlobalJob !== undefined;
}

/**
 * How often a replicated job is to complete, and in how many slots at once; `undefined` for other
 * modes. A MaxConcurrent of 0 means no limit (in stock Swarm such a job never runs).
 */
export function completionsOf(
  spec: ServiceSpec,
): { totalCount: number; concurrentMax: number } | undefined {
  const job = spec.Mode.ReplicatedJob;
  if (!job) return undefined;
  const totalCount = job.TotalCompletions ?? job.MaxConcurrent ?? 1;
  return { totalCount, concurrentMax: (job.MaxConcurrent ?? 1) || totalCount };
}

/** Wanted replicas: `undefined` for modes that do not count. */
export function replicasOf(spec: ServiceSpec): number | undefined {
  return spec.Mode.Replicated ? (spec.Mode.Replicated.Replicas ?? 1) : undefined;
}
