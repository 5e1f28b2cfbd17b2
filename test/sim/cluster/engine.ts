/**
 * A Docker engine that outlives the agent: containers, networks, images, and everything that goes wrong
 * with one. It serves the reconciler's narrow port (agent/reconciler/docker.ts) and keeps its rules: names
 * are unique, a static address belongs to one running container of a network, an image must be there.
 */
import { ClusterError } from "../../../core/errors.ts";
import type { Random } from "../../../core/random.ts";
import type { ContainerBody, EndpointConfig } from "../../../agent/reconciler/container-spec.ts";
import type {
  ContainerDetails,
  Docker,
  EngineEvent,
  NetworkSummary,
} from "../../../agent/reconciler/docker.ts";
import type { ClusterFaults } from "./faults.ts";
import { EPOCH_MS, type Process, type VirtualTime } from "./virtual-time.ts";

export type SimContainer = {
  id: string;
  name: string;
  labels: Record<string, string>;
  body: ContainerBody;
  /** Engine's network name → address. */
  legs: Map<string, string>;
  state: "created" | "running" | "exited";
  startedAtMs: number | undefined;
  finishedAtMs: number | undefined;
  exitCode: number;
  pid: number;
  health: "starting" | "healthy" | "unhealthy" | undefined;
};

export type EngineObserver = {
  started(container: SimContainer): void;
  ended(container: SimContainer): void;
};

export type SimEngine = {
  /** The port for one life of the agent. */
  portFor(process: Process): Docker;
  containers: Map<string, SimContainer>;
  networks: Map<string, NetworkSummary>;
  /** Nobody can ask it for a while. */
  goAway(durationMs: number, isContainersEnd: boolean): void;
  /** A running container ends by itself. */
  endOne(): void;
  heal(): void;
};

/** Images: `missing` cannot be pulled, `flaky` ends soon, `sick` becomes unhealthy, until the faults end. */
const FLAKY_LIFE_MS = 8_000;

