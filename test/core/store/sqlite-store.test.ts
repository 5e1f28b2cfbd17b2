import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { encodeProposal } from "../../../core/protocol.ts";
import type { Proposal } from "../../../core/store/action.ts";
import { claimsOf, referencesOf } from "../../../core/store/claims.ts";
import { type MemoryRows, TABLE_NAMES } from "../../../core/store/memory-rows.ts";
import { createRowSealer } from "../../../core/sqlite-seal.ts";
import { CLEAR_ROWS, sealedRows } from "../../../core/store/sqlite-row-form.ts";
import { bodiesOf } from "../../../core/store/sqlite-snapshot.ts";
import {
  type Entry,
  openOrRebuildStateStore,
  openStateReader,
  openStateStore,
  type StateStore,
} from "../../../core/store/sqlite-store.ts";
import type { ClusterView } from "../../../core/store/view.ts";
import { clusterDraft, create, nodeDraft, proposal, serviceDraft, taskDraft } from "./objects.ts";
import { proposals } from "./random-actions.ts";

const SEALED = sealedRows(createRowSealer(new Uint8Array(32).fill(7)));
const SEALED_READER = sealedRows(createRowSealer(new Uint8Array(32).fill(7)), true);
let dir: string;
let fileCount = 0;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-store-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));
const newPath = () => join(dir, `state-${fileCount++}.db`);

const entry = (index: number, proposal: Proposal): Entry => ({
  index,
  term: 1,
  data: encodeProposal(proposal),
});

/** Everything that a view can be asked, so that two stores can be compared. */
function answers(view: ClusterView): unknown {
  const ids = ["n1", "n2", "n3", "net1", "net2", "net3", "s1", "s2", "s3", "t1", "t2", "x1", "zz"];
  const names = ["alpha", "Alpha", "beta", "gamma", "zz"];
  return {
    index: view.index,
    bodies: [...bodiesOf(view)],
    byId: ids.map((id) => [
      view.node(id),
      view.network(id),
      view.service(id),
      view.task(id),
      view.secret(id),
      view.config(id),
      view.tasksByService(id),
      view.tasksByNode(id),
    ]),
    byName: names.map((name) => [
      view.networkByName(name),
      view.serviceByName(name),
      view.secretByName(name),
      view.configByName(name),
    ]),
  };
}

/** The indexes of the rows against a naive computation from all objects. */
function expectIndexes(rows: MemoryRows) {
  const exclusive = new Map<string, string>();
  const references = new Map<string, Set<string>>();
  for (const { table, body } of bodiesOf(rows)) {
    const object = JSON.parse(body);
    const key = `${table}/${object.id}`;
    for (const claim of claimsOf(table, object).exclusive) {
      expect(exclusive.get(claim) ?? key).toBe(key);
      exclusive.set(claim, key);
    }
    for (const target of referencesOf(table, object)) {
      references.set(target, (references.get(target) ?? new Set()).add(key));
      const [targetTable, id] = target.split("/");
      const name = TABLE_NAMES.find((name) => name === targetTable)!;
      expect(rows.get(name, id!)).toBeDefined();
    }
  }
  for (const [claim, holder] of exclusive) expect(rows.exclusiveHolder(claim)).toBe(holder);
  for (const [target, users] of references) {
    expect(rows.referrers(target)).toEqual([...users].sort());
  }
}

const one = (store: StateStore) =>
  store.applyEntries([entry(1, proposal([create("node", nodeDraft("n1", 1))], { id: "p1" }))]);

