import { afterEach, describe, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClusterError } from "../../../core/errors.ts";
import { EMPTY_CONFIGURATION, type Entry } from "../../../core/raft/messages.ts";
import type { PersistBatch } from "../../../core/raft/raft.ts";
import { openSqliteLog, type SqliteLog } from "../../../core/raft/sqlite-log.ts";
import { inspectWal } from "../../../core/raft/sqlite-wal.ts";
import { seededRandom } from "../../../core/random.ts";

const FRAME_BYTES = 24 + 4096;
const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "shoal-rot-"));
  dirs.push(dir);
  return dir;
}

/** Behind what is used there is room for a frame that was never written. */
const WAL_BYTES = 256 * 1024;
const open = (dir: string, acceptLoss = false) =>
  openSqliteLog({ dir, nodeId: "a", acceptLoss, walBytes: WAL_BYTES });
const walOf = (dir: string) => join(dir, "raft.db-wal");

function batchOf(index: number): PersistBatch {
  const data = new TextEncoder().encode(`entry ${index}`);
  const entries: Entry[] = [{ index, term: 1, type: "normal", data }];
  const hardState = { term: 1, votedFor: undefined, commitIndex: 0, joinedIndex: 1 };
  return { hardState, isLogCleared: false, entries };
}

/** The files as a killed process leaves them, with `witnessOf` batches known to the witness. */
function killed(count: number, witnessOf = count): string {
  const [dir, left] = [tempDir(), tempDir()];
  const log = open(dir);
  const copy = (name: string) => copyFileSync(join(dir, name), join(left, name));
  for (let index = 1; index <= count; index++) {
    if (index === witnessOf + 1) copy("witness");
    log.persist(batchOf(index));
  }
  copy("raft.db");
  copy("raft.db-wal");
  if (witnessOf === count) copy("witness");
  log.close();
  return left;
}

/** Byte `offset` of the last transaction's first frame, or of an earlier one's. */
function flip(dir: string, frameFromEnd: number, offset = 100): void {
  const bytes = readFileSync(walOf(dir));
  const at = 32 + (frameCount(bytes) - frameFromEnd) * FRAME_BYTES + offset;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(walOf(dir), bytes);
}

/** The log is longer than what is in it. */
function frameCount(wal: Buffer): number {
  let count = 0;
  while (wal.readUInt32BE(32 + count * FRAME_BYTES) !== 0) count++;
  return count;
}

function lastIndex(log: SqliteLog): number {
  const { length } = log.stored.entries;
  log.close();
  return length;
}

function isRefusedAsDamaged(dir: string): boolean {
  try {
    open(dir).close();
    return false;
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return error.details["isDamaged"] === true;
  }
}

describe("sqlite-log after a kill", () => {
  test("has everything", () => {
    const dir = killed(5);
    expect(inspectWal(walOf(dir))).toMatchObject({ hasTornTail: false });
    expect(lastIndex(open(dir))).toBe(5);
  });

  test("takes a batch that was never synced back, when the witness does not know it", () => {
    const dir = killed(5, 4);
    flip(dir, 1);
    expect(inspectWal(walOf(dir))).toMatchObject({ hasTornTail: true });
    expect(inspectWal(walOf(dir))?.rot).toBeUndefined();
    expect(lastIndex(open(dir))).toBe(4);
    expect(inspectWal(walOf(dir))?.hasTornTail ?? false).toBe(false);
  });

  test("refuses when a batch has gone that the witness knows, and says how many", () => {
    const dir = killed(5);
    flip(dir, 1);
    expect(() => open(dir)).toThrow(/last 1 batches of it are missing/);
    expect(isRefusedAsDamaged(dir)).toBe(true);
    const log = open(dir, true);
    expect(log.lost).toMatch(/last 1 batches/);
    expect(lastIndex(log)).toBe(4);
    // Accepted once; from then on it is as any other.
    expect(lastIndex(open(dir))).toBe(4);
  });

  test.each([
    ["the write-ahead log", "raft.db-wal"],
    ["the file", "raft.db"],
  ])("refuses when %s has gone", (_, name) => {
    const dir = killed(3);
    rmSync(join(dir, name));
    if (name === "raft.db") rmSync(walOf(dir));
    expect(isRefusedAsDamaged(dir)).toBe(true);
  });

  test("refuses rot before later transactions even without a witness", () => {
    for (const frameFromEnd of [3, 5, 8]) {
      const dir = killed(6);
      rmSync(join(dir, "witness"));
      flip(dir, frameFromEnd);
      expect(inspectWal(walOf(dir))?.rot).toMatch(/later transactions follow/);
      expect(isRefusedAsDamaged(dir)).toBe(true);
    }
  });

  test("refuses a rotten header of the write-ahead log", () => {
    const dir = killed(3);
    rmSync(join(dir, "witness"));
    flip(dir, frameCount(readFileSync(walOf(dir))), -32 + 18);
    expect(() => open(dir)).toThrow(/header of its WAL/);
  });

  test("never serves less than what was answered for, whatever bit of the tail is flipped", () => {
    const random = seededRandom(11);
    const dir = killed(8);
    const good = readFileSync(walOf(dir));
    const used = 32 + frameCount(good) * FRAME_BYTES;
    for (let i = 0; i < 40; i++) {
      const copy = tempDir();
      for (const name of ["raft.db", "witness"]) copyFileSync(join(dir, name), join(copy, name));
      const harmed = Buffer.from(good);
      harmed[Math.floor(random.next() * used)]! ^= 1 << Math.floor(random.next() * 8);
      writeFileSync(walOf(copy), harmed);
      if (!isRefusedAsDamaged(copy)) expect(lastIndex(open(copy))).toBe(8);
    }
  });
});

describe("sqlite-log while it runs", () => {
  test("refuses a piece that has rotted, and the next start refuses the log", () => {
    const dir = tempDir();
    const log = open(dir);
    const base = { index: 5, term: 1, configuration: EMPTY_CONFIGURATION };
    const meta = { ...base, pieceCount: 1, sizeBytes: 20_000 };
    const data = seededRandom(3).bytes(20_000);
    log.persist({
      ...batchOf(6),
      isLogCleared: true,
      base,
      snapshot: { meta, pieces: [data] },
    });
    log.close();
    const file = join(dir, "raft.db");
    const bytes = readFileSync(file);
    bytes[bytes.indexOf(Buffer.from(data.subarray(8_000, 8_040)))]! ^= 1;
    const again = open(dir);
    // Below SQLite, which has none of its pages in memory yet.
    writeFileSync(file, bytes);
    expect(() => again.readSnapshotPiece(5, 0)).toThrow(/does not match its checksum/);
    again.close();
    expect(existsSync(join(dir, "damaged"))).toBe(true);
    expect(() => open(dir)).toThrow(/met while it ran/);
    expect(isRefusedAsDamaged(dir)).toBe(true);
  });
});
