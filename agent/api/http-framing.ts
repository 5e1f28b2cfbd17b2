/**
 * Where HTTP/1.1 messages begin and end in a byte stream, and nothing more: the front passes the
 * bytes on as they came and only needs to know which request a byte belongs to. Pure; the callers
 * hold the sockets.
 *
 * Invariants: a scanner never changes or copies a body; what it cannot understand is reported, never
 * guessed at, because the front and the server behind it must agree on where a request ends.
 *
 * Source: RFC 9112 §2–§7.
 */
import { unreachable } from "../../core/assert.ts";

/** Bytes of a head (request or status line and header fields) that are read at most. */
export const HEAD_BYTES_MAX = 64 * 1024;

export type BodyKind =
  | { type: "none" }
  | { type: "length"; bytes: number }
  | { type: "chunked" }
  /** Responses only: the body ends with the connection. */
  | { type: "until-close" };

export type RequestHead = {
  method: string;
  /** As sent: path and query. */
  target: string;
  body: BodyKind;
  /** `Connection: Upgrade` was asked for: the stream may become raw. */
  wantsUpgrade: boolean;
};

export type ResponseHead = { status: number; body: BodyKind };

type Fields = { contentLength?: number; isChunked: boolean; connection: string; upgrade: boolean };

/** Gathers bytes until a head's empty line. One reader for one stream; it starts over by itself. */
export type HeadReader = {
  /**
   * Takes from `bytes` at `offset`. `head` is the whole head (with the empty line) when it is
   * complete; `end` is the offset after the last byte taken.
   */
  push(bytes: Uint8Array, offset: number): { head?: Uint8Array; end: number };
  /** Bytes held of an unfinished head. */
  heldBytes(): number;
};

export function createHeadReader(): HeadReader {
  let held = new Uint8Array(0);
  return {
    heldBytes: () => held.length,
    push(bytes, offset) {
      const fresh = bytes.subarray(offset);
      const joined = held.length === 0 ? fresh : concat(held, fresh);
      // The empty line can straddle the seam: search from three bytes before it.
      const at = indexOfEmptyLine(joined, Math.max(0, held.length - 3));
      if (at === -1) {
        held = joined.slice();
        return { end: bytes.length };
      }
      const taken = at + 4 - held.length;
      held = new Uint8Array(0);
      return { head: joined.slice(0, at + 4), end: offset + taken };
    },
  };
}

/** Follows one body; `isDone` once its last byte was seen. */
export type BodyScanner = {
  scan(bytes: Uint8Array, offset: number): { end: number; isDone: boolean; isMalformed?: boolean };
};

export function createBodyScanner(kind: BodyKind): BodyScanner {
  switch (kind.type) {
    case "none":
      return { scan: (_bytes, offset) => ({ end: offset, isDone: true }) };
    case "until-close":
      return { scan: (bytes) => ({ end: bytes.length, isDone: false }) };
    case "length":
      return lengthScanner(kind.bytes);
    case "chunked":
      return chunkedScanner();
    default:
      return unreachable(kind);
  }
}

function lengthScanner(totalBytes: number): BodyScanner {
  let leftBytes = totalBytes;
  return {
    scan(bytes, offset) {
      const taken = Math.min(leftBytes, bytes.length - offset);
      leftBytes -= taken;
      return { end: offset + taken, isDone: leftBytes === 0 };
    },
  };
}

const LF = 0x0a;
const CR = 0x0d;

