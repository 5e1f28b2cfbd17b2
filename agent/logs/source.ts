/**
 * This node's end of log streams: reads its engine's container logs and sends records as far as the
 * reader has granted. Runs on the main thread: what it does per line is little, a window bounds how
 * much of it comes at once, and the bytes need no hop between threads.
 *
 * Without `follow` the logs of all tasks are merged by time; with it, each comes as it is written.
 */
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { LogOpen, LogTask } from "../../net/rpc/methods.ts";
import { type ContainerLog, openContainerLog } from "./engine-logs.ts";
import { openEngineStream } from "./engine-stream.ts";
import { mergeByTime, type RecordSource } from "./merge.ts";
import {
  encodeRecords,
  type LogRecord,
  recordBytes,
  recordTime,
  sinceOfTime,
  TASKS_PER_STREAM_MAX,
} from "./record.ts";
import { endedStream, type LogOpener, type LogSink, type LogStream } from "./stream.ts";

/** Log streams of this node at once, over all requests to the cluster. */
export const NODE_STREAMS_MAX = 64;
/** Containers of one stream that are read at once to be merged; more are merged in groups. */
const MERGED_MAX = 64;
/** Containers of one stream that are followed at once. */
const FOLLOWED_MAX = 512;
/** Sent when so much waits, or when nothing more comes in this turn. */
const BATCH_BYTES = 32 * 1024;
const RETRY_MS = 1_000;
/** A task is named when its container should be there; after so many seconds it is taken as never made. */
const MISSING_TRIES_MAX = 5;
const INSPECT_TIMEOUT_MS = 10_000;

export type LogSource = { open: LogOpener };

export function createLogSource(options: {
  /** Undefined while it is in no cluster. */
  nodeId(): string | undefined;
  socketPath: string;
  streamsMax?: number;
}): LogSource {
  const streamsMax = options.streamsMax ?? NODE_STREAMS_MAX;
  let streamCount = 0;
  return {
    open: (open, sink) => {
      const nodeId = options.nodeId();
      if (open.nodeId !== nodeId) {
        return endedStream(sink, `this is node ${nodeId}, not ${open.nodeId}`);
      }
      if (streamCount >= streamsMax) {
        return endedStream(
          sink,
          `node ${nodeId} serves ${streamCount} log streams already, at most ${streamsMax} are possible`,
        );
      }
      streamCount += 1;
      return startStream(options.socketPath, open, sink, () => {
        streamCount -= 1;
      });
    },
  };
}

