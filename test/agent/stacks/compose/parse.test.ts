import { expect, test } from "bun:test";
import { plain } from "../../../../agent/stacks/compose/node.ts";
import { parseFile } from "../../../../agent/stacks/compose/parse.ts";
import { newReport } from "../../../../agent/stacks/compose/report.ts";
import { problemsOf } from "./compose-of.ts";

function parsed(text: string): unknown {
  const report = newReport();
  const node = parseFile(report, { name: "a.yml", text });
  expect(report.problems).toEqual([]);
  return node && plain(node);
}

test.each<[string, unknown]>([
  ["22:22", "22:22"],
  ["yes", "yes"],
  ["0440", 288],
  ["0o440", 288],
  ["0b11", 3],
  ["1_000", 1_000],
  ["0x10", 16],
  ["'0440'", "0440"],
  ["1.10", 1.1],
  ["true", true],
  ["~", null],
  ["", null],
  ["0.0.0.0", "0.0.0.0"],
])("the value %s is %p", (text, value) => expect(parsed(`a: ${text}`)).toEqual({ a: value }));

test("anchors and merge keys are resolved, own keys first and the first of several maps next", () => {
  const text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc:\n  <<: [*a, *b]\n  y: 3\nd: *a\n";
  expect(parsed(text)).toMatchObject({ c: { x: 1, y: 3, z: 2 }, d: { x: 1, y: 1 } });
});

test("an anchor that is given again means the newer one from there on", () => {
  expect(parsed("a: &a 1\nb: *a\nc: &a 2\nd: *a\n")).toEqual({ a: 1, b: 1, c: 2, d: 2 });
});

test("a key can be that of an anchor", () => {
  expect(parsed("a: &a x\n*a : 1\n")).toEqual({ a: "x", x: 1 });
});

test("values know their place, also those of a merge key", () => {
  const text = "a: &a\n  x: 1\nb:\n  <<: *a\n  y: [2]\n";
  const top = parseFile(newReport(), { name: "a.yml", text });
  const b = top?.entries.get("b");
  if (b?.kind !== "map") throw new Error("b is no map");
  expect(b.entries.get("x")).toMatchObject({ path: "b.x", at: { line: 2, column: 6 } });
  expect(b.entries.get("y")).toMatchObject({ path: "b.y", keyAt: { line: 5, column: 3 } });
});

const bomb = [
  "a0: &a0 [x,x,x,x,x,x,x,x,x,x]",
  ...[1, 2, 3, 4, 5, 6, 7, 8].map((i) => `a${i}: &a${i} [${`*a${i - 1},`.repeat(10)}]`),
].join("\n");

test.each([
  ["a list", "- a", /^a\.yml:1:1: there is no map with services/],
  ["nothing", "", /^a\.yml:1:1: there is no map with services/],
  [
    "a key twice",
    "services:\n  a: {image: x, image: y}",
    /^a\.yml:2:17: not readable as YAML: Map keys/,
  ],
  ["an open list", "services: [", /not readable as YAML/],
  ["an unknown tag", "services: !x a", /Unresolved tag/],
  ["a missing anchor", "services: *a", /anchor|alias/i],
  ["aliases that multiply", bomb, /more than 200000 values, with its aliases: make it smaller/],
  ["two documents", "services: {}\n---\nservices: {}", /contains multiple documents/],
  ["a tag that makes bytes of a text", "a: !!binary aGk=", /a: tag:.*binary has no meaning here/],
  ["a NUL", 'a: "x\\0"', /a: it has a NUL/],
  ["a NUL in a key", '"x\\0": 1', /a key has a NUL/],
  ["keys that are maps, nested", "? ".repeat(50), /a key is a map or a list: write a text/],
  ["an alias in its own anchor", "a: &a\n  b: *a", /deeper than 60, with its aliases/],
  ["deep lists", `a: ${"[".repeat(20_000)}`, /not readable as YAML/],
  ["too much text", `# ${"x".repeat(1024 * 1024)}`, /^The compose files have 1048578 characters/],
])("a file with %s is refused", (_what, text, problem) => {
  expect(problemsOf(text)[0]).toMatch(problem);
});
