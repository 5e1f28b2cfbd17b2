/**
 * raft.db: hard state, log, membership and snapshot of one member. One transaction, and so one fsync,
 * per batch of duties; what `persist` has returned from survives a power cut.
 *
 * Owns: the file, its format, and the proof that what is read is what was written (a CRC-32 per entry,
 * per snapshot piece, and over the state row) and all that was written (sqlite-witness.ts). Decides
 * nothing about consensus.
 *
 * Invariants: (D1) entries are consecutive from base + 1; (D2) a snapshot named in the state row has
 * all its pieces; (D3) only one process has the file open (exclusive lock); (D4) the state row knows at
 * least as many batches as the witness.
 *
 * What a power cut leaves of a batch that was not synced is taken back by SQLite as a whole, and nothing
 * was answered for it. So whatever is missing or does not match its checksum has rotted, and this member
 * may have answered for it: it is refused, and the manager rebuilds itself from the others
 * (agent/rebuild.ts). Rot that is met while it runs is marked, so that the next start refuses too.
 * `acceptLoss` opens what can be read, for one who has no others.
 *
 * With a sealer entries and snapshots lie here encrypted (../sqlite-seal.ts), and the state row names its key;
 * configurations and the state row do not. Checksums are over what is stored. What was written before there was a
 * sealer stays as it is until it is compacted away.
 *
 * A full disk makes the writer wait (sqlite-room.ts). The write-ahead log is made long in advance: an
 * fsync that need not write the file's new length takes half the time.
 */
import { Database, SQLiteError } from "bun:sqlite";
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { assert } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import { migrate, type MigrationStep, readUserVersion } from "../sqlite-migrate.ts";
import { type Room, writeWithRoom } from "../sqlite-room.ts";
import type { RowSealer } from "../sqlite-seal.ts";
import { crc32 } from "./checksum.ts";
import { configurationOf, decodeConfiguration, encodeConfiguration } from "./configuration.ts";
import { type LogStorage, SNAPSHOT_PIECE_BYTES } from "./host.ts";
import {
  type Configuration,
  EMPTY_CONFIGURATION,
  type Entry,
  type HardState,
  type LogBase,
  type SnapshotMeta,
} from "./messages.ts";
import type { PersistBatch, StoredRaft } from "./raft.ts";
import { inspectWal } from "./sqlite-wal.ts";
import { openWitness, type Witness } from "./sqlite-witness.ts";

