import { describe, expect, test } from "bun:test";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { applyOrThrow, create, nodeDraft, serviceDraft, taskDraft } from "./objects.ts";

describe("MemoryRows", () => {
  test("lists by id, whatever the order of creation", () => {
    const rows = createMemoryRows();
    applyOrThrow(rows, create("service", serviceDraft("s1")));
    for (const id of ["t3", "t1", "t2"]) applyOrThrow(rows, create("task", taskDraft(id, "s1")));
    expect(rows.tasks().map((task) => task.id)).toEqual(["t1", "t2", "t3"]);
    expect(rows.tasksByService("s1").map((task) => task.id)).toEqual(["t1", "t2", "t3"]);
    expect(rows.tasksByNode("n1")).toEqual([]);
  });

  test("never changes a list that it has handed out", () => {
    const rows = createMemoryRows();
    applyOrThrow(rows, create("node", nodeDraft("n1", 1)), create("node", nodeDraft("n2", 2)));
    const before = rows.nodes();
    const copy = [...before];
    applyOrThrow(
      rows,
      create("node", nodeDraft("n0", 3)),
      { type: "update", table: "node", id: "n1", set: { role: "manager" } },
      { type: "remove", table: "node", id: "n2" },
    );
    expect(before).toEqual(copy);
    expect(rows.nodes().map((node) => [node.id, node.role])).toEqual([
      ["n0", "worker"],
      ["n1", "manager"],
    ]);
  });

  test("moves a task to the node that it is given", () => {
    const rows = createMemoryRows();
    applyOrThrow(
      rows,
      create("service", serviceDraft("s1")),
      create("task", taskDraft("t1", "s1")),
    );
    applyOrThrow(rows, { type: "update", table: "task", id: "t1", set: { nodeId: "n1" } });
    expect(rows.tasksByNode("n1")).toEqual([rows.task("t1")!]);
    applyOrThrow(rows, { type: "remove", table: "task", id: "t1" });
    expect(rows.tasksByNode("n1")).toEqual([]);
    expect(rows.tasksByService("s1")).toEqual([]);
  });
});
