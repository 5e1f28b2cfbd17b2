import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  cidrs6Overlap,
  formatAddress6,
  parseAddress6,
  parseCidr6,
} from "../../../core/store/cidr6.ts";

describe("IPv6 addresses", () => {
  test("canonical text is as RFC 5952 has it", () => {
    for (const [given, canonical] of [
      ["2001:DB8::0001", "2001:db8::1"],
      ["2001:db8:0:0:0:0:2:1", "2001:db8::2:1"],
      ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
      ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
      ["::", "::"],
      ["::1", "::1"],
      ["fd00::", "fd00::"],
      ["1:0:0:0:0:0:0:0", "1::"],
      ["::ffff:10.0.1.2", "::ffff:a00:102"],
    ] as const) {
      const value = parseAddress6(given);
      expect([given, value === undefined ? "none" : formatAddress6(value)]).toEqual([
        given,
        canonical,
      ]);
    }
  });

  test("what is no address has no value", () => {
    for (const text of [
      "",
      "1",
      ":",
      ":::",
      "1::2::3",
      "1:2:3:4:5:6:7",
      "1:2:3:4:5:6:7:8:9",
      "1:2:3:4:5:6:7::8",
      "12345::",
      "g::",
      "10.0.0.1",
      "::10.0.0.256",
      "fe80::1%eth0",
      " ::1",
    ]) {
      expect([text, parseAddress6(text)]).toEqual([text, undefined]);
    }
  });

  test("text of any value reads back, and is the same as the kernel's", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }), (value) => {
        expect(parseAddress6(formatAddress6(value))).toBe(value);
      }),
    );
    // The URL parser has the same rules.
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(0, 0, 1, 0xffff), { minLength: 8, maxLength: 8 }),
        (groups) => {
          const text = groups.map((group) => group.toString(16)).join(":");
          const host = new URL(`http://[${text}]/`).hostname.slice(1, -1);
          expect(formatAddress6(parseAddress6(text) ?? 0n)).toBe(host);
        },
      ),
    );
  });

  test("blocks are cut at their prefix and overlap when they share an address", () => {
    expect(parseCidr6("fd00:1::5/64")).toEqual({
      first: parseAddress6("fd00:1::") ?? 0n,
      last: parseAddress6("fd00:1::ffff:ffff:ffff:ffff") ?? 0n,
      prefixLength: 64,
    });
    expect(parseCidr6("::/0")?.last).toBe((1n << 128n) - 1n);
    for (const text of ["fd00::", "fd00::/129", "fd00::/x", "fd00::/64/1", "10.0.0.0/8"]) {
      expect(parseCidr6(text)).toBeUndefined();
    }
    expect(cidrs6Overlap("fd00::/48", "fd00:0:0:9::/64")).toBe(true);
    expect(cidrs6Overlap("fd00::/64", "fd00:0:0:1::/64")).toBe(false);
    expect(cidrs6Overlap("fd00::/64", "10.0.0.0/8")).toBe(false);
  });
});
