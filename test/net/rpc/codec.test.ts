import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { type RpcMessage, decodeMessage, encodeMessage } from "../../../net/rpc/codec.ts";

const id = fc.integer({ min: 0, max: 2 ** 40 });
const body = fc.oneof(
  fc.record({ data: fc.uint8Array({ maxLength: 50 }) }),
  // What JSON cannot say (-0, undefined) is in no message.
  fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as unknown),
);
const error = fc.record({
  code: fc.constantFrom("not-leader" as const, "deadline" as const, "internal" as const),
  message: fc.string(),
  details: fc.dictionary(
    fc.string().filter((key) => key !== "__proto__"),
    fc.integer(),
  ),
});
const message: fc.Arbitrary<RpcMessage> = fc.oneof(
  fc.record({ kind: fc.constant("hello" as const), version: id }),
  fc.record({ kind: fc.constant("request" as const), id, method: fc.string(), params: body }),
  fc.record({ kind: fc.constant("answer" as const), id, result: body }),
  fc.record({ kind: fc.constant("error" as const), id, error }),
  fc.record({ kind: fc.constant("note" as const), note: fc.string(), body }),
  fc.record({ kind: fc.constant("ping" as const) }),
  fc.record({ kind: fc.constant("bye" as const), error }),
);

/** Buffers and arrays of equal bytes are the same to us. */
const plain = (value: unknown) =>
  JSON.stringify(value, (_key, item: unknown) =>
    item instanceof Uint8Array ||
    (typeof item === "object" &&
      item !== null &&
      "data" in item &&
      Array.isArray(item.data) &&
      "type" in item)
      ? Buffer.from(item instanceof Uint8Array ? item : (item as { data: number[] }).data).toString(
          "hex",
        )
      : item,
  );

describe("decodeMessage()", () => {
  test("gives back what encodeMessage() took", () => {
    fc.assert(
      fc.property(message, (sent) => {
        expect(plain(decodeMessage(encodeMessage(sent)))).toBe(plain(sent));
      }),
    );
  });

  test("keeps bytes as bytes", () => {
    const data = Uint8Array.of(0, 255, 128);
    const read = decodeMessage(encodeMessage({ kind: "note", note: "raft", body: { data } }));
    if (read?.kind !== "note") throw new Error("not a note");
    const { data: got } = read.body as { data: Uint8Array };
    expect(got).toBeInstanceOf(Uint8Array);
    expect([...got]).toEqual([...data]);
    // A view on the whole read would be cloned with all of it on its way to another thread.
    expect(got.buffer.byteLength).toBe(3);
  });

  test("gives a message or undefined for any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        decodeMessage(bytes);
      }),
      { numRuns: 2_000 },
    );
  });

  test("gives a message or undefined for damaged messages", () => {
    fc.assert(
      fc.property(message, fc.nat(), fc.integer({ min: 0, max: 255 }), (sent, at, byte) => {
        const bytes = Uint8Array.from(encodeMessage(sent));
        bytes[at % bytes.length] = byte;
        decodeMessage(bytes);
        decodeMessage(bytes.subarray(0, at % bytes.length));
      }),
      { numRuns: 2_000 },
    );
  });

  test("survives lengths that lie, deep nesting and foreign extensions", () => {
    const hostile = [
      "ddffffffff",
      "dfffffffff",
      "c6ffffffff",
      "dbffffffff",
      "dd7fffffff01",
      "91".repeat(500_000),
      "d4724091a161",
      "d4690000000001",
      "9400cf00ffffffffffffff",
      "9301cfffffffffffffffffa161c0",
    ];
    for (const hex of hostile) expect(decodeMessage(Buffer.from(hex, "hex"))?.kind).toBeUndefined();
  });

  test("makes an error code of a newer build internal", () => {
    const sent = { code: "from-the-future", message: "m" } as unknown as {
      code: "internal";
      message: string;
    };
    const read = decodeMessage(encodeMessage({ kind: "bye", error: sent }));
    expect(read).toEqual({ kind: "bye", error: { code: "internal", message: "m" } });
  });
});
