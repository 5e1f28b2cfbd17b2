/**
 * Filter plan → iptables chains. Pure. The same rules as the nft table (`render.ts` says why each is
 * there), in own chains named `SH-…`, reached by one jump per built-in chain.
 *
 * What nft looks up in sets and maps is a tree of chains here: at most 16 rules per chain, four
 * levels for an address. So a packet passes tens of rules and not thousands, and a change of one
 * service changes one or two small chains. No ipset is needed.
 *
 * Both families have the same chains, of `iptables` and `ip6tables`, but for the families' words
 * (`family.ts`).
 *
 * With `balancer: "ipvs"` the chains do not translate but mark new connections for IPVS
 * (`ipvs-services.ts`); only connections to 127.0.0.0/8, which IPVS refuses to send off the host,
 * are translated as by the plain back-end.
 *
 * The rule of a tree that leads to a service counts its new connections: it stays as it is while the
 * tasks behind it change.
 */
import { createHash } from "node:crypto";
import { portFace } from "./connections.ts";
import {
  addressDigits,
  formatDigits,
  LINK_LOCAL_SOURCES,
  LINK_LOCAL_TARGETS,
  mergeBlocks,
  wordsOf,
} from "./family.ts";
import {
  ENCRYPTED_DEVICE,
  IPVS_MARK,
  IPVS_MARK_PORT,
  ipvsAddressMark,
  ipvsPortMark,
  MARK_NODE_MASK,
  MARK_PERMIT,
  MARK_PUBLISHED,
  MARK_SNAT,
  MESH_DEVICE,
  MESH_DEVICE_PREFIX,
  nodeMark,
} from "./names.ts";
import { type Family, type FilterPlan, macsOf } from "./plan.ts";
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
  /** A match by the hash of the client's address (xt_cluster); else the address's last bits decide. */
  hasCluster: boolean;
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

/** `digits`: hex, of one length within a tree. */
type TreeEntry = { digits: string; rules: string[] };
type TreeKind = {
  /** Numbers of digits by which a level tells its entries apart. */
  levels: readonly number[];
  /** Levels at which a chain's entries are all alike are left out. */
  isAdaptive: boolean;
  /** What a chain of the tree is named after. */
  name(prefix: string): string;
  match(prefix: string): string;
};

/** Names of chains hold 28 characters: of IPv6 they have a digest of the address. */
const NAME_DIGITS = 12;

function addressName(family: Family, digits: string): string {
  if (family === "ipv4") return digits.replace(/^0+(?=.)/, "");
  return createHash("sha256").update(digits).digest("hex").slice(0, NAME_DIGITS);
}

function addressKind(family: Family, flag: "-d" | "-s"): TreeKind {
  const count = wordsOf(family).bits / 4;
  return {
    isAdaptive: family === "ipv6",
    levels:
      family === "ipv4" ? [4, 5, 6, 7] : Array.from({ length: count - 1 }, (_, place) => place + 1),
    name: (prefix) => `${addressName(family, prefix.padEnd(count, "0"))}.${prefix.length * 4}`,
    match: (prefix) => `${flag} ${formatDigits(family, prefix)}/${prefix.length * 4}`,
  };
}

const portKind = (protocol: string): TreeKind => ({
  levels: [1, 2, 3],
  isAdaptive: false,
  name: (prefix) => `${firstPort(prefix).toString(16)}.${prefix.length * 4}`,
  match: (prefix) =>
    `-p ${protocol} -m ${protocol} --dport ${firstPort(prefix)}:${firstPort(prefix) + 16 ** (4 - prefix.length) - 1}`,
});

