/**
 * The worker's side of the typed thread protocol: requests `{ id, input, port? }` in, answers
 * `{ id, answer }` or `{ id, error }` out, notifications `{ output }` out. One per worker thread.
 *
 * A message is one of these or a list of them: what one side says in one turn goes in one message,
 * since a message costs more than what is in it. Order is kept. A notification leaves at once, with
 * the answers before it; for the worker may next block, and a raft message must be on its way then.
 */
import { type MessagePort, parentPort } from "node:worker_threads";
import { assert } from "./assert.ts";
import { type ErrorBody, toErrorBody } from "./errors.ts";

export type RequestEnvelope<I> = { id?: number; input: I; port?: MessagePort };
export type AnswerEnvelope<A, O> =
  | { id: number; answer: A }
  | { id: number; error: ErrorBody }
  | { output: O };
export type OneOrMore<E> = E | E[];

export type WorkerServer<O> = {
  /** Sends a notification; `transfer` names buffers whose ownership goes along. */
  notify(output: O, transfer?: ArrayBuffer[]): void;
  /** Ends the thread with code 0, after the answers written so far. */
  exit(): void;
};

/** What a worker makes of an input; `port` came with it, to another thread. */
export type WorkerHandler<I, A> = (
  input: I,
  port: MessagePort | undefined,
) => Promise<A | undefined> | A | undefined;

/**
 * Serves the parent thread. `handle` answers a request by its return value; what it returns or
 * throws for a notification (no id) is not sent: a throw there ends the worker, as a bug should.
 * Requests may be answered in any order.
 */
export function serveWorker<I, A, O>(handle: WorkerHandler<I, A>): WorkerServer<O> {
  const parent = parentPort;
  assert(parent !== null, "serveWorker() runs in a worker thread");
  const fail = (error: unknown) => {
    // An unhandled rejection would end the thread with exit code 0; make it a crash that is seen.
    setImmediate(() => {
      throw error;
    });
  };
  let outgoing: AnswerEnvelope<A | undefined, O>[] = [];
  const flush = (transfer?: ArrayBuffer[]) => {
    if (outgoing.length === 0) return;
    const batch = outgoing;
    outgoing = [];
    const message = batch.length === 1 ? batch[0] : batch;
    if (transfer) parent.postMessage(message, transfer);
    else parent.postMessage(message);
  };
  const post = (envelope: AnswerEnvelope<A | undefined, O>) => {
    outgoing.push(envelope);
    if (outgoing.length === 1) queueMicrotask(flush);
  };
  const answer = async (id: number, run: () => Promise<A | undefined> | A | undefined) => {
    try {
      const result = await run();
      post({ id, answer: result });
    } catch (error) {
      post({ id, error: toErrorBody(error) });
      if (error instanceof Error && error.name === "AssertionError") fail(error);
    }
  };
  const receive = (message: RequestEnvelope<I>) => {
    if (message.id !== undefined) {
      answer(message.id, () => handle(message.input, message.port)).catch(fail);
      return;
    }
    const result = handle(message.input, message.port);
    if (result instanceof Promise) result.catch(fail);
  };
  parent.on("message", (message: OneOrMore<RequestEnvelope<I>>) => {
    if (Array.isArray(message)) for (const one of message) receive(one);
    else receive(message);
  });
  return {
    notify: (output, transfer) => {
      outgoing.push({ output });
      flush(transfer);
    },
    exit: () => {
      parent.close();
      setImmediate(() => process.exit(0));
    },
  };
}
