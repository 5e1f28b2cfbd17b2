/** Ports of services: short notation to long, and long ones to EndpointSpec.Ports. */
import type { PortConfig } from "../../../core/objects/service.ts";
import { checkKeys } from "./keys.ts";
import { mapNode, type Mapping, type Node, textNode, textsNode } from "./node.ts";
import { child, readList, readMap, readText, readWhole, readWord } from "./read.ts";
import { type Report, refuse, warn } from "./report.ts";

const PORT_MAX = 65_535;
/** Of one range. */
const RANGE_MAX = 1_000;
const PROTOCOLS = ["tcp", "udp", "sctp"] as const;
const GRAMMAR =
  "it must be [published:]target[/protocol], each a port or a range such as 8000-8010 of the same length, of 1000 ports at most";
/** `[address:][published:]target[/protocol]`; an IPv6 address is in brackets. */
const SHORT =
  /^(?:(?:(?<ip>\[[0-9a-fA-F:.]*\]|\d+\.\d+\.\d+\.\d+):)?(?<published>\d+(?:-\d+)?)?:)?(?<target>\d+(?:-\d+)?)(?:\/(?<protocol>[a-z]+))?$/i;

type PortRange = { first: number; count: number };

/**
 * A short notation as one map for each port; long ones with a range of published ports likewise. In one of
 * several published ports for one target each of them leads there. Source: docker/cli, toServicePortConfigs.
 */
export function expandPort(report: Report, node: Node): Node[] {
  if (node.kind === "map") return expandLong(report, node);
  if (node.kind === "list") {
    refuse(report, node, GRAMMAR);
    return [];
  }
  const found = SHORT.exec(node.text)?.groups;
  const target = parseRange(found?.["target"]);
  const published = parseRange(found?.["published"]);
  const isPublished = found?.["published"] !== undefined;
  const fits = !isPublished || target?.count === 1 || target?.count === published?.count;
  if (!target || target.first === 0 || (isPublished && !published) || !fits) {
    refuse(report, node, GRAMMAR);
    return [];
  }
  if (found?.["ip"] !== undefined && !/^0\.0\.0\.0$|^\[::\]$/.test(found["ip"])) {
    warn(
      report,
      node,
      `the address ${found["ip"]} is ignored: the port is published on all of them`,
    );
  }
  return range(Math.max(target.count, published?.count ?? 1)).map((i) =>
    textsNode(node, {
      mode: "ingress",
      target: String(target.first + (target.count === 1 ? 0 : i)),
      published: published && published.first > 0 ? String(published.first + i) : undefined,
      protocol: (found?.["protocol"] ?? "tcp").toLowerCase(),
    }),
  );
}

function expandLong(report: Report, node: Mapping): Node[] {
  const given = node.entries.get("published");
  if (given?.kind !== "scalar" || !given.text.includes("-")) return [node];
  const published = parseRange(given.text);
  if (!published) {
    refuse(report, given, "it must be a port, or a range such as 8000-8010 of 1000 at most");
    return [];
  }
  return range(published.count).map((i) =>
    mapNode(node, [
      ...node.entries,
      ["published", textNode(given, String(published.first + i))] as const,
    ]),
  );
}

export function readPorts(report: Report, node: Node | undefined): PortConfig[] {
  const ports: PortConfig[] = [];
  for (const item of readList(report, node)?.items ?? []) {
    const port = readMap(report, item);
    if (!port) continue;
    checkKeys(report, "service.ports[]", port);
    const target = readWhole(report, child(port, "target"), { min: 1, max: PORT_MAX });
    const published = readWhole(report, child(port, "published"), { min: 0, max: PORT_MAX });
    const protocol = readWord(report, child(port, "protocol"), PROTOCOLS);
    const mode = readWord(report, child(port, "mode"), ["ingress", "host"]);
    const name = readText(report, child(port, "name"));
    if (target === undefined) {
      if (!port.entries.has("target")) refuse(report, port, "its target is missing: add it");
      continue;
    }
    ports.push({
      ...(name ? { Name: name } : {}),
      ...(protocol ? { Protocol: protocol } : {}),
      TargetPort: target,
      ...(published ? { PublishedPort: published } : {}),
      ...(mode ? { PublishMode: mode } : {}),
    });
  }
  return ports.sort((a, b) => (a.PublishedPort ?? 0) - (b.PublishedPort ?? 0));
}

/** `80`, `80-82/udp`: ports beside those of the image, as the engine has them. */
export function readExposed(report: Report, node: Node | undefined) {
  const exposed: Record<string, Record<string, never>> = {};
  for (const item of readList(report, node)?.items ?? []) {
    const text = readText(report, item) ?? "";
    if (!/^\d{1,5}(?:-\d{1,5})?(?:\/(?:tcp|udp|sctp))?$/.test(text)) {
      refuse(report, item, "it must be a port such as 80 or 53/udp");
      continue;
    }
    exposed[text.includes("/") ? text : `${text}/tcp`] = {};
  }
  return exposed;
}

function parseRange(text: string | undefined): PortRange | undefined {
  if (text === undefined) return undefined;
  const [first = 0, last = first] = text.split("-").map(Number);
  const count = last - first + 1;
  return count >= 1 && count <= RANGE_MAX && last <= PORT_MAX ? { first, count } : undefined;
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}
