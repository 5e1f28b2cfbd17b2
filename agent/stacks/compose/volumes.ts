/** Mounts of services: short notation to long, and long ones to ContainerSpec.Mounts (or Shoal.Binds). */
import { posix } from "node:path";
import type { Context } from "./context.ts";
import { checkKeys } from "./keys.ts";
import { isNull, mapNode, type Mapping, type Node, textNode, textsNode } from "./node.ts";
import { stackLabels } from "./order.ts";
import {
  child,
  readFlag,
  readList,
  readMap,
  readSizeBytes,
  readText,
  readTextMap,
  readWhole,
  readWord,
} from "./read.ts";
import { type Report, refuse } from "./report.ts";

type Mount = Record<string, unknown>;

const TYPES = ["volume", "bind", "tmpfs", "image", "npipe", "cluster"] as const;
const NO_SUCH_MOUNTS = {
  cluster: "there are no cluster volumes (CSI): use a volume driver",
  npipe: "pipes of this kind are of Windows, nodes run Linux: use a bind",
} as const;
const PROPAGATIONS = ["rprivate", "private", "rshared", "shared", "rslave", "slave"] as const;
const CONSISTENCIES = ["consistent", "cached", "delegated"];
const MODE_MAX = 0o7777;

/** `[source:]target[:options]` as a map. Source: docker/cli compose/loader/volume.go. */
export function expandVolume(report: Report, node: Node): Node[] {
  if (node.kind !== "scalar") return [node];
  const [first = "", second, options = "", ...more] = node.text.split(":");
  const target = second ?? first;
  const source = second === undefined ? undefined : first;
  if (source === "" || !target.startsWith("/") || more.length > 0) {
    refuse(report, node, "it must be [source:]/target[:options]");
    return [];
  }
  const isBind = source !== undefined && /^[./~]/.test(source);
  const long = textsNode(node, { type: isBind ? "bind" : "volume", source, target });
  for (const option of options.split(",").filter(Boolean)) {
    const parts = optionFields(option, isBind);
    if (!parts)
      refuse(report, node, `the option ${option} is not known: use ro, rw, nocopy, z or Z`);
    for (const [key, value] of parts ?? []) {
      if (typeof value === "string") long.entries.set(key, textNode(node, value));
      else long.entries.set(key, withFields(long.entries.get(key) ?? mapNode(node, []), value));
    }
  }
  return [long];
}

type Field = [string, string | Record<string, string>];

function optionFields(option: string, isBind: boolean): Field[] | undefined {
  if (option === "ro") return [["read_only", "true"]];
  if (option === "rw") return [];
  if (CONSISTENCIES.includes(option)) return [["consistency", option]];
  if (option === "nocopy") return isBind ? [] : [["volume", { nocopy: "true" }]];
  if (/^z$/i.test(option)) return isBind ? [["bind", { selinux: option }]] : [];
  const isPropagation = PROPAGATIONS.some((known) => known === option);
  return isPropagation && isBind ? [["bind", { propagation: option }]] : undefined;
}

function withFields(node: Node, fields: Record<string, string>): Mapping {
  const before = node.kind === "map" ? node.entries : [];
  return mapNode(node, [...before, ...textsNode(node, fields).entries]);
}

/** What a service mounts. */
export function readVolumes(
  context: Context,
  node: Node | undefined,
): { mounts: Mount[]; binds: string[] } {
  const { report } = context;
  const mounts: Mount[] = [];
  const binds: string[] = [];
  for (const item of readList(report, node)?.items ?? []) {
    const volume = readMap(report, item);
    if (!volume) continue;
    checkKeys(report, "service.volumes[]", volume);
    const found = readMount(context, volume);
    if (typeof found === "string") binds.push(found);
    else if (found) mounts.push(found);
  }
  return { mounts, binds };
}

function readMount(context: Context, volume: Mapping): Mount | string | undefined {
  const { report } = context;
  const type = readWord(report, child(volume, "type"), TYPES);
  const source = readText(report, child(volume, "source")) ?? "";
  const target = readText(report, child(volume, "target")) ?? "";
  if (type === undefined || target === "") {
    const lacking = target === "" ? "target" : "type";
    if (!volume.entries.has(lacking)) refuse(report, volume, `its ${lacking} is missing: add it`);
    return undefined;
  }
  const options = ["bind", "volume", "tmpfs", "image"].filter((key) => !isNull(child(volume, key)));
  const foreign = options.find((key) => key !== type);
  if (foreign !== undefined) {
    refuse(report, volume, `it is of type ${type} and has options of ${foreign}: remove them`);
    return undefined;
  }
  const isReadOnly = readFlag(report, child(volume, "read_only")) ?? false;
  const consistency = readText(report, child(volume, "consistency"));
  const mount: Mount = {
    Type: type,
    ...(source === "" ? {} : { Source: source }),
    Target: target,
    ...(isReadOnly ? { ReadOnly: true } : {}),
    ...(consistency ? { Consistency: consistency } : {}),
  };
  if (type === "bind") return readBind(context, volume, { mount, source, target, isReadOnly });
  if (type === "volume") return readNamed(context, volume, mount, source);
  if (type === "tmpfs") {
    if (source !== "") refuse(report, volume, "a tmpfs has no source: remove it");
    return { ...mount, ...tmpfsOptions(report, child(volume, "tmpfs")) };
  }
  if (type === "image") {
    const image = readMap(report, child(volume, "image"));
    if (image) checkKeys(report, "service.volumes[].image", image);
    const subpath = readText(report, child(image, "subpath"));
    return { ...mount, ...(subpath ? { ImageOptions: { Subpath: subpath } } : {}) };
  }
  refuse(report, volume, NO_SUCH_MOUNTS[type]);
  return undefined;
}

