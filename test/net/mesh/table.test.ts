import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  applyAssignments,
  emptyTable,
  loadTable,
  removeTable,
  saveTable,
} from "../../../net/mesh/table.ts";
import { labItems, labTable } from "./lab-state.ts";

describe("mesh table", () => {
  let dir = "";
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "shoal-table-"));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  test("a complete set replaces all, an increment puts and removes", () => {
    const table = labTable(1);
    applyAssignments(table, { isComplete: false, put: [], removed: ["endpoint/task-web1"] });
    expect(table.endpoints.size).toBe(13);
    applyAssignments(table, { isComplete: true, put: labItems(1).slice(0, 2), removed: [] });
    expect(table.endpoints.size).toBe(0);
    expect(table.peers.size).toBe(1);
    expect(table.settings?.nodeId).toBe("node1");
  });

  test("kinds of others change nothing", () => {
    const table = emptyTable();
    const body = { id: "x", version: 1, createdAtMs: 0, updatedAtMs: 0, spec: { Name: "x" } };
    const put = [{ key: "secret/x", kind: "secret" as const, body }];
    expect(applyAssignments(table, { isComplete: false, put, removed: ["task/x"] })).toBeFalse();
    expect(table).toEqual(emptyTable());
  });

  test("what is saved is loaded again", async () => {
    await saveTable(join(dir, "new"), labTable(2));
    expect(await loadTable(join(dir, "new"))).toEqual(labTable(2));
    expect(readdirSync(join(dir, "new"))).toEqual(["mesh-table.json"]);
    await removeTable(join(dir, "new"));
    expect(await loadTable(join(dir, "new"))).toEqual(emptyTable());
  });

  test("a missing, torn or foreign file is an empty table", async () => {
    expect(await loadTable(dir)).toEqual(emptyTable());
    for (const text of ["", '{"format":1,"items":[{"k', '{"format":99,"items":[]}', "[]"]) {
      writeFileSync(join(dir, "mesh-table.json"), text);
      expect(await loadTable(dir)).toEqual(emptyTable());
    }
  });
});
