import { describe, expect, test } from "bun:test";
import {
  goTime,
  isTruthy,
  omitEmpty,
  parseGoBool,
  parseVersion,
  withoutNulls,
} from "../../../agent/api/go-values.ts";
import { checkVersion, isOlder } from "../../../agent/api/version.ts";

describe("goTime()", () => {
  test.each([
    [0, "1970-01-01T00:00:00Z"],
    [1, "1970-01-01T00:00:00.001Z"],
    [1_200, "1970-01-01T00:00:01.2Z"],
    [1_230, "1970-01-01T00:00:01.23Z"],
    [60_000, "1970-01-01T00:01:00Z"],
  ])("of %i is %s", (atMs, text) => {
    expect(goTime(atMs)).toBe(text);
  });
});

test("withoutNulls() drops nulls of objects at every depth", () => {
  const value = { a: null, b: [{ c: null, d: 0 }], e: { f: null } };
  expect(withoutNulls(value)).toEqual({ b: [{ d: 0 }], e: {} });
});

test("omitEmpty() drops what Go drops, but for pointers and structs", () => {
  const value = { a: "", b: 0, c: false, d: [], e: {}, f: "x", init: false };
  expect(omitEmpty(value, ["init"])).toEqual({ e: {}, f: "x", init: false } as typeof value);
});

describe("parseGoBool() and isTruthy()", () => {
  test.each([
    [undefined, false, false],
    ["", false, false],
    ["1", true, true],
    ["true", true, true],
    ["True", true, true],
    ["0", false, false],
    ["false", false, false],
    ["F", false, true],
    ["yes", undefined, true],
    ["none", undefined, false],
  ])("of %p", (text, strict, lenient) => {
    if (strict === undefined) expect(() => parseGoBool("x", text)).toThrow("invalid value for x: ");
    else expect(parseGoBool("x", text)).toBe(strict);
    expect(isTruthy(text)).toBe(lenient);
  });
});

test.each([undefined, "", "-1", "1.5", "abc", "1e3"])("parseVersion() refuses %p", (text) => {
  expect(() => parseVersion("node", text)).toThrow("invalid node version '");
});

describe("isOlder() and checkVersion()", () => {
  test.each([
    ["1.9", "1.24", true],
    ["1.24", "1.24", false],
    ["1.41", "1.5", false],
    ["1", "1.1", true],
  ])("isOlder(%s, %s) is %p", (version, other, isIt) => {
    expect(isOlder(version, other)).toBe(isIt);
  });
  test("checkVersion() takes both bounds", () => {
    checkVersion("1.24", "1.41");
    checkVersion("1.41", "1.41");
    expect(() => checkVersion("1.41.1", "1.41")).toThrow("too new");
  });
});
