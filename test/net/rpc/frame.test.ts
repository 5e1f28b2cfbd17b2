import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { createFrameDecoder, encodeFrameHead } from "../../../net/rpc/frame.ts";

const frame = (payload: Uint8Array) => Buffer.concat([encodeFrameHead(payload.length), payload]);

describe("createFrameDecoder()", () => {
  test("gives back the payloads however the stream is cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 20 }),
        (payloads, cuts) => {
          const stream = Buffer.concat(payloads.map(frame));
          const decoder = createFrameDecoder(60);
          const found: Uint8Array[] = [];
          let offset = 0;
          for (let round = 0; offset < stream.length; round++) {
            const size = cuts[round % cuts.length] ?? 1;
            found.push(...decoder.push(Buffer.from(stream.subarray(offset, offset + size))));
            offset += size;
          }
          expect(found.map((payload) => [...payload])).toEqual(payloads.map((p) => [...p]));
        },
      ),
    );
  });

  test("refuses a frame longer than the limit as soon as its length is known", () => {
    const decoder = createFrameDecoder(10);
    expect(decoder.push(frame(new Uint8Array(10)))).toHaveLength(1);
    expect(() => decoder.push(Uint8Array.of(0, 0, 0, 11))).toThrow("11 bytes is longer than 10");
  });

  test("takes a large frame in small pieces in linear time", () => {
    const decoder = createFrameDecoder(64 * 1024 * 1024);
    const whole = frame(new Uint8Array(16 * 1024 * 1024));
    const startedMs = performance.now();
    let count = 0;
    for (let at = 0; at < whole.length; at += 4_096) {
      count += decoder.push(whole.subarray(at, at + 4_096)).length;
    }
    expect(count).toBe(1);
    // Joining at every piece would copy 32 GB.
    expect(performance.now() - startedMs).toBeLessThan(2_000);
  });
});
