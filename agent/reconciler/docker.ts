/**
 * The narrow port to the engine, and its implementation over dockerode on the engine's socket. Every
 * call has a deadline, so that an engine that hangs delays but never stops the reconciler.
 *
 * Errors: ClusterError `unavailable` when the engine could not be asked or did not answer (nothing is
 * known then: look again later); `docker` with the engine's own text and `details.status` when it refused.
 */
import Dockerode from "dockerode";
import { ClusterError } from "../../core/errors.ts";
import type { ContainerBody, EndpointConfig, VolumeBody } from "./container-spec.ts";

export type ContainerDetails = Dockerode.ContainerInspectInfo & {
  // In the Engine API, not in dockerode's type.
  Config: { StopTimeout?: number };
};
export type NetworkSummary = {
  id: string;
  name: string;
  labels: Record<string, string>;
  subnets?: string[];
};
export type EngineInfo = {
  name: string;
  version: string;
  architecture: string;
  os: string;
  cpuCount: number;
  memoryBytes: number;
  /** `k=v` lines. */
  labels: string[];
  plugins: { Volume?: string[]; Network?: string[]; Log?: string[] };
  /** As the engine tells them; read by readGenericResources. */
  genericResources?: unknown[];
};
/** Body of POST /networks/create; made in networks.ts. */
export type NetworkBody = { Name: string; Labels: Record<string, string> };
/** A network of the engine, as far as networks of local drivers are made from it. */
export type NetworkDetails = {
  ConfigOnly?: boolean;
  EnableIPv6?: boolean;
  IPAM?: unknown;
  Options?: Record<string, string> | null | undefined;
  Labels?: Record<string, string> | null | undefined;
};
/** Without a container: of a network or a plugin. `isGone`: removed, or no more on a network. */
export type EngineEvent = { containerId?: string; isGone?: boolean; isPlugin?: boolean };

export type Docker = {
  info(): Promise<EngineInfo>;
  /** Ids, running or not, with this label. */
  listContainers(label: string): Promise<string[]>;
  /** By id or name; `undefined` when there is none. */
  inspectContainer(id: string): Promise<ContainerDetails | undefined>;
  /** Gives the id. */
  createContainer(name: string, body: ContainerBody): Promise<string>;
  /** Also when it runs already. */
  startContainer(id: string): Promise<void>;
  /** With the container's own signal and grace time; also when it is gone or stopped already. */
  stopContainer(id: string, graceSeconds: number): Promise<void>;
  /** With its anonymous volumes; also when it is gone already. */
  removeContainer(id: string): Promise<void>;
  hasImage(reference: string): Promise<boolean>;
  /**
   * `registryAuth`: base64 JSON as in X-Registry-Auth. Ends when the image is there; `onAnswer` is
   * called when the registry has named it.
   */
  pullImage(
    reference: string,
    registryAuth: string | undefined,
    onAnswer?: () => void,
  ): Promise<void>;
  createVolume(body: VolumeBody): Promise<void>;
  listNetworks(label: string): Promise<NetworkSummary[]>;
  /** By name or id; `undefined` when there is none. */
  inspectNetwork(ref: string): Promise<NetworkDetails | undefined>;
  createNetwork(body: NetworkBody): Promise<void>;
  removeNetwork(id: string): Promise<void>;
  connectNetwork(networkId: string, containerId: string, endpoint: EndpointConfig): Promise<void>;
  /**
   * Container and network events from now on, until `close`; resolves when the stream is open.
   * `onEnd` is called once when it ends otherwise.
   */
  watchEvents(handlers: {
    onEvent(event: EngineEvent): void;
    onEnd(): void;
  }): Promise<{ close(): void }>;
};

