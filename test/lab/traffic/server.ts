/**
 * A web server that ends as a good one does: at SIGTERM it takes no more connections, answers what
 * comes on the open ones, each time with `Connection: close`, and exits when none is left or after
 * DRAIN_MS_MAX. Who is sent to it after SIGTERM is refused.
 * Environment: PORT, VERSION. An answer is `<version> <client's address>`. With UDP_PORT, datagrams too
 * are answered, until the end: `<what came> <version> <client's address>`. With STARTS_FILE, a line is
 * added to it once it listens: the version, when the program began and now, in milliseconds.
 */
import { appendFileSync } from "node:fs";

const DRAIN_MS_MAX = 8_000;
const POLL_MS = 20;

type State = { head: string };
const decoder = new TextDecoder("latin1");
let isDraining = false;
let openCount = 0;

const listener = Bun.listen<State>({
  hostname: "0.0.0.0",
  port: Number(process.env["PORT"] ?? 80),
  socket: {
    open: (socket) => {
      socket.data = { head: "" };
      openCount += 1;
    },
    data: (socket, chunk) => {
      socket.data.head += decoder.decode(chunk);
      let end: number;
      while ((end = socket.data.head.indexOf("\r\n\r\n")) >= 0) {
        const request = socket.data.head.slice(0, end);
        socket.data.head = socket.data.head.slice(end + 4);
        const isLast = isDraining || /connection: close/i.test(request);
        const body = `${process.env["VERSION"] ?? ""} ${socket.remoteAddress}\n`;
        const head = `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n`;
        socket.write(`${head}Connection: ${isLast ? "close" : "keep-alive"}\r\n\r\n${body}`);
        if (isLast) socket.end();
      }
    },
    close: () => {
      openCount -= 1;
    },
    error: () => undefined,
  },
});

const startsFile = process.env["STARTS_FILE"];
if (startsFile !== undefined) {
  const beganMs = Math.round(performance.timeOrigin);
  appendFileSync(startsFile, `${process.env["VERSION"] ?? ""} ${beganMs} ${Date.now()}\n`);
}
const udpPort = process.env["UDP_PORT"];
if (udpPort !== undefined) {
  void Bun.udpSocket({
    hostname: "0.0.0.0",
    port: Number(udpPort),
    socket: {
      data: (socket, bytes, port, address) => {
        const text = `${bytes.toString("latin1")} ${process.env["VERSION"] ?? ""} ${address}`;
        socket.send(text, port, address);
      },
      // "Refused": an asker that has gone.
      error: () => undefined,
    },
  });
}

// Bun tells a refused datagram so, too.
process.on("uncaughtException", (error) => {
  if (!/ECONNREFUSED|EHOSTUNREACH|ENETUNREACH/.test(String(error))) throw error;
});
process.on("SIGTERM", () => {
  isDraining = true;
  listener.stop();
  const endsAtMs = Date.now() + DRAIN_MS_MAX;
  setInterval(() => {
    if (openCount === 0 || Date.now() > endsAtMs) process.exit(0);
  }, POLL_MS);
});