export function createSimEngine(options: {
  time: VirtualTime;
  random: Random;
  faults: ClusterFaults;
  name: string;
  observer: EngineObserver;
}): SimEngine {
  const { time, random, faults, name, observer } = options;
  const { world } = time;
  const containers = new Map<string, SimContainer>();
  const networks = new Map<string, NetworkSummary>();
  const images = new Set<string>();
  let awayUntilMs = 0;
  let isHealed = false;
  let nextId = 1;
  let watchers: { process: Process; onEvent(event: EngineEvent): void; onEnd(): void }[] = [];

  const isAway = () => awayUntilMs > world.nowMs;
  const away = () =>
    new ClusterError("unavailable", "Cannot ask the Docker Engine: connection refused", {
      retry: "later",
    });
  const failure = (status: number, text: string) =>
    new ClusterError("docker", text, { details: { status } });

  const emit = (containerId: string | undefined) => {
    for (const watcher of watchers) {
      if (random.next() < faults.engineEventLossRate) continue;
      const event = containerId === undefined ? {} : { containerId };
      time.post(watcher.process, random.next() * 5, () => watcher.onEvent(event));
    }
  };

  const end = (container: SimContainer, exitCode: number) => {
    if (container.state !== "running") return;
    container.state = "exited";
    container.exitCode = exitCode;
    container.pid = 0;
    container.finishedAtMs = world.nowMs;
    observer.ended(container);
    emit(container.id);
  };

  const start = (container: SimContainer) => {
    if (container.state === "running") return;
    for (const other of containers.values()) {
      if (other === container || other.state !== "running") continue;
      for (const [network, address] of container.legs) {
        if (other.legs.get(network) === address) throw failure(403, "Address already in use");
      }
    }
    container.state = "running";
    container.pid = nextId++;
    container.startedAtMs = world.nowMs;
    container.finishedAtMs = undefined;
    container.health = container.body.Healthcheck ? "starting" : undefined;
    observer.started(container);
    emit(container.id);
    const { startedAtMs } = container;
    const isThis = () => container.state === "running" && container.startedAtMs === startedAtMs;
    const { Image } = container.body;
    if (container.health) {
      world.schedule(200 + random.next() * 2_000, () => {
        if (!isThis()) return;
        container.health = Image.startsWith("sick") && !isHealed ? "unhealthy" : "healthy";
        emit(container.id);
      });
    }
    if (Image.startsWith("flaky")) {
      world.schedule(random.next() * FLAKY_LIFE_MS, () => {
        if (isThis() && !isHealed) end(container, random.next() < 0.5 ? 1 : 0);
      });
    }
  };

  const stop = (container: SimContainer, graceMs: number, done: () => void) => {
    if (container.state !== "running") {
      done();
      return;
    }
    const { startedAtMs } = container;
    const takesMs = random.next() < 0.1 ? graceMs : Math.min(graceMs, random.next() * 400);
    world.schedule(takesMs, () => {
      const isThis = container.startedAtMs === startedAtMs;
      if (isThis) end(container, takesMs === graceMs ? 137 : random.next() < 0.5 ? 0 : 143);
      done();
    });
  };

  /** One call: later, perhaps refused, perhaps without an answer. */
  const call = <T>(process: Process, act: () => T, isRead = false): Promise<T> =>
    callLater(process, (done) => done(act()), isRead);
  const callLater = <T>(
    process: Process,
    act: (done: (result: T) => void) => void,
    isRead = false,
  ): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      const back = (settle: () => void) => time.post(process, 0.1 + random.next(), settle);
      const slowMs =
        random.next() < faults.engineSlowRate ? random.next() * faults.engineSlowMs : 0;
      world.schedule(0.2 + random.next() * faults.engineCallMsMax + slowMs, () => {
        if (isAway()) {
          back(() => reject(away()));
          return;
        }
        if (!isRead && random.next() < faults.engineFailRate) {
          back(() => reject(failure(500, "simulated engine error")));
          return;
        }
        const isLost = random.next() < faults.engineReplyLostRate;
        try {
          act((result) => back(() => (isLost ? reject(away()) : resolve(result))));
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
          back(() => reject(error));
        }
      });
    });

  const found = (id: string): SimContainer | undefined =>
    containers.get(id) ?? [...containers.values()].find((container) => container.name === id);

  const portFor = (process: Process): Docker => ({
    info: () =>
      call(
        process,
        () => ({
          name,
          version: "25.0.0",
          architecture: "x86_64",
          os: "linux",
          cpuCount: 4,
          memoryBytes: 8 * 2 ** 30,
          labels: [],
          plugins: {},
        }),
        true,
      ),
    listContainers: (label) =>
      call(
        process,
        () =>
          [...containers.values()]
            .filter((container) => hasLabel(container.labels, label))
            .map((container) => container.id),
        true,
      ),
    inspectContainer: (id) => call(process, () => detailsOf(found(id)), true),
    createContainer: (containerName, body) =>
      call(process, () => {
        if (found(containerName))
          throw failure(409, `Conflict. The name ${containerName} is in use`);
        if (!images.has(body.Image)) throw failure(404, `No such image: ${body.Image}`);
        const id = `${name}-c${nextId++}`;
        const container: SimContainer = {
          id,
          name: containerName,
          labels: body.Labels,
          body,
          legs: new Map(),
          state: "created",
          startedAtMs: undefined,
          finishedAtMs: undefined,
          exitCode: 0,
          pid: 0,
          health: undefined,
        };
        const first = body.NetworkingConfig?.EndpointsConfig ?? {};
        for (const [network, endpoint] of Object.entries(first)) {
          addLeg(container, network, endpoint);
        }
        containers.set(id, container);
        emit(id);
        return id;
      }),
    startContainer: (id) =>
      call(process, () => {
        const container = containers.get(id);
        if (!container) throw failure(404, `No such container: ${id}`);
        start(container);
      }),
    stopContainer: (id, graceSeconds) =>
      callLater<void>(process, (done) => {
        const container = containers.get(id);
        if (container) stop(container, graceSeconds * 1_000, done);
        else done();
      }),
    removeContainer: (id) =>
      call(process, () => {
        const container = containers.get(id);
        if (!container) return;
        end(container, 137);
        containers.delete(id);
        emit(id);
      }),
    hasImage: (reference) => call(process, () => images.has(reference), true),
    pullImage: (reference) =>
      call(process, () => {
        if (reference.startsWith("missing") && !isHealed) {
          throw failure(404, `pull access denied for ${reference}`);
        }
        images.add(reference);
      }),
    createVolume: () => call(process, () => undefined),
    listNetworks: (label) =>
      call(
        process,
        () => [...networks.values()].filter((network) => hasLabel(network.labels, label)),
        true,
      ),
    createNetwork: (body) =>
      call(process, () => {
        const id = `${name}-n${nextId++}`;
        networks.set(id, { id, name: body.Name, labels: body.Labels });
        emit(undefined);
      }),
    removeNetwork: (id) =>
      call(process, () => {
        const network = networks.get(id);
        if (!network) return;
        const isUsed = [...containers.values()].some(
          (container) => container.state === "running" && container.legs.has(network.name),
        );
        if (isUsed) throw failure(403, `network ${network.name} has active endpoints`);
        networks.delete(id);
        emit(undefined);
      }),
    connectNetwork: (network, containerName, endpoint) =>
      call(process, () => {
        const container = found(containerName);
        if (!container) throw failure(404, `No such container: ${containerName}`);
        if (container.legs.has(network))
          throw failure(403, `endpoint already exists in ${network}`);
        addLeg(container, network, endpoint);
        emit(container.id);
      }),
    // No networks of local drivers here.
    inspectNetwork: () => call(process, () => undefined),
    watchEvents: async (handlers) => {
      await call(process, () => undefined, true);
      const watcher = { process, ...handlers };
      watchers.push(watcher);
      return {
        close: () => {
          watchers = watchers.filter((other) => other !== watcher);
        },
      };
    },
  });

  const addLeg = (container: SimContainer, network: string, endpoint: EndpointConfig) => {
    const isKnown = [...networks.values()].some((other) => other.name === network);
    if (!isKnown) throw failure(404, `network ${network} not found`);
    container.legs.set(network, endpoint.IPAMConfig?.IPv4Address ?? "");
  };

  return {
    portFor,
    containers,
    networks,
    goAway: (durationMs, isContainersEnd) => {
      awayUntilMs = Math.max(awayUntilMs, world.nowMs + durationMs);
      const ended = watchers;
      watchers = [];
      for (const watcher of ended) time.post(watcher.process, 1, () => watcher.onEnd());
      if (isContainersEnd) for (const container of containers.values()) end(container, 137);
    },
    endOne: () => {
      const running = [...containers.values()].filter(({ state }) => state === "running");
      const container = running[Math.floor(random.next() * running.length)];
      if (container) end(container, random.next() < 0.6 ? 1 : 0);
    },
    heal: () => {
      isHealed = true;
      awayUntilMs = 0;
    },
  };
}