const FILE_NAME = "raft.db";
const WITNESS_NAME = "witness";
/** Why this log must not be used any more, if it must not. */
const MARK_NAME = "damaged";
/** "shol": tells `file` and us what this is. */
const APPLICATION_ID = 0x73686f6c;
/** 2: the state row counts batches. 3: entries and snapshots may be sealed. */
export const FORMAT_VERSION = 3;
/** Added to an entry's type. */
const SEALED = 16;
/** Pages of 4 KiB in the write-ahead log before it is folded in: the next begins at its start again. */
const WAL_CHECKPOINT_PAGES = 4_000;
/** So long is the write-ahead log made in advance; the last batch before it is folded in may be big. */
const WAL_BYTES = 17 * 1024 * 1024;
/** With less room it is left short: slower, but there. */
const WAL_FROM_FREE_BYTES = 128 * 1024 * 1024;

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
  is_sealed INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (snapshot_index, piece)
) STRICT;
`;

const STEPS: readonly MigrationStep[] = [
  {
    from: 1,
    change: (db) => {
      const row = selectState(db);
      // One that has rotted is left as it is, for readState to refuse.
      if (!row || !isStateGood(row)) return;
      const body = JSON.stringify({ ...(JSON.parse(row.body) as object), batchCount: 0 });
      db.run("UPDATE state SET body = ?, checksum = ? WHERE id = 1", [body, textChecksum(body)]);
    },
  },
  {
    from: 2,
    change: (db) =>
      db.run("ALTER TABLE snapshot_piece ADD COLUMN is_sealed INTEGER NOT NULL DEFAULT 0"),
  },
];

export type SqliteLog = LogStorage & {
  readonly stored: StoredRaft;
  /** What `acceptLoss` has accepted, for the operator. */
  readonly lost: string | undefined;
  close(): void;
};

type StateRow = {
  nodeId: NodeId;
  term: number;
  votedFor: NodeId | null;
  commitIndex: RaftIndex;
  joinedIndex: RaftIndex | null;
  /** Batches so far, this one included. */
  batchCount: number;
  /** The key by which some of it is sealed. */
  sealedBy?: string;
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
  /**
   * Opens what can be read although more was answered for. Only for a member that has nobody to get it
   * from: with others it would break what it promised them.
   */
  acceptLoss?: boolean;
  room?: Room;
  /** @default entries and snapshots lie in clear */
  sealer?: RowSealer;
  /** How long the write-ahead log is made in advance. @default WAL_BYTES */
  walBytes?: number;
};

/**
 * Opens raft.db in `dir`, creating both.
 *
 * @throws {ClusterError} failed-precondition when the file is another node's, of a later version,
 * or open elsewhere; internal when it is damaged (`details.isDamaged`).
 */
export function openSqliteLog(options: OpenOptions): SqliteLog {
  const { dir } = options;
  const path = join(dir, FILE_NAME);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const loss: Loss = {
    text: undefined,
    found: (what) => {
      if (options.acceptLoss !== true) throw damaged(path, what);
      loss.text ??= what;
    },
  };
  try {
    const mark = readMark(dir);
    if (mark !== undefined) loss.found(mark);
    const { db, hasTornTail } = openFile(dir, loss);
    const witness = openWitness(join(dir, WITNESS_NAME));
    try {
      // What is left of a batch that was cut off must not lie behind later ones.
      if (hasTornTail) db.run("PRAGMA wal_checkpoint(TRUNCATE)");
      const log = serve(db, witness, options, loss);
      rmSync(join(dir, MARK_NAME), { force: true });
      lengthenWal(dir, options.walBytes ?? WAL_BYTES);
      return log;
    } catch (error) {
      witness.close();
      db.close();
      throw error;
    }
  } catch (error) {
    if (isRot(error)) throw damaged(path, error.message);
    throw error;
  }
}

/** What was found to be missing or rotten; `found` throws unless the loss is accepted. */
type Loss = { text: string | undefined; found(what: string): void };

function readMark(dir: string): string | undefined {
  const path = join(dir, MARK_NAME);
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}

/** SQLite keeps its length from here on. Zeros: that is what it takes for no frames. */
function lengthenWal(dir: string, sizeBytes: number): void {
  const { bavail, bsize } = statfsSync(dir);
  if (bavail * bsize < WAL_FROM_FREE_BYTES) return;
  const path = join(dir, `${FILE_NAME}-wal`);
  if (!existsSync(path)) return;
  const file = openSync(path, "r+");
  try {
    const { size } = fstatSync(file);
    const zeros = new Uint8Array(1024 * 1024);
    for (let at = size; at < sizeBytes; at += zeros.length) {
      writeSync(file, zeros, 0, Math.min(zeros.length, sizeBytes - at), at);
    }
    if (size < sizeBytes) fdatasyncSync(file);
  } catch (error) {
    // Others were quicker: it is as long as it is.
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  } finally {
    closeSync(file);
  }
}

function openFile(dir: string, loss: Loss): { db: Database; hasTornTail: boolean } {
  const path = join(dir, FILE_NAME);
  const isNew = !existsSync(path);
  const db = new Database(path, { create: true, readwrite: true, strict: true });
  try {
    // Before the first access, so that the lock is held from it on and no -shm file is made.
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    db.run(`PRAGMA wal_autocheckpoint = ${WAL_CHECKPOINT_PAGES}`);
    db.run("PRAGMA cache_size = -8192");
    const [tables] = selectOnce<{ n: number }>(db, "SELECT count(*) AS n FROM sqlite_schema");
    // Nobody else writes any more, and nothing was written here yet.
    const wal = inspectWal(`${path}-wal`);
    if (wal?.rot !== undefined) loss.found(wal.rot);
    if (readUserVersion(db) === 0 && tables?.n === 0) {
      db.run("BEGIN IMMEDIATE");
      db.run(SCHEMA);
      db.run(`PRAGMA application_id = ${APPLICATION_ID}`);
      db.run(`PRAGMA user_version = ${FORMAT_VERSION}`);
      db.run("COMMIT");
    } else {
      refuseStranger(db, path);
      migrate(db, { path, version: FORMAT_VERSION, steps: STEPS });
    }
    if (isNew) syncDirectory(dir);
    return { db, hasTornTail: wal?.hasTornTail ?? false };
  } catch (error) {
    db.close();
    if (!(error instanceof SQLiteError) || error.code !== "SQLITE_BUSY") throw error;
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": another process has it open; stop that one first`,
      { cause: error },
    );
  }
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

