/** One service of a compose file as the spec that `docker stack deploy` would send for it. */
import type { ServiceSpec } from "../../../core/objects/service.ts";
import type { ContainerSpec } from "../../../core/objects/task.ts";
import type { Context } from "./context.ts";
import { readReferences } from "./data.ts";
import {
  readDeploy,
  readMode,
  readPlacement,
  readResources,
  readRestartPolicy,
  readUpdateConfig,
} from "./deploy.ts";
import { dependsOnLabel } from "./depends.ts";
import { readEnvironment, readLabelFiles } from "./environment.ts";
import { checkKeys } from "./keys.ts";
import { readAttachments, readNetworkMode } from "./networks.ts";
import { isNull, type Mapping, type Node } from "./node.ts";
import { readOptions } from "./options.ts";
import { compareTexts, stackLabels } from "./order.ts";
import { readPorts } from "./ports.ts";
import {
  child,
  isSet,
  readCommand,
  readDurationNs,
  readFlag,
  readList,
  readMap,
  readText,
  readTextMap,
  readTexts,
  readWhole,
  readWord,
} from "./read.ts";
import { refuse, type Report } from "./report.ts";
import { readVolumes } from "./volumes.ts";

const IMAGE_LABEL = "com.docker.stack.image";
const OOM_SCORE_MAX = 1_000;
const LIMIT_MIN = -1;
const ALL_CAPABILITIES = "ALL";

/** With the keys of the networks that it is attached to. `services`: those of the file. */
export function readService(
  context: Context,
  key: string,
  service: Mapping,
  services: Mapping,
): { spec: ServiceSpec; networkKeys: string[] } {
  const { report, stack } = context;
  checkKeys(report, "service", service);
  const image = readImage(report, service);
  const deploy = readDeploy(report, service);
  const { resources, devices } = readResources(report, service, deploy);
  const { mounts, binds } = readVolumes(context, child(service, "volumes"));
  const networkMode = readNetworkMode(context, service);
  const { networks, addresses, keys } =
    networkMode === undefined
      ? readAttachments(context, key, child(service, "networks"))
      : { networks: [], addresses: {}, keys: [] };
  const options = readOptions(report, service, {
    binds,
    addresses,
    networkMode,
    deviceRequests: devices,
  });
  const container: ContainerSpec = {
    ...readContainer(context, service, image),
    ...(mounts.length > 0 ? { Mounts: mounts } : {}),
    ...(options ? { Shoal: options } : {}),
  };
  const placement = readPlacement(report, service, deploy);
  const ports = readPorts(report, child(service, "ports"));
  const endpointMode = readWord(report, child(deploy, "endpoint_mode"), ["vip", "dnsrr"]);
  const spec: ServiceSpec = {
    Name: `${stack}_${key}`,
    Labels: stackLabels(stack, {
      ...dependsOnLabel(report, stack, services, child(service, "depends_on")),
      ...readTextMap(report, child(deploy, "labels")),
      [IMAGE_LABEL]: image,
    }),
    TaskTemplate: {
      ContainerSpec: container,
      Resources: resources,
      ...field("RestartPolicy", readRestartPolicy(report, service, deploy)),
      Placement: placement,
      ...(networks.length > 0 ? { Networks: networks } : {}),
      ...field("LogDriver", readLogging(report, service)),
      ForceUpdate: 0,
      Runtime: "container",
    },
    Mode: readMode(report, service, deploy),
    ...field("UpdateConfig", readUpdateConfig(report, deploy, "update_config")),
    ...field("RollbackConfig", readUpdateConfig(report, deploy, "rollback_config")),
    EndpointSpec: {
      ...(endpointMode ? { Mode: endpointMode } : {}),
      ...(ports.length > 0 ? { Ports: ports } : {}),
    },
  };
  return { spec, networkKeys: keys };
}

/** A field that is left out when it is not there. */
function field<K extends string, V>(name: K, value: V | undefined): { [k in K]?: V } {
  // A computed key is any text for the compiler.
  return value === undefined ? {} : ({ [name]: value } as { [k in K]: V });
}

/** A list, if it has something. */
function some<T>(list: readonly T[] | undefined): readonly T[] | undefined {
  return list?.length ? list : undefined;
}

function readImage(report: Report, service: Mapping): string {
  const image = readText(report, child(service, "image"));
  if (image) return image;
  const why = service.entries.has("build")
    ? "it has `build` and no `image`: build the image, push it to a registry that the nodes reach, and name it by `image`"
    : "its image is missing: add `image`";
  refuse(report, service, why);
  return "";
}