const CALL_TIMEOUT_MS = 30_000;
/** Beyond the grace time: the engine itself gives up on an unkillable process after 10 s. */
const STOP_MARGIN_MS = 30_000;
/** A pull without any progress for so long is given up. */
const PULL_IDLE_TIMEOUT_MS = 300_000;
/** Texts of an engine in the middle of its own shutdown: no verdict on the container. */
const SHUTTING_DOWN =
  /context canceled|connection is closing|transport is closing|ttrpc: closed|shutting down|containerd.*(?:connection refused|no such file)/i;

/** @param socketPath of the engine, such as /var/run/docker.sock. */
export function createDocker(socketPath: string): Docker {
  const engine = new Dockerode({ socketPath });
  return {
    info: async () => {
      const info: RawInfo = await call("info", () => engine.info());
      const plugins: RawPlugin[] = await call("list plugins", () => engine.listPlugins());
      return withManagedPlugins(engineInfo(info), plugins);
    },
    listContainers: async (label) => {
      const list = await call("list containers", (abortSignal) =>
        engine.listContainers({ all: true, filters: { label: [label] }, abortSignal }),
      );
      return list.map((item) => item.Id);
    },
    inspectContainer: (id) =>
      unlessStatus([404], () =>
        call("inspect container", (abortSignal) =>
          engine.getContainer(id).inspect({ abortSignal }),
        ),
      ),
    createContainer: async (name, body) => {
      const created = await call("create container", () =>
        // dockerode types the body more narrowly than the API is (Mounts, HostConfig of later engines).
        engine.createContainer({ ...body, name } as unknown as Dockerode.ContainerCreateOptions),
      );
      return created.id;
    },
    startContainer: async (id) => {
      await unlessStatus([304], () =>
        call("start container", () => engine.getContainer(id).start()),
      );
    },
    stopContainer: async (id, graceSeconds) => {
      await unlessStatus([304, 404], () =>
        call(
          "stop container",
          (abortSignal) => engine.getContainer(id).stop({ abortSignal }),
          graceSeconds * 1_000 + STOP_MARGIN_MS,
        ),
      );
    },
    removeContainer: async (id) => {
      // 409: its removal is under way already.
      await unlessStatus([404, 409], () =>
        call("remove container", () => engine.getContainer(id).remove({ v: true, force: true })),
      );
    },
    hasImage: async (reference) => {
      const found = await unlessStatus([404], () =>
        call("inspect image", () => engine.getImage(reference).inspect()),
      );
      return found !== undefined;
    },
    pullImage: (reference, registryAuth, onAnswer) =>
      pullImage(engine, reference, registryAuth, onAnswer),
    createVolume: async (body) => {
      await call("create volume", () => engine.createVolume(body));
    },
    listNetworks: async (label) => {
      const list = await call("list networks", (abortSignal) =>
        engine.listNetworks({ filters: { label: [label] }, abortSignal }),
      );
      return list.map((item) => ({
        id: item.Id,
        name: item.Name,
        labels: item.Labels ?? {},
        subnets: (item.IPAM?.Config ?? []).flatMap(({ Subnet }) => Subnet ?? []),
      }));
    },
    inspectNetwork: (ref) =>
      unlessStatus([404], async () => {
        const found: NetworkDetails = await call("inspect network", () =>
          engine.getNetwork(ref).inspect(),
        );
        return found;
      }),
    createNetwork: async (body) => {
      await call("create network", () => engine.createNetwork(body));
    },
    removeNetwork: async (id) => {
      await unlessStatus([404], () => call("remove network", () => engine.getNetwork(id).remove()));
    },
    connectNetwork: async (networkId, containerId, endpoint) => {
      await call("connect network", () =>
        engine.getNetwork(networkId).connect({
          Container: containerId,
          EndpointConfig: endpoint,
        }),
      );
    },
    watchEvents: (handlers) => watchEvents(engine, handlers),
  };
}

/** True for errors that say nothing but that the engine could not be asked. */
export function isEngineAway(error: unknown): boolean {
  return error instanceof ClusterError && error.code === "unavailable";
}

