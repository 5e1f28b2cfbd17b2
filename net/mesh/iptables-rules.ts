/**
 * Filter plan → iptables chains. Pure. The same rules as the nft table (`render.ts` says why each is
 * there), in own chains named `SH-…`, reached by one jump per built-in chain.
 *
 * What nft looks up in sets and maps is a tree of chains here: at most 16 rules per chain, four
 * levels for an address. So a packet passes tens of rules and not thousands, and a change of one
 * service changes one or two small chains. No ipset is needed.
 *
 * With `balancer: "ipvs"` the chains do not translate but mark new connections for IPVS
 * (`ipvs-services.ts`); only connections to 127.0.0.0/8, which IPVS refuses to send off the host,
 * are translated as by the plain back-end.
 */
import { assert } from "../../core/assert.ts";
import { formatIpv4, mergeIpv4Blocks, parseIpv4 } from "./ipv4.ts";
import {
  IPVS_MARK,
  IPVS_MARK_PORT,
  ipvsAddressMark,
  ipvsPortMark,
  MARK_NODE_MASK,
  MARK_PERMIT,
  MARK_PUBLISHED,
  MESH_DEVICE,
  nodeMark,
} from "./names.ts";
import type { FilterPlan } from "./plan.ts";
import { BRIDGE_PATTERN } from "./render.ts";

export const IPTABLES_TABLES = ["raw", "mangle", "nat", "filter"] as const;
export type IptablesTable = (typeof IPTABLES_TABLES)[number];

/** The first rule of a built-in chain (or of DOCKER-USER). */
export type IptablesHook = { table: IptablesTable; chain: string; rule: string };
export type IptablesRules = {
  /** Chain name to its rules, by table. */
  chains: Record<IptablesTable, Map<string, string[]>>;
  hooks: IptablesHook[];
};
export type IptablesFeatures = {
  balancer: "nat" | "ipvs";
  /** Conntrack zones: without them a client's port used over two ingress nodes breaks one connection. */
  hasZones: boolean;
};

/** What our chains' names begin with; two, so that one back-end can take over from the other. */
export function chainPrefix(balancer: IptablesFeatures["balancer"]): string {
  return balancer === "ipvs" ? "SI-" : "SH-";
}

const hex = (value: number) => `0x${(value >>> 0).toString(16)}`;
const masked = (mark: number) => `${hex(mark)}/${hex(mark)}`;
const NEW = "-m conntrack --ctstate NEW";
/** More entries than this in one chain are spread over chains of the next level. */
const BRANCH = 16;

type TreeEntry = { value: number; rules: string[] };
type TreeKind = {
  bits: number;
  levels: readonly number[];
  match(first: number, length: number): string;
};

const ADDRESS_LEVELS = [16, 20, 24, 28];
const byTarget: TreeKind = {
  bits: 32,
  levels: ADDRESS_LEVELS,
  match: (first, length) => `-d ${formatIpv4(first)}/${length}`,
};
const bySource: TreeKind = {
  bits: 32,
  levels: ADDRESS_LEVELS,
  match: (first, length) => `-s ${formatIpv4(first)}/${length}`,
};
const byPort = (protocol: string): TreeKind => ({
  bits: 16,
  levels: [4, 8, 12],
  match: (first, length) =>
    `-p ${protocol} -m ${protocol} --dport ${first}:${first + 2 ** (16 - length) - 1}`,
});

/** Rules of chain `root` that lead to each entry's rules; chains below it are added to `chains`. */
function growTree(
  chains: Map<string, string[]>,
  root: string,
  kind: TreeKind,
  entries: TreeEntry[],
  level = 0,
): string[] {
  const length = kind.levels[level];
  if (entries.length <= BRANCH || length === undefined) {
    return entries.flatMap((entry) => entry.rules);
  }
  const size = 2 ** (kind.bits - length);
  const groups = new Map<number, TreeEntry[]>();
  for (const entry of entries) {
    const first = entry.value - (entry.value % size);
    const group = groups.get(first);
    if (group) group.push(entry);
    else groups.set(first, [entry]);
  }
  return [...groups].map(([first, group]) => {
    const chain = `${root}.${first.toString(16)}.${length}`;
    chains.set(chain, growTree(chains, root, kind, group, level + 1));
    return `${kind.match(first, length)} -j ${chain}`;
  });
}

