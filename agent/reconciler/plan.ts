/**
 * The node's plan: wanted tasks × observed containers × time → at most one step a task, and which
 * networks to make and drop. Pure; whatever has a step under way is left alone until it was observed
 * again.
 */
import type { UnixMs } from "../../core/ids.ts";
import type { Network } from "../../core/objects/network.ts";
import { isTaskDead, type Task } from "../../core/objects/task.ts";
import { madeNetworkIds } from "./container-spec.ts";
import { holdsPlaceOf } from "./networks.ts";
import type { Observed } from "./observed.ts";
import {
  type Attempt,
  currentRecord,
  stepTask,
  type TaskRecord,
  type TaskStep,
} from "./task-step.ts";

export type PlanInput = {
  /** Wanted tasks by id. */
  tasks: ReadonlyMap<string, Task>;
  networks: ReadonlyMap<string, Network>;
  records: ReadonlyMap<string, TaskRecord>;
  attempts: ReadonlyMap<string, Attempt>;
  /** Tasks with an engine step under way. */
  busyTaskIds: ReadonlySet<string>;
  observed: Observed;
  dockerNetworkName(network: Network): string;
  /** Networks that users' containers here are on, or about to be. */
  attachedNetworkIds: ReadonlySet<string>;
  nowMs: UnixMs;
  /** Of tasks whose end nobody saw: when they go on (task-step.ts). */
  restartsAtMs?: ReadonlyMap<string, UnixMs>;
};

export type ReconcilerPlan = { steps: TaskStep[]; wakeAtMs?: UnixMs };

/** Steps for all tasks, ordered by task id. */
export function planTasks(input: PlanInput): ReconcilerPlan {
  const { tasks, records, observed, busyTaskIds } = input;
  const ids = new Set([...tasks.keys(), ...records.keys(), ...observed.containers.keys()]);
  const plan: ReconcilerPlan = { steps: [] };
  for (const id of [...ids].sort()) {
    if (busyTaskIds.has(id)) continue;
    const task = tasks.get(id);
    const { step, wakeAtMs } = stepTask(id, {
      task,
      record: records.get(id),
      container: observed.containers.get(id),
      attempt: input.attempts.get(id),
      wantedDockerNetworks: task ? wantedDockerNetworks(task, input) : [],
      nowMs: input.nowMs,
      restartAtMs: input.restartsAtMs?.get(id),
    });
    if (step) plan.steps.push(step);
    if (wakeAtMs !== undefined) plan.wakeAtMs = Math.min(wakeAtMs, plan.wakeAtMs ?? wakeAtMs);
  }
  return plan;
}

function wantedDockerNetworks(task: Task, input: PlanInput): string[] {
  return madeNetworkIds(task, input.networks).flatMap((id) => {
    const network = input.networks.get(id);
    return network ? [input.dockerNetworkName(network)] : [];
  });
}

/**
 * An overlay network that no local task uses is kept this long: a replacement task mostly comes soon. One
 * of a local driver is not, since it may hold what another wants (the parent device of a macvlan).
 */
export const NETWORK_LINGER_MS = 30_000;

export type NetworkPlan = {
  create: Network[];
  /** Ids of networks whose bridge is dropped. */
  remove: string[];
  /** When each network was last used, for the next plan. */
  lastUsedMs: Map<string, UnixMs>;
  wakeAtMs?: UnixMs;
};

/**
 * Bridges that live tasks need and that are missing (also: removed by hand), and those that none has
 * needed for NETWORK_LINGER_MS (overlays only). A bridge found unused for the first time starts its time now.
 */
export function planNetworks(
  input: PlanInput & { lastUsedMs: ReadonlyMap<string, UnixMs> },
): NetworkPlan {
  const { observed, nowMs } = input;
  const used = new Set<string>(input.attachedNetworkIds);
  for (const task of input.tasks.values()) {
    const { status } = currentRecord(task, input.records.get(task.id));
    const isWanted = task.desiredState !== "shutdown" && task.desiredState !== "remove";
    if (isWanted && !isTaskDead(status.state)) {
      for (const id of madeNetworkIds(task, input.networks)) used.add(id);
    }
  }
  // Also of tasks that are not wanted any more. The engine lets go of a container's legs only at the end
  // of the stop, after the container was seen to have exited.
  const attached = new Set<string>();
  for (const container of observed.containers.values()) {
    if (container.state !== "running" && !input.busyTaskIds.has(container.taskId)) continue;
    for (const name of container.dockerNetworks) attached.add(name);
  }
  for (const { networkId, name } of observed.networks.values()) {
    if (attached.has(name)) used.add(networkId);
  }
  const plan: NetworkPlan = { create: [], remove: [], lastUsedMs: new Map() };
  /** A removed network's bridge has the name or the subnet of one that is to be made here: it goes first, at once. */
  const awaitedIds = new Set<string>();
  for (const id of used) {
    const network = input.networks.get(id);
    if (!network || observed.networks.has(id)) continue;
    const inTheWay = [...observed.networks.values()].filter((other) =>
      holdsPlaceOf(other, network),
    );
    for (const { networkId } of inTheWay) awaitedIds.add(networkId);
    if (inTheWay.length === 0) plan.create.push(network);
  }
  for (const [id, { isLocal }] of observed.networks) {
    const lastMs = used.has(id) ? nowMs : (input.lastUsedMs.get(id) ?? nowMs);
    plan.lastUsedMs.set(id, lastMs);
    if (used.has(id)) continue;
    const dueMs = lastMs + (isLocal || awaitedIds.has(id) ? 0 : NETWORK_LINGER_MS);
    if (dueMs <= nowMs) plan.remove.push(id);
    else plan.wakeAtMs = Math.min(dueMs, plan.wakeAtMs ?? dueMs);
  }
  return plan;
}
