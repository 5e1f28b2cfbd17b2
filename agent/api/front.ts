/**
 * The docker-compatible unix socket: a front of raw bytes. It reads the heads of requests, sends
 * those that are ours (paths.ts) to the inner server and all others to the local engine, and passes
 * every byte on as it came: hijacked connections (attach, exec, BuildKit sessions), chunked uploads,
 * half-closed streams, `Expect: 100-continue`. An HTTP client in between could not do the first.
 *
 * Owned here: one client connection with at most one connection to each upstream. Neighbours: what
 * is ours, paths.ts; where messages end, http-framing.ts; answers, app.ts.
 *
 * Invariants:
 * 1. One exchange at a time on a client connection: the next head is held until the answer before
 *    it has ended, so that answers of two upstreams keep the order of their requests.
 * 2. Bytes are never changed, and never buffered beyond the sockets' own marks: a slow reader
 *    pauses the writer on its other side.
 * 3. A client that ends inside its request gets no more than the answer that has begun, or a refusal.
 * 4. The stream is raw only after the upstream said so (101, or an answer without length to a call
 *    that hijacks): a refused upgrade leaves the connection usable for the next request.
 */
import { chmod, chown, lstat, readFile, unlink } from "node:fs/promises";
import net from "node:net";
import { ClusterError } from "../../core/errors.ts";
import {
  type BodyScanner,
  createBodyScanner,
  createHeadReader,
  HEAD_BYTES_MAX,
  parseRequestHead,
  parseResponseHead,
} from "./http-framing.ts";
import { canHijack, type UpstreamName, upstreamOf } from "./paths.ts";

/** Client connections of a listener at once; more are answered 503. */
export const CONNECTIONS_MAX = 4096;
/** How long a refused client may still send before it is cut off. */
const REFUSED_LINGER_MS = 5_000;
/** Group and owner may connect; others not. As dockerd's socket. */
const SOCKET_MODE = 0o660;

/** Who answers what the clients of a front ask. */
export type FrontUpstreams = {
  /** The inner server (serveApp). */
  innerSocketPath: string;
  /** The server of long answers (serveStreams); absent: the inner server gives them too. */
  streamSocketPath?: string;
  /** As of now; absent: never. */
  isManager?(): boolean;
  /** The local Docker Engine. */
  engineSocket: string;
};
export type FrontOptions = FrontUpstreams & {
  /** Where docker clients connect. */
  socketPath: string;
};

/**
 * Listens on `socketPath`; a socket file that nobody serves is replaced.
 * @throws {ClusterError} in-use when another process serves that path, or it is no socket.
 */
export async function startFront(options: FrontOptions): Promise<{ close(): Promise<void> }> {
  await removeStaleSocket(options.socketPath);
  const clients = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (client) => {
    clients.add(client);
    client.on("close", () => clients.delete(client));
    serveClient(client, options, clients.size > CONNECTIONS_MAX);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.socketPath, resolve);
  });
  // Under the usual umask nobody but root can connect before these two are done.
  const gid = await dockerGroupId();
  if (gid !== undefined && process.getuid?.() === 0) await chown(options.socketPath, 0, gid);
  await chmod(options.socketPath, SOCKET_MODE);
  return {
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const client of clients) client.destroy();
      await closed;
      await unlink(options.socketPath).catch(ignoreMissing);
    },
  };
}

type Exchange = {
  upstream: net.Socket;
  method: string;
  mayHijack: boolean;
  hasAnswerBegun: boolean;
  isRequestDone: boolean;
  isAnswerDone: boolean;
};
/**
 * What the next bytes of the client are. `waiting`: held until the answer says if they are raw.
 * `closing`: nothing; our side of the connection has ended and what still comes is dropped.
 */
type Stage = "head" | "body" | "waiting" | "raw" | "closing";

