/**
 * A small generator of HTTP requests for the benchmark: so many users, each with one request under way.
 * Runs in a network namespace of the lab. Argument: TrafficLoad as JSON; prints TrafficResult as JSON.
 */
export type TrafficLoad = {
  host: string;
  port: number;
  users: number;
  /** Requests follow each other on one connection, else each has its own. */
  isKept: boolean;
  durationMs: number;
  requestsMax: number;
};
export type TrafficResult = { perSecond: number; p99Ms: number; errors: number };

async function main(load: TrafficLoad): Promise<TrafficResult> {
  const request = `GET / HTTP/1.1\r\nHost: b\r\nConnection: ${load.isKept ? "keep-alive" : "close"}\r\n\r\n`;
  const times: number[] = [];
  let errors = 0;
  const beganMs = performance.now();
  const isOver = () =>
    performance.now() - beganMs >= load.durationMs || times.length + errors >= load.requestsMax;
  /** One connection to its end; true when it may be followed by another. */
  const connect = () =>
    new Promise<void>((resolve) => {
      let sentMs = performance.now();
      let isAnswered = false;
      let isDone = false;
      const end = (isError: boolean) => {
        if (isDone) return;
        isDone = true;
        if (isError) errors += 1;
        resolve();
      };
      Bun.connect({
        hostname: load.host,
        port: load.port,
        socket: {
          open: (socket) => {
            if (load.isKept) sentMs = performance.now();
            socket.write(request);
          },
          data: (socket) => {
            // The answers are smaller than a packet: one event each.
            times.push(performance.now() - sentMs);
            isAnswered = true;
            if (!load.isKept || isOver()) {
              end(false);
              socket.end();
              return;
            }
            sentMs = performance.now();
            socket.write(request);
          },
          close: () => end(!isAnswered || load.isKept),
          error: () => end(true),
          connectError: () => end(true),
        },
      }).catch(() => end(true));
    });
  const user = async () => {
    while (!isOver()) await connect();
  };
  await Promise.all(Array.from({ length: load.users }, user));
  const seconds = (performance.now() - beganMs) / 1_000;
  times.sort((a, b) => a - b);
  const p99Ms = times[Math.floor(times.length * 0.99)] ?? 0;
  return { perSecond: times.length / seconds, p99Ms, errors };
}

if (import.meta.main) {
  // Written by mesh-traffic.ts.
  const load = JSON.parse(process.argv[2] ?? "") as TrafficLoad;
  console.log(JSON.stringify(await main(load)));
  process.exit(0);
}
