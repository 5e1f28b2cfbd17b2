/**
 * What the tools print → the same canonical lines as `diff.ts` makes of a plan. Pure. Unknown or
 * missing fields make a line that no plan has, so that the object is replaced; never an exception.
 */
import {
  ENCRYPTED_DEVICE,
  isBridgeName,
  isMeshDevice,
  MESH_DEVICE,
  NODE_INDEX_MAX,
  RULE_ENCRYPTED_PRIORITY,
  RULE_FIRST_PRIORITY,
  RULE_PEER_PRIORITY,
} from "./names.ts";
import { neighbourKey6, neighbourLine6, proxyLine, routeLine6 } from "./ipv6-lines.ts";
import type { MeshRoute } from "./plan.ts";
import { fdbLine, neighbourLine, routeLine, ruleLine } from "./render.ts";

export type Interface = {
  name: string;
  index: number;
  mac: string;
  mtu: number;
  isUp: boolean;
  master?: string;
  hairpin?: boolean;
  vxlan?: { id: number; local: string; port: number; isLearning: boolean };
  addresses: { address: string; prefixLength: number }[];
  /** Absent for none. */
  addresses6?: { address: string; prefixLength: number; isAdvertised: boolean }[];
};

// The tools' JSON, as far as it is read: every field may be missing in another version.
type LinkJson = {
  ifname?: string;
  ifindex?: number;
  address?: string;
  mtu?: number;
  flags?: string[];
  master?: string;
  linkinfo?: {
    info_kind?: string;
    info_data?: { id?: number; local?: string; port?: number; learning?: boolean };
    info_slave_data?: { hairpin?: boolean };
  };
  addr_info?: {
    family?: string;
    local?: string;
    prefixlen?: number;
    dynamic?: boolean;
  }[];
};
type NeighbourJson = { dst?: string; lladdr?: string; dev?: string; state?: string[] };
type RouteJson = {
  type?: string;
  dst?: string;
  gateway?: string;
  dev?: string;
  table?: string;
  scope?: string;
  prefsrc?: string;
  flags?: string[];
};
type RuleJson = {
  priority?: number;
  fwmark?: string;
  fwmask?: string;
  goto?: number;
  table?: string;
  iif?: string;
};

/** A list printed by `-j`; empty for no output at all, as some versions have it. */
function parseList<T>(text: string): T[] {
  if (text.trim() === "") return [];
  const value: unknown = JSON.parse(text);
  // The element type says that every field may be missing.
  return Array.isArray(value) ? (value as T[]) : [];
}

/** Output of `ip -j -d addr show`. */
export function parseInterfaces(text: string): Interface[] {
  return parseList<LinkJson>(text).map((link) => {
    const { info_kind: kind, info_data: data, info_slave_data: slave } = link.linkinfo ?? {};
    return {
      name: link.ifname ?? "",
      index: link.ifindex ?? 0,
      mac: link.address ?? "",
      mtu: link.mtu ?? 0,
      isUp: link.flags?.includes("UP") ?? false,
      ...(link.master === undefined ? {} : { master: link.master }),
      ...(slave?.hairpin === undefined ? {} : { hairpin: slave.hairpin }),
      ...(kind === "vxlan"
        ? {
            vxlan: {
              id: data?.id ?? 0,
              local: data?.local ?? "",
              port: data?.port ?? 0,
              isLearning: data?.learning ?? true,
            },
          }
        : {}),
      addresses: (link.addr_info ?? [])
        .filter((info) => info.family === "inet")
        .map((info) => ({ address: info.local ?? "", prefixLength: info.prefixlen ?? 0 })),
      ...addresses6Part(link),
    };
  });
}

function addresses6Part(link: LinkJson): Pick<Interface, "addresses6"> {
  const addresses6 = (link.addr_info ?? [])
    .filter((info) => info.family === "inet6")
    .map(({ local = "", prefixlen = 0, dynamic = false }) => ({
      address: local,
      prefixLength: prefixlen,
      isAdvertised: dynamic,
    }));
  return addresses6.length > 0 ? { addresses6 } : {};
}

/** Ports of our bridges that would not send a frame back the way it came. */
export function portsWithoutHairpin(interfaces: Interface[]): string[] {
  return interfaces
    .filter((port) => port.master !== undefined && isBridgeName(port.master))
    .filter((port) => port.hairpin === false)
    .map((port) => port.name);
}

/** Output of `ip -j -4 neigh show dev shmesh`: permanent entries by address. */
export function parseNeighbours(text: string, device = MESH_DEVICE): Map<string, string> {
  const lines = new Map<string, string>();
  for (const entry of parseList<NeighbourJson>(text)) {
    if (!entry.dst || !entry.lladdr || !entry.state?.includes("PERMANENT")) continue;
    lines.set(entry.dst, neighbourLine({ address: entry.dst, mac: entry.lladdr }, device));
  }
  return lines;
}

