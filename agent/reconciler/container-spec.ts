/**
 * What the engine is asked to create for a task: a pure function from the task, its networks, secrets
 * and configs to the create call's body, the legs to connect before the start, the files to lay out and
 * the volumes to make first.
 *
 * Rules that are easily broken:
 * 1. Every overlay leg has a static address: the engine's own address management knows neither VIPs nor
 *    remote tasks (datapath §3).
 * 2. Overlay legs get no aliases: the engine's embedded DNS would answer a service's name with one
 *    local container (datapath §6). The container's name is the task's name, never a service's.
 *    Legs on networks of local drivers have nothing else: there the names of services are aliases.
 * 3. The only DNS server is the gateway of the default leg, where the mesh answers; a second one would be
 *    asked while ours is away and turn service names into NXDOMAIN (datapath §6).
 * 4. The default leg is the first non-internal overlay network by name, for so libnetwork chooses the
 *    default route (datapath §3).
 * 5. The engine never restarts a task's container: a task is one attempt.
 *
 * Source of the mapping: SwarmKit/moby daemon/cluster/executor/container/container.go.
 */
import { ClusterError } from "../../core/errors.ts";
import type { NodeSettings } from "../../core/dispatcher/assignment.ts";
import { resourceEnvironment } from "../../core/objects/generic-resource.ts";
import { isNodeLocal, type Network } from "../../core/objects/network.ts";
import { slotNameOf } from "../../core/objects/stateful.ts";
import type { Config, Secret } from "../../core/objects/secret.ts";
import {
  type ContainerSpec,
  logDriverOf,
  type Task,
  taskName,
  type TaskSpec,
} from "../../core/objects/task.ts";
import { applyContainerOptions, requireEngine } from "./container-options.ts";
import { expandTemplate, taskTemplateContext, type TemplateContext } from "./template.ts";

/** Names the task that a container was made for. */
export const TASK_ID_LABEL = "shoal.task.id";
/** Names the cluster; containers of another one are never touched. */
export const CLUSTER_ID_LABEL = "shoal.cluster.id";
/**
 * On the engine's networks that stand for ones of local drivers (core/objects/network.ts, isNodeLocal):
 * the config-only network that it was made from, or nothing.
 */
export const LOCAL_CONFIG_LABEL = "shoal.network.config-from";
/** Stock Swarm's label with the task's name; a container is ours only when it still has this name. */
export const TASK_NAME_LABEL = "com.docker.swarm.task.name";

/** Source: moby, container stop timeout. */
export const STOP_GRACE_SECONDS_DEFAULT = 10;
const NANOSECONDS_PER_SECOND = 1_000_000_000;

/** Body of POST /containers/create, as far as it is used. Source: Docker Engine API. */
export type ContainerBody = {
  Image: string;
  Labels: Record<string, string>;
  StopTimeout: number;
  HostConfig: HostConfig;
  Entrypoint?: string[];
  Cmd?: string[];
  Hostname?: string;
  Env?: string[];
  WorkingDir?: string;
  User?: string;
  StopSignal?: string;
  Tty?: boolean;
  OpenStdin?: boolean;
  Healthcheck?: NonNullable<ContainerSpec["Healthcheck"]>;
  ExposedPorts?: Record<string, Record<string, never>>;
  NetworkingConfig?: { EndpointsConfig: Record<string, EndpointConfig> };
};
export type EndpointConfig = {
  IPAMConfig?: { IPv4Address: string; IPv6Address?: string };
  Aliases?: string[];
  GwPriority?: number;
};
export type HostConfig = {
  NetworkMode: string;
  RestartPolicy: { Name: "no" };
  Mounts: Record<string, unknown>[];
  PortBindings?: Record<string, { HostPort: string }[]>;
  Dns?: string[];
  DnsSearch?: string[];
  DnsOptions?: string[];
  ExtraHosts?: string[];
  GroupAdd?: string[];
  SecurityOpt?: string[];
  Init?: boolean;
  ReadonlyRootfs?: boolean;
  Isolation?: string;
  Sysctls?: Record<string, string>;
  CapAdd?: string[];
  CapDrop?: string[];
  Ulimits?: { Name: string; Hard: number; Soft: number }[];
  OomScoreAdj?: number;
  Binds?: string[];
  Memory?: number;
  MemorySwap?: number;
  MemorySwappiness?: number;
  NanoCpus?: number;
  PidsLimit?: number;
  LogConfig?: { Type: string; Config: Record<string, string> };
};

