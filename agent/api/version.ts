/** API versions of clients: `/v1.41/…`, between our least and the engine's own. */
import { ClusterError } from "../../core/errors.ts";

/** Source: moby, the least version that any daemon has served since 2017. */
export const API_VERSION_MIN = "1.24";

/** True when `version` is before `other`; both are numbers joined by dots. */
export function isOlder(version: string, other: string): boolean {
  const [left, right] = [version, other].map((text) => text.split(".").map(Number));
  const length = Math.max(left?.length ?? 0, right?.length ?? 0);
  for (let part = 0; part < length; part += 1) {
    const difference = (left?.[part] ?? 0) - (right?.[part] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

/** @throws {ClusterError} invalid-argument with Docker's words outside of [min, max]. */
export function checkVersion(version: string, max: string): void {
  if (isOlder(version, API_VERSION_MIN)) {
    throw new ClusterError(
      "invalid-argument",
      `client version ${version} is too old. Minimum supported API version is ${API_VERSION_MIN}, please upgrade your client to a newer version`,
    );
  }
  if (isOlder(max, version)) {
    throw new ClusterError(
      "invalid-argument",
      `client version ${version} is too new. Maximum supported API version is ${max}`,
    );
  }
}
