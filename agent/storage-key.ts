/**
 * The key by which this manager seals raft.db and state.db (core/sqlite-seal.ts): `pki/storage-key` (0600), itself
 * sealed by the manager's lock. So what lies on the disk of a manager that needs its unlock key is opened by that
 * alone: specs, configs and environment variables too.
 *
 * Every manager has its own; no other one ever gets it. It is there before the first file that is sealed by it,
 * stays for as long as the node manages, and goes with what it has sealed.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { ClusterError } from "../core/errors.ts";
import { readText, syncDirectory, writeAtomically } from "../net/pki/atomic-file.ts";
import { SEAL_KEY_BYTES } from "../net/pki/seal.ts";
import type { FileSealer } from "../net/pki/store.ts";

/** Under the data directory. */
export const STORAGE_KEY_FILE = "pki/storage-key";
const FILE_CONTEXT = "the key of raft.db and state.db";

/** The key; one is made where there is none. @throws {ClusterError} internal when the file cannot be read. */
export function loadStorageKey(dataDir: string, files: FileSealer): Uint8Array {
  const path = join(dataDir, STORAGE_KEY_FILE);
  const stored = readText(path);
  if (stored === undefined) {
    const made = randomBytes(SEAL_KEY_BYTES);
    save(path, made, files);
    return made;
  }
  const key = Buffer.from(files.open(FILE_CONTEXT, stored), "base64");
  if (key.length === SEAL_KEY_BYTES) return key;
  throw new ClusterError(
    "internal",
    `Cannot read ${path}: it is damaged; restore it, or let the node leave by force and join again`,
  );
}

/** Writes the file again, sealed as the lock is now. */
export function resealStorageKey(dataDir: string, files: FileSealer): void {
  const path = join(dataDir, STORAGE_KEY_FILE);
  const stored = readText(path);
  if (stored === undefined) return;
  save(path, Buffer.from(files.open(FILE_CONTEXT, stored), "base64"), files);
}

/** What it has sealed is gone. */
export function forgetStorageKey(dataDir: string): void {
  rmSync(join(dataDir, STORAGE_KEY_FILE), { force: true });
}

function save(path: string, key: Uint8Array, files: FileSealer): void {
  const dir = dirname(path);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  writeAtomically(path, files.seal(FILE_CONTEXT, Buffer.from(key).toString("base64")), 0o600);
  syncDirectory(dir);
}