/** Serves one connection until its end; `isOverLimit`: by a refusal. */
export function serveClient(
  client: net.Socket,
  options: FrontUpstreams,
  isOverLimit: boolean,
): void {
  const paths: Record<UpstreamName, string> = {
    engine: options.engineSocket,
    inner: options.innerSocketPath,
    streams: options.streamSocketPath ?? options.innerSocketPath,
  };
  const upstreams = new Map<UpstreamName, net.Socket>();
  const requestHeads = createHeadReader();
  let stage: Stage = "head";
  let requestBody: BodyScanner | undefined;
  let exchange: Exchange | undefined;
  let input: Uint8Array = new Uint8Array(0);
  let hasClientEnded = false;
  let isClientPaused = false;
  // Answers: read per upstream connection, but only the current one can be in an answer.
  let answerHeads = createHeadReader();
  let answerBody: BodyScanner | undefined;

  const pauseClient = () => {
    if (isClientPaused) return;
    isClientPaused = true;
    client.pause();
  };
  const resumeClient = () => {
    if (!isClientPaused) return;
    isClientPaused = false;
    client.resume();
  };

  /** Ends our side after the bytes written so far. Unread input at close() would be a reset there. */
  const endClient = (lastWords?: string) => {
    stage = "closing";
    input = new Uint8Array(0);
    if (lastWords === undefined) client.end();
    else client.end(lastWords);
    resumeClient();
  };

  const refuse = (status: number, message: string) => {
    if (stage === "closing") return;
    exchange = undefined;
    for (const upstream of upstreams.values()) upstream.destroy();
    upstreams.clear();
    endClient(problemAnswer(status, message));
    const timer = setTimeout(() => client.destroy(), REFUSED_LINGER_MS);
    client.once("close", () => clearTimeout(timer));
  };

  const send = (upstream: net.Socket, bytes: Uint8Array) => {
    if (bytes.length > 0 && !upstream.write(bytes)) pauseClient();
  };

  const finishIfDone = () => {
    if (!exchange?.isRequestDone || !exchange.isAnswerDone) return;
    exchange = undefined;
    if (stage === "waiting") stage = "head";
    resumeClient();
    pump();
  };

  const becomeRaw = () => {
    stage = "raw";
    resumeClient();
    pump();
  };

  /** Follows the answer's bytes; they are already on their way to the client. */
  const trackAnswer = (bytes: Uint8Array) => {
    let offset = 0;
    while (offset < bytes.length) {
      if (stage === "raw" || !exchange || exchange.isAnswerDone) return;
      if (!answerBody) {
        const { head, end } = answerHeads.push(bytes, offset);
        offset = end;
        if (!head) {
          if (answerHeads.heldBytes() > HEAD_BYTES_MAX) client.destroy();
          return;
        }
        const answer = parseResponseHead(head, exchange.method);
        if (!answer) {
          // Not HTTP/1: what follows cannot be told apart, so the connection ends with it.
          answerBody = createBodyScanner({ type: "until-close" });
          continue;
        }
        if (answer.status === 101) return becomeRaw();
        if (answer.status < 200) continue;
        if (answer.body.type === "until-close" && exchange.mayHijack) return becomeRaw();
        answerBody = createBodyScanner(answer.body);
        if (answer.body.type !== "none" && !isEmpty(answer.body)) continue;
      } else {
        const { end, isDone, isMalformed } = answerBody.scan(bytes, offset);
        offset = end;
        if (isMalformed) answerBody = createBodyScanner({ type: "until-close" });
        if (!isDone) continue;
      }
      answerBody = undefined;
      exchange.isAnswerDone = true;
      finishIfDone();
      return;
    }
  };

  const connect = (name: UpstreamName): net.Socket => {
    const existing = upstreams.get(name);
    if (existing) return existing;
    const upstream = net.connect({ path: paths[name], allowHalfOpen: true });
    upstreams.set(name, upstream);
    const isCurrent = () => exchange?.upstream === upstream;
    upstream.on("data", (bytes: Uint8Array) => {
      if (!isCurrent()) return;
      if (exchange) exchange.hasAnswerBegun = true;
      if (!client.write(bytes)) upstream.pause();
      trackAnswer(bytes);
    });
    upstream.on("drain", () => {
      if (stage !== "waiting") resumeClient();
    });
    upstream.on("end", () => {
      if (upstreams.get(name) === upstream) upstreams.delete(name);
      if (stage === "raw") {
        client.end();
        return;
      }
      upstream.end();
      // An idle connection that its server has closed is as if the server had closed ours; one that
      // waits beside the current one is just forgotten.
      if (isCurrent() || (exchange === undefined && lastUpstream === upstream)) endClient();
    });
    upstream.on("error", (error: NodeJS.ErrnoException) => {
      if (upstreams.get(name) === upstream) upstreams.delete(name);
      if (!isCurrent()) return;
      if (exchange?.hasAnswerBegun) client.destroy();
      else refuse(...upstreamProblem(name, paths[name], error));
    });
    upstream.on("close", () => {
      if (upstreams.get(name) === upstream) upstreams.delete(name);
      if (isCurrent()) endClient();
    });
    return upstream;
  };
  let lastUpstream: net.Socket | undefined;

  const beginExchange = (head: Uint8Array) => {
    const request = parseRequestHead(head);
    if (!request) {
      refuse(400, "Cannot read the request: its head is not valid HTTP/1.1");
      return;
    }
    const name = upstreamOf(request.method, request.target, options.isManager?.() ?? false);
    const upstream = connect(name);
    lastUpstream = upstream;
    exchange = {
      upstream,
      method: request.method,
      mayHijack: request.wantsUpgrade || canHijack(request.method, request.target),
      hasAnswerBegun: false,
      isRequestDone: false,
      isAnswerDone: false,
    };
    answerHeads = createHeadReader();
    answerBody = undefined;
    requestBody = createBodyScanner(request.body);
    stage = "body";
    send(upstream, head);
    if (request.body.type === "none") endRequest();
  };

  const endRequest = () => {
    if (!exchange) return;
    exchange.isRequestDone = true;
    requestBody = undefined;
    stage = exchange.mayHijack && !exchange.isAnswerDone ? "waiting" : "head";
    finishIfDone();
  };

  /** The client has ended in the middle of its request: nobody is to wait for the rest of it. */
  const endBrokenOff = (broken: Exchange) => {
    if (broken.hasAnswerBegun) {
      broken.isRequestDone = true;
      stage = "waiting";
      finishIfDone();
    } else refuse(400, "Cannot read the request: it ends before its body does");
  };

  /** Takes what the client has sent as far as the stage allows; the rest waits with the client paused. */
  function pump(): void {
    while (input.length > 0) {
      if (stage === "closing") {
        input = new Uint8Array(0);
      } else if (stage === "raw") {
        const bytes = input;
        input = new Uint8Array(0);
        if (exchange) send(exchange.upstream, bytes);
      } else if (stage === "body" && requestBody && exchange) {
        const { end, isDone, isMalformed } = requestBody.scan(input, 0);
        if (isMalformed) {
          refuse(400, "Cannot read the request: its chunked body is malformed");
          return;
        }
        const bytes = input.subarray(0, end);
        input = input.subarray(end);
        send(exchange.upstream, bytes);
        if (isDone) endRequest();
      } else if (stage === "waiting" || exchange) {
        pauseClient();
        return;
      } else {
        const { head, end } = requestHeads.push(input, 0);
        input = input.subarray(end);
        if (head) beginExchange(head);
        else if (requestHeads.heldBytes() > HEAD_BYTES_MAX) {
          refuse(431, `Cannot read the request: its head is longer than ${HEAD_BYTES_MAX} bytes`);
        }
      }
    }
    if (!hasClientEnded || stage === "closing") return;
    if (!exchange) client.end();
    else if (stage === "body") endBrokenOff(exchange);
    // The engine is told, as it would be without us; the inner server would take it for an abort.
    else if (stage === "raw" || exchange.upstream === upstreams.get("engine")) {
      exchange.upstream.end();
    }
  }

  client.on("data", (bytes: Uint8Array) => {
    // Bytes can still come in the moment after pause(); they queue behind those that are held.
    input = input.length === 0 ? bytes : Buffer.concat([input, bytes]);
    pump();
  });
  client.on("drain", () => {
    for (const upstream of upstreams.values()) upstream.resume();
  });
  client.on("end", () => {
    hasClientEnded = true;
    pump();
  });
  client.on("error", () => client.destroy());
  client.on("close", () => {
    for (const upstream of upstreams.values()) upstream.destroy();
    if (exchange) exchange.upstream.destroy();
  });
  if (isOverLimit) {
    refuse(503, `Cannot serve the connection: ${CONNECTIONS_MAX} connections are open already`);
  }
}

