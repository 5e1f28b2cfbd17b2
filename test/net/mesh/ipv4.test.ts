import { describe, expect, test } from "bun:test";
import { formatIpv4, parseIpv4 } from "../../../net/mesh/ipv4.ts";

describe("IPv4 text", () => {
  test("addresses are read and written", () => {
    for (const text of ["0.0.0.0", "10.101.0.2", "192.168.77.254", "255.255.255.255"]) {
      expect(formatIpv4(parseIpv4(text) ?? -1)).toBe(text);
    }
    expect(parseIpv4("10.0.0.1")).toBe(0x0a00_0001);
  });

  test.each([
    "",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.256",
    "1.2.3.0004",
    "1..2.3",
    "1.2.3.",
    "a.b.c.d",
    "1.2.3.4 ",
    "::1",
  ])("%p is no address", (text) => {
    expect(parseIpv4(text)).toBeUndefined();
  });
});
