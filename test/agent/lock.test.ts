import { afterEach, beforeAll, beforeEach, describe, expect, mock, test } from "bun:test";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClusterError } from "../../core/errors.ts";
import { type Cluster, defaultClusterSpec } from "../../core/objects/cluster.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { Logger } from "../../agent/logger.ts";
import type { TlsIdentity } from "../../net/rpc/peer.ts";
import { makeCluster, makeNode } from "../net/rpc/identities.ts";
import { clusterDraft } from "../core/store/objects.ts";

class Crash extends Error {}

/** A crash stands before this change of a name on disk; none when undefined. */
let crashAt: number | undefined;
let changes = 0;
const real = { ...fs };
const mayCrash = () => {
  if (crashAt !== undefined && changes === crashAt) throw new Crash();
  changes += 1;
};
await mock.module("node:fs", () => ({
  ...real,
  renameSync: (from: string, to: string) => {
    mayCrash();
    real.renameSync(from, to);
  },
  rmSync: (path: string, options: fs.RmOptions) => {
    // A leftover is removed before each write: nothing that a crash could show.
    if (!path.endsWith(".tmp")) mayCrash();
    real.rmSync(path, options);
  },
}));
const { keepLock, openLock } = await import("../../agent/lock.ts");
const { openVault } = await import("../../agent/vault.ts");
const { sealUnlockKey } = await import("../../agent/cluster-secrets.ts");
const { makeUnlockKey, parseUnlockKey } = await import("../../agent/unlock-key.ts");
const { loadPki, pkiPaths, savePki } = await import("../../net/pki/store.ts");

const K1 = new Uint8Array(32).fill(1);
const K2 = new Uint8Array(32).fill(2);

let identity: TlsIdentity;
let dir = "";
let dirs: string[] = [];
beforeAll(async () => {
  identity = await makeNode(await makeCluster("c1"), "manager", "n1");
});
const tempDir = () => {
  const made = fs.mkdtempSync(join(tmpdir(), "shoal-lock-"));
  dirs.push(made);
  return made;
};
beforeEach(() => {
  crashAt = undefined;
  dir = tempDir();
});
afterEach(() => {
  crashAt = undefined;
  for (const one of dirs) fs.rmSync(one, { recursive: true, force: true });
  dirs = [];
});

const lockPath = (of = dir) => join(of, "pki/lock.json");
const textOf = (path: string) => fs.readFileSync(path, "utf8");
const privateTexts = (of = dir) =>
  [pkiPaths(of).key, join(of, "pki/data-keys.json"), lockPath(of)].map(textOf).join("\n");

/** A manager's files in `of`, opened as at a start. */
function start(of = dir, unlockKey?: Uint8Array) {
  const lock = openLock(of);
  if (lock.isLocked() && unlockKey) lock.unlock(unlockKey);
  const vault = openVault(of, lock.files, lock.isLocked());
  const reseal = () => {
    savePki(of, identity, lock.files);
    vault.save();
  };
  return { lock, vault, reseal };
}

/** A manager's files under this unlock key, in `dir`. */
function manager(unlockKey?: Uint8Array) {
  const parts = start();
  parts.lock.make();
  savePki(dir, identity, parts.lock.files);
  parts.vault.make(1);
  parts.lock.follow(unlockKey, parts.reseal);
  return { ...parts, keys: parts.vault.keys() };
}

/** Which of the keys opens it; "none needed" or "no key" else. What it opens is whole. */
function opener(of: string, keys: Record<string, Uint8Array>, dataKeys: unknown): string {
  const fits = Object.keys(keys).filter((name) => {
    const lock = openLock(of);
    if (!lock.isLocked()) return false;
    try {
      lock.unlock(keys[name] ?? K1);
      return true;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      expect(error.message).toBe("swarm could not be unlocked: invalid key provided");
      return false;
    }
  });
  const name = openLock(of).isLocked() ? (fits[0] ?? "no key") : "none needed";
  expect(fits.length).toBeLessThanOrEqual(1);
  const { lock, vault } = start(of, keys[name]);
  expect(loadPki(of, lock.files)).toEqual(identity);
  expect(vault.keys()).toEqual(dataKeys as never);
  return name;
}

