/**
 * The short notations of a file's sections as the long ones: lists as maps, one text as a list, ports and
 * volumes as maps. Done before files are merged, so that a short and a long notation of the same override
 * each other. What is of another type is left to the readers.
 */
import {
  isNull,
  listNode,
  mapNode,
  type Mapping,
  type Node,
  nullNode,
  textNode,
  textsNode,
} from "./node.ts";
import { expandPort } from "./ports.ts";
import { type Report, refuse } from "./report.ts";
import { expandVolume } from "./volumes.ts";

/** Of a list, with ranges expanded. */
const ITEMS_MAX = 2_000;

type Expand = (report: Report, node: Node) => Node;

const SERVICE_VALUES: Readonly<Record<string, Expand>> = {
  annotations: pairsToMap,
  cap_add: asList,
  cap_drop: asList,
  configs: (report, node) => mapItems(report, node, fileReference),
  depends_on: (report, node) => namesToMap(report, node, "a service"),
  deploy: (report, node) => expandFields(report, node, { labels: pairsToMap }),
  dns: asList,
  dns_opt: asList,
  dns_search: asList,
  env_file: (report, node) => mapItems(report, asList(report, node), envFile),
  environment: pairsToMap,
  extra_hosts: hostsToList,
  label_file: asList,
  labels: pairsToMap,
  logging: (report, node) => expandFields(report, node, { options: pairsToMap }),
  networks: (report, node) => namesToMap(report, node, "a network"),
  ports: (report, node) => mapItems(report, node, expandPort),
  secrets: (report, node) => mapItems(report, node, fileReference),
  storage_opt: pairsToMap,
  sysctls: pairsToMap,
  tmpfs: asList,
  volumes: (report, node) => mapItems(report, node, expandVolume),
};
const LABELLED = { labels: pairsToMap, driver_opts: pairsToMap };
const SECTION_VALUES: Readonly<Record<string, Readonly<Record<string, Expand>>>> = {
  services: SERVICE_VALUES,
  networks: LABELLED,
  volumes: LABELLED,
  secrets: LABELLED,
  configs: LABELLED,
};

export function canonicalFile(report: Report, file: Mapping): Mapping {
  const entries = [...file.entries].map(([name, section]): [string, Node] => {
    const fields = Object.hasOwn(SECTION_VALUES, name) ? SECTION_VALUES[name] : undefined;
    if (!fields || section.kind !== "map") return [name, section];
    const items = [...section.entries].map(([key, item]): [string, Node] => [
      key,
      expandFields(report, item, fields),
    ]);
    return [name, mapNode(section, items)];
  });
  return mapNode(file, entries);
}

function expandFields(report: Report, node: Node, fields: Readonly<Record<string, Expand>>): Node {
  if (node.kind !== "map") return node;
  const entries = [...node.entries].map(([key, value]): [string, Node] => {
    const expand = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (!expand || isNull(value)) return [key, value];
    const expanded = expand(report, value);
    return [key, value.keyAt ? { ...expanded, keyAt: value.keyAt } : expanded];
  });
  return mapNode(node, entries);
}

/** `- KEY=value` and `- KEY` as a map. */
function pairsToMap(report: Report, node: Node): Node {
  if (node.kind !== "list") return node;
  const entries = new Map<string, Node>();
  for (const item of node.items) {
    if (item.kind !== "scalar") {
      refuse(report, item, "it must be KEY=value");
      continue;
    }
    const at = item.text.indexOf("=");
    const key = at < 0 ? item.text : item.text.slice(0, at);
    const path = `${node.path}.${key}`;
    entries.set(key, at < 0 ? nullNode(item, path) : textNode(item, item.text.slice(at + 1), path));
  }
  return mapNode(node, entries);
}

function namesToMap(report: Report, node: Node, what: string): Node {
  if (node.kind !== "list") return node;
  const entries = new Map<string, Node>();
  for (const item of node.items) {
    if (item.kind !== "scalar") refuse(report, item, `it must be the name of ${what}`);
    else if (entries.has(item.text)) refuse(report, item, "it is listed twice: remove one");
    else entries.set(item.text, nullNode(item, `${node.path}.${item.text}`));
  }
  return mapNode(node, entries);
}

/** One text alone, as a list of it. */
function asList(_report: Report, node: Node): Node {
  return node.kind === "scalar" ? listNode(node, [node]) : node;
}

function mapItems(
  report: Report,
  node: Node,
  expand: (report: Report, item: Node) => Node[],
): Node {
  if (node.kind !== "list") return node;
  const items: Node[] = [];
  for (const item of node.items) {
    items.push(...expand(report, item));
    if (items.length <= ITEMS_MAX) continue;
    refuse(report, item, `there are more than ${ITEMS_MAX} of them: use fewer, or smaller ranges`);
    break;
  }
  return listNode(node, items);
}

function fileReference(_report: Report, node: Node): Node[] {
  return [node.kind === "scalar" ? textsNode(node, { source: node.text }) : node];
}

function envFile(_report: Report, node: Node): Node[] {
  return [node.kind === "scalar" ? textsNode(node, { path: node.text }) : node];
}

/** A map of hosts to addresses, as the list `host:address`. */
function hostsToList(report: Report, node: Node): Node {
  if (node.kind !== "map") return asList(report, node);
  const items: Node[] = [];
  for (const [host, value] of node.entries) {
    for (const address of value.kind === "list" ? value.items : [value]) {
      if (address.kind === "scalar") items.push(textNode(address, `${host}:${address.text}`));
      else refuse(report, address, "it must be an address");
    }
  }
  return listNode(node, items);
}
