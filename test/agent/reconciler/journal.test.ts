import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "../../../agent/reconciler/journal.ts";
import { aTask, items } from "./wanted.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-journal-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const record = { status: { state: "running", atMs: 1, message: "started" } } as const;

describe("journal", () => {
  test("keeps assignments and records over a reopening, readable by root only", () => {
    const [a, b] = [items.task(aTask("a")), items.task(aTask("b"))];
    const journal = openJournal(dir);
    expect(journal.hasCompleteSet()).toBe(false);
    journal.putAssignments({ isComplete: true, put: [a, b], removed: [] });
    journal.putAssignments({ isComplete: false, put: [], removed: [a.key] });
    journal.putRecord("b", record);
    for (const file of ["node.db", "node.db-wal", "node.db-shm"]) {
      expect(statSync(join(dir, file)).mode & 0o777).toBe(0o600);
    }
    journal.close();
    const reopened = openJournal(dir);
    expect(reopened.hasCompleteSet()).toBe(true);
    expect(reopened.assignments()).toEqual([b]);
    expect(reopened.records()).toEqual(new Map([["b", record]]));
    reopened.clear();
    expect(reopened.hasCompleteSet()).toBe(false);
    expect(reopened.records().size).toBe(0);
    reopened.close();
  });

  test("a complete set replaces what was there", () => {
    const journal = openJournal(dir);
    journal.putAssignments({ isComplete: false, put: [items.task(aTask("a"))], removed: [] });
    expect(journal.hasCompleteSet()).toBe(false);
    const b = items.task(aTask("b"));
    journal.putAssignments({ isComplete: true, put: [b], removed: [] });
    expect(journal.assignments()).toEqual([b]);
    journal.close();
  });

  test("a broken file is moved aside, and nothing counts as a complete set", () => {
    writeFileSync(join(dir, "node.db"), "this is no database, but long enough to be read as one");
    const journal = openJournal(dir);
    expect(journal.hasCompleteSet()).toBe(false);
    expect(existsSync(join(dir, "node.db.broken"))).toBe(true);
    journal.close();
  });
});
