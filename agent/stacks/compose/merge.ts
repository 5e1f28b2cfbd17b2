/**
 * Several files as one: a later file overrides an earlier one. Works on long notations (canonical.ts). Pure.
 *
 * Maps are merged key by key, lists are joined without repetitions, other values are replaced. Items that
 * have a key of their own (a port, a mount's target, a secret's source) replace those of the same key.
 * `!override` replaces a value as a whole, `!reset` removes it. Merged with itself, a file stays as it is.
 *
 * Source: compose specification, Merge.
 */
import { assert } from "../../../core/assert.ts";
import { listNode, mapNode, type List, type Mapping, type Node, plain } from "./node.ts";
import { compareTexts } from "./order.ts";

/** By path, where names that users choose are `*`. */
const KEYED_LISTS: Readonly<Record<string, (item: Mapping) => string>> = {
  "services.*.ports": portKey,
  "services.*.volumes": (item) => textOf(item, "target"),
  "services.*.secrets": (item) => textOf(item, "source"),
  "services.*.configs": (item) => textOf(item, "source"),
};
/** Lists and maps that mean something only as a whole. */
const REPLACED = new Set([
  "services.*.command",
  "services.*.entrypoint",
  "services.*.healthcheck.test",
  "services.*.ulimits.*",
  "services.*.networks.*.aliases",
]);
/** Keys below these are names of users. */
const NAMED = new Set(["services", "networks", "volumes", "secrets", "configs"]);
const NAMED_WITHIN = new Set(["services.*.networks", "services.*.ulimits"]);
/** What is external has nothing of one that is made. */
const EXTERNAL_KEY = "external";

/** @param files of canonicalFile(); at least one. */
export function mergeFiles(files: readonly Mapping[]): Mapping {
  const [first, ...rest] = files;
  assert(first, "There is a file to merge");
  let merged: Mapping = resetFirst(first);
  for (const file of rest) merged = mergeMaps(merged, file, "");
  return sortMounts(merged, files.length > 1);
}

function mergeNodes(base: Node, over: Node, path: string): Node {
  if (over.tag === "override" || REPLACED.has(path)) return over;
  if (base.kind === "map" && over.kind === "map") return mergeMaps(base, over, path);
  if (base.kind === "list" && over.kind === "list") return mergeLists(base, over, path);
  // `web:` alone says nothing of it.
  const saysNothing = over.kind === "scalar" && over.value === null && base.kind === "map";
  return saysNothing ? base : over;
}

function mergeMaps(base: Mapping, over: Mapping, path: string): Mapping {
  const isOther =
    (path === "services.*.logging" && isOtherDriver(base, over)) ||
    (over.entries.has(EXTERNAL_KEY) &&
      !path.startsWith("services.") &&
      !base.entries.has(EXTERNAL_KEY));
  const entries = new Map(isOther ? [] : base.entries);
  for (const [key, value] of over.entries) {
    const before = entries.get(key);
    if (value.tag === "reset") entries.delete(key);
    else entries.set(key, before ? mergeNodes(before, value, below(path, key)) : value);
  }
  return { ...mapNode(over, entries), at: base.at };
}

function mergeLists(base: List, over: List, path: string): List {
  const keyOf = KEYED_LISTS[path];
  const identityOf = (item: Node) =>
    keyOf && item.kind === "map" ? keyOf(item) : JSON.stringify(plain(item));
  if (keyOf) {
    const replaced = new Set(over.items.map(identityOf));
    return listNode(over, [
      ...base.items.filter((item) => !replaced.has(identityOf(item))),
      ...over.items,
    ]);
  }
  const known = new Set(base.items.map(identityOf));
  return listNode(over, [
    ...base.items,
    ...over.items.filter((item) => !known.has(identityOf(item))),
  ]);
}

function below(path: string, key: string): string {
  const shown = NAMED.has(path) || NAMED_WITHIN.has(path) ? "*" : key;
  return path === "" ? shown : `${path}.${shown}`;
}

function isOtherDriver(base: Mapping, over: Mapping): boolean {
  const driver = textOf(over, "driver");
  return driver !== "" && driver !== textOf(base, "driver");
}

/** In the first file there is nothing to reset. */
function resetFirst(map: Mapping): Mapping {
  const entries = [...map.entries]
    .filter(([, value]) => value.tag !== "reset")
    .map(([key, value]): [string, Node] => [key, value.kind === "map" ? resetFirst(value) : value]);
  return mapNode(map, entries);
}

/** Docker sorts mounts by target when there are several files. Source: docker/cli compose/loader/merge.go. */
function sortMounts(file: Mapping, isMerged: boolean): Mapping {
  const services = file.entries.get("services");
  if (!isMerged || services?.kind !== "map") return file;
  const sorted = [...services.entries].map(([name, service]): [string, Node] => {
    const volumes = service.kind === "map" ? service.entries.get("volumes") : undefined;
    if (service.kind !== "map" || volumes?.kind !== "list") return [name, service];
    const target = (node: Node) => (node.kind === "map" ? textOf(node, "target") : "");
    const items = [...volumes.items].sort((a, b) => compareTexts(target(a), target(b)));
    return [name, mapNode(service, [...service.entries, ["volumes", listNode(volumes, items)]])];
  });
  return mapNode(file, [...file.entries, ["services", mapNode(services, sorted)]]);
}

function portKey(item: Mapping): string {
  const published = textOf(item, "published");
  const port = published === "" ? `:${textOf(item, "target")}` : published;
  return `${port}/${textOf(item, "protocol") || "tcp"}`;
}

function textOf(map: Mapping, key: string): string {
  const node = map.entries.get(key);
  return node?.kind === "scalar" ? node.text : "";
}
