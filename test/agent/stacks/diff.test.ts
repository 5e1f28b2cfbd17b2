import { expect, test } from "bun:test";
import { diffFields } from "../../../agent/stacks/diff.ts";

test.each([
  [{ a: 1 }, { a: 2 }, [{ path: "a", from: 1, to: 2 }]],
  [{ a: { b: "x" } }, { a: {} }, [{ path: "a.b", from: "x" }]],
  [{}, { a: { b: [1] } }, [{ path: "a.b", to: 1 }]],
  [
    { Env: ["A=1", "B=2"] },
    { Env: ["A=1", "B=3"] },
    [
      { path: "Env", from: "B=2" },
      { path: "Env", to: "B=3" },
    ],
  ],
  [{ a: ["x", "y"] }, { a: ["y", "x"] }, [{ path: "a", from: ["x", "y"], to: ["y", "x"] }]],
  [{ a: "x" }, { a: { b: 1 } }, [{ path: "a", from: "x", to: { b: 1 } }]],
  [
    { Labels: { a: "" } },
    { Labels: { b: "" } },
    [
      { path: "Labels.b", to: "" },
      { path: "Labels.a", from: "" },
    ],
  ],
  // What Go's clients write where nothing was given.
  [{ a: 0, b: "", c: false, d: [], e: { f: null } }, {}, []],
])("of %j and %j", (from, to, wanted) => {
  expect(diffFields(from, to)).toEqual(wanted);
});

test("a long list of changes is cut, and says so", () => {
  const many = Object.fromEntries(Array.from({ length: 150 }, (_, i) => [`f${i}`, i + 1]));
  const changes = diffFields({}, many);
  expect(changes).toHaveLength(101);
  expect(changes.at(-1)?.path).toBe("… and 50 more");
});
