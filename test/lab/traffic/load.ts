/**
 * HTTP load that forgives nothing: a request that gets no whole answer with status 200 is a failure,
 * none is sent again. Half of the users keep their connection while the server lets them, half open
 * one for each request. Runs in a network namespace of the lab, to addresses of the lab only.
 *
 * Argument: LoadConfig as JSON. Ends after `requestsMin` once a line came on standard input (what was
 * to be watched is over), or at `requestsMax`; prints LoadResult as JSON.
 */
import { readFileSync } from "node:fs";

export type LoadConfig = {
  targets: { host: string; port: number }[];
  users: number;
  requestsMin: number;
  requestsMax: number;
};
export type LoadResult = {
  requestCount: number;
  connectionCount: number;
  failures: string[];
  failureCount: number;
  /** Answers by their text. */
  answers: Record<string, number>;
};

const TIMEOUT_MS = 10_000;
const FAILURES_SHOWN_MAX = 20;

async function main(config: LoadConfig): Promise<LoadResult> {
  const result: LoadResult = {
    requestCount: 0,
    connectionCount: 0,
    failures: [],
    failureCount: 0,
    answers: {},
  };
  let isOver = false;
  process.stdin.once("data", () => {
    isOver = true;
  });
  const goesOn = () =>
    result.requestCount < config.requestsMax &&
    (!isOver || result.requestCount < config.requestsMin);
  const fail = (why: string) => {
    result.failureCount += 1;
    if (result.failures.length < FAILURES_SHOWN_MAX) result.failures.push(why);
  };
  const user = async (index: number) => {
    const keepsAlive = index % 2 === 0;
    for (let turn = index; goesOn(); turn++) {
      const target = config.targets[turn % config.targets.length];
      if (!target) throw new Error("No target");
      result.connectionCount += 1;
      const openedMs = Date.now();
      let askedMs: number | undefined;
      let port = 0;
      try {
        const connection = await connect(target);
        port = connection.port;
        do {
          result.requestCount += 1;
          askedMs = Date.now();
          const { text, isLast } = await connection.ask(keepsAlive);
          result.answers[text] = (result.answers[text] ?? 0) + 1;
          if (isLast) break;
        } while (goesOn());
        connection.close();
      } catch (error) {
        const times = `opened at ${clock(openedMs)}, asked ${askedMs ? clock(askedMs) : "never"}, now ${clock(Date.now())}`;
        const how = `${keepsAlive ? "kept" : "short"} from port ${port}, ${times}, kernel: ${kernelState(port)}`;
        fail(`${target.host}:${target.port} ${how}: ${String(error)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: config.users }, (_, i) => user(i)));
  return result;
}

/** What the kernel knows of the client's socket: whether the question, or an answer, waits there. */
function kernelState(port: number): string {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const lines = readFileSync("/proc/net/tcp", "latin1").split("\n");
  const fields = lines.map((line) => line.trim().split(/\s+/));
  const found = fields.filter((line) => port > 0 && line[1]?.endsWith(suffix) === true);
  // Source: proc_net_tcp of the kernel's documentation.
  const told = found.map(
    (line) => `to ${line[2]} state ${line[3]} queues ${line[4]} timer ${line[5]}`,
  );
  return told.join(" | ") || "no socket";
}

const clock = (ms: number) => new Date(ms).toISOString().slice(11, -1);

type Answer = { text: string; isLast: boolean };
export type Connection = {
  /** The client's. */
  port: number;
  ask(keepsAlive: boolean): Promise<Answer>;
  close(): void;
};
/** One HTTP connection. @throws {Error} also for an answer that is not 200, or none in `timeoutMs`. */
export async function connect(
  target: { host: string; port: number },
  timeoutMs = TIMEOUT_MS,
): Promise<Connection> {
  let waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;
  let received = "";
  let ended: Error | undefined;
  const settle = (act: (waiter: NonNullable<typeof waiting>) => void) => {
    const waiter = waiting;
    waiting = undefined;
    if (waiter) act(waiter);
  };
  // Also between two questions, when nobody waits: a question into a dead socket would wait for its time.
  const end = (error: Error) => {
    ended ??= error;
    settle(({ reject }) => reject(error));
  };
  const opening = Bun.connect({
    hostname: target.host,
    port: target.port,
    socket: {
      data: (_, chunk) => {
        received += chunk.toString("latin1");
        const headEnd = received.indexOf("\r\n\r\n");
        if (headEnd < 0) return;
        const head = received.slice(0, headEnd);
        const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
        const body = received.slice(headEnd + 4);
        if (body.length < length) return;
        received = "";
        const isLast = /connection: close/i.test(head);
        const isFine = head.startsWith("HTTP/1.1 200");
        settle(({ resolve, reject }) =>
          isFine ? resolve({ text: body.trim(), isLast }) : reject(new Error(head)),
        );
      },
      close: () => end(new Error("closed without an answer")),
      error: (_, error) => end(error),
      connectError: (_, error) => end(error),
    },
  });
  const socket = await within(opening, "no connection", timeoutMs).catch((error: unknown) => {
    // It may open yet: nobody would end it.
    opening.then(
      (late) => late.terminate(),
      () => undefined,
    );
    throw error;
  });
  return {
    port: socket.localPort,
    ask: (keepsAlive) => {
      const answer = new Promise<Answer>((resolve, reject) => {
        waiting = { resolve, reject };
      });
      if (ended) settle(({ reject }) => reject(new Error(`closed before the question: ${ended}`)));
      const header = keepsAlive ? "keep-alive" : "close";
      socket.write(`GET / HTTP/1.1\r\nHost: lab\r\nConnection: ${header}\r\n\r\n`);
      return within(answer, "no answer", timeoutMs);
    },
    close: () => socket.end(),
  };
}

async function within<T>(work: Promise<T>, what: string, timeoutMs: number): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} in ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

if (import.meta.main) {
  // Written by the test.
  const config = JSON.parse(process.argv[2] ?? "") as LoadConfig;
  console.log(JSON.stringify(await main(config)));
  process.exit(0);
}
