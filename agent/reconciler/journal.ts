/**
 * node.db: the node's last assignments and the last status of each of its tasks, so that a restarted
 * agent goes on before it reaches any manager, and can say again what it said.
 *
 * Secrets are stored here as they came, in clear (sealing them is not done yet); the file and its
 * companions have mode 0600. Losing the file is safe: running containers are adopted by their labels,
 * and nothing is removed before a complete set has arrived.
 */
import { Database } from "bun:sqlite";
import { chmodSync, closeSync, mkdirSync, openSync, renameSync } from "node:fs";
import { join } from "node:path";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import type { TaskRecord } from "./task-step.ts";

export type Journal = {
  /** True once a complete set was stored: only then is a container without a task unwanted. */
  hasCompleteSet(): boolean;
  assignments(): AssignmentItem[];
  putAssignments(change: { isComplete: boolean; put: AssignmentItem[]; removed: string[] }): void;
  records(): Map<string, TaskRecord>;
  putRecord(taskId: string, record: TaskRecord): void;
  deleteRecord(taskId: string): void;
  clear(): void;
  close(): void;
};

/** Where a file that SQLite cannot read is moved to. */
const BROKEN_SUFFIX = ".broken";

/** Opens or makes `node.db` in `dir`. A broken file is moved aside and begun anew. */
export function openJournal(dir: string): Journal {
  mkdirSync(dir, { recursive: true });
  const path = join(dir, "node.db");
  // Before SQLite opens it, so that its -wal and -shm files take over the mode.
  closeSync(openSync(path, "a", 0o600));
  chmodSync(path, 0o600);
  try {
    return openDatabase(path);
  } catch (error) {
    if (!isBroken(error)) throw error;
    for (const suffix of ["", "-wal", "-shm"]) {
      try {
        renameSync(`${path}${suffix}`, `${path}${suffix}${BROKEN_SUFFIX}`);
      } catch (renameError) {
        if ((renameError as NodeJS.ErrnoException).code !== "ENOENT") throw renameError;
      }
    }
    closeSync(openSync(path, "a", 0o600));
    return openDatabase(path);
  }
}

function isBroken(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return code === "SQLITE_NOTADB" || code === "SQLITE_CORRUPT" || error instanceof SyntaxError;
}

function openDatabase(path: string): Journal {
  const db = new Database(path, { strict: true });
  try {
    // NORMAL: a power cut may lose the last statuses, which are found again by observing. Assignments
    // are synced (putAssignments): by older ones a container could be started anew whose address
    // belongs to another task by now.
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = NORMAL");
    db.run(
      "CREATE TABLE IF NOT EXISTS assignment (key TEXT PRIMARY KEY, item TEXT NOT NULL) STRICT",
    );
    db.run(
      "CREATE TABLE IF NOT EXISTS record (task TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT",
    );
    db.run("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT");
    const journal = journalOf(db);
    // Reads everything once, so that a broken file shows now.
    journal.assignments();
    journal.records();
    return journal;
  } catch (error) {
    db.close();
    throw error;
  }
}

function journalOf(db: Database): Journal {
  const putItem = db.query("INSERT OR REPLACE INTO assignment VALUES (?, ?)");
  const deleteItem = db.query("DELETE FROM assignment WHERE key = ?");
  const putRecord = db.query("INSERT OR REPLACE INTO record VALUES (?, ?)");
  const deleteRecord = db.query("DELETE FROM record WHERE task = ?");
  const store = db.transaction(
    (change: { isComplete: boolean; put: AssignmentItem[]; removed: string[] }) => {
      if (change.isComplete) {
        db.run("DELETE FROM assignment");
        db.run("INSERT OR REPLACE INTO meta VALUES ('complete', '1')");
      }
      for (const key of change.removed) deleteItem.run(key);
      for (const item of change.put) putItem.run(item.key, JSON.stringify(item));
    },
  );
  return {
    hasCompleteSet: () => db.query("SELECT 1 FROM meta WHERE key = 'complete'").get() !== null,
    assignments: () =>
      db
        .query<{ item: string }, []>("SELECT item FROM assignment ORDER BY key")
        .all()
        // Written by putAssignments of this or an earlier version of ours.
        .map((row) => JSON.parse(row.item) as AssignmentItem),
    putAssignments: (change) => {
      db.run("PRAGMA synchronous = FULL");
      try {
        store(change);
      } finally {
        db.run("PRAGMA synchronous = NORMAL");
      }
    },
    records: () =>
      new Map(
        db
          .query<{ task: string; record: string }, []>(
            "SELECT task, record FROM record ORDER BY task",
          )
          .all()
          // As above.
          .map((row) => [row.task, JSON.parse(row.record) as TaskRecord]),
      ),
    putRecord: (taskId, record) => void putRecord.run(taskId, JSON.stringify(record)),
    deleteRecord: (taskId) => void deleteRecord.run(taskId),
    clear: () => {
      db.transaction(() => {
        for (const table of ["assignment", "record", "meta"]) db.run(`DELETE FROM ${table}`);
      })();
    },
    close: () => db.close(),
  };
}
