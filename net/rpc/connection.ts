/**
 * One end of an RPC connection over a TLS socket; the same code at both ends. Owns request ids,
 * deadlines, the write queue and the proof of life; who the peer is and what it may call is given.
 *
 * Invariants:
 * 1. Every request ends: answered, refused, past its deadline, or unavailable when we close.
 * 2. Messages arrive in the order in which they were queued; notes are dropped whole or sent.
 * 3. No queue grows without bound: pending requests, requests served at once, bytes to write. A
 *    peer that takes nothing loses notes first, then its connection.
 * 4. A peer that sends nothing at all for SILENT_TICKS_MAX ticks is gone (cut cable, stopped
 *    machine). Each side sends at least a ping per idle tick. Ticks are counted, not read from a
 *    clock: when we ourselves stood still, the peer is not blamed.
 * 5. Nothing a peer sends throws out of here.
 *
 * It does not reconnect (pool.ts) and resends nothing: a request cut off may or may not have run.
 */
import type { TLSSocket } from "node:tls";
import { AssertionError } from "../../core/assert.ts";
import { ClusterError, type ErrorBody, fromErrorBody, toErrorBody } from "../../core/errors.ts";
import { PROTOCOL_VERSION, type RpcMessage, decodeMessage, encodeMessage } from "./codec.ts";
import { FRAME_BYTES_MAX, FRAME_HEAD_BYTES, createFrameDecoder, encodeFrameHead } from "./frame.ts";
import type { RpcMethod, RpcMethods, RpcNote, RpcNotes } from "./methods.ts";
import type { PeerIdentity, RpcConnection } from "./peer.ts";
import {
  METHOD_ROLES,
  NOTE_ROLES,
  NOTE_SCHEMAS,
  PARAMS_SCHEMAS,
  isRpcMethod,
  isRpcNote,
} from "./schemas.ts";

/** Answers of this end. A method without handler is answered not-implemented. */
export type RpcHandlers = {
  [M in RpcMethod]?: (
    params: RpcMethods[M]["params"],
    connection: RpcConnection,
  ) => Promise<RpcMethods[M]["result"]>;
};
export type RpcNoteHandlers = {
  [N in RpcNote]?: (body: RpcNotes[N]["body"], connection: RpcConnection) => void;
};

/** All that a node with an expired certificate may ask. */
const METHOD_OF_EXPIRED: RpcMethod = "renew-certificate";
export const REQUEST_TIMEOUT_MS = 10_000;
/** Own requests waiting for an answer; more are refused as busy. */
export const PENDING_MAX = 1_000;
/** The peer's requests being served; more are answered busy. Without certificate: a few. */
export const SERVING_MAX = 1_000;
export const SERVING_UNAUTHENTICATED_MAX = 4;
/** Bytes waiting to be written above which notes are dropped and requests refused as busy. */
export const QUEUE_BYTES_MAX = 16 * 1024 * 1024;
/** Answers are sent even then, up to here; beyond it the peer is not reading and is closed. */
export const QUEUE_BYTES_LIMIT = 2 * FRAME_BYTES_MAX;
/** A join request is some kilobytes. */
const FRAME_BYTES_MAX_UNAUTHENTICATED = 64 * 1024;
const WRITE_BATCH_BYTES = 256 * 1024;
export const TICK_MS = 1_000;
/** Closed after 5 to 6 s of silence. */
export const SILENT_TICKS_MAX = 5;
/** How long a closing side waits until its last bytes are taken. */
const LINGER_MS = 1_000;

export type ConnectionOptions = {
  socket: TLSSocket;
  peer: PeerIdentity;
  side: "client" | "server";
  handlers?: RpcHandlers;
  notes?: RpcNoteHandlers;
  /** Asked before each request and note; throws the refusal. */
  admit?: (peer: PeerIdentity) => void;
  /** Failures that are no refusals: bugs in handlers. */
  onHandlerError?: (method: string, error: unknown) => void;
  tickMs?: number;
};

/** A connection and what only its owner (server.ts, client.ts) may do with it. */
export type OwnedConnection = {
  connection: RpcConnection;
  /** Resolves with the peer's hello; rejects with why there is none. */
  opened: Promise<void>;
  /** Closes after telling the peer why. */
  refuse(error: ClusterError): void;
};

type Waiter = {
  resolve(result: unknown): void;
  reject(error: Error): void;
  timer: Timer;
};

