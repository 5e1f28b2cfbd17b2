/**
 * What differs between IPv4 and IPv6 for those who write rules: the tools' words, the addresses that
 * every network has beside its own, and addresses as digits of one length. Rules are written once,
 * for both families, out of these.
 */
import { assert, unreachable } from "../../core/assert.ts";
import { formatAddress6, parseAddress6 } from "../../core/store/cidr6.ts";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";
import type { Family } from "./plan.ts";

export type FamilyWords = {
  family: Family;
  /** Of messages to users. */
  title: string;
  bits: 32 | 128;
  /** The host's own addresses, which nobody else has. */
  loopback: string;
  /** Sources that a device has without an address of its network: none yet, and of the link only. */
  unsourced: readonly string[];
  nft: {
    /** The family of our table, and the word for a field of the packet. */
    family: "ip" | "ip6";
    addressType: "ipv4_addr" | "ipv6_addr";
    reject: string;
    unsourced: string;
  };
  iptables: {
    tool: "iptables" | "ip6tables";
    reject: string;
  };
};

const WORDS: Record<Family, FamilyWords> = {
  ipv4: {
    family: "ipv4",
    title: "IPv4",
    bits: 32,
    loopback: "127.0.0.0/8",
    unsourced: ["0.0.0.0/32"],
    nft: {
      family: "ip",
      addressType: "ipv4_addr",
      reject: "icmp type port-unreachable",
      unsourced: "0.0.0.0",
    },
    iptables: { tool: "iptables", reject: "icmp-port-unreachable" },
  },
  ipv6: {
    family: "ipv6",
    title: "IPv6",
    bits: 128,
    loopback: "::1/128",
    unsourced: ["::/128", "fe80::/10"],
    nft: {
      family: "ip6",
      addressType: "ipv6_addr",
      reject: "icmpv6 type port-unreachable",
      unsourced: "{ ::, fe80::/10 }",
    },
    iptables: { tool: "ip6tables", reject: "icmp6-port-unreachable" },
  },
};

/** Neighbour discovery and the like, of one link: bridges carry it, and no router does. */
export const LINK_LOCAL_TARGETS = ["fe80::/10", "ff02::/16"] as const;
export const LINK_LOCAL_SOURCES = "fe80::/10";

export function wordsOf(family: Family): FamilyWords {
  return WORDS[family];
}

/** An address of a plan as hex digits, of one length in a family, so that text sorts as numbers do. */
export function addressDigits(family: Family, address: string): string {
  const value = family === "ipv4" ? parseIpv4(address) : parseAddress6(address);
  assert(value !== undefined, `"${address}" of a plan is ${WORDS[family].title}`);
  return value.toString(16).padStart(WORDS[family].bits / 4, "0");
}

/** The address whose first digits these are, and whose others are 0. */
export function formatDigits(family: Family, digits: string): string {
  return formatValue(family, BigInt(`0x${digits.padEnd(WORDS[family].bits / 4, "0")}`));
}

function formatValue(family: Family, value: bigint): string {
  switch (family) {
    case "ipv4":
      return formatIpv4(Number(value));
    case "ipv6":
      return formatAddress6(value);
  }
  return unreachable(family);
}

/** `address` or `address/n`; undefined when malformed. */
function parseRange(family: Family, text: string): { first: bigint; last: bigint } | undefined {
  const { bits } = WORDS[family];
  const [address = "", lengthText = String(bits), rest] = text.split("/");
  const value = family === "ipv4" ? parseIpv4(address) : parseAddress6(address);
  const length = Number(lengthText);
  if (value === undefined || rest !== undefined || !/^\d{1,3}$/.test(lengthText)) return undefined;
  if (length > bits) return undefined;
  const size = 1n << BigInt(bits - length);
  const first = BigInt(value) - (BigInt(value) % size);
  return { first, last: first + size - 1n };
}

/** The fewest blocks `address/n` that hold the same addresses; malformed ones are left out. */
export function mergeBlocks(family: Family, texts: readonly string[]): string[] {
  const ranges = texts
    .flatMap((text) => parseRange(family, text) ?? [])
    .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : a.last > b.last ? -1 : 1));
  const merged: { first: bigint; last: bigint }[] = [];
  for (const { first, last } of ranges) {
    const before = merged.at(-1);
    if (before && first <= before.last + 1n) {
      if (last > before.last) before.last = last;
    } else merged.push({ first, last });
  }
  const { bits } = WORDS[family];
  return merged.flatMap(({ first, last }) => {
    const blocks: string[] = [];
    let next = first;
    while (next <= last) {
      // The largest block that starts here and ends within.
      let length = bits;
      while (length > 0) {
        const size = 1n << BigInt(bits - length + 1);
        if (next % size !== 0n || next + size - 1n > last) break;
        length -= 1;
      }
      blocks.push(`${formatValue(family, next)}/${length}`);
      next += 1n << BigInt(bits - length);
    }
    return blocks;
  });
}
