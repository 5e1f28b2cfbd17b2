/** The main thread's side of the typed thread protocol; see core/worker-server.ts. */
import { type MessagePort, type Worker } from "node:worker_threads";
import { ClusterError, fromErrorBody } from "../core/errors.ts";
import type { AnswerEnvelope, OneOrMore, RequestEnvelope } from "../core/worker-server.ts";

export type WorkerClient<I, A, O> = {
  /** @throws {ClusterError} the worker's error; unavailable when it ended first; deadline. */
  request(input: I, options?: { port?: MessagePort; timeoutMs?: number }): Promise<A>;
  notify(input: I): void;
  onOutput(handler: (output: O) => void): void;
  /** Called once, however the thread ended; `wasAsked` after stop(). */
  onExit(handler: (exit: { code: number; wasAsked: boolean; error?: Error }) => void): void;
  /** Sends `input` (a stop message), then waits for the thread's end; ends it by force after 5 s. */
  stop(input: I): Promise<void>;
};

const STOP_TIMEOUT_MS = 5_000;
/** Requests under way at once; more are refused as busy, so that a stuck worker cannot fill memory. */
const PENDING_MAX = 100_000;

export function workerClient<I, A, O>(worker: Worker, name: string): WorkerClient<I, A, O> {
  type Waiter = { resolve(answer: A): void; reject(error: Error): void; timer?: Timer };
  const pending = new Map<number, Waiter>();
  const outputHandlers: ((output: O) => void)[] = [];
  const exitHandlers: ((exit: { code: number; wasAsked: boolean; error?: Error }) => void)[] = [];
  let nextId = 1;
  let wasAsked = false;
  let hasEnded = false;
  let lastError: Error | undefined;

  let outgoing: RequestEnvelope<I>[] = [];
  const flush = () => {
    const batch = outgoing;
    outgoing = [];
    if (batch.length === 0 || hasEnded) return;
    worker.postMessage(batch.length === 1 ? batch[0] : batch);
  };
  /** What is asked in one turn goes in one message. */
  const post = (envelope: RequestEnvelope<I>) => {
    outgoing.push(envelope);
    if (outgoing.length === 1) queueMicrotask(flush);
  };

  const receive = (message: AnswerEnvelope<A, O>) => {
    if ("output" in message) {
      for (const handler of outputHandlers) handler(message.output);
      return;
    }
    const waiter = pending.get(message.id);
    if (!waiter) return;
    pending.delete(message.id);
    clearTimeout(waiter.timer);
    if ("error" in message) waiter.reject(fromErrorBody(message.error));
    else waiter.resolve(message.answer);
  };
  worker.on("message", (message: OneOrMore<AnswerEnvelope<A, O>>) => {
    if (Array.isArray(message)) for (const one of message) receive(one);
    else receive(message);
  });
  worker.on("error", (error: Error) => {
    lastError = error;
  });
  worker.on("exit", (code: number) => {
    hasEnded = true;
    for (const waiter of pending.values()) {
      clearTimeout(waiter.timer);
      waiter.reject(new ClusterError("unavailable", `The ${name} worker has ended`));
    }
    pending.clear();
    for (const handler of exitHandlers) {
      handler({ code, wasAsked, ...(lastError ? { error: lastError } : {}) });
    }
  });

  return {
    request: (input, options = {}) =>
      new Promise((resolve, reject) => {
        if (hasEnded) {
          reject(new ClusterError("unavailable", `The ${name} worker has ended`));
          return;
        }
        if (pending.size >= PENDING_MAX) {
          reject(
            new ClusterError("busy", `The ${name} worker has ${pending.size} requests waiting`),
          );
          return;
        }
        const id = nextId++;
        const waiter: Waiter = { resolve, reject };
        if (options.timeoutMs !== undefined) {
          waiter.timer = setTimeout(() => {
            pending.delete(id);
            reject(
              new ClusterError(
                "deadline",
                `The ${name} worker did not answer in ${options.timeoutMs} ms`,
              ),
            );
          }, options.timeoutMs);
        }
        pending.set(id, waiter);
        if (options.port) {
          flush();
          worker.postMessage({ id, input, port: options.port }, [options.port]);
        } else post({ id, input });
      }),
    notify: (input) => {
      if (!hasEnded) post({ input });
    },
    onOutput: (handler) => void outputHandlers.push(handler),
    onExit: (handler) => void exitHandlers.push(handler),
    stop: async (input) => {
      if (hasEnded) return;
      wasAsked = true;
      const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
      post({ input });
      const timer = setTimeout(() => void worker.terminate(), STOP_TIMEOUT_MS);
      await ended;
      clearTimeout(timer);
    },
  };
}
