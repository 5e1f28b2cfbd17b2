import { describe, expect, test } from "bun:test";
import { renewAtMs } from "../../../core/ca/rotation.ts";
import { seededRandom } from "../../../core/random.ts";

describe("renewAtMs()", () => {
  const life = { notBeforeMs: 1_000, notAfterMs: 101_000 };

  test("starts at half of the life", () => {
    expect(renewAtMs(life, 0)).toBe(51_000);
  });

  test("stays between 50 and 80 % of the life", () => {
    const random = seededRandom(7);
    for (let round = 0; round < 1_000; round++) {
      const atMs = renewAtMs(life, random.next());
      expect(atMs).toBeGreaterThanOrEqual(51_000);
      expect(atMs).toBeLessThan(81_000);
    }
  });

  test("refuses a certificate without a life and a random number out of range", () => {
    expect(() => renewAtMs({ notBeforeMs: 5, notAfterMs: 5 }, 0)).toThrow("positive");
    expect(() => renewAtMs(life, 1)).toThrow("[0, 1)");
  });
});