function readBind(
  context: Context,
  volume: Mapping,
  given: { mount: Mount; source: string; target: string; isReadOnly: boolean },
): Mount | string | undefined {
  const { report } = context;
  if (given.source === "") {
    refuse(report, volume, "a bind has a source: add the path on the node");
    return undefined;
  }
  const source = absolute(context, volume, given.source);
  const bind = readMap(report, child(volume, "bind"));
  if (bind) checkKeys(report, "service.volumes[].bind", bind);
  const propagation = readWord(report, child(bind, "propagation"), PROPAGATIONS);
  const selinux = readWord(report, child(bind, "selinux"), ["z"]);
  const label = selinux && readText(report, child(bind, "selinux"));
  if (readFlag(report, child(bind, "create_host_path")) || label !== undefined) {
    const options = [given.isReadOnly ? "ro" : "", label ?? "", propagation ?? ""].filter(Boolean);
    return [source, given.target, ...(options.length > 0 ? [options.join(",")] : [])].join(":");
  }
  return {
    ...given.mount,
    Source: source,
    ...(bind ? { BindOptions: propagation ? { Propagation: propagation } : {} } : {}),
  };
}

/** Relative to the directory of the first file. */
function absolute({ report, env }: Context, volume: Mapping, source: string): string {
  if (/^~(?:\/|$)/.test(source) && env["HOME"]) return posix.join(env["HOME"], source.slice(1));
  if (source.startsWith("/")) return source;
  const dir = env["PWD"];
  if (source.startsWith("~") || !dir?.startsWith("/")) {
    refuse(
      report,
      child(volume, "source") ?? volume,
      "the node knows no such path: make it absolute",
    );
    return source;
  }
  return posix.resolve(dir, source);
}

function readNamed(context: Context, volume: Mapping, mount: Mount, source: string): Mount {
  const { report, stack } = context;
  const options = readMap(report, child(volume, "volume"));
  if (options) checkKeys(report, "service.volumes[].volume", options);
  const noCopy = readFlag(report, child(options, "nocopy"));
  const subpath = readText(report, child(options, "subpath"));
  const ownLabels = readTextMap(report, child(options, "labels"));
  const own = {
    ...(noCopy ? { NoCopy: true } : {}),
    ...(subpath ? { Subpath: subpath } : {}),
    ...(ownLabels ? { Labels: ownLabels } : {}),
  };
  if (source === "") return options ? { ...mount, VolumeOptions: own } : mount;
  const declared = context.declared("volumes", source);
  if (!declared) {
    refuse(
      report,
      child(volume, "source") ?? volume,
      `there is no volume of this name: add \`${source}:\` to the top-level volumes`,
    );
    return mount;
  }
  const { name, isExternal, map } = declared;
  if (isExternal) return { ...mount, Source: name, VolumeOptions: own };
  const driver = readText(report, child(map, "driver")) ?? "";
  const driverOptions = readTextMap(report, child(map, "driver_opts"));
  const labels = readTextMap(report, child(map, "labels"));
  return {
    ...mount,
    Source: name,
    VolumeOptions: {
      ...own,
      Labels: stackLabels(stack, { ...labels, ...ownLabels }),
      ...(driver !== "" || driverOptions
        ? {
            DriverConfig: {
              ...(driver === "" ? {} : { Name: driver }),
              ...(driverOptions ? { Options: driverOptions } : {}),
            },
          }
        : {}),
    },
  };
}

function tmpfsOptions(report: Report, node: Node | undefined): Mount {
  const options = readMap(report, node);
  if (!options) return {};
  checkKeys(report, "service.volumes[].tmpfs", options);
  const sizeBytes = readSizeBytes(report, child(options, "size"));
  const mode = readWhole(report, child(options, "mode"), { min: 0, max: MODE_MAX, isMode: true });
  return {
    TmpfsOptions: {
      ...(sizeBytes ? { SizeBytes: sizeBytes } : {}),
      ...(mode === undefined ? {} : { Mode: mode }),
    },
  };
}
