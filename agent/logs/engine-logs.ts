/** One container's log from the local engine, as records. */
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { LogTask } from "../../net/rpc/methods.ts";
import { openEngineStream } from "./engine-stream.ts";
import { type LogRecord, RECORD_BYTES_MAX, TIME_LENGTH, utcTime } from "./record.ts";

/** Before its answer's head the engine looks for the place to begin, in all of the log. */
const HEAD_TIMEOUT_MS = 30_000;
/** A log that is not followed either comes or ends. */
const IDLE_TIMEOUT_MS = 30_000;
const FRAME_HEAD_BYTES = 8;
const LF = 0x0a;
const SPACE = 0x20;

export type ContainerLogOptions = {
  socketPath: string;
  task: LogTask;
  /** The number that its records get. */
  number: number;
  stdout: boolean;
  stderr: boolean;
  follow: boolean;
  details: boolean;
};

export type ContainerLog = {
  /** What came next, never empty; undefined at the end. @throws {ClusterError} unavailable, docker */
  next(): Promise<LogRecord[] | undefined>;
  close(): void;
};

/**
 * `undefined` when there is no such container.
 * @throws {ClusterError} unavailable; docker with the engine's text (a log driver that cannot be read)
 */
export async function openContainerLog(
  options: ContainerLogOptions,
): Promise<ContainerLog | undefined> {
  const { task, number, follow } = options;
  const query = new URLSearchParams({
    stdout: options.stdout ? "1" : "0",
    stderr: options.stderr ? "1" : "0",
    follow: follow ? "1" : "0",
    details: options.details ? "1" : "0",
    timestamps: "1",
    tail: task.tail === undefined ? "all" : String(task.tail),
    ...(task.since === undefined ? {} : { since: task.since }),
  });
  const stream = await openEngineStream({
    socketPath: options.socketPath,
    target: `/containers/${encodeURIComponent(task.container)}/logs?${query.toString()}`,
    timeoutMs: HEAD_TIMEOUT_MS,
  });
  if (stream.status !== 200) {
    const text = await readProblem(stream);
    stream.close();
    if (stream.status === 404) return undefined;
    throw new ClusterError("docker", text, { details: { status: stream.status } });
  }
  const split = task.isTty ? createLineSplitter(number) : createFrameSplitter(number);
  const next = async (): Promise<LogRecord[] | undefined> => {
    for (;;) {
      const bytes = await stream.read(follow ? undefined : IDLE_TIMEOUT_MS);
      const records = bytes ? split(bytes) : split(undefined);
      if (records.length > 0) return records;
      if (!bytes) return undefined;
    }
  };
  return { next, close: () => stream.close() };
}

const problemSchema = z.object({ message: z.string() });

async function readProblem(stream: { read(): Promise<Uint8Array | undefined> }): Promise<string> {
  const text = Buffer.from((await stream.read()) ?? []).toString();
  try {
    const problem = problemSchema.safeParse(JSON.parse(text));
    return problem.success ? problem.data.message : text;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return text;
  }
}

/** Takes a piece of the stream and gives the records that it completes; undefined is the end. */
export type Splitter = (bytes: Uint8Array | undefined) => LogRecord[];

/** The engine's frames: 8 bytes of head (stream, 0, 0, 0, length), then `<time> <line>`. */
export function createFrameSplitter(number: number): Splitter {
  let held: Buffer = Buffer.alloc(0);
  return (piece) => {
    // What a dying engine cut off is no line.
    if (!piece) return [];
    held = held.length === 0 ? Buffer.from(piece) : Buffer.concat([held, piece]);
    const records: LogRecord[] = [];
    let at = 0;
    while (held.length - at >= FRAME_HEAD_BYTES) {
      const size = held.readUInt32BE(at + 4);
      const stream = held.readUInt8(at);
      if (stream > 3 || size > RECORD_BYTES_MAX) {
        throw new ClusterError("docker", `The engine's log has a frame of ${size} bytes`);
      }
      const end = at + FRAME_HEAD_BYTES + size;
      if (end > held.length) break;
      const payload = held.subarray(at + FRAME_HEAD_BYTES, end);
      // The engine's own error text; it has no time, and nobody could tell which task it is of.
      if (stream === 3) throw new ClusterError("docker", payload.toString().trim());
      if (size > 0) records.push({ stream, task: number, payload: inUtc(payload) });
      at = end;
    }
    held = held.subarray(at);
    return records;
  };
}

/** A terminal's log has no frames: lines, each with its time before it. */
export function createLineSplitter(number: number): Splitter {
  let held: Buffer = Buffer.alloc(0);
  return (piece) => {
    held = piece ? Buffer.concat([held, piece]) : held;
    const records: LogRecord[] = [];
    for (;;) {
      const found = held.indexOf(LF);
      const isWhole = found !== -1;
      if (!isWhole && (held.length === 0 || (piece && held.length < RECORD_BYTES_MAX))) break;
      const end = isWhole ? found + 1 : held.length;
      records.push({ stream: 1, task: number, payload: inUtc(held.subarray(0, end)) });
      held = held.subarray(end);
    }
    return records;
  };
}

const Z = 0x5a;

/** `<time> <line>` with the time in UTC and nine decimals. A line without a time is left as it is. */
function inUtc(payload: Buffer): Buffer {
  if (payload[TIME_LENGTH - 1] === Z && payload[TIME_LENGTH] === SPACE) return payload;
  const space = payload.indexOf(SPACE);
  const time = space === -1 ? undefined : utcTime(payload.toString("latin1", 0, space));
  return time ? Buffer.concat([Buffer.from(time, "latin1"), payload.subarray(space)]) : payload;
}