describe("StateStore", () => {
  test("takeEntries() is seen in memory, and by a reader and after a crash only once persisted", () => {
    const path = newPath();
    const store = openStateStore(path);
    const reader = openStateReader(path);
    const inFile = () => reader.read((view) => [view.index, view.nodes().length]);
    store.takeEntries([
      entry(1, proposal([create("node", nodeDraft("n1", 1))])),
      entry(2, proposal([create("node", nodeDraft("n2", 2))])),
    ]);
    expect([store.appliedIndex, store.rows.nodes().length, inFile()]).toEqual([2, 2, [0, 0]]);
    store.persist();
    expect(inFile()).toEqual([2, 2]);
    store.takeEntries([entry(3, proposal([{ type: "remove", table: "node", id: "n1" }]))]);
    expect(inFile()).toEqual([2, 2]);
    store.close(); // a proper end loses nothing
    expect(inFile()).toEqual([3, 1]);
    reader.close();
  });

  test("memory, file, reader, reopened file and restored snapshot agree after random proposals", () => {
    fc.assert(
      fc.property(
        proposals,
        fc.integer({ min: 1, max: 5 }),
        fc.boolean(),
        (list, batchSize, isSealed) => {
          const path = newPath();
          const form = isSealed ? SEALED : CLEAR_ROWS;
          const store = openStateStore(path, undefined, form);
          const reader = openStateReader(path, undefined, isSealed ? SEALED_READER : form);
          const entries = list.map((proposal, i) => entry(i + 1, proposal));
          for (let i = 0; i < entries.length; i += batchSize) {
            store.applyEntries(entries.slice(i, i + batchSize));
            // What it has opened before may have changed.
            if (i === 0) expect(reader.read(answers)).toEqual(answers(store.rows));
          }
          const expected = answers(store.rows);
          expectIndexes(store.rows);
          expect(reader.read(answers)).toEqual(expected);

          const restored = openStateStore(newPath());
          restored.applyEntries([entry(1, proposal([create("node", nodeDraft("old", 77))]))]);
          const { index, data } = store.snapshot();
          restored.restore(data, { index, term: 1 });
          expect(answers(restored.rows)).toEqual(expected);
          expectIndexes(restored.rows);
          expect(restored.snapshot().data).toEqual(data);

          // Both go on alike, though their maps were filled in another order.
          const next = list.map((proposal, i) => entry(index + 1 + i, proposal));
          expect(restored.applyEntries(next)).toEqual(store.applyEntries(next));
          expect(restored.snapshot().data).toEqual(store.snapshot().data);

          const last = answers(store.rows);
          reader.close();
          store.close();
          const reopened = openStateStore(path, undefined, form);
          expect(answers(reopened.rows)).toEqual(last);
          reopened.close();
          restored.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  test("sealed, the file says nothing of names and bodies, and is opened by its key only", () => {
    const path = newPath();
    const words = /secret-name|env=value/;
    const service = serviceDraft("s1", { Name: "secret-name", Labels: { x: "env=value" } });
    const contents = () =>
      ["", "-wal"]
        .map((suffix) => path + suffix)
        .filter((file) => existsSync(file))
        .map((file) => readFileSync(file, "latin1"))
        .join("");
    // An older version's: it is taken away whole, and filled again.
    const clear = openStateStore(path);
    clear.applyEntries([entry(1, proposal([create("service", service)]))]);
    clear.close();
    expect(contents()).toMatch(words);
    const opened = openOrRebuildStateStore(path, undefined, SEALED);
    expect(opened.rebuiltBecause).toBe("it was written before rows were sealed");
    expect(existsSync(`${path}.damaged`)).toBe(false);
    opened.store.applyEntries([entry(1, proposal([create("service", service)]))]);
    const reader = openStateReader(path, undefined, SEALED);
    expect(reader.read((view) => view.serviceByName("secret-name")?.id)).toBe("s1");
    expect(reader.read((view) => view.serviceByName("Secret-name"))).toBeUndefined();
    reader.close();
    opened.store.close();
    expect(contents()).not.toMatch(words);
    for (const [form, why] of [
      [CLEAR_ROWS, "its rows are sealed"],
      [sealedRows(createRowSealer(new Uint8Array(32))), "Cannot open what is sealed"],
    ] as const) {
      const other = openOrRebuildStateStore(path, undefined, form);
      expect(other.rebuiltBecause).toContain(why);
      other.store.close();
      renameSync(`${path}.damaged`, path);
    }
  });

  test("skips entries that it has applied and refuses a gap", () => {
    const store = openStateStore(newPath());
    expect(one(store).outcomes).toEqual([
      { proposalId: "p1", outcome: { type: "applied", index: 1, droppedCount: 0 } },
    ]);
    expect(one(store)).toEqual({ outcomes: [], changes: [] });
    expect(() => store.applyEntries([entry(3, proposal([]))])).toThrow(
      "Entry 3 follows applied index 1",
    );
    store.close();
  });

  test("records the index of empty and of undecodable entries", () => {
    const path = newPath();
    const store = openStateStore(path);
    store.applyEntries([
      { index: 1, term: 1, data: new Uint8Array() },
      { index: 2, term: 2, data: new TextEncoder().encode("no json") },
    ]);
    store.close();
    expect(openStateStore(path).appliedIndex).toBe(2);
  });

  test("keeps its state when a snapshot is damaged in any byte", () => {
    const store = openStateStore(newPath());
    one(store);
    const before = answers(store.rows);
    const { data } = store.snapshot();
    for (const position of [0, 8, 39, 45, data.length - 1]) {
      const damaged = data.slice();
      damaged[position]! ^= 0xff;
      expect(() => store.restore(damaged, { index: 9, term: 1 })).toThrow("snapshot is damaged");
    }
    expect(() => store.restore(data.slice(0, 60), { index: 9, term: 1 })).toThrow("damaged");
    expect(answers(store.rows)).toEqual(before);
    store.close();
  });

  test("does not open a file of another format", () => {
    const path = newPath();
    openStateStore(path).close();
    const database = new Database(path);
    database.run("UPDATE meta SET format_version = 99");
    database.close();
    expect(() => openStateStore(path)).toThrow("its format is 99");
    expect(() => openStateReader(path)).toThrow("its format is 99");
  });

  test("snapshots and restores ten thousand tasks", () => {
    const store = openStateStore(newPath());
    const tasks = Array.from({ length: 10_000 }, (_, i) =>
      create("task", taskDraft(`t${String(i).padStart(5, "0")}`, "s1")),
    );
    const service = create("service", serviceDraft("s1"));
    store.applyEntries([
      entry(1, proposal([create("cluster", clusterDraft()), service, ...tasks])),
    ]);
    const other = openStateStore(newPath());
    other.restore(store.snapshot().data, { index: 1, term: 1 });
    expect(other.rows.tasks()).toHaveLength(10_000);
    expect(other.snapshot().data).toEqual(store.snapshot().data);
    store.close();
    other.close();
  });
});

describe("StateReader", () => {
  test("sees one state during a read, the newest in the next", () => {
    const path = newPath();
    const store = openStateStore(path);
    const reader = openStateReader(path);
    reader.read((view) => {
      expect([view.index, view.nodes().length]).toEqual([0, 0]);
      one(store);
      expect([view.index, view.nodes().length]).toEqual([0, 0]);
    });
    expect(reader.read((view) => [view.index, view.nodes().length])).toEqual([1, 1]);
    reader.close();
    store.close();
  });

  test("ends its transaction when the read throws", () => {
    const path = newPath();
    openStateStore(path).close();
    const reader = openStateReader(path);
    expect(() =>
      reader.read(() => {
        throw new Error("mine");
      }),
    ).toThrow("mine");
    expect(reader.read((view) => view.index)).toBe(0);
    reader.close();
  });
});