function hasLabel(labels: Record<string, string>, wanted: string): boolean {
  const at = wanted.indexOf("=");
  return labels[wanted.slice(0, at)] === wanted.slice(at + 1);
}

const NEVER = "0001-01-01T00:00:00Z";

/** As far as observe.ts reads it. */
function detailsOf(container: SimContainer | undefined): ContainerDetails | undefined {
  if (!container) return undefined;
  const isRunning = container.state === "running";
  const text = (ms: number | undefined) =>
    ms === undefined ? NEVER : new Date(EPOCH_MS + Math.floor(ms)).toISOString();
  return {
    Id: container.id,
    Name: `/${container.name}`,
    State: {
      Status: container.state,
      Running: isRunning,
      Restarting: false,
      Pid: container.pid,
      ExitCode: container.exitCode,
      StartedAt: text(container.startedAtMs),
      FinishedAt: text(isRunning ? undefined : container.finishedAtMs),
      ...(container.health ? { Health: { Status: container.health } } : {}),
    },
    Config: {
      Labels: container.labels,
      StopTimeout: container.body.StopTimeout,
      ...(container.body.Healthcheck ? { Healthcheck: container.body.Healthcheck } : {}),
    },
    NetworkSettings: {
      Networks: Object.fromEntries([...container.legs.keys()].map((key) => [key, {}])),
      Ports: {},
    },
  } as unknown as ContainerDetails;
}