function refuseStranger(db: Database, path: string): void {
  const [row] = selectOnce<{ application_id: number }>(db, "PRAGMA application_id");
  if (row?.application_id === APPLICATION_ID) return;
  throw new ClusterError(
    "failed-precondition",
    `Cannot open "${path}": it is no log of shoal; move it away`,
  );
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

function serve(db: Database, witness: Witness, options: OpenOptions, loss: Loss): SqliteLog {
  const { dir, nodeId, room = {}, sealer } = options;
  const path = join(dir, FILE_NAME);
  const [check] = selectOnce<{ integrity_check: string }>(db, "PRAGMA integrity_check(1)");
  if (check?.integrity_check !== "ok") throw damaged(path, `${check?.integrity_check}`);
  const row = readState(db, path);
  if (row && row.nodeId !== nodeId) {
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": it belongs to node "${row.nodeId}", this node is "${nodeId}"; remove the directory to join as a new manager`,
    );
  }
  if (row?.sealedBy !== undefined && row.sealedBy !== sealer?.keyId) {
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": it is sealed by key ${row.sealedBy}, this manager has ${sealer ? `key ${sealer.keyId}` : "none"}; restore pki/storage-key, or let this node leave by force and join again`,
      // To the others it is as one that has rotted: they rebuild it. Alone nothing is taken for lost.
      { details: { isDamaged: true } },
    );
  }
  const known = row?.batchCount ?? 0;
  const answered = witness.batchCount ?? 0;
  if (known < answered) loss.found(`the last ${answered - known} batches of it are missing`);
  let stored = readStored(db, row, path, loss, sealer);
  const beginning = options.begin?.(stored, row === undefined);

  const statements = prepareStatements(db);
  const writeBatch = (batch: PersistBatch, kept: Kept): Kept => {
    statements.begin.run();
    try {
      const next = writeRows(statements, { nodeId, sealer }, batch, kept);
      statements.commit.run();
      witness.record(next.batchCount);
      return next;
    } catch (error) {
      // A full disk has rolled it back already, and is what the caller must hear of.
      if (db.inTransaction) statements.rollback.run();
      throw error;
    }
  };
  const lastIndex = lastIndexOf(stored);
  if (loss.text !== undefined) statements.deleteFrom.run(lastIndex + 1);
  let kept: Kept = { ...stored, lastIndex, batchCount: known };
  if (beginning) {
    kept = writeBatch(beginning, kept);
    // Read it back: what is served is what is on disk.
    stored = readStored(db, readState(db, path), path, loss, sealer);
  } else {
    witness.record(known);
  }
  // Pieces of a snapshot that was never put in force.
  statements.deleteOtherPieces.run(stored.snapshot?.index ?? 0);

  /** Of whatever touches the file from now on. */
  const guard = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      if (!isRot(error) && !isDamaged(error)) throw error;
      writeMark(dir, error.message);
      throw isRot(error) ? damaged(path, error.message) : error;
    }
  };
  return {
    stored,
    lost: loss.text,
    persist: (batch) => {
      kept = guard(() => writeWithRoom(dir, room, () => writeBatch(batch, kept)));
    },
    stageSnapshotPiece: (index, piece, data) => {
      const stage = () => insertPiece(statements, sealer, { index, piece, data });
      guard(() => writeWithRoom(dir, room, stage));
    },
    readSnapshotPiece: (index, piece) =>
      guard(() => {
        const found = statements.selectPiece.get(index, piece);
        if (!found) return undefined;
        if (crc32(found.data) !== found.checksum) throw rottenPiece(path, index, piece);
        if (found.is_sealed === 0) return found.data;
        return sealerOf(sealer).open(pieceContext(index, piece), found.data);
      }),
    close: () => {
      // Statements left open would keep the file locked.
      for (const statement of Object.values(statements)) statement.finalize();
      db.close(true);
      witness.close();
    },
  };
}

/** Best effort: without it, the next start finds the rot itself or meets it again. */
function writeMark(dir: string, what: string): void {
  try {
    writeFileSync(join(dir, MARK_NAME), `met while it ran: ${what}`, { mode: 0o600 });
  } catch (error) {
    if (typeof (error as NodeJS.ErrnoException).code !== "string") throw error;
  }
}

/** Part of the state row that a batch may leave as it is. */
type Kept = {
  base: LogBase;
  snapshot: SnapshotMeta | undefined;
  batchCount: number;
  lastIndex: RaftIndex;
};
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
      "INSERT OR REPLACE INTO snapshot_piece (snapshot_index, piece, data, checksum, is_sealed) VALUES (?, ?, ?, ?, ?)",
    ),
    deleteOtherPieces: db.prepare("DELETE FROM snapshot_piece WHERE snapshot_index != ?"),
    selectPiece: db.prepare<
      { data: Uint8Array; checksum: number; is_sealed: number },
      [number, number]
    >(
      "SELECT data, checksum, is_sealed FROM snapshot_piece WHERE snapshot_index = ? AND piece = ?",
    ),
    writeState: db.prepare(
      "INSERT INTO state (id, body, checksum) VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET body = ?1, checksum = ?2",
    ),
  };
}

