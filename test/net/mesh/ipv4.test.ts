import { describe, expect, test } from "bun:test";
import { formatIpv4, mergeIpv4Blocks, parseIpv4, parseIpv4Block } from "../../../net/mesh/ipv4.ts";
import { seededRandom } from "./random-plan.ts";

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

describe("mergeIpv4Blocks", () => {
  test("neighbours and what lies within others become the fewest blocks", () => {
    expect(mergeIpv4Blocks(["10.0.0.0/24", "10.0.1.0/24"])).toEqual(["10.0.0.0/23"]);
    expect(mergeIpv4Blocks(["10.0.1.0/24", "10.0.2.0/24"])).toEqual(["10.0.1.0/24", "10.0.2.0/24"]);
    expect(mergeIpv4Blocks(["10.0.0.0/8", "10.4.0.0/16", "10.4.0.1"])).toEqual(["10.0.0.0/8"]);
    expect(mergeIpv4Blocks(["10.255.255.1", "10.255.255.2", "10.255.255.3"])).toEqual([
      "10.255.255.1/32",
      "10.255.255.2/31",
    ]);
    expect(mergeIpv4Blocks(["0.0.0.0/0"])).toEqual(["0.0.0.0/0"]);
    expect(mergeIpv4Blocks(["no", "10.0.0.0/33"])).toEqual([]);
  });

  test("exactly the same addresses are covered, each once", () => {
    const random = seededRandom(1);
    for (let round = 0; round < 200; round += 1) {
      const blocks = Array.from({ length: 12 }, () => {
        const length = 24 + Math.floor(random() * 9);
        return `10.0.${Math.floor(random() * 2)}.${Math.floor(random() * 256)}/${length}`;
      });
      const cover = (texts: string[]) => {
        const found: number[] = [];
        for (const text of texts) {
          const block = parseIpv4Block(text);
          if (!block) throw new Error(text);
          for (let value = block.first; value <= block.last; value += 1) found.push(value);
        }
        return found;
      };
      const merged = cover(mergeIpv4Blocks(blocks));
      expect(merged).toEqual([...new Set(cover(blocks))].sort((a, b) => a - b));
    }
  });
});
