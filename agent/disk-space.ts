/**
 * Watches the free space below a manager's data directory, so that it stops while it still can. A
 * thread that finds the disk full in the middle of a write stands still (core/sqlite-room.ts), and the
 * state is `critical` until it has written.
 *
 *   ok        everything
 *   low       nothing is proposed here, a leader hands over; the log of others is still taken
 *   critical  no part in raft: nothing is written for it at all; reads go on, marked stale
 *
 * A ballast file of BALLAST_BYTES is removed on entering `critical`, so that SQLite, node.json and the
 * journals of this node have room to finish and the agent can start again; it is made again when there is
 * plenty. Each state is left at a higher mark than it was entered at, so that it does not flap, and so
 * that the ballast's own space is not taken for room.
 *
 * Decides nothing about the cluster: node.ts and manager.ts act on the state.
 */
import { randomBytes } from "node:crypto";
import { existsSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const MIB = 1024 * 1024;
export const LOW_BYTES = 64 * MIB;
export const LOW_UNTIL_BYTES = 80 * MIB;
export const CRITICAL_BYTES = 16 * MIB;
export const CRITICAL_UNTIL_BYTES = 48 * MIB;
export const BALLAST_BYTES = 16 * MIB;
/** With the ballast made, still above LOW_UNTIL_BYTES. */
const BALLAST_FROM_BYTES = 112 * MIB;
const PERIOD_MS = 1_000;
const BALLAST_NAME = "ballast";

export type DiskSpace = {
  state: "ok" | "low" | "critical";
  freeBytes: number;
  /** For messages: how much is left, where, and how much is needed. */
  text: string;
};

export type DiskWatch = {
  /** As measured last. */
  space(): DiskSpace;
  /** Measures now. */
  check(): DiskSpace;
  /** A thread has found the disk full in the middle of a write, or has written at last. */
  writerWaits(isWaiting: boolean): void;
  stop(): void;
};

/** What may be removed to finish a write with. */
export function ballastPathOf(ballastDir: string): string {
  return join(ballastDir, BALLAST_NAME);
}

/** The state at `freeBytes`, coming from `before`. */
export function nextDiskState(before: DiskSpace["state"], freeBytes: number): DiskSpace["state"] {
  const criticalBelow = before === "critical" ? CRITICAL_UNTIL_BYTES : CRITICAL_BYTES;
  if (freeBytes < criticalBelow) return "critical";
  return freeBytes < (before === "ok" ? LOW_BYTES : LOW_UNTIL_BYTES) ? "low" : "ok";
}

/**
 * Measures once at once and then each second. `onSpace` is called when the state has changed, first
 * before this returns when it is not ok.
 */
export function watchDiskSpace(options: {
  /** Measured, and named in texts. */
  dir: string;
  /** Where the ballast lies; on the same file system. */
  ballastDir: string;
  onSpace?: (space: DiskSpace, wasBallastRemoved: boolean) => void;
  /** After each measuring but the first. */
  onCheck?: () => void;
  /** @default true */
  mayMakeBallast?: boolean;
  freeBytes?: (dir: string) => number;
}): DiskWatch {
  const { dir, freeBytes = freeBytesOf } = options;
  const ballastPath = ballastPathOf(options.ballastDir);
  /** Threads that stand still: whatever is measured (a quota may be full), nothing can be promised. */
  let waitingCount = 0;
  const describe = (state: DiskSpace["state"], free: number): DiskSpace => ({
    state,
    freeBytes: free,
    text: `${waitingCount > 0 ? "a write found no room, " : ""}the file system of ${dir} has ${Math.floor(free / MIB)} MiB left, ${LOW_UNTIL_BYTES / MIB} MiB are needed`,
  });

  let space = describe("ok", freeBytes(dir));
  const check = (): DiskSpace => {
    const free = freeBytes(dir);
    const state = waitingCount > 0 ? "critical" : nextDiskState(space.state, free);
    const hasChanged = state !== space.state;
    const isBallastInTheWay = state === "critical" && existsSync(ballastPath);
    space = describe(state, free);
    if (isBallastInTheWay) rmSync(ballastPath, { force: true });
    if (hasChanged) options.onSpace?.(space, isBallastInTheWay);
    if (state === "ok" && free >= BALLAST_FROM_BYTES && options.mayMakeBallast !== false) {
      makeBallast(ballastPath);
    }
    return space;
  };
  check();
  const timer = setInterval(() => {
    check();
    options.onCheck?.();
  }, PERIOD_MS);
  return {
    space: () => space,
    check,
    writerWaits: (isWaiting) => {
      waitingCount += isWaiting ? 1 : -1;
      check();
    },
    stop: () => clearInterval(timer),
  };
}

function freeBytesOf(dir: string): number {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
}

/** Random bytes, since file systems that compress or know holes would keep nothing free for zeros. */
function makeBallast(path: string): void {
  if (existsSync(path)) return;
  try {
    writeFileSync(path, randomBytes(BALLAST_BYTES), { mode: 0o600 });
  } catch (error) {
    // Filled up by somebody at this moment: the next check says so.
    rmSync(path, { force: true });
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  }
}
