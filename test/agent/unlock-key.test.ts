import { expect, test } from "bun:test";
import { makeUnlockKey, parseUnlockKey } from "../../agent/unlock-key.ts";

test("an unlock key has stock's form, is another each time, and holds 32 bytes", () => {
  const key = makeUnlockKey();
  expect(key).toMatch(/^SWMKEY-1-[A-Za-z0-9+/]{43}$/);
  expect(makeUnlockKey()).not.toBe(key);
  expect(parseUnlockKey(key)).toHaveLength(32);
  expect(Buffer.from(parseUnlockKey("SWMKEY-1-AAEC")).toJSON().data).toEqual([0, 1, 2]);
});

test.each([
  "",
  "x",
  "SWMKEY-2-AAAA",
  "SWMKEY-1-AAAA=",
  "SWMKEY-1-A",
  "SWMKEY-1-AA A",
  "swmkey-1-AAAA",
])("%p is refused in stock's words", (text) => {
  expect(() => parseUnlockKey(text)).toThrow("invalid key string");
});
