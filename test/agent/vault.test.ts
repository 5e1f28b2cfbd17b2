import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSealed, sealBytes } from "../../net/pki/seal.ts";
import {
  openAssignments,
  openRegistryAuth,
  openSecret,
  openVault,
  sealRegistryAuth,
  sealSecret,
} from "../../agent/vault.ts";
import type { AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import { aSecret, aTask, items } from "./reconciler/wanted.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "shoal-vault-"));
  dirs.push(dir);
  return dir;
}
const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof ClusterError) return error.code;
    throw error;
  }
  return "none";
};
const message = (put: AssignmentsMessage["put"]): AssignmentsMessage => ({
  type: "incremental",
  generation: 2,
  put,
  removed: [],
});

test("what is sealed opens with its key and for its purpose only, and not when it was changed", () => {
  const key = new Uint8Array(32).fill(1);
  const plain = new TextEncoder().encode("hunter2");
  const sealed = sealBytes(key, "a", plain);
  expect(new TextDecoder().decode(openSealed(key, "a", sealed))).toBe("hunter2");
  expect(sealBytes(key, "a", plain)).not.toBe(sealed);
  expect(codeOf(() => openSealed(key, "b", sealed))).toBe("internal");
  expect(codeOf(() => openSealed(new Uint8Array(32), "a", sealed))).toBe("internal");
  for (const harmed of ["", "AAAA", `${sealed.slice(0, 20)}AAAA${sealed.slice(24)}`]) {
    expect(codeOf(() => openSealed(key, "a", harmed))).toBe("internal");
  }
});

test("keys are in a file of their own, survive a restart, and go when the node is no manager", () => {
  const dir = tempDir();
  const vault = openVault(dir);
  expect(vault.isWanting()).toBe(true);
  expect(codeOf(() => vault.seal("a", new Uint8Array(1)))).toBe("unavailable");
  vault.make(1);
  const sealed = vault.seal("a", new Uint8Array([7]));
  expect(statSync(join(dir, "pki/data-keys.json")).mode & 0o777).toBe(0o600);
  const again = openVault(dir);
  expect([...again.open("a", sealed)]).toEqual([7]);
  again.forget();
  expect(openVault(dir).keys()).toEqual([]);
  writeFileSync(join(dir, "pki/data-keys.json"), "{");
  expect(codeOf(() => openVault(dir))).toBe("internal");
});

test("a manager learns the keys of others, keeps its own, and seals by the newest", () => {
  const [older, newer] = [openVault(tempDir()), openVault(tempDir())];
  older.make(1);
  newer.make(2);
  const sealed = newer.seal("a", new Uint8Array([7]));
  expect(older.isWanting()).toBe(false);
  expect(codeOf(() => older.open("a", sealed))).toBe("unavailable");
  expect(older.isWanting()).toBe(true);
  expect(older.learn(newer.keys())).toBe(true);
  expect(older.learn(newer.keys())).toBe(false);
  expect(older.learn([{ id: "short", createdAtMs: 9, key: "AA==" }])).toBe(false);
  expect(older.isWanting()).toBe(false);
  expect([...older.open("a", sealed)]).toEqual([7]);
  const ownId = newer.keys()[0]?.id ?? "";
  expect(older.seal("a", new Uint8Array(1)).startsWith(`${ownId}.`)).toBe(true);
});

test("a node is sent its secrets and credentials in clear; the rest of the message is as it was", () => {
  const vault = openVault(tempDir());
  vault.make(1);
  const secret = aSecret("s1", "pass", "hunter2");
  const stored = { ...secret, spec: sealSecret(vault, "s1", secret.spec) };
  expect(JSON.stringify(stored)).not.toContain(secret.spec.Data ?? "?");
  expect(codeOf(() => openSecret(vault, "s2", stored.spec))).toBe("internal");
  const auth = sealRegistryAuth(vault, "YXV0aA==");
  expect(auth).not.toContain("YXV0aA==");
  expect(openRegistryAuth(vault, auth)).toBe("YXV0aA==");
  const task = aTask("t1", { container: { PullOptions: { RegistryAuth: auth } } });
  const config = aSecret("c1", "conf", "public");
  const given = message([items.secret(stored), items.task(task), items.config(config)]);
  const sent = openAssignments(vault, given, (error) => {
    throw error;
  });
  expect(sent.put[0]).toEqual(items.secret(secret));
  expect(sent.put[1]?.kind === "task" && sent.put[1].body.spec.ContainerSpec.PullOptions).toEqual({
    RegistryAuth: "YXV0aA==",
  });
  expect(sent.put[2]).toEqual(items.config(config));
  const plain = message([items.config(config)]);
  expect(openAssignments(vault, plain, () => {})).toBe(plain);
});

test("what cannot be opened is left out and told, without its content", () => {
  const vault = openVault(tempDir());
  vault.make(1);
  const spec = sealSecret(vault, "s1", aSecret("s1", "pass", "hunter2").spec);
  const task = aTask("t1", {
    container: { PullOptions: { RegistryAuth: sealRegistryAuth(vault, "auth") } },
  });
  const given = message([items.secret({ ...aSecret("s1", "pass", ""), spec }), items.task(task)]);
  const failures: string[] = [];
  const sent = openAssignments(openVault(tempDir()), given, (error) =>
    failures.push(error.message),
  );
  expect(sent.put.map((item) => item.key)).toEqual(["task/t1"]);
  expect(JSON.stringify(sent)).not.toContain("sealed:");
  expect(failures).toHaveLength(2);
  expect(failures.join()).toContain("does not have key");
});
