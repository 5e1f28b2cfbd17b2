/**
 * The witness: a small file beside raft.db that says how many batches were made durable. Each batch
 * carries its number in the state row, and the witness is written after the commit has returned. So a
 * raft.db that knows fewer batches than the witness has lost some that were answered for: the end of
 * its write-ahead log has rotted, or somebody put an older file in its place.
 *
 * It is written without an fsync, which makes it free, and true all the same: it may lag behind after
 * a power cut (by what the kernel had not written back, some 30 s), and then proves less; it is never
 * ahead. One that cannot be read proves nothing.
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { crc32 } from "./checksum.ts";

const MAGIC = 0x73686f77; // "show"
const BYTES = 16;

export type Witness = {
  /** As found on opening; undefined when there was none that can be read. */
  readonly batchCount: number | undefined;
  /** Once that many batches are on disk. */
  record(batchCount: number): void;
  close(): void;
};

/** Opens or creates the file. */
export function openWitness(path: string): Witness {
  const file = openExisting(path) ?? openSync(path, "w+", 0o600);
  const bytes = new Uint8Array(BYTES);
  const view = new DataView(bytes.buffer);
  const isRead = readSync(file, bytes, 0, BYTES, 0) === BYTES;
  const isGood =
    isRead && view.getUint32(0) === MAGIC && view.getUint32(12) === crc32(bytes.subarray(0, 12));
  const batchCount = isGood ? view.getFloat64(4) : undefined;
  view.setUint32(0, MAGIC);
  return {
    batchCount,
    record: (count) => {
      view.setFloat64(4, count);
      view.setUint32(12, crc32(bytes.subarray(0, 12)));
      try {
        writeSync(file, bytes, 0, BYTES, 0);
      } catch (error) {
        // New, on a full disk: it proves nothing yet, and the batch is durable without it.
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
      }
    },
    close: () => closeSync(file),
  };
}

function openExisting(path: string): number | undefined {
  try {
    return openSync(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
