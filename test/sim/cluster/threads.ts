/**
 * The threads of an agent as message queues: in order, each message a little later. What a thread gets
 * it handles as its process. `createThread` gives the main thread's end as a Worker, for the real
 * workerClient (agent/worker-client.ts).
 */
import type { Worker } from "node:worker_threads";
import { toErrorBody } from "../../../core/errors.ts";
import type { Random } from "../../../core/random.ts";
import type { Process, VirtualTime } from "./virtual-time.ts";

/** One direction between two threads. */
export type Line<M> = (message: M) => void;

export function createLine<M>(
  options: { time: VirtualTime; process: Process; random: Random; delayMsMax: () => number },
  receive: (message: M) => void,
): Line<M> {
  const { time, process, random } = options;
  let lastMs = 0;
  return (message) => {
    const arrivalMs = time.world.nowMs + 0.02 + random.next() * options.delayMsMax();
    lastMs = Math.max(lastMs, arrivalMs);
    time.post(process, lastMs - time.world.nowMs, () => receive(message));
  };
}

export type Thread<O> = {
  /** What main talks to. */
  worker: Worker;
  notify(output: O): void;
  /** The thread ends as it was asked. */
  exit(): void;
};

type Message<I> = { id?: number; input: I };

export function createThread<I, A, O>(
  options: { time: VirtualTime; process: Process; random: Random; delayMsMax: () => number },
  handle: (input: I) => Promise<A | undefined> | A | undefined,
): Thread<O> {
  const handlers = new Map<string, ((value: unknown) => void)[]>();
  const tell = (event: string, value: unknown) => {
    for (const handler of handlers.get(event) ?? []) handler(value);
  };
  let hasEnded = false;
  const toMain = createLine<{ event: string; value: unknown }>(options, ({ event, value }) =>
    tell(event, value),
  );
  const answer = async (id: number, input: I) => {
    try {
      toMain({ event: "message", value: { id, answer: await handle(input) } });
    } catch (error) {
      if (error instanceof Error && error.name !== "ClusterError") throw error;
      toMain({ event: "message", value: { id, error: toErrorBody(error) } });
    }
  };
  const crash = (error: unknown) => {
    setImmediate(() => {
      throw error;
    });
  };
  const toThread = createLine<Message<I>>(options, ({ id, input }) => {
    if (hasEnded) return;
    if (id !== undefined) {
      answer(id, input).catch(crash);
      return;
    }
    const result = handle(input);
    if (result instanceof Promise) result.catch(crash);
  });
  const on = (event: string, handler: (value: unknown) => void) => {
    handlers.set(event, [...(handlers.get(event) ?? []), handler]);
  };
  const worker = {
    on,
    once: on,
    postMessage: (message: Message<I> | Message<I>[]) => {
      if (Array.isArray(message)) for (const one of message) toThread(one);
      else toThread(message);
    },
    terminate: () => Promise.resolve(0),
  };
  return {
    // As far as workerClient uses it.
    worker: worker as unknown as Worker,
    notify: (output) => {
      if (!hasEnded) toMain({ event: "message", value: { output } });
    },
    exit: () => {
      hasEnded = true;
      toMain({ event: "exit", value: 0 });
    },
  };
}
