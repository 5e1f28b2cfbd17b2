import { describe, expect, test } from "bun:test";
import { addressDigits, formatDigits, mergeBlocks } from "../../../net/mesh/family.ts";
import { parseIpv4Block } from "../../../net/mesh/ipv4.ts";
import { seededRandom } from "./random-plan.ts";

describe("addressDigits", () => {
  test("are of one length in a family, and sort as the addresses do", () => {
    expect(addressDigits("ipv4", "10.1.0.2")).toBe("0a010002");
    expect(addressDigits("ipv6", "fd00:1::2")).toBe("fd000001000000000000000000000002");
    expect(formatDigits("ipv4", "0a01")).toBe("10.1.0.0");
    expect(formatDigits("ipv6", "fd000001")).toBe("fd00:1::");
  });

  test("an address of the other family is no address of a plan", () => {
    expect(() => addressDigits("ipv6", "10.1.0.2")).toThrow();
    expect(() => addressDigits("ipv4", "fd00::2")).toThrow();
  });
});

describe("mergeBlocks", () => {
  test("neighbours and what lies within others become the fewest blocks", () => {
    expect(mergeBlocks("ipv4", ["10.0.0.0/24", "10.0.1.0/24"])).toEqual(["10.0.0.0/23"]);
    expect(mergeBlocks("ipv4", ["10.0.1.0/24", "10.0.2.0/24"])).toEqual([
      "10.0.1.0/24",
      "10.0.2.0/24",
    ]);
    expect(mergeBlocks("ipv4", ["10.0.0.0/8", "10.4.0.0/16", "10.4.0.1"])).toEqual(["10.0.0.0/8"]);
    expect(mergeBlocks("ipv4", ["10.255.255.1", "10.255.255.2", "10.255.255.3"])).toEqual([
      "10.255.255.1/32",
      "10.255.255.2/31",
    ]);
    expect(mergeBlocks("ipv4", ["0.0.0.0/0"])).toEqual(["0.0.0.0/0"]);
    expect(mergeBlocks("ipv4", ["no", "10.0.0.0/33"])).toEqual([]);
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
      const merged = cover(mergeBlocks("ipv4", blocks));
      expect(merged).toEqual([...new Set(cover(blocks))].sort((a, b) => a - b));
    }
  });

  test("the same holds for IPv6", () => {
    expect(mergeBlocks("ipv6", ["fd00:0:0:1::/64", "fd00::/64"])).toEqual(["fd00::/63"]);
    expect(mergeBlocks("ipv6", ["fd00::1", "fd00::2", "fd00::3", "no"])).toEqual([
      "fd00::1/128",
      "fd00::2/127",
    ]);
    expect(mergeBlocks("ipv6", ["fe80::/10", "fe80::1/64"])).toEqual(["fe80::/10"]);
  });
});
