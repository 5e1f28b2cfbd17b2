import { Database } from "bun:sqlite";
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configurationOf } from "../../../core/raft/configuration.ts";
import { EMPTY_CONFIGURATION, type Entry, type SnapshotMeta } from "../../../core/raft/messages.ts";
import type { PersistBatch } from "../../../core/raft/raft.ts";
import {
  bootstrapBatch,
  forceNewClusterBatch,
  FORMAT_VERSION,
  openSqliteLog,
} from "../../../core/raft/sqlite-log.ts";
import { createRowSealer } from "../../../core/sqlite-seal.ts";
import { type Random, seededRandom } from "../../../core/random.ts";
import { createDisk } from "../../sim/disk.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});

function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "shoal-log-"));
  dirs.push(dir);
  return dir;
}

const open = (dir: string, nodeId = "a") => openSqliteLog({ dir, nodeId, walBytes: 0 });
const KEY = new Uint8Array(32).fill(7);
/** As a manager of today, which seals. */
const openSealed = (dir: string, key = KEY) =>
  openSqliteLog({ dir, nodeId: "a", walBytes: 0, sealer: createRowSealer(key) });

/** Changes the file as a bad disk would. */
function tamper(dir: string, sql: string): void {
  const db = new Database(join(dir, "raft.db"), { strict: true });
  db.run(sql);
  db.close();
}

function entry(index: number, term = 1): Entry {
  return { index, term, type: "normal", data: new TextEncoder().encode(`entry ${index}/${term}`) };
}

function batchOf(entries: Entry[], commitIndex = 0): PersistBatch {
  const hardState = { term: 1, votedFor: "b", commitIndex, joinedIndex: 1 };
  return { hardState, isLogCleared: false, entries };
}

/** Appends, conflicts, compactions and snapshots in any order that a run could give. */
function randomBatches(random: Random, count: number): PersistBatch[] {
  const upTo = (max: number) => Math.floor(random.next() * (max + 1));
  let [base, last, term, snapshotIndex] = [0, 0, 1, 0];
  const configuration = configurationOf([
    { nodeId: "a", addr: "a:1", isLearner: false, addedAtIndex: 1 },
  ]);
  return Array.from({ length: count }, () => {
    term += upTo(1);
    const batch: PersistBatch = {
      hardState: {
        term,
        votedFor: upTo(1) === 1 ? "b" : undefined,
        commitIndex: base,
        joinedIndex: upTo(1) === 1 ? 3 : undefined,
      },
      isLogCleared: false,
      entries: [],
    };
    const kind = upTo(5);
    if (kind === 0) {
      snapshotIndex = last + 1 + upTo(3);
      [base, last] = [snapshotIndex, snapshotIndex];
      const pieces = Array.from({ length: 1 + upTo(2) }, () => random.bytes(upTo(40)));
      const meta = { index: base, term, configuration, pieceCount: pieces.length, sizeBytes: 9 };
      Object.assign(batch, { isLogCleared: true, snapshot: { meta, pieces }, base: meta });
    } else if (kind === 1 && base < snapshotIndex && snapshotIndex <= last) {
      base += upTo(snapshotIndex - base);
      batch.base = { index: base, term, configuration };
    } else {
      const from = Math.max(base + 1, last + 1 - upTo(3));
      const length = upTo(4);
      batch.entries = Array.from({ length }, (_, i) => entry(from + i, term));
      if (length > 0) last = from + length - 1;
    }
    return batch;
  });
}

