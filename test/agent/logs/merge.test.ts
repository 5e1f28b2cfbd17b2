import { expect, test } from "bun:test";
import fc from "fast-check";
import { mergeByTime, type RecordSource } from "../../../agent/logs/merge.ts";
import { type LogRecord, recordTime } from "../../../agent/logs/record.ts";
import { timeOf } from "./fake-engine.ts";

const record = (task: number, number: number): LogRecord => ({
  stream: 1,
  task,
  payload: Buffer.from(`${timeOf(number)} x`),
});
const sourceOf = (batches: LogRecord[][]): RecordSource<LogRecord> => {
  const left = batches.filter((batch) => batch.length > 0);
  return { next: async () => left.shift() };
};
const collect = async (sources: RecordSource<LogRecord>[]) => {
  const out: LogRecord[] = [];
  for await (const records of mergeByTime(sources)) {
    expect(records.length).toBeGreaterThan(0);
    out.push(...records);
  }
  return out;
};

test("mergeByTime() gives all records in the order of time", async () => {
  const batch = fc.array(fc.nat(50), { maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(batch, { maxLength: 4 }), { maxLength: 9 }), async (all) => {
      const sources = all.map((batches, task) => {
        const numbers = batches.flat().sort((a, b) => a - b);
        return batches.map((one) => numbers.splice(0, one.length).map((n) => record(task, n)));
      });
      const merged = await collect(sources.map(sourceOf));
      expect(merged).toHaveLength(sources.flat(2).length);
      const times = merged.map(recordTime);
      expect(times).toEqual([...times].sort());
      for (const [task, batches] of sources.entries()) {
        expect(merged.filter((one) => one.task === task)).toEqual(batches.flat());
      }
    }),
    { numRuns: 50 },
  );
});

test("mergeByTime() keeps the order of a source whose times step back", async () => {
  const merged = await collect([
    sourceOf([[record(0, 5), record(0, 3), record(0, 6)]]),
    sourceOf([[record(1, 4)]]),
  ]);
  expect(merged.map((one) => [one.task, recordTime(one)])).toEqual([
    [1, timeOf(4)],
    [0, timeOf(5)],
    [0, timeOf(3)],
    [0, timeOf(6)],
  ]);
});

test("mergeByTime() gives what it has before it waits", async () => {
  const gate = Promise.withResolvers<LogRecord[] | undefined>();
  const slow = [[record(0, 1)]];
  const merged = mergeByTime([
    { next: async () => slow.shift() ?? gate.promise },
    sourceOf([[record(1, 2)]]),
  ]);
  expect((await merged.next()).value).toEqual([record(0, 1)]);
  gate.resolve(undefined);
  expect((await merged.next()).value).toEqual([record(1, 2)]);
  expect((await merged.next()).done).toBe(true);
});
