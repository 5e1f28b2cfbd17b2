/** IPv4 text and numbers, as far as the mesh needs them. Malformed text gives undefined, never an exception. */

export type Ipv4Block = { first: number; last: number; prefixLength: number };

/** The address as an unsigned 32-bit number; undefined for anything that is not dotted IPv4. */
export function parseIpv4(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^\d{1,3}$/.test(part)) return undefined;
    const byte = Number(part);
    if (byte > 255) return undefined;
    value = value * 256 + byte;
  }
  return value;
}

export function isIpv4(text: string): boolean {
  return parseIpv4(text) !== undefined;
}

export function formatIpv4(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join(".");
}

/** Addresses of `a.b.c.d/n`; undefined when malformed. */
export function parseIpv4Block(text: string): Ipv4Block | undefined {
  const [address = "", length = ""] = text.split("/");
  const value = parseIpv4(address);
  if (value === undefined || !/^\d{1,2}$/.test(length)) return undefined;
  const prefixLength = Number(length);
  if (prefixLength > 32) return undefined;
  const size = 2 ** (32 - prefixLength);
  const first = value - (value % size);
  return { first, last: first + size - 1, prefixLength };
}

export function isInBlock(block: Ipv4Block, address: number): boolean {
  return address >= block.first && address <= block.last;
}

/** Orders addresses by value, so that rendered text does not depend on arrival order. */
export function compareIpv4(a: string, b: string): number {
  return (parseIpv4(a) ?? 0) - (parseIpv4(b) ?? 0);
}
