/** Keys of the compose specification that services lack in stock, as ContainerSpec.Shoal. */
import type {
  ContainerOptions,
  DeviceMapping,
  DeviceRequest,
  ThrottleDevice,
} from "../../../core/objects/container-options.ts";
import { CONTAINER_OPTIONS } from "../../reconciler/container-options.ts";
import { readDeviceRequests } from "./deploy.ts";
import { checkKeys } from "./keys.ts";
import type { List, Mapping, Node } from "./node.ts";
import { readExposed } from "./ports.ts";
import {
  child,
  readFlag,
  readList,
  readMap,
  readMicroseconds,
  readSizeBytes,
  readText,
  readTextMap,
  readTexts,
  readWhole,
} from "./read.ts";
import { type Report, refuse } from "./report.ts";

type OptionName = keyof ContainerOptions;
type Read = (report: Report, node: Node) => unknown;

const RATE_MAX = Number.MAX_SAFE_INTEGER;
const whole: Read = (report, node) => readWhole(report, node, { min: -1_000, max: RATE_MAX });
const PULL_POLICIES: Readonly<Record<string, string>> = {
  always: "always",
  missing: "missing",
  if_not_present: "missing",
  never: "never",
};

/** Of keys that are one option each: its name, and how the value is read. */
const OPTIONS: Readonly<Record<string, [OptionName, Read]>> = {
  annotations: ["Annotations", readTextMap],
  cgroup: ["CgroupnsMode", readText],
  cgroup_parent: ["CgroupParent", readText],
  cgroupns_mode: ["CgroupnsMode", readText],
  cpu_period: ["CpuPeriod", readMicroseconds],
  cpu_quota: ["CpuQuota", readMicroseconds],
  cpu_rt_period: ["CpuRealtimePeriod", readMicroseconds],
  cpu_rt_runtime: ["CpuRealtimeRuntime", readMicroseconds],
  cpu_shares: ["CpuShares", whole],
  cpuset: ["CpusetCpus", readText],
  device_cgroup_rules: ["DeviceCgroupRules", readTexts],
  domainname: ["Domainname", readText],
  expose: ["ExposedPorts", readExposed],
  ipc: ["IpcMode", readText],
  mac_address: ["MacAddress", readText],
  mem_reservation: ["MemoryReservation", readSizeBytes],
  mem_swappiness: ["MemorySwappiness", whole],
  memswap_limit: ["MemorySwap", readSwap],
  oom_kill_disable: ["OomKillDisable", readFlag],
  pid: ["PidMode", readText],
  privileged: ["Privileged", readFlag],
  pull_policy: ["PullPolicy", readPullPolicy],
  runtime: ["Runtime", readText],
  security_opt: ["SecurityOpt", readTexts],
  shm_size: ["ShmSize", readSizeBytes],
  storage_opt: ["StorageOpt", readTextMap],
  tmpfs: ["Tmpfs", readTmpfs],
  userns_mode: ["UsernsMode", readText],
  uts: ["UTSMode", readText],
  volumes_from: ["VolumesFrom", readVolumesFrom],
};

/** What other parts of the conversion found. */
export type FoundOptions = {
  binds: string[];
  addresses: Record<string, string>;
  networkMode: string | undefined;
  deviceRequests: DeviceRequest[];
};

/** `undefined` where the service has none. What the options say together is checked by the cluster. */
export function readOptions(
  report: Report,
  service: Mapping,
  found: FoundOptions,
): ContainerOptions | undefined {
  const options = new Map<OptionName, unknown>();
  for (const [key, [name, read]] of Object.entries(OPTIONS)) {
    const node = child(service, key);
    const value = node && read(report, node);
    if (!node || value === undefined || isNothing(value)) continue;
    const { kind } = CONTAINER_OPTIONS[name];
    if (kind.accepts(value)) options.set(name, value);
    else refuse(report, node, `it must be ${kind.words}`);
  }
  readBlkio(report, service, options);
  const gpus = child(service, "gpus");
  const isAllGpus = gpus?.kind === "scalar" && gpus.text === "all";
  const requests = [
    ...found.deviceRequests,
    ...(isAllGpus
      ? [{ Count: -1, Capabilities: [["gpu"]] }]
      : readDeviceRequests(report, gpus, "service.gpus[]")),
  ];
  const { devices, cdi } = readDevices(report, readList(report, child(service, "devices")));
  if (cdi.length > 0) requests.push({ Driver: "cdi", DeviceIDs: cdi });
  if (devices.length > 0) options.set("Devices", devices);
  if (requests.length > 0) options.set("DeviceRequests", requests);
  if (found.binds.length > 0) options.set("Binds", found.binds);
  if (Object.keys(found.addresses).length > 0) options.set("Addresses", found.addresses);
  if (found.networkMode !== undefined) options.set("NetworkMode", found.networkMode);
  // Each value was read as its option's type.
  return options.size === 0 ? undefined : (Object.fromEntries(options) as ContainerOptions);
}

