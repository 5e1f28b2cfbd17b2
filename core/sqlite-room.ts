/**
 * Writes that find the disk full wait for room, on the thread that wanted them, instead of ending it.
 *
 * A full disk is no damage: SQLite has rolled the transaction back, nothing was promised, and the same
 * write passes when there is room. To the others a thread that waits is one that stands still, which
 * consensus lives with anyway: it gives no vote and no acknowledgement until then.
 *
 *   1. The ballast, if there is one, is removed and the write tried again at once.
 *   2. Else the owner is told, and the write tried again every RETRY_MS while there are ROOM_BYTES.
 *
 * It waits without end, since no write is given up; the thread may be terminated meanwhile. Errors
 * other than a full disk pass: after a failed fsync nobody knows what is on the disk.
 */
import { SQLiteError } from "bun:sqlite";
import { existsSync, rmSync, statfsSync } from "node:fs";

const RETRY_MS = 250;
/** Enough for the write and for what others want to write at the same time. */
export const ROOM_BYTES = 4 * 1024 * 1024;

export type Room = {
  /** On the file system of `dir`; it is removed when a write finds that full. */
  ballastPath?: string;
  /** Called with true before the thread stands still, and with false when the write has passed. */
  onFull?: (isFull: boolean) => void;
  /** For tests. */
  freeBytes?: (dir: string) => number;
  wait?: (ms: number) => void;
};

/** Does `write` as soon as there is room in `dir`. `write` leaves nothing behind when it throws. */
export function writeWithRoom<T>(dir: string, room: Room, write: () => T): T {
  try {
    return write();
  } catch (error) {
    if (!isDiskFull(error)) throw error;
  }
  const { ballastPath, freeBytes = freeBytesOf, wait = Bun.sleepSync, onFull } = room;
  let isTold = false;
  let mayTry = ballastPath !== undefined && existsSync(ballastPath);
  if (mayTry && ballastPath !== undefined) rmSync(ballastPath, { force: true });
  try {
    for (;;) {
      try {
        if (mayTry) return write();
      } catch (error) {
        if (!isDiskFull(error)) throw error;
      }
      if (!isTold) onFull?.(true);
      isTold = true;
      wait(RETRY_MS);
      mayTry = freeBytes(dir) >= ROOM_BYTES;
    }
  } finally {
    if (isTold) onFull?.(false);
  }
}

/** Whether a write failed for want of room alone. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof SQLiteError && error.code === "SQLITE_FULL";
}

function freeBytesOf(dir: string): number {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
}
