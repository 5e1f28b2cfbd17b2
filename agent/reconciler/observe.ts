/**
 * The engine → what is observed. Everything is listed at the beginning, and every resync anew; between,
 * only what an event or an own step touched is inspected, for a list of all costs the engine more the
 * more containers it has. Events never say what to do, only what to look at.
 *
 * A container is ours when its label names our cluster and its name is the task's: an image that somebody
 * committed from a task's container has our labels too, and what runs from it must not be touched. One
 * that is known stays ours, whatever name somebody gives it.
 */
import type { UnixMs } from "../../core/ids.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import {
  CLUSTER_ID_LABEL,
  LOCAL_CONFIG_LABEL,
  STOP_GRACE_SECONDS_DEFAULT,
  TASK_ID_LABEL,
  TASK_NAME_LABEL,
} from "./container-spec.ts";
import type { ContainerDetails, Docker, NetworkSummary } from "./docker.ts";
import type { Observed, ObservedContainer, ObservedNetwork } from "./observed.ts";

/** Inspections at once. */
const INSPECT_CONCURRENCY = 8;

export type Observer = {
  /**
   * `busyTaskIds`: their containers are left for later, as they were. The engine answers an inspection
   * only when a start or stop of that container is over, and all others would wait for it.
   * @throws {ClusterError} unavailable, docker: nothing is known of the engine's state then.
   */
  observe(clusterId: string, busyTaskIds?: ReadonlySet<string>): Promise<Observed>;
  /** The container of this id or name is inspected at the next observation. */
  markStale(container: string): void;
  /** The networks are listed again. */
  markNetworksStale(): void;
  /** Everything is looked at anew. */
  markAllStale(): void;
};

/** `isKnown`: the container was the task's when it was reported last. */
export function createObserver(
  docker: Docker,
  isKnown: (taskId: string, containerId: string) => boolean,
): Observer {
  /** By container id. */
  const seen = new Map<string, ObservedContainer>();
  let networks = new Map<string, ObservedNetwork>();
  let stale = new Set<string>();
  let isListDue = true;
  let areNetworksStale = true;

  const inspect = async (clusterId: string, ref: string) => {
    const details = await docker.inspectContainer(ref);
    const labels = details?.Config.Labels ?? {};
    const name = details?.Name.replace(/^\//, "");
    const taskId = labels[TASK_ID_LABEL];
    const isOurs =
      details &&
      taskId &&
      labels[CLUSTER_ID_LABEL] === clusterId &&
      (labels[TASK_NAME_LABEL] === name || seen.has(details.Id) || isKnown(taskId, details.Id));
    if (isOurs) seen.set(details.Id, observedContainer(details, taskId));
    else if (details) seen.delete(details.Id);
    else {
      for (const [id, container] of seen) {
        if (id === ref || container.name === ref) seen.delete(id);
      }
    }
  };

  return {
    markStale: (container) => void stale.add(container),
    markNetworksStale: () => {
      areNetworksStale = true;
    },
    markAllStale: () => {
      isListDue = true;
    },
    observe: async (clusterId, busyTaskIds) => {
      // Taken before asking: what becomes stale meanwhile is for the next time.
      const wasListDue = isListDue;
      const wereNetworksStale = areNetworksStale || isListDue;
      const staleNow = stale;
      stale = new Set();
      isListDue = false;
      areNetworksStale = false;
      try {
        const label = `${CLUSTER_ID_LABEL}=${clusterId}`;
        const [listed, listedNetworks] = await Promise.all([
          wasListDue ? docker.listContainers(label) : undefined,
          wereNetworksStale ? docker.listNetworks(label) : undefined,
        ]);
        if (listed) {
          const ids = new Set(listed);
          for (const id of seen.keys()) if (!ids.has(id)) seen.delete(id);
          for (const id of ids) staleNow.add(id);
        }
        const refs: string[] = [];
        for (const ref of staleNow) {
          const known = seen.get(ref);
          if (known && busyTaskIds?.has(known.taskId)) stale.add(ref);
          else refs.push(ref);
        }
        for (let i = 0; i < refs.length; i += INSPECT_CONCURRENCY) {
          const some = refs.slice(i, i + INSPECT_CONCURRENCY);
          await Promise.all(some.map((ref) => inspect(clusterId, ref)));
        }
        if (listedNetworks) networks = observedNetworks(listedNetworks);
      } catch (error) {
        for (const ref of staleNow) stale.add(ref);
        isListDue ||= wasListDue;
        areNetworksStale ||= wereNetworksStale;
        throw error;
      }
      return {
        containers: new Map([...seen.values()].map((container) => [container.taskId, container])),
        networks,
      };
    },
  };
}

function observedNetworks(listed: NetworkSummary[]): Map<string, ObservedNetwork> {
  const networks = new Map<string, ObservedNetwork>();
  for (const { id, name, labels, subnets = [] } of listed) {
    const networkId = labels[NETWORK_ID_LABEL];
    if (!networkId) continue;
    const isLocal = labels[LOCAL_CONFIG_LABEL] !== undefined;
    networks.set(networkId, {
      dockerId: id,
      name,
      networkId,
      subnets,
      ...(isLocal ? { isLocal } : {}),
    });
  }
  return networks;
}

/** An inspection's answer in the words of the task state machine. */
export function observedContainer(details: ContainerDetails, taskId: string): ObservedContainer {
  const { State: state, Config: config } = details;
  const finishedAtMs = timeMs(state.FinishedAt);
  const health = healthOf(details);
  const isRunning = state.Running || state.Restarting;
  return {
    id: details.Id,
    taskId,
    name: details.Name.replace(/^\//, ""),
    state: isRunning
      ? "running"
      : state.Status === "created" || timeMs(state.StartedAt) === undefined
        ? "created"
        : "exited",
    pid: state.Pid,
    exitCode: state.ExitCode,
    stopGraceSeconds: config.StopTimeout ?? STOP_GRACE_SECONDS_DEFAULT,
    ...(finishedAtMs === undefined || isRunning ? {} : { finishedAtMs }),
    ...(health ? { health } : {}),
    dockerNetworks: Object.keys(details.NetworkSettings.Networks ?? {}).sort(),
    hostPorts: hostPorts(details, config.ExposedPorts),
  };
}

function healthOf(details: ContainerDetails): ObservedContainer["health"] {
  const status = details.State.Health?.Status;
  if (status === "healthy" || status === "unhealthy" || status === "starting") return status;
  const test = details.Config.Healthcheck?.Test;
  // Not started yet: the image's or the spec's check is known, no verdict is.
  return test && test.length > 0 && test[0] !== "NONE" ? "starting" : undefined;
}

function hostPorts(
  details: ContainerDetails,
  exposed: unknown,
): NonNullable<ObservedContainer["hostPorts"]> {
  if (!exposed) return [];
  const ports: ObservedContainer["hostPorts"] = [];
  for (const [key, bindings] of Object.entries(details.NetworkSettings.Ports ?? {})) {
    const [target, protocol] = key.split("/");
    // An engine with IPv6 lists a port once an address family.
    const published = new Set((bindings ?? []).map((binding) => Number(binding.HostPort)));
    for (const port of published) {
      ports.push({
        Protocol: protocol ?? "tcp",
        TargetPort: Number(target),
        PublishedPort: port,
        PublishMode: "host",
      });
    }
  }
  return ports.sort((a, b) => a.PublishedPort - b.PublishedPort);
}

/** The engine writes year 1 for "never". */
function timeMs(text: string | undefined): UnixMs | undefined {
  const ms = Date.parse(text ?? "");
  return Number.isNaN(ms) || ms <= 0 ? undefined : ms;
}