type Owner = { nodeId: NodeId; sealer: RowSealer | undefined };

function writeRows(statements: Statements, owner: Owner, batch: PersistBatch, before: Kept): Kept {
  const base = batch.base ?? before.base;
  if (batch.isLogCleared) statements.deleteFrom.run(0);
  if (batch.base) statements.deleteTo.run(batch.base.index);
  if (batch.snapshot) {
    const { meta, pieces } = batch.snapshot;
    pieces?.forEach((data, piece) => {
      insertPiece(statements, owner.sealer, { index: meta.index, piece, data });
    });
    statements.deleteOtherPieces.run(meta.index);
  }
  writeEntries(statements, owner.sealer, batch.entries, before.lastIndex);
  const lastKept = batch.isLogCleared ? base.index : before.lastIndex;
  const kept: Kept = {
    base,
    snapshot: batch.snapshot?.meta ?? before.snapshot,
    batchCount: before.batchCount + 1,
    lastIndex: Math.max(base.index, batch.entries.at(-1)?.index ?? lastKept),
  };
  const body = JSON.stringify(stateRow(owner, batch.hardState, kept));
  statements.writeState.run(body, textChecksum(body));
  return kept;
}

function insertPiece(
  statements: Statements,
  sealer: RowSealer | undefined,
  { index, piece, data }: { index: RaftIndex; piece: number; data: Uint8Array },
): void {
  const stored = sealer?.seal(pieceContext(index, piece), data) ?? data;
  statements.insertPiece.run(index, piece, stored, crc32(stored), sealer ? 1 : 0);
}

function pieceContext(index: RaftIndex, piece: number): string {
  return `piece ${piece} of snapshot ${index}`;
}

function entryContext(index: RaftIndex, term: number): string {
  return `entry ${index} of term ${term}`;
}

/** The state row has named its key, or nothing would be sealed. */
function sealerOf(sealer: RowSealer | undefined): RowSealer {
  assert(sealer !== undefined, "What is sealed is met with its key");
  return sealer;
}

