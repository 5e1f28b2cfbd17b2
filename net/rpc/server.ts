/**
 * The one listening port of a manager. Owns the listener, its certificate and the bounds on who may
 * hold a connection; each connection is connection.ts's.
 *
 * 1. Role and cluster come from a verified certificate (tls.ts); a peer that shows a certificate we
 *    do not accept is told so and closed. Without certificate only methods of role `any` are
 *    served, a few connections at once, for a short time.
 * 2. A new certificate or CA (setTls) counts for new connections; those that exist go on.
 */
import { type Server, type TLSSocket, createServer } from "node:tls";
import { ClusterError } from "../../core/errors.ts";
import {
  type OwnedConnection,
  type RpcHandlers,
  type RpcNoteHandlers,
  createConnection,
  describe,
} from "./connection.ts";
import type { PeerIdentity, RpcConnection, TlsIdentity } from "./peer.ts";
import { type Trust, contextOptions, trustOf, trustOfNode, verifyPeer } from "./tls.ts";

export type { RpcHandlers, RpcNoteHandlers } from "./connection.ts";

/** Sockets in all; more are closed at once. */
export const CONNECTIONS_MAX = 10_000;
/** Sockets that have not finished their handshake and hello; more are closed at once. */
export const OPENING_MAX = 1_024;
/** Open connections without certificate: joins under way. */
export const UNAUTHENTICATED_MAX = 64;
/** Life of a connection without certificate, and of a handshake. */
export const UNAUTHENTICATED_LIFE_MS = 10_000;

export type RpcServerOptions = {
  host: string;
  /** 0: any free one. */
  port: number;
  tls: TlsIdentity;
  /** Absent: the one that the own certificate names. */
  clusterId?: string;
  handlers: RpcHandlers;
  notes?: RpcNoteHandlers;
  /** Asked when a certified peer connects and before each of its requests; throws the refusal. */
  admit?: (peer: PeerIdentity) => void;
  /** A peer has said hello. */
  onConnection?: (connection: RpcConnection) => void;
  /** Bugs in handlers and refused peers, for the log. */
  onError?: (where: string, error: unknown) => void;
  limits?: Partial<RpcServerLimits>;
};
export type RpcServerLimits = {
  connectionsMax: number;
  openingMax: number;
  unauthenticatedMax: number;
  unauthenticatedLifeMs: number;
  tickMs: number;
};

export type RpcServer = {
  readonly port: number;
  /** @throws {ClusterError} invalid-argument when the certificate is unreadable; the old one stays. */
  setTls(identity: TlsIdentity): void;
  /** Those that said hello. */
  connections(): RpcConnection[];
  /** Ends the listener and every connection. */
  close(): Promise<void>;
};

/** @throws {ClusterError} unavailable when the address cannot be listened on. */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const limits: RpcServerLimits = {
    connectionsMax: CONNECTIONS_MAX,
    openingMax: OPENING_MAX,
    unauthenticatedMax: UNAUTHENTICATED_MAX,
    unauthenticatedLifeMs: UNAUTHENTICATED_LIFE_MS,
    tickMs: 1_000,
    ...options.limits,
  };
  const sockets = new Set<TLSSocket>();
  /** Not yet through handshake and hello. */
  const opening = new Map<TLSSocket, Timer>();
  const open = new Map<RpcConnection, OwnedConnection>();
  let unauthenticatedCount = 0;
  const trustFor = (identity: TlsIdentity): Trust =>
    options.clusterId === undefined
      ? trustOfNode(identity)
      : trustOf(identity.caCertificatePem, options.clusterId);
  let trust = trustFor(options.tls);
  const tlsOptions = (identity: TlsIdentity) => ({
    ...contextOptions(identity),
    requestCert: true,
    // We judge ourselves (tls.ts): a joining node has no certificate yet.
    rejectUnauthorized: false,
  });

  const onSocket = (socket: TLSSocket) => {
    if (sockets.size >= limits.connectionsMax || opening.size >= limits.openingMax) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    opening.set(
      socket,
      setTimeout(() => socket.destroy(), limits.unauthenticatedLifeMs),
    );
    // Until the connection takes over; an unheard error would end the process.
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      sockets.delete(socket);
      ready(socket);
    });
  };
  const ready = (socket: TLSSocket) => {
    clearTimeout(opening.get(socket));
    opening.delete(socket);
  };

  const onSecure = (socket: TLSSocket) => {
    if (socket.destroyed) return;
    socket.setNoDelay(true);
    let peer: PeerIdentity = { address: socket.remoteAddress ?? "" };
    let refusal: ClusterError | undefined;
    try {
      peer = verifyPeer(socket, trust);
      if (peer.nodeId !== undefined) options.admit?.(peer);
      else if (unauthenticatedCount >= limits.unauthenticatedMax) {
        refusal = new ClusterError("busy", `${unauthenticatedCount} nodes are joining right now`, {
          retry: "later",
        });
      }
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      refusal = error;
    }
    const owned = createConnection({
      socket,
      peer,
      side: "server",
      handlers: options.handlers,
      tickMs: limits.tickMs,
      ...(options.notes ? { notes: options.notes } : {}),
      ...(options.admit ? { admit: options.admit } : {}),
      onHandlerError: (method, error) => options.onError?.(method, error),
    });
    const { connection } = owned;
    if (refusal) {
      options.onError?.("connection", refusal);
      owned.refuse(refusal);
      return;
    }
    if (peer.nodeId === undefined) {
      unauthenticatedCount++;
      const timer = setTimeout(
        () =>
          owned.refuse(
            new ClusterError("deadline", "A connection without certificate ends after a while"),
          ),
        limits.unauthenticatedLifeMs,
      );
      connection.onClose(() => {
        unauthenticatedCount--;
        clearTimeout(timer);
      });
    }
    owned.opened.then(
      () => {
        ready(socket);
        open.set(connection, owned);
        connection.onClose(() => open.delete(connection));
        options.onConnection?.(connection);
      },
      // Closed before its hello: nothing is left to do.
      () => undefined,
    );
  };

  const server: Server = createServer(
    { ...tlsOptions(options.tls), handshakeTimeout: limits.unauthenticatedLifeMs },
    onSecure,
  );
  // In Bun this is the TLSSocket itself, before its handshake.
  server.on("connection", (socket) => onSocket(socket as TLSSocket));
  server.on("tlsClientError", (_error, socket) => socket?.destroy());

  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(
        new ClusterError(
          "unavailable",
          `Cannot listen on ${options.host}:${options.port}: ${describe(cause)}`,
          { cause },
        ),
      ),
    );
    server.listen(options.port, options.host, resolve);
  });
  server.on("error", (error) => options.onError?.("listener", error));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : options.port;

  return {
    port,
    setTls: (identity) => {
      const next = trustFor(identity);
      server.setSecureContext(tlsOptions(identity));
      trust = next;
    },
    connections: () => [...open.keys()],
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      const reason = new ClusterError("unavailable", "This manager stops", { retry: "later" });
      for (const owned of open.values()) owned.refuse(reason);
      for (const socket of opening.keys()) socket.destroy();
      const lingering = setTimeout(() => {
        for (const socket of sockets) socket.destroy();
      }, 200);
      await closed;
      clearTimeout(lingering);
      for (const socket of sockets) socket.destroy();
    },
  };
}
