import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Hono } from "hono";
import { serveStreams } from "../../../agent/api/stream-server.ts";
import { until } from "../logs/fake-engine.ts";

let dir: string;
let server: { stop(): Promise<void> } | undefined;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-streams-"));
});
afterEach(async () => {
  await server?.stop();
  rmSync(dir, { recursive: true, force: true });
});

/** What a client of `/x` has read so far. */
async function connect(body: () => ReadableStream<Uint8Array>) {
  const app = new Hono();
  app.get("/x", (c) => c.body(body(), 200, { "Content-Type": "application/x-test" }));
  const path = join(dir, "streams.sock");
  server = await serveStreams(app, path);
  const socket = net.connect({ path });
  const seen = { text: "", bytes: 0 };
  socket.on("data", (bytes: Buffer) => {
    seen.bytes += bytes.length;
    if (seen.text.length < 1_000) seen.text += bytes.toString("latin1");
  });
  socket.write("GET /x HTTP/1.1\r\nHost: d\r\n\r\n");
  return { socket, seen };
}

test("serveStreams() sends the head before there is a body, and ends it with the client", async () => {
  let isCancelled = false;
  const { socket, seen } = await connect(
    () =>
      new ReadableStream({
        cancel: () => {
          isCancelled = true;
        },
      }),
  );
  await until(() => seen.text.endsWith("\r\n\r\n"));
  expect(seen.text).toStartWith("HTTP/1.1 200 OK\r\n");
  expect(seen.text.toLowerCase()).toContain("content-type: application/x-test");
  socket.destroy();
  await until(() => isCancelled);
});

test("serveStreams() reads the body as the client takes it", async () => {
  let pulls = 0;
  const piece = new Uint8Array(64 * 1024);
  const { socket, seen } = await connect(
    () =>
      new ReadableStream(
        {
          pull: (controller) => {
            pulls += 1;
            if (pulls > 200) controller.close();
            else controller.enqueue(piece);
          },
        },
        { highWaterMark: 0 },
      ),
  );
  await until(() => seen.bytes > 0);
  socket.pause();
  let before = -1;
  await until(() => {
    const isSteady = pulls === before;
    before = pulls;
    return isSteady;
  });
  expect(pulls).toBeLessThan(100);
  socket.resume();
  await until(() => seen.bytes > 200 * piece.length);
  socket.destroy();
});