/** A file that is laid out in the task's directory and bind-mounted read-only. */
export type TaskFile = {
  /** Name inside the task's directory. */
  name: string;
  content: Uint8Array;
  mode: number;
  uid: number;
  gid: number;
};
export type VolumeBody = {
  Name: string;
  Driver?: string;
  DriverOpts?: Record<string, string>;
  Labels?: Record<string, string>;
};

export type ContainerPlan = {
  name: string;
  body: ContainerBody;
  /** Every leg on a network of the cluster, the first one being in the body; an engine before 25 takes one at create. */
  legs: { networkId: string; dockerNetwork: string; endpoint: EndpointConfig }[];
  files: TaskFile[];
  /** Named volumes that need a driver or labels; made before, since the engine ignores these at create. */
  volumes: VolumeBody[];
};

export type ContainerInput = {
  task: Task;
  settings: Pick<NodeSettings, "nodeId" | "clusterId" | "hostname">;
  /** `engineVersion`: unknown counts as new enough. */
  platform: { architecture: string; os: string; engineVersion?: string };
  networks: ReadonlyMap<string, Network>;
  secrets: ReadonlyMap<string, Secret>;
  configs: ReadonlyMap<string, Config>;
  /** The engine's name of an overlay network's bridge network. */
  dockerNetworkName(network: Network): string;
  /** Directory of this task's files. */
  filesDir: string;
};

/**
 * The container to create for a task.
 * @throws {ClusterError} failed-precondition when a network, address, secret or config has not arrived yet
 *   (worth another try); invalid-argument when the spec cannot be carried out on this node.
 */
