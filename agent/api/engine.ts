/**
 * Calls to the local Docker Engine from our own handlers (what is only passed through does not come
 * here: front.ts). Keeps the engine's version for a short time, for every answer names it.
 */
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import { checkShape } from "./body.ts";

/** An engine that does not answer a plain question in this time is taken as away. */
const REQUEST_TIMEOUT_MS = 20_000;
/** An upgraded engine is noticed after this. */
const VERSION_AGE_MS_MAX = 30_000;
/** Every answer of ours names the engine's version: one that hangs must not hold them all up. */
const VERSION_TIMEOUT_MS = 2_000;
const VERSION_RETRY_MS = 5_000;

const versionSchema = z.looseObject({
  Version: z.string(),
  ApiVersion: z.string(),
  MinAPIVersion: z.string().optional(),
  Experimental: z.boolean().optional(),
});
export type EngineVersion = z.infer<typeof versionSchema>;

export type EngineRequest = {
  method?: "GET" | "HEAD" | "POST" | "DELETE";
  body?: string;
  headers?: Record<string, string>;
  timeoutMs?: number;
};

export type Engine = {
  /**
   * One request; `path` begins with a slash, without a version prefix.
   * @throws {ClusterError} unavailable when the engine cannot be reached.
   */
  request(path: string, request?: EngineRequest): Promise<Response>;
  /** The parsed JSON of a GET. @throws {ClusterError} docker for a status other than 200. */
  getJson(path: string): Promise<unknown>;
  /** Cached. @throws {ClusterError} unavailable */
  version(): Promise<EngineVersion>;
};

export function createEngine(socketPath: string, nowMs: () => UnixMs): Engine {
  let known: { version: EngineVersion; atMs: UnixMs } | undefined;
  let failed: { error: ClusterError; atMs: UnixMs } | undefined;
  const isWithin = (atMs: UnixMs, spanMs: number) => Math.abs(nowMs() - atMs) < spanMs;

  const request = async (path: string, options: EngineRequest = {}): Promise<Response> => {
    try {
      return await fetch(`http://engine${path}`, {
        unix: socketPath,
        method: options.method ?? "GET",
        headers: options.headers ?? {},
        ...(options.body === undefined ? {} : { body: options.body }),
        signal: AbortSignal.timeout(options.timeoutMs ?? REQUEST_TIMEOUT_MS),
      });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new ClusterError(
        "unavailable",
        `Cannot connect to the Docker Engine at unix://${socketPath}: ${reason}. Is dockerd running on this node?`,
        { cause: error, retry: "later" },
      );
    }
  };

  const getJson = async (path: string, options: EngineRequest = {}): Promise<unknown> => {
    const answer = await request(path, options);
    if (answer.status !== 200) {
      throw new ClusterError(
        "docker",
        `The Docker Engine answered ${answer.status} to GET ${path}: ${await answer.text()}`,
      );
    }
    return answer.json();
  };

  return {
    request,
    getJson,
    version: async () => {
      if (known && isWithin(known.atMs, VERSION_AGE_MS_MAX)) return known.version;
      try {
        if (failed && isWithin(failed.atMs, VERSION_RETRY_MS)) throw failed.error;
        const answer = await getJson("/version", { timeoutMs: VERSION_TIMEOUT_MS });
        known = { version: checkShape(answer, versionSchema), atMs: nowMs() };
        failed = undefined;
        return known.version;
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        if (error !== failed?.error) failed = { error, atMs: nowMs() };
        // What was true a moment ago is better than no answer while the engine restarts.
        if (known) return known.version;
        throw error;
      }
    },
  };
}
