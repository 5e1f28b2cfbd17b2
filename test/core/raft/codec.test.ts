import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeFrame, encodeFrame } from "../../../core/raft/codec.ts";
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import type { Configuration, Message } from "../../../core/raft/messages.ts";

const number = fc.maxSafeNat();
const bytes = fc.uint8Array({ maxLength: 60 });
const configuration: fc.Arbitrary<Configuration> = fc
  .uniqueArray(fc.string({ maxLength: 5 }), { maxLength: 4 })
  .map((ids) =>
    configurationOf(
      ids.map((nodeId, i) => {
        return { nodeId, addr: `[::1]:${i}`, isLearner: i % 2 === 1, addedAtIndex: i };
      }),
    ),
  );
const append = fc
  .record({
    term: number,
    epoch: number,
    previousIndex: fc.nat(),
    previousTerm: number,
    commitIndex: number,
    parts: fc.array(fc.tuple(number, fc.oneof(bytes, configuration)), { maxLength: 5 }),
  })
  .map(({ parts, ...rest }): Message => {
    const entries = parts.map(([term, content], i) => {
      const index = rest.previousIndex + 1 + i;
      if (content instanceof Uint8Array) {
        return { index, term, type: "normal", data: content } as const;
      }
      return { index, term, type: "configuration", data: encodeConfiguration(content) } as const;
    });
    return { type: "append", ...rest, entries };
  });
const base = { term: number, epoch: number };
const of = <T extends Message["type"]>(type: T) => fc.constant(type);
const position = { term: number, lastIndex: number, lastTerm: number };
const snapshot = fc.record({
  index: number,
  term: number,
  configuration,
  pieceCount: number,
  sizeBytes: number,
});
const message: fc.Arbitrary<Message> = fc.oneof(
  append,
  fc.record({ type: of("pre-vote"), ...position }),
  fc.record({ type: of("vote"), ...position, isForced: fc.boolean() }),
  fc.record({ type: of("pre-vote-response"), term: number, isGranted: fc.boolean() }),
  fc.record({ type: of("vote-response"), term: number, isGranted: fc.boolean() }),
  fc.record({ type: of("append-response"), ...base, index: number }),
  fc.record({
    type: of("append-reject"),
    ...base,
    previousIndex: number,
    hintIndex: number,
    hintTerm: number,
  }),
  fc.record({
    type: of("heartbeat"),
    ...base,
    commitIndex: number,
    readId: number,
    removedAtIndex: number,
  }),
  fc.record({ type: of("heartbeat-response"), ...base, commitIndex: number, readId: number }),
  fc.record({ type: of("snapshot-piece"), ...base, snapshot, piece: number, data: bytes }),
  fc.record({ type: of("snapshot-ack"), ...base, snapshotIndex: number, nextPiece: number }),
  fc.record({ type: of("timeout-now"), term: number }),
  fc.record({ type: of("read-index"), term: number, readId: number }),
  fc.record({ type: of("read-index-response"), term: number, readId: number, index: number }),
);

describe("frames", () => {
  test("decode to what was encoded", () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 6 }), (messages) => {
        expect(decodeFrame(encodeFrame(messages))).toEqual({ messages, damagedCount: 0 });
      }),
    );
  });

  test("never decode to something else when a byte is changed", () => {
    fc.assert(
      fc.property(message, fc.nat(), fc.integer({ min: 1, max: 255 }), (original, at, flip) => {
        const frame = encodeFrame([original]);
        const place = at % frame.length;
        frame[place] = (frame[place] ?? 0) ^ flip;
        const { messages, damagedCount } = decodeFrame(frame);
        expect(messages.length === 0 || Bun.deepEquals(messages[0], original)).toBe(true);
        expect(damagedCount).toBeGreaterThan(0);
      }),
    );
  });

  test("cut short, keep the messages before the cut and never throw", () => {
    fc.assert(
      fc.property(message, message, fc.nat(), (first, second, at) => {
        const whole = encodeFrame([first, second]);
        const whereFirstEnds = encodeFrame([first]).length;
        const cut = at % whole.length;
        const { messages } = decodeFrame(whole.subarray(0, cut));
        expect(messages).toEqual(cut >= whereFirstEnds ? [first] : []);
      }),
    );
  });

  test("of rubbish decode to nothing", () => {
    fc.assert(
      fc.property(bytes, (rubbish) => {
        expect(decodeFrame(rubbish).messages).toEqual([]);
      }),
    );
  });

  test("hold copies of entries, not views of the frame", () => {
    const data = new Uint8Array([1, 2, 3]);
    const entry = { index: 2, term: 1, type: "normal", data } as const;
    const frame = encodeFrame([
      {
        type: "append",
        term: 1,
        epoch: 1,
        previousIndex: 1,
        previousTerm: 1,
        commitIndex: 1,
        entries: [entry],
      },
    ]);
    const [decoded] = decodeFrame(frame).messages;
    frame.fill(0);
    expect(decoded).toMatchObject({ entries: [{ data }] });
  });
});
