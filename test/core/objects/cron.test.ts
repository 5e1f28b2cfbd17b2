import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { type CronTimes, nextTime, parseCron, timeZone } from "../../../core/objects/cron.ts";

function timesOf(text: string): CronTimes {
  const times = parseCron(text);
  if (typeof times === "string") throw new Error(times);
  return times;
}
function zoneOf(name: string) {
  const zone = timeZone(name);
  if (!zone) throw new Error(`No zone ${name}`);
  return zone;
}
/** The next times of a text after a moment, in that zone's UTC. */
function next(text: string, after: string, count = 1, zone = "UTC"): (string | undefined)[] {
  const times = timesOf(text);
  const found: (string | undefined)[] = [];
  let atMs: number | undefined = Date.parse(after);
  while (found.length < count && atMs !== undefined) {
    atMs = nextTime(times, zoneOf(zone), atMs);
    found.push(
      atMs === undefined ? undefined : new Date(atMs).toISOString().replace(":00.000Z", ""),
    );
  }
  return found;
}

test.each([
  ["* * * * *", "2026-11-23T10:00:59.9Z", ["2026-11-23T10:01", "2026-11-23T10:02"]],
  ["0 3 * * *", "2026-11-23T03:00:00Z", ["2026-11-24T03:00", "2026-11-25T03:00"]],
  ["*/20 8-9 * * *", "2026-11-23T08:30:00Z", ["2026-11-23T08:40", "2026-11-23T09:00"]],
  ["5/25 0 * * *", "2026-11-23T00:10:00Z", ["2026-11-23T00:30", "2026-11-23T00:55"]],
  ["0 0 1 jan,jul *", "2026-11-23T00:00:00Z", ["2027-01-01T00:00", "2027-07-01T00:00"]],
  ["0 9 * * MON-FRI", "2026-11-20T09:00:00Z", ["2026-11-23T09:00", "2026-11-24T09:00"]],
  ["0 0 * * 7", "2026-11-23T00:00:00Z", ["2026-11-29T00:00", "2026-12-06T00:00"]],
  ["0 0 * * 5-7", "2026-11-23T00:00:00Z", ["2026-11-27T00:00", "2026-11-28T00:00"]],
  // One of the two fields of days is enough, if both are given.
  ["0 0 13 * 5", "2026-11-10T00:00:00Z", ["2026-11-13T00:00", "2026-11-20T00:00"]],
  ["0 0 13 * *", "2026-11-14T00:00:00Z", ["2026-12-13T00:00", "2027-01-13T00:00"]],
  ["0 0 */2 * 1", "2026-11-23T00:00:00Z", ["2026-12-07T00:00", "2026-12-21T00:00"]],
  ["0 0 29 2 *", "2026-01-01T00:00:00Z", ["2028-02-29T00:00", "2032-02-29T00:00"]],
  ["@weekly", "2026-11-23T00:00:00Z", ["2026-11-29T00:00", "2026-12-06T00:00"]],
  ["@Hourly", "2026-11-23T23:59:00Z", ["2026-11-24T00:00", "2026-11-24T01:00"]],
])("%s after %s", (text, after, expected) => {
  expect(next(text, after, 2)).toEqual(expected);
});

