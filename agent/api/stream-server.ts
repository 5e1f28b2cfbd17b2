/**
 * Serves the answers that go on for long (logs, events) on a socket of their own. Bun's own server
 * holds back an answer's head until the first bytes of its body, which here may be minutes later;
 * node:http sends it at once. Back-pressure: the body is read only as the client takes it.
 */
import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Hono } from "hono";

/** Same routes as the inner server (app.ts). `stop` ends every answer. */
export async function serveStreams(
  app: Hono,
  socketPath: string,
): Promise<{ stop(): Promise<void> }> {
  rmSync(socketPath, { force: true });
  const server = createServer((request, response) => {
    answer(app, request, response).catch(() => response.destroy());
  });
  // Neither a quiet client nor a quiet answer is cut.
  server.timeout = 0;
  server.requestTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, resolve);
  });
  chmodSync(socketPath, 0o600);
  return {
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(app: Hono, request: IncomingMessage, response: ServerResponse) {
  const headers = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  let reader:
    | { read(): Promise<{ done: boolean; value?: Uint8Array }>; cancel(): Promise<void> }
    | undefined;
  let isGone = false;
  let wake: (() => void) | undefined;
  const gone = () => {
    isGone = true;
    wake?.();
    // Ends a read that waits for bytes, and what makes them.
    reader?.cancel().catch(() => undefined);
  };
  const mayGoOn = () => !isGone;
  response.on("close", gone);
  response.on("error", gone);
  response.on("drain", () => wake?.());
  const made = await app.fetch(new Request(`http://shoal${request.url ?? "/"}`, { headers }));
  reader = made.body?.getReader();
  // It may have left while the answer was being made.
  if (isGone || response.destroyed) {
    gone();
    return;
  }
  response.writeHead(made.status, Object.fromEntries(made.headers));
  response.flushHeaders();
  while (reader && mayGoOn()) {
    const { done, value } = await reader.read();
    if (done || !mayGoOn()) break;
    if (response.write(value)) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  if (mayGoOn()) response.end();
}
