/**
 * The worker's side of the typed thread protocol: requests `{ id, input, port? }` in, answers
 * `{ id, output }` or `{ id, error }` out, notifications `{ output }` out. One per worker thread.
 */
import { type MessagePort, parentPort } from "node:worker_threads";
import { assert } from "./assert.ts";
import { type ErrorBody, toErrorBody } from "./errors.ts";

export type RequestEnvelope<I> = { id?: number; input: I; port?: MessagePort };
export type AnswerEnvelope<A, O> =
  | { id: number; answer: A }
  | { id: number; error: ErrorBody }
  | { output: O };

export type WorkerServer<O> = {
  /** Sends a notification; `transfer` names buffers whose ownership goes along. */
  notify(output: O, transfer?: ArrayBuffer[]): void;
  /** Ends the thread with code 0, after the answers written so far. */
  exit(): void;
};

/**
 * Serves the parent thread. `handle` answers a request by its return value; what it returns or
 * throws for a notification (no id) is not sent: a throw there ends the worker, as a bug should.
 * Requests may be answered in any order.
 */
export function serveWorker<I, A, O>(
  handle: (input: I, port: MessagePort | undefined) => Promise<A | undefined> | A | undefined,
): WorkerServer<O> {
  const parent = parentPort;
  assert(parent !== null, "serveWorker() runs in a worker thread");
  const fail = (error: unknown) => {
    // An unhandled rejection would end the thread with exit code 0; make it a crash that is seen.
    setImmediate(() => {
      throw error;
    });
  };
  const answer = async (id: number, run: () => Promise<A | undefined> | A | undefined) => {
    try {
      const result = await run();
      parent.postMessage({ id, answer: result });
    } catch (error) {
      parent.postMessage({ id, error: toErrorBody(error) });
      if (error instanceof Error && error.name === "AssertionError") fail(error);
    }
  };
  parent.on("message", (message: RequestEnvelope<I>) => {
    if (message.id !== undefined) {
      answer(message.id, () => handle(message.input, message.port)).catch(fail);
      return;
    }
    const result = handle(message.input, message.port);
    if (result instanceof Promise) result.catch(fail);
  });
  return {
    notify: (output, transfer) =>
      transfer ? parent.postMessage({ output }, transfer) : parent.postMessage({ output }),
    exit: () => {
      parent.close();
      setImmediate(() => process.exit(0));
    },
  };
}
