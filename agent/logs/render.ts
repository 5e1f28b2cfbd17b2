/**
 * Log records as the Docker API gives them to a client. Pure.
 * Source: moby api/server/httputils/write_log_stream.go, daemon/cluster/services.go (ServiceLogs).
 */
import { RECORD_HEAD_BYTES, type LogRecord, TIME_LENGTH } from "./record.ts";

/** Whose line it is. */
export type LogTaskRef = { taskId: string; serviceId: string; nodeId: string };

export type LogItem =
  | { type: "line"; record: LogRecord; ref: LogTaskRef }
  /** Something is missing. `isLast`: nothing follows. */
  | { type: "notice"; reasons: string[]; isLast: boolean; ref: LogTaskRef | undefined };

export type RenderOptions = {
  timestamps: boolean;
  details: boolean;
  stderr: boolean;
  /** Raw bytes instead of frames. */
  isTty: boolean;
};

const NODE_KEY = "com.docker.swarm.node.id";
const SERVICE_KEY = "com.docker.swarm.service.id";
const TASK_KEY = "com.docker.swarm.task.id";
const STDERR = 2;
/** Clients end with an error that has its text. */
const SYSTEM_ERROR = 3;
const SPACE = 0x20;
const Z = 0x5a;
const NOTHING = Buffer.alloc(0);

/** Stock Swarm's sentence for a log that is not whole. */
export function incompleteText(reasons: readonly string[]): string {
  return `warning: incomplete log stream. some logs could not be retrieved for the following reasons: ${reasons.join(", ")}`;
}

/**
 * The attributes of a line: those of the log driver and the three that say whose it is, which win
 * over the driver's of the same name. Sorted by key; keys and values are query-escaped.
 */
export function renderDetails(driverAttributes: string, ref: LogTaskRef): string {
  const own = [
    `${NODE_KEY}=${ref.nodeId}`,
    `${SERVICE_KEY}=${ref.serviceId}`,
    `${TASK_KEY}=${ref.taskId}`,
  ];
  if (driverAttributes === "") return own.join(",");
  const keyOf = (pair: string) => unescape(pair.split("=", 1)[0] ?? "");
  const others = driverAttributes
    .split(",")
    .filter((pair) => ![NODE_KEY, SERVICE_KEY, TASK_KEY].includes(keyOf(pair)));
  return [...others, ...own].sort((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1)).join(",");
}

function unescape(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
    return text;
  }
}

/** One piece of the answer's body. `nowText` is the time of notices. */
export function renderItems(
  items: readonly LogItem[],
  options: RenderOptions,
  nowText: () => string,
): Uint8Array {
  const pieces: Uint8Array[] = [];
  const frame = (stream: number, parts: Uint8Array[]) => {
    if (!options.isTty) {
      const head = Buffer.alloc(RECORD_HEAD_BYTES);
      head.writeUInt8(stream, 0);
      head.writeUInt32BE(
        parts.reduce((sum, part) => sum + part.length, 0),
        4,
      );
      pieces.push(head);
    }
    pieces.push(...parts);
  };
  for (const item of items) {
    if (item.type === "line") {
      frame(item.record.stream, lineParts(item.record, item.ref, options));
    } else if (item.isLast) {
      const text = `Error grabbing logs: rpc error: code = Unknown desc = ${incompleteText(item.reasons)}\n`;
      frame(SYSTEM_ERROR, [Buffer.from(text)]);
    } else if (options.stderr) {
      // The CLI reads whose line it is from each line of a followed log, and fails without.
      const time = options.timestamps ? `${nowText()} ` : "";
      const details = options.details && item.ref ? `${renderDetails("", item.ref)} ` : "";
      if (options.details && !item.ref) continue;
      frame(STDERR, [Buffer.from(`${time}${details}${incompleteText(item.reasons)}\n`)]);
    }
  }
  return Buffer.concat(pieces);
}

function lineParts(record: LogRecord, ref: LogTaskRef, options: RenderOptions): Uint8Array[] {
  const payload = Buffer.from(
    record.payload.buffer,
    record.payload.byteOffset,
    record.payload.length,
  );
  const hasTime = payload[TIME_LENGTH - 1] === Z && payload[TIME_LENGTH] === SPACE;
  const time = hasTime ? payload.subarray(0, TIME_LENGTH + 1) : NOTHING;
  let line = hasTime ? payload.subarray(TIME_LENGTH + 1) : payload;
  let details: Uint8Array = NOTHING;
  if (options.details) {
    // Engines put the driver's attributes, possibly none, and a space before the line.
    const space = line.indexOf(SPACE);
    const driverAttributes = space > 0 ? line.toString("utf8", 0, space) : "";
    line = line.subarray(space + 1);
    details = Buffer.from(`${renderDetails(driverAttributes, ref)} `);
  }
  return [options.timestamps ? time : NOTHING, details, line];
}
