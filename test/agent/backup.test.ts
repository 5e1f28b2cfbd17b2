import { afterEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BackupHeader,
  decodeBackup,
  encodeBackup,
  readBackupHeader,
  unlockKeyIn,
} from "../../agent/backup.ts";
import { chooseAddresses } from "../../agent/address.ts";
import { sealRoot, sealUnlockKey } from "../../agent/cluster-secrets.ts";
import { openVault } from "../../agent/vault.ts";
import { restoreCluster, writeRestoredLog } from "../../agent/restore.ts";
import { ClusterError } from "../../core/errors.ts";
import { createHost } from "../../core/raft/host.ts";
import { openSqliteLog } from "../../core/raft/sqlite-log.ts";
import { seededRandom } from "../../core/random.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import { bodiesOf, decodeSnapshot, encodeSnapshot } from "../../core/store/sqlite-snapshot.ts";
import { openStateStore } from "../../core/store/sqlite-store.ts";
import { createRootCa } from "../../net/pki/issue.ts";
import { readCertificate } from "../../net/pki/read.ts";
import {
  applyOrThrow,
  clusterDraft,
  create,
  networkDraft,
  nodeDraft,
  secretDraft,
  serviceDraft,
} from "../core/store/objects.ts";

const PASSPHRASE = "correct horse battery";
const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});

/** A cluster of two managers and a worker at index 7. */
async function snapshot(): Promise<Uint8Array> {
  const rows = createMemoryRows();
  const manager = (id: string, index: number) =>
    nodeDraft(id, index, {
      role: "manager",
      spec: { Labels: { zone: "a" }, Role: "manager", Availability: "active" },
      managerAddr: `192.0.2.${index}:2377`,
    });
  const rootCa = await createRootCa();
  for (const action of [
    create("cluster", clusterDraft({ rootCa })),
    create("node", manager("n1", 1)),
    create("node", manager("n2", 2)),
    create("node", nodeDraft("n3", 3)),
    create("network", networkDraft("net1")),
    create("secret", secretDraft("x1")),
    create("service", serviceDraft("s1")),
  ]) {
    applyOrThrow(rows, action);
  }
  expect(rows.index).toBe(7);
  return encodeSnapshot(rows.index, bodiesOf(rows));
}

const HEADER: Omit<BackupHeader, "encryption"> = {
  createdAt: "2026-11-22T11:00:00.000Z",
  shoalVersion: "0.1.0",
  clusterId: "c1",
  nodeId: "n1",
  index: 7,
  isStale: false,
};
const DATA_KEYS = [{ id: "k1", createdAtMs: 1, key: Buffer.alloc(32, 7).toString("base64") }];
const refusal = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof ClusterError) return error.message;
    throw error;
  }
  return "nothing was refused";
};