describe("in a time zone", () => {
  const berlin = (text: string, after: string, count: number) =>
    next(text, after, count, "Europe/Berlin");

  test("the clocks there are meant", () => {
    expect(berlin("0 3 * * *", "2026-07-01T00:00:00Z", 1)).toEqual(["2026-07-01T01:00"]);
    expect(berlin("0 3 * * *", "2026-12-01T00:00:00Z", 1)).toEqual(["2026-12-01T02:00"]);
    expect(next("0 0 * * 1", "2026-11-22T00:00:00Z", 1, "Asia/Kolkata")).toEqual([
      "2026-11-22T18:30",
    ]);
  });

  test("a time that is left out when they are put forward does not come that day", () => {
    expect(berlin("30 2 * * *", "2027-03-27T00:00:00Z", 2)).toEqual([
      "2027-03-27T01:30",
      "2027-03-29T00:30",
    ]);
    // The day is found all the same, though it has 23 hours.
    expect(berlin("15 0 29 3 *", "2027-03-20T00:00:00Z", 1)).toEqual(["2027-03-28T22:15"]);
    expect(berlin("0 0 28 3 *", "2027-03-20T00:00:00Z", 1)).toEqual(["2027-03-27T23:00"]);
  });

  test("a time that comes twice when they are put back is one, but of every hour each is", () => {
    expect(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2)).toEqual([
      "2026-10-25T00:30",
      "2026-10-26T01:30",
    ]);
    expect(berlin("30 * * * *", "2026-10-24T23:40:00Z", 3)).toEqual([
      "2026-10-25T00:30",
      "2026-10-25T01:30",
      "2026-10-25T02:30",
    ]);
  });

  test("an unknown one is none", () => {
    expect(timeZone("Mars/Olympus")).toBeUndefined();
    expect(timeZone("")).toBeUndefined();
  });
});

test("a day that never comes has no next time", () => {
  expect(next("0 0 30 2 *", "2026-01-01T00:00:00Z")).toEqual([undefined]);
});

test.each([
  ["", "it has 1 fields: use five"],
  ["* * * *", "it has 4 fields"],
  ["* * * * * *", "it has 6 fields"],
  ["60 * * * *", '"60" is no minute: use 0 to 59'],
  ["* 24 * * *", '"24" is no hour'],
  ["* * 0 * *", '"0" is no day of month: use 1 to 31'],
  ["* * * 13 *", '"13" is no month: use 1 to 12 (or jan, feb, …)'],
  ["* * * * 8", '"8" is no day of week: use 0 to 7 (or sun, mon, …)'],
  ["*/0 * * * *", '"*/0" is no minute'],
  ["5-1 * * * *", '"5-1" is no minute'],
  ["1,,2 * * * *", '"" is no minute'],
  ["-1 * * * *", '"-1" is no minute'],
  ["1e1 * * * *", '"1e1" is no minute'],
  ["@reboot", "@reboot is not known: use @hourly"],
])("%j is refused", (text, problem) => {
  expect(parseCron(text)).toContain(problem);
});

test("the next time is the first minute that fits, whatever was asked", () => {
  const number = (min: number, max: number) => fc.integer({ min, max }).map(String);
  const field = (min: number, max: number) =>
    fc.oneof(fc.constant("*"), number(min, max), fc.constant(`*/${Math.ceil((max - min) / 3)}`));
  const text = fc
    .tuple(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6))
    .map((parts) => parts.join(" "));
  const zones = fc.constantFrom("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe");
  const START_MS = Date.parse("2026-01-01T00:00:00Z");
  const offset = fc.integer({ min: 0, max: 366 * 24 * 60 });
  fc.assert(
    fc.property(text, zones, offset, (cron, name, minutes) => {
      const [times, zone] = [timesOf(cron), zoneOf(name)];
      const afterMs = START_MS + minutes * 60_000;
      const foundMs = nextTime(times, zone, afterMs);
      const fits = (atMs: number) => {
        const { month, day, weekday, hour, minute } = zone.clockAt(atMs);
        const [isDay, isWeekday] = [times.days.has(day), times.weekdays.has(weekday)];
        return (
          times.months.has(month) &&
          (times.isEitherDay ? isDay || isWeekday : isDay && isWeekday) &&
          times.hours.has(hour) &&
          times.minutes.has(minute)
        );
      };
      if (foundMs !== undefined) expect(fits(foundMs)).toBe(true);
      // Nothing before it, as far as it is worth looking, but what comes twice.
      const untilMs = Math.min(foundMs ?? Number.POSITIVE_INFINITY, afterMs + 3 * 86_400_000);
      for (let atMs = afterMs + 60_000; atMs < untilMs; atMs += 60_000) {
        if (fits(atMs))
          expect([cron, name, atMs, fits(atMs - 3_600_000)]).toEqual([cron, name, atMs, true]);
      }
    }),
    { numRuns: 60 },
  );
}, 30_000);
