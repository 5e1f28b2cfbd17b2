/**
 * Consensus messages as bytes. One frame carries all messages of a loop turn to one peer:
 *
 *     version(1) │ { length varint · crc32 u32 · message }*
 *
 * A message is its type's number, its term, and its fields in the order of messages.ts; numbers are
 * varints (7 bits a byte, low first), texts and bytes have their length before them. Whatever does
 * not decode is dropped by itself: a peer may be of another version, or broken.
 */
import { unreachable } from "../assert.ts";
import { crc32 } from "./checksum.ts";
import { decodeConfiguration, encodeConfiguration } from "./configuration.ts";
import { type Entry, type Message, NO_BYTES, type SnapshotMeta } from "./messages.ts";

export const CODEC_VERSION = 1;

/** Numbers on the wire: never reused, never reordered. */
const TYPE_NUMBERS = {
  "pre-vote": 1,
  "pre-vote-response": 2,
  vote: 3,
  "vote-response": 4,
  append: 5,
  "append-response": 6,
  "append-reject": 7,
  heartbeat: 8,
  "heartbeat-response": 9,
  "snapshot-piece": 10,
  "snapshot-ack": 11,
  "timeout-now": 12,
  "read-index": 13,
  "read-index-response": 14,
} as const satisfies Record<Message["type"], number>;

/** Entries in one message, checked before memory is taken for them. */
const ENTRIES_MAX = 1_000_000;

/** All messages to one peer of one loop turn. */
export function encodeFrame(messages: readonly Message[]): Uint8Array {
  const out = newWriter(64 * messages.length + 64);
  writeByte(out, CODEC_VERSION);
  const body = newWriter(256);
  for (const message of messages) {
    body.length = 0;
    writeMessage(body, message);
    const bytes = body.bytes.subarray(0, body.length);
    writeNumber(out, bytes.length);
    writeNumber(out, crc32(bytes));
    writeRaw(out, bytes);
  }
  return out.bytes.slice(0, out.length);
}

