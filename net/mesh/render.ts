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
 *
 * There is one table a family, of the same text but for the family's words (`family.ts`).
 */
import { LINK_LOCAL_SOURCES, LINK_LOCAL_TARGETS, wordsOf } from "./family.ts";
import {
  BRIDGE_PREFIX,
  ENCRYPTED_DEVICE,
  MARK_NODE_MASK,
  MARK_PERMIT,
  MARK_PUBLISHED,
  MARK_SNAT,
  MESH_DEVICE,
  MESH_DEVICE_PREFIX,
  NFT_TABLE,
  nodeMark,
  ROUTE_PROTOCOL,
} from "./names.ts";
import { nftDeclaration, nftElementText, type NftShape } from "./nft-elements.ts";
import {
  type Family,
  type FilterPlan,
  macsOf,
  type MeshLink,
  type MeshRoute,
  type MeshRule,
} from "./plan.ts";

export type NftSet = {
  kind: "set" | "map";
  name: string;
  /** Type and flags, as nft wants them. */
  declaration: string;
  /** None of interval sets, which are only ever replaced whole. */
  shape: NftShape | undefined;
  /** Key to value; the value is undefined in sets. */
  elements: Map<string, string | undefined>;
};
export type NftTable = {
  family: Family;
  sets: NftSet[];
  /** Load-balancing chains, one per number of targets and way of choosing: name to rules. */
  chains: Map<string, string>;
  fixed: string;
};

/** What not every nft or kernel has. */
export type NftFeatures = {
  /** Elements of sets that count what is looked up. */
  hasCounters: boolean;
};

/** Sets that count new connections, by address and by protocol and port. */
export const ADDRESS_COUNTERS = "viphits";
export const PORT_COUNTERS = "porthits";
/** The same on all nodes and in every table: a client keeps its task whichever node it asks. */
const AFFINITY_SEED = "0x73686f61";

/** The table of a family, as nft's commands want it. */
export function nftTableName(family: Family): string {
  return `${wordsOf(family).nft.family} ${NFT_TABLE}`;
}

const hex = (value: number) => `0x${value.toString(16)}`;
const quote = (device: string) => `"${device}"`;

/**
 * The whole table of a plan. Virtual addresses without targets get no chain: they are in the set
 * `dead`, whose packets are refused.
 */
