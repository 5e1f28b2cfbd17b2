import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openLock } from "../../agent/lock.ts";
import { forgetStorageKey, loadStorageKey, resealStorageKey } from "../../agent/storage-key.ts";
import { ClusterError } from "../../core/errors.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
const tempDir = () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-storage-key-"));
  dirs.push(dir);
  return dir;
};
const codeOf = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    if (error instanceof ClusterError) return error.code;
    throw error;
  }
  return "none";
};
const UNLOCK_KEY = new Uint8Array(32).fill(9);

test("a manager's key is made once, and is the same after a start", () => {
  const dir = tempDir();
  const lock = openLock(dir);
  lock.make();
  const key = loadStorageKey(dir, lock.files);
  expect(key).toHaveLength(32);
  expect(loadStorageKey(dir, openLock(dir).files)).toEqual(key);
  const path = join(dir, "pki/storage-key");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readFileSync(path, "utf8")).not.toContain(Buffer.from(key).toString("base64"));
  forgetStorageKey(dir);
  expect(loadStorageKey(dir, lock.files)).not.toEqual(key);
});

test("of a locked manager it is opened by the unlock key only", () => {
  const dir = tempDir();
  const lock = openLock(dir);
  lock.make();
  const key = loadStorageKey(dir, lock.files);
  const path = join(dir, "pki/storage-key");
  const before = readFileSync(path, "utf8");
  lock.follow(UNLOCK_KEY, () => resealStorageKey(dir, lock.files));
  expect(readFileSync(path, "utf8").split("\n")[0]).not.toBe(before.split("\n")[0]);
  const locked = openLock(dir);
  expect(locked.isLocked()).toBe(true);
  expect(codeOf(() => loadStorageKey(dir, locked.files))).toBe("unavailable");
  locked.unlock(UNLOCK_KEY);
  expect(loadStorageKey(dir, locked.files)).toEqual(key);
  // A crash before the file was sealed anew: the next start goes on.
  writeFileSync(path, before);
  expect(locked.isAt(UNLOCK_KEY)).toBe(true);
  expect(codeOf(() => loadStorageKey(dir, locked.files))).toBe("internal");
});

test("a damaged one is refused in words", () => {
  const dir = tempDir();
  const lock = openLock(dir);
  loadStorageKey(dir, lock.files);
  writeFileSync(join(dir, "pki/storage-key"), "x");
  expect(codeOf(() => loadStorageKey(dir, lock.files))).toBe("internal");
});
