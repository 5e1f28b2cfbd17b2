import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { planReseal } from "../../agent/data-keys.ts";
import { startMeshKeys } from "../../agent/mesh-keys.ts";
import { openAssignments, openVault, sealMeshKey, type Vault } from "../../agent/vault.ts";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { sharedAssignments } from "../../core/dispatcher/assignments.ts";
import { MESH_KEY_LIFETIME_MS } from "../../core/encryption/mesh-keys.ts";
import { seededRandom } from "../../core/random.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import { createLogger } from "../../agent/logger.ts";
import { applyOrThrow, clusterDraft, create, networkDraft } from "../core/store/objects.ts";

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});
function madeVault(): Vault {
  const dir = mkdtempSync(join(tmpdir(), "shoal-mesh-keys-"));
  dirs.push(dir);
  const vault = openVault(dir);
  vault.make(1);
  return vault;
}

/** A leader over rows, with a clock that the test moves. */
function leader(vault: Vault) {
  const rows = createMemoryRows();
  applyOrThrow(rows, create("cluster", clusterDraft()));
  const clock = { nowMs: 1_700_000_000_000 };
  const keeper = startMeshKeys({
    manager: {
      // Only this of a status is read.
      status: () => ({ isLeader: true }) as never,
      readLocal: (read) => read(rows),
      propose: async (actions) => {
        applyOrThrow(rows, ...actions);
        return { index: rows.index };
      },
    },
    vault,
    random: seededRandom(7),
    log: createLogger("silent"),
    nowMs: () => clock.nowMs,
  });
  const look = async () => {
    const change = { index: 1, kind: "create", table: "network", id: "n" } as const;
    // Only the table is read.
    keeper.take({ type: "applied", index: 1, outcomes: [], changes: [change as never] });
    await Promise.resolve();
    await Bun.sleep(0);
  };
  const keys = () => rows.cluster()?.meshKeys ?? [];
  return { rows, clock, keeper, look, keys };
}

const encrypted = () => {
  const draft = networkDraft("net1");
  return { ...draft, spec: { ...draft.spec, Options: { encrypted: "" } } };
};
const meshKeysOf = (items: Iterable<AssignmentItem>) =>
  [...items].flatMap((item) => (item.kind === "mesh-keys" ? item.body.keys : []));

describe("keys of encrypted networks", () => {
  test("are made with the first such network, changed in time, and dropped with the last", async () => {
    const { rows, clock, keeper, look, keys } = leader(madeVault());
    try {
      await look();
      expect(keys()).toEqual([]);
      applyOrThrow(rows, create("network", encrypted()));
      await look();
      const [first] = keys();
      expect(keys()).toHaveLength(1);
      await look();
      expect(keys()).toHaveLength(1);
      clock.nowMs += MESH_KEY_LIFETIME_MS;
      await look();
      expect(keys()).toEqual([first, expect.objectContaining({ createdAtMs: clock.nowMs })]);
      applyOrThrow(rows, { type: "remove", table: "network", id: "net1" });
      await look();
      expect(rows.cluster()).not.toHaveProperty("meshKeys");
    } finally {
      keeper.stop();
    }
  });

  test("are sealed in the state, and opened on the way to a node only", async () => {
    const vault = madeVault();
    const { rows, keeper, look, keys } = leader(vault);
    try {
      applyOrThrow(rows, create("network", encrypted()));
      await look();
      const [key] = keys();
      const items = [...sharedAssignments(rows).values()];
      expect(meshKeysOf(items)).toEqual([{ id: key?.id, secret: key?.secret } as never]);
      const sent = openAssignments(
        vault,
        { type: "complete", generation: 1, put: items, removed: [] },
        (error) => {
          throw error;
        },
      );
      const [opened] = meshKeysOf(sent.put);
      expect(Buffer.from(opened?.secret ?? "", "base64")).toHaveLength(32);
      expect(JSON.stringify(rows.cluster())).not.toContain(opened?.secret ?? "none");
      // A manager that lacks the data key sends the rest.
      const failures: string[] = [];
      const without = openAssignments(
        madeVault(),
        { type: "complete", generation: 1, put: items, removed: [] },
        (error) => failures.push(error.code),
      );
      expect(meshKeysOf(without.put)).toEqual([]);
      expect(without.put).toHaveLength(items.length - 1);
      expect(failures).toEqual(["unavailable"]);
    } finally {
      keeper.stop();
    }
  });

  test("are sealed anew when the data key changes", () => {
    const vault = madeVault();
    const rows = createMemoryRows();
    const secret = sealMeshKey(vault, "k1", new Uint8Array(32).fill(5));
    const meshKeys = [{ id: "k1", secret, createdAtMs: 1 }];
    applyOrThrow(rows, create("cluster", clusterDraft({ meshKeys })));
    vault.make(2);
    for (const action of planReseal(rows, vault, (error) => {
      throw error;
    })) {
      applyOrThrow(rows, action);
    }
    const [key] = rows.cluster()?.meshKeys ?? [];
    expect(key?.id).toBe("k1");
    expect(key?.secret).not.toBe(secret);
    expect(vault.isCurrent(key?.secret ?? "")).toBe(true);
  });
});