export function renderNftTable(
  plan: FilterPlan,
  features: NftFeatures = { hasCounters: true },
): NftTable {
  const { family: ip, addressType } = wordsOf(plan.family).nft;
  const sets: NftSet[] = [];
  const add = (
    kind: "set" | "map",
    name: string,
    shape: NftShape | string,
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
      ...(typeof shape === "string"
        ? { declaration: `${shape}; flags interval`, shape: undefined }
        : { declaration: nftDeclaration(plan.family, shape), shape }),
      elements: entries,
    });
  };
  const { networks, peers } = plan;
  const live = plan.virtualIps.filter((virtualIp) => virtualIp.targets.length > 0);
  const livePorts = plan.ports.filter((port) => port.targets.length > 0);

  add(
    "map",
    "mac2node",
    { key: ["mac"], value: ["mark"] },
    peers.flatMap((peer) => macsOf(peer).map((mac) => [mac, hex(nodeMark(peer.index))] as const)),
  );
  add(
    "map",
    "mac2zone",
    { key: ["mac"], value: ["zone"] },
    peers.flatMap((peer) => macsOf(peer).map((mac) => [mac, String(peer.index)] as const)),
  );
  // The tunnel itself is IPv4.
  if (plan.family === "ipv4") {
    add(
      "set",
      "peers",
      { key: ["address"] },
      peers.map((peer) => peer.address),
    );
  }
  add(
    "set",
    "bridges",
    { key: ["device"] },
    networks.map((network) => quote(network.bridge)),
  );
  add("set", "ifs", { key: ["device"] }, [
    quote(MESH_DEVICE),
    ...(plan.encryptedPort === undefined ? [] : [quote(ENCRYPTED_DEVICE)]),
    ...networks.map((network) => quote(network.bridge)),
  ]);
  add("set", "pools", `type ${addressType}`, plan.subnets);
  add("set", "gateways", { key: ["address"] }, plan.gateways);
  add("set", "meships", { key: ["address"] }, plan.meshAddresses);
  add(
    "set",
    "legit",
    `typeof iifname . ${ip} saddr`,
    networks.map((network) => `${quote(network.bridge)} . ${network.subnet}`),
  );
  add(
    "set",
    "same",
    `typeof iifname . ${ip} saddr . ${ip} daddr`,
    networks
      .filter((network) => network.isOpen)
      .map((network) => `${quote(network.bridge)} . ${network.subnet} . ${network.subnet}`),
  );
  add(
    "set",
    "hairpin",
    { key: ["address", "address"] },
    plan.localAddresses.map((address) => `${address} . ${address}`),
  );
  add(
    "set",
    "selfloop",
    { key: ["address", "address"] },
    plan.selfLoops.map((loop) => `${loop.node} . ${loop.task}`),
  );
  add(
    "set",
    "pubtasks",
    { key: ["address", "protocol", "port"] },
    plan.publishedTasks.map((task) => `${task.address} . ${task.protocol} . ${task.port}`),
  );
  add(
    "set",
    "dead",
    { key: ["address"] },
    plan.virtualIps.filter((vip) => vip.targets.length === 0).map((vip) => vip.address),
  );
  add(
    "map",
    "slots",
    { key: ["address", "turn"], value: ["address"] },
    live.flatMap((vip) =>
      vip.targets.map((target, place) => [`${vip.address} . ${place}`, target] as const),
    ),
  );
  add(
    "map",
    "portslots",
    { key: ["protocol", "port", "turn"], value: ["address", "port"] },
    livePorts.flatMap((port) =>
      port.targets.map(
        (target, place) =>
          [`${portKey(port)} . ${place}`, `${target} . ${port.targetPort}`] as const,
      ),
    ),
  );
  add(
    "map",
    "vips",
    { key: ["address"], value: ["verdict"] },
    live.map((vip) => [vip.address, `goto ${spreadName("vip", vip)}`] as const),
  );
  add(
    "map",
    "ports",
    { key: ["protocol", "port"], value: ["verdict"] },
    livePorts.map((port) => [portKey(port), `goto ${spreadName("pub", port)}`] as const),
  );
  if (features.hasCounters) {
    // Sets of their own: what is counted stays while the tasks behind an address change.
    add(
      "set",
      ADDRESS_COUNTERS,
      { key: ["address"], hasCounter: true },
      live.map((vip) => vip.address),
    );
    const shape: NftShape = { key: ["protocol", "port"], hasCounter: true };
    add("set", PORT_COUNTERS, shape, livePorts.map(portKey));
  }
  return {
    family: plan.family,
    sets,
    chains: spreadChains(plan),
    fixed: fixedChains(plan, features),
  };
}

function portKey(port: FilterPlan["ports"][number]): string {
  return `${port.protocol} . ${port.publishedPort}`;
}

/**
 * Chains come in blocks of so many numbers of targets, so that a task more or less is elements only;
 * those of the first block are always there. For a rule the tool first reads what the table holds, and
 * nft 1.0.6 cannot add those of ports to a table that is there: a new block is then the whole table.
 */
const COUNTS_BLOCK = 8;

/** The numbers of targets in the block of this one. */
function countsBeside(count: number): number[] {
  const first = count - ((count - 1) % COUNTS_BLOCK);
  return Array.from({ length: COUNTS_BLOCK }, (_, place) => first + place);
}

/** How the targets of an address or a port are chosen. */
type Spread = { targets: { length: number }; hasAffinity: boolean; isSnat?: boolean };

function spreadName(kind: "vip" | "pub", { targets, hasAffinity, isSnat }: Spread): string {
  // Of one there is nothing to choose.
  const way = `${hasAffinity && targets.length > 1 ? "a" : ""}${isSnat ? "s" : ""}`;
  return `${kind}_${targets.length}${way === "" ? "" : `_${way}`}`;
}

