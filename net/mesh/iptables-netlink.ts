/**
 * Counters of iptables' rules by netlink, where iptables is the variant on nf_tables: `iptables-save`
 * prints the whole table, which takes more than a second at ten thousand services, and only the rules
 * that lead to services are wanted. Encoding and parsing are pure; the socket is the caller's.
 *
 * Numbers are of the kernel's stable interface (linux/netfilter/nf_tables.h); numbers of these
 * messages are in the network's byte order.
 */
import {
  ADDRESS_FAMILY,
  attribute,
  attributeList,
  errorNumber,
  netlinkMessage,
  type NetlinkSocket,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  parseAttributes,
} from "./netlink.ts";
import type { Family } from "./plan.ts";

const GET_RULE = (10 << 8) | 7;
const RULE = { table: 1, chain: 2, expressions: 4 } as const;
const EXPRESSION = { name: 1, data: 2 } as const;
const COUNTER_PACKETS = 2;
const IMMEDIATE_DATA = 2;
const DATA_VERDICT = 2;
const VERDICT_CHAIN = 2;
/** Chains of a tree; a walk that finds more has left it. */
const CHAINS_MAX = 65_536;
/** About 5 ms. */
const CHAINS_AT_ONCE = 64;

/** One rule: how many packets it met, and to which chain it sends them. */
export type CountedRule = { packets: number; target: string };

/** The rule in an answer to `GET_RULE`, after the header; undefined when it leads nowhere. */
export function parseCountedRule(attributes: Buffer): CountedRule | undefined {
  let packets = 0;
  let target: string | undefined;
  const none = Buffer.alloc(0);
  const list = parseAttributes(attributes).get(RULE.expressions) ?? none;
  for (const { value } of attributeList(list)) {
    const expression = parseAttributes(value);
    const name = text(expression.get(EXPRESSION.name));
    const data = parseAttributes(expression.get(EXPRESSION.data) ?? none);
    if (name === "counter") {
      packets = Number(data.get(COUNTER_PACKETS)?.readBigUInt64BE(0) ?? 0);
    } else if (name === "immediate") {
      const verdict = parseAttributes(data.get(IMMEDIATE_DATA) ?? none).get(DATA_VERDICT);
      const chain = verdict && parseAttributes(verdict).get(VERDICT_CHAIN);
      if (chain) target = text(chain);
    }
  }
  return target === undefined ? undefined : { packets, target };
}

/**
 * Packets by the chain to which they went, of the chains that `isLeaf`, below these roots of the table
 * nat; undefined where nf_tables has none, such as where iptables is the other variant.
 */
export async function readChainCounts(
  socket: NetlinkSocket,
  family: Family,
  roots: readonly string[],
  isLeaf: (chain: string) => boolean,
): Promise<Map<string, number> | undefined> {
  const counts = new Map<string, number>();
  const seen = new Set<string>(roots);
  let sequence = 0;
  for (const chain of seen) {
    if (seen.size > CHAINS_MAX) return undefined;
    sequence += 1;
    // A round of the mesh need not wait for the whole walk.
    if (sequence % CHAINS_AT_ONCE === 0) await new Promise((resolve) => setImmediate(resolve));
    const rules = askRules(socket, family, chain, sequence);
    if (!rules) return undefined;
    for (const { packets, target } of rules) {
      if (isLeaf(target)) counts.set(target, (counts.get(target) ?? 0) + packets);
      else seen.add(target);
    }
  }
  // The kernel has no rules of a chain that it does not have: that is no error.
  return counts.size === 0 ? undefined : counts;
}

/** The rules of one chain that lead to others; undefined when the kernel refuses the question. */
function askRules(
  socket: NetlinkSocket,
  family: Family,
  chain: string,
  sequence: number,
): CountedRule[] | undefined {
  const header = Buffer.from([ADDRESS_FAMILY[family], 0, 0, 0]);
  const named = (type: number, name: string) => attribute(type, Buffer.from(`${name}\0`));
  const body = Buffer.concat([header, named(RULE.table, "nat"), named(RULE.chain, chain)]);
  const flags = NLM_F_REQUEST | NLM_F_DUMP;
  socket.send(netlinkMessage({ type: GET_RULE, flags, sequence, body }));
  const rules: CountedRule[] = [];
  for (;;) {
    for (const answer of socket.receive()) {
      if (answer.sequence !== sequence) continue;
      if (answer.type === NLMSG_DONE) return rules;
      if (answer.type === NLMSG_ERROR) return errorNumber(answer) === 0 ? rules : undefined;
      const rule = parseCountedRule(answer.payload.subarray(4));
      if (rule) rules.push(rule);
    }
  }
}

function text(bytes: Buffer | undefined): string {
  return bytes?.toString().replace(/\0.*$/, "") ?? "";
}
