import { expect, test } from "bun:test";
import fc from "fast-check";
import { interpolate } from "../../../../agent/stacks/compose/interpolate.ts";
import { ClusterError } from "../../../../core/errors.ts";
import { compose, fileOf, problemsOf } from "./compose-of.ts";

const ENV = { SET: "value", EMPTY: "" };

test.each([
  ["$SET", "value"],
  ["${SET}", "value"],
  ["a${SET}b$SET-c", "avaluebvalue-c"],
  ["${EMPTY:-other}", "other"],
  ["${EMPTY-other}", ""],
  ["${NONE-other}", "other"],
  ["${NONE:-a:b/c d}", "a:b/c d"],
  ["${SET:+yes}", "yes"],
  ["${EMPTY:+yes}", ""],
  ["${EMPTY+yes}", "yes"],
  ["${NONE+yes}", ""],
  ["${SET:?no}", "value"],
  ["${EMPTY?no}", ""],
  ["${NONE:-${EMPTY:-${SET}}}", "value"],
  ["${SET:-${NONE:?never asked}}", "value"],
  ["$$SET $${SET}", "$SET ${SET}"],
  ["100$$", "100$"],
  ["$NONE|", "|"],
])("the text %s becomes %j", (text, expected) => {
  expect(interpolate(text, ENV)).toMatchObject({ text: expected });
});

test.each([
  ["$", "a $ is not followed by a variable: write $$ for a dollar"],
  ["a $1", "a $ is not followed by a variable: write $$ for a dollar"],
  ["${SET", "a ${ is not closed: add }, or write $$ for a dollar"],
  ["${EMPTY:?set it}", "the variable EMPTY is required: set it"],
  ["${NONE?}", "the variable NONE is required"],
  ["${NONE:?see $SET}", "the variable NONE is required: see value"],
])("the text %s is refused", (text, problem) => {
  expect(interpolate(text, ENV)).toEqual({ problem });
});

test("names in the prototype of objects are not set", () => {
  expect(interpolate("$constructor$toString", {})).toEqual({
    text: "",
    unset: ["constructor", "toString"],
  });
});

test("values that would be too large together are refused", () => {
  const lines = Array.from({ length: 20 }, (_, i) => `  L${i}: "\${BIG}"`).join("\n");
  const env = { BIG: "x".repeat(1024 * 1024) };
  expect(problemsOf(fileOf(`labels:\n${lines}`), { env })[0]).toContain("more than 8388608");
});

test("variables are replaced in values and not in keys, and an unset one is warned of once", () => {
  const text = fileOf("labels:\n  $SET: $SET$NONE$NONE\n  x: $NONE", "x-own: ${NOT CLOSED\n");
  const { model, warnings } = compose(text, { env: ENV });
  expect(model.services[0]?.TaskTemplate.ContainerSpec.Labels).toMatchObject({ $SET: "value" });
  expect(warnings).toEqual(["The variable NONE is not set: a blank text takes its place"]);
});

test("any text is either interpolated or refused in words", () => {
  const part = fc.constantFrom("$", "{", "}", "A", "SET", ":-", ":?", "+", "-", "$$", " ", "1");
  fc.assert(
    fc.property(fc.array(part, { maxLength: 20 }), (parts) => {
      const text = parts.join("");
      const result = interpolate(text, ENV);
      expect("text" in result || result.problem !== "").toBe(true);
      try {
        compose(fileOf(`hostname: ${JSON.stringify(text)}`), { env: ENV });
      } catch (error) {
        expect(error).toBeInstanceOf(ClusterError);
      }
    }),
    { numRuns: 200 },
  );
});
