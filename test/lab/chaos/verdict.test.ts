/** The judge of a chaos run is only worth something if it finds what is wrong. */
import { expect, test } from "bun:test";
import { formatRecord, parseRecord, type RequestRecord, type Stream } from "./record.ts";
import { judge, type Ownership, type Window } from "./verdict.ts";

const CLIENT = "203.0.113.9";
const base = { protocol: "tcp", host: "192.0.2.1", port: 80, isKept: false } as const;
const streams = new Map<string, Stream>([
  ["web@h1", { ...base, id: "web@h1", service: "web", via: "h1" }],
  ["turn@h1", { ...base, id: "turn@h1", service: "turn", via: "h1" }],
  ["web", { ...base, id: "web", service: "web" }],
]);
const record = (some: Partial<RequestRecord>): RequestRecord => ({
  place: "client",
  streamId: "web@h1",
  startMs: 1_000,
  endMs: 1010,
  openMs: 1_000,
  kind: "ok",
  text: `web/t1 ${CLIENT}`,
  ...some,
});
const window = (some: Partial<Window>): Window => ({
  fault: "power",
  fromMs: 900,
  toMs: 2_000,
  hosts: [],
  services: [],
  lookupHosts: [],
  ...some,
});
const verdictOf = (
  records: RequestRecord[],
  windows: Window[] = [],
  owners = new Map<string, Ownership[]>(),
) => judge({ records, streams, windows, owners, clientAddress: CLIENT });

test("a record is read as it was written, one that was cut off is not", () => {
  const line = formatRecord(record({ text: "two\twords" }));
  expect(parseRecord(line)).toEqual(record({ text: "two words" }));
  expect(parseRecord(line.slice(0, 20))).toBeUndefined();
});

test("an answer of another service, or to another address, is wrong whatever the fault", () => {
  const windows = [window({ hosts: ["h1"], services: ["web"] })];
  expect(verdictOf([record({})], windows).wrong).toEqual([]);
  expect(verdictOf([record({ text: `shop/t1 ${CLIENT}` })], windows).wrong[0]).toContain(
    "answered by shop",
  );
  expect(verdictOf([record({ text: "web/t1 10.0.0.1" })], windows).wrong[0]).toContain(
    "the task saw 10.0.0.1",
  );
});

test("a port's former owner may answer for a moment, on its own connections for longer", () => {
  const owners = new Map([
    [
      "turn",
      [
        { identity: "turn1", fromMs: 0, toMs: 10_000 },
        { identity: "turn2", fromMs: 10_000, toMs: 90_000 },
      ],
    ],
  ]);
  const ask = (text: string, startMs: number, openMs = startMs, windows: Window[] = []) =>
    verdictOf(
      [
        record({
          streamId: "turn@h1",
          text: `${text}/t ${CLIENT}`,
          startMs,
          endMs: startMs,
          openMs,
        }),
      ],
      windows,
      owners,
    ).wrong.length;
  expect(ask("turn1", 11_000)).toBe(0);
  expect(ask("turn1", 13_000)).toBe(1);
  expect(ask("turn1", 13_000, 9_000)).toBe(0);
  expect(ask("turn2", 9_000)).toBe(1);
  expect(ask("turn1", 13_000, 13_000, [window({ hosts: ["h4"], toMs: 20_000 })])).toBe(0);
  expect(ask("web", 5_000)).toBe(1);
});

test("a failure is excused in a window of its host or service only", () => {
  const failed = record({ kind: "fail", text: "refused" });
  expect(verdictOf([failed]).unexcused).toHaveLength(1);
  const rows: [Partial<Window>, number][] = [
    [{ hosts: ["h1"] }, 0],
    [{ hosts: ["h2"] }, 1],
    [{ services: ["web"] }, 0],
    [{ services: ["shop"] }, 1],
    [{ services: ["web"], toMs: 950 }, 1],
    [{ lookupHosts: ["h1"] }, 1],
    [{ services: ["web"], isChange: true }, 1],
  ];
  for (const [reach, count] of rows) {
    const { unexcused } = verdictOf([failed], [window(reach)]);
    expect([reach, unexcused.length]).toEqual([reach, count]);
  }
});

test("a change that meets a host in trouble is excused, and so is what a deaf host has missed", () => {
  const failed = record({ kind: "fail", text: "refused" });
  const deaf = window({ fault: "agent", lookupHosts: ["h1"] });
  const change = window({ services: ["web"], isChange: true });
  expect(verdictOf([failed], [deaf]).unexcused).toHaveLength(1);
  expect(verdictOf([failed], [deaf, change]).unexcused).toHaveLength(0);
  // It ended before the request, but while the host did not hear of it.
  const missed = window({ services: ["web"], fromMs: 500, toMs: 950 });
  expect(verdictOf([failed], [deaf, missed]).unexcused).toHaveLength(0);
});

test("an outage lasts from the first failure to the next good answer", () => {
  const verdict = verdictOf(
    [
      record({ kind: "fail", text: "refused" }),
      record({ kind: "fail", text: "refused", startMs: 1_500, endMs: 1_510 }),
      record({ startMs: 1_800, endMs: 1_850 }),
    ],
    [window({ hosts: ["h1"] })],
  );
  expect(verdict.outageMs).toEqual({ power: 850 });
  expect(verdict.excused).toEqual({ power: 2 });
});
