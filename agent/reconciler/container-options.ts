/**
 * Options of `docker run` that services lack in stock, one row an option. The row is all there is of it:
 * how its label and its field are read and checked, where it goes in the container's create body, and
 * what the table in README.md says (scripts/options-table.ts). test/lab/options.test.ts sees each one in
 * `docker inspect` of a real container.
 *
 * 1. An option is a field of `ContainerSpec.Shoal`, under the engine's name and in its shape, or a label
 *    `shoal.<flag of docker run>` of the service or of its containers, in the flag's grammar; not both.
 * 2. In a label a list has commas between its items; where items have commas of their own (column
 *    "one each") a label holds one. Further ones have labels with a suffix: `shoal.device.2`.
 * 3. A label `shoal.…` that is not known is refused, so that no option is believed to hold which does not.
 *    Those that can mean nothing in a cluster are refused with the reason.
 * 4. Texts may have templates as mounts have; the node expands them.
 * 5. The API border resolves them (`resolveContainerOptions`) into `ContainerSpec.EngineOptions`; a node
 *    only carries these out. What an engine of its version would silently drop fails the task.
 */
import { DRAIN_LABEL } from "../../core/dispatcher/withdrawal.ts";
import { ClusterError } from "../../core/errors.ts";
import { nearestName } from "../nearest-name.ts";
import type { ContainerOptions } from "../../core/objects/container-options.ts";
import type { ServiceSpec } from "../../core/objects/service.ts";
import type { ContainerSpec } from "../../core/objects/task.ts";
import {
  AFFINITY_LABEL,
  isBalancingLabel,
  PREFER_LABEL,
  PUBLISH_LABEL,
} from "../../core/objects/balancing.ts";
import { SCHEDULE_LABELS } from "../../core/objects/job-schedule.ts";
import { DEPENDS_ON_LABEL } from "../../core/objects/start-order.ts";
import { STATEFUL_LABELS } from "../../core/objects/stateful.ts";
import { PROGRESS_DEADLINE_LABEL } from "../../core/orchestrator/progress-deadline.ts";
import {
  addresses,
  deviceRequests,
  devices,
  flag,
  list,
  type OptionKind,
  pairs,
  ports,
  size,
  throttles,
  weights,
  whole,
  word,
} from "./option-kinds.ts";

export const OPTION_LABEL_PREFIX = "shoal.";

export type ContainerOption<T = unknown> = {
  /** The flag of `docker run`, and the label without its prefix. */
  label: string;
  kind: OptionKind<T>;
  /** Path in the create body, which is also where `docker inspect` has it; absent: not in the container. */
  at?: string;
  /** Carried out by the cluster and not by a field of the create body. */
  isPlanned?: boolean;
  /** Example of the label's value, which the lab test sets. */
  example: string;
  doc: string;
  /** Field of ContainerSpec that says the same: lists are joined, other values may not differ. */
  twin?: keyof ContainerSpec;
  /** Why the lab's engine does not show it, and what it does instead. */
  unseen?: string;
  /** First engine that has it; older ones drop it without a word. */
  sinceEngine?: number;
};

const MICROSECONDS_MAX = 1_000_000;
const ANY = /^[^\0]+$/;
const PATH = /^\//;
const CONTAINER = "container:[a-zA-Z0-9][a-zA-Z0-9_.-]*";
const CPUS = /^\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*$/;
const PROTECTED_PATHS = "absolute paths, or nothing for none";