describe("sqlite-log", () => {
  test("holds after every batch what the simulator's disk holds", () => {
    for (let seed = 1; seed <= 8; seed++) {
      const dir = tempDir();
      const disk = createDisk();
      const reopen = seed % 2 === 0 ? openSealed : open;
      let log = reopen(dir);
      for (const batch of randomBatches(seededRandom(seed), 25)) {
        log.persist(batch);
        disk.persist(batch);
        log.close();
        log = reopen(dir);
        const expected = disk.read();
        // The base is kept as a base only, not as the snapshot that it came with.
        const { index, term, configuration } = expected.base;
        expect(log.stored).toEqual({ ...expected, base: { index, term, configuration } });
        for (let piece = 0; piece < (expected.snapshot?.pieceCount ?? 0); piece++) {
          const at = expected.snapshot?.index ?? 0;
          expect(log.readSnapshotPiece(at, piece)).toEqual(disk.readSnapshotPiece(at, piece));
        }
      }
      log.close();
    }
  }, 30_000);

  describe("with a sealer", () => {
    const snapshotOf = (index: number, pieces: Uint8Array[]): PersistBatch => {
      const meta = { index, term: 1, configuration: EMPTY_CONFIGURATION };
      const sizes = { pieceCount: pieces.length, sizeBytes: 9 };
      return { ...batchOf([], index), snapshot: { meta: { ...meta, ...sizes }, pieces } };
    };
    const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes);
    const bytesOf = (dir: string) =>
      ["raft.db", "raft.db-wal"]
        .map((name) => join(dir, name))
        .filter((path) => existsSync(path))
        .map((path) => readFileSync(path, "latin1"))
        .join("");

    test("neither entries nor snapshots are on the disk in clear", () => {
      const dir = tempDir();
      let log = openSealed(dir);
      log.persist(batchOf([entry(1), entry(2)], 2));
      log.persist(snapshotOf(2, [new TextEncoder().encode("piece of state")]));
      log.close();
      expect(bytesOf(dir)).not.toMatch(/entry [12]|piece of/);
      log = openSealed(dir);
      expect(log.stored.entries.map(({ data }) => text(data))).toEqual(["entry 1/1", "entry 2/1"]);
      expect(text(log.readSnapshotPiece(2, 0))).toBe("piece of state");
      log.close();
    });

    test("another key, or none, is refused in words, also where a loss would be accepted", () => {
      const dir = tempDir();
      const log = openSealed(dir);
      log.persist(batchOf([entry(1)], 1));
      log.close();
      for (const attempt of [
        () => open(dir),
        () => openSealed(dir, new Uint8Array(32)),
        () => openSqliteLog({ dir, nodeId: "a", walBytes: 0, acceptLoss: true }),
      ]) {
        try {
          attempt();
          throw new Error("it was opened");
        } catch (error) {
          expect(error).toMatchObject({
            code: "failed-precondition",
            details: { isDamaged: true },
          });
          expect(String(error)).toContain("restore pki/storage-key");
        }
      }
      openSealed(dir).close();
    });

    test("what an older version has written in clear is read, until it is compacted away", () => {
      const dir = tempDir();
      let log = open(dir);
      log.persist(batchOf([entry(1)], 1));
      log.persist(snapshotOf(1, [new TextEncoder().encode("old state")]));
      log.close();
      tamper(dir, "ALTER TABLE snapshot_piece DROP COLUMN is_sealed");
      tamper(dir, "PRAGMA user_version = 2");
      log = openSealed(dir);
      log.persist(batchOf([entry(2)], 2));
      log.close();
      log = openSealed(dir);
      expect(log.stored.entries.map(({ data }) => text(data))).toEqual(["entry 1/1", "entry 2/1"]);
      expect(text(log.readSnapshotPiece(1, 0))).toBe("old state");
      log.persist({
        ...snapshotOf(2, [new Uint8Array([1])]),
        base: { index: 2, term: 1, configuration: EMPTY_CONFIGURATION },
      });
      log.close();
      tamper(dir, "VACUUM");
      expect(bytesOf(dir)).not.toMatch(/entry 1|old state/);
    });
  });

  test("puts staged pieces in force with their batch only", () => {
    const dir = tempDir();
    let log = open(dir);
    log.persist(batchOf([entry(1), entry(2)], 2));
    log.stageSnapshotPiece(2, 0, new Uint8Array([1]));
    log.close();
    log = open(dir);
    expect(log.stored.snapshot).toBeUndefined();
    expect(log.readSnapshotPiece(2, 0)).toBeUndefined();
    log.stageSnapshotPiece(2, 0, new Uint8Array([2]));
    const meta: SnapshotMeta = {
      index: 2,
      term: 1,
      configuration: EMPTY_CONFIGURATION,
      pieceCount: 1,
      sizeBytes: 1,
    };
    log.persist({ ...batchOf([], 2), snapshot: { meta, pieces: undefined } });
    log.close();
    log = open(dir);
    expect(log.stored.snapshot).toEqual(meta);
    expect(log.readSnapshotPiece(2, 0)).toEqual(new Uint8Array([2]));
    log.close();
  });

  test("refuses a damaged entry behind the known commit index, and cuts it off for one who has no others", () => {
    const dir = tempDir();
    let log = open(dir);
    log.persist(
      batchOf(
        [1, 2, 3, 4].map((index) => entry(index)),
        2,
      ),
    );
    log.close();
    tamper(dir, "UPDATE entry SET data = x'00' WHERE log_index = 3");
    expect(() => open(dir)).toThrow(/entry 3 is missing or does not match/);
    log = openSqliteLog({ dir, nodeId: "a", acceptLoss: true });
    expect(log.stored.entries.map((e) => e.index)).toEqual([1, 2]);
    expect(log.lost).toMatch(/entry 3/);
    log.close();
    log = open(dir);
    expect(log.lost).toBeUndefined();
    log.persist(batchOf([entry(3, 2)], 2));
    log.close();
  });

  test.each([
    ["a changed entry", "UPDATE entry SET data = x'00' WHERE log_index = 2"],
    ["an entry in another's place", "UPDATE entry SET log_index = 9 WHERE log_index = 2"],
    ["a changed term", "UPDATE entry SET term = 7 WHERE log_index = 1"],
    ["a missing entry", "DELETE FROM entry WHERE log_index = 1"],
    ["a changed state row", `UPDATE state SET body = replace(body, '"term":1', '"term":2')`],
  ])("refuses %s before the commit index", (_, sql) => {
    const dir = tempDir();
    const log = open(dir);
    log.persist(batchOf([entry(1), entry(2), entry(3)], 3));
    log.close();
    tamper(dir, sql);
    expect(() => open(dir)).toThrow(/let it join again/);
  });

  test("refuses a damaged or missing snapshot piece", () => {
    const dir = tempDir();
    let log = open(dir);
    const base = { index: 5, term: 1, configuration: EMPTY_CONFIGURATION };
    const meta = { ...base, pieceCount: 2, sizeBytes: 2 };
    const pieces = [new Uint8Array([1]), new Uint8Array([2])];
    log.persist({ ...batchOf([], 5), isLogCleared: true, base, snapshot: { meta, pieces } });
    log.close();
    tamper(dir, "UPDATE snapshot_piece SET data = x'07' WHERE piece = 0");
    expect(() => open(dir)).toThrow(/piece 0 of snapshot 5 does not match its checksum/);
    tamper(dir, "DELETE FROM snapshot_piece WHERE piece = 1");
    expect(() => open(dir)).toThrow(/1 of 2 snapshot pieces/);
  });

  test("refuses another node's file, another format, and a second user", () => {
    const dir = tempDir();
    const log = openSqliteLog({ dir, nodeId: "a", begin: () => bootstrapBatch("a", "a:1") });
    expect(() => open(dir)).toThrow(/another process/);
    log.close();
    expect(() => open(dir, "b")).toThrow(/belongs to node "a"/);
    tamper(dir, `PRAGMA user_version = ${FORMAT_VERSION + 1}`);
    expect(() => open(dir)).toThrow(/format is version 4, this program reads 1 to 3/);
    tamper(dir, `PRAGMA application_id = 7`);
    expect(() => open(dir)).toThrow(/no log of shoal/);
  });

  test("begins a cluster, and begins it again by force with everything it had", () => {
    const dir = tempDir();
    let log = openSqliteLog({ dir, nodeId: "a", begin: () => bootstrapBatch("a", "a:1") });
    expect(log.stored.hardState).toEqual({
      term: 1,
      votedFor: undefined,
      commitIndex: 1,
      joinedIndex: 1,
    });
    log.persist(batchOf([entry(2), entry(3)], 2));
    log.close();
    log = openSqliteLog({
      dir,
      nodeId: "a",
      begin: (stored, isEmpty) => (isEmpty ? undefined : forceNewClusterBatch(stored, "a", "a:2")),
    });
    expect(log.stored.entries.map((e) => `${e.index} ${e.type}`)).toEqual([
      "1 configuration",
      "2 normal",
      "3 normal",
      "4 configuration",
    ]);
    expect(log.stored.hardState).toMatchObject({ term: 2, commitIndex: 2, joinedIndex: 4 });
    log.close();
  });

  test("writes nothing of a batch that fails half way", () => {
    const dir = tempDir();
    let log = open(dir);
    log.persist(batchOf([entry(1)], 1));
    const broken = { ...entry(3), data: "no bytes" as unknown as Uint8Array }; // what STRICT refuses
    expect(() => log.persist(batchOf([entry(2), broken], 2))).toThrow();
    log.close();
    log = open(dir);
    expect(log.stored.entries.map((e) => e.index)).toEqual([1]);
    expect(log.stored.hardState.commitIndex).toBe(1);
    log.close();
  });

  test("brings a file of format 1 to its own, once", () => {
    const dir = tempDir();
    writeFormat1(dir);
    let log = open(dir);
    expect(log.stored.hardState).toEqual({
      term: 2,
      votedFor: "b",
      commitIndex: 2,
      joinedIndex: 1,
    });
    expect(log.stored.entries).toEqual([entry(1), entry(2)]);
    log.persist(batchOf([entry(3)], 2));
    log.close();
    log = open(dir);
    expect(log.stored.entries.map((e) => e.index)).toEqual([1, 2, 3]);
    log.close();
  });
});

