import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  openSigningCa,
  openTokens,
  openUnlockKey,
  sealedParts,
  sealFounding,
  sealRotation,
  sealTokens,
  sealUnlockKey,
  unlockKeyOf,
} from "../../agent/cluster-secrets.ts";
import { makeUnlockKey } from "../../agent/unlock-key.ts";
import { openVault, type Vault } from "../../agent/vault.ts";
import { planRootRotation } from "../../core/ca/root-rotation.ts";
import { seededRandom } from "../../core/random.ts";
import { type Cluster, defaultClusterSpec } from "../../core/objects/cluster.ts";
import { applyOrThrow, clusterDraft, create } from "../core/store/objects.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
function aVault(): Vault {
  const dir = mkdtempSync(join(tmpdir(), "shoal-cluster-secrets-"));
  dirs.push(dir);
  const vault = openVault(dir);
  vault.make(1);
  return vault;
}
const ROTATION = {
  certificatePem: "NEW",
  keyPem: "NEW KEY",
  issuerPublicKey: "spki",
  joinTokens: { worker: "w2", manager: "m2" },
  isSigning: true,
};
function aCluster(set: Partial<Cluster> = {}): Cluster {
  const rows = createMemoryRows();
  applyOrThrow(rows, create("cluster", clusterDraft(set)));
  const found = rows.cluster();
  if (!found) throw new Error("no cluster");
  return found;
}
const locked = () => ({
  ...defaultClusterSpec(),
  EncryptionConfig: { AutoLockManagers: true },
});

describe("an older cluster's secrets in clear", () => {
  test("are used as they are, and sealed whole when the occasion comes", () => {
    const vault = aVault();
    const unlockKey = makeUnlockKey();
    const clear = aCluster({ caRotation: ROTATION, unlockKey, spec: locked() });
    expect(openSigningCa(vault, clear)).toEqual({ certificatePem: "NEW", keyPem: "NEW KEY" });
    expect(openTokens(vault, clear)).toEqual(clear.joinTokens);
    const set = sealedParts(vault, clear);
    const sealed: Cluster = { ...clear, ...set };
    const text = JSON.stringify(sealed);
    for (const word of ['KEY"', unlockKey, '"w2"', '"m2"', '"w"', '"m"']) {
      expect(text).not.toContain(word);
    }
    expect(sealedParts(vault, sealed)).toBeUndefined();
    expect(openSigningCa(vault, sealed).keyPem).toBe("NEW KEY");
    expect(
      openSigningCa(vault, { ...sealed, caRotation: { ...ROTATION, isSigning: false } }),
    ).toEqual(clear.rootCa);
    expect(openTokens(vault, sealed)).toEqual(clear.joinTokens);
    expect(openUnlockKey(vault, sealed)).toBe(unlockKey);
    expect(unlockKeyOf(vault, sealed)).toHaveLength(32);
  });

  test("of a founder are sealed in its proposal", () => {
    const vault = aVault();
    const object = clusterDraft();
    const proposal = {
      id: "p1",
      atMs: 1,
      mode: "all" as const,
      actions: [create("cluster", object)],
    };
    const sealed = JSON.stringify(sealFounding(vault, proposal));
    expect(sealed).toContain("sealed:");
    expect(sealed).not.toContain(`"${object.rootCa.keyPem}"`);
  });
});

test("a sealed root and its sealed tokens stay usable when core moves them to their places", () => {
  const vault = aVault();
  const rows = createMemoryRows();
  applyOrThrow(rows, create("cluster", clusterDraft()));
  const set = { caRotation: sealRotation(vault, ROTATION) };
  const id = rows.cluster()?.id ?? "";
  applyOrThrow(rows, { type: "update", table: "cluster", id, set });
  for (let step = 0; step < 4; step++) {
    const { actions } = planRootRotation({ view: rows, nowMs: 1, random: seededRandom(1) });
    for (const action of actions) applyOrThrow(rows, action);
  }
  const cluster = rows.cluster();
  if (!cluster) throw new Error("no cluster");
  expect(cluster.caRotation).toBeUndefined();
  expect(openSigningCa(vault, cluster)).toEqual({ certificatePem: "NEW", keyPem: "NEW KEY" });
  expect(openTokens(vault, cluster)).toEqual(ROTATION.joinTokens);
});

test("a worker's token cannot be put in the manager's place, nor opened without its key", () => {
  const vault = aVault();
  const tokens = sealTokens(vault, { worker: "w", manager: "m" });
  const swapped = { worker: tokens.manager, manager: tokens.worker };
  expect(() => openTokens(vault, aCluster({ joinTokens: swapped }))).toThrow("Cannot open");
  expect(() => openTokens(aVault(), aCluster({ joinTokens: tokens }))).toThrow("does not have key");
});

test("while autolock is off there is no unlock key", () => {
  const vault = aVault();
  const unlockKey = sealUnlockKey(vault, makeUnlockKey());
  expect(openUnlockKey(vault, aCluster({ unlockKey }))).toBeUndefined();
  expect(unlockKeyOf(vault, aCluster({ spec: locked() }))).toBeUndefined();
});
