/** IPv4 text and numbers, as far as the mesh needs them. Malformed text gives undefined, never an exception. */

export type Ipv4Block = { first: number; last: number; prefixLength: number };

/**
 * The address as an unsigned 32-bit number; undefined for anything that is not dotted IPv4. By hand
 * and not by a pattern: a plan of ten thousand services reads some hundred thousand of them.
 */
export function parseIpv4(text: string): number | undefined {
  let value = 0;
  let byte = 0;
  let digits = 0;
  let dots = 0;
  for (let place = 0; place < text.length; place += 1) {
    const code = text.charCodeAt(place);
    if (code === 46) {
      if (digits === 0 || dots === 3) return undefined;
      value = value * 256 + byte;
      byte = 0;
      digits = 0;
      dots += 1;
    } else {
      if (code < 48 || code > 57 || digits === 3) return undefined;
      byte = byte * 10 + code - 48;
      if (byte > 255) return undefined;
      digits += 1;
    }
  }
  return dots === 3 && digits > 0 ? value * 256 + byte : undefined;
}

export function isIpv4(text: string): boolean {
  return parseIpv4(text) !== undefined;
}

export function formatIpv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 0xff}.${(value >>> 8) & 0xff}.${value & 0xff}`;
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
