/**
 * Plans as text for nft, ip and bridge. Pure.
 *
 * The nft table has two halves. Sets and maps change with every task; they are kept as objects, so
 * that a change can be told in a few elements. The chains are constant: they only look things up.
 * Text of the hooked chains and the reason for each rule stand together in `fixedChains`.
 *
 * Balancing is by maps too, address and turn to target, with one chain per number of targets and none
 * per service: a rule with a map of its own is an unnamed set in the kernel, and the tool reads the
 * list of all sets and chains for every change.
 */
import {
  BRIDGE_PREFIX,
  MARK_NODE_MASK,
  MARK_PERMIT,
  MARK_PUBLISHED,
  MESH_DEVICE,
  NFT_TABLE,
  nodeMark,
  ROUTE_PROTOCOL,
} from "./names.ts";
import type { FilterPlan, MeshLink, MeshRoute, MeshRule } from "./plan.ts";
import { changedParts } from "./plan-change.ts";

export type NftSet = {
  kind: "set" | "map";
  name: string;
  /** Type and flags, as nft wants them. */
  declaration: string;
  /** Interval sets are only ever replaced whole. */
  hasIntervals: boolean;
  /** Key to value; the value is undefined in sets. */
  elements: Map<string, string | undefined>;
};
export type NftTable = {
  sets: NftSet[];
  /** Load-balancing chains, one per number of targets: name to rules. */
  chains: Map<string, string>;
  fixed: string;
};

const TABLE = `inet ${NFT_TABLE}`;
const hex = (value: number) => `0x${value.toString(16)}`;
const quote = (device: string) => `"${device}"`;

/**
 * The whole table of a plan. Virtual addresses without targets get no chain: they are in the set
 * `dead`, whose packets are refused.
 */
export function renderNftTable(plan: FilterPlan): NftTable {
  const sets: NftSet[] = [];
  const add = (
    kind: "set" | "map",
    name: string,
    declaration: string,
    elements: Iterable<string | readonly [string, string]>,
  ) => {
    const entries = new Map<string, string | undefined>();
    for (const element of elements) {
      if (typeof element === "string") entries.set(element, undefined);
      else entries.set(element[0], element[1]);
    }
    sets.push({
      kind,
      name,
      declaration,
      hasIntervals: declaration.includes("interval"),
      elements: entries,
    });
  };
  const { networks, peers } = plan;
  const live = plan.virtualIps.filter((virtualIp) => virtualIp.targets.length > 0);
  const livePorts = plan.ports.filter((port) => port.targets.length > 0);

  add(
    "map",
    "mac2node",
    "type ether_addr : mark",
    peers.map((peer) => [peer.mac, hex(nodeMark(peer.index))] as const),
  );
  add(
    "map",
    "mac2zone",
    "typeof ether saddr : ct zone",
    peers.map((peer) => [peer.mac, String(peer.index)] as const),
  );
  add(
    "set",
    "peers",
    "type ipv4_addr",
    peers.map((peer) => peer.address),
  );
  add(
    "set",
    "bridges",
    "type ifname",
    networks.map((network) => quote(network.bridge)),
  );
  add("set", "ifs", "type ifname", [
    quote(MESH_DEVICE),
    ...networks.map((network) => quote(network.bridge)),
  ]);
  add("set", "pools", "type ipv4_addr; flags interval", plan.subnets);
  add("set", "gateways", "type ipv4_addr", plan.gateways);
  add("set", "meships", "type ipv4_addr", plan.meshAddresses);
  add(
    "set",
    "legit",
    "typeof iifname . ip saddr; flags interval",
    networks.map((network) => `${quote(network.bridge)} . ${network.subnet}`),
  );
  add(
    "set",
    "same",
    "typeof iifname . ip saddr . ip daddr; flags interval",
    networks
      .filter((network) => network.isOpen)
      .map((network) => `${quote(network.bridge)} . ${network.subnet} . ${network.subnet}`),
  );
  add(
    "set",
    "hairpin",
    "type ipv4_addr . ipv4_addr",
    plan.localAddresses.map((address) => `${address} . ${address}`),
  );
  add(
    "set",
    "selfloop",
    "type ipv4_addr . ipv4_addr",
    plan.selfLoops.map((loop) => `${loop.node} . ${loop.task}`),
  );
  add(
    "set",
    "pubtasks",
    "type ipv4_addr . inet_proto . inet_service",
    plan.publishedTasks.map((task) => `${task.address} . ${task.protocol} . ${task.port}`),
  );
  add(
    "set",
    "dead",
    "type ipv4_addr",
    plan.virtualIps.filter((vip) => vip.targets.length === 0).map((vip) => vip.address),
  );
  // Any number that numgen gives fits; the chains say how many there are.
  const slot = "numgen random mod 65536";
  add(
    "map",
    "slots",
    `typeof ip daddr . ${slot} : ip daddr`,
    live.flatMap((vip) =>
      vip.targets.map((target, place) => [`${vip.address} . ${place}`, target] as const),
    ),
  );
  add(
    "map",
    "portslots",
    `typeof meta l4proto . th dport . ${slot} : ip daddr . th dport`,
    livePorts.flatMap((port) =>
      port.targets.map(
        (target, place) =>
          [
            `${port.protocol} . ${port.publishedPort} . ${place}`,
            `${target} . ${port.targetPort}`,
          ] as const,
      ),
    ),
  );
  add(
    "map",
    "vips",
    "type ipv4_addr : verdict",
    live.map((vip) => [vip.address, `goto vip_${vip.targets.length}`] as const),
  );
  add(
    "map",
    "ports",
    "type inet_proto . inet_service : verdict",
    livePorts.map(
      (port) =>
        [`${port.protocol} . ${port.publishedPort}`, `goto pub_${port.targets.length}`] as const,
    ),
  );
  return { sets, chains: spreadChains(plan), fixed: fixedChains(plan) };
}

