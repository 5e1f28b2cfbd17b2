/** Networks of the stack, and those that each service is attached to. */
import type { TaskSpec } from "../../../core/objects/task.ts";
import type { Context, Declared } from "./context.ts";
import { checkKeys } from "./keys.ts";
import type { NetworkModel } from "./model.ts";
import type { Mapping, Node } from "./node.ts";
import { compareTexts, stackLabels } from "./order.ts";
import { child, readFlag, readList, readMap, readText, readTextMap, readTexts } from "./read.ts";
import { refuse } from "./report.ts";

export const DEFAULT_NETWORK = "default";
const DEFAULT_DRIVER = "overlay";
/** Of the engine; names of services mean nothing there. */
const PREDEFINED = new Set(["host", "bridge", "none", "default"]);

type Attachment = NonNullable<TaskSpec["Networks"]>[number];
export type Attachments = {
  networks: Attachment[];
  /** By the network's full name. */
  addresses: Record<string, string>;
  /** As in the file. */
  keys: string[];
};

export function readAttachments(
  context: Context,
  service: string,
  node: Node | undefined,
): Attachments {
  const { report } = context;
  const map = readMap(report, node);
  const entries: [string, Node | undefined][] = map?.entries.size
    ? [...map.entries]
    : [[DEFAULT_NETWORK, undefined]];
  const networks: Attachment[] = [];
  const addresses: Record<string, string> = {};
  const keys: string[] = [];
  for (const [key, value] of entries) {
    const declared = context.declared("networks", key);
    if (!declared) {
      const why = `there is no network of this name: add \`${key}:\` to the top-level networks`;
      if (value) refuse(report, value, why);
      continue;
    }
    const { name } = declared;
    keys.push(key);
    const options = readMap(report, value);
    if (options) checkKeys(report, "service.networks.*", options);
    const aliases = readTexts(report, child(options, "aliases")) ?? [];
    const driverOptions = readTextMap(report, child(options, "driver_opts"));
    const address = readText(report, child(options, "ipv4_address"));
    if (address) addresses[name] = address;
    networks.push({
      Target: name,
      ...(PREDEFINED.has(name) && aliases.length === 0
        ? {}
        : { Aliases: PREDEFINED.has(name) ? aliases : [...aliases, service] }),
      ...(driverOptions ? { DriverOpts: driverOptions } : {}),
    });
  }
  return { networks: networks.sort((a, b) => compareTexts(a.Target, b.Target)), addresses, keys };
}

export function readNetwork(context: Context, { name, map }: Declared): NetworkModel {
  const { report, stack } = context;
  return {
    Name: name,
    Driver: readText(report, child(map, "driver")) || DEFAULT_DRIVER,
    Labels: stackLabels(stack, readTextMap(report, child(map, "labels"))),
    Options: readTextMap(report, child(map, "driver_opts")) ?? {},
    Internal: readFlag(report, child(map, "internal")) ?? false,
    Attachable: readFlag(report, child(map, "attachable")) ?? false,
    EnableIPv6: readFlag(report, child(map, "enable_ipv6")) ?? false,
    IPAM: readIpam(context, child(map, "ipam")),
  };
}

function readIpam({ report }: Context, node: Node | undefined): NetworkModel["IPAM"] {
  const ipam = readMap(report, node);
  if (ipam) checkKeys(report, "network.ipam", ipam);
  const Config: NetworkModel["IPAM"]["Config"] = [];
  for (const item of readList(report, child(ipam, "config"))?.items ?? []) {
    const pool = readMap(report, item);
    if (!pool) continue;
    checkKeys(report, "network.ipam.config[]", pool);
    const text = (key: string) => readText(report, child(pool, key));
    const [subnet, range, gateway] = [text("subnet"), text("ip_range"), text("gateway")];
    const auxiliary = readTextMap(report, child(pool, "aux_addresses"));
    Config.push({
      ...(subnet ? { Subnet: subnet } : {}),
      ...(range ? { IPRange: range } : {}),
      ...(gateway ? { Gateway: gateway } : {}),
      ...(auxiliary ? { AuxiliaryAddresses: auxiliary } : {}),
    });
  }
  return {
    Driver: readText(report, child(ipam, "driver")) ?? "",
    Options: readTextMap(report, child(ipam, "options")) ?? {},
    Config,
  };
}

/** Why a service can have no networks beside its `network_mode`; or the mode. */
export function readNetworkMode(context: Context, service: Mapping): string | undefined {
  const { report } = context;
  const node = child(service, "network_mode");
  const mode = readText(report, node);
  if (!node || mode === undefined) return undefined;
  if (mode.startsWith("service:")) {
    refuse(report, node, "tasks of two services may be on different nodes: use a common network");
    return undefined;
  }
  if (service.entries.has("networks")) {
    refuse(report, node, "a service has networks or a network mode: remove one of them");
  }
  return mode === DEFAULT_NETWORK ? undefined : mode;
}
