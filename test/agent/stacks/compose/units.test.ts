import { expect, test } from "bun:test";
import { splitWords } from "../../../../agent/stacks/compose/shell-words.ts";
import {
  goNumber,
  parseDurationNs,
  parseNanoCpus,
  parseSizeBytes,
} from "../../../../agent/stacks/compose/units.ts";

test.each([
  ["1m30s", 90e9],
  ["500ms", 5e8],
  ["1.5h", 5.4e12],
  [".5s", 5e8],
  ["1m.5s", 60.5e9],
  ["100us", 1e5],
  ["0", 0],
  ["10", undefined],
  ["-1s", undefined],
  ["1d", undefined],
  ["", undefined],
])("the duration %s is %p ns", (text, expected) => expect(parseDurationNs(text)).toBe(expected));

test.each([
  ["50m", 52_428_800],
  ["50M", 52_428_800],
  ["1gb", 1_073_741_824],
  ["1GiB", 1_073_741_824],
  ["1.5k", 1_536],
  ["512", 512],
  ["10 mb", 10_485_760],
  ["b", undefined],
  ["-1", undefined],
  ["1zb", undefined],
  ["1.2.3m", undefined],
])("the size %s is %p bytes", (text, expected) => expect(parseSizeBytes(text)).toBe(expected));

test.each([
  ["0.5", 5e8],
  ["2", 2e9],
  [".25", 25e7],
  ["0.000000001", 1],
  ["1.", 1e9],
  ["0.0000000001", undefined],
  [".", undefined],
  ["1e3", undefined],
])("%s CPUs are %p billionths", (text, expected) => expect(parseNanoCpus(text)).toBe(expected));

test.each([
  [1.1, "1.1"],
  [1e-5, "1e-05"],
  [1e21, "1e+21"],
  [1e20, "100000000000000000000"],
  [0.0001, "0.0001"],
  [-3, "-3"],
])("the number %p is %s for Go", (value, expected) => expect(goNumber(value)).toBe(expected));

test.each<[string, string[] | undefined]>([
  ["a  b", ["a", "b"]],
  ["sh -c 'a; b'", ["sh", "-c", "a; b"]],
  [`a "b \\"c" d\\ e`, ["a", 'b "c', "d e"]],
  ["a '' \"\"", ["a", "", ""]],
  ["a'b'c", ["abc"]],
  ["a # b", ["a"]],
  ["a#b", ["a#b"]],
  ["a # b\nc", ["a", "c"]],
  ["a | b", ["a", "|", "b"]],
  ["'a\\'", ["a\\"]],
  ["", []],
  ["a 'b", undefined],
  ["a \\", undefined],
])("the command %j is split into %j", (text, expected) => {
  expect(splitWords(text)).toEqual(expected);
});
