import { describe, expect, test } from "bun:test";
import { deriveEsp, encryptedMtu } from "../../../net/mesh/esp.ts";

const SECRET = Buffer.alloc(32, 7).toString("base64");
const OTHER_SECRET = Buffer.alloc(32, 8).toString("base64");
const parties = (sender: string, index: number, receiver: string, generation: string) => ({
  sender: { nodeId: sender, index },
  receiver: { nodeId: receiver },
  generation,
});

describe("deriveEsp()", () => {
  test("both ends derive the same, an AES-256 key with its salt", () => {
    const one = deriveEsp(SECRET, parties("a", 1, "b", "g"));
    expect(deriveEsp(SECRET, parties("a", 1, "b", "g"))).toEqual(one);
    expect(one.key).toMatch(/^0x[0-9a-f]{72}$/);
  });

  test("what it gives never changes: nodes of two versions must understand each other", () => {
    expect(deriveEsp(SECRET, parties("node-a", 1, "node-b", "g1"))).toMatchInlineSnapshot(`
      {
        "key": "0x6e5af139d4c0360cad8c5a2042582714641cbee60269e586e29508b3268695dbd6a54f3e",
        "spi": 1369912,
      }
    `);
  });

  test("no two directions, pairs, generations or keys of the cluster have one key", () => {
    const keys = new Set<string>();
    const names = ["a", "b", "c", 'a","b'];
    let count = 0;
    for (const secret of [SECRET, OTHER_SECRET]) {
      for (const [place, sender] of names.entries()) {
        for (const receiver of names) {
          for (const generation of ["g1", "g2", "b"]) {
            keys.add(deriveEsp(secret, parties(sender, place + 1, receiver, generation)).key);
            count += 1;
          }
        }
      }
    }
    expect(keys.size).toBe(count);
  });

  test("the number names the sender, so that two senders never have one at a receiver", () => {
    for (const index of [1, 2, 4_095]) {
      const { spi } = deriveEsp(SECRET, parties("a", index, "b", "g"));
      expect(Math.floor(spi / 2 ** 20)).toBe(index);
      expect(spi).toBeLessThan(2 ** 32);
    }
  });
});

describe("encryptedMtu()", () => {
  test("is the largest packet whose outer one fits", () => {
    expect(encryptedMtu(1_500)).toBe(1_416);
    const outer = (inner: number) => 20 + 8 + 8 + Math.ceil((inner + 30 + 2) / 4) * 4 + 16;
    for (let underlay = 1_280; underlay < 1_300; underlay += 1) {
      const inner = encryptedMtu(underlay);
      expect(outer(inner)).toBeLessThanOrEqual(underlay);
      expect(outer(inner + 1)).toBeGreaterThan(underlay);
    }
  });
});
