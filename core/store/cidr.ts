/** Inclusive range of IPv4 addresses as unsigned 32-bit numbers. */
export type AddressRange = { first: number; last: number };

/** `a.b.c.d/n` as a range; `undefined` when it is not an IPv4 CIDR (IPv6 is not compared). */
export function parseCidr(text: string): AddressRange | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  if (!match) return undefined;
  const [a, b, c, d, length] = match.slice(1).map(Number);
  if (a === undefined || b === undefined || c === undefined) return undefined;
  if (d === undefined || length === undefined) return undefined;
  if (a > 255 || b > 255 || c > 255 || d > 255 || length > 32) return undefined;
  // Multiplication, not shifts: 2 ** 32 does not fit in a signed 32-bit number.
  const address = ((a * 256 + b) * 256 + c) * 256 + d;
  const size = 2 ** (32 - length);
  const first = Math.floor(address / size) * size;
  return { first, last: first + size - 1 };
}

/** True when both are IPv4 CIDRs with an address in common. */
export function cidrsOverlap(one: string, other: string): boolean {
  const a = parseCidr(one);
  const b = parseCidr(other);
  return a !== undefined && b !== undefined && a.first <= b.last && b.first <= a.last;
}
