/**
 * The `filters` query. Values of one key are alternatives, keys are all required; labels are all
 * required too. Pure. Source: moby api/types/filters; SwarmKit manager/controlapi.
 */
import { ClusterError } from "../../core/errors.ts";
import type { Labels } from "../../core/objects/object-meta.ts";

export type Filters = ReadonlyMap<string, readonly string[]>;

/**
 * Accepts `{"key":{"value":true}}` and the legacy `{"key":["value"]}`.
 * @throws {ClusterError} invalid-argument for anything else, and for keys not in `accepted`.
 */
export function parseFilters(text: string | undefined, accepted: readonly string[]): Filters {
  const filters = new Map<string, string[]>();
  if (text === undefined || text === "") return filters;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
    throw new ClusterError("invalid-argument", `invalid filter: ${error.message}`);
  }
  if (parsed === null) return filters;
  if (typeof parsed !== "object" || Array.isArray(parsed)) {
    throw new ClusterError("invalid-argument", "invalid filter: it is not a JSON object");
  }
  for (const [key, given] of Object.entries(parsed)) {
    if (!accepted.includes(key)) {
      throw new ClusterError("invalid-argument", `invalid filter '${key}'`);
    }
    const values = filterValues(given);
    if (!values) {
      throw new ClusterError("invalid-argument", `invalid filter '${key}': its values are no list`);
    }
    if (values.length > 0) filters.set(key, values);
  }
  return filters;
}

/** Filters with any keys, for calls that the engine judges; undefined for what cannot be read. */
export function parseAnyFilters(text: string | undefined): Filters | undefined {
  try {
    const parsed: unknown = JSON.parse(text || "{}");
    return parseFilters(text, typeof parsed === "object" && parsed ? Object.keys(parsed) : []);
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof ClusterError) return undefined;
    throw error;
  }
}

function filterValues(given: unknown): string[] | undefined {
  if (Array.isArray(given)) {
    return given.every((value) => typeof value === "string") ? given : undefined;
  }
  if (typeof given !== "object" || given === null) return undefined;
  const chosen = Object.entries(given).filter(([, isChosen]) => isChosen === true);
  return chosen.map(([value]) => value);
}

/** True when the key is not filtered, or the text begins with one of its values. */
export function matchesPrefix(filters: Filters, key: string, text: string): boolean {
  const values = filters.get(key);
  return !values || values.some((value) => text.startsWith(value));
}

/** True when the key is not filtered, or the text is one of its values. */
export function matchesExactly(filters: Filters, key: string, text: string): boolean {
  const values = filters.get(key);
  return !values || values.includes(text);
}

/** Each `k` or `k=v` of the key must be among the labels. */
export function matchesLabels(filters: Filters, key: string, labels: Labels | undefined): boolean {
  return (filters.get(key) ?? []).every((wanted) => {
    const equals = wanted.indexOf("=");
    if (equals === -1) return labels?.[wanted] !== undefined;
    const [name, value] = [wanted.slice(0, equals), wanted.slice(equals + 1)];
    const found = labels?.[name];
    return found !== undefined && (value === "" || found === value);
  });
}