function writeEntries(
  statements: Statements,
  sealer: RowSealer | undefined,
  entries: readonly Entry[],
  lastIndex: RaftIndex,
): void {
  const first = entries[0];
  if (!first) return;
  if (first.index <= lastIndex) statements.deleteFrom.run(first.index);
  for (const entry of entries) {
    const { index, term } = entry;
    const isSealed = sealer !== undefined && entry.type === "normal" && entry.data.length > 0;
    const type = (entry.type === "normal" ? 0 : 1) + (isSealed ? SEALED : 0);
    const data = isSealed ? sealer.seal(entryContext(index, term), entry.data) : entry.data;
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

function isDamaged(error: unknown): error is ClusterError {
  return error instanceof ClusterError && error.details["isDamaged"] === true;
}

function rottenPiece(path: string, index: RaftIndex, piece: number): ClusterError {
  return damaged(path, `piece ${piece} of snapshot ${index} does not match its checksum`);
}

/** SQLite's own findings of rot, outside of what the checksums cover. */
function isRot(error: unknown): error is SQLiteError {
  return error instanceof SQLiteError && /^SQLITE_(CORRUPT|NOTADB)/.test(error.code ?? "");
}

type StateText = { body: string; checksum: number };

function selectState(db: Database): StateText | undefined {
  return selectOnce<StateText>(db, "SELECT body, checksum FROM state WHERE id = 1")[0];
}

function isStateGood({ body, checksum }: StateText): boolean {
  return textChecksum(body) === checksum;
}

function textChecksum(text: string): number {
  return crc32(new TextEncoder().encode(text));
}

function readState(db: Database, path: string): StateRow | undefined {
  const row = selectState(db);
  if (!row) return undefined;
  if (!isStateGood(row)) throw damaged(path, "the state row does not match its checksum");
  // Written by stateRow() and proved by the checksum.
  return JSON.parse(row.body) as StateRow;
}

function stateRow({ nodeId, sealer }: Owner, hardState: HardState, kept: Kept): StateRow {
  const { base, snapshot, batchCount } = kept;
  return {
    nodeId,
    term: hardState.term,
    votedFor: hardState.votedFor ?? null,
    commitIndex: hardState.commitIndex,
    joinedIndex: hardState.joinedIndex ?? null,
    batchCount,
    ...(sealer ? { sealedBy: sealer.keyId } : {}),
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

function membersText({ configuration }: LogBase): string {
  const known = membersTexts.get(configuration);
  if (known !== undefined) return known;
  const text = new TextDecoder().decode(encodeConfiguration(configuration));
  membersTexts.set(configuration, text);
  return text;
}
/** Configurations are never changed in place, and written with every batch. */
const membersTexts = new WeakMap<Configuration, string>();

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
  loss: Loss,
  sealer: RowSealer | undefined,
): StoredRaft {
  if (!row) return EMPTY;
  const base = baseOf(row.base);
  const entries = readEntries(db, base.index, row.commitIndex, loss, sealer);
  const { snapshot } = row;
  if (base.index > (snapshot?.index ?? 0)) throw damaged(path, "the snapshot is missing");
  if (snapshot) checkPieces(db, snapshot, path, loss);
  return {
    hardState: {
      term: row.term,
      votedFor: row.votedFor ?? undefined,
      // Less only where a loss is accepted.
      commitIndex: Math.min(row.commitIndex, base.index + entries.length),
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
}

/** Found here, they do no harm; found when a member or the state needs them, nothing helps. */
function checkPieces(
  db: Database,
  { index, pieceCount }: { index: RaftIndex; pieceCount: number },
  path: string,
  loss: Loss,
): void {
  const countSql = "SELECT count(*) AS n FROM snapshot_piece WHERE snapshot_index = ?";
  const [found] = selectOnce<{ n: number }>(db, countSql, index);
  if (found?.n !== pieceCount) {
    throw damaged(path, `${found?.n} of ${pieceCount} snapshot pieces are there`);
  }
  const sql = "SELECT data, checksum FROM snapshot_piece WHERE snapshot_index = ?1 AND piece = ?2";
  for (let piece = 0; piece < pieceCount; piece++) {
    const [row] = selectOnce<{ data: Uint8Array; checksum: number }>(db, sql, index, piece);
    if (row && crc32(row.data) === row.checksum) continue;
    // Needed only when state.db or another manager is behind it.
    loss.found(`piece ${piece} of snapshot ${index} does not match its checksum`);
  }
}

function readEntries(
  db: Database,
  baseIndex: RaftIndex,
  commitIndex: RaftIndex,
  loss: Loss,
  sealer: RowSealer | undefined,
): Entry[] {
  type Row = { log_index: number; term: number; type: number; data: Uint8Array; checksum: number };
  const rows = selectOnce<Row>(db, "SELECT * FROM entry ORDER BY log_index");
  const entries: Entry[] = [];
  for (const row of rows) {
    const index = baseIndex + entries.length + 1;
    const { term, type, data } = row;
    if (row.log_index !== index || entryChecksum(index, term, type, data) !== row.checksum) break;
    const isSealed = (type & SEALED) !== 0;
    entries.push({
      index,
      term,
      type: (type & ~SEALED) === 0 ? "normal" : "configuration",
      data: isSealed ? sealerOf(sealer).open(entryContext(index, term), data) : data,
    });
  }
  const last = baseIndex + entries.length;
  if (entries.length < rows.length || last < commitIndex) {
    loss.found(`entry ${last + 1} is missing or does not match its checksum`);
  }
  return entries;
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
 * The log of an only member that has lost its end: it begins again with the state that was applied up
 * to `index`. The last configuration that is known stays in force.
 */
export function adoptedBatch(
  stored: StoredRaft,
  index: RaftIndex,
  snapshot: Uint8Array,
): PersistBatch {
  assert(index > lastIndexOf(stored), "The state is ahead of the log");
  const last = stored.entries.findLast(({ type }) => type === "configuration");
  const configuration = last ? decodeConfiguration(last.data) : stored.base.configuration;
  const { hardState } = stored;
  const base = { index, term: hardState.term, configuration };
  const pieces = piecesOf(snapshot);
  return {
    hardState: { ...hardState, commitIndex: index },
    isLogCleared: true,
    base,
    snapshot: {
      meta: { ...base, pieceCount: pieces.length, sizeBytes: snapshot.length },
      pieces,
    },
    entries: [],
  };
}

function piecesOf(snapshot: Uint8Array): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < snapshot.length; at += SNAPSHOT_PIECE_BYTES) {
    pieces.push(snapshot.subarray(at, at + SNAPSHOT_PIECE_BYTES));
  }
  return pieces;
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