/**
 * Takes over a socket whose TLS handshake is done and begins at once: the client's hello goes out,
 * and silence is counted. `peer` decides which methods and sizes are allowed.
 */
export function createConnection(options: ConnectionOptions): OwnedConnection {
  const { socket, peer, side, handlers = {}, notes = {} } = options;
  const pending = new Map<number, Waiter>();
  const closeHandlers: ((reason: string) => void)[] = [];
  /** Each is of its note, whose schema the body has passed. */
  const noteHandlers = new Map<RpcNote, ((body: unknown) => void)[]>();
  const decoder = createFrameDecoder(
    peer.nodeId === undefined ? FRAME_BYTES_MAX_UNAUTHENTICATED : FRAME_BYTES_MAX,
  );
  let queue: Uint8Array[] = [];
  let queueBytes = 0;
  let isFlushPlanned = false;
  let isBlocked = false;
  let nextId = 1;
  let servingCount = 0;
  let silentTicks = 0;
  let isIdle = true;
  let isOpen = false;
  let closedReason: string | undefined;
  const opening = Promise.withResolvers<void>();
  // Nobody has to wait for it.
  opening.promise.catch(() => undefined);

  // ---- writing ----------------------------------------------------------------------------------

  const canWrite = () => !isBlocked && closedReason === undefined;
  const flush = () => {
    isFlushPlanned = false;
    while (queue.length > 0 && canWrite()) {
      let count = 0;
      let bytes = 0;
      while (count < queue.length && bytes < WRITE_BATCH_BYTES)
        bytes += queue[count++]?.length ?? 0;
      const batch = count === queue.length ? queue : queue.slice(0, count);
      queue = count === queue.length ? [] : queue.slice(count);
      queueBytes -= bytes;
      // False means "taken, but wait": the socket says when it has drained.
      isBlocked = !socket.write(Buffer.concat(batch, bytes));
    }
  };
  const enqueue = (payload: Uint8Array) => {
    queue.push(encodeFrameHead(payload.length), payload);
    queueBytes += FRAME_HEAD_BYTES + payload.length;
    isIdle = false;
    if (isFlushPlanned || isBlocked) return;
    isFlushPlanned = true;
    // What is queued in one turn goes out in one write.
    queueMicrotask(flush);
  };
  // One payload may pass the bound when nothing waits, or a large one could never be sent.
  const hasRoom = (payload: Uint8Array) =>
    queueBytes === 0 || queueBytes + payload.length <= QUEUE_BYTES_MAX;
  const send = (message: RpcMessage) => enqueue(encodeMessage(message));
  const sendError = (id: number, error: ErrorBody) => send({ kind: "error", id, error });

  // ---- closing ----------------------------------------------------------------------------------

  const close = (reason: string, error?: ClusterError) => {
    if (closedReason !== undefined) return;
    flush();
    closedReason = reason;
    clearInterval(ticker);
    queue = [];
    queueBytes = 0;
    const failure = error ?? new ClusterError("unavailable", `The connection ended: ${reason}`);
    opening.reject(failure);
    for (const waiter of pending.values()) {
      clearTimeout(waiter.timer);
      waiter.reject(failure);
    }
    pending.clear();
    if (isBlocked || socket.destroyed) socket.destroy();
    else {
      socket.end();
      setTimeout(() => socket.destroy(), LINGER_MS).unref();
    }
    for (const handler of closeHandlers) handler(reason);
  };
  const refuse = (error: ClusterError) => {
    if (closedReason !== undefined) return;
    send({ kind: "bye", error: toErrorBody(error) });
    close(error.message, error);
  };

  // ---- serving ----------------------------------------------------------------------------------

  const checkRole = (name: string, role: RpcMethods[RpcMethod]["role"]) => {
    if (role === "any") return;
    if (peer.nodeId === undefined) {
      const isExpired = peer.expiredNodeId !== undefined;
      if (isExpired && name === METHOD_OF_EXPIRED) return;
      const needed = isExpired ? "a certificate that has not expired" : "a node certificate";
      throw new ClusterError("unauthenticated", `"${name}" needs ${needed}`);
    }
    if (role === "manager" && peer.role !== "manager") {
      throw new ClusterError(
        "forbidden",
        `"${name}" needs a manager's certificate, node ${peer.nodeId} has a ${peer.role}'s`,
      );
    }
    options.admit?.(peer);
  };

  const call = async <M extends RpcMethod>(method: M, params: unknown) => {
    checkRole(method, METHOD_ROLES[method]);
    const handler = handlers[method];
    if (!handler) {
      throw new ClusterError("not-implemented", `"${method}" is not served here`);
    }
    const parsed = PARAMS_SCHEMAS[method].safeParse(params);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      throw new ClusterError(
        "invalid-argument",
        `Cannot read the parameters of "${method}": ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`,
      );
    }
    return handler(parsed.data, connection);
  };

  const serve = async (id: number, method: string, params: unknown) => {
    try {
      if (!isRpcMethod(method)) {
        throw new ClusterError("not-implemented", `"${method.slice(0, 64)}" is no method`);
      }
      const result = await call(method, params);
      if (closedReason !== undefined) return;
      const payload = encodeMessage({ kind: "answer", id, result });
      if (payload.length > FRAME_BYTES_MAX) {
        throw new ClusterError("internal", `The answer has ${payload.length} bytes, too many`);
      }
      enqueue(payload);
    } catch (error) {
      if (!(error instanceof ClusterError)) options.onHandlerError?.(method, error);
      if (closedReason === undefined) sendError(id, toErrorBody(error));
      // A broken invariant is for nobody to catch.
      if (error instanceof AssertionError) crash(error);
    } finally {
      servingCount--;
    }
    if (queueBytes > QUEUE_BYTES_LIMIT) close("the peer does not read its answers");
  };

  const onRequest = (id: number, method: string, params: unknown) => {
    const most = peer.nodeId === undefined ? SERVING_UNAUTHENTICATED_MAX : SERVING_MAX;
    if (servingCount >= most) {
      sendError(id, {
        code: "busy",
        message: `This connection has ${servingCount} requests under way, at most ${most} are allowed`,
      });
      if (queueBytes > QUEUE_BYTES_LIMIT) close("the peer does not read its answers");
      return;
    }
    servingCount++;
    serve(id, method, params).catch(crash);
  };

  const deliverNote = (note: RpcNote, body: unknown) => {
    try {
      checkRole(note, NOTE_ROLES[note]);
    } catch (error) {
      // One-way: there is nobody to tell. It is dropped.
      if (error instanceof ClusterError) return;
      throw error;
    }
    // Consensus sends thousands a second, and checks the bytes itself.
    const parsed = isRaftBody(note, body) ? { data: body } : NOTE_SCHEMAS[note].safeParse(body);
    if (!parsed.data) return;
    for (const handler of noteHandlers.get(note) ?? []) handler(parsed.data);
  };

  // ---- reading ----------------------------------------------------------------------------------

  const onHello = (version: number) => {
    if (version !== PROTOCOL_VERSION) {
      refuse(
        new ClusterError(
          "failed-precondition",
          `Cannot talk to a node of protocol ${version}, this one has ${PROTOCOL_VERSION}: bring both to one version of shoal`,
        ),
      );
      return;
    }
    if (isOpen) {
      close("a second hello");
      return;
    }
    isOpen = true;
    if (side === "server") send({ kind: "hello", version: PROTOCOL_VERSION });
    opening.resolve();
  };

  const settle = (id: number, act: (waiter: Waiter) => void) => {
    const waiter = pending.get(id);
    // Absent after its deadline.
    if (!waiter) return;
    pending.delete(id);
    clearTimeout(waiter.timer);
    act(waiter);
  };

  const onMessage = (message: RpcMessage) => {
    if (!isOpen && message.kind !== "hello" && message.kind !== "bye" && message.kind !== "ping") {
      close(`"${message.kind}" before hello`);
      return;
    }
    switch (message.kind) {
      case "hello":
        onHello(message.version);
        return;
      case "request":
        onRequest(message.id, message.method, message.params);
        return;
      case "answer":
        settle(message.id, (waiter) => waiter.resolve(message.result));
        return;
      case "error":
        settle(message.id, (waiter) => waiter.reject(fromErrorBody(message.error)));
        return;
      case "note":
        if (isRpcNote(message.note)) deliverNote(message.note, message.body);
        return;
      case "ping":
        return;
      case "bye":
        close(message.error.message, fromErrorBody(message.error));
        return;
    }
  };

  socket.on("data", (chunk: Uint8Array) => {
    silentTicks = 0;
    let payloads: Uint8Array[];
    try {
      payloads = decoder.push(chunk);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      close(error.message);
      return;
    }
    for (const payload of payloads) {
      if (closedReason !== undefined) return;
      const message = decodeMessage(payload);
      if (message) onMessage(message);
      else close("a malformed message");
    }
  });
  socket.on("drain", () => {
    isBlocked = false;
    flush();
  });
  socket.on("error", (error) => close(describe(error)));
  socket.on("end", () => close("the peer closed it"));
  socket.on("close", () => close("the peer closed it"));

  const ticker = setInterval(() => {
    if (silentTicks >= SILENT_TICKS_MAX) {
      close(`the peer was silent for ${silentTicks} s`);
      socket.destroy();
      return;
    }
    silentTicks++;
    if (isIdle) send({ kind: "ping" });
    isIdle = true;
  }, options.tickMs ?? TICK_MS);

  if (side === "client") send({ kind: "hello", version: PROTOCOL_VERSION });
  // Its events may be over already; nobody would tell us again.
  if (socket.destroyed) queueMicrotask(() => close("the peer closed it"));

  // ---- what the owner sees ------------------------------------------------------------------------

  const request = <M extends RpcMethod>(
    method: M,
    params: RpcMethods[M]["params"],
    { timeoutMs = REQUEST_TIMEOUT_MS }: { timeoutMs?: number } = {},
  ) =>
    new Promise<RpcMethods[M]["result"]>((resolve, reject) => {
      if (closedReason !== undefined) {
        reject(new ClusterError("unavailable", `The connection ended: ${closedReason}`));
        return;
      }
      const id = nextId++;
      const payload = encodeMessage({ kind: "request", id, method, params });
      if (pending.size >= PENDING_MAX || !hasRoom(payload)) {
        reject(
          new ClusterError(
            "busy",
            `The connection to ${peer.address} has ${pending.size} requests and ${queueBytes} bytes waiting`,
            { retry: "later" },
          ),
        );
        return;
      }
      if (payload.length > FRAME_BYTES_MAX) {
        reject(
          new ClusterError(
            "invalid-argument",
            `Cannot send "${method}": ${payload.length} bytes, at most ${FRAME_BYTES_MAX} are possible`,
          ),
        );
        return;
      }
      const timer = setTimeout(() => {
        pending.delete(id);
        reject(
          new ClusterError(
            "deadline",
            `${peer.nodeId ?? peer.address} did not answer "${method}" in ${timeoutMs} ms`,
            { retry: "later" },
          ),
        );
      }, timeoutMs);
      // The peer's build decides the result's shape; managers are trusted with it.
      const settled = (result: unknown) => resolve(result as RpcMethods[M]["result"]);
      pending.set(id, { resolve: settled, reject, timer });
      enqueue(payload);
    });

  const connection: RpcConnection = {
    peer,
    request,
    note: (note, body) => {
      if (closedReason !== undefined) return false;
      const payload = encodeMessage({ kind: "note", note, body });
      if (payload.length > FRAME_BYTES_MAX || !hasRoom(payload)) return false;
      enqueue(payload);
      return true;
    },
    onNote: (note, handler) => {
      // The body's type is the note's: deliverNote() checks it by the note's schema.
      const anyBody = handler as (body: unknown) => void;
      noteHandlers.set(note, [...(noteHandlers.get(note) ?? []), anyBody]);
    },
    onClose: (handler) => {
      const reason = closedReason;
      if (reason === undefined) closeHandlers.push(handler);
      else queueMicrotask(() => handler(reason));
    },
    close: () => close("closed here"),
  };
  const serveNote = <N extends RpcNote>(note: N) => {
    const handler = notes[note];
    if (handler) connection.onNote(note, (body) => handler(body, connection));
  };
  for (const note of Object.keys(notes)) if (isRpcNote(note)) serveNote(note);
  return { connection, opened: opening.promise, refuse };
}

/** Throws in a turn of its own, so that the process ends as it does for every bug. */
function crash(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}

/** An error's message with its code (ECONNRESET, …), which some messages of the runtime leave out. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return "code" in error && typeof error.code === "string" && !error.message.includes(error.code)
    ? `${error.message} (${error.code})`
    : error.message;
}

function isRaftBody(note: RpcNote, body: unknown): body is RpcNotes["raft"]["body"] {
  return (
    note === "raft" &&
    typeof body === "object" &&
    body !== null &&
    "data" in body &&
    body.data instanceof Uint8Array
  );
}