function chunkedScanner(): BodyScanner {
  // size: in a size line; data: in a chunk's bytes and the line end after them; trailer: after the
  // last chunk, until an empty line.
  let part: "size" | "data" | "trailer" = "size";
  let line = "";
  let leftBytes = 0;
  let trailerLineBytes = 0;
  return {
    scan(bytes, offset) {
      let at = offset;
      while (at < bytes.length) {
        if (part === "data") {
          const taken = Math.min(leftBytes, bytes.length - at);
          leftBytes -= taken;
          at += taken;
          if (leftBytes === 0) part = "size";
          continue;
        }
        const byte = bytes[at++] ?? 0;
        if (part === "size") {
          if (byte !== LF) {
            line += String.fromCharCode(byte);
            if (line.length > 4096) return { end: at, isDone: false, isMalformed: true };
            continue;
          }
          const digits = /^([0-9a-fA-F]{1,13})[ \t]*(?:;.*)?\r$/.exec(line)?.[1];
          line = "";
          if (digits === undefined) return { end: at, isDone: false, isMalformed: true };
          const sizeBytes = Number.parseInt(digits, 16);
          if (sizeBytes === 0) {
            part = "trailer";
            trailerLineBytes = 0;
          } else {
            part = "data";
            leftBytes = sizeBytes + 2;
          }
          continue;
        }
        if (byte === LF) {
          if (trailerLineBytes === 0) return { end: at, isDone: true };
          trailerLineBytes = 0;
        } else if (byte !== CR) trailerLineBytes += 1;
      }
      return { end: at, isDone: false };
    },
  };
}

/** The head as a request, or undefined when it is not one that both sides must read alike. */
export function parseRequestHead(head: Uint8Array): RequestHead | undefined {
  const lines = headLines(head);
  const match = /^([A-Z]+) (\S+) HTTP\/1\.[01]$/.exec(lines?.[0] ?? "");
  const fields = lines && readFields(lines);
  if (!match?.[1] || !match[2] || !fields) return undefined;
  let body: BodyKind = { type: "none" };
  if (fields.isChunked) body = { type: "chunked" };
  else if (fields.contentLength) body = { type: "length", bytes: fields.contentLength };
  return {
    method: match[1],
    target: match[2],
    body,
    wantsUpgrade: fields.upgrade && /(?:^|[\s,])upgrade(?:$|[\s,])/i.test(fields.connection),
  };
}

/** The head as an answer to a request of this method, or undefined when it is none. */
export function parseResponseHead(head: Uint8Array, method: string): ResponseHead | undefined {
  const lines = headLines(head);
  const status = Number(/^HTTP\/1\.[01] (\d{3})(?: .*)?$/.exec(lines?.[0] ?? "")?.[1]);
  const fields = lines && readFields(lines);
  if (!fields || Number.isNaN(status)) return undefined;
  if (method === "HEAD" || status < 200 || status === 204 || status === 304) {
    return { status, body: { type: "none" } };
  }
  if (fields.isChunked) return { status, body: { type: "chunked" } };
  if (fields.contentLength === undefined) return { status, body: { type: "until-close" } };
  return { status, body: { type: "length", bytes: fields.contentLength } };
}

function headLines(head: Uint8Array): string[] | undefined {
  const text = Buffer.from(head.buffer, head.byteOffset, head.length).toString("latin1");
  const lines = text.slice(0, -4).split("\r\n");
  // A bare line feed ends a line for some servers and not for others; a folded line likewise.
  if (lines.some((line) => /[\r\n]/.test(line))) return undefined;
  return lines;
}

function readFields(lines: string[]): Fields | undefined {
  const fields: Fields = { isChunked: false, connection: "", upgrade: false };
  for (const line of lines.slice(1)) {
    const colon = line.indexOf(":");
    if (colon <= 0 || /\s/.test(line.slice(0, colon))) return undefined;
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (name === "content-length") {
      if (!/^\d{1,15}$/.test(value)) return undefined;
      const bytes = Number(value);
      if (fields.contentLength !== undefined && fields.contentLength !== bytes) return undefined;
      fields.contentLength = bytes;
    } else if (name === "transfer-encoding") {
      if (value.toLowerCase() === "chunked") fields.isChunked = true;
      else if (value.toLowerCase() !== "identity") return undefined;
    } else if (name === "connection") fields.connection += `,${value}`;
    else if (name === "upgrade") fields.upgrade = true;
  }
  return fields;
}

function indexOfEmptyLine(bytes: Uint8Array, from: number): number {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return view.indexOf("\r\n\r\n", from, "latin1");
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a, 0);
  joined.set(b, a.length);
  return joined;
}
