import { expect, test } from "bun:test";
import { crc32 as zlibCrc32 } from "node:zlib";
import fc from "fast-check";
import { crc32, useNativeCrc32 } from "../../../core/raft/checksum.ts";

test("crc32() gives zlib's value, in one piece and in two", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (bytes, cut) => {
      const at = Math.min(cut, bytes.length);
      const expected = Bun.hash.crc32(bytes);
      expect(crc32(bytes)).toBe(expected);
      expect(crc32(bytes.subarray(at), crc32(bytes.subarray(0, at)))).toBe(expected);
    }),
  );
});

test("useNativeCrc32() takes only an implementation of the same sum", () => {
  expect(() => useNativeCrc32(() => 1)).toThrow("The runtime's CRC-32 is zlib's");
  const bytes = Uint8Array.of(3, 1, 4, 1, 5);
  const expected = crc32(bytes, 9);
  useNativeCrc32(zlibCrc32);
  expect(crc32(bytes, 9)).toBe(expected);
});