/** Output of `ip -j -6 neigh show nud permanent`: those on our devices, by address and device. */
export function parseNeighbours6(text: string): Map<string, string> {
  const lines = new Map<string, string>();
  for (const { dst, lladdr, dev } of parseList<NeighbourJson>(text)) {
    if (dst === undefined || lladdr === undefined || dev === undefined) continue;
    if (!isMeshDevice(dev)) continue;
    const neighbour = { address: dst, mac: lladdr, device: dev };
    lines.set(neighbourKey6(neighbour), neighbourLine6(neighbour));
  }
  return lines;
}

/** Output of `bridge -j fdb show dev shmesh`: entries with a destination, by MAC address. */
export function parseForwarding(text: string, device = MESH_DEVICE): Map<string, string> {
  const lines = new Map<string, string>();
  for (const entry of parseList<{ mac?: string; dst?: string; state?: string }>(text)) {
    if (!entry.mac || !entry.dst) continue;
    lines.set(
      entry.mac,
      entry.state === "permanent"
        ? fdbLine({ mac: entry.mac, address: entry.dst }, device)
        : "other",
    );
  }
  return lines;
}

/** Output of `ip -j -4 route show table all proto 117`, by table and destination. */
export function parseRoutes(text: string): Map<string, string> {
  const lines = new Map<string, string>();
  for (const entry of parseList<RouteJson>(text)) {
    const { dst } = entry;
    if (dst === undefined) continue;
    const destination = dst === "default" || dst.includes("/") ? dst : `${dst}/32`;
    const table = entry.table ?? "main";
    const route: MeshRoute = { destination, table };
    if (entry.gateway !== undefined) route.via = entry.gateway;
    if (entry.prefsrc !== undefined) route.source = entry.prefsrc;
    if (entry.type === "local") route.isLocal = true;
    const scope = route.isLocal ? "host" : "link";
    const isOnlink = entry.flags?.includes("onlink") ?? false;
    if (entry.dev === ENCRYPTED_DEVICE) route.device = ENCRYPTED_DEVICE;
    const isOurs = entry.dev !== undefined && isMeshDevice(entry.dev);
    const isAsMade = isOurs && (route.via === undefined ? entry.scope === scope : isOnlink);
    lines.set(`${destination} table ${table}`, isAsMade ? routeLine(route) : "other");
  }
  return lines;
}

/** Output of `ip -j -6 route show table all proto 117`, by table and destination. */
export function parseRoutes6(text: string): Map<string, string> {
  const lines = new Map<string, string>();
  for (const { dst, table = "main", gateway, prefsrc, type, dev, flags } of parseList<RouteJson>(
    text,
  )) {
    if (dst === undefined) continue;
    const destination = dst === "default" || dst.includes("/") ? dst : `${dst}/128`;
    const route: MeshRoute = { destination, table };
    if (gateway !== undefined) route.via = gateway;
    if (prefsrc !== undefined) route.source = prefsrc;
    if (type === "local") route.isLocal = true;
    if (dev === ENCRYPTED_DEVICE) route.device = dev;
    const isOurs = dev !== undefined && isMeshDevice(dev);
    const isAsMade = isOurs && (gateway === undefined || flags?.includes("onlink"));
    lines.set(`${destination} table ${table}`, isAsMade ? routeLine6(route) : "other");
  }
  return lines;
}

/** Output of `ip -j -6 neigh show proxy`: what our bridges answer for. */
export function parseProxies(text: string): Map<string, string> {
  const lines = new Map<string, string>();
  for (const { dst, dev } of parseList<{ dst?: string; dev?: string }>(text)) {
    if (dst === undefined || dev === undefined || !isBridgeName(dev)) continue;
    const line = proxyLine({ address: dst, bridge: dev });
    lines.set(line, line);
  }
  return lines;
}

/** Output of `ip -j rule`: those in our range of priorities, by their line. */
export function parseRules(text: string): Map<string, string> {
  const lines = new Map<string, string>();
  for (const entry of parseList<RuleJson>(text)) {
    const { priority } = entry;
    if (priority === undefined || !isOurPriority(priority)) continue;
    if (entry.iif !== undefined) {
      const at = { priority, from: entry.iif };
      const line =
        entry.goto === undefined
          ? ruleLine({ ...at, table: Number(entry.table) })
          : ruleLine({ ...at, goto: entry.goto });
      lines.set(line, line);
      continue;
    }
    const base = {
      priority,
      mark: Number(entry.fwmark ?? 0),
      mask: Number(entry.fwmask ?? 0xffffffff),
    };
    const line =
      entry.goto === undefined
        ? ruleLine({ ...base, table: Number(entry.table) })
        : ruleLine({ ...base, goto: entry.goto });
    lines.set(line, line);
  }
  return lines;
}

function isOurPriority(priority: number): boolean {
  return (
    (priority >= RULE_FIRST_PRIORITY && priority <= RULE_PEER_PRIORITY + NODE_INDEX_MAX) ||
    (priority >= RULE_ENCRYPTED_PRIORITY && priority <= RULE_ENCRYPTED_PRIORITY + NODE_INDEX_MAX)
  );
}

/** Output of `sysctl -e KEY…`. */
export function parseSysctls(text: string): Map<string, number> {
  const values = new Map<string, number>();
  for (const line of text.split("\n")) {
    const [key, value] = line.split(" = ");
    if (key !== undefined && value !== undefined) values.set(key.trim(), Number(value));
  }
  return values;
}
