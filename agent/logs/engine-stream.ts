/**
 * A GET to the local engine whose answer has no end: logs, events. Over a socket of its own and
 * HTTP/1.0, so that the body comes as it is, without chunks, until the engine closes. fetch() would
 * do it too, but an agent may follow hundreds of logs, and fetch has 256 connections for everything.
 *
 * Back-pressure: what is not taken stays in the socket, beyond READ_AHEAD_BYTES.
 */
import net from "node:net";
import { ClusterError } from "../../core/errors.ts";
import { createHeadReader, HEAD_BYTES_MAX, parseResponseHead } from "../api/http-framing.ts";

const READ_AHEAD_BYTES = 64 * 1024;

export type EngineStream = {
  status: number;
  contentType: string | undefined;
  /**
   * The next piece; undefined at the end.
   * @throws {ClusterError} unavailable when the connection broke; deadline after `idleMs` without any.
   */
  read(idleMs?: number): Promise<Uint8Array | undefined>;
  close(): void;
};

export type EngineStreamOptions = {
  socketPath: string;
  /** Path and query. */
  target: string;
  headers?: Record<string, string>;
  /** For the answer's head. */
  timeoutMs: number;
};

/** @throws {ClusterError} unavailable when the engine cannot be reached or does not answer in time. */
export function openEngineStream(options: EngineStreamOptions): Promise<EngineStream> {
  const { socketPath, target, timeoutMs } = options;
  const socket = net.connect({ path: socketPath });
  const head = createHeadReader();
  let answer: { status: number; contentType: string | undefined } | undefined;
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let hasEnded = false;
  let failure: ClusterError | undefined;
  let wake: (() => void) | undefined;
  const opened = Promise.withResolvers<EngineStream>();

  const away = (reason: string) =>
    new ClusterError(
      "unavailable",
      `Cannot connect to the Docker Engine at unix://${socketPath}: ${reason}. Is dockerd running on this node?`,
      { retry: "later" },
    );
  const timer = setTimeout(() => {
    fail(`no answer in ${timeoutMs} ms`);
    socket.destroy();
  }, timeoutMs);
  const fail = (reason: string) => {
    clearTimeout(timer);
    failure ??= away(reason);
    hasEnded = true;
    opened.reject(failure);
    wake?.();
  };
  const hold = (bytes: Uint8Array) => {
    if (bytes.length === 0) return;
    held.push(bytes);
    heldBytes += bytes.length;
    if (heldBytes >= READ_AHEAD_BYTES) socket.pause();
    wake?.();
  };

  socket.on("data", (bytes: Uint8Array) => {
    if (answer) {
      hold(bytes);
      return;
    }
    const found = head.push(bytes, 0);
    if (!found.head) {
      if (head.heldBytes() > HEAD_BYTES_MAX) {
        fail("its answer's head is too long");
        socket.destroy();
      }
      return;
    }
    const parsed = parseResponseHead(found.head, "GET");
    if (!parsed) {
      fail("its answer is not HTTP");
      socket.destroy();
      return;
    }
    clearTimeout(timer);
    const text = Buffer.from(found.head).toString("latin1");
    answer = {
      status: parsed.status,
      contentType: /^content-type:[ \t]*(.*?)[ \t]*$/im.exec(text)?.[1],
    };
    opened.resolve(stream(answer));
    hold(bytes.subarray(found.end));
  });
  socket.on("error", (error: NodeJS.ErrnoException) => fail(error.code ?? error.message));
  const end = () => {
    if (!answer) fail("it closed the connection");
    hasEnded = true;
    wake?.();
  };
  socket.on("end", end);
  socket.on("close", end);
  const fields = Object.entries(options.headers ?? {}).map(([name, value]) => `${name}: ${value}`);
  socket.write([`GET ${target} HTTP/1.0`, "Host: docker", ...fields, "", ""].join("\r\n"));

  const stream = (head: { status: number; contentType: string | undefined }): EngineStream => ({
    ...head,
    read: async (idleMs) => {
      if (held.length === 0 && !hasEnded) await waitMore(idleMs);
      if (held.length === 0) {
        if (failure) throw failure;
        return undefined;
      }
      const bytes = held.length === 1 ? held[0] : Buffer.concat(held);
      held = [];
      heldBytes = 0;
      socket.resume();
      return bytes;
    },
    close: () => {
      hasEnded = true;
      held = [];
      socket.destroy();
      wake?.();
    },
  });
  const waitMore = (idleMs: number | undefined) =>
    new Promise<void>((resolve) => {
      const idle =
        idleMs === undefined
          ? undefined
          : setTimeout(() => {
              fail(`it has sent nothing for ${idleMs} ms`);
              socket.destroy();
            }, idleMs);
      wake = () => {
        clearTimeout(idle);
        wake = undefined;
        resolve();
      };
    });
  return opened.promise;
}
