import { afterEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadIdentity, removeIdentity, saveIdentity } from "../../agent/identity.ts";
import { ClusterError } from "../../core/errors.ts";

const IDENTITY = {
  nodeId: "n1",
  clusterId: "c1",
  listenAddr: "0.0.0.0:2377",
  advertiseAddr: "192.0.2.1:2377",
  dataPathAddr: "192.0.2.1",
  managers: [{ nodeId: "n1", addr: "192.0.2.1:2377" }],
};

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
/** A data directory that does not exist yet. */
function dataDir(): string {
  const parent = mkdtempSync(join(tmpdir(), "shoal-identity-"));
  dirs.push(parent);
  return join(parent, "data");
}
function withText(text: string): string {
  const dir = dataDir();
  mkdirSync(dir);
  writeFileSync(join(dir, "node.json"), text);
  return dir;
}
function refusalOf(act: () => unknown): ClusterError {
  try {
    act();
  } catch (error) {
    if (error instanceof ClusterError) return error;
    throw error;
  }
  throw new Error("It was not refused");
}

describe("node.json", () => {
  test("is absent on a node that is in no cluster", () => {
    expect(loadIdentity(dataDir())).toBeUndefined();
  });

  test("gives back what was saved, readable by its owner only", () => {
    const dir = dataDir();
    saveIdentity(dir, IDENTITY);
    expect(loadIdentity(dir)).toEqual({ formatVersion: 1, ...IDENTITY });
    expect(statSync(join(dir, "node.json")).mode & 0o777).toBe(0o600);
    expect(statSync(dir).mode & 0o777).toBe(0o700);
  });

  test("keeps the founder's first proposal until it is saved without it", () => {
    const dir = dataDir();
    const pendingInit = { id: "p1", atMs: 1, mode: "all", actions: [] } as const;
    saveIdentity(dir, { ...IDENTITY, pendingInit: { ...pendingInit, actions: [] } });
    expect(loadIdentity(dir)?.pendingInit).toEqual({ ...pendingInit, actions: [] });
    saveIdentity(dir, IDENTITY);
    expect(loadIdentity(dir)).not.toHaveProperty("pendingInit");
    expect(readdirSync(dir)).toEqual(["node.json"]);
  });

  test("takes no notice of what a crash left half written", () => {
    const dir = dataDir();
    saveIdentity(dir, IDENTITY);
    writeFileSync(join(dir, "node.json.tmp"), '{ "formatVersion": 1, "nodeId": "other and much');
    expect(loadIdentity(dir)?.nodeId).toBe("n1");
    saveIdentity(dir, { ...IDENTITY, clusterId: "c2" });
    expect(loadIdentity(dir)?.clusterId).toBe("c2");
    expect(readdirSync(dir)).toEqual(["node.json"]);
  });

  test.each([
    ["", "nothing"],
    ['{"formatVersion": 1, "nodeId', "a part"],
    ["null", "no object"],
  ])("is refused when it is damaged: %p", (text) => {
    const dir = withText(text);
    const error = refusalOf(() => loadIdentity(dir));
    expect(error.code).toBe("internal");
    expect(error.message).toStartWith(`Cannot read "${dir}/node.json": it is damaged`);
    // It may be all that is left to restore from.
    expect(readFileSync(join(dir, "node.json"), "utf8")).toBe(text);
  });

  test("is refused when it has no format version", () => {
    const error = refusalOf(() => loadIdentity(withText('{"nodeId": "n1"}')));
    expect(error.message).toContain("it is damaged");
  });

  test("of a newer format is refused, with both versions", () => {
    const dir = withText(JSON.stringify({ ...IDENTITY, formatVersion: 2 }));
    const error = refusalOf(() => loadIdentity(dir));
    expect(error.code).toBe("internal");
    expect(error.message).toBe(
      `Cannot use "${dir}/node.json": format 2, this shoal knows 1; start the version that wrote it`,
    );
  });
});

describe("removeIdentity()", () => {
  test("removes everything of the cluster and leaves the rest", () => {
    const dir = dataDir();
    saveIdentity(dir, IDENTITY);
    for (const name of ["pki", "raft", "state", "node", "mesh", "plugins"]) {
      mkdirSync(join(dir, name));
      writeFileSync(join(dir, name, "file"), "x");
    }
    removeIdentity(dir);
    expect(loadIdentity(dir)).toBeUndefined();
    expect(readdirSync(dir)).toEqual(["plugins"]);
  });

  test("completes a removal that a crash interrupted", () => {
    const dir = dataDir();
    mkdirSync(join(dir, "raft"), { recursive: true });
    removeIdentity(dir);
    removeIdentity(dir);
    expect(existsSync(join(dir, "raft"))).toBe(false);
  });
});
