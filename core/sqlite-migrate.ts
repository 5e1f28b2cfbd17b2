/**
 * Brings a file of an older format to the one of this program, step by step: each version knows only
 * how to become the next. All steps and the new version are one transaction, so a crash on the way
 * leaves the old file.
 */
import type { Database } from "bun:sqlite";
import { assert } from "./assert.ts";
import { ClusterError } from "./errors.ts";

export type MigrationStep = {
  /** The version it begins from; it ends at the next. */
  from: number;
  change(db: Database): void;
};

/**
 * The file's `user_version` afterwards is `version`. Steps are gone through from the file's version on.
 * @throws {ClusterError} failed-precondition when the file is newer, or older than the first step.
 */
export function migrate(
  db: Database,
  options: { path: string; version: number; steps: readonly MigrationStep[] },
): void {
  const { path, version, steps } = options;
  const found = readUserVersion(db);
  if (found === version) return;
  const oldest = steps[0]?.from ?? version;
  if (found > version || found < oldest) {
    const known = oldest === version ? `${version}` : `${oldest} to ${version}`;
    throw new ClusterError(
      "failed-precondition",
      `Cannot open "${path}": its format is version ${found}, this program reads ${known}; use the version of the program that wrote it`,
    );
  }
  db.run("BEGIN IMMEDIATE");
  try {
    for (let at = found; at < version; at++) {
      const step = steps.find(({ from }) => from === at);
      assert(step, `There is a step from version ${at} of "${path}"`);
      step.change(db);
    }
    db.run(`PRAGMA user_version = ${version}`);
    db.run("COMMIT");
  } catch (error) {
    if (db.inTransaction) db.run("ROLLBACK");
    throw error;
  }
}

/** The version in the file's header; 0 for a new file. */
export function readUserVersion(db: Database): number {
  // Finalized: a statement left open would keep the file locked after close().
  const statement = db.prepare<{ user_version: number }, []>("PRAGMA user_version");
  try {
    return statement.get()?.user_version ?? 0;
  } finally {
    statement.finalize();
  }
}
