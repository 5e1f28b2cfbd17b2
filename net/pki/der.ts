/**
 * The little of DER (ITU-T X.690) that reading an issuer name and writing a certificate request
 * take. Certificates are written by @peculiar/x509 (issue.ts): signing code is where home-made
 * encodings would hurt; here a mistake only makes a request or a display field invalid.
 */
import { ClusterError } from "../../core/errors.ts";

export const DER_TAGS = {
  integer: 0x02,
  bitString: 0x03,
  objectIdentifier: 0x06,
  utf8String: 0x0c,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
} as const;

/** One tag-length-value; `start` and `end` bound the value, `fullStart` its tag. */
export type DerElement = { tag: number; fullStart: number; start: number; end: number };

/** Lengths of up to four bytes: more than any certificate has. */
const LENGTH_BYTES_MAX = 4;

/** @throws {ClusterError} invalid-argument when `bytes` has no whole element at `offset`. */
export function readDerElement(bytes: Uint8Array, offset: number): DerElement {
  const fail = () =>
    new ClusterError("invalid-argument", `Cannot read DER at byte ${offset} of ${bytes.length}`);
  const tag = bytes[offset];
  const first = bytes[offset + 1];
  if (tag === undefined || first === undefined) throw fail();
  let start = offset + 2;
  let length = first;
  if (first >= 0x80) {
    const count = first & 0x7f;
    if (count === 0 || count > LENGTH_BYTES_MAX) throw fail();
    length = 0;
    for (let index = 0; index < count; index++) {
      const byte = bytes[start + index];
      if (byte === undefined) throw fail();
      length = length * 0x100 + byte;
    }
    start += count;
  }
  const end = start + length;
  if (end > bytes.length) throw fail();
  return { tag, fullStart: offset, start, end };
}

/** The elements directly inside `parent`, in order. */
export function readDerChildren(bytes: Uint8Array, parent: DerElement): DerElement[] {
  const children: DerElement[] = [];
  let offset = parent.start;
  while (offset < parent.end) {
    const child = readDerElement(bytes, offset);
    children.push(child);
    offset = child.end;
  }
  return children;
}

/** An element of which `parts` are the content, in order. @throws {RangeError} above 65,535 bytes. */
export function encodeDer(tag: number, ...parts: Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = [tag];
  if (length < 0x80) head.push(length);
  else if (length < 0x100) head.push(0x81, length);
  else head.push(0x82, length >> 8, length & 0xff);
  if (length > 0xffff) throw new RangeError(`Cannot encode ${length} bytes of DER`);
  return Buffer.concat([Uint8Array.from(head), ...parts]);
}