function readContainer(context: Context, service: Mapping, Image: string): ContainerSpec {
  const { report, stack } = context;
  const at = (key: string) => child(service, key);
  const text = (key: string) => readText(report, at(key)) || undefined;
  const { add, drop } = readCapabilities(report, service);
  const ulimits = readUlimits(report, at("ulimits"));
  const spec = {
    Image,
    Labels: stackLabels(stack, {
      ...readLabelFiles(context, at("label_file")),
      ...readTextMap(report, at("labels")),
    }),
    Command: some(readCommand(report, at("entrypoint"))),
    Args: some(readCommand(report, at("command"))),
    Hostname: text("hostname"),
    Env: some(readEnvironment(context, service)),
    Dir: text("working_dir"),
    User: text("user"),
    Groups: some(readTexts(report, at("group_add"))),
    // As the CLI sends it, so that a stack that it deployed before is not rolled.
    Privileges: {},
    Init: readFlag(report, at("init")),
    StopSignal: text("stop_signal"),
    TTY: isSet(report, service, "tty") || undefined,
    OpenStdin: isSet(report, service, "stdin_open") || undefined,
    ReadOnly: isSet(report, service, "read_only") || undefined,
    StopGracePeriod: readDurationNs(report, at("stop_grace_period")),
    Healthcheck: readHealthcheck(report, at("healthcheck")),
    Hosts: some(readHosts(report, at("extra_hosts"))),
    DNSConfig: readDns(report, service),
    Secrets: some(readReferences(context, "secrets", at("secrets"))),
    Configs: some(readReferences(context, "configs", at("configs"))),
    Isolation: text("isolation") ?? "default",
    Sysctls: readTextMap(report, at("sysctls")),
    CapabilityAdd: some(add),
    CapabilityDrop: some(drop),
    Ulimits: some(ulimits),
    OomScoreAdj:
      readWhole(report, at("oom_score_adj"), { min: -OOM_SCORE_MAX, max: OOM_SCORE_MAX }) ||
      undefined,
  };
  const given = Object.entries(spec).filter(([, value]) => value !== undefined);
  // Only what is absent was left out.
  return Object.fromEntries(given) as ContainerSpec;
}

function readHealthcheck(
  report: Report,
  node: Node | undefined,
): ContainerSpec["Healthcheck"] | undefined {
  const check = readMap(report, node);
  if (!check) return undefined;
  checkKeys(report, "service.healthcheck", check);
  const test = child(check, "test");
  const words = test?.kind === "list" ? readTexts(report, test) : shellTest(readText(report, test));
  if (isSet(report, check, "disable")) {
    if (words?.length) refuse(report, check, "it has a test and is disabled: remove one of them");
    return { Test: ["NONE"] };
  }
  const isKnown = !words?.length || ["NONE", "CMD", "CMD-SHELL"].includes(words[0] ?? "");
  if (test && !isKnown) refuse(report, test, "it must begin with NONE, CMD or CMD-SHELL");
  const duration = (key: string) => readDurationNs(report, child(check, key));
  const [interval, timeout] = [duration("interval"), duration("timeout")];
  const [period, startInterval] = [duration("start_period"), duration("start_interval")];
  const retries = readWhole(report, child(check, "retries"), { min: 0 });
  return {
    ...(words?.length ? { Test: words } : {}),
    ...(interval ? { Interval: interval } : {}),
    ...(timeout ? { Timeout: timeout } : {}),
    ...(retries ? { Retries: retries } : {}),
    ...(period ? { StartPeriod: period } : {}),
    ...(startInterval ? { StartInterval: startInterval } : {}),
  };
}

function shellTest(text: string | undefined): string[] | undefined {
  return text === undefined ? undefined : ["CMD-SHELL", text];
}

function readLogging(report: Report, service: Mapping) {
  const logging = readMap(report, child(service, "logging"));
  if (!logging) return undefined;
  checkKeys(report, "service.logging", logging);
  const Options = readTextMap(report, child(logging, "options"));
  const Name = readText(report, child(logging, "driver")) ?? "";
  return { Name, ...(Options ? { Options } : {}) };
}

function readDns(report: Report, service: Mapping): ContainerSpec["DNSConfig"] | undefined {
  const [servers, search, options] = ["dns", "dns_search", "dns_opt"].map((key) =>
    readTexts(report, child(service, key)),
  );
  if (!servers && !search && !options) return undefined;
  return {
    ...(servers?.length ? { Nameservers: servers } : {}),
    ...(search?.length ? { Search: search } : {}),
    ...(options?.length ? { Options: options } : {}),
  };
}

/** `host:address` as `address host`, which is SwarmKit's notation. */
function readHosts(report: Report, node: Node | undefined): string[] {
  return (readList(report, node)?.items ?? []).flatMap((item) => {
    const [, host, address] = /^([^:=]+)[:=](.+)$/.exec(readText(report, item) ?? "") ?? [];
    if (host !== undefined && address !== undefined) {
      return [`${address.replace(/^\[(.*)\]$/, "$1")} ${host}`];
    }
    refuse(report, item, "it must be host:address");
    return [];
  });
}

/** Source: docker/cli opts.EffectiveCapAddCapDrop. */
function readCapabilities(report: Report, service: Mapping): { add: string[]; drop: string[] } {
  const read = (key: string) => {
    const names = (readTexts(report, child(service, key)) ?? []).map(capabilityName);
    return names.includes(ALL_CAPABILITIES) ? [ALL_CAPABILITIES] : [...new Set(names)].sort();
  };
  const add = read("cap_add");
  // What is both is added.
  return { add, drop: read("cap_drop").filter((name) => !add.includes(name)) };
}

function capabilityName(given: string): string {
  const name = given.trim().toUpperCase();
  return name === ALL_CAPABILITIES || name.startsWith("CAP_") ? name : `CAP_${name}`;
}

function readUlimits(
  report: Report,
  node: Node | undefined,
): NonNullable<ContainerSpec["Ulimits"]> {
  const limits: NonNullable<ContainerSpec["Ulimits"]> = [];
  for (const [Name, value] of readMap(report, node)?.entries ?? []) {
    const isOne = value.kind === "scalar" && !isNull(value);
    const read = (key: string) =>
      readWhole(report, isOne ? value : child(value, key), { min: LIMIT_MIN });
    const [Soft, Hard] = [read("soft"), read("hard")];
    if (Soft !== undefined && Hard !== undefined) limits.push({ Name, Hard, Soft });
    else if (!isOne) refuse(report, value, "it must be a number, or a map with soft and hard");
  }
  return limits.sort((a, b) => compareTexts(a.Name, b.Name));
}