/** The messages of a frame, and how many of it were damaged or of an unknown kind. */
export function decodeFrame(frame: Uint8Array): { messages: Message[]; damagedCount: number } {
  const messages: Message[] = [];
  const input: Reader = { bytes: frame, at: 0 };
  let damagedCount = 0;
  try {
    if (readByte(input) !== CODEC_VERSION) return { messages, damagedCount: 1 };
    while (input.at < frame.length) {
      const length = readNumber(input);
      const checksum = readNumber(input);
      const bytes = readRaw(input, length);
      if (crc32(bytes) !== checksum) {
        damagedCount++;
        continue;
      }
      const message = tryReadMessage(bytes);
      if (message) messages.push(message);
      else damagedCount++;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    damagedCount++; // the frame is cut short: what came before counts
  }
  return { messages, damagedCount };
}

function tryReadMessage(bytes: Uint8Array): Message | undefined {
  try {
    return readMessage({ bytes, at: 0 });
  } catch (error) {
    if (error instanceof RangeError || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function writeMessage(out: Writer, message: Message): void {
  writeByte(out, TYPE_NUMBERS[message.type]);
  writeNumber(out, message.term);
  switch (message.type) {
    case "pre-vote":
      writeNumber(out, message.lastIndex);
      writeNumber(out, message.lastTerm);
      break;
    case "vote":
      writeNumber(out, message.lastIndex);
      writeNumber(out, message.lastTerm);
      writeByte(out, message.isForced ? 1 : 0);
      break;
    case "pre-vote-response":
    case "vote-response":
      writeByte(out, message.isGranted ? 1 : 0);
      break;
    case "append":
      writeNumber(out, message.epoch);
      writeNumber(out, message.previousIndex);
      writeNumber(out, message.previousTerm);
      writeNumber(out, message.commitIndex);
      writeNumber(out, message.entries.length);
      for (const entry of message.entries) {
        writeNumber(out, entry.term);
        writeByte(out, entry.type === "normal" ? 0 : 1);
        writeBytes(out, entry.data);
      }
      break;
    case "append-response":
      writeNumber(out, message.epoch);
      writeNumber(out, message.index);
      break;
    case "append-reject":
      writeNumber(out, message.epoch);
      writeNumber(out, message.previousIndex);
      writeNumber(out, message.hintIndex);
      writeNumber(out, message.hintTerm);
      break;
    case "heartbeat":
      writeNumber(out, message.epoch);
      writeNumber(out, message.commitIndex);
      writeNumber(out, message.readId);
      writeNumber(out, message.removedAtIndex);
      break;
    case "heartbeat-response":
      writeNumber(out, message.epoch);
      writeNumber(out, message.commitIndex);
      writeNumber(out, message.readId);
      break;
    case "snapshot-piece":
      writeNumber(out, message.epoch);
      writeSnapshotMeta(out, message.snapshot);
      writeNumber(out, message.piece);
      writeBytes(out, message.data);
      break;
    case "snapshot-ack":
      writeNumber(out, message.epoch);
      writeNumber(out, message.snapshotIndex);
      writeNumber(out, message.nextPiece);
      break;
    case "timeout-now":
      break;
    case "read-index":
      writeNumber(out, message.readId);
      break;
    case "read-index-response":
      writeNumber(out, message.readId);
      writeNumber(out, message.index);
      break;
    default:
      unreachable(message);
  }
}

function readMessage(input: Reader): Message | undefined {
  const type = readByte(input);
  const term = readNumber(input);
  switch (type) {
    case TYPE_NUMBERS["pre-vote"]:
      return { type: "pre-vote", term, lastIndex: readNumber(input), lastTerm: readNumber(input) };
    case TYPE_NUMBERS["pre-vote-response"]:
      return { type: "pre-vote-response", term, isGranted: readByte(input) === 1 };
    case TYPE_NUMBERS.vote: {
      const lastIndex = readNumber(input);
      const lastTerm = readNumber(input);
      return { type: "vote", term, lastIndex, lastTerm, isForced: readByte(input) === 1 };
    }
    case TYPE_NUMBERS["vote-response"]:
      return { type: "vote-response", term, isGranted: readByte(input) === 1 };
    case TYPE_NUMBERS.append: {
      const epoch = readNumber(input);
      const previousIndex = readNumber(input);
      const previousTerm = readNumber(input);
      const commitIndex = readNumber(input);
      const entries = readEntries(input, previousIndex);
      return { type: "append", term, epoch, previousIndex, previousTerm, commitIndex, entries };
    }
    case TYPE_NUMBERS["append-response"]: {
      const epoch = readNumber(input);
      return { type: "append-response", term, epoch, index: readNumber(input) };
    }
    case TYPE_NUMBERS["append-reject"]: {
      const epoch = readNumber(input);
      const previousIndex = readNumber(input);
      const hintIndex = readNumber(input);
      const hintTerm = readNumber(input);
      return { type: "append-reject", term, epoch, previousIndex, hintIndex, hintTerm };
    }
    case TYPE_NUMBERS.heartbeat: {
      const epoch = readNumber(input);
      const commitIndex = readNumber(input);
      const readId = readNumber(input);
      const removedAtIndex = readNumber(input);
      return { type: "heartbeat", term, epoch, commitIndex, readId, removedAtIndex };
    }
    case TYPE_NUMBERS["heartbeat-response"]: {
      const epoch = readNumber(input);
      const commitIndex = readNumber(input);
      return { type: "heartbeat-response", term, epoch, commitIndex, readId: readNumber(input) };
    }
    case TYPE_NUMBERS["snapshot-piece"]: {
      const epoch = readNumber(input);
      const snapshot = readSnapshotMeta(input);
      const piece = readNumber(input);
      const data = readBytes(input).slice();
      return { type: "snapshot-piece", term, epoch, snapshot, piece, data };
    }
    case TYPE_NUMBERS["snapshot-ack"]: {
      const epoch = readNumber(input);
      const snapshotIndex = readNumber(input);
      return { type: "snapshot-ack", term, epoch, snapshotIndex, nextPiece: readNumber(input) };
    }
    case TYPE_NUMBERS["timeout-now"]:
      return { type: "timeout-now", term };
    case TYPE_NUMBERS["read-index"]:
      return { type: "read-index", term, readId: readNumber(input) };
    case TYPE_NUMBERS["read-index-response"]: {
      const readId = readNumber(input);
      return { type: "read-index-response", term, readId, index: readNumber(input) };
    }
    default:
      return undefined;
  }
}

function readEntries(input: Reader, previousIndex: number): Entry[] {
  const count = readNumber(input);
  if (count > ENTRIES_MAX) throw new RangeError(`An append has ${count} entries`);
  const entries: Entry[] = [];
  for (let i = 1; i <= count; i++) {
    const term = readNumber(input);
    const type = readByte(input) === 0 ? "normal" : "configuration";
    const bytes = readBytes(input);
    if (type === "configuration") decodeConfiguration(bytes); // refuse it here, not in the log
    // A copy: an entry lives long, and must not keep the whole frame in memory.
    const data = bytes.length === 0 ? NO_BYTES : bytes.slice();
    entries.push({ index: previousIndex + i, term, type, data });
  }
  return entries;
}

function writeSnapshotMeta(out: Writer, meta: SnapshotMeta): void {
  writeNumber(out, meta.index);
  writeNumber(out, meta.term);
  writeBytes(out, encodeConfiguration(meta.configuration));
  writeNumber(out, meta.pieceCount);
  writeNumber(out, meta.sizeBytes);
}

function readSnapshotMeta(input: Reader): SnapshotMeta {
  const index = readNumber(input);
  const term = readNumber(input);
  const configuration = decodeConfiguration(readBytes(input));
  return {
    index,
    term,
    configuration,
    pieceCount: readNumber(input),
    sizeBytes: readNumber(input),
  };
}

// ---- bytes --------------------------------------------------------------------------------------

type Writer = { bytes: Uint8Array; length: number };
type Reader = { bytes: Uint8Array; at: number };

function newWriter(sizeBytes: number): Writer {
  return { bytes: new Uint8Array(sizeBytes), length: 0 };
}

function reserve(out: Writer, count: number): void {
  const needed = out.length + count;
  if (needed <= out.bytes.length) return;
  const grown = new Uint8Array(Math.max(needed, out.bytes.length * 2));
  grown.set(out.bytes.subarray(0, out.length));
  out.bytes = grown;
}

function writeByte(out: Writer, value: number): void {
  reserve(out, 1);
  out.bytes[out.length++] = value;
}

/** Up to 2^53 - 1, so no bit operations: they have 32 bits. */
function writeNumber(out: Writer, value: number): void {
  reserve(out, 8);
  let rest = value;
  while (rest >= 128) {
    out.bytes[out.length++] = (rest % 128) | 128;
    rest = Math.floor(rest / 128);
  }
  out.bytes[out.length++] = rest;
}

function writeRaw(out: Writer, bytes: Uint8Array): void {
  reserve(out, bytes.length);
  out.bytes.set(bytes, out.length);
  out.length += bytes.length;
}

function writeBytes(out: Writer, bytes: Uint8Array): void {
  writeNumber(out, bytes.length);
  writeRaw(out, bytes);
}

function readByte(input: Reader): number {
  const byte = input.bytes[input.at++];
  if (byte === undefined) throw new RangeError("The frame ends too early");
  return byte;
}

function readNumber(input: Reader): number {
  let value = 0;
  let scale = 1;
  for (let i = 0; i < 8; i++) {
    const byte = readByte(input);
    value += (byte & 127) * scale;
    if (byte < 128) {
      if (!Number.isSafeInteger(value)) break;
      return value;
    }
    scale *= 128;
  }
  throw new RangeError("A number is longer than 53 bits");
}

/** A view, not a copy. */
function readRaw(input: Reader, length: number): Uint8Array {
  if (length > input.bytes.length - input.at) throw new RangeError("The frame ends too early");
  const bytes = input.bytes.subarray(input.at, input.at + length);
  input.at += length;
  return bytes;
}

function readBytes(input: Reader): Uint8Array {
  return readRaw(input, readNumber(input));
}
