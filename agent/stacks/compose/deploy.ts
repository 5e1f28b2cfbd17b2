/** `deploy`: mode, updates, resources, restarts and placement, and the older keys that say the same. */
import type { DeviceRequest } from "../../../core/objects/container-options.ts";
import type { RestartPolicy, TaskSpec } from "../../../core/objects/task.ts";
import type { ServiceMode, UpdateConfig } from "../../../core/objects/service.ts";
import { checkKeys } from "./keys.ts";
import type { Mapping, Node } from "./node.ts";
import {
  child,
  readDurationNs,
  readList,
  readMap,
  readNanoCpus,
  readRatio,
  readSizeBytes,
  readText,
  readTextMap,
  readTexts,
  readWhole,
  readWord,
} from "./read.ts";
import { type Report, refuse } from "./report.ts";

const MODES = ["replicated", "global", "replicated-job", "global-job"] as const;
const CONDITIONS = ["none", "on-failure", "any"] as const;

/** A map of a service's, with its keys checked; `undefined` where it is not there. */
function section(report: Report, parent: Node | undefined, path: string): Mapping | undefined {
  const map = readMap(report, child(parent, path.slice(path.lastIndexOf(".") + 1)));
  if (map) checkKeys(report, path, map);
  return map;
}

export function readDeploy(report: Report, service: Mapping): Mapping | undefined {
  return section(report, service, "service.deploy");
}

export function readMode(
  report: Report,
  service: Mapping,
  deploy: Mapping | undefined,
): ServiceMode {
  const node = child(deploy, "mode");
  const mode = readWord(report, node, MODES) ?? "replicated";
  const replicas = child(deploy, "replicas") ?? child(service, "scale");
  const count = readWhole(report, replicas, { min: 0 });
  if (replicas && count !== undefined && mode.startsWith("global")) {
    refuse(report, replicas, `a ${mode} service has a task on each node: remove it`);
  }
  const counted = count === undefined ? {} : { MaxConcurrent: count, TotalCompletions: count };
  if (mode === "global") return { Global: {} };
  if (mode === "global-job") return { GlobalJob: {} };
  if (mode === "replicated-job") return { ReplicatedJob: counted };
  return { Replicated: count === undefined ? {} : { Replicas: count } };
}

export function readUpdateConfig(
  report: Report,
  deploy: Mapping | undefined,
  key: "update_config" | "rollback_config",
): UpdateConfig | undefined {
  const config = section(report, deploy, `service.deploy.${key}`);
  if (!config) return undefined;
  const actions =
    key === "update_config"
      ? (["pause", "continue", "rollback"] as const)
      : (["pause", "continue"] as const);
  const delay = readDurationNs(report, child(config, "delay"));
  const action = readWord(report, child(config, "failure_action"), actions);
  const monitor = readDurationNs(report, child(config, "monitor"));
  const ratio = readRatio(report, child(config, "max_failure_ratio"));
  const order = readWord(report, child(config, "order"), ["stop-first", "start-first"]);
  return {
    Parallelism: readWhole(report, child(config, "parallelism"), { min: 0 }) ?? 1,
    ...(delay ? { Delay: delay } : {}),
    ...(action ? { FailureAction: action } : {}),
    ...(monitor ? { Monitor: monitor } : {}),
    MaxFailureRatio: ratio ?? 0,
    ...(order ? { Order: order } : {}),
  };
}

type Resources = NonNullable<TaskSpec["Resources"]>;

/** With `cpus`, `mem_limit` and `pids_limit` of the service, where `deploy` says nothing of them. */
export function readResources(
  report: Report,
  service: Mapping,
  deploy: Mapping | undefined,
): { resources: Resources; devices: DeviceRequest[] } {
  const resources = section(report, deploy, "service.deploy.resources");
  const limits = section(report, resources, "service.deploy.resources.limits");
  const reservations = section(report, resources, "service.deploy.resources.reservations");
  const pidsNode = child(limits, "pids") ?? child(service, "pids_limit");
  const pids = readWhole(report, pidsNode, { min: -1 });
  const limit = {
    ...amounts(
      report,
      child(limits, "cpus") ?? child(service, "cpus"),
      child(limits, "memory") ?? child(service, "mem_limit"),
    ),
    // -1 is no limit, which is what none is.
    ...(pids && pids > 0 ? { Pids: pids } : {}),
  };
  const generic = genericResources(report, child(reservations, "generic_resources"));
  const reservation = {
    ...amounts(report, child(reservations, "cpus"), child(reservations, "memory")),
    ...(generic.length > 0 ? { GenericResources: generic } : {}),
  };
  return {
    resources: {
      ...(limits || Object.keys(limit).length > 0 ? { Limits: limit } : {}),
      ...(reservations ? { Reservations: reservation } : {}),
    },
    devices: readDeviceRequests(
      report,
      child(reservations, "devices"),
      "service.deploy.resources.reservations.devices[]",
    ),
  };
}

function amounts(report: Report, cpus: Node | undefined, memory: Node | undefined) {
  const nano = readNanoCpus(report, cpus);
  const bytes = readSizeBytes(report, memory);
  return { ...(nano ? { NanoCPUs: nano } : {}), ...(bytes ? { MemoryBytes: bytes } : {}) };
}