export function containerPlan(input: ContainerInput): ContainerPlan {
  const { task, settings } = input;
  const spec = task.spec.ContainerSpec;
  const name = taskName(task);
  const context = taskTemplateContext(task, { ...settings, ...input.platform });
  const legs = networkLegs(input);
  const logDriver = logDriverOf(task);
  const dns = dnsSettings(input, legs);
  const files = [...taskFiles(input, context), ...dns.files];
  const { binds, mounts } = splitMounts(
    (spec.Mounts ?? []).map((mount) => expandMount(mount, context)),
    input.platform.engineVersion,
  );
  const hostPorts = (task.ports ?? []).filter((port) => port.PublishMode === "host");

  const body: ContainerBody = {
    Image: imageReference(spec.Image),
    Labels: { ...spec.Labels, ...systemLabels(task, settings) },
    StopTimeout: stopGraceSeconds(spec),
    ...definedOnly({
      Entrypoint: nonEmpty(spec.Command),
      Cmd: nonEmpty(spec.Args),
      Hostname: spec.Hostname ? expandTemplate(spec.Hostname, context) : ownHostname(task),
      Env: nonEmpty([
        ...(spec.Env ?? []).map((line) => expandTemplate(line, context)),
        ...resourceEnvironment(task.genericResources ?? []),
      ]),
      WorkingDir: spec.Dir,
      User: spec.User,
      StopSignal: spec.StopSignal,
      Tty: spec.TTY,
      OpenStdin: spec.OpenStdin,
      Healthcheck: spec.Healthcheck,
      ExposedPorts: exposedPorts(task),
    }),
    HostConfig: {
      NetworkMode: legs[0]?.dockerNetwork ?? predefinedMode(input) ?? "default",
      RestartPolicy: { Name: "no" },
      Mounts: [
        ...mounts,
        ...files.map((file) => ({
          Type: "bind",
          Source: `${input.filesDir}/${file.name}`,
          Target: file.target,
          ReadOnly: true,
        })),
      ],
      ...definedOnly({
        PortBindings:
          hostPorts.length === 0
            ? undefined
            : groupBindings(hostPorts.map((port) => [portKey(port), port.PublishedPort])),
        Dns: nonEmpty(dns.servers),
        DnsSearch: nonEmpty(spec.DNSConfig?.Search),
        DnsOptions: nonEmpty(dns.options),
        ExtraHosts: nonEmpty(spec.Hosts?.flatMap(extraHosts)),
        GroupAdd: nonEmpty(spec.Groups),
        SecurityOpt: nonEmpty(securityOptions(spec.Privileges)),
        Init: spec.Init,
        ReadonlyRootfs: spec.ReadOnly,
        Isolation: spec.Isolation,
        Sysctls: spec.Sysctls,
        CapAdd: nonEmpty(spec.CapabilityAdd),
        CapDrop: nonEmpty(spec.CapabilityDrop),
        Ulimits: nonEmpty(spec.Ulimits),
        OomScoreAdj: spec.OomScoreAdj,
        Binds: nonEmpty(binds),
        Memory: task.spec.Resources?.Limits?.MemoryBytes,
        ...swapLimits(task.spec.Resources),
        NanoCpus: task.spec.Resources?.Limits?.NanoCPUs,
        PidsLimit: task.spec.Resources?.Limits?.Pids || undefined,
        LogConfig: logDriver
          ? { Type: logDriver.Name, Config: logDriver.Options ?? {} }
          : undefined,
      }),
    },
  };
  const options = expandAll(spec.EngineOptions, context);
  applyContainerOptions(body, options, input.platform.engineVersion);
  const first = legs[0];
  if (first) {
    body.NetworkingConfig = { EndpointsConfig: { [first.dockerNetwork]: first.endpoint } };
  }
  return {
    name,
    body,
    legs: legs.map(({ network, dockerNetwork, endpoint }) => ({
      networkId: network.id,
      dockerNetwork,
      endpoint,
    })),
    files: files.map(({ target: _target, ...file }) => file),
    volumes: mounts.flatMap(volumeBody),
  };
}

/** A stateful service's task is named after its slot, but where the name is the node's. */
function ownHostname(task: Task): string | undefined {
  return task.spec.ContainerSpec.EngineOptions?.UTSMode === "host" ? undefined : slotNameOf(task);
}

/** Seconds between the stop signal and the kill; the engine counts whole seconds. */
export function stopGraceSeconds(spec: Pick<ContainerSpec, "StopGracePeriod">): number {
  if (spec.StopGracePeriod === undefined) return STOP_GRACE_SECONDS_DEFAULT;
  return Math.ceil(spec.StopGracePeriod / NANOSECONDS_PER_SECOND);
}

/** The reference with `:latest` added when it has neither tag nor digest; image ids stay as they are. */
export function imageReference(image: string): string {
  if (image.includes("@") || /^(sha256:)?[0-9a-f]{64}$/.test(image)) return image;
  return /:[^/]+$/.test(image) ? image : `${image}:latest`;
}

/** Ids of the task's networks that this node makes for it; those that every engine has are left out. */
export function madeNetworkIds(task: Task, networks: ReadonlyMap<string, Network>): string[] {
  return (task.networks ?? [])
    .map((attachment) => attachment.networkId)
    .filter((id) => {
      const network = networks.get(id);
      return network !== undefined && !network.predefined;
    });
}

type Leg = { network: Network; dockerNetwork: string; endpoint: EndpointConfig };

