import { describe, expect, test } from "bun:test";
import { cidrsOverlap, parseCidr } from "../../../core/store/cidr.ts";

describe("parseCidr()", () => {
  test.each([
    ["10.0.1.7/24", { first: 0x0a000100, last: 0x0a0001ff }],
    ["0.0.0.0/0", { first: 0, last: 0xffffffff }],
    ["255.255.255.255/32", { first: 0xffffffff, last: 0xffffffff }],
    ["10.0.1/24", undefined],
    ["10.0.1.256/24", undefined],
    ["10.0.1.0/33", undefined],
    ["fd00::/64", undefined],
  ])("reads %s", (text, range) => {
    expect(parseCidr(text)).toEqual(range);
  });
});

test.each([
  ["10.0.0.0/8", "10.255.0.0/16", true],
  ["10.0.1.0/24", "10.0.2.0/24", false],
  ["10.0.1.0/24", "10.0.1.255/32", true],
  ["fd00::/64", "fd00::/64", false],
])("cidrsOverlap(%s, %s) is %s", (one, other, expected) => {
  expect(cidrsOverlap(one, other)).toBe(expected);
  expect(cidrsOverlap(other, one)).toBe(expected);
});
