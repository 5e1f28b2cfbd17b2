/**
 * Jobs that run at times. Labels of a job service say it:
 *
 * - `shoal.schedule=<cron>` (cron.ts): it runs then, and not when it is made or updated
 * - `shoal.schedule.timezone=<name>`: whose clocks are meant; `UTC` (default)
 * - `shoal.schedule.overlap=replace`: a run that is not over is ended for the next one; `skip` (default): the next
 *   one is left out
 *
 * When a run begins: core/orchestrator/scheduled-runs.ts.
 */
import { type CronTimes, nextTime, parseCron, type TimeZone, timeZone } from "./cron.ts";
import type { UnixMs } from "../ids.ts";
import type { Labels } from "./object-meta.ts";
import { isJob, modeOf, type ServiceSpec } from "./service.ts";

export const SCHEDULE_LABEL = "shoal.schedule";
const TIME_ZONE_LABEL = "shoal.schedule.timezone";
const OVERLAP_LABEL = "shoal.schedule.overlap";
/** All labels that are read here; the API border refuses others that begin alike. */
export const SCHEDULE_LABELS: readonly string[] = [SCHEDULE_LABEL, TIME_ZONE_LABEL, OVERLAP_LABEL];

type JobSchedule = { times: CronTimes; zone: TimeZone; overlap: "skip" | "replace" };

/** True for a job that runs at times only. */
export function isScheduled(spec: ServiceSpec): boolean {
  return spec.Labels?.[SCHEDULE_LABEL] !== undefined && isJob(spec);
}

/** True where a run that is not over is ended for the next one. */
export function replacesRuns({ Labels: labels }: ServiceSpec): boolean {
  return labels?.[OVERLAP_LABEL] === "replace";
}

/** Planners ask in each round, and a time far off costs some hundred steps. */
const KNOWN_MAX = 1_000;
const known = new Map<string, UnixMs | undefined>();

/**
 * The first time after `sinceMs`; `undefined` for another service, and for labels that cannot be read, which the
 * API border refuses.
 */
export function nextRunAfter(spec: ServiceSpec, sinceMs: UnixMs): UnixMs | undefined {
  if (!isScheduled(spec)) return undefined;
  const { Labels: labels = {} } = spec;
  const key = [sinceMs, labels[TIME_ZONE_LABEL], labels[SCHEDULE_LABEL]].join(" ");
  if (known.has(key)) return known.get(key);
  if (known.size >= KNOWN_MAX) known.clear();
  const read = parse(labels);
  const atMs = typeof read === "string" ? undefined : nextTime(read.times, read.zone, sinceMs);
  known.set(key, atMs);
  return atMs;
}

/** Why the labels cannot stand, for the user who writes them; `undefined` when they can. */
export function scheduleProblem(spec: ServiceSpec): string | undefined {
  const labels = spec.Labels ?? {};
  if (labels[SCHEDULE_LABEL] === undefined) {
    const [other] = SCHEDULE_LABELS.filter((label) => label in labels);
    if (other === undefined) return undefined;
    return `label ${other} is for jobs that run at times: add ${SCHEDULE_LABEL}, or leave it out`;
  }
  if (!isJob(spec)) {
    return `label ${SCHEDULE_LABEL}: a ${modeOf(spec)} service runs all the time: use mode replicated-job or global-job, or leave the label out`;
  }
  const read = parse(labels);
  if (typeof read === "string") return read;
  if (nextTime(read.times, read.zone, 0) !== undefined) return undefined;
  return `label ${SCHEDULE_LABEL}: "${labels[SCHEDULE_LABEL]}" is never: no such day comes; use one that the month has`;
}

function parse(labels: Labels | undefined): JobSchedule | string {
  const { [SCHEDULE_LABEL]: text = "", [TIME_ZONE_LABEL]: name = "UTC" } = labels ?? {};
  const overlap = labels?.[OVERLAP_LABEL] ?? "skip";
  const times = parseCron(text);
  if (typeof times === "string") return `label ${SCHEDULE_LABEL}: ${times}`;
  const zone = timeZone(name);
  if (!zone) {
    return `label ${TIME_ZONE_LABEL}: "${name}" is no time zone: use a name such as UTC or Europe/Berlin`;
  }
  if (overlap === "skip" || overlap === "replace") return { times, zone, overlap };
  return `label ${OVERLAP_LABEL}: "${overlap}" is not known: use skip or replace`;
}