/** The table. */
export const CONTAINER_OPTIONS: {
  [K in keyof Required<ContainerOptions>]: ContainerOption<Required<ContainerOptions>[K]>;
} = {
  Privileged: {
    label: "privileged",
    kind: flag,
    at: "HostConfig.Privileged",
    example: "true",
    doc: "all capabilities and devices of the host",
  },
  Devices: {
    label: "device",
    kind: devices,
    at: "HostConfig.Devices",
    example: "/dev/fuse:/dev/fuse:rw,/dev/null:/dev/nil",
    doc: "devices of the node in the container",
  },
  DeviceCgroupRules: {
    label: "device-cgroup-rule",
    kind: list(
      /^[acb] (?:\d+|\*):(?:\d+|\*) [rwm]{1,3}$/,
      "rules such as c 189:* rmw, with commas between",
      { isSplit: true },
    ),
    at: "HostConfig.DeviceCgroupRules",
    example: "c 189:* rmw,b 8:0 r",
    doc: "devices that may be used once they appear",
  },
  DeviceRequests: {
    label: "gpus",
    kind: deviceRequests,
    at: "HostConfig.DeviceRequests",
    example: '"device=0,1",capabilities=utility',
    doc: "GPUs and other devices of a device driver or of CDI (`driver=cdi,device=nvidia.com/gpu=all`)",
  },
  SecurityOpt: {
    label: "security-opt",
    kind: list(ANY, "options such as apparmor=unconfined, one a label", { isSplit: false }),
    at: "HostConfig.SecurityOpt",
    example: "label=disable",
    doc: "security options as they are; added to those of `Privileges`",
  },
  MaskedPaths: {
    label: "masked-path",
    kind: list(PATH, PROTECTED_PATHS, { isSplit: true, mayBeEmpty: true }),
    at: "HostConfig.MaskedPaths",
    example: "/proc/keys,/proc/timer_list",
    doc: "paths hidden in the container, in place of the engine's own; empty: none",
  },
  ReadonlyPaths: {
    label: "readonly-path",
    kind: list(PATH, PROTECTED_PATHS, { isSplit: true, mayBeEmpty: true }),
    at: "HostConfig.ReadonlyPaths",
    example: "/proc/bus",
    doc: "paths that are read-only, in place of the engine's own; empty: none",
  },
  PidMode: {
    label: "pid",
    kind: word(new RegExp(`^(?:host|${CONTAINER})$`), "host or container:<name>"),
    at: "HostConfig.PidMode",
    example: "host",
    doc: "process ids of the node, or of a container there",
  },
  IpcMode: {
    label: "ipc",
    kind: word(
      new RegExp(`^(?:none|private|shareable|host|${CONTAINER})$`),
      "none, private, shareable, host or container:<name>",
    ),
    at: "HostConfig.IpcMode",
    example: "shareable",
    doc: "shared memory and semaphores",
  },
  UTSMode: {
    label: "uts",
    kind: word(/^host$/, "host"),
    at: "HostConfig.UTSMode",
    example: "host",
    doc: "the node's host name",
  },
  UsernsMode: {
    label: "userns",
    kind: word(/^host$/, "host"),
    at: "HostConfig.UsernsMode",
    example: "host",
    doc: "no mapping of users, where the engine has one",
  },
  CgroupnsMode: {
    label: "cgroupns",
    kind: word(/^(?:host|private)$/, "host or private"),
    at: "HostConfig.CgroupnsMode",
    example: "private",
    doc: "namespace of control groups",
  },
  NetworkMode: {
    label: "network",
    kind: word(
      new RegExp(`^(?:none|host|bridge|${CONTAINER})$`),
      "none, host, bridge or container:<name>; overlay networks are attached by --network",
    ),
    at: "HostConfig.NetworkMode",
    example: "none",
    doc: "no network, the node's, or that of a container there; instead of networks and ports",
  },
  CgroupParent: {
    label: "cgroup-parent",
    kind: word(ANY, "a control group"),
    at: "HostConfig.CgroupParent",
    example: "/batch",
    doc: "control group above the container's",
  },
  Runtime: {
    label: "runtime",
    kind: word(/^[a-zA-Z0-9][\w.-]*$/, "the name of a runtime of the engine"),
    at: "HostConfig.Runtime",
    example: "runc",
    doc: "runtime of the engine, such as nvidia or runsc",
  },
  Annotations: {
    label: "annotation",
    kind: pairs("=", ANY, "key=value, with commas between", { isSplit: true }),
    at: "HostConfig.Annotations",
    example: "org.example.a=1",
    doc: "annotations for the runtime",
    sinceEngine: 24,
    unseen: "Engine 20.10 lacks it: the task is rejected and says so",
  },
  ShmSize: {
    label: "shm-size",
    kind: size(),
    at: "HostConfig.ShmSize",
    example: "128m",
    doc: "size of /dev/shm",
  },
  Tmpfs: {
    label: "tmpfs",
    kind: pairs(":", PATH, "/path[:options], one a label", { isSplit: false }),
    at: "HostConfig.Tmpfs",
    example: "/scratch:rw,noexec,size=1m",
    doc: "tmpfs with mount options",
  },
  Binds: {
    label: "volume",
    kind: list(/^[^:]+:\/[^:]*(?::[\w,]+)?$/, "source:/target[:options], one a label", {
      isSplit: false,
    }),
    at: "HostConfig.Binds",
    example: "/var/lib/made-by-bind:/made:ro",
    doc: "binds as of `docker run -v`: a missing source is made, options such as z",
  },
  VolumesFrom: {
    label: "volumes-from",
    kind: list(/^[a-zA-Z0-9][\w.-]*(?::(?:ro|rw|z|Z))?$/, "containers of the node, <name>[:ro]", {
      isSplit: true,
    }),
    at: "HostConfig.VolumesFrom",
    example: "keeper:ro",
    doc: "mounts of a container of that name on the node",
  },
  VolumeDriver: {
    label: "volume-driver",
    kind: word(/^[a-zA-Z0-9][\w.:/-]*$/, "the name of a volume driver"),
    at: "HostConfig.VolumeDriver",
    example: "local",
    doc: "driver of volumes that the image or `shoal.volume` asks for",
  },
  StorageOpt: {
    label: "storage-opt",
    kind: pairs("=", ANY, "key=value, with commas between", { isSplit: true }),
    at: "HostConfig.StorageOpt",
    example: "size=1g",
    doc: "options of the storage driver; most drivers know none",
    unseen: "needs xfs with quotas: the engine's refusal is the task's",
  },
  CpuShares: {
    label: "cpu-shares",
    kind: whole(2, 262_144),
    at: "HostConfig.CpuShares",
    example: "512",
    doc: "weight against other containers; 1024 is usual",
  },
  CpuPeriod: {
    label: "cpu-period",
    kind: whole(1_000, MICROSECONDS_MAX),
    at: "HostConfig.CpuPeriod",
    example: "50000",
    doc: "period of the CPU quota, in µs; not beside `--limit-cpu`",
  },
  CpuQuota: {
    label: "cpu-quota",
    kind: whole(1_000, Number.MAX_SAFE_INTEGER),
    at: "HostConfig.CpuQuota",
    example: "25000",
    doc: "time of CPU in each period, in µs; not beside `--limit-cpu`",
  },
  CpuRealtimePeriod: {
    label: "cpu-rt-period",
    kind: whole(1, MICROSECONDS_MAX),
    at: "HostConfig.CpuRealtimePeriod",
    example: "1000000",
    doc: "period of real-time scheduling, in µs; the kernel must have it",
  },
  CpuRealtimeRuntime: {
    label: "cpu-rt-runtime",
    kind: whole(1, MICROSECONDS_MAX),
    at: "HostConfig.CpuRealtimeRuntime",
    example: "950000",
    doc: "real-time CPU in each period, in µs; the kernel must have it",
  },
  CpusetCpus: {
    label: "cpuset-cpus",
    kind: word(CPUS, "CPUs such as 0-2,4"),
    at: "HostConfig.CpusetCpus",
    example: "0",
    doc: "CPUs that it runs on",
  },
  CpusetMems: {
    label: "cpuset-mems",
    kind: word(CPUS, "memory nodes such as 0-1"),
    at: "HostConfig.CpusetMems",
    example: "0",
    doc: "memory nodes that it uses",
  },
  MemoryReservation: {
    label: "memory-reservation",
    kind: size(),
    at: "HostConfig.MemoryReservation",
    example: "16m",
    doc: "soft limit in the engine; `--reserve-memory` is for scheduling",
  },
  MemorySwap: {
    label: "memory-swap",
    kind: size({ hasUnlimited: true }),
    at: "HostConfig.MemorySwap",
    example: "128m",
    doc: "memory and swap together; needs `--limit-memory`",
  },
  MemorySwappiness: {
    label: "memory-swappiness",
    kind: whole(0, 100),
    at: "HostConfig.MemorySwappiness",
    example: "10",
    doc: "inclination to swap; control groups v1 only",
  },
  OomKillDisable: {
    label: "oom-kill-disable",
    kind: flag,
    at: "HostConfig.OomKillDisable",
    example: "true",
    doc: "wait for memory instead of dying; control groups v1 only",
  },
  OomScoreAdj: {
    label: "oom-score-adj",
    kind: whole(-1_000, 1_000),
    at: "HostConfig.OomScoreAdj",
    example: "250",
    doc: "as `OomScoreAdj`, which old clients lack",
    twin: "OomScoreAdj",
  },
  BlkioWeight: {
    label: "blkio-weight",
    kind: whole(10, 1_000),
    at: "HostConfig.BlkioWeight",
    example: "300",
    doc: "weight of block I/O; needs an I/O scheduler with weights",
    unseen: "a kernel without weights: the engine sets 0",
  },
  BlkioWeightDevice: {
    label: "blkio-weight-device",
    kind: weights,
    at: "HostConfig.BlkioWeightDevice",
    example: "/dev/vda:200",
    doc: "weight of block I/O of one device",
    unseen: "as above: the engine sets none",
  },
  BlkioDeviceReadBps: {
    label: "device-read-bps",
    kind: throttles("bytes"),
    at: "HostConfig.BlkioDeviceReadBps",
    example: "/dev/vda:50m",
    doc: "bytes read a second",
  },
  BlkioDeviceWriteBps: {
    label: "device-write-bps",
    kind: throttles("bytes"),
    at: "HostConfig.BlkioDeviceWriteBps",
    example: "/dev/vda:40m",
    doc: "bytes written a second",
  },
  BlkioDeviceReadIOps: {
    label: "device-read-iops",
    kind: throttles("operations"),
    at: "HostConfig.BlkioDeviceReadIOps",
    example: "/dev/vda:3000",
    doc: "reads a second",
  },
  BlkioDeviceWriteIOps: {
    label: "device-write-iops",
    kind: throttles("operations"),
    at: "HostConfig.BlkioDeviceWriteIOps",
    example: "/dev/vda:2000",
    doc: "writes a second",
  },
  PublishAllPorts: {
    label: "publish-all",
    kind: flag,
    at: "HostConfig.PublishAllPorts",
    example: "true",
    doc: "every exposed port on a port of the node that the engine chooses",
  },
  ExposedPorts: {
    label: "expose",
    kind: ports,
    at: "ExposedPorts",
    example: "7070,7071/udp",
    doc: "ports beside those of the image, for `shoal.publish-all`",
  },
  MacAddress: {
    label: "mac-address",
    kind: word(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i, "an address such as 02:42:ac:11:00:02"),
    at: "MacAddress",
    example: "02:42:0a:00:00:99",
    doc: "hardware address on the first network; for services with one task a node at most",
  },
  Addresses: {
    label: "ip",
    kind: addresses,
    at: "NetworkSettings.Networks",
    isPlanned: true,
    example: "10.66.0.99",
    doc: "the task's address on its overlay network, or `network=address`; for services of one replica",
  },
  Domainname: {
    label: "domainname",
    kind: word(/^[a-zA-Z0-9.-]{1,253}$/, "a domain name"),
    at: "Domainname",
    example: "options.example",
    doc: "NIS domain name",
  },
  OpenStdin: {
    label: "interactive",
    kind: flag,
    at: "OpenStdin",
    example: "true",
    doc: "as `OpenStdin`, for which the CLI has no flag",
    twin: "OpenStdin",
  },
  StdinOnce: {
    label: "stdin-once",
    kind: flag,
    at: "StdinOnce",
    example: "true",
    doc: "standard input ends with its first client",
  },
  Shell: {
    label: "shell",
    kind: list(ANY, "words with commas between", { isSplit: true }),
    at: "Shell",
    example: "/bin/sh,-ec",
    doc: "shell of health checks in shell form",
  },
  PullPolicy: {
    label: "pull",
    kind: word(/^(?:always|missing|never)$/, "always, missing or never"),
    example: "never",
    unseen: "the task is rejected: the image is not there and not pulled",
    doc: "when the image is pulled; else a tag each time, but a failure only counts if it is missing",
  },
};

