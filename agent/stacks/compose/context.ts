/** What the parts of a conversion have in common: the file as a whole, and what it was given with. */
import type { ComposeInput } from "./model.ts";
import { isNull, type Mapping, type Node } from "./node.ts";
import { child, readFlag, readText } from "./read.ts";
import { type Report, refuse } from "./report.ts";

/** A network or volume of the file's top level. */
export type Declared = {
  /** Its full name. */
  name: string;
  isExternal: boolean;
  map: Mapping | undefined;
};

export type Context = Pick<ComposeInput, "stack" | "env" | "contents"> & {
  report: Report;
  /** What has been read of env_file and label_file so far. */
  namedFiles: { bytes: number };
  declared(section: "networks" | "volumes", key: string): Declared | undefined;
  /** The full name of a secret or config, which is then in use. */
  dataName(section: "secrets" | "configs", key: string): string | undefined;
};

/** `external: true` or, as older files have it, `external: {name: …}`. */
export function readDeclared(report: Report, stack: string, key: string, node: Node): Declared {
  const map = node.kind === "map" ? node : undefined;
  if (!map && !isNull(node)) refuse(report, node, "it must be a map, or nothing");
  const external = child(map, "external");
  const isExternal = external?.kind === "map" ? true : (readFlag(report, external) ?? false);
  const given = readText(report, child(map, "name")) || readText(report, child(external, "name"));
  const foreign = ["file", "content", "environment", "driver", "driver_opts", "ipam"].find(
    (name) => isExternal && !isNull(child(map, name)),
  );
  if (map && foreign !== undefined) {
    refuse(report, map, `it is external, so ${foreign} means nothing: remove one of them`);
  }
  return { name: given || (isExternal ? key : `${stack}_${key}`), isExternal, map };
}
