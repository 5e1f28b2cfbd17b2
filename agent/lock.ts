/**
 * A manager's lock. Its private files (`pki/node.key`, `pki/data-keys.json`, `pki/storage-key`) are always sealed by
 * a lock key of this node's own; `pki/lock.json` holds that key: in clear while the cluster is not locked (autolock
 * off), sealed by the cluster's unlock key while it is. Then what lies on this disk opens nothing: neither
 * connections as this node, nor its databases, nor secrets, nor the CA's key, until somebody has given the unlock key
 * (`docker swarm unlock`).
 *
 * 1. lock.json is the only file that changes when the lock is switched off or the unlock key rotated: at every
 *    moment exactly one unlock key, the one before or the one after, opens it (or none is needed).
 * 2. When the lock is switched on, a new lock key is made, for the old one has lain in clear: lock.json gets both
 *    (sealed), then the files are sealed anew, then lock.json gets the new one alone. Whatever a crash leaves is
 *    sealed by a key in lock.json; `settle` goes on from there.
 * 3. A manager follows the cluster object (keepLock). Off, or to another key, it goes only by a linearizable read:
 *    a state that is being filled again from an old snapshot is not believed.
 * 4. Workers have no lock.json, and their files lie in clear. A worker's certificate beside a lock.json is a
 *    demotion that a crash cut off.
 *
 * raft.db and state.db are sealed by the storage key (storage-key.ts); what is secret in them also by the data keys,
 * which all managers have (vault.ts, cluster-secrets.ts).
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { assert } from "../core/assert.ts";
import { ClusterError } from "../core/errors.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import { readText, syncDirectory, writeAtomically } from "../net/pki/atomic-file.ts";
import { openSealed, SEAL_KEY_BYTES, sealBytes } from "../net/pki/seal.ts";
import { type FileSealer, pkiPaths } from "../net/pki/store.ts";
import { unlockKeyOf } from "./cluster-secrets.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";
import { STORAGE_KEY_FILE } from "./storage-key.ts";
import { DATA_KEYS_FILE, type Vault } from "./vault.ts";

const FILE = "pki/lock.json";
const FORMAT_VERSION = 1;
const LOCK_CONTEXT = "lock keys";
const SEALED_MARK = "shoal-sealed 1 ";
/** The old one and the new one, while the files change from one to the other. */
const KEYS_MAX = 2;
const RETRY_MS = 500;

/** Source: moby daemon/cluster/errors.go, errSwarmLocked. */
export const LOCKED =
  'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.';
export const LOCKED_LEAVE =
  "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

const formatSchema = z.object({ formatVersion: z.literal(FORMAT_VERSION) });
const keysSchema = z.array(z.base64().length(44)).min(1).max(KEYS_MAX);
const lockSchema = z.union([
  formatSchema.extend({ keys: keysSchema }),
  formatSchema.extend({ sealed: z.string().min(1) }),
]);

export type NodeLock = {
  /** It waits for the unlock key: nothing that is sealed can be opened. */
  isLocked(): boolean;
  /** For the private files. Without a lock (a worker) they are in clear. */
  files: FileSealer;
  /** A lock key, in clear, unless there is one. On disk when it returns. */
  make(): void;
  /** @throws {ClusterError} unauthenticated in stock's words when it is not the key. */
  unlock(unlockKey: Uint8Array): void;
  /** Forgets what unlock() opened. */
  close(): void;
  /**
   * Brings the files to the newest lock key, and lock.json to that key alone; makes one first if there is none.
   * `reseal` writes all private files by `files`. Whatever of it fails may be repeated.
   */
  settle(reseal: () => void): void;
  /** From now on sealed by that unlock key; in clear when undefined. As settle. */
  follow(unlockKey: Uint8Array | undefined, reseal: () => void): void;
  /** Nothing is left to do for this unlock key. */
  isAt(unlockKey: Uint8Array | undefined): boolean;
  /** This node is no manager any more: its files are in clear, lock.json goes last. */
  drop(reseal: () => void): void;
  /** The node has left; its files are gone or about to go. */
  forget(): void;
};

