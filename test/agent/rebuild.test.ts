import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  clearForRebuild,
  isLogDamaged,
  isRebuildPending,
  putLogAside,
} from "../../agent/rebuild.ts";
import { ClusterError } from "../../core/errors.ts";
import { openSqliteLog } from "../../core/raft/sqlite-log.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
const makeDataDir = () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-rebuild-"));
  dirs.push(dir);
  mkdirSync(join(dir, "raft"));
  mkdirSync(join(dir, "state"));
  return dir;
};

describe("rebuild", () => {
  test("is wanted for a log that is no database, and not for another's log", () => {
    const dir = makeDataDir();
    writeFileSync(
      join(dir, "raft", "raft.db"),
      "no database, but long enough to be read as one".repeat(200),
    );
    const failureOf = (nodeId: string, raftDir: string) => {
      try {
        openSqliteLog({ dir: raftDir, nodeId }).close();
        return undefined;
      } catch (error) {
        return error;
      }
    };
    expect(isLogDamaged(failureOf("n1", join(dir, "raft")))).toBe(true);
    expect(isLogDamaged(new ClusterError("failed-precondition", "belongs to another node"))).toBe(
      false,
    );
    expect(isLogDamaged(new Error("disk"))).toBe(false);
  });

  test("is pending from when the log is put aside until it is cleared, and keeps the damaged one", () => {
    const dir = makeDataDir();
    writeFileSync(join(dir, "raft", "raft.db"), "damaged");
    expect(isRebuildPending(dir)).toBe(false);
    putLogAside(dir);
    expect(isRebuildPending(dir)).toBe(true);
    expect(existsSync(join(dir, "raft"))).toBe(false);
    clearForRebuild(dir);
    expect(isRebuildPending(dir)).toBe(false);
    expect(existsSync(join(dir, "state"))).toBe(false);
    expect(readFileSync(join(dir, "raft.damaged", "raft.db"), "utf8")).toBe("damaged");
  });

  test("keeps only the last damaged log", () => {
    const dir = makeDataDir();
    for (const text of ["first", "second"]) {
      mkdirSync(join(dir, "raft"), { recursive: true });
      writeFileSync(join(dir, "raft", "raft.db"), text);
      putLogAside(dir);
      clearForRebuild(dir);
    }
    expect(readFileSync(join(dir, "raft.damaged", "raft.db"), "utf8")).toBe("second");
  });
});