/**
 * Chains for these numbers of targets are always there, so that a task more or less is elements only:
 * for a rule the tool first reads what the table holds.
 */
const STANDING_COUNTS = [1, 2, 3, 4, 5, 6, 7, 8];

/** One chain per number of targets that there is or may soon be. */
function spreadChains(plan: FilterPlan): NftTable["chains"] {
  const chains: NftTable["chains"] = new Map();
  const counts = (list: { targets: string[] }[]) => {
    const found = new Set(STANDING_COUNTS);
    for (const { targets } of list) found.add(targets.length);
    found.delete(0);
    return [...found].sort((a, b) => a - b);
  };
  for (const count of counts(plan.virtualIps)) {
    chains.set(`vip_${count}`, spread(count, plan.balance));
  }
  for (const count of counts(plan.ports)) {
    chains.set(`pub_${count}`, spreadPort(count, plan.balance));
  }
  return chains;
}

/** As `nftChangeText` of both plans' tables, at the cost of what differs. */
export function nftPlanChangeText(
  before: FilterPlan,
  after: FilterPlan,
  commandsMax: number,
): string | undefined {
  const parts = changedParts(before, after);
  return nftChangeText(
    { ...renderNftTable(parts.before), chains: spreadChains(before) },
    { ...renderNftTable(parts.after), chains: spreadChains(after) },
    commandsMax,
  );
}

function turn(balance: FilterPlan["balance"]): string {
  return balance === "increment" ? "inc" : "random";
}

function spread(count: number, balance: FilterPlan["balance"]): string {
  return `dnat ip to ip daddr . numgen ${turn(balance)} mod ${count} map @slots`;
}

function spreadPort(count: number, balance: FilterPlan["balance"]): string {
  return (
    `ct mark set ct mark | ${hex(MARK_PUBLISHED)}; meta l4proto { tcp, udp, sctp } dnat ip addr . port ` +
    `to meta l4proto . th dport . numgen ${turn(balance)} mod ${count} map @portslots`
  );
}

