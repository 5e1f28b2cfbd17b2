/**
 * IPv6 addresses as unsigned 128-bit numbers, and blocks of them. Malformed text gives undefined,
 * never an exception. Only networks with IPv6 pay for the large numbers.
 */

/** Inclusive. */
export type AddressRange6 = { first: bigint; last: bigint; prefixLength: number };

const GROUPS = 8;
const GROUP = /^[0-9a-f]{1,4}$/i;
const TAIL_IPV4 = /^(.*:)(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/** Value of an address without zone; undefined when it is none. Source: RFC 4291 §2.2. */
export function parseAddress6(text: string): bigint | undefined {
  const plain = withoutIpv4Tail(text);
  if (plain === undefined) return undefined;
  const halves = plain.split("::");
  if (halves.length > 2) return undefined;
  const [head = [], tail = []] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = GROUPS - head.length - tail.length;
  // A double colon stands for at least one group.
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  let value = 0n;
  for (const group of [...head, ...Array<string>(missing).fill("0"), ...tail]) {
    if (!GROUP.test(group)) return undefined;
    value = (value << 16n) | BigInt(Number.parseInt(group, 16));
  }
  return value;
}

/** The last two groups may be written as an IPv4 address. */
function withoutIpv4Tail(text: string): string | undefined {
  const match = TAIL_IPV4.exec(text);
  if (!match) return text;
  const [a = 256, b = 256, c = 256, d = 256] = match.slice(2).map(Number);
  if (a > 255 || b > 255 || c > 255 || d > 255) return undefined;
  return `${match[1]}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
}

/** Canonical text: lower case, the longest run of two or more zero groups as `::`. Source: RFC 5952. */
export function formatAddress6(value: bigint): string {
  const groups: number[] = [];
  for (let place = 0; place < GROUPS; place += 1) {
    groups.unshift(Number((value >> BigInt(16 * place)) & 0xffffn));
  }
  const best = { start: 0, length: 1 };
  let start = 0;
  for (let place = 0; place <= GROUPS; place += 1) {
    if (groups[place] === 0) continue;
    if (place - start > best.length) Object.assign(best, { start, length: place - start });
    start = place + 1;
  }
  const text = (some: number[]) => some.map((group) => group.toString(16)).join(":");
  if (best.length < 2) return text(groups);
  return `${text(groups.slice(0, best.start))}::${text(groups.slice(best.start + best.length))}`;
}

/** `address/n` as a range; undefined when it is no IPv6 block. Bits after the prefix are cut off. */
export function parseCidr6(text: string): AddressRange6 | undefined {
  const [address = "", length = "", rest] = text.split("/");
  const value = parseAddress6(address);
  if (value === undefined || rest !== undefined || !/^\d{1,3}$/.test(length)) return undefined;
  const prefixLength = Number(length);
  if (prefixLength > 128) return undefined;
  const size = 1n << BigInt(128 - prefixLength);
  const first = value - (value % size);
  return { first, last: first + size - 1n, prefixLength };
}

/** True when both are IPv6 blocks with an address in common. */
export function cidrs6Overlap(one: string, other: string): boolean {
  const a = parseCidr6(one);
  const b = parseCidr6(other);
  return a !== undefined && b !== undefined && a.first <= b.last && b.first <= a.last;
}