function byValue(a: TreeEntry, b: TreeEntry): number {
  return a.value - b.value;
}

function addressEntry(address: string, rules: string[]): TreeEntry {
  const value = parseIpv4(address);
  assert(value !== undefined, `"${address}" of a plan is IPv4`);
  return { value, rules };
}

/** Entries of one address together, in the order of addresses. */
function addressEntries(entries: TreeEntry[]): TreeEntry[] {
  const joined = new Map<number, string[]>();
  for (const { value, rules } of entries) {
    const known = joined.get(value);
    if (known) known.push(...rules);
    else joined.set(value, [...rules]);
  }
  return [...joined].map(([value, rules]) => ({ value, rules })).sort(byValue);
}

/** Name of the chain that spreads a service address. */
function addressChain(own: string, address: string): string {
  return `${own}V-${(parseIpv4(address) ?? 0).toString(16)}`;
}

/**
 * One rule per target; each takes its share of what the rules before it left.
 * Source of the shares' text: what iptables-save prints (a probability is kept in 31 bits).
 */
function translate(
  match: string,
  targets: string[],
  port: string,
  balance: FilterPlan["balance"],
): string[] {
  return targets.map((target, place) => {
    const left = targets.length - place;
    const share =
      left === 1
        ? ""
        : balance === "increment"
          ? `-m statistic --mode nth --every ${left} --packet 0 `
          : `-m statistic --mode random --probability ${(Math.round(2 ** 31 / left) / 2 ** 31).toFixed(11)} `;
    return `${match}${share}-j DNAT --to-destination ${target}${port}`;
  });
}

