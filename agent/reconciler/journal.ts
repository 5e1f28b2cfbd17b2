/**
 * node.db: the node's last assignments and the last status of each of its tasks, so that a restarted
 * agent goes on before it reaches any manager, and can say again what it said.
 *
 * Secrets are sealed (sealed-items.ts); the file and its companions have mode 0600. Losing the file is
 * safe: running containers are adopted by their labels, and nothing is removed before a complete set
 * has arrived. A file that lags behind is not: by old
 * assignments a container could be started anew whose address belongs to another task by now. So a
 * file that cannot be written for want of room on disk is removed; all is in memory, and a new file is
 * made of it as soon as there is room.
 */
import { Database } from "bun:sqlite";
import { chmodSync, closeSync, mkdirSync, openSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import { migrate, type MigrationStep } from "../../core/sqlite-migrate.ts";
import { isDiskFull } from "../../core/sqlite-room.ts";
import { type ItemSealer, openItemSealer } from "./sealed-items.ts";
import type { TaskRecord } from "./task-step.ts";

export type Journal = {
  /** True once a complete set was stored: only then is a container without a task unwanted. */
  hasCompleteSet(): boolean;
  assignments(): AssignmentItem[];
  putAssignments(change: AssignmentChange): void;
  records(): Map<string, TaskRecord>;
  putRecord(taskId: string, record: TaskRecord): void;
  deleteRecord(taskId: string): void;
  clear(): void;
  close(): void;
};

type AssignmentChange = { isComplete: boolean; put: AssignmentItem[]; removed: string[] };

const FILE_NAME = "node.db";
const FILE_SUFFIXES = ["", "-wal", "-shm"] as const;
/** Where a file that SQLite cannot read is moved to. */
const BROKEN_SUFFIX = ".broken";
/** Without a file, one is tried for again so often. */
const RENEW_MS = 1_000;

/** 1: the first with a number; files before it have the same tables and 0. */
const FORMAT_VERSION = 1;
const STEPS: readonly MigrationStep[] = [
  {
    from: 0,
    change: (db) => {
      for (const table of [
        "assignment (key TEXT PRIMARY KEY, item TEXT NOT NULL)",
        "record (task TEXT PRIMARY KEY, record TEXT NOT NULL)",
        "meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
      ]) {
        db.run(`CREATE TABLE IF NOT EXISTS ${table} STRICT`);
      }
    },
  },
];

/**
 * Opens or makes `node.db` in `dir`. A broken file is moved aside and begun anew.
 * @param keyPath of the key for secrets; the agent has it beside the node's TLS key.
 * @throws {ClusterError} failed-precondition when a newer version of the program wrote it.
 */
export function openJournal(dir: string, keyPath = join(dir, "node.key")): Journal {
  mkdirSync(dir, { recursive: true });
  const path = join(dir, FILE_NAME);
  let file = openFile(path, keyPath);
  const memory: Contents = file?.read() ?? emptyContents();
  let renewTimer: Timer | undefined;

  const giveUp = () => {
    file?.close();
    file = undefined;
    for (const suffix of FILE_SUFFIXES) rmSync(`${path}${suffix}`, { force: true });
    renewTimer ??= setTimeout(() => {
      renewTimer = undefined;
      renew();
    }, RENEW_MS);
    renewTimer.unref();
  };
  const renew = () => {
    file = openFile(path, keyPath);
    write((into) => into.replace(memory));
  };
  /** What `store` writes is in memory already. */
  const write = (store: (into: JournalFile) => void) => {
    try {
      if (file) store(file);
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      giveUp();
      return;
    }
    if (!file) giveUp();
  };
  if (!file) giveUp();

  return {
    hasCompleteSet: () => memory.hasCompleteSet,
    assignments: () => [...memory.items.values()],
    putAssignments: (change) => {
      if (change.isComplete) memory.items.clear();
      memory.hasCompleteSet ||= change.isComplete;
      for (const key of change.removed) memory.items.delete(key);
      for (const item of change.put) memory.items.set(item.key, item);
      write((into) => into.putAssignments(change));
    },
    records: () => new Map(memory.records),
    putRecord: (taskId, record) => {
      memory.records.set(taskId, record);
      write((into) => into.putRecord(taskId, record));
    },
    deleteRecord: (taskId) => {
      memory.records.delete(taskId);
      write((into) => into.deleteRecord(taskId));
    },
    clear: () => {
      Object.assign(memory, emptyContents());
      write((into) => into.replace(memory));
    },
    close: () => {
      clearTimeout(renewTimer);
      file?.close();
    },
  };
}

type Contents = {
  hasCompleteSet: boolean;
  items: Map<string, AssignmentItem>;
  records: Map<string, TaskRecord>;
};

function emptyContents(): Contents {
  return { hasCompleteSet: false, items: new Map(), records: new Map() };
}

type JournalFile = {
  read(): Contents;
  replace(contents: Contents): void;
  putAssignments(change: AssignmentChange): void;
  putRecord(taskId: string, record: TaskRecord): void;
  deleteRecord(taskId: string): void;
  close(): void;
};

/** Undefined when the disk is full. */
function openFile(path: string, keyPath: string): JournalFile | undefined {
  try {
    return openOrReplace(path, openItemSealer(keyPath));
  } catch (error) {
    if (isDiskFull(error) || (error as { code?: unknown }).code === "ENOSPC") return undefined;
    throw error;
  }
}

function openOrReplace(path: string, sealer: ItemSealer): JournalFile {
  makeFile(path);
  try {
    return openDatabase(path, sealer);
  } catch (error) {
    if (!isBroken(error)) throw error;
    for (const suffix of FILE_SUFFIXES) {
      try {
        renameSync(`${path}${suffix}`, `${path}${suffix}${BROKEN_SUFFIX}`);
      } catch (renameError) {
        if ((renameError as NodeJS.ErrnoException).code !== "ENOENT") throw renameError;
      }
    }
    makeFile(path);
    return openDatabase(path, sealer);
  }
}

/** Before SQLite opens it, so that its -wal and -shm files take over the mode. */
function makeFile(path: string): void {
  closeSync(openSync(path, "a", 0o600));
  chmodSync(path, 0o600);
}

function isBroken(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return (
    code === "SQLITE_NOTADB" ||
    code === "SQLITE_CORRUPT" ||
    error instanceof SyntaxError ||
    // The key is another one now: what the old one sealed is as good as lost.
    (error instanceof ClusterError && error.code === "internal")
  );
}

function openDatabase(path: string, sealer: ItemSealer): JournalFile {
  const db = new Database(path, { strict: true });
  try {
    // NORMAL: a power cut may lose the last statuses, which are found again by observing. Assignments
    // are synced (putAssignments): see above what old ones may do.
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = NORMAL");
    // What an older version stored in clear is overwritten when it goes, not left in a free page.
    db.run("PRAGMA secure_delete = ON");
    migrate(db, { path, version: FORMAT_VERSION, steps: STEPS });
    const file = fileOf(db, sealer);
    // Reads everything once, so that a broken file shows now.
    file.read();
    return file;
  } catch (error) {
    db.close();
    throw error;
  }
}

function fileOf(db: Database, sealer: ItemSealer): JournalFile {
  const putItem = db.query("INSERT OR REPLACE INTO assignment VALUES (?, ?)");
  const deleteItem = db.query("DELETE FROM assignment WHERE key = ?");
  const putRecord = db.query("INSERT OR REPLACE INTO record VALUES (?, ?)");
  const deleteRecord = db.query("DELETE FROM record WHERE task = ?");
  const store = db.transaction((change: AssignmentChange) => {
    if (change.isComplete) {
      db.run("DELETE FROM assignment");
      db.run("INSERT OR REPLACE INTO meta VALUES ('complete', '1')");
    }
    for (const key of change.removed) deleteItem.run(key);
    for (const item of change.put) putItem.run(item.key, sealer.encode(item));
  });
  const replace = db.transaction((contents: Contents) => {
    for (const table of ["assignment", "record", "meta"]) db.run(`DELETE FROM ${table}`);
    const { hasCompleteSet: isComplete, items, records } = contents;
    if (isComplete || items.size > 0) store({ isComplete, put: [...items.values()], removed: [] });
    for (const [taskId, record] of records) putRecord.run(taskId, JSON.stringify(record));
  });
  const synced = (write: () => void) => {
    db.run("PRAGMA synchronous = FULL");
    try {
      write();
    } finally {
      db.run("PRAGMA synchronous = NORMAL");
    }
  };
  return {
    read: () => ({
      hasCompleteSet: db.query("SELECT 1 FROM meta WHERE key = 'complete'").get() !== null,
      items: new Map(
        db
          .query<{ key: string; item: string }, []>("SELECT key, item FROM assignment ORDER BY key")
          .all()
          .map(({ key, item }) => [key, sealer.decode(key, item)]),
      ),
      records: new Map(
        db
          .query<{ task: string; record: string }, []>(
            "SELECT task, record FROM record ORDER BY task",
          )
          .all()
          // Written by putRecord of this or an earlier version of ours.
          .map(({ task, record }) => [task, JSON.parse(record) as TaskRecord]),
      ),
    }),
    replace: (contents) => synced(() => replace(contents)),
    putAssignments: (change) => synced(() => store(change)),
    putRecord: (taskId, record) => void putRecord.run(taskId, JSON.stringify(record)),
    deleteRecord: (taskId) => void deleteRecord.run(taskId),
    close: () => db.close(),
  };
}