const BY_SERVICE = "services have it: use";
const NOT_ON_LINUX = "it is of Windows containers, nodes run Linux";
const NO_CLIENT = "it is about the terminal of one client, a task has none";

/** Path of the option in the answer of `docker inspect`. */
export function inspectPath({ at }: Pick<ContainerOption, "at">): string | undefined {
  return at === undefined || /^(?:HostConfig|NetworkSettings)\./.test(at) ? at : `Config.${at}`;
}

/** Flags of `docker run` that are no labels: what to use, or why they can mean nothing here. */
export const REFUSED_OPTIONS: Readonly<Record<string, string>> = {
  "add-host": `${BY_SERVICE} --host`,
  attach: NO_CLIENT,
  "cap-add": `${BY_SERVICE} --cap-add`,
  "cap-drop": `${BY_SERVICE} --cap-drop`,
  cidfile: "the id is in docker ps of the task's node, and in the task's status",
  config: `${BY_SERVICE} --config`,
  "cpu-count": NOT_ON_LINUX,
  "cpu-percent": NOT_ON_LINUX,
  cpus: `${BY_SERVICE} --limit-cpu`,
  detach: "tasks always run detached",
  "detach-keys": NO_CLIENT,
  dns: `${BY_SERVICE} --dns`,
  "dns-option": `${BY_SERVICE} --dns-option`,
  "dns-search": `${BY_SERVICE} --dns-search`,
  entrypoint: `${BY_SERVICE} --entrypoint`,
  env: `${BY_SERVICE} --env`,
  "env-file": `${BY_SERVICE} --env-file`,
  "group-add": `${BY_SERVICE} --group`,
  "gw-priority": "the first network that is not internal, by name, is always the way out",
  "health-cmd": `${BY_SERVICE} --health-cmd`,
  hostname: `${BY_SERVICE} --hostname`,
  init: `${BY_SERVICE} --init`,
  "io-maxbandwidth": NOT_ON_LINUX,
  "io-maxiops": NOT_ON_LINUX,
  ip6: "a task's IPv6 address follows from its IPv4 address on the network: fix that one with ip",
  isolation: NOT_ON_LINUX,
  "kernel-memory": "engines have no such limit any more: use --limit-memory",
  label: `${BY_SERVICE} --container-label`,
  link: "tasks find each other by the names of services on a common network",
  "link-local-ip": "link-local addresses end at the node, whose tasks come and go",
  "log-driver": `${BY_SERVICE} --log-driver`,
  "log-opt": `${BY_SERVICE} --log-opt`,
  memory: `${BY_SERVICE} --limit-memory`,
  mount: `${BY_SERVICE} --mount`,
  name: "a task's container has the task's name: a fixed one could be there only once",
  "network-alias": `${BY_SERVICE} --network name=<network>,alias=<alias>`,
  "no-healthcheck": `${BY_SERVICE} --no-healthcheck`,
  "pids-limit": `${BY_SERVICE} --limit-pids`,
  platform: `${BY_SERVICE} --constraint node.platform.arch==<architecture>`,
  publish: `${BY_SERVICE} --publish`,
  quiet: NO_CLIENT,
  "read-only": `${BY_SERVICE} --read-only`,
  restart:
    "a task is one attempt that the cluster replaces by the next: use --restart-condition, such as none",
  rm: "containers of ended tasks are removed with the task: docker swarm update --task-history-limit",
  secret: `${BY_SERVICE} --secret`,
  "sig-proxy": NO_CLIENT,
  "stop-signal": `${BY_SERVICE} --stop-signal`,
  "stop-timeout": `${BY_SERVICE} --stop-grace-period`,
  sysctl: `${BY_SERVICE} --sysctl`,
  tty: `${BY_SERVICE} --tty`,
  ulimit: `${BY_SERVICE} --ulimit`,
  "use-api-socket": "credentials of the client are not handed on: mount the engine's socket",
  user: `${BY_SERVICE} --user`,
  workdir: `${BY_SERVICE} --workdir`,
};

