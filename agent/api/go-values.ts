/** The API's JSON and query values as Go writes and reads them. Pure. */
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";

/** RFC 3339 with nanoseconds as Go prints it: UTC, no trailing zeros. */
export function goTime(atMs: UnixMs): string {
  return new Date(atMs).toISOString().replace(/\.?0*Z$/, "Z");
}

/** JSON nulls mean "absent" to Go's decoder; drops them from objects, at every depth. */
export function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== "object" || value === null) return value;
  const kept: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(value)) {
    if (field !== null && field !== undefined) kept[key] = withoutNulls(field);
  }
  return kept;
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
  throw new ClusterError(
    "invalid-argument",
    `invalid ${kind} version '${value}': strconv.ParseUint: parsing "${value}": invalid syntax`,
  );
}