async function call<T>(
  what: string,
  run: (signal: AbortSignal) => Promise<T>,
  timeoutMs = CALL_TIMEOUT_MS,
): Promise<T> {
  const abort = new AbortController();
  let timer: Timer | undefined;
  try {
    return await Promise.race([
      run(abort.signal),
      new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => {
          reject(
            new ClusterError(
              "unavailable",
              `The Docker Engine did not answer "${what}" in ${timeoutMs} ms`,
            ),
          );
          abort.abort();
        }, timeoutMs);
      }),
    ]);
  } catch (error) {
    throw engineError(what, error);
  } finally {
    clearTimeout(timer);
  }
}

/** The result, or `undefined` when the engine answered with one of these statuses. */
async function unlessStatus<T>(statuses: number[], run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    if (error instanceof ClusterError && statuses.includes(Number(error.details["status"]))) {
      return undefined;
    }
    throw error;
  }
}

function engineError(what: string, error: unknown): ClusterError {
  if (error instanceof ClusterError) return error;
  const { statusCode, json, message } = error as {
    // docker-modem's errors: plain Errors with the answer's parts hung on.
    statusCode?: number;
    json?: { message?: string };
    message?: string;
  };
  // A stream's answer is not read by dockerode: its message is `(HTTP code 404) unexpected - <text>`.
  const plain = message?.replace(/^\(HTTP code \d+\) .*? - /, "").trim();
  const text = json?.message ?? plain ?? String(error);
  if (statusCode === undefined || statusCode === 503 || SHUTTING_DOWN.test(text)) {
    return new ClusterError("unavailable", `Cannot ask the Docker Engine to ${what}: ${text}`, {
      retry: "later",
    });
  }
  return new ClusterError("docker", text, { details: { status: statusCode }, cause: error });
}

async function pullImage(
  engine: Dockerode,
  reference: string,
  registryAuth: string | undefined,
  onAnswer: () => void = () => {},
): Promise<void> {
  const authconfig = registryAuth ? decodeRegistryAuth(registryAuth) : undefined;
  let stream: NodeJS.ReadableStream;
  try {
    // No deadline: the answer's head comes only when the registry has been reached.
    stream = await engine.pull(reference, authconfig ? { authconfig } : {});
  } catch (error) {
    throw engineError("pull image", error);
  }
  onAnswer();
  await new Promise<void>((resolve, reject) => {
    let timer: Timer | undefined;
    const awaitProgress = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        reject(
          new ClusterError(
            "docker",
            `Cannot pull image "${reference}": no progress for ${PULL_IDLE_TIMEOUT_MS / 1_000} s`,
          ),
        );
        // A ReadableStream of node:http can be destroyed, which its narrow type does not tell.
        (stream as NodeJS.ReadableStream & { destroy(): void }).destroy();
      }, PULL_IDLE_TIMEOUT_MS);
    };
    awaitProgress();
    engine.modem.followProgress(
      stream,
      (error: Error | null, output: { error?: string }[] | undefined) => {
        clearTimeout(timer);
        const failure = output?.find((line) => line.error)?.error ?? error?.message;
        if (failure) reject(new ClusterError("docker", failure));
        else resolve();
      },
      awaitProgress,
    );
  });
}

/** X-Registry-Auth as an object; `undefined` when it is empty or not to be read. */
export function decodeRegistryAuth(registryAuth: string): Record<string, string> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(registryAuth, "base64").toString("utf8"));
    if (typeof value !== "object" || value === null || Object.keys(value).length === 0) {
      return undefined;
    }
    return Object.fromEntries(
      Object.entries(value).filter(([, text]) => typeof text === "string" && text !== ""),
    );
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** SystemInfo of the Engine API, as far as it is used. */
type RawInfo = {
  Name?: string;
  ServerVersion?: string;
  Architecture?: string;
  OSType?: string;
  NCPU?: number;
  MemTotal?: number;
  Labels?: string[] | null;
  Plugins?: EngineInfo["plugins"];
  GenericResources?: unknown[] | null;
};