/** Labels of services that are not about containers: each is read, and checked, where it is of use. */
const SERVICE_LABELS: readonly string[] = [
  PROGRESS_DEADLINE_LABEL,
  DRAIN_LABEL,
  PREFER_LABEL,
  AFFINITY_LABEL,
  PUBLISH_LABEL,
  ...STATEFUL_LABELS,
  DEPENDS_ON_LABEL,
  ...SCHEDULE_LABELS,
];
const isServiceLabel = (label: string) => SERVICE_LABELS.includes(label) || isBalancingLabel(label);

type OptionName = keyof ContainerOptions;
// Object.entries loses the keys' type; the table has no others.
const ROWS = Object.entries(CONTAINER_OPTIONS) as [OptionName, ContainerOption][];
const BY_LABEL = new Map(ROWS.map((row) => [row[1].label, row]));

/**
 * The spec with its options resolved: fields of `Shoal` and labels together, checked against each other
 * and against the rest of the spec. Nothing else of it is changed; done again it is the same.
 * @throws {ClusterError} invalid-argument: which label or field, its value, and what to do.
 */
export function resolveContainerOptions(spec: ServiceSpec): ServiceSpec {
  const template = spec.TaskTemplate;
  const { EngineOptions: _, ...container } = template.ContainerSpec;
  const options: Record<string, unknown> = {
    ...fieldsOf(container.Shoal),
  };
  for (const [name, { label, value }] of labelled(spec)) {
    if (options[name] !== undefined) {
      refuse(`label ${label}`, `ContainerSpec.Shoal.${name} says it too: keep one of them`);
    }
    options[name] = value;
  }
  // Each value was accepted by its row.
  const resolved = options as ContainerOptions;
  checkTogether(spec, resolved);
  const isAny = Object.keys(options).length > 0;
  return {
    ...spec,
    TaskTemplate: {
      ...template,
      ContainerSpec: { ...container, ...(isAny ? { EngineOptions: resolved } : {}) },
    },
  };
}

