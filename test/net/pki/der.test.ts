import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { ClusterError } from "../../../core/errors.ts";
import { encodeDer, readDerChildren, readDerElement } from "../../../net/pki/der.ts";

describe("readDerElement()", () => {
  test("reads what encodeDer() wrote, at every length form", () => {
    for (const length of [0, 1, 127, 128, 255, 256, 65_535]) {
      const bytes = encodeDer(0x04, new Uint8Array(length));
      const { tag, start, end } = readDerElement(bytes, 0);
      expect({ tag, size: end - start, end }).toEqual({ tag: 4, size: length, end: bytes.length });
    }
  });

  test("gives an element within bounds or a refusal for any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          const element = readDerElement(bytes, 0);
          expect(element.end).toBeLessThanOrEqual(bytes.length);
          readDerChildren(bytes, element);
        } catch (error) {
          expect(error).toBeInstanceOf(ClusterError);
        }
      }),
    );
  });
});
