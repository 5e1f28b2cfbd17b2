import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "../../../agent/reconciler/journal.ts";
import { smallDisk } from "../../fixtures/small-disk.ts";
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

  test("takes over a file from before formats had numbers, and refuses one from after", () => {
    const task = items.task(aTask("a"));
    const db = new Database(join(dir, "node.db"), { create: true });
    for (const table of [
      "assignment (key TEXT PRIMARY KEY, item TEXT NOT NULL)",
      "record (task TEXT PRIMARY KEY, record TEXT NOT NULL)",
      "meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ]) {
      db.run(`CREATE TABLE ${table} STRICT`);
    }
    db.run("INSERT INTO assignment VALUES (?, ?)", [task.key, JSON.stringify(task)]);
    db.run("INSERT INTO record VALUES (?, ?)", ["a", JSON.stringify(record)]);
    db.run("INSERT INTO meta VALUES ('complete', '1')");
    db.close();
    const journal = openJournal(dir);
    expect(journal.assignments()).toEqual([task]);
    expect(journal.records()).toEqual(new Map([["a", record]]));
    expect(journal.hasCompleteSet()).toBe(true);
    journal.close();

    const later = new Database(join(dir, "node.db"));
    later.run("PRAGMA user_version = 9");
    later.close();
    expect(() => openJournal(dir)).toThrow(/format is version 9, this program reads 0 to 1/);
  });
});

describe.skipIf(process.getuid?.() !== 0)("journal on a full disk", () => {
  test("goes on in memory without a file, and makes a new one when there is room", async () => {
    const disk = smallDisk(1024 * 1024);
    try {
      const journal = openJournal(disk.dir);
      journal.putAssignments({ isComplete: true, put: [items.task(aTask("a"))], removed: [] });
      disk.fill();
      const big = { status: { ...record.status, message: "x".repeat(100_000) } };
      for (const id of ["a", "b", "c"]) journal.putRecord(id, big);
      expect(existsSync(join(disk.dir, "node.db"))).toBe(false);
      const b = items.task(aTask("b"));
      journal.putAssignments({ isComplete: true, put: [b], removed: [] });
      expect(journal.assignments()).toEqual([b]);
      disk.free();
      const deadlineMs = performance.now() + 5_000;
      while (!existsSync(join(disk.dir, "node.db")) && performance.now() < deadlineMs) {
        await Bun.sleep(20);
      }
      journal.close();
      const reopened = openJournal(disk.dir);
      expect(reopened.hasCompleteSet()).toBe(true);
      expect(reopened.assignments()).toEqual([b]);
      expect([...reopened.records().keys()]).toEqual(["a", "b", "c"]);
      reopened.close();
    } finally {
      disk.remove();
    }
  });
});