/**
 * Fields that a stock client left out of an update because it does not know them: kept, or each
 * `docker service update` would take them away. An empty `Shoal` takes them away.
 */
export function keepShoalFields(spec: ServiceSpec, before: ServiceSpec): ServiceSpec {
  const kept = before.TaskTemplate.ContainerSpec.Shoal;
  const container = spec.TaskTemplate.ContainerSpec;
  if (container.Shoal !== undefined || kept === undefined) return spec;
  return {
    ...spec,
    TaskTemplate: { ...spec.TaskTemplate, ContainerSpec: { ...container, Shoal: kept } },
  };
}

/**
 * Puts the options into a create body, each in its row's place.
 * @param engineVersion of the node's engine, such as 20.10.24.
 * @throws {ClusterError} invalid-argument for an option that this engine would drop.
 */
export function applyContainerOptions(
  body: object,
  options: ContainerOptions | undefined,
  engineVersion: string | undefined,
): void {
  for (const [name, row] of ROWS) {
    const value = options?.[name];
    if (value === undefined || row.at === undefined || row.isPlanned) continue;
    requireEngine(`option ${name} (${OPTION_LABEL_PREFIX}${row.label})`, row, engineVersion);
    const path = row.at.split(".");
    // A create body is a tree of plain records.
    let parent = body as Record<string, unknown>;
    for (const key of path.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
    const key = path.at(-1) ?? "";
    parent[key] = joined(parent[key], value);
  }
}

/** @throws {ClusterError} invalid-argument when the engine is known to be older. */
export function requireEngine(
  what: string,
  { sinceEngine }: { sinceEngine?: number },
  engineVersion: string | undefined,
): void {
  const major = Number.parseInt(engineVersion ?? "", 10);
  if (sinceEngine === undefined || Number.isNaN(major) || major >= sinceEngine) return;
  throw new ClusterError(
    "invalid-argument",
    `Cannot carry out ${what}: it needs Docker Engine ${sinceEngine}, this node has ${engineVersion}; upgrade it, or keep the service off it by a constraint`,
  );
}

function joined(before: unknown, value: unknown): unknown {
  if (Array.isArray(before) && Array.isArray(value)) return [...before, ...value];
  const areMaps = [before, value].every((one) => typeof one === "object" && !Array.isArray(one));
  return areMaps && before ? Object.assign({}, before, value) : value;
}

function fieldsOf(given: ContainerOptions | undefined): Record<string, unknown> {
  for (const [name, value] of Object.entries(given ?? {})) {
    const row = Object.hasOwn(CONTAINER_OPTIONS, name)
      ? CONTAINER_OPTIONS[name as OptionName] // just found in the table
      : undefined;
    const what = `ContainerSpec.Shoal.${name}`;
    if (!row) {
      const near = nearestName(
        name,
        ROWS.map(([known]) => known),
      );
      refuse(what, `there is no such option${near ? `: did you mean ${near}?` : ""}`);
    }
    if (!row.kind.accepts(value)) refuse(what, `it must be ${row.kind.words}`, value);
  }
  return { ...given };
}

type Labelled = Map<OptionName, { label: string; value: unknown }>;

function labelled(spec: ServiceSpec): Labelled {
  const texts = new Map<OptionName, { label: string; suffix: string; text: string }[]>();
  const places = [spec.Labels, spec.TaskTemplate.ContainerSpec.Labels];
  for (const [place, labels] of places.entries()) {
    for (const [label, text] of Object.entries(labels ?? {})) {
      if (!label.startsWith(OPTION_LABEL_PREFIX)) continue;
      if (place === 0 && isServiceLabel(label)) continue;
      if (place === 1 && spec.Labels?.[label] !== undefined) {
        if (spec.Labels[label] === text) continue;
        refuse(`label ${label}`, "service and container have it with different values: keep one");
      }
      const { name, suffix } = optionOf(label, text);
      texts.set(name, [...(texts.get(name) ?? []), { label, suffix, text }]);
    }
  }
  const found: Labelled = new Map();
  for (const [name, parts] of texts) {
    parts.sort((a, b) => a.suffix.localeCompare(b.suffix, "en", { numeric: true }));
    const { kind } = CONTAINER_OPTIONS[name];
    const label = parts.map((part) => part.label).join(", ");
    const given = parts.map((part) => part.text);
    const value = readLabel(kind, given);
    if (!kind.accepts(value)) refuse(`label ${label}`, `it must be ${kind.words}`, given.join(" "));
    found.set(name, { label, value });
  }
  return found;
}

/** Anything unreadable gives `undefined`, which no kind accepts. */
function readLabel(kind: OptionKind<unknown>, texts: string[]): unknown {
  try {
    return kind.read(texts);
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return undefined;
  }
}

function optionOf(label: string, text: string): { name: OptionName; suffix: string } {
  const rest = label.slice(OPTION_LABEL_PREFIX.length);
  const dot = rest.indexOf(".");
  const flagName = dot < 0 ? rest : rest.slice(0, dot);
  const row = BY_LABEL.get(flagName);
  if (isServiceLabel(label)) {
    refuse(`label ${label}`, "it is of the service, not of its containers: use --label", text);
  }
  if (!row) {
    const why = Object.hasOwn(REFUSED_OPTIONS, flagName) ? REFUSED_OPTIONS[flagName] : undefined;
    if (why !== undefined) refuse(`label ${label}`, why, text);
    const near =
      nearestName(
        rest,
        SERVICE_LABELS.map((known) => known.slice(OPTION_LABEL_PREFIX.length)),
      ) ?? nearestName(flagName, [...BY_LABEL.keys(), ...Object.keys(REFUSED_OPTIONS)]);
    return refuse(
      `label ${label}`,
      `labels that begin with ${OPTION_LABEL_PREFIX} are options of containers, and there is none of this name${near ? `: did you mean ${OPTION_LABEL_PREFIX}${near}?` : ""}`,
    );
  }
  if (dot >= 0 && !row[1].kind.isList) {
    refuse(`label ${label}`, `it has one value: name it ${OPTION_LABEL_PREFIX}${flagName}`);
  }
  return { name: row[0], suffix: dot < 0 ? "" : rest.slice(dot + 1) };
}

/** What only the whole spec shows. */
function checkTogether(spec: ServiceSpec, options: ContainerOptions): void {
  const { ContainerSpec: container, Networks, Resources } = spec.TaskTemplate;
  const what = (name: OptionName) =>
    `${name} (${OPTION_LABEL_PREFIX}${CONTAINER_OPTIONS[name].label})`;
  for (const [name, { twin }] of ROWS) {
    if (twin === undefined || options[name] === undefined || container[twin] === undefined)
      continue;
    if (container[twin] !== options[name]) {
      refuse(
        what(name),
        `ContainerSpec.${twin} says ${JSON.stringify(container[twin])}: keep one of them`,
      );
    }
  }
  for (const [name, limit] of [
    ["MemorySwap", "SwapBytes"],
    ["MemorySwappiness", "MemorySwappiness"],
  ] as const) {
    if (options[name] === undefined || Resources?.[limit] === undefined) continue;
    refuse(what(name), `Resources.${limit} says it too: keep one of them`);
  }
  const memoryBytes = Resources?.Limits?.MemoryBytes;
  if (options.CpuQuota !== undefined || options.CpuPeriod !== undefined) {
    const name = options.CpuQuota === undefined ? "CpuPeriod" : "CpuQuota";
    if (Resources?.Limits?.NanoCPUs) {
      refuse(what(name), "a CPU limit (--limit-cpu) sets the same: leave out one of them");
    }
  }
  if (options.MemorySwap !== undefined) {
    if (!memoryBytes) refuse(what("MemorySwap"), "it counts with memory: set --limit-memory too");
    if (options.MemorySwap !== -1 && options.MemorySwap < memoryBytes) {
      refuse(
        what("MemorySwap"),
        `it is memory and swap together, so at least the memory limit of ${memoryBytes}`,
        options.MemorySwap,
      );
    }
  }
  if (memoryBytes && (options.MemoryReservation ?? 0) > memoryBytes) {
    refuse(
      what("MemoryReservation"),
      `it must not be above the memory limit of ${memoryBytes}`,
      options.MemoryReservation,
    );
  }
  if (options.OomKillDisable && !memoryBytes) {
    // The engine only warns, and the host's memory is at stake.
    refuse(what("OomKillDisable"), "without a limit it would take the whole node: --limit-memory");
  }
  if (options.NetworkMode !== undefined) {
    if (Networks?.length) {
      refuse(what("NetworkMode"), "the service is attached to networks: leave out one of them");
    }
    if (spec.EndpointSpec?.Ports?.length) {
      refuse(what("NetworkMode"), "published ports need a network of the cluster: leave them out");
    }
  }
  if (options.Addresses) {
    if (spec.Mode.Replicated?.Replicas !== 1) {
      refuse(what("Addresses"), "only one task can have it: use mode replicated and one replica");
    }
    if (
      spec.UpdateConfig?.Order === "start-first" ||
      spec.RollbackConfig?.Order === "start-first"
    ) {
      refuse(what("Addresses"), "old and new task cannot have it at once: use order stop-first");
    }
    if (!Networks?.length) {
      refuse(what("Addresses"), "the service is on no overlay network: attach it by --network");
    }
  }
  if (options.UTSMode === "host" && (container.Hostname || options.Domainname)) {
    refuse(what("UTSMode"), "the name is the node's then: leave out hostname and domain name");
  }
  if (options.MacAddress !== undefined && (spec.Mode.Replicated?.Replicas ?? 1) > 1) {
    refuse(
      what("MacAddress"),
      "two tasks on a node would share it: use one replica, or --mode global",
    );
  }
}

function refuse(what: string, why: string, value?: unknown): never {
  const shown = value === undefined ? "" : `=${JSON.stringify(value)}`;
  throw new ClusterError("invalid-argument", `Cannot use ${what}${shown}: ${why}`);
}
