/**
 * Questions that are not ours, asked of the host's own resolvers.
 *
 * One connected UDP socket per resolver (the kernel drops answers from anybody else), ids chosen at
 * random, the question compared with the one asked. A resolver that does not answer in time is
 * followed by the next. At most IN_FLIGHT_MAX questions are under way; more fail at once.
 */
import { randomInt } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";

const IN_FLIGHT_MAX = 1_024;
const TRY_TIMEOUT_MS = 2_000;
const RESOLVERS_MAX = 3;
/** Users may choose others for each service; the one that was opened first goes. */
const SOCKETS_MAX = 64;
const RESOLV_CONF_AGE_MS = 1_000;
const TCP_MESSAGE_BYTES_MAX = 65_535;

export type Upstream = {
  /**
   * The answer's bytes with the query's own id; undefined when no resolver answered. `chosen`: asked
   * in place of the host's.
   */
  ask(
    query: Uint8Array,
    transport: "udp" | "tcp",
    chosen?: Resolver[],
  ): Promise<Uint8Array | undefined>;
  stop(): void;
};

export type Resolver = { address: string; port: number };
type Socket = Bun.udp.ConnectedSocket<"buffer">;
type Waiter = { query: Uint8Array; resolve(answer: Uint8Array | undefined): void };

/**
 * Name servers in resolv.conf's text. Loopback ones (local stubs) come last: they are used when
 * there is nothing else, as we ask from the host's own namespace.
 */
