import { describe, expect, test } from "bun:test";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { bodiesOf, decodeSnapshot, encodeSnapshot } from "../../../core/store/sqlite-snapshot.ts";
import { applyOrThrow, create, nodeDraft, secretDraft } from "./objects.ts";

describe("encodeSnapshot()", () => {
  test("gives back index and objects, line breaks and all", () => {
    const rows = createMemoryRows();
    const labels = { "line\nbreak": "tab\tand \u2028 and ü" };
    const secret = secretDraft("x");
    applyOrThrow(
      rows,
      create("node", nodeDraft("n1", 1)),
      create("secret", { ...secret, spec: { ...secret.spec, Labels: labels } }),
    );
    const data = encodeSnapshot(42, bodiesOf(rows));
    expect(decodeSnapshot(data)).toEqual({
      index: 42,
      rows: [
        { table: "node", object: rows.node("n1")! },
        { table: "secret", object: rows.secret("x")! },
      ],
    });
  });

  test("gives equal bytes for equal states, whatever the order of their making", () => {
    const drafts = [create("node", nodeDraft("n1", 1)), create("node", nodeDraft("n2", 2))];
    const [one, other] = [drafts, drafts.toReversed()].map((actions) => {
      const rows = createMemoryRows();
      applyOrThrow(rows, ...actions);
      return encodeSnapshot(1, bodiesOf(rows));
    });
    expect(one).toEqual(other);
  });

  test("of an empty state is readable", () => {
    expect(decodeSnapshot(encodeSnapshot(0, []))).toEqual({ index: 0, rows: [] });
  });

  test("of other bytes is refused", () => {
    expect(() => decodeSnapshot(new Uint8Array())).toThrow("does not begin as a snapshot");
    expect(() => decodeSnapshot(new Uint8Array(100))).toThrow("does not begin as a snapshot");
  });
});
