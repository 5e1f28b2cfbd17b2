import {
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { loadPki, pkiPaths, removePki, savePki } from "../../../net/pki/store.ts";
import type { TlsIdentity } from "../../../net/rpc/peer.ts";
import { makeCluster, makeNode } from "../rpc/identities.ts";

let first: TlsIdentity;
let second: TlsIdentity;
let dir = "";
beforeAll(async () => {
  const cluster = await makeCluster("c1");
  first = await makeNode(cluster, "worker", "n1");
  second = await makeNode(cluster, "manager", "n1");
});
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-pki-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("savePki()", () => {
  test("is read back by loadPki(), also after a second one", () => {
    expect(loadPki(dir)).toBeUndefined();
    savePki(dir, first);
    expect(loadPki(dir)).toEqual(first);
    savePki(dir, second);
    expect(loadPki(dir)).toEqual(second);
  });

  test("keeps the key from others and leaves no other file", () => {
    savePki(dir, first);
    const paths = pkiPaths(dir);
    expect(statSync(paths.key).mode & 0o777).toBe(0o600);
    expect(statSync(paths.dir).mode & 0o777).toBe(0o700);
    expect([...new Bun.Glob("**").scanSync({ cwd: paths.dir })].sort()).toEqual([
      "ca.pem",
      "node.key",
      "node.pem",
    ]);
  });
});

describe("loadPki()", () => {
  test("gives the old pair after a crash before the certificate's rename", () => {
    savePki(dir, first);
    writeFileSync(pkiPaths(dir).keyNext, second.keyPem);
    writeFileSync(`${pkiPaths(dir).certificate}.tmp`, second.certificatePem.slice(0, 100));
    expect(loadPki(dir)).toEqual(first);
  });

  test("gives the new pair after a crash after it, and finishes the move", () => {
    savePki(dir, first);
    const paths = pkiPaths(dir);
    writeFileSync(paths.keyNext, second.keyPem);
    writeFileSync(`${paths.certificate}.tmp`, second.certificatePem);
    renameSync(`${paths.certificate}.tmp`, paths.certificate);
    expect(loadPki(dir)).toEqual(second);
    expect(readFileSync(paths.key, "utf8")).toBe(second.keyPem);
    expect(existsSync(paths.keyNext)).toBe(false);
  });

  test("refuses files that do not belong together, naming the file", () => {
    savePki(dir, first);
    writeFileSync(pkiPaths(dir).key, second.keyPem);
    expect(() => loadPki(dir)).toThrow("node.key is missing or does not belong");
    savePki(dir, first);
    rmSync(pkiPaths(dir).ca);
    expect(() => loadPki(dir)).toThrow("ca.pem is missing");
    writeFileSync(pkiPaths(dir).certificate, "damaged");
    expect(() => loadPki(dir)).toThrow("Cannot load");
  });
});

describe("removePki()", () => {
  test("leaves nothing and may be repeated", () => {
    savePki(dir, first);
    removePki(dir);
    removePki(dir);
    expect(existsSync(pkiPaths(dir).dir)).toBe(false);
    expect(loadPki(dir)).toBeUndefined();
  });
});
