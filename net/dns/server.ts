/**
 * The DNS server of a node: UDP and TCP on the gateway address of each overlay network that is here.
 *
 * Docker's embedded resolver sends what it does not know to the gateway from inside the container's
 * namespace, so the asker's address tells who asks. A gateway address can be bound once its bridge
 * exists; until then binding is tried again. Sockets outlive a bridge that is made anew.
 * Bounds: TCP connections, questions per connection, questions sent on (`upstream.ts`). Malformed
 * messages are dropped and counted.
 */
import { createServer, type Server, type Socket } from "node:net";
import { isInBlock, parseIpv4 } from "../mesh/ipv4.ts";
import { answerQuestion, networksOfAsker } from "./answer.ts";
import { decodeQuery, type DecodedQuery, encodeAnswer } from "./codec.ts";
import { type NameTable, nameserversOf, type NetworkNames } from "./name-table.ts";
import { hostResolvers, type Resolver, startUpstream } from "./upstream.ts";

const BIND_RETRY_MS = 1_000;
const TCP_CONNECTIONS_MAX = 256;
const TCP_IDLE_MS = 10_000;
/** Questions of one connection that wait for an upstream; more end the connection. */
const TCP_PENDING_MAX = 16;

export type DnsCounts = { asked: number; forwarded: number; malformed: number; failed: number };

export type DnsServer = {
  /** The addresses to serve on; others are closed. */
  setAddresses(addresses: string[]): void;
  /** Addresses with both transports bound, with their ports. */
  bound(): { address: string; udpPort: number; tcpPort: number }[];
  counts(): DnsCounts;
  stop(): void;
};

export type DnsServerOptions = {
  /** 0 lets the kernel choose, in tests. */
  port: number;
  /** May change at any time. */
  names: NameTable;
  resolvers?: () => Promise<Resolver[]>;
};

type Listener = {
  udp: Bun.udp.Socket<"buffer"> | undefined;
  tcp: Server | undefined;
  isOpening: boolean;
};

/** Serves nothing until it is given addresses. */
export function startDnsServer(options: DnsServerOptions): DnsServer {
  const listeners = new Map<string, Listener>();
  const upstream = startUpstream(options.resolvers ?? hostResolvers());
  const counts: DnsCounts = { asked: 0, forwarded: 0, malformed: 0, failed: 0 };
  const { names } = options;
  let retryTimer: Timer | undefined;
  let isStopped = false;

  /** At once for the cluster's names; a promise for what others are asked. */
  const respond = (
    bytes: Uint8Array,
    asker: string,
    transport: "udp" | "tcp",
  ): Uint8Array | undefined | Promise<Uint8Array> => {
    const query = decodeQuery(bytes);
    if (!query) {
      counts.malformed += 1;
      return undefined;
    }
    counts.asked += 1;
    const answer = answerQuestion(query.question, names, asker, Math.random);
    if (answer.type === "reply") {
      return encodeAnswer(query, { ...answer, isAuthority: true }, transport);
    }
    counts.forwarded += 1;
    return forward(query, bytes, asker, transport);
  };
  const forward = async (
    query: DecodedQuery,
    bytes: Uint8Array,
    asker: string,
    transport: "udp" | "tcp",
  ): Promise<Uint8Array> => {
    const allowed = allowedResolvers(names, asker);
    const forwarded =
      allowed === "none" ? undefined : await upstream.ask(bytes, transport, allowed);
    if (forwarded) return forwarded;
    counts.failed += 1;
    return encodeAnswer(query, { code: "SERVFAIL", isAuthority: false, records: [] }, transport);
  };

  const openUdp = (address: string) =>
    Bun.udpSocket({
      hostname: address,
      port: options.port,
      socket: {
        data: (socket, bytes, port, asker) => {
          const answer = respond(bytes, asker, "udp");
          if (!(answer instanceof Promise)) {
            if (answer) socket.send(answer, port, asker);
            return;
          }
          answer.then(
            (late) => {
              if (!socket.closed) socket.send(late, port, asker);
            },
            () => {
              counts.failed += 1;
            },
          );
        },
        // An asker that is gone already: its next question is a new one.
        error: () => undefined,
      },
    });

  const openTcp = (address: string, port: number) =>
    new Promise<Server>((resolve, reject) => {
      const server = createServer((socket) => serveConnection(socket, respond));
      server.maxConnections = TCP_CONNECTIONS_MAX;
      server.once("error", reject);
      server.listen({ host: address, port }, () => {
        server.removeListener("error", reject);
        server.on("error", () => undefined);
        resolve(server);
      });
    });

  const open = async (address: string, listener: Listener) => {
    if (listener.isOpening || (listener.udp && listener.tcp)) return;
    listener.isOpening = true;
    try {
      listener.udp ??= await openUdp(address);
      listener.tcp ??= await openTcp(address, listener.udp.port);
    } catch {
      // The bridge is not there yet, or another server holds the port: both are tried again.
      close(listener);
      retrySoon();
    } finally {
      listener.isOpening = false;
      if (isStopped || listeners.get(address) !== listener) close(listener);
    }
  };
  const close = (listener: Listener) => {
    listener.udp?.close();
    listener.tcp?.close();
    listener.udp = undefined;
    listener.tcp = undefined;
  };
  const retrySoon = () => {
    if (isStopped) return;
    retryTimer ??= setTimeout(() => {
      retryTimer = undefined;
      for (const [address, listener] of listeners) void open(address, listener);
    }, BIND_RETRY_MS);
  };

  return {
    setAddresses: (addresses) => {
      const wanted = new Set(addresses);
      for (const [address, listener] of listeners) {
        if (wanted.has(address)) continue;
        listeners.delete(address);
        close(listener);
      }
      for (const address of wanted) {
        const listener = listeners.get(address) ?? {
          udp: undefined,
          tcp: undefined,
          isOpening: false,
        };
        listeners.set(address, listener);
        void open(address, listener);
      }
    },
    bound: () =>
      [...listeners].flatMap(([address, { udp, tcp }]) => {
        const tcpAddress = tcp?.address();
        if (!udp || typeof tcpAddress !== "object" || !tcpAddress) return [];
        return [{ address, udpPort: udp.port, tcpPort: tcpAddress.port }];
      }),
    counts: () => ({ ...counts }),
    stop: () => {
      isStopped = true;
      clearTimeout(retryTimer);
      for (const listener of listeners.values()) close(listener);
      listeners.clear();
      upstream.stop();
    },
  };
}

