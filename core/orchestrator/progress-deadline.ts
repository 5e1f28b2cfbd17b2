/**
 * How long a rolling update may make no progress before it is given up. Stock Swarm waits for ever:
 * an update to a spec that no node can take stays "updating". A service says otherwise by its label
 * `shoal.update.progress-deadline`, whose value is a Go duration (`90s`, `1h30m`), or `0` or `none`
 * for no bound.
 */
import { parseGoDurationMs } from "../objects/go-duration.ts";
import { NS_PER_MS } from "../objects/object-meta.ts";
import type { ServiceSpec } from "../objects/service.ts";

export const PROGRESS_DEADLINE_LABEL = "shoal.update.progress-deadline";
/** Beside the start period of the healthcheck, in which a slow starter is not yet unhealthy. */
export const PROGRESS_DEADLINE_DEFAULT_MS = 10 * 60_000;

/** The label's value in milliseconds, `Infinity` for no bound; `undefined` when it is neither. */
export function parseProgressDeadline(text: string): number | undefined {
  const value = text.trim();
  if (value === "none") return Number.POSITIVE_INFINITY;
  const ms = parseGoDurationMs(value);
  return ms === 0 ? Number.POSITIVE_INFINITY : ms;
}

/** Why the label cannot be read, for the user who writes it; `undefined` when it can or is absent. */
export function progressDeadlineProblem(spec: Pick<ServiceSpec, "Labels">): string | undefined {
  const text = spec.Labels?.[PROGRESS_DEADLINE_LABEL];
  if (text === undefined || parseProgressDeadline(text) !== undefined) return undefined;
  return `label ${PROGRESS_DEADLINE_LABEL}: "${text}" is no duration: use one such as 90s or 10m, or none`;
}

/** The bound that holds for a service; a label that cannot be read counts as absent. */
export function progressDeadlineMs(spec: ServiceSpec): number {
  const text = spec.Labels?.[PROGRESS_DEADLINE_LABEL];
  const given = text === undefined ? undefined : parseProgressDeadline(text);
  if (given !== undefined) return given;
  const startPeriodNs = spec.TaskTemplate.ContainerSpec.Healthcheck?.StartPeriod ?? 0;
  return PROGRESS_DEADLINE_DEFAULT_MS + startPeriodNs / NS_PER_MS;
}

/** As Go writes durations of whole seconds, without zero parts: `10m`, `1h30m`, `90s` as `1m30s`. */
export function showDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)}ms`;
  const seconds = Math.round(ms / 1_000);
  const parts = [
    [Math.floor(seconds / 3_600), "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ] as const;
  return parts.map(([amount, unit]) => (amount === 0 ? "" : `${amount}${unit}`)).join("");
}