/** All chains of a plan. Equal plans give equal chains; an endpoint's change touches few of them. */
export function renderIptables(plan: FilterPlan, features: IptablesFeatures): IptablesRules {
  const { networks, peers } = plan;
  const isIpvs = features.balancer === "ipvs";
  const own = chainPrefix(features.balancer);
  const permit = `${own}PERMIT`;
  const raw = new Map<string, string[]>();
  const mangle = new Map<string, string[]>();
  const nat = new Map<string, string[]>();
  const filter = new Map<string, string[]>();
  const pools = mergeIpv4Blocks(plan.subnets);
  const meshBlocks = mergeIpv4Blocks(plan.meshAddresses);
  const node = hex(MARK_NODE_MASK);
  const live = plan.virtualIps.filter((virtualIp) => virtualIp.targets.length > 0);
  const livePorts = plan.ports.filter((port) => port.targets.length > 0);

  /** Rules per bridge in 16 chains, by the first digit of its name. */
  const perBridge = (
    chains: Map<string, string[]>,
    root: string,
    flag: "-i" | "-o",
    rulesOf: (network: FilterPlan["networks"][number]) => string[],
  ) => {
    const groups = new Map<string, string[]>();
    for (const network of [...networks].sort((a, b) => (a.bridge < b.bridge ? -1 : 1))) {
      const digit = network.bridge.slice(0, 3);
      groups.set(digit, [...(groups.get(digit) ?? []), ...rulesOf(network)]);
    }
    return [...groups].map(([digit, rules]) => {
      const chain = `${root}.${digit}`;
      chains.set(chain, rules);
      return `${flag} ${digit}+ -j ${chain}`;
    });
  };

  // --- raw
  raw.set(`${own}VXLAN`, [
    ...growTree(
      raw,
      `${own}VX`,
      bySource,
      addressEntries(
        peers.map((peer) => addressEntry(peer.address, [`-s ${peer.address}/32 -g ${own}VX-OK`])),
      ),
    ),
    "-j DROP",
  ]);
  raw.set(`${own}VX-OK`, ["-j CT --notrack", "-j ACCEPT"]);
  raw.set(`${own}ZONE`, [
    ...pools.map((block) => `-s ${block} -j RETURN`),
    ...(features.hasZones
      ? peers.map((peer) => `-m mac --mac-source ${peer.mac} -j CT --zone-orig ${peer.index}`)
      : []),
  ]);
  raw.set(`${own}PRE`, [
    `-p udp -m udp --dport ${plan.dataPathPort} -m addrtype --dst-type LOCAL -j ${own}VXLAN`,
    `-i ${BRIDGE_PATTERN} -d 127.0.0.0/8 -j DROP`,
    `-i ${MESH_DEVICE} -g ${own}ZONE`,
    ...perBridge(raw, `${own}FROM`, "-i", ({ bridge, subnet }) => [
      `-i ${bridge} -s ${subnet} -j RETURN`,
      `-i ${bridge} ! -s 0.0.0.0/32 -j DROP`,
    ]),
  ]);
  raw.set(`${own}OUT`, [`-p udp -m udp --dport ${plan.dataPathPort} -j CT --notrack`]);

  // --- mangle
  mangle.set(`${own}NODE`, [
    ...pools.map((block) => `-s ${block} -j RETURN`),
    ...peers.map(
      (peer) =>
        `-m mac --mac-source ${peer.mac} -j CONNMARK --set-xmark ${hex(nodeMark(peer.index))}/${node}`,
    ),
  ]);
  mangle.set(`${own}MESH`, [
    `-m conntrack --ctdir ORIGINAL -m connmark --mark 0x0/${node} -j ${own}NODE`,
  ]);
  mangle.set(`${own}PRE`, [
    `-i ${MESH_DEVICE} -g ${own}MESH`,
    `-i ${BRIDGE_PATTERN} -m conntrack --ctdir REPLY -m connmark ! --mark 0x0/${node} -j CONNMARK --restore-mark --nfmask ${node} --ctmask ${node}`,
    ...(isIpvs ? [`${NEW} -j ${own}IPVS`] : []),
  ]);
  mangle.set(permit, [`-j MARK --set-xmark ${masked(MARK_PERMIT)}`, "-j ACCEPT"]);
  const inbound = growTree(
    mangle,
    `${own}IN`,
    byTarget,
    addressEntries(
      plan.publishedTasks.map(({ address, protocol, port }) =>
        addressEntry(address, [
          `-d ${address}/32 -p ${protocol} -m ${protocol} --dport ${port} -g ${permit}`,
        ]),
      ),
    ),
  );
  mangle.set(`${own}INBOUND`, [
    ...inbound,
    ...meshBlocks.map((block) => `-s ${block} -g ${permit}`),
  ]);
  const open = ({ isOpen }: FilterPlan["networks"][number], rule: string) => (isOpen ? [rule] : []);
  mangle.set(`${own}FORWARD`, [
    `! -i ${BRIDGE_PATTERN} ! -o ${BRIDGE_PATTERN} -j RETURN`,
    `-o ${MESH_DEVICE} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
    `-m conntrack --ctstate RELATED,ESTABLISHED -g ${permit}`,
    `-m connmark --mark ${masked(MARK_PUBLISHED)} -g ${permit}`,
    ...perBridge(mangle, `${own}SAME-I`, "-i", (network) =>
      open(network, `-i ${network.bridge} -s ${network.subnet} -d ${network.subnet} -g ${permit}`),
    ),
    ...perBridge(mangle, `${own}SAME-O`, "-o", (network) =>
      open(network, `-o ${network.bridge} -s ${network.subnet} -d ${network.subnet} -g ${permit}`),
    ),
    `-i ${MESH_DEVICE} -o ${BRIDGE_PATTERN} -j ${own}INBOUND`,
    // Isolation; everything else (egress, host-mode ports) is for Docker's own rules.
    `-i ${BRIDGE_PATTERN} -o ${BRIDGE_PATTERN} -j DROP`,
    `-i ${MESH_DEVICE} -j DROP`,
  ]);
  const ours = hex(MARK_NODE_MASK | MARK_PERMIT);
  mangle.set(`${own}POST`, [
    ...(isIpvs ? [`-m mark --mark ${masked(IPVS_MARK)} -j MARK --set-xmark 0x0/0xffffffff`] : []),
    // VXLAN routes its outer packet by the same mark: it must end here, or packets go in circles.
    `-m mark ! --mark 0x0/${ours} -j MARK --set-xmark 0x0/${ours}`,
  ]);

  // --- service addresses and published ports
  const addressTree = (
    chains: Map<string, string[]>,
    ruleOf: (virtualIp: FilterPlan["virtualIps"][number]) => string,
  ) =>
    growTree(
      chains,
      `${own}VIP`,
      byTarget,
      live.map((virtualIp) => addressEntry(virtualIp.address, [ruleOf(virtualIp)])).sort(byValue),
    );
  const portTree = (
    chains: Map<string, string[]>,
    ruleOf: (port: FilterPlan["ports"][number]) => string,
  ) =>
    ["tcp", "udp", "sctp"].flatMap((protocol) => {
      const entries = livePorts
        .filter((port) => port.protocol === protocol)
        .map((port) => ({ value: port.publishedPort, rules: [ruleOf(port)] }))
        .sort(byValue);
      if (entries.length === 0) return [];
      const chain = `${own}PORT-${protocol}`;
      chains.set(chain, growTree(chains, chain, byPort(protocol), entries));
      return [`-p ${protocol} -j ${chain}`];
    });
  const portMatch = (port: FilterPlan["ports"][number]) =>
    `-p ${port.protocol} -m ${port.protocol} --dport ${port.publishedPort}`;
  const portChain = (port: FilterPlan["ports"][number]) =>
    `${own}P-${port.protocol}-${port.publishedPort}`;
  for (const port of livePorts) {
    nat.set(portChain(port), [
      `-j CONNMARK --set-xmark ${masked(MARK_PUBLISHED)}`,
      ...translate(`-p ${port.protocol} `, port.targets, `:${port.targetPort}`, plan.balance),
    ]);
  }
  nat.set(
    `${own}PORTS`,
    portTree(nat, (port) => `${portMatch(port)} -g ${portChain(port)}`),
  );
  // What is for an address of the overlays is never a published port: the only local ones are
  // gateways, where our DNS answers.
  const notPools = pools.map((block) => `-d ${block} -j RETURN`);
  if (isIpvs) {
    const mark = (value: number) => `-j MARK --set-xmark ${hex(value)}/0xffffffff`;
    mangle.set(
      `${own}VIPS`,
      addressTree(mangle, ({ address }) => `-d ${address}/32 ${mark(ipvsAddressMark(address))}`),
    );
    mangle.set(
      `${own}PORTS`,
      portTree(mangle, (port) => `${portMatch(port)} ${mark(ipvsPortMark(port))}`),
    );
    const choose = [
      ...notPools,
      `-m addrtype --dst-type LOCAL -j ${own}PORTS`,
      `-m mark --mark ${masked(IPVS_MARK | IPVS_MARK_PORT)} -j CONNMARK --set-xmark ${masked(MARK_PUBLISHED)}`,
    ];
    // What IPVS sends on is not forwarded, so that isolation is decided here.
    mangle.set(`${own}IPVS`, [
      ...perBridge(mangle, `${own}FROM`, "-i", ({ bridge, subnet }) => [
        `-i ${bridge} -d ${subnet} -j ${own}VIPS`,
      ]),
      ...choose,
    ]);
    mangle.set(`${own}HOST`, [`-j ${own}VIPS`, ...choose]);
    mangle.set(`${own}OUT`, ["-d 127.0.0.0/8 -j RETURN", `${NEW} -j ${own}HOST`]);
    nat.set(`${own}OUT`, [`-d 127.0.0.0/8 -j ${own}PORTS`]);
  } else {
    for (const { address, targets } of live) {
      nat.set(addressChain(own, address), translate("", targets, "", plan.balance));
    }
    nat.set(
      `${own}VIPS`,
      addressTree(nat, ({ address }) => `-d ${address}/32 -g ${addressChain(own, address)}`),
    );
    const choose = [...notPools, `-m addrtype --dst-type LOCAL -j ${own}PORTS`];
    nat.set(`${own}PRE`, [
      // From the mesh comes only what another node has translated already.
      `-i ${MESH_DEVICE} -j RETURN`,
      `-i ${BRIDGE_PATTERN} -j ${own}VIPS`,
      ...choose,
    ]);
    nat.set(`${own}OUT`, [`-j ${own}VIPS`, ...choose]);
  }

  // --- sources
  nat.set(`${own}SELF`, [
    ...pools.map((block) => `-s ${block} -j MASQUERADE`),
    "-s 127.0.0.0/8 -j MASQUERADE",
    ...growTree(
      nat,
      `${own}LOOP`,
      byTarget,
      addressEntries(
        plan.selfLoops.map((loop) =>
          addressEntry(loop.task, [`-s ${loop.node}/32 -d ${loop.task}/32 -j MASQUERADE`]),
        ),
      ),
    ),
  ]);
  nat.set(
    `${own}HAIRPIN`,
    growTree(
      nat,
      `${own}HP`,
      byTarget,
      addressEntries(
        plan.localAddresses.map((address) =>
          addressEntry(address, [`-s ${address}/32 -d ${address}/32 -j MASQUERADE`]),
        ),
      ),
    ),
  );
  nat.set(`${own}POST`, [
    `-o ${BRIDGE_PATTERN} -j ${own}HAIRPIN`,
    `-m connmark --mark ${masked(MARK_PUBLISHED)} -j ${own}SELF`,
    // Without br_netfilter the answer of a task on the same node would bypass conntrack.
    ...(plan.hasBrNetfilter
      ? []
      : networks.map(
          ({ bridge, subnet }) =>
            `-s ${subnet} -d ${subnet} -o ${bridge} -m conntrack --ctstate ${isIpvs ? "NEW" : "DNAT"} -j MASQUERADE`,
        )),
    ...pools.map((block) => `-s ${block} ! -o ${BRIDGE_PATTERN} -j MASQUERADE`),
  ]);

  // --- service addresses without a ready task
  const dead = plan.virtualIps.filter((virtualIp) => virtualIp.targets.length === 0);
  filter.set(
    `${own}REFUSE`,
    growTree(
      filter,
      `${own}DEAD`,
      byTarget,
      dead
        .map(({ address }) =>
          addressEntry(address, [
            `-d ${address}/32 -p tcp -j REJECT --reject-with tcp-reset`,
            `-d ${address}/32 -j REJECT --reject-with icmp-port-unreachable`,
          ]),
        )
        .sort(byValue),
    ),
  );
  return { chains: { raw, mangle, nat, filter }, hooks: iptablesHooks(features.balancer) };
}

/** The jumps to our chains: the same for every plan. */
export function iptablesHooks(balancer: IptablesFeatures["balancer"]): IptablesHook[] {
  const isIpvs = balancer === "ipvs";
  const own = chainPrefix(balancer);
  const refuse = `${NEW} -j ${own}REFUSE`;
  const hook = (table: IptablesTable, chain: string, rule: string) => ({ table, chain, rule });
  return [
    hook("raw", "PREROUTING", `-j ${own}PRE`),
    hook("raw", "OUTPUT", `-j ${own}OUT`),
    hook("mangle", "PREROUTING", `-j ${own}PRE`),
    hook("mangle", "FORWARD", `-j ${own}FORWARD`),
    hook("mangle", "POSTROUTING", `-j ${own}POST`),
    ...(isIpvs ? [hook("mangle", "OUTPUT", `-j ${own}OUT`)] : []),
    ...(isIpvs ? [] : [hook("nat", "PREROUTING", `-j ${own}PRE`)]),
    hook("nat", "OUTPUT", `-j ${own}OUT`),
    hook("nat", "POSTROUTING", `-j ${own}POST`),
    hook("filter", "DOCKER-USER", refuse),
    hook("filter", "OUTPUT", refuse),
    ...(isIpvs ? [hook("filter", "INPUT", refuse)] : []),
  ];
}

/** Only the chains that spread one address or port, by which nothing else differs between plans. */
export function leafChains(rules: IptablesRules, own: string): IptablesRules {
  const nat = [...rules.chains.nat].filter(
    ([name]) => name.startsWith(`${own}V-`) || name.startsWith(`${own}P-`),
  );
  const none = () => new Map<string, string[]>();
  return {
    chains: { raw: none(), mangle: none(), nat: new Map(nat), filter: none() },
    hooks: rules.hooks,
  };
}

/** Our chains that are in the kernel, by table; their rules are not known. */
export type IptablesLeftovers = Record<IptablesTable, ReadonlySet<string>>;

/**
 * Input of `iptables-restore --noflush` that turns `before` into `after`, touching only the chains
 * that differ; empty when none does. Each table is one transaction. Without `before` every chain is
 * written anew, and what `leftovers` has beside them is removed.
 */
export function iptablesChangeText(
  before: IptablesRules | IptablesLeftovers,
  after: IptablesRules,
): string {
  const lines: string[] = [];
  for (const table of IPTABLES_TABLES) {
    const wanted = after.chains[table];
    const old = "hooks" in before ? before.chains[table] : undefined;
    const names = "hooks" in before ? [...before.chains[table].keys()] : [...before[table]];
    const changed = [...wanted].filter(([name, rules]) => !isSameText(old?.get(name), rules));
    const gone = names.filter((name) => !wanted.has(name));
    if (changed.length + gone.length === 0) continue;
    lines.push(`*${table}`);
    for (const [name] of changed) lines.push(`:${name} - [0:0]`);
    for (const [name, rules] of changed) {
      for (const rule of rules) lines.push(`-A ${name} ${rule}`);
    }
    for (const name of gone) lines.push(`-F ${name}`);
    for (const name of gone) lines.push(`-X ${name}`);
    lines.push("COMMIT");
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

function isSameText(a: string[] | undefined, b: string[]): boolean {
  return a !== undefined && a.length === b.length && a.every((rule, place) => rule === b[place]);
}

/** Lines of `iptables-save` that are ours: chains (without counters) and rules, jumps to them too. */
export function ownIptablesLines(output: string, prefix: string): string[] {
  const lines: string[] = [];
  let table = "";
  for (const line of output.split("\n")) {
    if (line.startsWith("*")) table = line.slice(1);
    else if (line.startsWith(`:${prefix}`)) lines.push(`${table} ${line.split(" ")[0]}`);
    else if (line.startsWith(`-A ${prefix}`)) lines.push(`${table} ${line}`);
  }
  return lines;
}

/** Names of our chains in what `iptables-save` prints. */
export function parseLeftovers(output: string, prefix: string): IptablesLeftovers {
  const found = {
    raw: new Set<string>(),
    mangle: new Set<string>(),
    nat: new Set<string>(),
    filter: new Set<string>(),
  };
  for (const line of ownIptablesLines(output, prefix)) {
    const [table, name] = line.split(" :");
    const isTable = (text: string | undefined): text is IptablesTable =>
      IPTABLES_TABLES.some((known) => known === text);
    if (isTable(table) && name !== undefined) found[table].add(name);
  }
  return found;
}

const USER_CHAIN = "DOCKER-USER";

/**
 * Input of `iptables-restore --noflush` that makes each hook the first rule of its chain, once; empty
 * when all are. `saved` is what iptables-save prints. A new rule comes before the old one goes.
 */
export function hookChangeText(hooks: readonly IptablesHook[], saved: string): string {
  const lines: string[] = [];
  for (const { table, chain, rule } of hooks) {
    const listed = tableOf(saved, table);
    const prefix = `-A ${chain} `;
    const places = listed
      .filter((line) => line.startsWith(prefix))
      .flatMap((line, place) => (line.slice(prefix.length).trim() === rule ? [place] : []));
    if (places.length === 1 && places[0] === 0) continue;
    lines.push(`*${table}`);
    // The engine's chain, which may not be there yet; firewall.ts makes the jump to it.
    const isMissing = !listed.some((line) => line.startsWith(`:${chain} `));
    if (chain === USER_CHAIN && isMissing) lines.push(`:${chain} - [0:0]`);
    lines.push(`-I ${chain} 1 ${rule}`);
    // From the end, so that the numbers hold; the new first rule moves all by one.
    for (const place of places.reverse()) lines.push(`-D ${chain} ${place + 2}`);
    lines.push("COMMIT");
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

/** How many hooks a text of `hookChangeText` mends. */
export function countHooks(text: string): number {
  return text.split("\n").filter((line) => line.startsWith("-I ")).length;
}

/** Input of `iptables-restore --noflush` that removes every jump to our chains from chains of others. */
export function hookRemovalText(saved: string, own: string): string {
  const lines: string[] = [];
  for (const table of IPTABLES_TABLES) {
    const jumps = tableOf(saved, table).filter(
      (line) =>
        line.startsWith("-A ") && !line.startsWith(`-A ${own}`) && line.includes(` -j ${own}`),
    );
    if (jumps.length === 0) continue;
    lines.push(`*${table}`, ...jumps.map((line) => line.replace("-A ", "-D ").trim()), "COMMIT");
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

/** The lines of one table in what iptables-save prints. */
function tableOf(saved: string, table: string): string[] {
  const lines = saved.split("\n");
  const start = lines.indexOf(`*${table}`);
  if (start < 0) return [];
  return lines.slice(start + 1, lines.indexOf("COMMIT", start));
}