/** Runs the change with a crash before each of its steps in turn; gives what opened each, without repeats. */
function crashEverywhere(
  change: (of: string) => void,
  check: (of: string) => string,
  repeat: (of: string) => void,
): string[] {
  const seen: string[] = [];
  for (let step = 0; ; step++) {
    const of = tempDir();
    fs.cpSync(dir, of, { recursive: true });
    changes = 0;
    crashAt = step;
    let hasCrashed = false;
    try {
      change(of);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      hasCrashed = true;
    }
    crashAt = undefined;
    const found = check(of);
    if (seen.at(-1) !== found) seen.push(found);
    if (!hasCrashed) {
      expect(step).toBeGreaterThan(0);
      return seen;
    }
    repeat(of);
  }
}

describe("a manager's files", () => {
  test("are sealed also while the cluster is not locked, and readable without a key", () => {
    const { keys } = manager();
    expect(privateTexts()).not.toContain("PRIVATE KEY");
    expect(privateTexts()).not.toContain(keys[0]?.key ?? "?");
    expect(fs.statSync(lockPath()).mode & 0o777).toBe(0o600);
    expect(opener(dir, {}, keys)).toBe("none needed");
  });

  test("of an older shoal, in clear, are read, and sealed at the next start", () => {
    savePki(dir, identity);
    const old = openVault(dir);
    old.make(1);
    const seen = crashEverywhere(
      (of) => {
        const { lock, reseal } = start(of);
        lock.settle(reseal);
      },
      (of) => opener(of, {}, old.keys()),
      (of) => {
        const { lock, reseal } = start(of);
        lock.settle(reseal);
        expect(privateTexts(of)).not.toContain("PRIVATE KEY");
      },
    );
    expect(seen).toEqual(["none needed"]);
  });

  test("cannot be opened by what is on the disk once it is locked", () => {
    const { lock } = manager();
    const before = textOf(lockPath());
    const parts = start();
    parts.lock.follow(K1, parts.reseal);
    expect(lock.isLocked()).toBe(false);
    expect(openLock(dir).isLocked()).toBe(true);
    // The lock key that lay in clear before seals nothing any more.
    const locked = textOf(lockPath());
    fs.writeFileSync(lockPath(), before);
    expect(() => loadPki(dir, openLock(dir).files)).toThrow("Cannot load");
    expect(() => openVault(dir, openLock(dir).files)).toThrow("is not in");
    fs.writeFileSync(lockPath(), locked);
    const waiting = start();
    expect(waiting.vault.keys()).toEqual([]);
    expect(() => loadPki(dir, waiting.lock.files)).toThrow("Cannot load");
  });

  test("do not change when the unlock key does, or when the lock is switched off", () => {
    const { lock, reseal } = manager(K1);
    const files = () => [pkiPaths(dir).key, join(dir, "pki/data-keys.json")].map(textOf);
    const before = files();
    lock.follow(K2, reseal);
    lock.follow(undefined, reseal);
    expect(files()).toEqual(before);
    lock.follow(K1, reseal);
    expect(files()).not.toEqual(before);
  });
});

describe("a crash at any point", () => {
  const all = { K1, K2 };
  const change = (from: Uint8Array | undefined, to: Uint8Array | undefined) => {
    const { keys } = manager(from);
    const run = (of: string) => {
      const { lock, reseal } = start(of, from);
      if (!lock.isLocked()) lock.follow(to, reseal);
    };
    return crashEverywhere(
      run,
      (of) => opener(of, all, keys),
      (of) => {
        const name = opener(of, all, keys);
        const { lock, reseal } = start(of, all[name as keyof typeof all]);
        lock.settle(reseal);
        lock.follow(to, reseal);
        expect(lock.isAt(to)).toBe(true);
        opener(of, all, keys);
      },
    );
  };

  test("of switching the lock on leaves what needs no key, then what the key opens", () => {
    expect(change(undefined, K1)).toEqual(["none needed", "K1"]);
  });

  test("of a rotation leaves what the old key opens, then the new one", () => {
    expect(change(K1, K2)).toEqual(["K1", "K2"]);
  });

  test("of switching it off leaves what the key opens, then what needs none", () => {
    expect(change(K1, undefined)).toEqual(["K1", "none needed"]);
  });

  test("of a demotion leaves a locked manager or a worker in clear, which drops the rest", () => {
    const { keys } = manager(K1);
    const seen = crashEverywhere(
      (of) => {
        const { lock, vault, reseal } = start(of, K1);
        vault.forget();
        lock.drop(reseal);
      },
      (of) => {
        const lock = openLock(of);
        if (lock.isLocked()) {
          const { vault } = start(of, K1);
          return opener(of, all, vault.keys().length === 0 ? [] : keys);
        }
        expect(fs.existsSync(lockPath(of))).toBe(false);
        expect(loadPki(of)).toEqual(identity);
        return "a worker";
      },
      () => undefined,
    );
    expect(seen).toEqual(["K1", "a worker"]);
  });
});