function engineInfo(info: RawInfo): EngineInfo {
  return {
    name: info.Name ?? "",
    version: info.ServerVersion ?? "",
    architecture: info.Architecture ?? "",
    os: info.OSType ?? "",
    cpuCount: info.NCPU ?? 0,
    memoryBytes: info.MemTotal ?? 0,
    labels: info.Labels ?? [],
    plugins: info.Plugins ?? {},
    genericResources: info.GenericResources ?? [],
  };
}

/** Of GET /plugins, as far as it is used. */
type RawPlugin = {
  Name: string;
  Enabled: boolean;
  Config: { Interface: { Types: unknown } };
};
/** Source: moby daemon/cluster/executor/container/executor.go Describe. */
const DRIVER_KINDS = {
  volumedriver: "Volume",
  networkdriver: "Network",
  logdriver: "Log",
} as const;

/** The engine lists drivers of its managed plugins apart from its own. */
function withManagedPlugins(info: EngineInfo, plugins: readonly RawPlugin[]): EngineInfo {
  const drivers = { ...info.plugins };
  for (const { Name, Enabled, Config } of plugins) {
    // Texts as `docker.volumedriver/1.0`, which dockerode's type takes for objects.
    const types = Array.isArray(Config.Interface.Types) ? Config.Interface.Types : [];
    for (const type of Enabled ? types : []) {
      const capability = /^docker\.(\w+)\//.exec(String(type))?.[1];
      for (const [name, kind] of Object.entries(DRIVER_KINDS)) {
        if (name === capability) drivers[kind] = [...(drivers[kind] ?? []), Name];
      }
    }
  }
  return { ...info, plugins: drivers };
}

/** Longer than any event: a line that grows beyond is dropped with what is buffered. */
const EVENT_LINE_MAX = 1_000_000;

async function watchEvents(
  engine: Dockerode,
  handlers: { onEvent(event: EngineEvent): void; onEnd(): void },
): Promise<{ close(): void }> {
  const stream = await call("watch events", () =>
    engine.getEvents({ filters: { type: ["container", "network", "plugin"] } }),
  );
  let hasEnded = false;
  let buffered = "";
  const end = () => {
    if (hasEnded) return;
    hasEnded = true;
    handlers.onEnd();
  };
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string | Buffer) => {
    const lines = (buffered + String(chunk)).split("\n");
    buffered = lines.pop() ?? "";
    if (buffered.length > EVENT_LINE_MAX) buffered = "";
    for (const line of lines) {
      const event = parseEvent(line);
      if (event) handlers.onEvent(event);
    }
  });
  stream.on("error", end);
  stream.on("end", end);
  stream.on("close", end);
  return {
    close: () => {
      hasEnded = true;
      // As above: the stream is node:http's and has destroy().
      (stream as NodeJS.ReadableStream & { destroy(): void }).destroy();
    },
  };
}

function parseEvent(line: string): EngineEvent | undefined {
  if (line.trim() === "") return undefined;
  try {
    const event = JSON.parse(line) as {
      // Engine API EventMessage.
      Type?: string;
      Action?: string;
      Actor?: { ID?: string; Attributes?: { container?: string } };
    };
    // Every healthcheck raises three exec events; none of them changes what is observed.
    if (event.Action?.startsWith("exec_")) return undefined;
    // Also of a network that it joins or leaves; without one it is a network's own event.
    const containerId =
      event.Type === "container" ? event.Actor?.ID : event.Actor?.Attributes?.container;
    const isGone = event.Action === "destroy" || event.Action === "disconnect";
    if (event.Type === "plugin") return { isPlugin: true };
    return { ...(containerId ? { containerId } : {}), ...(isGone ? { isGone } : {}) };
  } catch (error) {
    // A line cut off by a dying engine; events are only wake-ups, the resync sees what it told.
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
