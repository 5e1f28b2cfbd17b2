import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startFront } from "../../../agent/api/front.ts";
import { seededRandom } from "../../../core/random.ts";
import {
  createBodyScanner,
  createHeadReader,
  parseRequestHead,
} from "../../../agent/api/http-framing.ts";

const WAIT_MS = 5_000;

type Upstream = {
  path: string;
  /** Heads and bodies of the requests, as they came. */
  requests: { head: string; body: Buffer }[];
  connections: number;
  close: () => Promise<void>;
};

type Reply = (
  socket: net.Socket,
  request: { head: string; body: Buffer },
  /** Bytes that follow the request, and all that come later, go to the handler. */
  takeOver: (onBytes: (bytes: Buffer) => void) => void,
) => void;

/** An HTTP/1.1 server of a few lines, whose answers are written byte by byte as the test says. */
async function startUpstream(path: string, reply: Reply): Promise<Upstream> {
  const sockets = new Set<net.Socket>();
  const upstream: Upstream = {
    path,
    requests: [],
    connections: 0,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    upstream.connections += 1;
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => sockets.delete(socket));
    socket.on("end", () => socket.end());
    const heads = createHeadReader();
    let scanner: ReturnType<typeof createBodyScanner> | undefined;
    let head = "";
    let parts: Buffer[] = [];
    let raw: ((bytes: Buffer) => void) | undefined;
    socket.on("data", (chunk: Buffer) => {
      let offset = 0;
      while (offset < chunk.length) {
        if (raw) return raw(chunk.subarray(offset));
        if (!scanner) {
          const found = heads.push(chunk, offset);
          offset = found.end;
          if (!found.head) return;
          const parsed = parseRequestHead(found.head);
          head = Buffer.from(found.head).toString();
          if (!parsed) throw new Error(`bad head: ${head}`);
          parts = [];
          if (/^expect: 100-continue\r$/im.test(head)) {
            socket.write("HTTP/1.1 100 Continue\r\n\r\n");
          }
          scanner = createBodyScanner(parsed.body);
          if (parsed.body.type !== "none") continue;
        }
        const { end, isDone } = scanner.scan(chunk, offset);
        parts.push(chunk.subarray(offset, end));
        offset = end;
        if (!isDone) continue;
        scanner = undefined;
        const done = { head, body: Buffer.concat(parts) };
        upstream.requests.push(done);
        reply(socket, done, (onBytes) => {
          raw = onBytes;
        });
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return upstream;
}

type Client = {
  socket: net.Socket;
  received: () => string;
  bytes: () => Buffer;
  sizeBytes: () => number;
  hasEnded: () => boolean;
  send(text: string | Uint8Array): void;
  /** Waits until what came satisfies the condition. */
  until(condition: () => boolean, what: string): Promise<void>;
};

async function connectClient(path: string): Promise<Client> {
  const socket = net.connect({ path, allowHalfOpen: true });
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  let hasEnded = false;
  const waiters = new Set<() => void>();
  const wake = () => {
    for (const waiter of waiters) waiter();
  };
  socket.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    sizeBytes += chunk.length;
    wake();
  });
  socket.on("end", () => {
    hasEnded = true;
    wake();
  });
  socket.on("close", () => {
    hasEnded = true;
    wake();
  });
  socket.on("error", () => {});
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  const bytes = () => Buffer.concat(chunks);
  return {
    socket,
    bytes,
    sizeBytes: () => sizeBytes,
    received: () => bytes().toString("latin1"),
    hasEnded: () => hasEnded,
    send: (text) => void socket.write(text),
    until: (condition, what) =>
      new Promise((resolve, reject) => {
        const check = () => {
          if (!condition()) return;
          clearTimeout(timer);
          waiters.delete(check);
          resolve();
        };
        const timer = setTimeout(() => {
          waiters.delete(check);
          reject(new Error(`${what} did not come; received: ${bytes().toString().slice(0, 500)}`));
        }, WAIT_MS);
        waiters.add(check);
        check();
      }),
  };
}

const ok = (body: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: docker\r\n\r\n`;
const pathOf = (head: string) => head.split(" ")[1] ?? "";

let dir = "";
let closers: (() => Promise<void>)[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-front-"));
  closers = [];
});
afterEach(async () => {
  for (const close of closers.reverse()) await close();
  rmSync(dir, { recursive: true, force: true });
});

type Lab = { engine: Upstream; inner: Upstream; client: Client; socketPath: string };

async function startLab(engineReply: Reply, innerReply?: Reply): Promise<Lab> {
  const name: Reply = (socket, { head }) => socket.write(ok(`inner ${pathOf(head)}`));
  const engine = await startUpstream(join(dir, "engine.sock"), engineReply);
  const inner = await startUpstream(join(dir, "inner.sock"), innerReply ?? name);
  const socketPath = join(dir, "docker.sock");
  const front = await startFront({
    socketPath,
    innerSocketPath: inner.path,
    engineSocket: engine.path,
  });
  const client = await connectClient(socketPath);
  closers.push(
    engine.close,
    inner.close,
    () => front.close(),
    async () => void client.socket.destroy(),
  );
  return { engine, inner, client, socketPath };
}

const plainEngine: Reply = (socket, { head }) => socket.write(ok(`engine ${pathOf(head)}`));

describe("startFront()", () => {
  test("sends each request of one connection to its own server", async () => {
    const { client, engine, inner } = await startLab(plainEngine);
    const paths = ["/v1.41/containers/json", "/v1.41/services", "/images/json", "/nodes"];
    for (let round = 0; round < 10; round += 1) {
      for (const path of paths) {
        const before = client.bytes().length;
        client.send(get(path));
        const wanted = ok(`${/serv|nodes/.test(path) ? "inner" : "engine"} ${path}`);
        await client.until(() => client.bytes().length >= before + wanted.length, path);
        expect(client.received().slice(before)).toBe(wanted);
      }
    }
    expect([engine.connections, inner.connections]).toEqual([1, 1]);
  });

  test("keeps the order of pipelined requests to both servers", async () => {
    const { promise: asked, resolve: ask } = Promise.withResolvers<() => void>();
    const { client, inner } = await startLab((socket, { head }) =>
      ask(() => void socket.write(ok(`engine ${pathOf(head)}`))),
    );
    client.send(get("/slow") + get("/services") + get("/tasks"));
    const release = await asked;
    await Bun.sleep(20); // Time for a wrong front to send the second one too early.
    expect(inner.requests).toHaveLength(0);
    release();
    await client.until(() => client.received().includes("inner /tasks"), "the last answer");
    expect(client.received()).toBe(ok("engine /slow") + ok("inner /services") + ok("inner /tasks"));
  });

  test("passes a hijacked stream on in both directions, with half-close", async () => {
    const upgraded = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    const { client } = await startLab((socket, _request, takeOver) => {
      let text = "";
      takeOver((bytes) => {
        text += bytes.toString();
      });
      socket.removeAllListeners("end");
      socket.on("end", () => socket.end(`got: ${text}`));
      socket.write(`${upgraded}first`);
    });
    const body = JSON.stringify({ Detach: false });
    client.send(
      `POST /v1.41/exec/abc/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await client.until(() => client.received() === `${upgraded}first`, "the upgrade");
    client.send("GET /services HTTP/1.1\r\n\r\n");
    client.socket.end("bye");
    await client.until(client.hasEnded, "the end");
    expect(client.received()).toBe(`${upgraded}firstgot: GET /services HTTP/1.1\r\n\r\nbye`);
  });

  test("goes on with requests after a refused upgrade", async () => {
    const refusal = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
    const { client, inner } = await startLab((socket) => socket.write(refusal));
    client.send(
      "POST /exec/x/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    );
    await client.until(() => client.received() === refusal, "the refusal");
    client.send(get("/services"));
    await client.until(() => client.received().endsWith("inner /services"), "the next answer");
    expect(inner.requests).toHaveLength(1);
  });

  test("becomes raw for a hijack without an upgrade when the answer has no length", async () => {
    const head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n";
    const { client } = await startLab((socket, _request, takeOver) => {
      takeOver((bytes) => void socket.write(bytes.toString().toUpperCase()));
      socket.write(head);
    });
    client.send("POST /containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n");
    await client.until(() => client.received() === head, "the head");
    client.send("hello");
    await client.until(() => client.received() === `${head}HELLO`, "the echo");
  });

  test("passes a chunked body on unchanged, byte by byte, and finds its end", async () => {
    const { client, engine } = await startLab(plainEngine);
    const chunks = "5;x=y\r\nhello\r\n1\r\n\n\r\nA\r\n0\r\n\r\n\r\n012\r\n0\r\nTrailer: t\r\n\r\n";
    const request = `POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`;
    client.socket.setNoDelay(true);
    for (const byte of request + get("/swarm")) {
      client.send(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await client.until(() => client.received().endsWith("inner /swarm"), "both answers");
    expect(client.received()).toBe(ok("engine /build") + ok("inner /swarm"));
    expect(engine.requests[0]?.body.toString()).toBe(chunks);
  });

  test("passes 100 Continue on before the answer", async () => {
    const { client } = await startLab(plainEngine);
    client.send(
      "POST /images/load HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    );
    await client.until(() => client.received().includes("100 Continue\r\n\r\n"), "100");
    client.send(`abc${get("/info")}`);
    await client.until(() => client.received().endsWith("inner /info"), "the answers");
    expect(client.received()).toBe(
      `HTTP/1.1 100 Continue\r\n\r\n${ok("engine /images/load")}${ok("inner /info")}`,
    );
  });

  test("does not wait for a body after HEAD and 304", async () => {
    const { client } = await startLab((socket, { head }) =>
      socket.write(
        head.startsWith("HEAD")
          ? "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
          : "HTTP/1.1 304 Not Modified\r\n\r\n",
      ),
    );
    client.send(`HEAD /containers/x HTTP/1.1\r\nHost: d\r\n\r\n${get("/containers/x/start")}`);
    client.send(get("/tasks"));
    await client.until(() => client.received().endsWith("inner /tasks"), "the last answer");
  });

  test("streams an answer without length until its server closes", async () => {
    const { client } = await startLab((socket) => {
      socket.write("HTTP/1.1 200 OK\r\n\r\npart one, ");
      setImmediate(() => socket.end("part two"));
    });
    client.send(get("/containers/x/logs"));
    await client.until(client.hasEnded, "the end");
    expect(client.received()).toBe("HTTP/1.1 200 OK\r\n\r\npart one, part two");
  });

  test("keeps 32 MiB in both directions intact for a slow reader", async () => {
    const size = 32 * 1024 * 1024;
    const payload = Buffer.alloc(size);
    for (let at = 0; at < size; at += 4) payload.writeUInt32LE((at * 2_654_435_761) >>> 0, at);
    const digest = createHash("sha256").update(payload).digest("hex");
    const { client, engine } = await startLab((socket, { body }) => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`);
      socket.write(body);
    });
    client.send(`POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: ${size}\r\n\r\n`);
    client.send(payload);
    let pauses = 0;
    client.socket.on("data", () => {
      if (pauses >= 20) return;
      pauses += 1;
      client.socket.pause();
      setTimeout(() => client.socket.resume(), 5);
    });
    const headLength = `HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`.length;
    await client.until(() => client.sizeBytes() >= size + headLength, "32 MiB");
    expect(createHash("sha256").update(client.bytes().subarray(headLength)).digest("hex")).toBe(
      digest,
    );
    expect(engine.requests[0]?.body.length).toBe(size);
  });

  test("says so when the engine is away, and serves again when it is back", async () => {
    const { client, engine, socketPath } = await startLab(plainEngine);
    await engine.close();
    client.send(get("/containers/json"));
    await client.until(client.hasEnded, "the refusal");
    expect(client.received()).toStartWith("HTTP/1.1 503 Service Unavailable\r\n");
    const message: unknown = JSON.parse(client.received().split("\r\n\r\n")[1] ?? "");
    expect(message).toEqual({
      message: expect.stringContaining(
        `Cannot connect to the Docker Engine at unix://${engine.path}: `,
      ),
    });
    const cluster = await connectClient(socketPath);
    cluster.send(get("/services"));
    await cluster.until(() => cluster.received().endsWith("inner /services"), "our own answer");
    const again = await startUpstream(engine.path, plainEngine);
    closers.push(again.close, async () => void cluster.socket.destroy());
    cluster.send(get("/containers/json"));
    await cluster.until(() => cluster.received().endsWith("engine /containers/json"), "engine");
  });

  test("ends the client's connection when the engine dies in an answer", async () => {
    const { client } = await startLab((socket) => {
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
      setImmediate(() => socket.destroy());
    });
    client.send(get("/containers/json"));
    await client.until(client.hasEnded, "the end");
    expect(client.received()).toEndWith("only this");
  });

  test("ends the engine's connection when the client goes away", async () => {
    let closed = false;
    const { client } = await startLab((socket) => {
      socket.on("close", () => {
        closed = true;
      });
      socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n");
    });
    client.send(get("/events"));
    await client.until(() => client.received().endsWith("{}\r\n"), "the first event");
    client.socket.destroy();
    const deadline = Date.now() + WAIT_MS;
    while (!closed && Date.now() < deadline) await Bun.sleep(5);
    expect(closed).toBe(true);
  });

  test("answers any pipelined requests in order, however the streams are cut", async () => {
    const random = seededRandom(20_26);
    const below = (limit: number) => Math.floor(random.next() * limit);
    /** An answer whose form depends on the path alone, so that the test can foretell it. */
    const answerTo = (path: string, bodySize: number) => {
      const number = Number(/\d+$/.exec(path)?.[0] ?? 0);
      const text = `${path} ${bodySize} ${"z".repeat(number * 97)}`;
      if (number % 4 === 0) return "HTTP/1.1 204 No Content\r\n\r\n";
      if (number % 4 === 1) return `HTTP/1.1 103 Early Hints\r\n\r\n${ok(text)}`;
      if (number % 4 === 2) return ok(text);
      const half = Math.floor(text.length / 2);
      const chunk = (part: string) => `${part.length.toString(16)}\r\n${part}\r\n`;
      return `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunk(text.slice(0, half))}${chunk(text.slice(half))}0\r\n\r\n`;
    };
    const reply: Reply = (socket, { head, body }) => {
      const bytes = Buffer.from(answerTo(pathOf(head), body.length));
      const cut = below(bytes.length);
      socket.write(bytes.subarray(0, cut));
      setImmediate(() => socket.write(bytes.subarray(cut)));
    };
    const { client } = await startLab(reply, reply);
    let sent = "";
    let wanted = "";
    for (let number = 0; number < 120; number += 1) {
      const path = `${below(2) === 0 ? "/services" : "/containers"}/${number % 40}`;
      const size = below(3) * below(300);
      const body = "b".repeat(size);
      if (size === 0) sent += get(path);
      else if (below(2) === 0) {
        sent += `POST ${path} HTTP/1.1\r\nHost: d\r\nContent-Length: ${size}\r\n\r\n${body}`;
      } else {
        sent += `POST ${path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n${size.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
      }
      const frame = sent.endsWith("\r\n0\r\n\r\n") && size > 0;
      const onWire = frame ? size + size.toString(16).length + 4 + 5 : size;
      wanted += answerTo(path, onWire);
    }
    for (let at = 0; at < sent.length; ) {
      const size = 1 + below(below(4) === 0 ? 2000 : 60);
      client.send(sent.slice(at, at + size));
      at += size;
      if (below(5) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await client.until(() => client.sizeBytes() >= wanted.length, "all answers");
    expect(client.received()).toBe(wanted);
  });

  const malformed: [string, string, number][] = [
    ["no HTTP", "hello\r\n\r\n", 400],
    ["a bare line feed", "GET /info HTTP/1.1\nHost: d\r\n\r\n", 400],
    ["two lengths", "POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400],
    ["a bad chunk size", "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400],
    ["a too long head", `GET /info HTTP/1.1\r\nX: ${"y".repeat(70_000)}`, 431],
  ];
  test.each(malformed)("refuses %s", async (_name, bytes, status) => {
    const { client } = await startLab(() => {});
    client.send(bytes);
    await client.until(client.hasEnded, "the refusal");
    expect(client.received()).toStartWith(`HTTP/1.1 ${status} `);
  });

  test("makes the socket for root and the group only", async () => {
    const { socketPath } = await startLab(plainEngine);
    expect(statSync(socketPath).mode & 0o777).toBe(0o660);
  });

  test("replaces a stale socket file, but nobody's else, and removes its own", async () => {
    const socketPath = join(dir, "docker.sock");
    const options = { socketPath, innerSocketPath: "/none", engineSocket: "/none" };
    const stale = Bun.spawnSync([
      "/usr/bin/env",
      "python3",
      "-c",
      `import socket; s = socket.socket(socket.AF_UNIX); s.bind(${JSON.stringify(socketPath)})`,
    ]);
    if (stale.exitCode === 0) expect(existsSync(socketPath)).toBe(true);
    const front = await startFront(options);
    expect(startFront(options)).rejects.toThrow("another process serves it");
    await front.close();
    expect(existsSync(socketPath)).toBe(false);
    writeFileSync(socketPath, "");
    expect(startFront(options)).rejects.toThrow("no socket");
  });
});
