/**
 * raft.db: hard state, log, membership and snapshot of one member. One transaction, and so one fsync,
 * per batch of duties; what `persist` has returned from survives a power cut.
 *
 * Owns: the file, its format, and the proof that what is read is what was written (a CRC-32 per entry,
 * per snapshot piece, and over the state row). Decides nothing about consensus.
 *
 * Invariants: (D1) entries are consecutive from base + 1; (D2) a snapshot named in the state row has
 * all its pieces; (D3) only one process has the file open (exclusive lock).
 *
 * A damaged entry behind the known commit index is cut off with all that follow it: a torn tail.
 * Damage anywhere else is refused, since this member may have answered for it: the operator removes
 * the manager and lets it join again with an empty directory.
 */
import { Database, SQLiteError } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { assert } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import { crc32 } from "./checksum.ts";
import { configurationOf, decodeConfiguration, encodeConfiguration } from "./configuration.ts";
import type { LogStorage } from "./host.ts";
import {
  EMPTY_CONFIGURATION,
  type Entry,
  type HardState,
  type LogBase,
  type SnapshotMeta,
} from "./messages.ts";
import type { PersistBatch, StoredRaft } from "./raft.ts";

const FILE_NAME = "raft.db";
/** "shol": tells `file` and us what this is. */
const APPLICATION_ID = 0x73686f6c;
export const FORMAT_VERSION = 1;
/** Pages of 4 KiB in the write-ahead log before it is folded in (bun-notes §4). */
const WAL_CHECKPOINT_PAGES = 10_000;

const SCHEMA = `
CREATE TABLE state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  body TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE entry (
  log_index INTEGER PRIMARY KEY,
  term INTEGER NOT NULL,
  type INTEGER NOT NULL,
  data BLOB NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE snapshot_piece (
  snapshot_index INTEGER NOT NULL,
  piece INTEGER NOT NULL,
  data BLOB NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (snapshot_index, piece)
) STRICT;
`;

export type SqliteLog = LogStorage & {
  readonly stored: StoredRaft;
  /** Damaged entries that were cut off on opening. */
  readonly cutCount: number;
  close(): void;
};

type StateRow = {
  nodeId: NodeId;
  term: number;
  votedFor: NodeId | null;
  commitIndex: RaftIndex;
  joinedIndex: RaftIndex | null;
  base: { index: RaftIndex; term: number; members: string };
  snapshot: {
    index: RaftIndex;
    term: number;
    members: string;
    pieceCount: number;
    sizeBytes: number;
  } | null;
};

export type OpenOptions = {
  dir: string;
  nodeId: NodeId;
  /** A first batch for what was found; `isEmpty`: nothing was ever written. Thrown errors close the file. */
  begin?: (stored: StoredRaft, isEmpty: boolean) => PersistBatch | undefined;
};

/**
 * Opens raft.db in `dir`, creating both.
 *
 * @throws {ClusterError} failed-precondition when the file is another node's, of a later version,
 * or open elsewhere; internal when it is damaged.
 */
export function openSqliteLog(options: OpenOptions): SqliteLog {
  const path = join(options.dir, FILE_NAME);
  try {
    const db = openFile(options.dir);
    try {
      return serve(db, options, path);
    } catch (error) {
      db.close();
      throw error;
    }
  } catch (error) {
    if (isRot(error)) throw damaged(path, error.message);
    throw error;
  }
}

function openFile(dir: string): Database {
  const path = join(dir, FILE_NAME);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const isNew = !existsSync(path);
  const db = new Database(path, { create: true, readwrite: true, strict: true });
  try {
    // Before the first access, so that the lock is held from it on and no -shm file is made.
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    db.run(`PRAGMA wal_autocheckpoint = ${WAL_CHECKPOINT_PAGES}`);
    db.run("PRAGMA cache_size = -8192");
    const format = pragma(db, "user_version");
    const [tables] = selectOnce<{ n: number }>(db, "SELECT count(*) AS n FROM sqlite_schema");
    if (format === 0 && tables?.n === 0) {
      db.run("BEGIN IMMEDIATE");
      db.run(SCHEMA);
      db.run(`PRAGMA application_id = ${APPLICATION_ID}`);
      db.run(`PRAGMA user_version = ${FORMAT_VERSION}`);
      db.run("COMMIT");
    } else if (format !== FORMAT_VERSION || pragma(db, "application_id") !== APPLICATION_ID) {
      throw new ClusterError(
        "failed-precondition",
        `Cannot open "${path}": its format is version ${format}, this program reads ${FORMAT_VERSION}; use the version of the program that wrote it`,
      );
    }
  } catch (error) {
    db.close();
    if (!(error instanceof SQLiteError) || error.code !== "SQLITE_BUSY") throw error;
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": another process has it open; stop that one first`,
      { cause: error },
    );
  }
  if (isNew) syncDirectory(dir);
  return db;
}

