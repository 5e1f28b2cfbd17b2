/**
 * Times by the five fields of cron: minute, hour, day of month, month, day of week.
 *
 * A field is `*` or a list of numbers, ranges (`1-5`) and steps (`8-18/2`, or of all); months and days of the week also
 * by their English names. Of the two fields of days one is enough when neither begins with `*`. Also `@hourly`,
 * `@daily`, `@weekly`, `@monthly`, `@yearly`.
 *
 * Where clocks are put forward a time that is left out is not made up for; where they are put back, a time of
 * an hour that is named comes once, one of every hour (`*`) each time.
 * Source: POSIX crontab; Vixie cron for names, steps and macros.
 */
import type { UnixMs } from "../ids.ts";

export type CronTimes = {
  minutes: ReadonlySet<number>;
  hours: ReadonlySet<number>;
  days: ReadonlySet<number>;
  months: ReadonlySet<number>;
  /** From 0, Sunday. */
  weekdays: ReadonlySet<number>;
  /** One of the two fields of days is enough. */
  isEitherDay: boolean;
  isEveryHour: boolean;
};

const MINUTE_MS = 60_000;
const HOUR_MINUTES = 60;
/** 29 February on a given day of the week comes within 28 years, but for 1900 and 2100. */
const AHEAD_MS_MAX = 40 * 366 * 86_400_000;
/** Steps of a day or less over that time. */
const STEPS_MAX = 100_000;

const MACROS: Readonly<Record<string, string>> = {
  "@hourly": "0 * * * *",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@weekly": "0 0 * * 0",
  "@monthly": "0 0 1 * *",
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
};
const MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split(" ");
const WEEKDAYS = "sun mon tue wed thu fri sat".split(" ");
const FIELDS = [
  { what: "minute", min: 0, max: 59, names: [] },
  { what: "hour", min: 0, max: 23, names: [] },
  { what: "day of month", min: 1, max: 31, names: [] },
  { what: "month", min: 1, max: 12, names: MONTHS },
  // 7 is Sunday too.
  { what: "day of week", min: 0, max: 7, names: WEEKDAYS },
] as const;
type Field = { what: string; min: number; max: number; names: readonly string[] };

/** The times; or what is wrong with the text, for the user who wrote it. */
export function parseCron(text: string): CronTimes | string {
  const trimmed = text.trim().toLowerCase();
  const known = Object.hasOwn(MACROS, trimmed) ? MACROS[trimmed] : undefined;
  if (trimmed.startsWith("@") && known === undefined) {
    return `${trimmed} is not known: use ${Object.keys(MACROS).join(", ")}, or five fields`;
  }
  const parts = (known ?? trimmed).split(/\s+/);
  if (parts.length !== FIELDS.length) {
    return `it has ${parts.length} fields: use five (minute, hour, day of month, month, day of week), such as "0 3 * * *"`;
  }
  const sets: Set<number>[] = [];
  for (const [index, field] of FIELDS.entries()) {
    const set = readField(parts[index] ?? "", field);
    if (typeof set === "string") return set;
    sets.push(set);
  }
  const [minutes, hours, days, months, weekdays] = sets;
  if (!minutes || !hours || !days || !months || !weekdays) return "it cannot be read";
  if (weekdays.has(7)) weekdays.add(0);
  const isAny = (index: number) => parts[index]?.startsWith("*") === true;
  return {
    minutes,
    hours,
    days,
    months,
    weekdays,
    isEitherDay: !isAny(2) && !isAny(4),
    isEveryHour: isAny(1),
  };
}