type Open = { type: "open"; keys: Uint8Array[]; unlockKey: Uint8Array | undefined };
type State = { type: "none" } | { type: "locked"; sealed: string } | Open;

/** @throws {ClusterError} internal when lock.json is there and cannot be read. */
export function openLock(dataDir: string): NodeLock {
  const path = join(dataDir, FILE);
  const { dir, key: nodeKeyPath } = pkiPaths(dataDir);
  let state = load(path);
  const nodeKey = readText(nodeKeyPath);
  if (state.type === "locked" && nodeKey !== undefined && !isSealed(nodeKey)) {
    // A demotion that a crash cut off: see (4). A manager's key is never in clear while lock.json is sealed.
    rmSync(path, { force: true });
    state = { type: "none" };
  }

  const write = (keys: Uint8Array[], unlockKey: Uint8Array | undefined): Open => {
    const list = JSON.stringify(keys.map((key) => Buffer.from(key).toString("base64")));
    const content = unlockKey
      ? { sealed: sealBytes(unlockKey, LOCK_CONTEXT, Buffer.from(list)) }
      : { keys: JSON.parse(list) as string[] };
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    writeAtomically(path, JSON.stringify({ formatVersion: FORMAT_VERSION, ...content }), 0o600);
    syncDirectory(dir);
    state = { type: "open", keys, unlockKey };
    return state;
  };
  const newest = ({ keys }: Open): Uint8Array => {
    const key = keys.at(-1);
    assert(key !== undefined, "a lock has a key");
    return key;
  };
  const isCurrent = (stored: string | undefined, key: Uint8Array) =>
    stored === undefined || stored.startsWith(markOf(key));
  const areFilesCurrent = (open: Open) =>
    [nodeKeyPath, join(dataDir, DATA_KEYS_FILE), join(dataDir, STORAGE_KEY_FILE)].every((file) =>
      isCurrent(readText(file), newest(open)),
    );
  const mustBeOpen = (): Open => {
    if (state.type === "locked") throw new ClusterError("unavailable", LOCKED);
    return state.type === "open" ? state : write([randomBytes(SEAL_KEY_BYTES)], undefined);
  };

  const lock: NodeLock = {
    isLocked: () => state.type === "locked",
    files: {
      seal: (context, text) => {
        if (state.type === "none") return text;
        const key = newest(mustBeOpen());
        return markOf(key) + sealBytes(key, context, Buffer.from(text));
      },
      open: (context, stored) => {
        if (!isSealed(stored)) return stored;
        const keys = state.type === "none" ? [] : mustBeOpen().keys;
        const key = keys.find((one) => isCurrent(stored, one));
        if (!key) {
          throw new ClusterError(
            "internal",
            `Cannot open ${context}: the key that has sealed it is not in ${path}; restore that file, or let the node leave by force and join again`,
          );
        }
        return Buffer.from(openSealed(key, context, stored.slice(markOf(key).length))).toString();
      },
    },
    make: () => void mustBeOpen(),
    unlock: (unlockKey) => {
      assert(state.type === "locked", "only what is locked is unlocked");
      const keys = openKeys(unlockKey, state.sealed);
      if (!keys) {
        throw new ClusterError(
          "unauthenticated",
          "swarm could not be unlocked: invalid key provided",
        );
      }
      state = { type: "open", keys, unlockKey };
    },
    close: () => {
      state = load(path);
    },
    settle: (reseal) => {
      const open = mustBeOpen();
      if (!areFilesCurrent(open)) reseal();
      if (open.keys.length > 1) write([newest(open)], open.unlockKey);
    },
    follow: (unlockKey, reseal) => {
      lock.settle(reseal);
      const open = mustBeOpen();
      if (areEqual(open.unlockKey, unlockKey)) return;
      const isSwitchedOn = open.unlockKey === undefined;
      write(isSwitchedOn ? [newest(open), randomBytes(SEAL_KEY_BYTES)] : open.keys, unlockKey);
      lock.settle(reseal);
    },
    isAt: (unlockKey) =>
      state.type === "open" && state.keys.length === 1 && areEqual(state.unlockKey, unlockKey),
    drop: (reseal) => {
      if (state.type === "none") return;
      mustBeOpen();
      const before = state;
      state = { type: "none" };
      try {
        reseal();
      } catch (error) {
        state = before;
        throw error;
      }
      rmSync(path, { force: true });
      syncDirectory(dir);
    },
    forget: () => {
      rmSync(path, { force: true });
      state = { type: "none" };
    },
  };
  return lock;
}

