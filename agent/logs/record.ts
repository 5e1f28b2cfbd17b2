/**
 * Log records as they travel between nodes: the engine's own framing with one use of its spare
 * bytes. Pure.
 *
 *   0       1      2..3          4..7           8..
 *   stream  0      task number   payload bytes  "<time> [<details> ]<line>"
 *
 * The time is RFC 3339 in UTC with nine decimals, so texts compare as times do. Task numbers count
 * the tasks of the stream in the order in which they were named.
 */

/** 1 stdout, 2 stderr. */
export type LogRecord = { stream: number; task: number; payload: Uint8Array };

export const RECORD_HEAD_BYTES = 8;
/** `2026-11-22T07:12:21.123456789Z` */
export const TIME_LENGTH = 30;
/** Engines cut lines at 16 KiB; a longer frame is no log line. */
export const RECORD_BYTES_MAX = 1024 * 1024;
/** As far as two bytes count. */
export const TASKS_PER_STREAM_MAX = 65_535;

/** Records as one piece of bytes; `totalBytes` is recordBytes() of all of them. */
export function encodeRecords(records: readonly LogRecord[], totalBytes: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(totalBytes);
  let at = 0;
  for (const { stream, task, payload } of records) {
    bytes.writeUInt16BE(stream << 8, at);
    bytes.writeUInt16BE(task, at + 2);
    bytes.writeUInt32BE(payload.length, at + 4);
    bytes.set(payload, at + RECORD_HEAD_BYTES);
    at += RECORD_HEAD_BYTES + payload.length;
  }
  return bytes;
}

export function recordBytes(record: LogRecord): number {
  return RECORD_HEAD_BYTES + record.payload.length;
}

/** Undefined when the bytes are not whole records. */
export function decodeRecords(bytes: Uint8Array): LogRecord[] | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const records: LogRecord[] = [];
  let at = 0;
  while (at < view.length) {
    if (view.length - at < RECORD_HEAD_BYTES) return undefined;
    const end = at + RECORD_HEAD_BYTES + view.readUInt32BE(at + 4);
    if (end > view.length) return undefined;
    records.push({
      stream: view.readUInt8(at),
      task: view.readUInt16BE(at + 2),
      payload: view.subarray(at + RECORD_HEAD_BYTES, end),
    });
    at = end;
  }
  return records;
}

const Z = 0x5a;

/** The record's time as text, which orders records; empty for a line without one. */
export function recordTime({ payload }: LogRecord): string {
  if (payload[TIME_LENGTH - 1] !== Z) return "";
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
  return bytes.toString("latin1", 0, TIME_LENGTH);
}

/**
 * A time as engines print it (`local` and journald: in the zone of their host) in UTC with nine
 * decimals. Undefined when it is none.
 */
export function utcTime(text: string): string | undefined {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (!match) return undefined;
  const [, seconds = "", decimals = "", zone = ""] = match;
  const ms = Date.parse(`${seconds}${zone}`);
  if (Number.isNaN(ms)) return undefined;
  return `${new Date(ms).toISOString().slice(0, 19)}.${decimals.padEnd(9, "0")}Z`;
}

/** `1795331542.576849773`, as the engine takes `since`. */
export function sinceOfTime(time: string): string {
  return `${Math.floor(Date.parse(`${time.slice(0, 19)}Z`) / 1_000)}.${time.slice(20, 29)}`;
}