function firstPort(prefix: string): number {
  return Number.parseInt(prefix.padEnd(4, "0"), 16);
}

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
  const groups = new Map<string, TreeEntry[]>();
  for (const entry of entries) {
    const prefix = entry.digits.slice(0, length);
    const group = groups.get(prefix);
    if (group) group.push(entry);
    else groups.set(prefix, [entry]);
  }
  if (groups.size === 1 && kind.isAdaptive) return growTree(chains, root, kind, entries, level + 1);
  return [...groups].map(([prefix, group]) => {
    const chain = `${root}.${kind.name(prefix)}`;
    chains.set(chain, growTree(chains, root, kind, group, level + 1));
    return `${kind.match(prefix)} -j ${chain}`;
  });
}

function byDigits(a: TreeEntry, b: TreeEntry): number {
  return a.digits < b.digits ? -1 : a.digits > b.digits ? 1 : 0;
}

/** Entries of one address together, in the order of addresses. */
function addressEntries(
  family: Family,
  entries: readonly { address: string; rules: string[] }[],
): TreeEntry[] {
  const joined = new Map<string, string[]>();
  for (const { address, rules } of entries) {
    const digits = addressDigits(family, address);
    const known = joined.get(digits);
    if (known) known.push(...rules);
    else joined.set(digits, [...rules]);
  }
  return [...joined].map(([digits, rules]) => ({ digits, rules })).sort(byDigits);
}

/** Name of the chain that spreads a service address. */
function addressChain(own: string, family: Family, address: string): string {
  return `${own}V-${addressName(family, addressDigits(family, address))}`;
}

/** Name of the chain that spreads a published port. */
function portChain(own: string, port: FilterPlan["ports"][number]): string {
  return `${own}P-${port.protocol}-${port.publishedPort}`;
}

/** The same on all nodes: a client keeps its task whichever node it asks. */
const AFFINITY_SEED = "0x73686f61";
const AFFINITY_SEED_WITHIN = "0x6c6d6573";
/** What one match of the kernel's can tell apart. Source: linux/netfilter/xt_cluster.h. */
const CLUSTER_MAX = 32;
/** Without that match: values of an address's last bits, at least so many for each target. */
const LOW_VALUES_PER_TARGET = 4;
const LOW_BITS_MAX = 10;

/**
 * For each target the matches (one rule each) that give it its share of the client addresses, the
 * same share to the same target at every packet. Together they match every address; the last rule
 * of all is to have no match, in case the kernel knows no connection.
 */
function affinityMatches(family: Family, count: number, hasCluster: boolean): string[][] {
  const places = Array.from({ length: count }, (_, place) => place);
  const one = (total: number, place: number, seed: string) =>
    `-m cluster --cluster-total-nodes ${total} --cluster-local-nodemask ${hex(1 << place)} --cluster-hash-seed ${seed} `;
  if (hasCluster && count <= CLUSTER_MAX) {
    return places.map((place) => [one(count, place, AFFINITY_SEED)]);
  }
  if (hasCluster && count <= CLUSTER_MAX ** 2) {
    // Groups of equal size but for the last ones, then one of the group.
    const groups = Math.ceil(count / CLUSTER_MAX);
    const sizeOf = (group: number) => Math.floor((count + groups - 1 - group) / groups);
    return places.map((place) => {
      const group = place % groups;
      const within = Math.floor(place / groups);
      return [one(groups, group, AFFINITY_SEED) + one(sizeOf(group), within, AFFINITY_SEED_WITHIN)];
    });
  }
  const bits = Math.min(LOW_BITS_MAX, Math.ceil(Math.log2(count * LOW_VALUES_PER_TARGET)));
  const mask = (2 ** bits - 1).toString(16);
  const text = (value: string) =>
    formatDigits(family, value.padStart(wordsOf(family).bits / 4, "0"));
  return places.map((place) => {
    const matches: string[] = [];
    for (let value = place; value < 2 ** bits; value += count) {
      matches.push(`-s ${text(value.toString(16))}/${text(mask)} `);
    }
    return matches;
  });
}

/**
 * One rule per target; each takes its share of what the rules before it left.
 * Source of the shares' text: what iptables-save prints (a probability is kept in 31 bits).
 */
