/**
 * A manager whose log is damaged rebuilds itself from the others. It has forgotten what it
 * acknowledged and for whom it voted, so it must not take part under its old membership:
 *
 *   1. The damaged directory is put aside as `raft.rebuild`, which also marks the work as begun.
 *   2. The leader takes this node out of raft (`raft-leave`; the others need a majority for it).
 *   3. state.db goes too, `raft.rebuild` becomes `raft.damaged`, kept for whoever wants to look.
 *   4. The manager starts with an empty log and joins as a learner, then as a voter.
 *
 * While there is nobody to take it out, `--force-new-cluster` may go on with what can be read of the log instead
 * (takeLogBack), or with state.db.
 *
 * A crash between any two steps is gone on with at the next start: 2 is repeatable, and an empty log
 * without the mark is that of a node that joins.
 */
import { existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ClusterError } from "../core/errors.ts";

const LOG_DIR = "raft";
const PENDING_DIR = "raft.rebuild";
const KEPT_DIR = "raft.damaged";

/** What the consensus worker says of a log that it cannot trust. */
export function isLogDamaged(error: unknown): error is ClusterError {
  return error instanceof ClusterError && error.details["isDamaged"] === true;
}

/** True while the steps above are under way. */
export function isRebuildPending(dataDir: string): boolean {
  return existsSync(join(dataDir, PENDING_DIR));
}

/** Step 1. */
export function putLogAside(dataDir: string): void {
  rmSync(join(dataDir, PENDING_DIR), { recursive: true, force: true });
  renameSync(join(dataDir, LOG_DIR), join(dataDir, PENDING_DIR));
}

/** The steps are given up: the log is in its place again, whatever can be read of it. */
export function takeLogBack(dataDir: string): void {
  rmSync(join(dataDir, LOG_DIR), { recursive: true, force: true });
  renameSync(join(dataDir, PENDING_DIR), join(dataDir, LOG_DIR));
}

/** Step 3, once this node is out of raft. */
export function clearForRebuild(dataDir: string): void {
  rmSync(join(dataDir, LOG_DIR), { recursive: true, force: true });
  rmSync(join(dataDir, "state"), { recursive: true, force: true });
  rmSync(join(dataDir, KEPT_DIR), { recursive: true, force: true });
  renameSync(join(dataDir, PENDING_DIR), join(dataDir, KEPT_DIR));
}