/** Per way of choosing, one chain per number of targets that there is or may soon be. */
export function spreadChains(plan: FilterPlan): NftTable["chains"] {
  const chains: NftTable["chains"] = new Map();
  const add = (
    kind: "vip" | "pub",
    some: readonly Spread[],
    spread: (plan: FilterPlan, one: Spread) => string,
  ) => {
    for (const { hasAffinity, isSnat, targets } of some) {
      const way = { hasAffinity, ...(isSnat ? { isSnat } : {}) };
      if (chains.has(spreadName(kind, { ...way, targets }))) continue;
      for (const length of countsBeside(targets.length)) {
        const one = { ...way, targets: { length } };
        chains.set(spreadName(kind, one), spread(plan, one));
      }
    }
  };
  const isThere = ({ targets }: Spread) => targets.length > 0;
  const first = { targets: { length: COUNTS_BLOCK } };
  const plain = { ...first, hasAffinity: false };
  const affine = { ...first, hasAffinity: true };
  const snat = { isSnat: true };
  add("vip", [plain, affine, ...plan.virtualIps.filter(isThere)], spreadAddress);
  const ways = [plain, affine, { ...plain, ...snat }, { ...affine, ...snat }];
  add("pub", [...ways, ...plan.ports.filter(isThere)], spreadPort);
  return chains;
}

/** The number of the target for this connection. */
function turn(plan: FilterPlan, { targets, hasAffinity }: Spread): string {
  const count = targets.length;
  if (!hasAffinity || count === 1) {
    return `numgen ${plan.balance === "increment" ? "inc" : "random"} mod ${count}`;
  }
  return `jhash ${wordsOf(plan.family).nft.family} saddr mod ${count} seed ${AFFINITY_SEED}`;
}

function spreadAddress(plan: FilterPlan, one: Spread): string {
  return `dnat to ${wordsOf(plan.family).nft.family} daddr . ${turn(plan, one)} map @slots`;
}

function spreadPort(plan: FilterPlan, one: Spread): string {
  const mark = (MARK_PUBLISHED | (one.isSnat ? MARK_SNAT : 0)) >>> 0;
  return (
    `ct mark set ct mark | ${hex(mark)}; ` +
    `meta l4proto { tcp, udp, sctp } dnat ${wordsOf(plan.family).nft.family} addr . port ` +
    `to meta l4proto . th dport . ${turn(plan, one)} map @portslots`
  );
}