function genericResources(report: Report, node: Node | undefined) {
  return (readList(report, node)?.items ?? []).flatMap((item) => {
    const resource = readMap(report, item);
    if (!resource) return [];
    checkKeys(report, "service.deploy.resources.reservations.generic_resources[]", resource);
    const spec = readMap(report, child(resource, "discrete_resource_spec"));
    const Kind = readText(report, child(spec, "kind"));
    const Value = readWhole(report, child(spec, "value"), { min: 0 });
    if (Kind !== undefined && Value !== undefined)
      return [{ DiscreteResourceSpec: { Kind, ...(Value ? { Value } : {}) } }];
    refuse(report, resource, "it must be discrete_resource_spec: {kind: …, value: …}");
    return [];
  });
}

/** Of `gpus` and of `deploy.resources.reservations.devices`. Source: compose specification, devices. */
export function readDeviceRequests(
  report: Report,
  node: Node | undefined,
  path: "service.gpus[]" | "service.deploy.resources.reservations.devices[]",
): DeviceRequest[] {
  return (readList(report, node)?.items ?? []).flatMap((item) => {
    const device = readMap(report, item);
    if (!device) return [];
    checkKeys(report, path, device);
    const driver = readText(report, child(device, "driver"));
    const ids = readTexts(report, child(device, "device_ids"));
    const capabilities = readTexts(report, child(device, "capabilities"));
    const options = readTextMap(report, child(device, "options"));
    const countNode = child(device, "count");
    const isAll = countNode?.kind === "scalar" && countNode.text === "all";
    const count = isAll ? -1 : readWhole(report, countNode, { min: -1 });
    if (count !== undefined && ids) {
      refuse(report, device, "it has both count and device_ids: remove one of them");
    }
    const isGpu = path === "service.gpus[]";
    const words = [
      ...(isGpu && !capabilities?.includes("gpu") ? ["gpu"] : []),
      ...(capabilities ?? []),
    ];
    if (words.length === 0) refuse(report, device, "its capabilities are missing: such as [gpu]");
    return [
      {
        ...(driver ? { Driver: driver } : {}),
        ...(ids ? { DeviceIDs: ids } : { Count: count ?? -1 }),
        Capabilities: [words],
        ...(options ? { Options: options } : {}),
      },
    ];
  });
}

/** That of `deploy`, or else what `restart` means. */
export function readRestartPolicy(
  report: Report,
  service: Mapping,
  deploy: Mapping | undefined,
): RestartPolicy | undefined {
  const policy = section(report, deploy, "service.deploy.restart_policy");
  if (!policy) return readRestart(report, child(service, "restart"));
  const condition = readWord(report, child(policy, "condition"), CONDITIONS);
  const delay = readDurationNs(report, child(policy, "delay"));
  const attempts = readWhole(report, child(policy, "max_attempts"), { min: 0 });
  const window = readDurationNs(report, child(policy, "window"));
  return {
    ...(condition ? { Condition: condition } : {}),
    ...(delay === undefined ? {} : { Delay: delay }),
    ...(attempts === undefined ? {} : { MaxAttempts: attempts }),
    ...(window === undefined ? {} : { Window: window }),
  };
}

function readRestart(report: Report, node: Node | undefined): RestartPolicy | undefined {
  // YAML's `no` is the word here; a flag only if somebody wrote false.
  if (node?.kind === "scalar" && node.value === false) return { Condition: "none" };
  const text = readText(report, node);
  if (!node || !text) return undefined;
  const [word = "", attempts, ...more] = text.split(":");
  if (word === "on-failure" && more.length === 0 && /^\d+$/.test(attempts ?? "0")) {
    return { Condition: "on-failure", MaxAttempts: Number(attempts ?? 0) };
  }
  if (attempts === undefined && word === "no") return { Condition: "none" };
  if (attempts === undefined && ["always", "unless-stopped"].includes(word)) {
    return { Condition: "any" };
  }
  refuse(report, node, 'it must be "no", always, unless-stopped or on-failure[:attempts]');
  return undefined;
}

export function readPlacement(
  report: Report,
  service: Mapping,
  deploy: Mapping | undefined,
): NonNullable<TaskSpec["Placement"]> {
  const placement = section(report, deploy, "service.deploy.placement");
  const constraints = readTexts(report, child(placement, "constraints"));
  const preferences = (readList(report, child(placement, "preferences"))?.items ?? []).flatMap(
    (item) => {
      const SpreadDescriptor = readText(report, child(readMap(report, item), "spread"));
      if (SpreadDescriptor !== undefined) return [{ Spread: { SpreadDescriptor } }];
      refuse(report, item, "it must be spread: node.labels.…");
      return [];
    },
  );
  const perNode = readWhole(report, child(placement, "max_replicas_per_node"), { min: 0 });
  const platform = readText(report, child(service, "platform"));
  const [OS = "", Architecture = ""] = platform?.split("/") ?? [];
  return {
    ...(constraints?.length ? { Constraints: constraints } : {}),
    ...(preferences.length > 0 ? { Preferences: preferences } : {}),
    ...(perNode ? { MaxReplicas: perNode } : {}),
    ...(platform ? { Platforms: [{ ...(Architecture ? { Architecture } : {}), OS }] } : {}),
  };
}