/** A new file is only there after a power cut if its directory was written too. */
function syncDirectory(dir: string): void {
  for (const path of [dir, join(dir, "..")]) {
    const fd = openSync(path, "r");
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function pragma(db: Database, name: "user_version" | "application_id"): number {
  const [row] = selectOnce<Record<string, number>>(db, `PRAGMA ${name}`);
  return row?.[name] ?? 0;
}

/** Statements left open would keep the file locked after close(). */
function selectOnce<Row>(db: Database, sql: string, ...values: number[]): Row[] {
  const statement = db.prepare<Row, number[]>(sql);
  try {
    return statement.all(...values);
  } finally {
    statement.finalize();
  }
}

function serve(db: Database, options: OpenOptions, path: string): SqliteLog {
  const { nodeId } = options;
  const row = readState(db, path);
  if (row && row.nodeId !== nodeId) {
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": it belongs to node "${row.nodeId}", this node is "${nodeId}"; remove the directory to join as a new manager`,
    );
  }
  let { stored, cutCount } = readStored(db, row, path);
  const beginning = options.begin?.(stored, row === undefined);

  const statements = prepareStatements(db);
  const writeBatch = (batch: PersistBatch, kept: Kept): Kept => {
    statements.begin.run();
    try {
      const next = writeRows(statements, nodeId, batch, kept);
      statements.commit.run();
      return next;
    } catch (error) {
      // A full disk has rolled it back already, and is what the caller must hear of.
      if (db.inTransaction) statements.rollback.run();
      throw error;
    }
  };
  if (cutCount > 0) statements.deleteFrom.run(lastIndexOf(stored) + 1);
  if (beginning) {
    writeBatch(beginning, stored);
    // Read it back: what is served is what is on disk.
    stored = readStored(db, readState(db, path), path).stored;
  }
  // Pieces of a snapshot that was never put in force.
  statements.deleteOtherPieces.run(stored.snapshot?.index ?? 0);
  let kept: Kept = stored;

  return {
    stored,
    cutCount,
    persist: (batch) => {
      kept = writeBatch(batch, kept);
    },
    stageSnapshotPiece: (index, piece, data) => {
      statements.insertPiece.run(index, piece, data, crc32(data));
    },
    readSnapshotPiece: (index, piece) => {
      const found = statements.selectPiece.get(index, piece);
      if (!found) return undefined;
      if (crc32(found.data) !== found.checksum) {
        throw damaged(path, `piece ${piece} of snapshot ${index} does not match its checksum`);
      }
      return found.data;
    },
    close: () => {
      // Statements left open would keep the file locked.
      for (const statement of Object.values(statements)) statement.finalize();
      db.close(true);
    },
  };
}

/** Part of the state row that a batch may leave as it is. */
type Kept = { base: LogBase; snapshot: SnapshotMeta | undefined };
type Statements = ReturnType<typeof prepareStatements>;

function prepareStatements(db: Database) {
  return {
    begin: db.prepare("BEGIN IMMEDIATE"),
    commit: db.prepare("COMMIT"),
    rollback: db.prepare("ROLLBACK"),
    insertEntry: db.prepare(
      "INSERT INTO entry (log_index, term, type, data, checksum) VALUES (?, ?, ?, ?, ?)",
    ),
    deleteFrom: db.prepare("DELETE FROM entry WHERE log_index >= ?"),
    deleteTo: db.prepare("DELETE FROM entry WHERE log_index <= ?"),
    insertPiece: db.prepare(
      "INSERT OR REPLACE INTO snapshot_piece (snapshot_index, piece, data, checksum) VALUES (?, ?, ?, ?)",
    ),
    deleteOtherPieces: db.prepare("DELETE FROM snapshot_piece WHERE snapshot_index != ?"),
    selectPiece: db.prepare<{ data: Uint8Array; checksum: number }, [number, number]>(
      "SELECT data, checksum FROM snapshot_piece WHERE snapshot_index = ? AND piece = ?",
    ),
    writeState: db.prepare(
      "INSERT INTO state (id, body, checksum) VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?1, checksum = ?2",
    ),
  };
}

function writeRows(
  statements: Statements,
  nodeId: NodeId,
  batch: PersistBatch,
  { base, snapshot }: Kept,
): Kept {
  if (batch.isLogCleared) statements.deleteFrom.run(0);
  if (batch.base) statements.deleteTo.run(batch.base.index);
  if (batch.snapshot) {
    const { meta, pieces } = batch.snapshot;
    pieces?.forEach((data, piece) => {
      statements.insertPiece.run(meta.index, piece, data, crc32(data));
    });
    statements.deleteOtherPieces.run(meta.index);
  }
  writeEntries(statements, batch.entries);
  const kept: Kept = { base: batch.base ?? base, snapshot: batch.snapshot?.meta ?? snapshot };
  const body = JSON.stringify(stateRow(nodeId, batch.hardState, kept));
  statements.writeState.run(body, crc32(new TextEncoder().encode(body)));
  return kept;
}

function writeEntries(statements: Statements, entries: readonly Entry[]): void {
  const first = entries[0];
  if (!first) return;
  statements.deleteFrom.run(first.index);
  for (const entry of entries) {
    const type = entry.type === "normal" ? 0 : 1;
    const { index, term, data } = entry;
    statements.insertEntry.run(index, term, type, data, entryChecksum(index, term, type, data));
  }
}

/** Covers the place as well as the bytes, so that an entry cannot pass for another. */
function entryChecksum(index: RaftIndex, term: number, type: number, data: Uint8Array): number {
  const head = new DataView(new ArrayBuffer(17));
  head.setFloat64(0, index);
  head.setFloat64(8, term);
  head.setUint8(16, type);
  return crc32(data, crc32(new Uint8Array(head.buffer)));
}

// ---- reading ------------------------------------------------------------------------------------

function damaged(path: string, what: string): ClusterError {
  return new ClusterError(
    "internal",
    `Cannot read "${path}": ${what}; remove this manager from the cluster, delete the directory and let it join again`,
    // The agent then rebuilds this manager from the others (agent/rebuild.ts).
    { details: { isDamaged: true } },
  );
}

/** SQLite's own findings of rot, outside of what the checksums cover. */
function isRot(error: unknown): error is SQLiteError {
  return error instanceof SQLiteError && /^SQLITE_(CORRUPT|NOTADB)/.test(error.code ?? "");
}

function readState(db: Database, path: string): StateRow | undefined {
  type Row = { body: string; checksum: number };
  const [row] = selectOnce<Row>(db, "SELECT body, checksum FROM state WHERE id = 1");
  if (!row) return undefined;
  if (crc32(new TextEncoder().encode(row.body)) !== row.checksum) {
    throw damaged(path, "the state row does not match its checksum");
  }
  // Written by stateRow() and proved by the checksum.
  return JSON.parse(row.body) as StateRow;
}

function stateRow(nodeId: NodeId, hardState: HardState, { base, snapshot }: Kept): StateRow {
  return {
    nodeId,
    term: hardState.term,
    votedFor: hardState.votedFor ?? null,
    commitIndex: hardState.commitIndex,
    joinedIndex: hardState.joinedIndex ?? null,
    base: { index: base.index, term: base.term, members: membersText(base) },
    snapshot: snapshot
      ? {
          index: snapshot.index,
          term: snapshot.term,
          members: membersText(snapshot),
          pieceCount: snapshot.pieceCount,
          sizeBytes: snapshot.sizeBytes,
        }
      : null,
  };
}

function membersText(base: LogBase): string {
  return new TextDecoder().decode(encodeConfiguration(base.configuration));
}

function baseOf(row: { index: RaftIndex; term: number; members: string }): LogBase {
  const configuration = decodeConfiguration(new TextEncoder().encode(row.members));
  return { index: row.index, term: row.term, configuration };
}

const EMPTY: StoredRaft = {
  hardState: { term: 0, votedFor: undefined, commitIndex: 0, joinedIndex: undefined },
  base: { index: 0, term: 0, configuration: EMPTY_CONFIGURATION },
  entries: [],
  snapshot: undefined,
};

function readStored(
  db: Database,
  row: StateRow | undefined,
  path: string,
): { stored: StoredRaft; cutCount: number } {
  if (!row) return { stored: EMPTY, cutCount: 0 };
  const base = baseOf(row.base);
  const { entries, cutCount } = readEntries(db, base.index, row.commitIndex, path);
  const { snapshot } = row;
  if (base.index > (snapshot?.index ?? 0)) throw damaged(path, "the snapshot is missing");
  if (snapshot) {
    const sql = "SELECT count(*) AS n FROM snapshot_piece WHERE snapshot_index = ?";
    const [found] = selectOnce<{ n: number }>(db, sql, snapshot.index);
    if (found?.n !== snapshot.pieceCount) {
      throw damaged(path, `${found?.n} of ${snapshot.pieceCount} snapshot pieces are there`);
    }
  }
  const stored: StoredRaft = {
    hardState: {
      term: row.term,
      votedFor: row.votedFor ?? undefined,
      commitIndex: row.commitIndex,
      joinedIndex: row.joinedIndex ?? undefined,
    },
    base,
    entries,
    snapshot: snapshot
      ? {
          ...baseOf(snapshot),
          pieceCount: snapshot.pieceCount,
          sizeBytes: snapshot.sizeBytes,
        }
      : undefined,
  };
  return { stored, cutCount };
}

function readEntries(
  db: Database,
  baseIndex: RaftIndex,
  commitIndex: RaftIndex,
  path: string,
): { entries: Entry[]; cutCount: number } {
  type Row = { log_index: number; term: number; type: number; data: Uint8Array; checksum: number };
  const rows = selectOnce<Row>(db, "SELECT * FROM entry ORDER BY log_index");
  const entries: Entry[] = [];
  for (const row of rows) {
    const index = baseIndex + entries.length + 1;
    const { term, type, data } = row;
    if (row.log_index !== index || entryChecksum(index, term, type, data) !== row.checksum) break;
    entries.push({ index, term, type: type === 0 ? "normal" : "configuration", data });
  }
  const last = baseIndex + entries.length;
  if (last < commitIndex) {
    throw damaged(path, `entry ${last + 1} is missing or does not match its checksum`);
  }
  return { entries, cutCount: rows.length - entries.length };
}

function lastIndexOf(stored: StoredRaft): RaftIndex {
  return stored.base.index + stored.entries.length;
}

// ---- beginnings ---------------------------------------------------------------------------------

/** The log of a new cluster: its first entry makes this node the only voter. */
export function bootstrapBatch(nodeId: NodeId, addr: string): PersistBatch {
  const configuration = configurationOf([{ nodeId, addr, isLearner: false, addedAtIndex: 1 }]);
  const data = encodeConfiguration(configuration);
  return {
    hardState: { term: 1, votedFor: undefined, commitIndex: 1, joinedIndex: 1 },
    isLogCleared: false,
    entries: [{ index: 1, term: 1, type: "configuration", data }],
  };
}

/**
 * Disaster recovery: a further entry that makes this node the only voter. All entries of the log are
 * kept, also those not known to be committed: what was acknowledged may be among them.
 */
export function forceNewClusterBatch(
  stored: StoredRaft,
  nodeId: NodeId,
  addr: string,
): PersistBatch {
  const index = lastIndexOf(stored) + 1;
  assert(index > 1, "There is a log to begin the new cluster from");
  const term = stored.hardState.term + 1;
  const member = { nodeId, addr, isLearner: false, addedAtIndex: index };
  const data = encodeConfiguration(configurationOf([member]));
  const { commitIndex } = stored.hardState;
  return {
    hardState: { term, votedFor: nodeId, commitIndex, joinedIndex: index },
    isLogCleared: false,
    entries: [{ index, term, type: "configuration", data }],
  };
}