function fixedChains(plan: FilterPlan, features: NftFeatures): string {
  const words = wordsOf(plan.family);
  const ip = words.nft.family;
  const isIpv4 = plan.family === "ipv4";
  const port = plan.dataPathPort;
  const secure = plan.encryptedPort;
  /** Both mesh devices, where there are two. */
  const mesh = quote(secure === undefined ? MESH_DEVICE : `${MESH_DEVICE_PREFIX}*`);
  const ports = secure === undefined ? port : `{ ${port}, ${secure} }`;
  const secret = plan.networks.filter((network) => network.isEncrypted);
  const secretBridges = secret.map(({ bridge }) => quote(bridge)).join(", ");
  const secretSubnets = plan.encryptedSubnets ?? [];
  const secretWays = ["lo", ENCRYPTED_DEVICE, ...secret.map(({ bridge }) => bridge)].map(quote);
  const node = hex(MARK_NODE_MASK);
  const ours = (MARK_NODE_MASK | MARK_PERMIT) >>> 0;
  const published = `ct mark & ${hex(MARK_PUBLISHED)} != 0`;
  const refuse = [
    // A reset is queued for a connect() that is under way; an ICMP error that comes back within the
    // same call is only noted, and the client would wait a second for its next SYN.
    `${ip} daddr @dead meta l4proto tcp reject with tcp reset`,
    `${ip} daddr @dead reject with ${words.nft.reject}`,
  ];
  const chain = (name: string, hook: string, rules: (string | false)[]) => [
    `  chain ${name} {`,
    ...(hook === "" ? [] : [`    ${hook}`]),
    ...rules.filter((rule) => rule !== false).map((rule) => `    ${rule}`),
    "  }",
  ];
  /** Only the first packet of a connection comes here: no verdict, only the set's own counting. */
  const count = (rule: string) => features.hasCounters && rule;
  return [
    // The tunnel itself is IPv4.
    ...(isIpv4
      ? [
          ...chain("vx_in", "type filter hook input priority raw + 10;", [
            `udp dport ${ports} ip saddr != @peers drop`,
            // The kernel's policies say so as well; these hold if somebody flushes them.
            secure !== undefined && `udp dport ${secure} meta ipsec missing drop`,
          ]),
          ...chain("raw_out", "type filter hook output priority raw;", [
            secure !== undefined && `udp dport ${secure} rt ipsec missing drop`,
            `udp dport ${ports} notrack`,
          ]),
        ]
      : []),
    ...chain("raw_pre", "type filter hook prerouting priority raw;", [
      isIpv4 && `udp dport ${ports} fib daddr type local notrack`,
      // What is not of the overlays leaves here: the host's own packets cost one look-up.
      "iifname != @ifs accept",
      // route_localnet is on for our devices: nobody may reach the host's loopback by them.
      `${ip} daddr ${words.loopback} drop`,
      // No container speaks with an address of another network.
      `iifname @bridges iifname . ${ip} saddr != @legit ${ip} saddr != ${words.nft.unsourced} drop`,
      // A client that uses one source port towards two ingress nodes and one task gives two equal
      // flows here. A zone per ingress node, for the original direction only, tells them apart.
      `iifname ${mesh} ${ip} saddr != @pools ct original zone set ether saddr map @mac2zone`,
    ]),
    ...chain("mark_pre", "type filter hook prerouting priority mangle;", [
      // Remember by which node an outside client came in; its answers go back there by mark.
      `iifname ${mesh} ct direction original ${ip} saddr != @pools ct mark set ether saddr map @mac2node`,
      `iifname @bridges ct direction reply ct mark & ${node} != 0 meta mark set ct mark & ${node}`,
    ]),
    // Before Docker's own translation (dstnat).
    ...chain("nat_pre", "type nat hook prerouting priority dstnat - 5;", [
      count(`iifname @bridges ${ip} daddr @${ADDRESS_COUNTERS}`),
      // Who asks for an address of another network is translated, and dropped by the forward chain.
      `iifname @bridges ${ip} daddr vmap @vips`,
      `iifname ${mesh} return`,
      // A service that publishes port 53 must not catch the questions to our DNS.
      `${ip} daddr @gateways return`,
      count(`fib daddr type local meta l4proto . th dport @${PORT_COUNTERS}`),
      "fib daddr type local meta l4proto . th dport vmap @ports",
    ]),
    ...chain("nat_out", "type nat hook output priority -105;", [
      // Answers to ::1 would be answers from outside, which the kernel drops: refused at once instead.
      !isIpv4 && `${ip} daddr ${words.loopback} return`,
      count(`${ip} daddr @${ADDRESS_COUNTERS}`),
      `${ip} daddr vmap @vips`,
      `${ip} daddr @gateways return`,
      count(`fib daddr type local meta l4proto . th dport @${PORT_COUNTERS}`),
      "fib daddr type local meta l4proto . th dport vmap @ports",
    ]),
    ...chain("nat_post", "type nat hook postrouting priority srcnat - 5;", [
      `${ip} saddr . ${ip} daddr @hairpin masquerade`,
      `${published} jump pub_post`,
      // Without br_netfilter the answer of a task on the same node would bypass conntrack.
      !plan.hasBrNetfilter && "ct status dnat iifname @bridges oifname @bridges masquerade",
      // What stays on the host keeps its source.
      `${ip} saddr @pools oifname != @ifs oifname != "lo" masquerade`,
    ]),
    // Published flows that cannot keep their source, or are not to: those of a port that hides its
    // clients, ours, loopback, and the task's own node.
    ...chain("pub_post", "", [
      `ct mark & ${hex(MARK_SNAT)} != 0 masquerade`,
      `${ip} saddr @pools masquerade`,
      `${ip} saddr ${words.loopback} masquerade`,
      `${ip} saddr . ${ip} daddr @selfloop masquerade`,
    ]),
    ...chain("forward", "type filter hook forward priority mangle;", [
      "iifname != @ifs oifname != @ifs accept",
      // Nothing of an encrypted network in clear, and nothing in clear is taken for it.
      secret.length > 0 && `iifname ${quote(MESH_DEVICE)} oifname { ${secretBridges} } drop`,
      secret.length > 0 && `iifname { ${secretBridges} } oifname ${quote(MESH_DEVICE)} drop`,
      ...refuse,
      "ct state established,related goto permit",
      `${published} goto permit`,
      // Neighbour discovery on a bridge; no router forwards these.
      !isIpv4 && `iifname @bridges ip6 daddr { ${LINK_LOCAL_TARGETS.join(", ")} } goto permit`,
      !isIpv4 && `iifname @bridges ip6 saddr ${LINK_LOCAL_SOURCES} goto permit`,
      `iifname @bridges iifname . ${ip} saddr . ${ip} daddr @same goto permit`,
      `oifname @bridges oifname . ${ip} saddr . ${ip} daddr @same goto permit`,
      `iifname ${mesh} oifname @bridges ${ip} daddr . meta l4proto . th dport @pubtasks goto permit`,
      `iifname ${mesh} oifname @bridges ${ip} saddr @meships goto permit`,
      // Isolation; everything else (egress, host-mode ports) is for Docker's own rules.
      "iifname @bridges oifname @ifs drop",
      `iifname ${mesh} drop`,
      // In IPv6 most engines filter nothing: whoever is not on the network reaches what is translated.
      !isIpv4 && "oifname @ifs ct status dnat accept",
      !isIpv4 && "oifname @ifs drop",
    ]),
    // Service addresses are routed to the mesh device: other packets of the host pass by one comparison.
    ...chain("refuse_out", "type filter hook output priority filter - 5;", [
      `oifname != ${mesh} accept`,
      ...refuse,
    ]),
    ...chain("permit", "", [`meta mark set meta mark | ${hex(MARK_PERMIT)} accept`]),
    ...chain("clamp", "type filter hook forward priority mangle + 5;", [
      `oifname ${mesh} tcp flags syn / syn,rst tcp option maxseg size set rt mtu`,
    ]),
    ...chain("post", "type filter hook postrouting priority mangle;", [
      // Whatever route there is or lacks: not to the outside, and not by the other device.
      secretSubnets.length > 0 &&
        `${ip} daddr { ${secretSubnets.join(", ")} } oifname != { ${secretWays.join(", ")} } drop`,
      // VXLAN routes its outer packet by the same mark: it must end here, or packets go in circles.
      `meta mark & ${hex(ours)} != 0 meta mark set meta mark & ${hex(~ours >>> 0)}`,
    ]),
  ].join("\n");
}