describe("backup file", () => {
  test.each([undefined, PASSPHRASE])(
    "gives back what was put in (passphrase %p)",
    async (phrase) => {
      const data = await snapshot();
      const bytes = encodeBackup({ header: HEADER, snapshot: data, dataKeys: DATA_KEYS }, phrase);
      const backup = decodeBackup(bytes, phrase);
      expect(Buffer.from(backup.snapshot).equals(Buffer.from(data))).toBe(true);
      expect(backup.header).toMatchObject(HEADER);
      expect(backup.dataKeys).toEqual(DATA_KEYS);
      // The keys are never among what is readable without the passphrase.
      const isReadable = Buffer.from(bytes).includes(DATA_KEYS[0]!.key);
      expect(isReadable).toBe(phrase === undefined);
      // Without the passphrase it still says what it is.
      expect(readBackupHeader(bytes)).toEqual(backup.header);
    },
  );

  test("is different each time it is encrypted, and does not open without the passphrase", async () => {
    const backup = { header: HEADER, snapshot: await snapshot(), dataKeys: DATA_KEYS };
    const bytes = encodeBackup(backup, PASSPHRASE);
    expect(Buffer.from(encodeBackup(backup, PASSPHRASE)).equals(Buffer.from(bytes))).toBe(false);
    expect(refusal(() => decodeBackup(bytes))).toContain("it is encrypted");
    expect(refusal(() => decodeBackup(bytes, "incorrect horse"))).toContain("passphrase is wrong");
    expect(refusal(() => encodeBackup(backup, "short"))).toContain("8 are needed");
  });

  test("of a locked cluster has its unlock key, of another none", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-backup-"));
    dirs.push(dir);
    const vault = openVault(dir);
    vault.learn(DATA_KEYS);
    const of = (set: Partial<ReturnType<typeof clusterDraft>>) => {
      const rows = createMemoryRows();
      applyOrThrow(rows, create("cluster", clusterDraft(set)), create("node", nodeDraft("n1", 1)));
      const snapshot = encodeSnapshot(rows.index, bodiesOf(rows));
      const header = { ...HEADER, index: rows.index };
      return decodeBackup(encodeBackup({ header, snapshot, dataKeys: DATA_KEYS }));
    };
    const spec = { ...clusterDraft().spec, EncryptionConfig: { AutoLockManagers: true } };
    const unlockKey = sealUnlockKey(vault, "SWMKEY-1-AAEC");
    expect(unlockKeyIn(of({ spec, unlockKey }))).toBe("SWMKEY-1-AAEC");
    expect(unlockKeyIn(of({}))).toBeUndefined();
  });

  test("restores with a CA key that is sealed by the backup's own keys", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-backup-"));
    dirs.push(dir);
    const vault = openVault(dir);
    vault.learn(DATA_KEYS);
    const rows = createMemoryRows();
    const rootCa = sealRoot(vault, await createRootCa());
    applyOrThrow(
      rows,
      create("cluster", clusterDraft({ rootCa })),
      create("node", nodeDraft("n1", 1)),
    );
    const snapshot = encodeSnapshot(rows.index, bodiesOf(rows));
    const header = { ...HEADER, index: rows.index };
    const backup = decodeBackup(encodeBackup({ header, snapshot, dataKeys: DATA_KEYS }));
    const addresses = chooseAddresses({ AdvertiseAddr: "192.0.2.9", ListenAddr: "0.0.0.0:2377" });
    const random = seededRandom(1);
    const restored = await restoreCluster({ backup, addresses, nowMs: 1, random });
    expect(readCertificate(restored.tls.certificatePem)).toMatchObject({ role: "manager" });
    const without = { ...backup, dataKeys: [] };
    const refused = await restoreCluster({ backup: without, addresses, nowMs: 1, random }).catch(
      String,
    );
    expect(refused).toContain("does not have key");
  });

  test("is refused when a bit of it has changed or its end is missing", async () => {
    const random = seededRandom(1);
    const bytes = encodeBackup({ header: HEADER, snapshot: await snapshot(), dataKeys: [] });
    const firstLine = bytes.indexOf(0x0a);
    for (let i = 0; i < 200; i++) {
      const at = Math.floor(random.next() * bytes.length);
      const harmed = bytes.slice();
      harmed[at]! ^= 1 << Math.floor(random.next() * 8);
      const said = refusal(() => decodeBackup(harmed));
      expect(said).toContain("Cannot read the backup");
      if (at > firstLine) expect(said).toContain("its checksum differs");
      const cut = bytes.subarray(0, at);
      expect(refusal(() => decodeBackup(cut))).toContain("Cannot read the backup");
    }
  });

  test("is refused when it is another file, of a newer format, or its index is not the body's", async () => {
    const data = await snapshot();
    const text = (content: string) => new TextEncoder().encode(content);
    expect(refusal(() => decodeBackup(text("")))).toContain("not a file that");
    expect(refusal(() => decodeBackup(text("PK\n\n")))).toContain("not a file that");
    expect(refusal(() => decodeBackup(text("shoal-backup 3\n{}\nnew")))).toContain(
      "its format is 3, this shoal reads 2",
    );
    const wrong = encodeBackup({
      header: { ...HEADER, index: 8 },
      snapshot: data,
      dataKeys: [],
    });
    expect(refusal(() => decodeBackup(wrong))).toContain("it says index 8 and holds 7");
  });

  test("of format 1, from before secrets were sealed, is read too", async () => {
    const head = `shoal-backup 1\n${JSON.stringify({ ...HEADER, encryption: null })}\n`;
    const data = await snapshot();
    const bytes = Buffer.concat([Buffer.from(head), data]);
    const digest = createHash("sha256").update(bytes).digest();
    const backup = decodeBackup(Buffer.concat([bytes, digest]));
    expect(backup.dataKeys).toEqual([]);
    expect(Buffer.from(backup.snapshot).equals(Buffer.from(data))).toBe(true);
  });
});

