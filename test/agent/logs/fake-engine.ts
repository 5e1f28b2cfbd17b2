/** An engine that has containers' logs and nothing else, over the real socket. */
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type FakeContainer = {
  isRunning: boolean;
  /** What the answer's body is now. */
  body: Buffer;
  /** Also after it was answered, while somebody follows. */
  say(bytes: Buffer): void;
  stop(): void;
};
export type FakeLogEngine = {
  socketPath: string;
  containers: Map<string, FakeContainer>;
  /** Targets, in order. */
  requests: string[];
  openCount(): number;
  add(name: string, body?: Buffer, isRunning?: boolean): FakeContainer;
  stop(): Promise<void>;
};

/** One frame of the engine's log, with its time. */
export function engineFrame(stream: number, time: string, line: string): Buffer {
  const text = Buffer.from(`${time} ${line}`);
  const head = Buffer.alloc(8);
  head.writeUInt8(stream, 0);
  head.writeUInt32BE(text.length, 4);
  return Buffer.concat([head, text]);
}

/** `2026-01-01T00:00:00.000000007Z` for 7. */
export function timeOf(number: number): string {
  return `2026-01-01T00:00:00.${String(number).padStart(9, "0")}Z`;
}

export async function startFakeLogEngine(): Promise<FakeLogEngine> {
  const dir = mkdtempSync(join(tmpdir(), "shoal-log-engine-"));
  const sockets = new Set<net.Socket>();
  const followers = new Map<string, Set<net.Socket>>();
  const engine: FakeLogEngine = {
    socketPath: join(dir, "engine.sock"),
    containers: new Map(),
    requests: [],
    openCount: () => sockets.size,
    add: (name, body = Buffer.alloc(0), isRunning = false) => {
      const container: FakeContainer = {
        isRunning,
        body,
        say: (bytes) => {
          container.body = Buffer.concat([container.body, bytes]);
          for (const socket of followers.get(name) ?? []) socket.write(bytes);
        },
        stop: () => {
          container.isRunning = false;
          for (const socket of followers.get(name) ?? []) socket.end();
        },
      };
      engine.containers.set(name, container);
      return container;
    },
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      rmSync(dir, { recursive: true, force: true });
    },
  };
  const head = (status: string, type: string) =>
    `HTTP/1.0 ${status}\r\nContent-Type: ${type}\r\n\r\n`;
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => {
      sockets.delete(socket);
      for (const set of followers.values()) set.delete(socket);
    });
    socket.on("error", () => socket.destroy());
    socket.once("data", (bytes: Buffer) => {
      const target = bytes.toString().split(" ")[1] ?? "";
      engine.requests.push(target);
      const url = new URL(target, "http://engine");
      const [, , name = "", what] = url.pathname.split("/");
      const container = engine.containers.get(name);
      if (!container) {
        socket.end(`${head("404 Not Found", "application/json")}{"message":"No such container"}`);
      } else if (what === "json") {
        const State = { Running: container.isRunning };
        socket.end(`${head("200 OK", "application/json")}${JSON.stringify({ State })}`);
      } else {
        socket.write(head("200 OK", "application/vnd.docker.raw-stream"));
        socket.write(container.body);
        if (url.searchParams.get("follow") !== "1" || !container.isRunning) socket.end();
        else followers.set(name, (followers.get(name) ?? new Set()).add(socket));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(engine.socketPath, resolve));
  return engine;
}

/** Waits until it is so, 5 s at most. */
export async function until(condition: () => boolean): Promise<void> {
  const endsAtMs = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() >= endsAtMs) throw new Error("Waited 5 s in vain");
    await Bun.sleep(2);
  }
}
