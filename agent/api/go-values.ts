/** The API's JSON and query values as Go writes and reads them. Pure. */
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";

/** RFC 3339 with nanoseconds as Go prints it: UTC, no trailing zeros. */
export function goTime(atMs: UnixMs): string {
  return new Date(atMs).toISOString().replace(/\.?0*Z$/, "Z");
}

/** No spec is anywhere near as deep. */
const DEPTH_MAX = 100;

/**
 * A parsed body as Go's decoder takes it: nulls mean "absent", at every depth; halves of surrogate
 * pairs become U+FFFD, so that all managers store the same text.
 * @throws {ClusterError} invalid-argument for one that is nested too deep.
 */
export function withoutNulls(value: unknown, depth = 0): unknown {
  if (typeof value === "string") return value.toWellFormed();
  if (typeof value !== "object" || value === null) return value;
  if (depth >= DEPTH_MAX) {
    throw new ClusterError(
      "invalid-argument",
      `invalid JSON: it is nested deeper than ${DEPTH_MAX} levels`,
    );
  }
  if (Array.isArray(value)) return value.map((item: unknown) => withoutNulls(item, depth + 1));
  // Not by assignment: the key "__proto__" would set the object's prototype.
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== null && field !== undefined)
      .map(([key, field]) => [key.toWellFormed(), withoutNulls(field, depth + 1)]),
  );
}

/** Go's `omitempty` for scalars, lists and maps; nested structs stay. `keep` names pointer fields. */
export function omitEmpty<T extends object>(value: T, keep: readonly string[] = []): T {
  const kept = Object.entries(value).filter(
    ([key, field]) => keep.includes(key) || !isGoZero(field),
  );
  // Fields that may be left out are optional in T.
  return Object.fromEntries(kept) as T;
}

function isGoZero(value: unknown): boolean {
  if (value === undefined || value === null || value === "" || value === 0) return true;
  return value === false || (Array.isArray(value) && value.length === 0);
}

/** A map that Go would leave out when empty. */
export function isEmptyMap(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/**
 * Query flags. Empty and absent are false.
 * @throws {ClusterError} invalid-argument for words that Go's ParseBool does not know.
 */
export function parseGoBool(name: string, text: string | undefined): boolean {
  if (text === undefined || text === "") return false;
  if (/^(?:1|t|T|true|TRUE|True)$/.test(text)) return true;
  if (/^(?:0|f|F|false|FALSE|False)$/.test(text)) return false;
  throw new ClusterError("invalid-argument", `invalid value for ${name}: ${text}`);
}

/**
 * As parseGoBool, with the longer words that stock has for some flags.
 * @throws {ClusterError} invalid-argument
 */
export function parseFlag(name: string, text: string | undefined): boolean {
  try {
    return parseGoBool(name, text);
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    const why = `strconv.ParseBool: parsing "${text}": invalid syntax`;
    throw new ClusterError(error.code, `${error.message}: ${why}`);
  }
}

/** Flags that stock reads leniently: anything but the words for "no" is true. */
export function isTruthy(text: string | undefined): boolean {
  return !["", "0", "no", "false", "none"].includes((text ?? "").trim().toLowerCase());
}

/**
 * The `version` query of an update.
 * @throws {ClusterError} invalid-argument with Docker's words when it is no unsigned number.
 */
export function parseVersion(kind: string, text: string | undefined): number {
  if (text !== undefined && /^\d{1,16}$/.test(text)) return Number(text);
  const value = text ?? "";
  // Stock says no more of these two.
  if (kind === "secret" || kind === "config") {
    throw new ClusterError("invalid-argument", `invalid ${kind} version`);
  }
  throw new ClusterError(
    "invalid-argument",
    `invalid ${kind} version '${value}': strconv.ParseUint: parsing "${value}": invalid syntax`,
  );
}