function translate(
  plan: FilterPlan,
  features: IptablesFeatures,
  entry: { targets: string[]; hasAffinity: boolean; protocol?: string; targetPort?: number },
): string[] {
  const { targets, targetPort } = entry;
  const match = entry.protocol === undefined ? "" : `-p ${entry.protocol} `;
  const destination = (address: string) => {
    if (targetPort === undefined) return address;
    return plan.family === "ipv6" ? `[${address}]:${targetPort}` : `${address}:${targetPort}`;
  };
  const rule = (share: string, target: string) =>
    `${match}${share}-j DNAT --to-destination ${destination(target)}`;
  if (entry.hasAffinity && targets.length > 1) {
    const shares = affinityMatches(plan.family, targets.length, features.hasCluster);
    return targets.flatMap((target, place) =>
      place === targets.length - 1
        ? [rule("", target)]
        : (shares[place] ?? []).map((share) => rule(share, target)),
    );
  }
  return targets.map((target, place) => {
    const left = targets.length - place;
    const share =
      left === 1
        ? ""
        : plan.balance === "increment"
          ? `-m statistic --mode nth --every ${left} --packet 0 `
          : `-m statistic --mode random --probability ${(Math.round(2 ** 31 / left) / 2 ** 31).toFixed(11)} `;
    return rule(share, target);
  });
}

/**
 * All chains of a plan. Equal plans give equal chains; an endpoint's change touches few of them.
 * `markOf`: the mark by which IPVS knows a service address; one without is not balanced.
 */