export function parseResolvers(text: string): { remote: string[]; loopback: string[] } {
  const remote: string[] = [];
  const loopback: string[] = [];
  for (const line of text.split("\n")) {
    const address = /^\s*nameserver\s+([^\s#;]+)/.exec(line)?.[1];
    if (address === undefined || !/^[0-9a-fA-F.:]+$/.test(address)) continue;
    if (address.startsWith("127.") || address === "::1") loopback.push(address);
    else remote.push(address);
  }
  return { remote, loopback };
}

/** The host's resolvers, read again when the last reading is older than a second. */
export function hostResolvers(
  paths: readonly string[] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"],
): () => Promise<Resolver[]> {
  let known: Resolver[] = [];
  let readAtMs = Number.NEGATIVE_INFINITY;
  return async () => {
    if (performance.now() - readAtMs < RESOLV_CONF_AGE_MS) return known;
    readAtMs = performance.now();
    const stubs: string[] = [];
    for (const path of paths) {
      const text = await readFile(path, "utf8").catch(() => "");
      const { remote, loopback } = parseResolvers(text);
      stubs.push(...loopback);
      if (remote.length === 0) continue;
      known = remote.slice(0, RESOLVERS_MAX).map((address) => ({ address, port: 53 }));
      return known;
    }
    known = stubs.slice(0, RESOLVERS_MAX).map((address) => ({ address, port: 53 }));
    return known;
  };
}

/**
 * Sends questions on as they are (over UDP under a random id), to one resolver after the other until
 * one answers. `resolvers` is asked for each question; a socket is opened at the first one to it.
 */
export function startUpstream(resolvers: () => Promise<Resolver[]>): Upstream {
  const sockets = new Map<string, { socket: Promise<Socket>; waiting: Map<number, Waiter> }>();
  let inFlight = 0;
  let isStopped = false;

  const openSocket = (resolver: Resolver) => {
    const key = `${resolver.address} ${resolver.port}`;
    const known = sockets.get(key);
    if (known) return known;
    const [oldest] = sockets;
    if (oldest && sockets.size >= SOCKETS_MAX) {
      const [oldKey, { socket, waiting }] = oldest;
      sockets.delete(oldKey);
      for (const waiter of waiting.values()) waiter.resolve(undefined);
      void socket.then((open) => open.close()).catch(() => undefined);
    }
    const waiting = new Map<number, Waiter>();
    const drop = () => {
      sockets.delete(key);
      for (const waiter of waiting.values()) waiter.resolve(undefined);
      waiting.clear();
    };
    const socket = Bun.udpSocket({
      connect: { hostname: resolver.address, port: resolver.port },
      socket: {
        data: (_socket, bytes) => {
          if (bytes.length < 12) return;
          const id = bytes.readUInt16BE(0);
          const waiter = waiting.get(id);
          if (!waiter || !isAnswerTo(bytes, waiter.query)) return;
          waiting.delete(id);
          waiter.resolve(bytes);
        },
        // Such as "connection refused": nobody listens there.
        error: () => {
          const open = sockets.get(key);
          drop();
          void open?.socket.then((dead) => dead.close()).catch(() => undefined);
        },
      },
    });
    const entry = { socket, waiting };
    sockets.set(key, entry);
    socket.catch(drop);
    return entry;
  };

  const askUdp = async (resolver: Resolver, query: Uint8Array): Promise<Uint8Array | undefined> => {
    const { socket: opening, waiting } = openSocket(resolver);
    const socket = await opening.catch(() => undefined);
    // Another question's error may have closed it meanwhile.
    if (!socket || socket.closed) return undefined;
    let id = randomInt(0x1_0000);
    while (waiting.has(id)) id = (id + 1) & 0xffff;
    const asked = Buffer.from(query);
    asked.writeUInt16BE(id, 0);
    const answer = await new Promise<Uint8Array | undefined>((resolve) => {
      const timer = setTimeout(() => resolve(undefined), TRY_TIMEOUT_MS);
      waiting.set(id, {
        query: asked,
        resolve: (bytes) => {
          clearTimeout(timer);
          resolve(bytes);
        },
      });
      try {
        socket.send(asked);
      } catch {
        // Such as "network unreachable": the next resolver may be nearer.
        waiting.get(id)?.resolve(undefined);
      }
    });
    waiting.delete(id);
    return answer;
  };

  return {
    ask: async (query, transport, chosen) => {
      if (isStopped || inFlight >= IN_FLIGHT_MAX) return undefined;
      inFlight += 1;
      try {
        for (const resolver of chosen?.slice(0, RESOLVERS_MAX) ?? (await resolvers())) {
          const answer =
            transport === "udp" ? await askUdp(resolver, query) : await askTcp(resolver, query);
          if (!answer) continue;
          const own = Buffer.from(answer);
          Buffer.from(query).copy(own, 0, 0, 2);
          return own;
        }
        return undefined;
      } finally {
        inFlight -= 1;
      }
    },
    stop: () => {
      isStopped = true;
      for (const { socket, waiting } of sockets.values()) {
        for (const waiter of waiting.values()) waiter.resolve(undefined);
        void socket.then((open) => open.close()).catch(() => undefined);
      }
      sockets.clear();
    },
  };
}

/** An answer repeats the question's bytes; anything else was not asked for. */
function isAnswerTo(answer: Buffer, query: Uint8Array): boolean {
  if ((answer[2] ?? 0) < 0x80) return false;
  const end = endOfQuestion(query);
  if (end === undefined || answer.length < end) return false;
  // Case may differ: some resolvers answer in lower case.
  const text = (bytes: Uint8Array) => Buffer.from(bytes.subarray(12, end)).toString("latin1");
  return text(answer).toLowerCase() === text(query).toLowerCase();
}

function endOfQuestion(bytes: Uint8Array): number | undefined {
  let place = 12;
  while (place < bytes.length) {
    const length = bytes[place] ?? 0;
    if (length === 0) return place + 5 <= bytes.length ? place + 5 : undefined;
    if (length > 63) return undefined;
    place += length + 1;
  }
  return undefined;
}

function askTcp(resolver: Resolver, query: Uint8Array): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: resolver.address, port: resolver.port });
    let received = Buffer.alloc(0);
    const end = (answer: Uint8Array | undefined) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => end(undefined), TRY_TIMEOUT_MS);
    socket.on("connect", () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(query.length);
      socket.write(Buffer.concat([length, query]));
    });
    socket.on("data", (bytes: Buffer) => {
      received = Buffer.concat([received, bytes]);
      if (received.length > TCP_MESSAGE_BYTES_MAX + 2) return end(undefined);
      if (received.length < 2) return undefined;
      const size = received.readUInt16BE(0);
      if (received.length < size + 2) return undefined;
      return end(size < 12 ? undefined : received.subarray(2, size + 2));
    });
    socket.on("error", () => end(undefined));
    socket.on("close", () => end(undefined));
  });
}