function isEmpty(body: { type: string; bytes?: number }): boolean {
  return body.type === "length" && body.bytes === 0;
}

/** What a client is told when the server behind the front cannot be reached. */
function upstreamProblem(
  name: UpstreamName,
  path: string,
  error: NodeJS.ErrnoException,
): [number, string] {
  const reason = error.code ?? error.message;
  if (name !== "engine") {
    return [503, `Cannot reach shoal's API server at unix://${path}: ${reason}. Is it starting?`];
  }
  return [
    503,
    `Cannot connect to the Docker Engine at unix://${path}: ${reason}. Is dockerd running on this node?`,
  ];
}

function problemAnswer(status: number, message: string): string {
  const body = `${JSON.stringify({ message })}\n`;
  const phrase = { 400: "Bad Request", 431: "Request Header Fields Too Large" }[status];
  return [
    `HTTP/1.1 ${status} ${phrase ?? "Service Unavailable"}`,
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "Connection: close",
    "",
    body,
  ].join("\r\n");
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(ignoreMissing);
  if (!found) return;
  if (!found.isSocket()) {
    throw new ClusterError(
      "in-use",
      `Cannot listen on "${path}": a file that is no socket is there`,
    );
  }
  const isServed = await new Promise<boolean>((resolve) => {
    const probe = net.connect({ path });
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
  if (isServed) {
    throw new ClusterError("in-use", `Cannot listen on "${path}": another process serves it`);
  }
  await unlink(path).catch(ignoreMissing);
}

async function dockerGroupId(): Promise<number | undefined> {
  const groups = await readFile("/etc/group", "utf8").catch(ignoreMissing);
  const gid = /^docker:[^:]*:(\d+):/m.exec(groups ?? "")?.[1];
  return gid === undefined ? undefined : Number(gid);
}

function ignoreMissing(error: unknown): undefined {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
  throw error;
}
