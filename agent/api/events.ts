/**
 * GET /events on a manager: the engine's stream with the cluster's own events between its lines. The
 * engine's answer leads: its refusal is the answer, its lines are passed on byte for byte, and the
 * stream ends when its does (`until`, restart of the engine), as if there were no cluster.
 *
 * Past events (`since`) of both are put in the order of their times.
 * Source: Docker Engine API, SystemEvents; moby daemon/events/filter.go.
 */
import { Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { ClusterError } from "../../core/errors.ts";
import { type EngineStream, openEngineStream } from "../logs/engine-stream.ts";
import type { ClusterEvent } from "./cluster-events.ts";
import type { ApiContext } from "./context.ts";
import { type Filters, parseAnyFilters } from "./filters.ts";

const ENGINE_TIMEOUT_MS = 20_000;
/** Streams at once on one manager. */
export const EVENT_STREAMS_MAX = 256;
/** Events that a client has not taken; one that falls back further is cut off, as by the engine. */
const WAITING_MAX = 10_000;
/** Past events wait so long for older lines of the engine. */
const PAST_FLUSH_MS = 100;
/** An engine's line; one that is longer is passed on in pieces. */
const LINE_BYTES_MAX = 1024 * 1024;
const LF = 0x0a;
/** Begins each record of application/json-seq (RFC 7464), which newer clients ask for. */
const RECORD_SEPARATOR = "\u001E";

export function eventRoutes(context: ApiContext): Hono {
  const { ports } = context;
  const app = new Hono();
  let openCount = 0;

  app.get("/events", async (c) => {
    if (openCount >= EVENT_STREAMS_MAX) {
      throw new ClusterError(
        "busy",
        `Cannot open one more event stream: ${openCount} are open, at most ${EVENT_STREAMS_MAX} are possible`,
        { retry: "later" },
      );
    }
    openCount += 1;
    let engine: EngineStream;
    try {
      const accept = c.req.header("accept");
      engine = await openEngineStream({
        socketPath: ports.engineSocket,
        target: c.req.url.replace(/^https?:\/\/[^/]*/, ""),
        headers: accept === undefined ? {} : { Accept: accept },
        timeoutMs: ENGINE_TIMEOUT_MS,
      });
    } catch (error) {
      openCount -= 1;
      throw error;
    }
    const { contentType } = engine;
    const headers: Record<string, string> = contentType ? { "Content-Type": contentType } : {};
    const onEnd = () => {
      openCount -= 1;
    };
    const isUntil = isBefore(c.req.query("until"), ports.nowMs());
    const isStream = engine.status === 200 && ports.localNode().isManager;
    const filters: Filters = (isStream && parseAnyFilters(c.req.query("filters"))) || new Map();
    const body =
      isStream && mayMatch(filters)
        ? mergedBody({
            engine,
            onEnd,
            past: ports.clusterEvents.past().filter(isSince(c.req.query("since"), ports.nowMs())),
            listen: (handler) => ports.clusterEvents.listen(handler),
            includes: (event) => isUntil(event) && matches(event, filters),
            mark: contentType?.includes("json-seq") ? RECORD_SEPARATOR : "",
          })
        : mergedBody({
            engine,
            onEnd,
            past: [],
            listen: () => () => undefined,
            includes: () => false,
            mark: "",
          });
    // Whatever the engine says, its body is with it.
    return c.body(body, engine.status as ContentfulStatusCode, headers);
  });
  return app;
}

/** One event in the engine's JSON, with its line end. */
export function renderEvent(event: ClusterEvent): string {
  const { type, action, id, attributes, atMs, nanoseconds } = event;
  const sorted = Object.fromEntries(
    Object.entries(attributes).sort(([one], [other]) => (one < other ? -1 : 1)),
  );
  const actor = JSON.stringify({ ID: id, Attributes: sorted });
  // Nanoseconds since 1970 are more than a JSON number of ours holds.
  const timeNano = `${atMs}${String(nanoseconds).padStart(6, "0")}`;
  return `{"Type":"${type}","Action":"${action}","Actor":${actor},"scope":"swarm","time":${Math.floor(atMs / 1_000)},"timeNano":${timeNano}}\n`;
}

// ---- filters --------------------------------------------------------------------------------------

/** Filters by kinds of objects that no event of the cluster is about. */
const ENGINE_KINDS = ["container", "image", "volume", "plugin", "daemon"];

function mayMatch(filters: Filters): boolean {
  return !ENGINE_KINDS.some((kind) => filters.has(kind));
}

/** Whether stock's filter includes it, but that filters by a container's name match no service. */
export function matches(event: ClusterEvent, filters: Filters): boolean {
  if (!mayMatch(filters)) return false;
  const has = (key: string, value: string) => filters.get(key)?.includes(value) ?? true;
  const isOfKind = (kind: ClusterEvent["type"]) => {
    const wanted = filters.get(kind);
    if (!wanted) return true;
    const name = event.attributes["name"] ?? "";
    return (
      event.type === kind &&
      wanted.some((text) => event.id.startsWith(text) || name.startsWith(text))
    );
  };
  const hasLabels = (filters.get("label") ?? []).every((wanted) => {
    const [key = "", ...rest] = wanted.split("=");
    const found = event.attributes[key];
    return found !== undefined && (rest.length === 0 || found === rest.join("="));
  });
  return (
    has("event", event.action) &&
    has("type", event.type) &&
    has("scope", "swarm") &&
    hasLabels &&
    (["node", "service", "network", "secret", "config", "stack"] as const).every(isOfKind)
  );
}

type Test = (event: ClusterEvent) => boolean;

/** Without `since` nothing of the past is wanted. */
function isSince(since: string | undefined, nowMs: number): Test {
  const sinceMs = since ? parseTime(since, nowMs) : undefined;
  return (event) => sinceMs !== undefined && event.atMs >= Math.floor(sinceMs);
}

function isBefore(until: string | undefined, nowMs: number): Test {
  const untilMs = until ? parseTime(until, nowMs) : undefined;
  return (event) => untilMs === undefined || event.atMs <= untilMs;
}

const UNIT_MS: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };

