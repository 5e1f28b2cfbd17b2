/**
 * state.db: the durable copy of the rows, written by the state worker, read by the main thread.
 *
 * 1. It holds exactly the entries up to `meta.applied_index`: rows and index change in one
 *    transaction, also in a restore. The rows in memory may be some milliseconds ahead of it.
 * 2. A body is `JSON.stringify` of the object in memory; parsing it gives that object back. So the
 *    rows in memory (memory-rows.ts), these tables and a restored snapshot are always equal.
 * 3. It may lose its last transactions in a power cut (synchronous=NORMAL), never a part of one:
 *    raft.db has them and replays them from `appliedIndex` on.
 * 4. It is derived: a file that is damaged or of an older format is moved aside and filled again by
 *    consensus (snapshot, then log). Each row carries a CRC-32 of its columns, checked on opening.
 *
 * 5. With a sealed form of rows, bodies lie here encrypted and names as what they are looked for by; a file in clear
 *    is then removed and filled again.
 *
 * It decides nothing: what is written was decided by apply.ts.
 */
import { Database, SQLiteError, type Statement } from "bun:sqlite";
import { closeSync, openSync, readSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { assert, unreachable } from "../assert.ts";
import { ClusterError } from "../errors.ts";
import type { RaftIndex } from "../ids.ts";
import { type Room, writeWithRoom } from "../sqlite-room.ts";
import { isSealedText } from "../sqlite-seal.ts";
import type { Change, Outcome, TableName } from "./action.ts";
import { applyEntry } from "./apply.ts";
import { createMemoryRows, type MemoryRows, type Row, TABLE_NAMES } from "./memory-rows.ts";
import { decodeSnapshot, encodeSnapshot } from "./sqlite-snapshot.ts";
import { CLEAR_ROWS, type RowForm } from "./sqlite-row-form.ts";
import { createSqliteView } from "./sqlite-view.ts";
import type { ClusterView } from "./view.ts";

/** Raised when a table or the form of a body changes incompatibly. 2: a checksum for each row. */
const FORMAT_VERSION = 2;
/** Where a file that cannot be used is moved to; the one moved before is overwritten. */
const DAMAGED_SUFFIX = ".damaged";
const FILE_SUFFIXES = ["", "-wal", "-shm"] as const;
/** A checkpoint or a restore may hold the file for a moment; longer is a fault. */
const BUSY_TIMEOUT_MS = 5_000;
/** The WAL is cut back to this after a burst (a restore rewrites the whole file). */
const WAL_BYTES_MAX = 64 * 1024 * 1024;
/** Pages of 4 KiB before the WAL is folded in: that waits for the disk, and rows written often save most of it. */
const WAL_CHECKPOINT_PAGES = 16_000;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format_version INTEGER NOT NULL,
    applied_index INTEGER NOT NULL,
    applied_term INTEGER NOT NULL,
    checksum INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS cluster (id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS node (id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS network (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS service (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS secret (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS config (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY NOT NULL, service_id TEXT NOT NULL, node_id TEXT, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS attachment (id TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS stack (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS network_name ON network (name);
  CREATE INDEX IF NOT EXISTS service_name ON service (name);
  CREATE INDEX IF NOT EXISTS secret_name ON secret (name);
  CREATE INDEX IF NOT EXISTS config_name ON config (name);
  CREATE INDEX IF NOT EXISTS stack_name ON stack (name);
  CREATE INDEX IF NOT EXISTS task_service ON task (service_id, id);
  CREATE INDEX IF NOT EXISTS task_node ON task (node_id, id);
`;

export type Entry = { index: RaftIndex; term: number; data: Uint8Array };
export type AppliedBatch = {
  /** Of every proposal that could be decoded, in order. */
  outcomes: { proposalId: string; outcome: Outcome }[];
  changes: Change[];
};

/** The state worker's store: rows in memory and, once persisted, on disk. */
export type StateStore = {
  /** Also the live view that planners and the dispatcher read. */
  readonly rows: MemoryRows;
  readonly appliedIndex: RaftIndex;
  /**
   * Applies committed entries in memory. Entries at or below the applied index are skipped (a
   * repeated message); a gap is a broken invariant.
   */
  takeEntries(entries: readonly Entry[]): AppliedBatch;
  /**
   * Writes what was applied since the last time, in one transaction.
   * @throws when the disk refuses; memory is then ahead of the file, so the worker must end.
   */
  persist(): void;
  /** Both. */
  applyEntries(entries: readonly Entry[]): AppliedBatch;
  /** Everything at the applied index as bytes; equal states give equal bytes. */
  snapshot(): { index: RaftIndex; data: Uint8Array<ArrayBuffer> };
  /**
   * Replaces everything in one transaction.
   * @throws {ClusterError} internal when the bytes are damaged; nothing is changed then.
   */
  restore(data: Uint8Array, at: { index: RaftIndex; term: number }): void;
  close(): void;
};

/**
 * Opens or creates state.db and loads it. With `room`, its writes wait for room on a full disk.
 * @throws {ClusterError} failed-precondition when a newer version of shoal wrote it; UnusableStateError
 * when it is damaged or of an older format.
 */
export function openStateStore(path: string, room?: Room, form = CLEAR_ROWS): StateStore {
  const database = new Database(path, { create: true, readwrite: true, strict: true });
  try {
    return stateStore(database, path, room, form);
  } catch (error) {
    database.close();
    throw isDamage(error) ? new UnusableStateError(error.message, { cause: error }) : error;
  }
}

/** What SQLite itself finds in the middle of its work. */
function isRot(error: unknown): error is SQLiteError {
  return error instanceof SQLiteError && /^SQLITE_(CORRUPT|NOTADB)/.test(error.code ?? "");
}

/** What is in state.db cannot be used; raft.db has all of it. */
class UnusableStateError extends Error {
  override name = "UnusableStateError";
  /** It was written before rows were sealed. */
  isInClear = false;
}

function isDamage(error: unknown): error is Error {
  // SyntaxError: a body that is no JSON. ClusterError internal: one that cannot be opened.
  if (error instanceof SyntaxError) return true;
  if (error instanceof ClusterError) return error.code === "internal";
  if (!(error instanceof SQLiteError)) return false;
  // ERROR: a table or column is missing, so the schema is not ours any more.
  return ["SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"].some((code) =>
    error.code?.startsWith(code),
  );
}

/**
 * As `openStateStore`, but an unusable file is moved aside (`state.db.damaged`) and an empty one is
 * opened in its place, which consensus fills again. `rebuiltBecause` says why.
 * @throws {ClusterError} failed-precondition when a newer version of shoal wrote it.
 */
export function openOrRebuildStateStore(
  path: string,
  room?: Room,
  form = CLEAR_ROWS,
): {
  store: StateStore;
  rebuiltBecause?: string;
} {
  try {
    return { store: openStateStore(path, room, form) };
  } catch (error) {
    if (!(error instanceof UnusableStateError)) throw error;
    for (const suffix of FILE_SUFFIXES) {
      rmSync(`${path}${DAMAGED_SUFFIX}${suffix}`, { force: true });
      if (error.isInClear) {
        // Nobody wants to look at it, and it is not to lie about.
        rmSync(`${path}${suffix}`, { force: true });
        continue;
      }
      try {
        renameSync(`${path}${suffix}`, `${path}${DAMAGED_SUFFIX}${suffix}`);
      } catch (moveError) {
        if ((moveError as NodeJS.ErrnoException).code !== "ENOENT") throw moveError;
      }
    }
    return { store: openStateStore(path, room, form), rebuiltBecause: error.message };
  }
}

function stateStore(
  database: Database,
  path: string,
  room: Room | undefined,
  form: RowForm,
): StateStore {
  database.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  refuseDamage(database, path);
  database.run("PRAGMA journal_mode = WAL");
  database.run("PRAGMA synchronous = NORMAL");
  database.run(`PRAGMA journal_size_limit = ${WAL_BYTES_MAX}`);
  database.run(`PRAGMA wal_autocheckpoint = ${WAL_CHECKPOINT_PAGES}`);
  database.transaction(() => {
    database.run(SCHEMA);
    database.run("INSERT OR IGNORE INTO meta VALUES (1, ?, 0, 0, ?)", [
      FORMAT_VERSION,
      checksumOf([0, 0]),
    ]);
  })();
  checkFormat(database, path);

  const writer = rowWriter(database, form);
  const setMeta = database.query(
    "UPDATE meta SET applied_index = ?, applied_term = ?, checksum = ? WHERE id = 1",
  );
  const rows = createMemoryRows();
  refuseDamagedIndex(database);
  rows.replaceAll(allRows(database, form), readAppliedIndex(database));

  /** Not in the file yet. An object changed several times is written once, as it is at the end. */
  const unwritten = new Map<string, Change>();
  let lastUnwritten: Entry | undefined;
  const writeChanges = database.transaction((last: Entry) => {
    for (const change of unwritten.values()) {
      if (change.kind === "remove") writer.remove(change.table, change.id);
      else writer.put(change);
    }
    setMeta.run(last.index, last.term, checksumOf([last.index, last.term]));
  });
  const withRoom = (write: () => void) => {
    if (room) writeWithRoom(dirname(path), room, write);
    else write();
  };
  const persist = () => {
    const last = lastUnwritten;
    if (last) withRoom(() => writeChanges(last));
    forgetUnwritten();
  };
  const forgetUnwritten = () => {
    unwritten.clear();
    lastUnwritten = undefined;
  };
  const takeEntries = (entries: readonly Entry[]) => {
    const batch: AppliedBatch = { outcomes: [], changes: [] };
    for (const entry of entries) {
      if (entry.index <= rows.index) continue;
      assert(
        entry.index === rows.index + 1,
        `Entry ${entry.index} follows applied index ${rows.index}`,
      );
      const result = applyEntry(rows, entry);
      if (result.proposalId !== undefined && result.outcome) {
        batch.outcomes.push({ proposalId: result.proposalId, outcome: result.outcome });
      }
      for (const change of result.changes) {
        batch.changes.push(change);
        unwritten.set(`${change.table}/${change.id}`, change);
      }
      lastUnwritten = entry;
    }
    return batch;
  };

  const replaceAll = database.transaction(
    (contents: readonly Row[], at: { index: RaftIndex; term: number }) => {
      for (const table of TABLE_NAMES) database.run(`DELETE FROM ${table}`);
      for (const row of contents) writer.put(row);
      setMeta.run(at.index, at.term, checksumOf([at.index, at.term]));
    },
  );

  return {
    rows,
    get appliedIndex() {
      return rows.index;
    },
    takeEntries,
    persist,
    applyEntries: (entries) => {
      const batch = takeEntries(entries);
      persist();
      return batch;
    },
    snapshot: () => {
      persist();
      return { index: rows.index, data: encodeSnapshot(rows.index, storedBodies(database, form)) };
    },
    restore: (data, at) => {
      const contents = decodeSnapshot(data);
      withRoom(() => replaceAll(contents.rows, at));
      forgetUnwritten();
      rows.replaceAll(contents.rows, at.index);
    },
    close: () => {
      try {
        persist();
      } finally {
        database.close();
      }
    },
  };
}

/** The main thread's way to the state; see `openStateReader`. */
export type StateReader = {
  /**
   * Runs `read` over one consistent view: a read transaction that lasts exactly as long as the call.
   * The view must not be kept. `read` is synchronous and does not call `read` again.
   */
  read<T>(read: (view: ClusterView) => T): T;
  close(): void;
};

/**
 * Opens an existing state.db read-only, beside the worker that writes it. `onDamage` is told when a read
 * finds rot: the next start rebuilds the file.
 * @throws {ClusterError} failed-precondition as openStateStore.
 */
export function openStateReader(
  path: string,
  onDamage?: (error: Error) => void,
  form = CLEAR_ROWS,
): StateReader {
  const database = new Database(path, { readonly: true, strict: true });
  try {
    database.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    checkFormat(database, path);
  } catch (error) {
    database.close();
    throw error;
  }
  const begin = database.query("BEGIN");
  const commit = database.query("COMMIT");
  const view = createSqliteView(database, form);
  return {
    read: (read) => {
      assert(!database.inTransaction, "StateReader.read() inside read()");
      begin.run();
      try {
        return read(view.at(readAppliedIndex(database)));
      } catch (error) {
        if (isRot(error)) onDamage?.(error);
        throw error;
      } finally {
        commit.run();
      }
    },
    close: () => database.close(),
  };
}

/**
 * Looks at every page and index, which takes as long as reading the file; rows are checked when they
 * are read.
 * @throws {UnusableStateError}
 */
function refuseDamage(database: Database, path: string): void {
  if (hasHeaderOfOther(path)) throw new UnusableStateError("it is not a SQLite file");
  const check = database.query<{ integrity_check: string }, []>("PRAGMA integrity_check(1)").get();
  if (check && check.integrity_check !== "ok") throw new UnusableStateError(check.integrity_check);
  const meta = database
    .query<{ n: number }, []>("SELECT count(*) AS n FROM sqlite_schema WHERE name = 'meta'")
    .get();
  if (meta?.n !== 1) return; // new
  const format = database
    .query<{ format_version: number }, []>("SELECT format_version FROM meta WHERE id = 1")
    .get();
  if (format && format.format_version < FORMAT_VERSION) {
    throw new UnusableStateError(
      `its format is ${format.format_version}, this version writes ${FORMAT_VERSION}`,
    );
  }
}

/** A file whose first page is gone: SQLite would take an empty one for a new database. */
function hasHeaderOfOther(path: string): boolean {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(16);
    const count = readSync(file, head, 0, head.length, 0);
    return count > 0 && head.toString("latin1") !== "SQLite format 3\0";
  } finally {
    closeSync(file);
  }
}

function checkFormat(database: Database, path: string): void {
  const meta = database
    .query<{ format_version: number }, []>("SELECT format_version FROM meta WHERE id = 1")
    .get();
  if (meta?.format_version === FORMAT_VERSION) return;
  throw new ClusterError(
    "failed-precondition",
    `Cannot open "${path}": its format is ${meta?.format_version ?? "unknown"}, this version of shoal reads ${FORMAT_VERSION}; start the version that wrote it`,
  );
}

function readAppliedIndex(database: Database): RaftIndex {
  const meta = database
    .query<{ applied_index: number }, []>("SELECT applied_index FROM meta WHERE id = 1")
    .get();
  assert(meta, "meta has one row");
  return meta.applied_index;
}

/** @throws {UnusableStateError} */
function refuseDamagedIndex(database: Database): void {
  const meta = database
    .query<{ applied_index: number; applied_term: number; checksum: number }, []>(
      "SELECT applied_index, applied_term, checksum FROM meta WHERE id = 1",
    )
    .get();
  if (meta && checksumOf([meta.applied_index, meta.applied_term]) === meta.checksum) return;
  throw new UnusableStateError("the applied index does not match its checksum");
}

/**
 * Every stored body as text, in the order of tables and ids: the snapshot's order.
 * @throws {UnusableStateError} when a row is not what was written.
 */
function* storedBodies(
  database: Database,
  form: RowForm,
): Generator<{ table: TableName; body: string }> {
  for (const table of TABLE_NAMES) {
    const columns = [...COLUMNS[table], "body", "checksum"];
    const query = database.query<Record<string, string | number | null>, []>(
      `SELECT ${columns.join(", ")} FROM ${table} ORDER BY id`,
    );
    for (const row of query.all()) {
      const { body, checksum } = row;
      const values = [...COLUMNS[table], "body"].map((name) => row[name] ?? null);
      if (typeof body !== "string" || checksumOf(values) !== checksum) {
        throw new UnusableStateError(`${table} ${row["id"]} does not match its checksum`);
      }
      if (!form.isOf(body)) throw otherForm(isSealedText(body));
      // The columns are as the schema says.
      const { id, version } = row as { id: string; version: number };
      yield { table, body: form.open(table, { id, version, body }) };
    }
  }
}

function otherForm(isSealed: boolean): UnusableStateError {
  const error = new UnusableStateError(
    isSealed ? "its rows are sealed" : "it was written before rows were sealed",
  );
  error.isInClear = !isSealed;
  return error;
}

function* allRows(database: Database, form: RowForm): Generator<Row> {
  for (const { table, body } of storedBodies(database, form)) {
    // The body was written by rowWriter from an object of this table.
    yield { table, object: JSON.parse(body) };
  }
}

/** What of an object stands beside its body, to find it by. */
const COLUMNS: { [T in TableName]: readonly string[] } = {
  cluster: ["id", "version"],
  node: ["id", "version"],
  network: ["id", "name", "version"],
  service: ["id", "name", "version"],
  secret: ["id", "name", "version"],
  config: ["id", "name", "version"],
  task: ["id", "service_id", "node_id", "version"],
  attachment: ["id", "version"],
  stack: ["id", "name", "version"],
};

/** In the order of COLUMNS. */
function columnsOf(row: Row, form: RowForm): (string | number | null)[] {
  const { id, version } = row.object;
  switch (row.table) {
    case "cluster":
    case "node":
    case "attachment":
      return [id, version];
    case "network":
    case "service":
    case "secret":
    case "config":
    case "stack":
      return [id, form.nameOf(row.object.spec.Name), version];
    case "task":
      return [id, row.object.serviceId, row.object.nodeId ?? null, version];
    default:
      return unreachable(row);
  }
}

/** Of a row's columns but the checksum; no column has a NUL in it. */
function checksumOf(values: readonly (string | number | null)[]): number {
  return Bun.hash.crc32(values.join("\0"));
}

function rowWriter(database: Database, form: RowForm) {
  const insert = (table: TableName) => {
    const columns = [...COLUMNS[table], "body", "checksum"];
    return database.query(
      `INSERT INTO ${table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})
       ON CONFLICT (id) DO UPDATE SET ${columns
         .filter((c) => c !== "id") // the key's own index would be written again
         .map((c) => `${c} = excluded.${c}`)
         .join(", ")}`,
    );
  };
  const inserts = new Map<TableName, Statement>(TABLE_NAMES.map((table) => [table, insert(table)]));
  const removes = new Map(
    TABLE_NAMES.map((table) => [table, database.query(`DELETE FROM ${table} WHERE id = ?`)]),
  );
  return {
    put: (row: Row) => {
      const { id, version } = row.object;
      const body = form.seal(row.table, { id, version, body: JSON.stringify(row.object) });
      const values = [...columnsOf(row, form), body];
      inserts.get(row.table)?.run(...values, checksumOf(values));
    },
    remove: (table: TableName, id: string) => {
      removes.get(table)?.run(id);
    },
  };
}