function networkLegs(input: ContainerInput): Leg[] {
  const legs: Leg[] = [];
  for (const attachment of input.task.networks ?? []) {
    const network = requireNetwork(input, attachment.networkId);
    if (network.predefined) continue;
    const dockerNetwork = input.dockerNetworkName(network);
    if (isNodeLocal(network)) {
      const name = input.task.serviceName;
      const Aliases = [...new Set([name, `tasks.${name}`, ...attachment.aliases])];
      legs.push({ network, dockerNetwork, endpoint: { Aliases } });
      continue;
    }
    if (!attachment.address) {
      // Source: SwarmKit's text, known to users.
      throw new ClusterError(
        "failed-precondition",
        "node is missing network attachments, ip addresses may be exhausted",
      );
    }
    const { address, address6 } = attachment;
    legs.push({
      network,
      dockerNetwork,
      endpoint: {
        IPAMConfig: { IPv4Address: address, ...(address6 ? { IPv6Address: address6 } : {}) },
      },
    });
  }
  // The default leg first (rule 4), the rest by name, so that the plan does not depend on arrival.
  legs.sort(
    (a, b) =>
      Number(a.network.spec.Internal) - Number(b.network.spec.Internal) ||
      (a.network.spec.Name < b.network.spec.Name ? -1 : 1),
  );
  return answeringByMesh(input, legs);
}

/**
 * A task with ingress ports answers by the way that the mesh knows, so its default route is by an overlay
 * leg: where the engine would take a local driver's, told so, or (before engine 28) refused.
 */
