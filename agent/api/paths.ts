/** Which calls of the Docker API are shoal's; all others are the local engine's. Pure. */

/** Objects whose every path is the cluster's. */
const CLUSTER_ROOTS = new Set([
  "swarm",
  "nodes",
  "services",
  "tasks",
  "secrets",
  "configs",
  "shoal",
  "info",
  "version",
  "_ping",
]);

/** `/v1.41/services?x=1` → version "1.41", path "/services". The version is absent without prefix. */
export function splitVersion(target: string): { version?: string; path: string } {
  // Some clients send the absolute form; only its path decides.
  const withoutOrigin = target.replace(/^https?:\/\/[^/?]*/, "");
  const end = withoutOrigin.search(/[?#]/);
  const path = (end === -1 ? withoutOrigin : withoutOrigin.slice(0, end)) || "/";
  const match = /^\/v([0-9.]+)(\/.*)?$/.exec(path);
  if (match?.[1] === undefined) return { path };
  return { version: match[1], path: match[2] ?? "/" };
}

/**
 * True when the inner server answers this request. Networks are shared: their list, inspection,
 * creation and removal are merged by us, and a container that is put on one may need an address of the
 * cluster. The engine has other ids for them.
 */
export function isShoalPath(method: string, target: string): boolean {
  const segments = splitVersion(target).path.split("/").slice(1);
  const [root, second, third] = segments;
  if (root === undefined) return false;
  if (CLUSTER_ROOTS.has(root)) return true;
  if (root === "containers" && third === undefined) {
    // By what only the cluster knows: tasks, and ids of its networks (container-list.ts).
    if (method === "GET" && second === "json") return /is-task|network/.test(target);
    // They may name a network of the cluster (attach.ts).
    return method === "POST" && second === "create";
  }
  if (root !== "networks") return false;
  if (second === undefined) return method === "GET";
  if (third !== undefined) {
    const isOurs = third === "connect" || third === "disconnect";
    return method === "POST" && isOurs && segments.length === 3;
  }
  if (second === "create" || second === "prune") return method === "POST";
  return method === "GET" || method === "DELETE";
}

/** Requests after which the stream can become raw without an Upgrade header (older clients). */
export function canHijack(method: string, target: string): boolean {
  if (method !== "POST") return false;
  const path = splitVersion(target).path;
  return (
    /^\/containers\/[^/]+\/attach$/.test(path) ||
    /^\/exec\/[^/]+\/start$/.test(path) ||
    path === "/session" ||
    path === "/grpc"
  );
}

/** Which server answers: the engine, ours, or ours for answers that go on for long. */
export type UpstreamName = "engine" | "inner" | "streams";

/** Only a manager knows the cluster's events; elsewhere they are the engine's alone. */
export function upstreamOf(method: string, target: string, isManager: boolean): UpstreamName {
  const { path } = splitVersion(target);
  if (method === "GET") {
    if (path === "/events") return isManager ? "streams" : "engine";
    if (/^\/(?:services|tasks)\/[^/]+\/logs$/.test(path)) return "streams";
  }
  return isShoalPath(method, target) ? "inner" : "engine";
}