describe("what cannot be opened", () => {
  test("a wrong key changes nothing, and may be tried again", () => {
    manager(K1);
    const lock = openLock(dir);
    for (const wrong of [K2, new Uint8Array(0), new Uint8Array(31)]) {
      expect(() => lock.unlock(wrong)).toThrow("invalid key provided");
      expect(lock.isLocked()).toBe(true);
    }
    lock.unlock(K1);
    expect(lock.isLocked()).toBe(false);
    lock.close();
    expect(lock.isLocked()).toBe(true);
  });

  test("a damaged lock.json is named", () => {
    manager();
    for (const text of ["", "{", "{}", '{"formatVersion":2,"keys":[]}', '{"formatVersion":1}']) {
      fs.writeFileSync(lockPath(), text);
      expect(() => openLock(dir)).toThrow("lock.json");
    }
  });

  test("no room on disk leaves it as it was, and it goes on when there is", () => {
    const { lock, reseal, keys } = manager();
    const full = () => {
      throw new Error("ENOSPC");
    };
    for (let i = 0; i < 3; i++) expect(() => lock.follow(K1, full)).toThrow("ENOSPC");
    expect(lock.isAt(K1)).toBe(false);
    expect(opener(dir, { K1 }, keys)).toBe("K1");
    lock.follow(K1, reseal);
    expect(lock.isAt(K1)).toBe(true);
  });
});

describe("keepLock()", () => {
  const noLog = { info: () => undefined, warn: () => undefined } as unknown as Logger;
  const clusterWith = (unlockKey: string | undefined): Cluster =>
    ({
      ...clusterDraft(),
      ...(unlockKey === undefined ? {} : { unlockKey }),
      spec: {
        ...defaultClusterSpec(),
        EncryptionConfig: { AutoLockManagers: unlockKey !== undefined },
      },
    }) as Cluster;
  const viewOf = (cluster: Cluster | undefined) => ({ cluster: () => cluster }) as ClusterView;
  const waitFor = async (condition: () => boolean) => {
    const deadlineMs = Date.now() + 5_000;
    while (!condition()) {
      if (Date.now() > deadlineMs) throw new Error("not in time");
      await Bun.sleep(5);
    }
  };

  test("follows the cluster: on, another key, off; and tries again when it cannot", async () => {
    const { lock, vault, reseal } = manager();
    const [one, two] = [makeUnlockKey(), makeUnlockKey()];
    let cluster: Cluster | undefined;
    let failures = 1;
    const keeper = keepLock({
      lock,
      vault,
      manager: {
        readLocal: (read) => read(viewOf(cluster)),
        read: async (read) => {
          if (failures-- > 0) throw new ClusterError("no-quorum", "no leader");
          return read(viewOf(cluster));
        },
      },
      reseal,
      exclusive: (run) => run(),
      log: noLog,
    });
    cluster = clusterWith(sealUnlockKey(vault, one));
    keeper.wake();
    await waitFor(() => lock.isAt(parseUnlockKey(one)));
    expect(failures).toBeLessThan(0);
    cluster = clusterWith(sealUnlockKey(vault, two));
    keeper.wake();
    await waitFor(() => lock.isAt(parseUnlockKey(two)));
    cluster = clusterWith(undefined);
    keeper.wake();
    await waitFor(() => lock.isAt(undefined));
    keeper.stop();
    cluster = clusterWith(sealUnlockKey(vault, one));
    keeper.wake();
    expect(lock.isAt(undefined)).toBe(true);
  });

  test("does not believe an old state that says the lock is off, nor one without a cluster", async () => {
    const { lock, vault, reseal } = manager();
    const key = makeUnlockKey();
    lock.follow(parseUnlockKey(key), reseal);
    const now = clusterWith(sealUnlockKey(vault, key));
    let local: Cluster | undefined;
    let reads = 0;
    const keeper = keepLock({
      lock,
      vault,
      manager: {
        readLocal: (read) => read(viewOf(local)),
        read: async (read) => {
          reads += 1;
          return read(viewOf(now));
        },
      },
      reseal,
      exclusive: (run) => run(),
      log: noLog,
    });
    const before = textOf(lockPath());
    expect(reads).toBe(0);
    local = clusterWith(undefined);
    await waitFor(() => {
      keeper.wake();
      return reads > 0;
    });
    await Bun.sleep(0);
    expect(textOf(lockPath())).toBe(before);
    keeper.stop();
  });
});