function fixedChains(plan: FilterPlan): string {
  const port = plan.dataPathPort;
  const mesh = quote(MESH_DEVICE);
  const node = hex(MARK_NODE_MASK);
  const ours = (MARK_NODE_MASK | MARK_PERMIT) >>> 0;
  const published = `ct mark & ${hex(MARK_PUBLISHED)} != 0`;
  const chain = (name: string, hook: string, rules: (string | false)[]) => [
    `  chain ${name} {`,
    ...(hook === "" ? [] : [`    ${hook}`]),
    ...rules.filter((rule) => rule !== false).map((rule) => `    ${rule}`),
    "  }",
  ];
  return [
    ...chain("vx_in", "type filter hook input priority raw + 10;", [
      `udp dport ${port} ip saddr != @peers drop`,
    ]),
    ...chain("raw_out", "type filter hook output priority raw;", [`udp dport ${port} notrack`]),
    ...chain("raw_pre", "type filter hook prerouting priority raw;", [
      `udp dport ${port} fib daddr type local notrack`,
      // route_localnet is on for our devices: nobody may reach the host's loopback by them.
      "iifname @ifs ip daddr 127.0.0.0/8 drop",
      // No container speaks with an address of another network.
      "iifname @bridges iifname . ip saddr != @legit ip saddr != 0.0.0.0 drop",
      // A client that uses one source port towards two ingress nodes and one task gives two equal
      // flows here. A zone per ingress node, for the original direction only, tells them apart.
      `iifname ${mesh} ip saddr != @pools ct original zone set ether saddr map @mac2zone`,
    ]),
    ...chain("mark_pre", "type filter hook prerouting priority mangle;", [
      // Remember by which node an outside client came in; its answers go back there by mark.
      `iifname ${mesh} ct direction original ip saddr != @pools ct mark set ether saddr map @mac2node`,
      `iifname @bridges ct direction reply ct mark & ${node} != 0 meta mark set ct mark & ${node}`,
    ]),
    // Before Docker's own translation (dstnat).
    ...chain("nat_pre", "type nat hook prerouting priority dstnat - 5;", [
      // Who asks for an address of another network is translated, and dropped by the forward chain.
      "iifname @bridges ip daddr vmap @vips",
      `iifname ${mesh} return`,
      // A service that publishes port 53 must not catch the questions to our DNS.
      "ip daddr @gateways return",
      "fib daddr type local meta l4proto . th dport vmap @ports",
    ]),
    ...chain("nat_out", "type nat hook output priority -105;", [
      "ip daddr vmap @vips",
      "fib daddr type local ip daddr != @gateways meta l4proto . th dport vmap @ports",
    ]),
    ...chain("nat_post", "type nat hook postrouting priority srcnat - 5;", [
      "ip saddr . ip daddr @hairpin masquerade",
      `${published} jump pub_post`,
      // Without br_netfilter the answer of a task on the same node would bypass conntrack.
      !plan.hasBrNetfilter && "ct status dnat iifname @bridges oifname @bridges masquerade",
      "ip saddr @pools oifname != @ifs masquerade",
    ]),
    // Published flows that cannot keep their source: ours, loopback, and the task's own node.
    ...chain("pub_post", "", [
      "ip saddr @pools masquerade",
      "ip saddr 127.0.0.0/8 masquerade",
      "ip saddr . ip daddr @selfloop masquerade",
    ]),
    ...chain("forward", "type filter hook forward priority mangle;", [
      "iifname != @ifs oifname != @ifs accept",
      // A reset is queued for a connect() that is under way; an ICMP error that comes back within the
      // same call is only noted, and the client would wait a second for its next SYN.
      "ip daddr @dead meta l4proto tcp reject with tcp reset",
      "ip daddr @dead reject with icmp port-unreachable",
      "ct state established,related goto permit",
      `${published} goto permit`,
      "iifname @bridges iifname . ip saddr . ip daddr @same goto permit",
      "oifname @bridges oifname . ip saddr . ip daddr @same goto permit",
      `iifname ${mesh} oifname @bridges ip daddr . meta l4proto . th dport @pubtasks goto permit`,
      `iifname ${mesh} oifname @bridges ip saddr @meships goto permit`,
      // Isolation; everything else (egress, host-mode ports) is for Docker's own rules.
      "iifname @bridges oifname @ifs drop",
      `iifname ${mesh} drop`,
    ]),
    ...chain("refuse_out", "type filter hook output priority filter - 5;", [
      "ip daddr @dead meta l4proto tcp reject with tcp reset",
      "ip daddr @dead reject with icmp port-unreachable",
    ]),
    ...chain("permit", "", [`meta mark set meta mark | ${hex(MARK_PERMIT)} accept`]),
    ...chain("clamp", "type filter hook forward priority mangle + 5;", [
      `oifname ${mesh} tcp flags syn / syn,rst tcp option maxseg size set rt mtu`,
    ]),
    ...chain("post", "type filter hook postrouting priority mangle;", [
      // VXLAN routes its outer packet by the same mark: it must end here, or packets go in circles.
      `meta mark & ${hex(ours)} != 0 meta mark set meta mark & ${hex(~ours >>> 0)}`,
    ]),
  ].join("\n");
}

/** The whole table as one transaction that replaces whatever was there. */
export function nftTableText(table: NftTable): string {
  const lines = [`table ${TABLE}`, `delete table ${TABLE}`, `table ${TABLE} {`];
  for (const set of table.sets) {
    const elements = [...set.elements].map(renderElement).join(", ");
    lines.push(
      `  ${set.kind} ${set.name} { ${set.declaration};${elements === "" ? "" : ` elements = { ${elements} };`} }`,
    );
  }
  for (const [name, rule] of table.chains) {
    lines.push(`  chain ${name} {${rule === "" ? "" : ` ${rule};`} }`);
  }
  lines.push(table.fixed, "}", "");
  return lines.join("\n");
}