function readField(text: string, field: Field): Set<number> | string {
  const found = new Set<number>();
  for (const item of text.split(",")) {
    const match = /^(\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:\/(\d{1,3}))?$/.exec(item);
    const [, range = "", first = "", last, step = "1"] = match ?? [];
    const from = range === "*" ? field.min : readNumber(first, field);
    // A step without an end goes to the last one.
    const open = match?.[4] === undefined ? from : field.max;
    const to = range === "*" ? field.max : last === undefined ? open : readNumber(last, field);
    const by = Number(step);
    if (!match || from === undefined || to === undefined || from > to || by === 0) {
      const names = field.names.length > 0 ? ` (or ${field.names.slice(0, 2).join(", ")}, …)` : "";
      return `"${item}" is no ${field.what}: use ${field.min} to ${field.max}${names}, a range such as ${field.min + 1}-${field.min + 5}, a step such as */5, or *`;
    }
    for (let number = from; number <= to; number += by) found.add(number);
  }
  return found;
}

function readNumber(text: string, { min, max, names }: Field): number | undefined {
  const named = names.indexOf(text);
  if (named >= 0) return named + min;
  const number = /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN;
  return number >= min && number <= max ? number : undefined;
}

/** A moment on the clocks of a time zone. */
type Clock = { month: number; day: number; weekday: number; hour: number; minute: number };
export type TimeZone = { clockAt(atMs: UnixMs): Clock };

/** `undefined` for a name that is not known. Source of the names: IANA's time zone database. */
export function timeZone(name: string): TimeZone | undefined {
  const format = formatOf(name);
  if (!format) return undefined;
  return {
    clockAt: (atMs) => {
      const parts = new Map(format.formatToParts(atMs).map(({ type, value }) => [type, value]));
      const number = (part: Intl.DateTimeFormatPartTypes) => Number(parts.get(part));
      return {
        month: number("month"),
        day: number("day"),
        weekday: WEEKDAYS.indexOf(parts.get("weekday")?.toLowerCase() ?? ""),
        hour: number("hour"),
        minute: number("minute"),
      };
    },
  };
}

function formatOf(timeZoneName: string): Intl.DateTimeFormat | undefined {
  try {
    return new Intl.DateTimeFormat("en-US", {
      timeZone: timeZoneName,
      hourCycle: "h23",
      month: "numeric",
      day: "numeric",
      weekday: "short",
      hour: "numeric",
      minute: "numeric",
    });
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** The first time after `afterMs`; `undefined` when there is none (30 February). */
export function nextTime(times: CronTimes, zone: TimeZone, afterMs: UnixMs): UnixMs | undefined {
  const endMs = afterMs + AHEAD_MS_MAX;
  let atMs = (Math.floor(afterMs / MINUTE_MS) + 1) * MINUTE_MS;
  for (let step = 0; step < STEPS_MAX && atMs <= endMs; step += 1) {
    const clock = zone.clockAt(atMs);
    let minutes = 1;
    if (!isDay(times, clock)) {
      // Not beyond the last hour: that of a day on which clocks change may be another.
      minutes = Math.max(1, 23 - clock.hour) * HOUR_MINUTES - clock.minute;
    } else if (!times.hours.has(clock.hour)) minutes = HOUR_MINUTES - clock.minute;
    else if (times.minutes.has(clock.minute) && !isAgain(times, zone, clock, atMs)) return atMs;
    atMs += minutes * MINUTE_MS;
  }
  return undefined;
}

function isDay({ months, days, weekdays, isEitherDay }: CronTimes, clock: Clock): boolean {
  if (!months.has(clock.month)) return false;
  const isDayOfMonth = days.has(clock.day);
  const isWeekday = weekdays.has(clock.weekday);
  return isEitherDay ? isDayOfMonth || isWeekday : isDayOfMonth && isWeekday;
}

/** The same time on the clocks an hour later, since they were put back. */
function isAgain(times: CronTimes, zone: TimeZone, clock: Clock, atMs: UnixMs): boolean {
  if (times.isEveryHour) return false;
  const before = zone.clockAt(atMs - HOUR_MINUTES * MINUTE_MS);
  return before.hour === clock.hour && before.minute === clock.minute;
}