describe("restoreCluster()", () => {
  const restore = async () =>
    restoreCluster({
      backup: decodeBackup(
        encodeBackup({ header: HEADER, snapshot: await snapshot(), dataKeys: [] }),
      ),
      addresses: {
        listen: { host: "0.0.0.0", port: 2377 },
        advertise: { host: "192.0.2.9", port: 2377 },
        dataPath: "192.0.2.9",
      },
      nowMs: Date.UTC(2026, 10, 22),
      random: seededRandom(2),
    });

  test("keeps everything but the managers, whose nodes become workers that are down", async () => {
    const restored = await restore();
    expect(restored).toMatchObject({ clusterId: "c1", workerCount: 1, formerManagerCount: 2 });
    const rows = createMemoryRows();
    const { index, rows: list } = decodeSnapshot(restored.snapshot);
    rows.replaceAll(list, index);
    expect(rows.services().map((s) => s.id)).toEqual(["s1"]);
    expect(rows.secrets().map((s) => s.id)).toEqual(["x1"]);
    expect(rows.networks().map((n) => n.id)).toEqual(["net1"]);
    for (const id of ["n1", "n2"]) {
      const node = rows.node(id);
      expect(node).toMatchObject({ role: "worker", status: { state: "down" }, version: index });
      expect(node?.spec).toEqual({ Labels: { zone: "a" }, Role: "worker", Availability: "active" });
      expect(node?.managerAddr).toBeUndefined();
    }
    expect(rows.node("n3")).toMatchObject({ role: "worker", version: 4 });
    expect(rows.node(restored.nodeId)).toMatchObject({
      role: "manager",
      managerAddr: "192.0.2.9:2377",
      index: 4,
      meshAddress: "10.255.0.4",
    });
    const { certificatePem, caCertificatePem } = restored.tls;
    expect(readCertificate(certificatePem)).toMatchObject({ role: "manager", clusterId: "c1" });
    expect(caCertificatePem).toBe(rows.cluster()!.rootCa.certificatePem);
  });

  test("begins far above the backup's index, so that no version is given out twice", async () => {
    expect((await restore()).index).toBeGreaterThanOrEqual(7 + 1_000_000);
  });

  test("writes a log from which the state is restored, with this node as its only voter", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-restore-"));
    dirs.push(dir);
    const restored = await restore();
    writeRestoredLog(join(dir, "raft"), "192.0.2.9:2377", restored);
    const log = openSqliteLog({ dir: join(dir, "raft"), nodeId: restored.nodeId });
    const store = openStateStore(join(dir, "state.db"));
    const nothing = () => undefined;
    const host = createHost(
      { nodeId: restored.nodeId, electionTicks: 10, heartbeatTicks: 1, random: seededRandom(3) },
      log.stored,
      {
        storage: log,
        send: nothing,
        state: {
          apply: nothing,
          restore: (given) => store.restore(given.data, given),
          leadership: nothing,
          takeSnapshot: nothing,
        },
        answer: nothing,
        statusChanged: nothing,
        removed: nothing,
      },
      0,
    );
    expect(host.raft.voters).toEqual([restored.nodeId]);
    expect(store.appliedIndex).toBe(restored.index);
    expect(Buffer.from(store.snapshot().data).equals(Buffer.from(restored.snapshot))).toBe(true);
    store.close();
    log.close();
  });

  test("refuses a backup without a cluster", async () => {
    const empty = encodeSnapshot(7, []);
    const promise = restoreCluster({
      backup: { header: { ...HEADER, encryption: null }, snapshot: empty, dataKeys: [] },
      addresses: {
        listen: { host: "0.0.0.0", port: 2377 },
        advertise: { host: "192.0.2.9", port: 2377 },
        dataPath: "192.0.2.9",
      },
      nowMs: 0,
      random: seededRandom(4),
    });
    expect(await promise.catch((error: unknown) => String(error))).toContain(
      "before its cluster was complete",
    );
  });
});
