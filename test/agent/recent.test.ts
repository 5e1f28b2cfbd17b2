import { expect, test } from "bun:test";
import { createRecent } from "../../agent/recent.ts";

test("keeps the newest, forgets the oldest, and gives what was set last", () => {
  const recent = createRecent<number>(3);
  for (let n = 1; n <= 4; n++) recent.set(`k${n}`, n);
  expect(["k1", "k2", "k3", "k4"].map((key) => recent.get(key))).toEqual([1, 2, 3, 4]);
  recent.set("k2", 22);
  expect(recent.get("k2")).toBe(22);
  recent.delete("k2");
  expect(recent.get("k2")).toBeUndefined();
  for (let n = 5; n <= 7; n++) recent.set(`k${n}`, n);
  expect([recent.get("k1"), recent.get("k5"), recent.get("k7")]).toEqual([undefined, 5, 7]);
});