/** `false`, and empty lists and maps, say what is so anyway. */
function isNothing(value: unknown): boolean {
  return value === false || (typeof value === "object" && Object.keys(value ?? {}).length === 0);
}

function readSwap(report: Report, node: Node): number | undefined {
  return node.kind === "scalar" && node.text === "-1" ? -1 : readSizeBytes(report, node);
}

function readPullPolicy(report: Report, node: Node): string | undefined {
  const text = readText(report, node);
  if (text === undefined) return undefined;
  const policy = Object.hasOwn(PULL_POLICIES, text) ? PULL_POLICIES[text] : undefined;
  if (policy !== undefined) return policy;
  const why =
    text === "build"
      ? "nodes build no images: build it, push it, and use always or missing"
      : "it must be always, missing or never";
  refuse(report, node, why);
  return undefined;
}

function readTmpfs(report: Report, node: Node): Record<string, string> {
  const lines = readTexts(report, node) ?? [];
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf(":");
      return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1)];
    }),
  );
}

function readVolumesFrom(report: Report, node: Node): string[] {
  return (readList(report, node)?.items ?? []).flatMap((item) => {
    const text = readText(report, item) ?? "";
    if (text.startsWith("container:")) return [text.slice("container:".length)];
    refuse(
      report,
      item,
      "tasks of two services may be on different nodes: mount a named volume in both, or name a container of the node by container:<name>",
    );
    return [];
  });
}

function readDevices(
  report: Report,
  list: List | undefined,
): { devices: DeviceMapping[]; cdi: string[] } {
  const devices: DeviceMapping[] = [];
  const cdi: string[] = [];
  for (const item of list?.items ?? []) {
    const text = item.kind === "scalar" ? item.text : "";
    if (/^[^/]+\/[^=]+=/.test(text)) {
      cdi.push(text);
      continue;
    }
    const [first = "", second, third] = text.split(":");
    if (item.kind === "map") checkKeys(report, "service.devices[]", item);
    const host = item.kind === "map" ? (readText(report, child(item, "source")) ?? "") : first;
    const inside = item.kind === "map" ? readText(report, child(item, "target")) : second;
    const rights = item.kind === "map" ? readText(report, child(item, "permissions")) : third;
    const device = {
      PathOnHost: host,
      PathInContainer: inside || host,
      CgroupPermissions: rights || "rwm",
    };
    if (CONTAINER_OPTIONS.Devices.kind.accepts([device])) devices.push(device);
    else refuse(report, item, `it must be ${CONTAINER_OPTIONS.Devices.kind.words}`);
  }
  return { devices, cdi };
}

const RATES = [
  ["device_read_bps", "BlkioDeviceReadBps", readSizeBytes],
  ["device_write_bps", "BlkioDeviceWriteBps", readSizeBytes],
  ["device_read_iops", "BlkioDeviceReadIOps", whole],
  ["device_write_iops", "BlkioDeviceWriteIOps", whole],
] as const;

function readBlkio(report: Report, service: Mapping, options: Map<OptionName, unknown>): void {
  const blkio = readMap(report, child(service, "blkio_config"));
  if (!blkio) return;
  checkKeys(report, "service.blkio_config", blkio);
  const weight = readWhole(report, child(blkio, "weight"), { min: 0, max: 1_000 });
  if (weight) options.set("BlkioWeight", weight);
  const devicesOf = (key: string, field: "weight" | "rate", read: Read) =>
    (readList(report, child(blkio, key))?.items ?? []).flatMap((item) => {
      const Path = readText(report, child(readMap(report, item), "path"));
      const node = child(item, field);
      const value = node && read(report, node);
      if (Path !== undefined && typeof value === "number") return [{ Path, value }];
      refuse(report, item, `it must have a path and a ${field}`);
      return [];
    });
  const weights = devicesOf("weight_device", "weight", whole);
  if (weights.length > 0) {
    options.set(
      "BlkioWeightDevice",
      weights.map(({ Path, value }) => ({ Path, Weight: value })),
    );
  }
  for (const [key, name, read] of RATES) {
    const rates: ThrottleDevice[] = devicesOf(key, "rate", read).map(({ Path, value }) => ({
      Path,
      Rate: value,
    }));
    if (rates.length > 0) options.set(name, rates);
  }
}