/** As the program of format 1 wrote it. */
function writeFormat1(dir: string): void {
  const db = new Database(join(dir, "raft.db"), { create: true });
  db.run("PRAGMA journal_mode = WAL");
  db.run(`
CREATE TABLE state (
  id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE entry (
  log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL, data BLOB NOT NULL,
  checksum INTEGER NOT NULL) STRICT;
CREATE TABLE snapshot_piece (
  snapshot_index INTEGER NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL,
  checksum INTEGER NOT NULL, PRIMARY KEY (snapshot_index, piece)) STRICT;`);
  const body = JSON.stringify({
    nodeId: "a",
    term: 2,
    votedFor: "b",
    commitIndex: 2,
    joinedIndex: 1,
    base: { index: 0, term: 0, members: "[]" },
    snapshot: null,
  });
  db.run("INSERT INTO state VALUES (1, ?, ?)", [body, Bun.hash.crc32(body)]);
  for (const { index, term, data } of [entry(1), entry(2)]) {
    const head = new DataView(new ArrayBuffer(17));
    head.setFloat64(0, index);
    head.setFloat64(8, term);
    const whole = Buffer.concat([Buffer.from(head.buffer), data]);
    db.run("INSERT INTO entry VALUES (?, ?, 0, ?, ?)", [index, term, data, Bun.hash.crc32(whole)]);
  }
  db.run("PRAGMA application_id = 1936224108"); // "shol"
  db.run("PRAGMA user_version = 1");
  db.close();
}
