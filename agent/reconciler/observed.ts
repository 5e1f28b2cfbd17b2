/** What the engine was seen to have for a task, in the words of the task state machine. */
import type { UnixMs } from "../../core/ids.ts";
import type { TaskStatus } from "../../core/objects/task.ts";

export type ObservedContainer = {
  id: string;
  taskId: string;
  name: string;
  /** `created`: never started. `running` includes paused. `exited`: was started and has ended. */
  state: "created" | "running" | "exited";
  pid: number;
  exitCode: number;
  finishedAtMs?: UnixMs;
  /** Between the stop signal and the kill, as it was created with. */
  stopGraceSeconds: number;
  /** The engine's health verdict; absent when it has no healthcheck. */
  health?: "starting" | "healthy" | "unhealthy";
  /** Names of the engine's networks that it is attached to. */
  dockerNetworks: string[];
  /** Host-mode ports as bound now. */
  hostPorts: NonNullable<TaskStatus["ports"]>;
};

/** The engine's network that stands for one of the cluster here. */
export type ObservedNetwork = {
  dockerId: string;
  name: string;
  networkId: string;
  /** What no other network of this engine can have meanwhile. */
  subnets?: string[];
  /** Of a local driver (core/objects/network.ts, isNodeLocal); else the bridge of an overlay network. */
  isLocal?: true;
};

export type Observed = {
  /** By task id. */
  containers: ReadonlyMap<string, ObservedContainer>;
  /** By network id. */
  networks: ReadonlyMap<string, ObservedNetwork>;
};