/** The whole table as one transaction that replaces whatever was there. */
export function nftTableText(table: NftTable): string {
  const name = nftTableName(table.family);
  const lines = [`table ${name}`, `delete table ${name}`, `table ${name} {`];
  for (const set of table.sets) {
    const elements = [...set.elements].map(nftElementText).join(", ");
    lines.push(
      `  ${set.kind} ${set.name} { ${set.declaration};${elements === "" ? "" : ` elements = { ${elements} };`} }`,
    );
  }
  for (const [chain, rule] of table.chains) {
    lines.push(`  chain ${chain} {${rule === "" ? "" : ` ${rule};`} }`);
  }
  lines.push(table.fixed, "}", "");
  return lines.join("\n");
}

/** Removes the table of a family, whether or not it is there. */
export function nftDeleteText(family: Family): string {
  const name = nftTableName(family);
  return `table ${name}\ndelete table ${name}\n`;
}

/** `ip link` arguments that make the mesh device. */
export function linkLine(link: MeshLink, device = MESH_DEVICE): string {
  return (
    `${device} mtu ${link.mtu} address ${link.mac} type vxlan id ${link.vni} ` +
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
    `${kind}${route.destination}${way} dev ${route.device ?? MESH_DEVICE}${scope}${source} ` +
    `table ${route.table} proto ${ROUTE_PROTOCOL}`
  );
}

/** What `ip rule` takes; equal rules give equal lines. */
export function ruleLine(rule: MeshRule): string {
  const target = "goto" in rule ? `goto ${rule.goto}` : `lookup ${rule.table}`;
  if ("from" in rule) return `pref ${rule.priority} iif ${rule.from} ${target}`;
  const mark = rule.mark === 0 ? "0" : hex(rule.mark);
  return `pref ${rule.priority} fwmark ${mark}/${hex(rule.mask)} ${target}`;
}

/** What `ip neigh` takes. */
export function neighbourLine(
  entry: { address: string; mac: string },
  device = MESH_DEVICE,
): string {
  return `${entry.address} lladdr ${entry.mac} dev ${device} nud permanent`;
}

export function fdbLine(entry: { mac: string; address: string }, device = MESH_DEVICE): string {
  return `${entry.mac} dev ${device} dst ${entry.address} self permanent`;
}

/** Device pattern of our bridges in iptables' words. */
export const BRIDGE_PATTERN = `${BRIDGE_PREFIX}+`;
