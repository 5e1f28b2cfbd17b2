/**
 * One node's part of a log stream, wherever its two ends are: the same four calls in this process
 * (source.ts), over the leader's session with the node, and over a connection to the leader. What
 * opens streams is a LogOpener; `openOver` makes one of a connection, `serveOver` serves one there.
 *
 * Invariants:
 * 1. A stream ends exactly once: by the node (`end`), by the reader (`close`), or with the
 *    connection. After that nothing of it is kept.
 * 2. No more bytes are on their way than were granted and not taken, wherever they are (one record
 *    beyond, which may be longer than what is left).
 * 3. Nothing is lost in a full queue: what a connection does not take is sent again, in order.
 */
import type { LogEnd, LogOpen, LogTask, RpcNote, RpcNotes } from "../../net/rpc/methods.ts";
import type { RpcConnection } from "../../net/rpc/peer.ts";
import { LOG_TASKS_MAX } from "../../net/rpc/schemas.ts";

export type LogSink = {
  /** Whole records. */
  data(bytes: Uint8Array): void;
  end(end: LogEnd): void;
};
export type LogStream = {
  more(tasks: LogTask[]): void;
  /** So many bytes were taken: as many more may come. */
  grant(bytes: number): void;
  /** Nothing is called any more. */
  close(): void;
};
/** Never calls the sink before it has returned. */
export type LogOpener = (open: LogOpen, sink: LogSink) => LogStream;

/** Streams that one connection may open: a log of all nodes is as many as there are nodes. */
export const STREAMS_PER_CONNECTION_MAX = 10_000;
const RESEND_MS = 50;
/** As far as the RPC takes texts. */
const REASON_LENGTH_MAX = 4_000;

/** A stream that ends at once, with the reason. */
export function endedStream(sink: LogSink, reason: string): LogStream {
  let isClosed = false;
  queueMicrotask(() => {
    if (!isClosed) sink.end({ taskCount: 0, reason });
  });
  return {
    more: () => undefined,
    grant: () => undefined,
    close: () => {
      isClosed = true;
    },
  };
}

/** Opens streams of the peer. When the connection ends, so do they, with `lostReason`. */
export function openOver(
  connection: RpcConnection,
  lostReason: (open: LogOpen) => string,
): LogOpener {
  const send = noteSender(connection);
  const streams = new Map<number, { open: LogOpen; sink: LogSink }>();
  let nextStream = 1;
  let isLost = false;
  connection.onNote("logs-data", ({ stream, data }) => streams.get(stream)?.sink.data(data));
  connection.onNote("logs-end", ({ stream, ...end }) => {
    const found = streams.get(stream);
    streams.delete(stream);
    found?.sink.end(end);
  });
  connection.onClose(() => {
    isLost = true;
    const lost = [...streams.values()];
    streams.clear();
    for (const { open, sink } of lost) sink.end({ taskCount: 0, reason: lostReason(open) });
  });
  return (open, sink) => {
    if (isLost) return endedStream(sink, lostReason(open));
    const stream = nextStream++;
    streams.set(stream, { open, sink });
    const more = (tasks: LogTask[]) => {
      for (let from = 0; from < tasks.length; from += LOG_TASKS_MAX) {
        send("logs-more", { stream, tasks: tasks.slice(from, from + LOG_TASKS_MAX) });
      }
    };
    send("logs-open", { stream, open: { ...open, tasks: open.tasks.slice(0, LOG_TASKS_MAX) } });
    more(open.tasks.slice(LOG_TASKS_MAX));
    return {
      more: (tasks) => {
        if (streams.has(stream)) more(tasks);
      },
      grant: (bytes) => {
        if (streams.has(stream)) send("logs-grant", { stream, bytes });
      },
      close: () => {
        if (streams.delete(stream)) send("logs-close", { stream });
      },
    };
  };
}

/** Lets the peer open streams of `opener`. They are closed with the connection. */
export function serveOver(connection: RpcConnection, opener: LogOpener): void {
  const send = noteSender(connection);
  const streams = new Map<number, LogStream>();
  connection.onNote("logs-open", ({ stream, open }) => {
    if (streams.has(stream)) return;
    if (streams.size >= STREAMS_PER_CONNECTION_MAX) {
      send("logs-end", {
        stream,
        taskCount: 0,
        reason: `${streams.size} log streams are open on this connection already`,
      });
      return;
    }
    const sink: LogSink = {
      data: (data) => send("logs-data", { stream, data }),
      end: (end) => {
        streams.delete(stream);
        const reason = end.reason?.slice(0, REASON_LENGTH_MAX);
        send("logs-end", {
          stream,
          taskCount: end.taskCount,
          ...(reason === undefined ? {} : { reason }),
        });
      },
    };
    streams.set(stream, opener(open, sink));
  });
  connection.onNote("logs-more", ({ stream, tasks }) => streams.get(stream)?.more(tasks));
  connection.onNote("logs-grant", ({ stream, bytes }) => streams.get(stream)?.grant(bytes));
  connection.onNote("logs-close", ({ stream }) => {
    streams.get(stream)?.close();
    streams.delete(stream);
  });
  connection.onClose(() => {
    for (const stream of streams.values()) stream.close();
    streams.clear();
  });
}

/**
 * Notes that are sent again, in order, until the connection's queue takes them. What waits is
 * bounded by the windows of the streams.
 */
function noteSender(connection: RpcConnection) {
  let waiting: (() => boolean)[] = [];
  let timer: Timer | undefined;
  let isClosed = false;
  const flush = () => {
    timer = undefined;
    while (waiting[0]?.() === true) waiting.shift();
    if (waiting.length > 0 && !isClosed) timer = setTimeout(flush, RESEND_MS);
  };
  connection.onClose(() => {
    isClosed = true;
    waiting = [];
    clearTimeout(timer);
  });
  return <N extends RpcNote>(note: N, body: RpcNotes[N]["body"]): void => {
    if (isClosed) return;
    waiting.push(() => connection.note(note, body));
    if (waiting.length === 1) flush();
  };
}