export function renderIptables(
  plan: FilterPlan,
  features: IptablesFeatures,
  markOf: (virtualIp: FilterPlan["virtualIps"][number]) => number | undefined = ({ address }) =>
    ipvsAddressMark(address),
): IptablesRules {
  const { networks, peers, family } = plan;
  const words = wordsOf(family);
  const isIpv4 = family === "ipv4";
  const host = `/${words.bits}`;
  const byTarget = addressKind(family, "-d");
  const isIpvs = features.balancer === "ipvs";
  const own = chainPrefix(features.balancer);
  const permit = `${own}PERMIT`;
  const raw = new Map<string, string[]>();
  const mangle = new Map<string, string[]>();
  const nat = new Map<string, string[]>();
  const filter = new Map<string, string[]>();
  const pools = mergeBlocks(family, plan.subnets);
  const meshBlocks = mergeBlocks(family, plan.meshAddresses);
  const node = hex(MARK_NODE_MASK);
  const secure = plan.encryptedPort;
  /** Both mesh devices, where there are two. */
  const mesh = secure === undefined ? MESH_DEVICE : `${MESH_DEVICE_PREFIX}+`;
  const tunnelPorts = secure === undefined ? [plan.dataPathPort] : [plan.dataPathPort, secure];
  /** The kernel's policies say so as well; these hold if somebody flushes them. */
  const clearDropped = (way: "in" | "out", match = "") =>
    secure === undefined
      ? []
      : [`-p udp -m udp --dport ${secure}${match} -m policy --dir ${way} --pol none -j DROP`];
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
  // The tunnel itself is IPv4.
  if (isIpv4) {
    raw.set(`${own}VXLAN`, [
      ...growTree(
        raw,
        `${own}VX`,
        addressKind(family, "-s"),
        addressEntries(
          family,
          peers.map(({ address }) => ({
            address,
            rules: [`-s ${address}/32 -g ${own}VX-OK`],
          })),
        ),
      ),
      "-j DROP",
    ]);
    raw.set(`${own}VX-OK`, ["-j CT --notrack", "-j ACCEPT"]);
    raw.set(`${own}OUT`, [
      ...clearDropped("out"),
      ...tunnelPorts.map((port) => `-p udp -m udp --dport ${port} -j CT --notrack`),
    ]);
  }
  raw.set(`${own}ZONE`, [
    ...pools.map((block) => `-s ${block} -j RETURN`),
    ...(features.hasZones
      ? peers.flatMap((peer) =>
          macsOf(peer).map((mac) => `-m mac --mac-source ${mac} -j CT --zone-orig ${peer.index}`),
        )
      : []),
  ]);
  const [unsourced, ...unsourcedToo] = words.unsourced;
  raw.set(`${own}PRE`, [
    ...(isIpv4
      ? [
          ...clearDropped("in", " -m addrtype --dst-type LOCAL"),
          ...tunnelPorts.map(
            (port) => `-p udp -m udp --dport ${port} -m addrtype --dst-type LOCAL -j ${own}VXLAN`,
          ),
        ]
      : []),
    // What is not of the overlays leaves here: the host's own packets pass few rules.
    `! -i ${BRIDGE_PATTERN} -j RETURN`,
    `-d ${words.loopback} -j DROP`,
    `-i ${mesh} -g ${own}ZONE`,
    ...perBridge(raw, `${own}FROM`, "-i", ({ bridge, subnet }) => [
      `-i ${bridge} -s ${subnet} -j RETURN`,
      ...unsourcedToo.map((block) => `-i ${bridge} -s ${block} -j RETURN`),
      `-i ${bridge} ! -s ${unsourced} -j DROP`,
    ]),
  ]);

  // --- mangle
  mangle.set(`${own}NODE`, [
    ...pools.map((block) => `-s ${block} -j RETURN`),
    ...peers.flatMap((peer) =>
      macsOf(peer).map(
        (mac) =>
          `-m mac --mac-source ${mac} -j CONNMARK --set-xmark ${hex(nodeMark(peer.index))}/${node}`,
      ),
    ),
  ]);
  mangle.set(`${own}MESH`, [
    `-m conntrack --ctdir ORIGINAL -m connmark --mark 0x0/${node} -j ${own}NODE`,
  ]);
  mangle.set(`${own}PRE`, [
    `-i ${mesh} -g ${own}MESH`,
    `-i ${BRIDGE_PATTERN} -m conntrack --ctdir REPLY -m connmark ! --mark 0x0/${node} -j CONNMARK --restore-mark --nfmask ${node} --ctmask ${node}`,
    ...(isIpvs ? [`${NEW} -j ${own}IPVS`] : []),
  ]);
  mangle.set(permit, [`-j MARK --set-xmark ${masked(MARK_PERMIT)}`, "-j ACCEPT"]);
  const inbound = growTree(
    mangle,
    `${own}IN`,
    byTarget,
    addressEntries(
      family,
      plan.publishedTasks.map(({ address, protocol, port }) => ({
        address,
        rules: [`-d ${address}${host} -p ${protocol} -m ${protocol} --dport ${port} -g ${permit}`],
      })),
    ),
  );
  mangle.set(`${own}INBOUND`, [
    ...inbound,
    ...meshBlocks.map((block) => `-s ${block} -g ${permit}`),
  ]);
  const open = ({ isOpen }: FilterPlan["networks"][number], rule: string) => (isOpen ? [rule] : []);
  mangle.set(`${own}FORWARD`, [
    `! -i ${BRIDGE_PATTERN} ! -o ${BRIDGE_PATTERN} -j RETURN`,
    // Nothing of an encrypted network in clear, and nothing in clear is taken for it.
    ...networks
      .filter((network) => network.isEncrypted)
      .flatMap(({ bridge }) => [
        `-i ${MESH_DEVICE} -o ${bridge} -j DROP`,
        `-i ${bridge} -o ${MESH_DEVICE} -j DROP`,
      ]),
    `-o ${mesh} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
    `-m conntrack --ctstate RELATED,ESTABLISHED -g ${permit}`,
    `-m connmark --mark ${masked(MARK_PUBLISHED)} -g ${permit}`,
    // Neighbour discovery on a bridge; no router forwards these.
    ...(isIpv4
      ? []
      : [
          ...LINK_LOCAL_TARGETS.map((block) => `-i ${BRIDGE_PATTERN} -d ${block} -g ${permit}`),
          `-i ${BRIDGE_PATTERN} -s ${LINK_LOCAL_SOURCES} -g ${permit}`,
        ]),
    ...perBridge(mangle, `${own}SAME-I`, "-i", (network) =>
      open(network, `-i ${network.bridge} -s ${network.subnet} -d ${network.subnet} -g ${permit}`),
    ),
    ...perBridge(mangle, `${own}SAME-O`, "-o", (network) =>
      open(network, `-o ${network.bridge} -s ${network.subnet} -d ${network.subnet} -g ${permit}`),
    ),
    `-i ${mesh} -o ${BRIDGE_PATTERN} -j ${own}INBOUND`,
    // Isolation; everything else (egress, host-mode ports) is for Docker's own rules.
    `-i ${BRIDGE_PATTERN} -o ${BRIDGE_PATTERN} -j DROP`,
    `-i ${mesh} -j DROP`,
    // In IPv6 most engines filter nothing: whoever is not on the network reaches what is translated.
    ...(isIpv4 ? [] : [`-o ${BRIDGE_PATTERN} -m conntrack ! --ctstate DNAT -j DROP`]),
  ]);
  const ours = hex(MARK_NODE_MASK | MARK_PERMIT);
  const secretSubnets = plan.encryptedSubnets ?? [];
  if (secretSubnets.length > 0) {
    // Whatever route there is or lacks: not to the outside, and not by the other device.
    const bridges = networks.filter((network) => network.isEncrypted).map(({ bridge }) => bridge);
    mangle.set(`${own}SECRET`, [
      ...["lo", ENCRYPTED_DEVICE, ...bridges].map((device) => `-o ${device} -j RETURN`),
      "-j DROP",
    ]);
  }
  mangle.set(`${own}POST`, [
    ...secretSubnets.map((subnet) => `-d ${subnet} -j ${own}SECRET`),
    ...(isIpvs ? [`-m mark --mark ${masked(IPVS_MARK)} -j MARK --set-xmark 0x0/0xffffffff`] : []),
    // VXLAN routes its outer packet by the same mark: it must end here, or packets go in circles.
    `-m mark ! --mark 0x0/${ours} -j MARK --set-xmark 0x0/${ours}`,
  ]);

  // --- service addresses and published ports
  const addressTree = (
    chains: Map<string, string[]>,
    ruleOf: (virtualIp: FilterPlan["virtualIps"][number]) => string[],
  ) =>
    growTree(
      chains,
      `${own}VIP`,
      byTarget,
      addressEntries(
        family,
        live.map((virtualIp) => ({ address: virtualIp.address, rules: ruleOf(virtualIp) })),
      ),
    );
  const portTree = (
    chains: Map<string, string[]>,
    ruleOf: (port: FilterPlan["ports"][number]) => string[],
  ) =>
    ["tcp", "udp", "sctp"].flatMap((protocol) => {
      const entries = livePorts
        .filter((port) => port.protocol === protocol)
        .map((port) => ({
          digits: port.publishedPort.toString(16).padStart(4, "0"),
          rules: ruleOf(port),
        }))
        .sort(byDigits);
      if (entries.length === 0) return [];
      const chain = `${own}PORT-${protocol}`;
      chains.set(chain, growTree(chains, chain, portKind(protocol), entries));
      return [`-p ${protocol} -j ${chain}`];
    });
  /** What the connection mark remembers of a published port's connection. */
  const publishedMark = ({ isSnat }: FilterPlan["ports"][number]) =>
    masked(MARK_PUBLISHED | (isSnat ? MARK_SNAT : 0));
  const portMatch = (port: FilterPlan["ports"][number]) =>
    `-p ${port.protocol} -m ${port.protocol} --dport ${port.publishedPort}`;
  for (const port of livePorts) {
    nat.set(portChain(own, port), [
      `-j CONNMARK --set-xmark ${publishedMark(port)}`,
      ...translate(plan, features, port),
    ]);
  }
  nat.set(
    `${own}PORTS`,
    portTree(nat, (port) => [`${portMatch(port)} -g ${portChain(own, port)}`]),
  );
  // What is for an address of the overlays is never a published port: the only local ones are
  // gateways, where our DNS answers.
  const notPools = pools.map((block) => `-d ${block} -j RETURN`);
  if (isIpvs) {
    const mark = (value: number) => `-j MARK --set-xmark ${hex(value)}/0xffffffff`;
    mangle.set(
      `${own}VIPS`,
      addressTree(mangle, (virtualIp) => {
        const value = markOf(virtualIp);
        return value === undefined ? [] : [`-d ${virtualIp.address}${host} ${mark(value)}`];
      }),
    );
    mangle.set(
      `${own}PORTS`,
      portTree(mangle, (port) => [
        ...(port.isSnat ? [`${portMatch(port)} -j CONNMARK --set-xmark ${masked(MARK_SNAT)}`] : []),
        `${portMatch(port)} ${mark(ipvsPortMark(port))}`,
      ]),
    );
    const choose = [
      ...notPools,
      `-m addrtype --dst-type LOCAL -j ${own}PORTS`,
      `-m mark --mark ${masked(IPVS_MARK | IPVS_MARK_PORT)} -j CONNMARK --set-xmark ${masked(MARK_PUBLISHED)}`,
    ];
    // What IPVS sends on is not forwarded, so that isolation is decided here.
    mangle.set(`${own}IPVS`, [
      // What the host asks itself comes by here, too; it is not for others (family.ts: loopback).
      ...(isIpv4 ? [] : [`-d ${words.loopback} -j RETURN`]),
      ...perBridge(mangle, `${own}FROM`, "-i", ({ bridge, subnet }) => [
        `-i ${bridge} -d ${subnet} -j ${own}VIPS`,
      ]),
      ...choose,
    ]);
    mangle.set(`${own}HOST`, [`-j ${own}VIPS`, ...choose]);
    mangle.set(`${own}OUT`, [`-d ${words.loopback} -j RETURN`, `${NEW} -j ${own}HOST`]);
    // As below: nothing for ::1.
    nat.set(`${own}OUT`, isIpv4 ? [`-d ${words.loopback} -j ${own}PORTS`] : []);
  } else {
    for (const { address, targets, hasAffinity } of live) {
      const chain = addressChain(own, family, address);
      nat.set(chain, translate(plan, features, { targets, hasAffinity }));
    }
    nat.set(
      `${own}VIPS`,
      addressTree(nat, ({ address }) => [
        `-d ${address}${host} -g ${addressChain(own, family, address)}`,
      ]),
    );
    const choose = [...notPools, `-m addrtype --dst-type LOCAL -j ${own}PORTS`];
    nat.set(`${own}PRE`, [
      // From the mesh comes only what another node has translated already.
      `-i ${mesh} -j RETURN`,
      `-i ${BRIDGE_PATTERN} -j ${own}VIPS`,
      ...choose,
    ]);
    // Answers to ::1 would be answers from outside, which the kernel drops: refused at once instead.
    const notLoopback = isIpv4 ? [] : [`-d ${words.loopback} -j RETURN`];
    nat.set(`${own}OUT`, [...notLoopback, `-j ${own}VIPS`, ...choose]);
  }

  // --- sources
  nat.set(`${own}SELF`, [
    `-m connmark --mark ${masked(MARK_SNAT)} -j MASQUERADE`,
    ...pools.map((block) => `-s ${block} -j MASQUERADE`),
    `-s ${words.loopback} -j MASQUERADE`,
    ...growTree(
      nat,
      `${own}LOOP`,
      byTarget,
      addressEntries(
        family,
        plan.selfLoops.map(({ node: from, task }) => ({
          address: task,
          rules: [`-s ${from}${host} -d ${task}${host} -j MASQUERADE`],
        })),
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
        family,
        plan.localAddresses.map((address) => ({
          address,
          rules: [`-s ${address}${host} -d ${address}${host} -j MASQUERADE`],
        })),
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
    // What stays on the host keeps its source.
    "-o lo -j RETURN",
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
      addressEntries(
        family,
        dead.map(({ address }) => ({
          address,
          rules: [
            `-d ${address}${host} -p tcp -j REJECT --reject-with tcp-reset`,
            `-d ${address}${host} -j REJECT --reject-with ${words.iptables.reject}`,
          ],
        })),
      ),
    ),
  );
  return { chains: { raw, mangle, nat, filter }, hooks: iptablesHooks(features.balancer, family) };
}

const USER_CHAIN = "DOCKER-USER";

/** The jumps to our chains: the same for every plan. */
export function iptablesHooks(
  balancer: IptablesFeatures["balancer"],
  family: Family,
): IptablesHook[] {
  const isIpvs = balancer === "ipvs";
  const own = chainPrefix(balancer);
  const refuse = `${NEW} -j ${own}REFUSE`;
  const hook = (table: IptablesTable, chain: string, rule: string) => ({ table, chain, rule });
  return [
    hook("raw", "PREROUTING", `-j ${own}PRE`),
    ...(family === "ipv4" ? [hook("raw", "OUTPUT", `-j ${own}OUT`)] : []),
    hook("mangle", "PREROUTING", `-j ${own}PRE`),
    hook("mangle", "FORWARD", `-j ${own}FORWARD`),
    hook("mangle", "POSTROUTING", `-j ${own}POST`),
    ...(isIpvs ? [hook("mangle", "OUTPUT", `-j ${own}OUT`)] : []),
    ...(isIpvs ? [] : [hook("nat", "PREROUTING", `-j ${own}PRE`)]),
    hook("nat", "OUTPUT", `-j ${own}OUT`),
    hook("nat", "POSTROUTING", `-j ${own}POST`),
    hook("filter", USER_CHAIN, refuse),
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

/** The chains of nat from which trees lead to the chains that spread one address or port. */
export function countingTrees(own: string): { roots: string[]; isLeaf(chain: string): boolean } {
  return {
    roots: [`${own}VIPS`, `${own}PORTS`],
    isLeaf: (chain) => chain.startsWith(`${own}V-`) || chain.startsWith(`${own}P-`),
  };
}

/**
 * New connections by the chain to which they went, out of what `iptables-save -c` prints of the table
 * nat: the chains that spread one address or port, counted where a tree leads to them.
 */
export function connectionCounts(saved: string, own: string): Map<string, number> {
  const counts = new Map<string, number>();
  // For example: [12:720] -A SH-VIP.a650000.16 -d 10.101.0.2/32 -g SH-V-a650002
  const leaf = new RegExp(`^\\[(\\d+):\\d+\\] -A ${own}\\S+ .*-g (${own}[VP]-\\S+)$`);
  for (const line of saved.split("\n")) {
    const [, packets, chain] = leaf.exec(line) ?? [];
    if (chain !== undefined) counts.set(chain, (counts.get(chain) ?? 0) + Number(packets));
  }
  return counts;
}

/** Counts by chain as counts by the plan's addresses and ports. */
export function facesOfChains(
  plan: FilterPlan,
  counts: ReadonlyMap<string, number>,
): { byAddress: Map<string, number>; byPort: Map<string, number> } {
  const own = chainPrefix("nat");
  const byAddress = plan.virtualIps.map(
    ({ address }) => [address, counts.get(addressChain(own, plan.family, address)) ?? 0] as const,
  );
  const byPort = plan.ports.map(
    (port) => [portFace(port), counts.get(portChain(own, port)) ?? 0] as const,
  );
  return { byAddress: new Map(byAddress), byPort: new Map(byPort) };
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