/** Seconds with a fraction, a span before now, or a date, in milliseconds since 1970. */
export function parseTime(text: string, nowMs: number): number | undefined {
  if (/^\d+(?:\.\d+)?$/.test(text)) return Number(text) * 1_000;
  if (/^(?:\d+(?:\.\d+)?(?:h|ms|m|s))+$/.test(text)) {
    let spanMs = 0;
    for (const [, count, unit] of text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s)/g)) {
      spanMs += Number(count) * (UNIT_MS[unit ?? ""] ?? 0);
    }
    return nowMs - spanMs;
  }
  const atMs = Date.parse(text);
  return Number.isNaN(atMs) ? undefined : atMs;
}

// ---- the stream -----------------------------------------------------------------------------------

export type MergeOptions = {
  engine: EngineStream;
  /** Called once, however it ends. */
  onEnd(): void;
  past: readonly ClusterEvent[];
  listen(handler: (event: ClusterEvent) => void): () => void;
  includes(event: ClusterEvent): boolean;
  /** Before each event of ours. */
  mark: string;
};

/** The engine's lines as they are, with events of the cluster between them. */
export function mergedBody(options: MergeOptions): ReadableStream<Uint8Array> {
  const { engine, mark } = options;
  /** Events not written yet, in the order of time. */
  let waiting: ClusterEvent[] = options.past.filter((event) => options.includes(event));
  /** Until then lines of the engine may be older than what waits. */
  let isOrdering = waiting.length > 0;
  /** The engine's bytes after its last line end. */
  let rest: Uint8Array = new Uint8Array(0);
  /** A very long line was begun: nothing may come between its pieces. */
  let isMidLine = false;
  let reading: Promise<void> | undefined;
  let pieces: Uint8Array[] = [];
  let isEngineOver = false;
  let isOver = false;
  let wake: (() => void) | undefined;

  const end = () => {
    if (isOver) return;
    isOver = true;
    stopListening();
    clearTimeout(orderTimer);
    engine.close();
    options.onEnd();
    wake?.();
  };
  const stopListening = options.listen((event) => {
    if (!options.includes(event)) return;
    waiting.push(event);
    if (waiting.length > WAITING_MAX) end();
    wake?.();
  });
  const orderTimer = setTimeout(() => {
    isOrdering = false;
    wake?.();
  }, PAST_FLUSH_MS);

  const read = async () => {
    try {
      const bytes = await engine.read();
      if (bytes) pieces.push(bytes);
      else isEngineOver = true;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      isEngineOver = true;
    }
    reading = undefined;
    wake?.();
  };
  const takeEvents = (isDue: (event: ClusterEvent) => boolean): string => {
    let count = 0;
    for (let event = waiting[0]; event && isDue(event); event = waiting[count]) count += 1;
    return waiting
      .splice(0, count)
      .map((event) => `${mark}${renderEvent(event)}`)
      .join("");
  };
  /** What can be written now. */
  const next = (): Uint8Array[] => {
    const out: Uint8Array[] = [];
    for (const piece of pieces.splice(0)) {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      const cut = bytes.lastIndexOf(LF) + 1;
      const lines = bytes.subarray(0, cut);
      rest = bytes.subarray(cut);
      if (isOrdering) out.push(...ordered(lines));
      else if (lines.length > 0) out.push(lines);
      if (lines.length > 0) isMidLine = false;
      if (rest.length > LINE_BYTES_MAX) {
        out.push(rest);
        rest = new Uint8Array(0);
        isMidLine = true;
      }
    }
    if (isEngineOver && rest.length > 0) out.push(rest);
    if (isEngineOver) rest = new Uint8Array(0);
    if ((isOrdering || isMidLine) && !isEngineOver) return out;
    const text = takeEvents(() => true);
    if (text !== "") out.push(Buffer.from(text));
    return out;
  };
  /** Whole lines, each after the events that are older. */
  const ordered = (lines: Uint8Array): Uint8Array[] => {
    const out: Uint8Array[] = [];
    for (let from = 0; from < lines.length; ) {
      const to = lines.indexOf(LF, from) + 1;
      const line = lines.subarray(from, to);
      const timeMs = Number(/"timeNano":(\d+)\d{6}\b/.exec(Buffer.from(line).toString())?.[1] ?? 0);
      const text = takeEvents((event) => event.atMs < timeMs);
      if (text !== "") out.push(Buffer.from(text));
      out.push(line);
      from = to;
    }
    return out;
  };

  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        for (;;) {
          if (!isEngineOver) reading ??= read();
          const out = next();
          if (out.length > 0) {
            controller.enqueue(Buffer.concat(out));
            return;
          }
          if (isEngineOver || isOver) {
            end();
            controller.close();
            return;
          }
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      },
      cancel: end,
    },
    { highWaterMark: 0 },
  );
}