export function nftDeleteText(): string {
  return `table ${TABLE}\ndelete table ${TABLE}\n`;
}

function renderElement([key, value]: readonly [string, string | undefined]): string {
  return value === undefined ? key : `${key} : ${value}`;
}

/**
 * The commands that turn `before` into `after` in one transaction: empty when nothing changed,
 * undefined when only the whole table will do (hooked chains or an interval set changed, or the
 * change is larger than `commandsMax`).
 */
export function nftChangeText(
  before: NftTable,
  after: NftTable,
  commandsMax: number,
): string | undefined {
  if (before.fixed !== after.fixed || before.sets.length !== after.sets.length) return undefined;
  const added: string[] = [];
  const removed: string[] = [];
  const chainsGone: string[] = [];
  const chains: string[] = [];
  for (const [name, rule] of after.chains) {
    const old = before.chains.get(name);
    if (old === rule) continue;
    if (old === undefined) chains.push(`add chain ${TABLE} ${name}`);
    else chains.push(`flush chain ${TABLE} ${name}`);
    // One line for one rule: the statements of a published port are two rules.
    for (const part of rule.split("; ")) {
      if (part !== "") chains.push(`add rule ${TABLE} ${name} ${part}`);
    }
  }
  for (const name of before.chains.keys()) {
    if (after.chains.has(name)) continue;
    chainsGone.push(`flush chain ${TABLE} ${name}`, `delete chain ${TABLE} ${name}`);
  }
  for (const [place, set] of after.sets.entries()) {
    const old = before.sets[place];
    if (old?.name !== set.name || old.declaration !== set.declaration) return undefined;
    const gone = [...old.elements].filter(([key, value]) => !isSame(set.elements, key, value));
    const fresh = [...set.elements].filter(([key, value]) => !isSame(old.elements, key, value));
    if (gone.length + fresh.length === 0) continue;
    if (set.hasIntervals) return undefined;
    if (gone.length + fresh.length > commandsMax) return undefined;
    if (gone.length > 0) {
      removed.push(`delete element ${TABLE} ${set.name} { ${gone.map(renderElement).join(", ")} }`);
    }
    if (fresh.length > 0) {
      added.push(`add element ${TABLE} ${set.name} { ${fresh.map(renderElement).join(", ")} }`);
    }
  }
  const lines = [...chains, ...removed, ...added, ...chainsGone];
  if (lines.length > commandsMax) return undefined;
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

function isSame(
  elements: Map<string, string | undefined>,
  key: string,
  value: string | undefined,
): boolean {
  return elements.has(key) && elements.get(key) === value;
}

/** `ip link` arguments that make the mesh device. */
export function linkLine(link: MeshLink): string {
  return (
    `${MESH_DEVICE} mtu ${link.mtu} address ${link.mac} type vxlan id ${link.vni} ` +
    `local ${link.local} dstport ${link.port} nolearning`
  );
}

/** `ip route` arguments of a route over the mesh device; equal routes give equal lines. */
export function routeLine(route: MeshRoute): string {
  const way = route.via === undefined ? "" : ` via ${route.via}`;
  const scope = route.isLocal ? " scope host" : route.via === undefined ? " scope link" : " onlink";
  const kind = route.isLocal ? "local " : "";
  const source = route.source === undefined ? "" : ` src ${route.source}`;
  return (
    `${kind}${route.destination}${way} dev ${MESH_DEVICE}${scope}${source} ` +
    `table ${route.table} proto ${ROUTE_PROTOCOL}`
  );
}

export function ruleLine(rule: MeshRule): string {
  const target = "goto" in rule ? `goto ${rule.goto}` : `lookup ${rule.table}`;
  const mark = rule.mark === 0 ? "0" : hex(rule.mark);
  return `pref ${rule.priority} fwmark ${mark}/${hex(rule.mask)} ${target}`;
}

export function neighbourLine(entry: { address: string; mac: string }): string {
  return `${entry.address} lladdr ${entry.mac} dev ${MESH_DEVICE} nud permanent`;
}

export function fdbLine(entry: { mac: string; address: string }): string {
  return `${entry.mac} dev ${MESH_DEVICE} dst ${entry.address} self permanent`;
}

/** Device pattern of our bridges in iptables' words. */
export const BRIDGE_PATTERN = `${BRIDGE_PREFIX}+`;