function startStream(
  socketPath: string,
  open: LogOpen,
  sink: LogSink,
  onOver: () => void,
): LogStream {
  const logs = new Set<ContainerLog>();
  const reasons: string[] = [];
  /** Writers that wait for room, and pauses under way. */
  const writers = new Set<() => void>();
  const sleepers = new Set<() => void>();
  let isOver = false;
  let taskCount = 0;
  let activeCount = 0;
  let credit = open.windowBytes;
  let pending: LogRecord[] = [];
  let pendingBytes = 0;
  let flushTimer: Timer | undefined;

  const finish = () => {
    isOver = true;
    clearTimeout(flushTimer);
    for (const log of logs) log.close();
    logs.clear();
    for (const wake of [...writers, ...sleepers]) wake();
    onOver();
  };
  const wait = (among: Set<() => void>, ms?: number) =>
    new Promise<void>((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(() => wake(), ms);
      const wake = () => {
        clearTimeout(timer);
        among.delete(wake);
        resolve();
      };
      among.add(wake);
    });

  // ---- sending ------------------------------------------------------------------------------------

  const flush = () => {
    clearTimeout(flushTimer);
    flushTimer = undefined;
    if (pendingBytes === 0 || isOver) return;
    const bytes = encodeRecords(pending, pendingBytes);
    credit -= pendingBytes;
    pending = [];
    pendingBytes = 0;
    sink.data(bytes);
  };
  const hasRoom = () => credit - pendingBytes > 0;
  const write = async (records: readonly LogRecord[]) => {
    for (const record of records) {
      while (!hasRoom() && !isOver) {
        flush();
        await wait(writers);
      }
      if (isOver) return;
      pending.push(record);
      pendingBytes += recordBytes(record);
      if (pendingBytes >= BATCH_BYTES) flush();
    }
    flushTimer ??= setTimeout(flush, 0);
  };

  // ---- reading ------------------------------------------------------------------------------------

  const openLog = async (task: LogTask, number: number, follow: boolean) => {
    const { stdout, stderr, details } = open;
    const log = await openContainerLog({
      socketPath,
      task,
      number,
      stdout,
      stderr,
      details,
      follow,
    });
    if (log && isOver) log.close();
    else if (log) logs.add(log);
    return log;
  };
  const failed = (task: LogTask, error: unknown) => {
    if (!(error instanceof ClusterError)) throw error;
    reasons.push(`task ${task.id}: ${error.message}`);
  };

  /** One task's log as a source for merging, opened when it is first read. */
  const lazySource = (task: LogTask, number: number): RecordSource<LogRecord> => {
    let log: ContainerLog | undefined;
    let isOpened = false;
    return {
      next: async () => {
        try {
          if (!isOpened) log = await openLog(task, number, false);
          isOpened = true;
          const records = isOver ? undefined : await log?.next();
          if (!records && log) logs.delete(log);
          return records;
        } catch (error) {
          failed(task, error);
          return undefined;
        }
      },
    };
  };
  const readAll = async (tasks: LogTask[], firstNumber: number) => {
    for (let from = 0; from < tasks.length && !isOver; from += MERGED_MAX) {
      const sources = tasks
        .slice(from, from + MERGED_MAX)
        .map((task, at) => lazySource(task, firstNumber + from + at));
      for await (const records of mergeByTime(sources)) await write(records);
    }
  };

  /** Sends what the container says until it has said its last, over restarts of the engine. */
  const followTask = async (task: LogTask, number: number) => {
    let lastTime = "";
    let missingTries = 0;
    let isLastPass = false;
    while (!isOver) {
      try {
        const { tail: _, ...rest } = task;
        const again = lastTime === "" ? task : { ...rest, since: sinceOfTime(lastTime) };
        const log = await openLog(again, number, !isLastPass);
        if (log) {
          lastTime = await pass(log, lastTime);
          if (isLastPass) return;
          isLastPass = (await stateOf(task)) !== "running";
          if (isLastPass) continue;
        } else {
          missingTries += 1;
          if (isLastPass || missingTries >= MISSING_TRIES_MAX) return;
        }
      } catch (error) {
        // An engine that is away comes back; what it refuses, it refuses for good.
        if (!(error instanceof ClusterError) || error.code !== "unavailable") {
          failed(task, error);
          return;
        }
      }
      await wait(sleepers, RETRY_MS);
    }
  };
  /** Gives the time of the last record. */
  const pass = async (log: ContainerLog, sentUntil: string): Promise<string> => {
    let lastTime = sentUntil;
    try {
      for (let records = await log.next(); records && !isOver; records = await log.next()) {
        const fresh = records.filter((record) => {
          const time = recordTime(record);
          if (time > lastTime) lastTime = time;
          return time === "" || time > sentUntil;
        });
        await write(fresh);
      }
    } finally {
      logs.delete(log);
      log.close();
    }
    return lastTime;
  };
  const stateOf = (task: LogTask) => containerState(socketPath, task.container);

  // ---- the stream ---------------------------------------------------------------------------------

  const run = async (work: () => Promise<void>) => {
    activeCount += 1;
    await work();
    activeCount -= 1;
    if (activeCount > 0 || isOver) return;
    flush();
    const reason = reasons.slice(0, 10).join(", ");
    finish();
    sink.end({ taskCount, ...(reason === "" ? {} : { reason }) });
  };
  const more = (tasks: LogTask[]) => {
    if (isOver) return;
    const first = taskCount;
    const most = open.follow
      ? Math.min(FOLLOWED_MAX - activeCount, TASKS_PER_STREAM_MAX - first)
      : TASKS_PER_STREAM_MAX - first;
    const served = tasks.slice(0, Math.max(0, most));
    taskCount += tasks.length;
    if (served.length < tasks.length) {
      reasons.push(`${tasks.length - served.length} tasks on node ${open.nodeId} are too many`);
    }
    if (open.follow) {
      for (const [at, task] of served.entries()) {
        run(() => followTask(task, first + at)).catch(crash);
      }
      if (served.length === 0) run(async () => undefined).catch(crash);
    } else run(() => readAll(served, first)).catch(crash);
  };
  // The sink is not called before the caller has the stream. Nothing at first says "I am at it".
  queueMicrotask(() => {
    if (!isOver) sink.data(new Uint8Array(0));
    more(open.tasks);
  });

  return {
    more,
    grant: (bytes) => {
      credit += bytes;
      for (const wake of writers) wake();
    },
    close: () => {
      if (!isOver) finish();
    },
  };
}

const inspectSchema = z.object({ State: z.object({ Running: z.boolean() }) });

/** @throws {ClusterError} unavailable */
async function containerState(
  socketPath: string,
  container: string,
): Promise<"running" | "stopped" | "gone"> {
  const stream = await openEngineStream({
    socketPath,
    target: `/containers/${encodeURIComponent(container)}/json`,
    timeoutMs: INSPECT_TIMEOUT_MS,
  });
  try {
    const pieces: Uint8Array[] = [];
    for (;;) {
      const piece = await stream.read(INSPECT_TIMEOUT_MS);
      if (!piece) break;
      pieces.push(piece);
    }
    if (stream.status !== 200) return "gone";
    const parsed = inspectSchema.safeParse(JSON.parse(Buffer.concat(pieces).toString()));
    return parsed.success && parsed.data.State.Running ? "running" : "stopped";
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ClusterError("unavailable", "The Docker Engine's answer was cut off");
  } finally {
    stream.close();
  }
}

/** Throws in a turn of its own, so that the process ends as it does for every bug. */
function crash(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
