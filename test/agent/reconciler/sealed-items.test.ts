import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "../../../agent/reconciler/journal.ts";
import { aSecret, aTask, items } from "./wanted.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-sealed-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const secret = items.secret(aSecret("s1", "pass", "hunter2"));
const task = items.task(aTask("t1", { container: { PullOptions: { RegistryAuth: "hunter3" } } }));
const put = [secret, task, items.config(aSecret("c1", "conf", "public"))];

test("node.db has secrets and credentials sealed, and gives them back", () => {
  const keyPath = join(dir, "apart", "journal.key");
  const journal = openJournal(join(dir, "node"), keyPath);
  journal.putAssignments({ isComplete: true, put, removed: [] });
  for (const name of readdirSync(join(dir, "node"))) {
    const bytes = readFileSync(join(dir, "node", name));
    for (const text of ["hunter2", "hunter3", Buffer.from("hunter2").toString("base64")]) {
      expect(`${name} ${bytes.includes(text)}`).toBe(`${name} false`);
    }
  }
  expect(statSync(keyPath).mode & 0o777).toBe(0o600);
  journal.close();
  const again = openJournal(join(dir, "node"), keyPath);
  expect(again.assignments().toSorted((a, b) => (a.key < b.key ? -1 : 1))).toEqual(
    put.toSorted((a, b) => (a.key < b.key ? -1 : 1)),
  );
  again.close();
});

test("without its key node.db is moved aside, and nothing counts as a complete set", () => {
  const keyPath = join(dir, "journal.key");
  const journal = openJournal(dir, keyPath);
  journal.putAssignments({ isComplete: true, put, removed: [] });
  journal.close();
  rmSync(keyPath);
  const again = openJournal(dir, keyPath);
  expect(again.hasCompleteSet()).toBe(false);
  expect(again.assignments()).toEqual([]);
  expect(existsSync(join(dir, "node.db.broken"))).toBe(true);
  again.close();
});