function answeringByMesh({ task, platform }: ContainerInput, legs: Leg[]): Leg[] {
  const isPublished = (task.ports ?? []).some((port) => port.PublishMode === "ingress");
  const first = legs.findIndex(({ network }) => !isNodeLocal(network) && !network.spec.Internal);
  const wanted = legs[first];
  const [before] = legs;
  if (!isPublished || !wanted || !before || first === 0) return legs;
  const GW_PRIORITY_ENGINE = 28;
  const major = Number.parseInt(platform.engineVersion ?? "", 10);
  if (major < GW_PRIORITY_ENGINE) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot publish ports in ingress mode from network "${before.network.spec.Name}": Docker Engine ${platform.engineVersion} routes by the first name, and "${before.network.spec.Name}" comes before "${wanted.network.spec.Name}"; give the network a later name, publish with mode=host, or use Docker Engine ${GW_PRIORITY_ENGINE}`,
    );
  }
  return legs.map((leg) =>
    leg === wanted ? { ...leg, endpoint: { ...leg.endpoint, GwPriority: 1 } } : leg,
  );
}

function requireNetwork(input: ContainerInput, id: string): Network {
  const network = input.networks.get(id);
  if (!network) {
    throw new ClusterError("failed-precondition", `network ${id} is not known on this node`);
  }
  return network;
}

function predefinedMode(input: ContainerInput): string | undefined {
  for (const attachment of input.task.networks ?? []) {
    const network = requireNetwork(input, attachment.networkId);
    if (!network.predefined) continue;
    return network.spec.Driver === "null" ? "none" : network.spec.Driver;
  }
  return undefined;
}

function dnsSettings(input: ContainerInput, legs: Leg[]) {
  const config = input.task.spec.ContainerSpec.DNSConfig;
  const gateway = legs.find(({ network }) => network.gateway !== undefined)?.network.gateway;
  const options = config?.Options ?? [];
  const files: (TaskFile & { target: string })[] = [];
  // Without an overlay leg nobody of ours answers: the user's own servers are given to the engine. With
  // one they are upstreams of the mesh's DNS.
  if (!gateway) return { servers: config?.Nameservers ?? [], options, files };
  if (options.some((option) => /^ndots:[1-9]/.test(option))) {
    // With ndots above 0 the engine's stub answers single labels itself, with nothing, and discovery is
    // dead (datapath §6): such a container asks the gateway directly.
    const lines = [
      `nameserver ${gateway}`,
      ...(config?.Search?.length ? [`search ${config.Search.join(" ")}`] : []),
      `options ${options.join(" ")}`,
    ];
    files.push({
      name: "resolv.conf",
      target: "/etc/resolv.conf",
      content: new TextEncoder().encode(`${lines.join("\n")}\n`),
      mode: 0o644,
      uid: 0,
      gid: 0,
    });
  }
  return { servers: [gateway], options, files };
}

function systemLabels(task: Task, settings: ContainerInput["settings"]): Record<string, string> {
  return {
    "com.docker.swarm.task": "",
    "com.docker.swarm.task.id": task.id,
    [TASK_NAME_LABEL]: taskName(task),
    "com.docker.swarm.node.id": settings.nodeId,
    "com.docker.swarm.service.id": task.serviceId,
    "com.docker.swarm.service.name": task.serviceName,
    [TASK_ID_LABEL]: task.id,
    [CLUSTER_ID_LABEL]: settings.clusterId,
  };
}

type PortOfTask = NonNullable<Task["ports"]>[number];

function portKey(port: PortOfTask): string {
  return `${port.TargetPort}/${port.Protocol || "tcp"}`;
}

function exposedPorts(task: Task): Record<string, Record<string, never>> | undefined {
  const ports = task.ports ?? [];
  if (ports.length === 0) return undefined;
  return Object.fromEntries(ports.map((port) => [portKey(port), {}]));
}

function groupBindings(pairs: [string, number][]): Record<string, { HostPort: string }[]> {
  const bindings: Record<string, { HostPort: string }[]> = {};
  for (const [key, published] of pairs) {
    // No published port: the engine chooses one, and the task's status tells which.
    (bindings[key] ??= []).push({ HostPort: published ? String(published) : "" });
  }
  return bindings;
}

/** `IP name [alias…]` → `name:IP`. Stock Swarm drops the aliases; here they are kept. */
function extraHosts(line: string): string[] {
  const [address, ...names] = line.trim().split(/\s+/);
  return address ? names.map((name) => `${name}:${address}`) : [];
}

function expandMount(
  mount: Record<string, unknown>,
  context: TemplateContext,
): Record<string, unknown> {
  const result = { ...mount };
  for (const key of ["Source", "Target"]) {
    const value = result[key];
    if (typeof value === "string") result[key] = expandTemplate(value, context);
  }
  const options = recordOf(result["VolumeOptions"]);
  if (options) {
    const driver = recordOf(options["DriverConfig"]);
    result["VolumeOptions"] = {
      ...options,
      ...(options["Labels"] ? { Labels: expandTexts(options["Labels"], context) } : {}),
      ...(driver
        ? { DriverConfig: { ...driver, Options: expandTexts(driver["Options"], context) } }
        : {}),
    };
  }
  return result;
}

const CREATE_MOUNTPOINT_ENGINE = 23;
/** What engines before would drop without a word, or with a worse one. Source: Docker Engine API, history. */
const MOUNT_OPTIONS_SINCE: readonly [part: string, option: string, sinceEngine: number][] = [
  ["BindOptions", "ReadOnlyForceRecursive", 25],
  ["VolumeOptions", "Subpath", 26],
  ["TmpfsOptions", "Options", 27],
];

/**
 * Mounts as this engine takes them. A bind that makes its source is, in engines before 23, one in the
 * old form, which always did.
 */
function splitMounts(given: Record<string, unknown>[], engineVersion: string | undefined) {
  const binds: string[] = [];
  const mounts: Record<string, unknown>[] = [];
  const isOld = Number.parseInt(engineVersion ?? "", 10) < CREATE_MOUNTPOINT_ENGINE;
  for (const mount of given) {
    const target = textOf(mount["Target"]) ?? "";
    if (mount["Type"] === "image") {
      requireEngine(`image mount ${target}`, { sinceEngine: 28 }, engineVersion);
    }
    for (const [part, option, sinceEngine] of MOUNT_OPTIONS_SINCE) {
      if (!recordOf(mount[part])?.[option]) continue;
      requireEngine(`${part}.${option} of mount ${target}`, { sinceEngine }, engineVersion);
    }
    const options = recordOf(mount["BindOptions"]);
    if (mount["Type"] === "bind" && options?.["CreateMountpoint"] === true && isOld) {
      const words = [mount["ReadOnly"] === true ? "ro" : "rw", textOf(options["Propagation"])];
      binds.push(`${textOf(mount["Source"])}:${target}:${words.filter(Boolean).join(",")}`);
    } else mounts.push(mount);
  }
  return { binds, mounts };
}

/** Source: moby daemon/cluster/executor/container/container.go resources: swap is on top of memory. */
function swapLimits(resources: TaskSpec["Resources"]): Partial<HostConfig> {
  const swapBytes = resources?.SwapBytes;
  const swappiness = resources?.MemorySwappiness;
  const memoryBytes = resources?.Limits?.MemoryBytes ?? 0;
  return {
    ...(swapBytes === undefined
      ? {}
      : { MemorySwap: swapBytes === -1 ? -1 : memoryBytes + swapBytes }),
    ...(swappiness === undefined ? {} : { MemorySwappiness: swappiness }),
  };
}

/** The value with the templates in all its texts expanded: keys and values of maps, items of lists. */
function expandAll<T>(value: T, context: TemplateContext): T {
  const expand = (one: unknown): unknown => {
    if (typeof one === "string") return expandTemplate(one, context);
    if (Array.isArray(one)) return one.map(expand);
    if (typeof one !== "object" || one === null) return one;
    return Object.fromEntries(
      Object.entries(one).map(([key, field]) => [expandTemplate(key, context), expand(field)]),
    );
  };
  // The same tree with other texts.
  return expand(value) as T;
}

function volumeBody(mount: Record<string, unknown>): VolumeBody[] {
  const options = recordOf(mount["VolumeOptions"]);
  const source = mount["Source"];
  if (mount["Type"] !== "volume" || typeof source !== "string" || source === "" || !options) {
    return [];
  }
  const driver = recordOf(options["DriverConfig"]);
  const driverName = driver?.["Name"];
  const labels = expandTexts(options["Labels"], undefined);
  if (!driver && Object.keys(labels).length === 0) return [];
  return [
    {
      Name: source,
      ...(typeof driverName === "string" && driverName ? { Driver: driverName } : {}),
      DriverOpts: expandTexts(driver?.["Options"], undefined),
      Labels: labels,
    },
  ];
}

function taskFiles(
  input: ContainerInput,
  context: TemplateContext,
): (TaskFile & { target: string })[] {
  const spec = input.task.spec.ContainerSpec;
  const references = [
    ...(spec.Secrets ?? []).map((reference) => fileReference(reference, "Secret", input.secrets)),
    ...(spec.Configs ?? []).map((reference) => fileReference(reference, "Config", input.configs)),
  ].filter((reference) => reference !== undefined);
  const payloadOf = (kind: "Secret" | "Config", target: string): string => {
    const found = references.find((item) => item.kind === kind && item.fileName === target);
    if (!found) {
      throw new ClusterError(
        "invalid-argument",
        `Cannot expand template: the task has no ${kind.toLowerCase()} with target "${target}"`,
      );
    }
    return new TextDecoder().decode(found.data);
  };
  const payloadContext: TemplateContext = {
    ...context,
    functions: {
      secret: ([target]) => payloadOf("Secret", target ?? ""),
      config: ([target]) => payloadOf("Config", target ?? ""),
      env: ([variable]) => {
        const line = spec.Env?.find((line) => line.startsWith(`${variable}=`));
        return line ? expandTemplate(line.slice(line.indexOf("=") + 1), context) : "";
      },
    },
  };
  return references.map((reference, index) => ({
    // A name of our own: targets may hold slashes or be equal but for their directory.
    name: `${reference.kind.toLowerCase()}-${index}`,
    target: reference.target,
    content: reference.isTemplate
      ? new TextEncoder().encode(
          expandTemplate(new TextDecoder().decode(reference.data), payloadContext),
        )
      : reference.data,
    mode: reference.mode,
    uid: reference.uid,
    gid: reference.gid,
  }));
}

function fileReference(
  reference: Record<string, unknown>,
  kind: "Secret" | "Config",
  known: ReadonlyMap<string, Secret>,
) {
  const file = recordOf(reference["File"]);
  // Without a file it is a config used at run time only (a credential spec on Windows).
  if (!file) return undefined;
  const id = textOf(reference[`${kind}ID`]) ?? "";
  const object = known.get(id);
  if (!object) {
    const name = textOf(reference[`${kind}Name`]) ?? id;
    throw new ClusterError(
      "failed-precondition",
      `${kind.toLowerCase()} reference ${name} not found`,
    );
  }
  const fileName = textOf(file["Name"]) ?? object.spec.Name;
  const directory = kind === "Secret" ? "/run/secrets/" : "/";
  return {
    kind,
    fileName,
    target: fileName.startsWith("/") ? fileName : `${directory}${fileName}`,
    data: Uint8Array.fromBase64(object.spec.Data ?? ""),
    isTemplate: object.spec.Templating?.Name === "golang",
    mode: typeof file["Mode"] === "number" ? file["Mode"] & 0o777 : 0o444,
    uid: Number(file["UID"] ?? 0) || 0,
    gid: Number(file["GID"] ?? 0) || 0,
  };
}

/** Source: moby daemon/cluster/executor/container/container.go securityOpts. */
function securityOptions(privileges: ContainerSpec["Privileges"]): string[] {
  const options: string[] = [];
  const credential = recordOf(privileges?.["CredentialSpec"]);
  for (const source of ["Config", "File", "Registry"]) {
    const value = textOf(credential?.[source]);
    if (value) options.push(`credentialspec=${source.toLowerCase()}://${value}`);
  }
  const selinux = recordOf(privileges?.["SELinuxContext"]);
  if (selinux?.["Disable"] === true) options.push("label=disable");
  for (const part of ["User", "Role", "Type", "Level"]) {
    const value = selinux?.[part];
    if (typeof value === "string" && value) options.push(`label=${part.toLowerCase()}:${value}`);
  }
  const seccomp = recordOf(privileges?.["Seccomp"]);
  if (seccomp?.["Mode"] === "unconfined") options.push("seccomp=unconfined");
  if (seccomp?.["Mode"] === "custom" && typeof seccomp["Profile"] === "string") {
    const profile = new TextDecoder().decode(Uint8Array.fromBase64(seccomp["Profile"]));
    options.push(`seccomp=${profile}`);
  }
  if (recordOf(privileges?.["AppArmor"])?.["Mode"] === "disabled") {
    options.push("apparmor=unconfined");
  }
  if (privileges?.["NoNewPrivileges"] === true) options.push("no-new-privileges=true");
  return options;
}

function expandTexts(value: unknown, context: TemplateContext | undefined): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [key, text] of Object.entries(recordOf(value) ?? {})) {
    if (typeof text === "string") result[key] = context ? expandTemplate(text, context) : text;
  }
  return result;
}

function recordOf(value: unknown): Record<string, unknown> | undefined {
  // Spec parts that the API border passes through unparsed: any JSON object is a record.
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function nonEmpty<T>(list: T[] | undefined): T[] | undefined {
  return list && list.length > 0 ? list : undefined;
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** The object without its undefined fields: the engine reads a JSON null as "set to nothing". */
function definedOnly<T extends object>(object: T): Defined<T> {
  // Removing the undefined entries is exactly what the result type says.
  return Object.fromEntries(
    Object.entries(object).filter(([, value]) => value !== undefined),
  ) as Defined<T>;
}
