import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { createFrameSplitter, createLineSplitter } from "../../../agent/logs/engine-logs.ts";
import {
  decodeRecords,
  encodeRecords,
  type LogRecord,
  recordBytes,
  recordTime,
  sinceOfTime,
  utcTime,
} from "../../../agent/logs/record.ts";
import { engineFrame, timeOf } from "./fake-engine.ts";

const texts = (records: LogRecord[]) =>
  records.map(({ stream, task, payload }) => [stream, task, Buffer.from(payload).toString()]);

describe("records", () => {
  test("are the same after encoding and decoding", () => {
    const record = fc.record({
      stream: fc.integer({ min: 1, max: 2 }),
      task: fc.integer({ min: 0, max: 65_535 }),
      payload: fc.uint8Array({ maxLength: 100 }),
    });
    fc.assert(
      fc.property(fc.array(record), (records) => {
        const total = records.reduce((sum, one) => sum + recordBytes(one), 0);
        expect(texts(decodeRecords(encodeRecords(records, total)) ?? [])).toEqual(texts(records));
      }),
    );
  });

  test("that are cut off are none", () => {
    const bytes = encodeRecords([{ stream: 1, task: 0, payload: Buffer.from("abc") }], 11);
    expect(decodeRecords(bytes.subarray(0, 10))).toBeUndefined();
    expect(decodeRecords(bytes.subarray(0, 5))).toBeUndefined();
    expect(decodeRecords(new Uint8Array(0))).toEqual([]);
  });
});

describe("utcTime()", () => {
  test.each([
    ["2026-11-22T07:12:21.1Z", "2026-11-22T07:12:21.100000000Z"],
    ["2026-11-22T07:12:21Z", "2026-11-22T07:12:21.000000000Z"],
    ["2026-01-01T00:30:00.123456789+01:00", "2025-12-31T23:30:00.123456789Z"],
    ["2026-11-22", undefined],
    ["hello", undefined],
  ])("makes of %s %p", (text, expected) => {
    expect(utcTime(text)).toBe(expected);
  });

  test("and sinceOfTime() keeps nanoseconds", () => {
    expect(sinceOfTime("2026-11-22T07:12:21.123456789Z")).toBe("1795331541.123456789");
  });
});

describe("createFrameSplitter()", () => {
  test("finds the frames wherever the stream is cut", () => {
    const frames = [1, 2, 3].map((n) => engineFrame((n % 2) + 1, timeOf(n), `line ${n}\n`));
    const bytes = Buffer.concat(frames);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 5 }), (cuts) => {
        const split = createFrameSplitter(4);
        const points = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        const records = points
          .slice(1)
          .flatMap((to, at) => split(bytes.subarray(points[at] ?? 0, to)));
        expect(texts(records)).toEqual([
          [2, 4, `${timeOf(1)} line 1\n`],
          [1, 4, `${timeOf(2)} line 2\n`],
          [2, 4, `${timeOf(3)} line 3\n`],
        ]);
      }),
    );
  });

  test("puts times into UTC", () => {
    const split = createFrameSplitter(0);
    const [record] = split(engineFrame(1, "2026-01-01T02:00:00.5+02:00", "x\n"));
    expect(record && recordTime(record)).toBe("2026-01-01T00:00:00.500000000Z");
    expect(Buffer.from(record?.payload ?? []).toString()).toEndWith("Z x\n");
  });

  test("refuses what is no log", () => {
    expect(() => createFrameSplitter(0)(Buffer.from("HTTP/1.1 200 OK"))).toThrow("frame of");
    const error = engineFrame(3, "Error", "grabbing logs: EOF\n");
    expect(() => createFrameSplitter(0)(error)).toThrow("grabbing logs");
  });
});

describe("createLineSplitter()", () => {
  test("makes a record of each line, and of what is left at the end", () => {
    const split = createLineSplitter(1);
    expect(split(Buffer.from(`${timeOf(1)} a`))).toEqual([]);
    expect(texts(split(Buffer.from(`b\r\n${timeOf(2)} $ `)))).toEqual([
      [1, 1, `${timeOf(1)} ab\r\n`],
    ]);
    expect(texts(split(undefined))).toEqual([[1, 1, `${timeOf(2)} $ `]]);
  });
});
