/**
 * Question × names × asker → answer. Pure.
 *
 * Who asks decides what is seen: a task finds the names of the networks it is on, and nothing of
 * others. Names:
 *   `web`            the service's address on the asker's network, or (dnsrr) its ready tasks
 *   `tasks.web`      its ready tasks
 *   `web.1.<id>`     one task, ready or not
 *   an alias         as the services that have it
 *   `<name>.<network>` the same, on that network only
 * A name of ours has A records, and AAAA records on networks with IPv6; every other type is answered
 * with "no such record", because "no such name" for one type would make resolvers drop the answer of
 * the other as well. A single label that is
 * not ours does not exist, and we are its authority: Docker's own resolver would otherwise ask on.
 */
import { formatAddress6, parseAddress6, parseCidr6 } from "../../core/store/cidr6.ts";
import { isInBlock, parseIpv4 } from "../mesh/ipv4.ts";
import {
  findNameOn,
  type FoundName,
  type NameTable,
  type NetworkNames,
  networksOfTask,
  ownerOn,
} from "./name-table.ts";

/** Lists of tasks change at any time; a service's address stays. */
export const LIST_TTL_S = 3;
export const ADDRESS_TTL_S = 30;
/** Records of one answer; the rest is left out (and is in another order next time). */
const RECORDS_MAX = 512;

export type DnsQuestion = { name: string; type: string };
export type DnsReply = {
  type: "reply";
  code: "NOERROR" | "NXDOMAIN";
  records: { name: string; type: "A" | "AAAA" | "PTR"; ttlS: number; data: string }[];
};
export type DnsAnswer = DnsReply | { type: "forward" };

/**
 * What to answer to the asker at this address; `random` (uniform in [0, 1)) shuffles lists.
 * `forward` means that the name is not ours.
 */
export function answerQuestion(
  question: DnsQuestion,
  table: NameTable,
  asker: string,
  random: () => number,
): DnsAnswer {
  const name = question.name.toLowerCase().replace(/\.$/, "");
  const networks = networksOfAsker(table, asker);
  if (/\.(in-addr|ip6)\.arpa$/.test(name)) return answerPointer(question, name, table, networks);
  const found = findName(networks, name);
  if (!found) {
    const isOurs = !name.includes(".") || /^tasks\.[^.]*$/.test(name);
    // The root (an empty name) belongs to others: clients ask it for name servers.
    if (!isOurs || name === "") return { type: "forward" };
    return { type: "reply", code: "NXDOMAIN", records: [] };
  }
  // No ready task for now. An empty answer would say so as well, but c-ares (Node, Bun, curl) keeps that
  // one for an hour, as it has no record with a time to live.
  if (found.v4.length === 0 && found.v6.length === 0) {
    return { type: "reply", code: "NXDOMAIN", records: [] };
  }
  const ttlS = found.isList ? LIST_TTL_S : ADDRESS_TTL_S;
  const records = (type: "A" | "AAAA", addresses: string[]): DnsReply["records"] =>
    question.type === type || question.type === "ANY"
      ? shuffle(addresses, random)
          .slice(0, RECORDS_MAX)
          .map((data) => ({ name: question.name, type, ttlS, data }))
      : [];
  return {
    type: "reply",
    code: "NOERROR",
    records: [...records("A", found.v4), ...records("AAAA", found.v6)],
  };
}

/** The networks of the task with this address; else (a container made by hand) the one it lies in. */
export function networksOfAsker(table: NameTable, asker: string): NetworkNames[] {
  const known = networksOfTask(table, asker);
  if (known) return known;
  return table.ordered.filter((network) => isOn(network, asker));
}

/** True for addresses of the network, of either family. */
function isOn({ block, subnet6 }: NetworkNames, address: string): boolean {
  const value = parseIpv4(address);
  if (value !== undefined) return block !== undefined && isInBlock(block, value);
  const value6 = subnet6 === undefined ? undefined : parseAddress6(address);
  const range = subnet6 === undefined ? undefined : parseCidr6(subnet6);
  if (!range || value6 === undefined) return false;
  return value6 >= range.first && value6 <= range.last;
}

/** The address that a name for PTR stands for; undefined for other names. */
function pointedAddress(name: string): string | undefined {
  const [kind, labels] = name.endsWith(".in-addr.arpa")
    ? ["v4", name.slice(0, -".in-addr.arpa".length).split(".").reverse()]
    : name.endsWith(".ip6.arpa")
      ? ["v6", name.slice(0, -".ip6.arpa".length).split(".").reverse()]
      : [];
  if (!labels) return undefined;
  if (kind === "v4") {
    const address = labels.join(".");
    return parseIpv4(address) === undefined ? undefined : address;
  }
  // Source: RFC 3596 §2.5: one label a digit.
  if (labels.length !== 32 || !labels.every((label) => /^[0-9a-f]$/.test(label))) return undefined;
  return formatAddress6(BigInt(`0x${labels.join("")}`));
}

function findName(networks: NetworkNames[], name: string): FoundName | undefined {
  for (const network of networks) {
    const found = findNameOn(network, name);
    if (found) return found;
  }
  if (!name.includes(".")) return undefined;
  for (const network of networks) {
    if (network.name === undefined || !name.endsWith(`.${network.name}`)) continue;
    const found = findNameOn(network, name.slice(0, -network.name.length - 1));
    if (found) return found;
  }
  return undefined;
}

function answerPointer(
  question: DnsQuestion,
  name: string,
  table: NameTable,
  networks: NetworkNames[],
): DnsAnswer {
  const address = pointedAddress(name);
  if (address === undefined || !table.ordered.some((network) => isOn(network, address))) {
    return { type: "forward" };
  }
  for (const network of networks) {
    const owner = ownerOn(table, network, address);
    if (owner === undefined) continue;
    const isAsked = question.type === "PTR" || question.type === "ANY";
    return {
      type: "reply",
      code: "NOERROR",
      records: isAsked
        ? [
            {
              name: question.name,
              type: "PTR",
              ttlS: LIST_TTL_S,
              data: `${owner}.${network.name}`,
            },
          ]
        : [],
    };
  }
  return { type: "reply", code: "NXDOMAIN", records: [] };
}

function shuffle(addresses: string[], random: () => number): string[] {
  const order = [...addresses];
  for (let last = order.length - 1; last > 0; last -= 1) {
    const place = Math.floor(random() * (last + 1));
    const [a, b] = [order[last], order[place]];
    if (a === undefined || b === undefined) continue;
    order[last] = b;
    order[place] = a;
  }
  return order;
}