/** Names the key without telling it. */
function markOf(key: Uint8Array): string {
  const id = createHash("sha256").update(key).digest("hex").slice(0, 16);
  return `${SEALED_MARK}${id}\n`;
}

function isSealed(stored: string | undefined): boolean {
  return stored?.startsWith(SEALED_MARK) === true;
}

function areEqual(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (!a || !b) return a === b;
  return a.length === b.length && timingSafeEqual(a, b);
}

function openKeys(unlockKey: Uint8Array, sealed: string): Uint8Array[] | undefined {
  if (unlockKey.length !== SEAL_KEY_BYTES) return undefined;
  try {
    const text = new TextDecoder().decode(openSealed(unlockKey, LOCK_CONTEXT, sealed));
    return keysSchema.parse(JSON.parse(text)).map((key) => Buffer.from(key, "base64"));
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return undefined;
  }
}

function load(path: string): State {
  const text = readText(path);
  if (text === undefined) return { type: "none" };
  const parsed = z.preprocess(parseJson, lockSchema).safeParse(text);
  if (!parsed.success) {
    throw new ClusterError(
      "internal",
      `Cannot read ${path}: it is damaged, or of a newer shoal; restore it, or remove ${join(path, "../../node.json")} and join again`,
    );
  }
  if ("sealed" in parsed.data) return { type: "locked", sealed: parsed.data.sealed };
  const keys = parsed.data.keys.map((key) => Buffer.from(key, "base64"));
  return { type: "open", keys, unlockKey: undefined };
}

function parseJson(text: unknown): unknown {
  try {
    return JSON.parse(String(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

export type LockKeeper = {
  /** The cluster object may have changed. */
  wake(): void;
  stop(): void;
};

/** Keeps a manager's lock as the cluster object says, from now on: looks at once and when woken, tries again. */
export function keepLock(options: {
  lock: NodeLock;
  vault: Vault;
  manager: Pick<Manager, "read" | "readLocal">;
  reseal(): void;
  /** Runs a step while no other changes the node's files. */
  exclusive(run: () => Promise<void>): Promise<void>;
  log: Logger;
}): LockKeeper {
  const { lock, vault, manager, log } = options;
  let isRunning = false;
  let isWoken = false;
  let isStopped = false;
  let timer: Timer | undefined;
  let said: string | undefined;

  const isThere = (cluster: Cluster | undefined) =>
    !cluster || lock.isAt(unlockKeyOf(vault, cluster));
  const step = async () => {
    // Nothing is known of the cluster yet, or nothing is to be done.
    if (isThere(manager.readLocal((view) => view.cluster()))) return;
    const cluster = await manager.read((view) => view.cluster());
    if (!cluster) return;
    await options.exclusive(async () => {
      if (isStopped || lock.isLocked() || isThere(cluster)) return;
      const unlockKey = unlockKeyOf(vault, cluster);
      lock.follow(unlockKey, options.reseal);
      log.info({ isLockedAtStart: unlockKey !== undefined }, "This manager's lock has changed");
    });
    said = undefined;
  };
  const run = () => {
    if (isStopped) return;
    isWoken = true;
    if (isRunning) return;
    isRunning = true;
    isWoken = false;
    clearTimeout(timer);
    step()
      .catch((error: unknown) => {
        // No leader, a data key that is not here yet, no room on disk. A bug has no code.
        if (!(error instanceof Error) || !("code" in error)) throw error;
        if (said !== error.message) log.warn({ err: error.message }, "Lock not followed yet");
        said = error.message;
        timer = setTimeout(run, RETRY_MS);
      })
      .finally(() => {
        isRunning = false;
        if (isWoken) run();
      });
  };
  run();
  return {
    wake: run,
    stop: () => {
      isStopped = true;
      clearTimeout(timer);
    },
  };
}
