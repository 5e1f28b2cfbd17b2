/**
 * GET /services/{id}/logs and /tasks/{id}/logs. What is read and how is agent/logs' business.
 * Source: Docker Engine API, ServiceLogs, TaskLogs; moby api/server/router/swarm/helpers.go.
 */
import { type Context, Hono } from "hono";
import { ClusterError } from "../../core/errors.ts";
import type { TaskSpec } from "../../core/objects/task.ts";
import { collectLogs, type LogCollection, type LogWish } from "../logs/collect.ts";
import { renderItems, type RenderOptions } from "../logs/render.ts";
import type { ApiContext } from "./context.ts";
import { isTruthy } from "./go-values.ts";
import { findService, findTask } from "./lookup.ts";
import { splitVersion } from "./paths.ts";
import { isOlder } from "./version.ts";

/** Log requests at once on one manager. */
export const LOG_REQUESTS_MAX = 64;
/** The first API version in which frames have a content type of their own. */
const MULTIPLEXED_SINCE = "1.42";

export function logRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();
  let openCount = 0;

  const answer = async (
    c: Context,
    kind: LogWish["kind"],
    target: { id: string; isTty: boolean },
    options: LogOptions,
  ): Promise<Response> => {
    if (openCount >= LOG_REQUESTS_MAX) {
      throw new ClusterError(
        "busy",
        `Cannot follow one more log: ${openCount} are being read through this manager, at most ${LOG_REQUESTS_MAX} are possible; ask another manager`,
        { retry: "later" },
      );
    }
    const isMultiplexed = !target.isTty && (await hasMultiplexedType(context, c.req.url));
    openCount += 1;
    let collection: LogCollection;
    try {
      const { timestamps: _, ...wish } = options;
      collection = await collectLogs(ports.logs, { ...wish, kind, id: target.id });
    } catch (error) {
      openCount -= 1;
      throw error;
    }
    const format = { ...options, isTty: target.isTty };
    const body = logBody(
      collection,
      format,
      () => ports.nowMs(),
      () => {
        openCount -= 1;
      },
    );
    return c.body(body, 200, {
      "Content-Type": `application/vnd.docker.${isMultiplexed ? "multiplexed" : "raw"}-stream`,
    });
  };

  app.get("/services/:id/logs", async (c) => {
    const options = logOptions((name) => c.req.query(name));
    const target = await ports.read((view) => {
      const { id, spec } = findService(view, c.req.param("id"));
      return { id, isTty: isTtyOf(spec.TaskTemplate) };
    });
    return answer(c, "service", target, options);
  });
  app.get("/tasks/:id/logs", async (c) => {
    const options = logOptions((name) => c.req.query(name));
    const target = await ports.read((view) => {
      const { id, spec } = findTask(view, c.req.param("id"));
      return { id, isTty: isTtyOf(spec) };
    });
    return answer(c, "task", target, options);
  });
  return app;
}

/** @throws {ClusterError} invalid-argument for a plugin, which has no logs. */
function isTtyOf({ PluginSpec, ContainerSpec }: TaskSpec): boolean {
  if (!PluginSpec) return ContainerSpec.TTY === true;
  throw new ClusterError(
    "invalid-argument",
    "service logs only supported on container tasks: what a plugin writes is in the log of the engine on its node",
  );
}

export type LogOptions = Omit<LogWish, "kind" | "id"> & Pick<RenderOptions, "timestamps">;

/**
 * The query of a log request.
 * @throws {ClusterError} invalid-argument with Docker's words
 */
export function logOptions(query: (name: string) => string | undefined): LogOptions {
  const [stdout, stderr] = [isTruthy(query("stdout")), isTruthy(query("stderr"))];
  if (!stdout && !stderr) {
    throw new ClusterError(
      "invalid-argument",
      "Bad parameters: you must choose at least one stream",
    );
  }
  const tail = parseTail(query("tail") ?? "");
  const since = parseSince(query("since") ?? "");
  return {
    stdout,
    stderr,
    follow: isTruthy(query("follow")),
    timestamps: isTruthy(query("timestamps")),
    details: isTruthy(query("details")),
    ...(tail === undefined ? {} : { tail }),
    ...(since === undefined ? {} : { since }),
  };
}

function parseTail(text: string): number | undefined {
  if (text === "" || text === "all") return undefined;
  if (!/^[+-]?\d{1,15}$/.test(text)) {
    throw new ClusterError("invalid-argument", 'tail value must be a positive integer or "all"');
  }
  const tail = Number(text);
  if (tail < 0) throw new ClusterError("invalid-argument", "negative tail values not supported");
  return tail;
}

function parseSince(text: string): string | undefined {
  // A time before 1970 is before all that there is.
  if (text === "" || text === "0" || /^-\d{1,12}$/.test(text)) return undefined;
  if (/^\d{1,12}(?:\.\d{1,9})?$/.test(text)) return text;
  throw new ClusterError(
    "invalid-argument",
    `could not parse since timestamp: "${text}" is not a number of seconds with up to nine decimals`,
  );
}

async function hasMultiplexedType({ engine }: ApiContext, url: string): Promise<boolean> {
  const { version } = splitVersion(url);
  if (version !== undefined) return !isOlder(version, MULTIPLEXED_SINCE);
  try {
    return !isOlder((await engine.version()).ApiVersion, MULTIPLEXED_SINCE);
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    return false;
  }
}

/** Collects as the client takes; ends with the client. */
function logBody(
  collection: LogCollection,
  format: RenderOptions,
  nowMs: () => number,
  onEnd: () => void,
): ReadableStream<Uint8Array> {
  let isOver = false;
  const end = () => {
    if (isOver) return;
    isOver = true;
    collection.close();
    onEnd();
  };
  const nowText = () => new Date(nowMs()).toISOString().replace("Z", "000000Z");
  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        try {
          for (;;) {
            const items = await collection.next();
            if (!items) {
              end();
              controller.close();
              return;
            }
            const bytes = renderItems(items, format, nowText);
            // A piece without bytes would not call for the next.
            if (bytes.length === 0) continue;
            controller.enqueue(bytes);
            return;
          }
        } catch (error) {
          end();
          throw error;
        }
      },
      cancel: end,
    },
    { highWaterMark: 0 },
  );
}
