/**
 * Messages as bytes: one msgpack array per frame, `[kind, …]`. Bodies made of objects travel as
 * JSON bytes inside it (2–4 times faster than msgpack of objects), bodies that are bytes (raft,
 * forwarded proposals) as msgpack itself.
 *
 * Decoding never trusts the peer: what is not a message is undefined, and a body is unknown until
 * its schema (schemas.ts) has seen it. The options are fixed here once; both ends need the same.
 */
import { Packr } from "msgpackr";
import { unreachable } from "../../core/assert.ts";
import type { ErrorBody, ErrorCode } from "../../core/errors.ts";

/** Raised when two builds can no longer talk; told in the hello. */
export const PROTOCOL_VERSION = 1;

export type RpcMessage =
  /** First in both directions. The server's answer says that it has judged our certificate. */
  | { kind: "hello"; version: number }
  | { kind: "request"; id: number; method: string; params: unknown }
  | { kind: "answer"; id: number; result: unknown }
  | { kind: "error"; id: number; error: ErrorBody }
  | { kind: "note"; note: string; body: unknown }
  /** Says only that its sender lives; not answered. */
  | { kind: "ping" }
  /** Last message: why the connection ends. */
  | { kind: "bye"; error: ErrorBody };

const KINDS = ["hello", "request", "answer", "error", "note", "ping", "bye"] as const;
type Kind = (typeof KINDS)[number];
const KIND_NUMBERS = Object.fromEntries(KINDS.map((kind, index) => [kind, index])) as Record<
  Kind,
  number
>;

/** Error codes that may come from a peer; others (of a newer build) become `internal`. */
const ERROR_CODES: Record<ErrorCode, true> = {
  "invalid-argument": true,
  "failed-precondition": true,
  unauthenticated: true,
  forbidden: true,
  "not-found": true,
  "name-conflict": true,
  "in-use": true,
  "version-conflict": true,
  "not-leader": true,
  "no-quorum": true,
  "proposal-dropped": true,
  busy: true,
  deadline: true,
  unavailable: true,
  "not-implemented": true,
  docker: true,
  internal: true,
};

const packr = new Packr({
  useRecords: false,
  int64AsType: "number",
  encodeUndefinedAsNil: true,
  // Bytes get memory of their own: they go on to other threads, and a clone of a view copies all of
  // the memory behind it, here everything that came in one read.
  copyBuffers: true,
});
const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder("utf-8", { fatal: true });

/** A message as one array that begins with its kind's number; its body as `encodeBody` says. */
export function encodeMessage(message: RpcMessage): Uint8Array {
  const kind = KIND_NUMBERS[message.kind];
  switch (message.kind) {
    case "hello":
      return packr.pack([kind, message.version]);
    case "request":
      return packr.pack([kind, message.id, message.method, encodeBody(message.params)]);
    case "answer":
      return packr.pack([kind, message.id, encodeBody(message.result)]);
    case "error":
      return packr.pack([kind, message.id, encodeBody(message.error)]);
    case "note":
      return packr.pack([kind, message.note, encodeBody(message.body)]);
    case "ping":
      return packr.pack([kind]);
    case "bye":
      return packr.pack([kind, encodeBody(message.error)]);
    default:
      return unreachable(message);
  }
}

/** Undefined when the bytes are no message of this protocol. Never throws. */
export function decodeMessage(payload: Uint8Array): RpcMessage | undefined {
  try {
    return readMessage(payload);
  } catch {
    // Whatever the codec makes of hostile bytes (RangeError, SyntaxError, its own Error): no message.
    return undefined;
  }
}

function readMessage(payload: Uint8Array): RpcMessage | undefined {
  const parts: unknown = packr.unpack(payload);
  if (!Array.isArray(parts)) return undefined;
  const [number, first, second, third] = parts as unknown[];
  const kind = typeof number === "number" ? KINDS[number] : undefined;
  switch (kind) {
    case "hello":
      return isCount(first) ? { kind, version: first } : undefined;
    case "request":
      return isCount(first) && typeof second === "string"
        ? { kind, id: first, method: second, params: decodeBody(third) }
        : undefined;
    case "answer":
      return isCount(first) ? { kind, id: first, result: decodeBody(second) } : undefined;
    case "error": {
      const error = readError(decodeBody(second));
      return isCount(first) && error ? { kind, id: first, error } : undefined;
    }
    case "note":
      return typeof first === "string"
        ? { kind, note: first, body: decodeBody(second) }
        : undefined;
    case "ping":
      return { kind };
    case "bye": {
      const error = readError(decodeBody(first));
      return error ? { kind, error } : undefined;
    }
    case undefined:
    default:
      return undefined;
  }
}

/** Bytes in one of the body's fields keep it msgpack; everything else is JSON. */
function encodeBody(body: unknown): unknown {
  if (typeof body === "object" && body !== null) {
    for (const value of Object.values(body)) if (value instanceof Uint8Array) return body;
  }
  return textEncoder.encode(JSON.stringify(body ?? null));
}

function decodeBody(body: unknown): unknown {
  if (!(body instanceof Uint8Array)) return body;
  const value: unknown = JSON.parse(textDecoder.decode(body));
  return value;
}

function readError(body: unknown): ErrorBody | undefined {
  if (typeof body !== "object" || body === null) return undefined;
  if (!("code" in body) || !("message" in body) || typeof body.message !== "string") {
    return undefined;
  }
  const code = isErrorCode(body.code) ? body.code : "internal";
  const details = "details" in body ? body.details : undefined;
  if (typeof details !== "object" || details === null) return { code, message: body.message };
  // Values stay unknown; who reads one checks it.
  return { code, message: body.message, details: details as Record<string, unknown> };
}

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(ERROR_CODES, code);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}