/**
 * Whom a question of this asker may be sent on to: the servers that its user chose; `none` on internal
 * networks, whose containers would else reach the world through our questions; undefined: the host's.
 * The chosen ones are asked from the host: on the container's own loopback nobody is reached.
 */
function allowedResolvers(names: NameTable, asker: string): Resolver[] | "none" | undefined {
  const networks = networksOfAsker(names, asker);
  const isInternal = networks.length > 0 && networks.every((network) => network.isInternal);
  const chosen = nameserversOf(names, asker);
  if (!chosen) return isInternal ? "none" : undefined;
  const allowed = chosen.filter(
    (address) =>
      !isLoopback(address) && (!isInternal || networks.some((network) => isOn(network, address))),
  );
  return allowed.length === 0 ? "none" : allowed.map((address) => ({ address, port: 53 }));
}

function isLoopback(address: string): boolean {
  return address.startsWith("127.") || address === "::1";
}

function isOn({ block }: NetworkNames, address: string): boolean {
  const value = parseIpv4(address);
  return block !== undefined && value !== undefined && isInBlock(block, value);
}

/** Length-prefixed questions, answered in any order. Source: RFC 7766 §6. */
function serveConnection(
  socket: Socket,
  respond: (
    bytes: Uint8Array,
    asker: string,
    transport: "tcp",
  ) => Uint8Array | undefined | Promise<Uint8Array>,
): void {
  const asker = (socket.remoteAddress ?? "").replace(/^::ffff:/, "");
  let received = Buffer.alloc(0);
  let pending = 0;
  socket.setTimeout(TCP_IDLE_MS, () => socket.destroy());
  socket.on("error", () => socket.destroy());
  const answer = async (question: Uint8Array) => {
    pending += 1;
    const bytes = await respond(question, asker, "tcp");
    pending -= 1;
    if (!bytes || socket.destroyed) return;
    const length = Buffer.alloc(2);
    length.writeUInt16BE(bytes.length);
    socket.write(Buffer.concat([length, bytes]));
  };
  socket.on("data", (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
      const end = 2 + received.readUInt16BE(0);
      const question = received.subarray(2, end);
      received = received.subarray(end);
      if (pending >= TCP_PENDING_MAX) {
        socket.destroy();
        return;
      }
      answer(question).catch(() => socket.destroy());
    }
  });
}
