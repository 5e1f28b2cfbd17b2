/**
 * The docker-compatible API for clients on other machines: the front (front.ts) behind mutual TLS.
 *
 * Who may use the API is root on this host, so there is no way to serve it without client certificates:
 * those of the CA whose certificate the operator names. A node's certificate is refused even when that CA
 * is the cluster's own: else every worker could command the cluster.
 *
 * Each minute the files are read again, and every client that may not use the API any more (another CA, a
 * certificate that has ended) is cut off. Files that cannot be used are told once, and those before them
 * stay.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type TLSSocket } from "node:tls";
import { ClusterError } from "../../core/errors.ts";
import { decodeCertificates } from "../../net/pki/pem.ts";
import { identityOf, isIssuedBy } from "../../net/pki/read.ts";
import { rawCertificate } from "../../net/rpc/tls.ts";
import type { Logger } from "../logger.ts";
import { CONNECTIONS_MAX, type FrontUpstreams, serveClient } from "./front.ts";

/** Connections in their handshake; when there are more the oldest ends, so that nobody can fill the room. */
const HANDSHAKES_MAX = 256;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const RELOAD_PERIOD_MS = 60_000;
/** Addresses of which a refusal was told lately. */
const TOLD_MAX = 1_000;
/** A client that vanished without a word is found within a few minutes. */
const KEEP_ALIVE_MS = 30_000;

/** Paths of PEM files, as of dockerd's options of these names. */
export type ApiTlsFiles = { tlscacert: string; tlscert: string; tlskey: string };

/** `port` 0: any free one. */
export type ApiListen = { host: string; port: number; files: ApiTlsFiles };
export type TlsFrontOptions = ApiListen & {
  upstreams: FrontUpstreams;
  /** Refused clients and files that cannot be used, for the log. */
  onProblem?: (message: string) => void;
  reloadPeriodMs?: number;
};
export type TlsFront = { readonly port: number; close(): Promise<void> };

/**
 * Where and by which certificates the options want the API served; undefined when not at all. The address
 * in `apiListen` may be left out.
 * @throws {ClusterError} invalid-argument
 */
export function apiListenOf(
  options: Partial<ApiTlsFiles> & { apiListen?: string },
): ApiListen | undefined {
  const { apiListen, tlscacert, tlscert, tlskey } = options;
  if (apiListen === undefined) {
    if (tlscacert === undefined && tlscert === undefined && tlskey === undefined) return undefined;
    throw new ClusterError(
      "invalid-argument",
      "--tlscacert, --tlscert and --tlskey are for --api-listen, which is missing",
    );
  }
  const { host, port } = parseAddress(apiListen);
  if (tlscacert === undefined || tlscert === undefined || tlskey === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot serve the API at "${apiListen}": who may use it is root on this host, so clients need certificates: give --tlscacert, --tlscert and --tlskey ("shoal api-certs" makes them)`,
    );
  }
  return { host, port, files: { tlscacert, tlscert, tlskey } };
}

function parseAddress(text: string): { host: string; port: number } {
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]*)):(\d{1,5})\/?$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65_535) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot serve the API at "${text}": give tcp://<address>:<port>, such as tcp://0.0.0.0:2376`,
    );
  }
  return { host: match[1] ?? (match[2] || "0.0.0.0"), port };
}

/**
 * @throws {ClusterError} invalid-argument when a file cannot be used, unavailable when the address cannot
 * be listened on.
 */
export async function startTlsFront(options: TlsFrontOptions): Promise<TlsFront> {
  const { host, files, upstreams } = options;
  let context = readContext(files);
  const periodMs = options.reloadPeriodMs ?? RELOAD_PERIOD_MS;
  let told = "";
  const tell = (message: string) => {
    if (message !== told) options.onProblem?.(message);
    told = message;
  };
  /** Whose refusal was told since the last reload: a stranger is not to fill the log. */
  const refused = new Set<string>();
  const refuse = (socket: TLSSocket, why: string) => {
    const address = socket.remoteAddress ?? "";
    socket.destroy();
    if (refused.has(address) || refused.size >= TOLD_MAX) return;
    refused.add(address);
    options.onProblem?.(`Refused API client ${address}: ${why}`);
  };
  const sockets = new Set<TLSSocket>();
  const handshakes = new Map<TLSSocket, Timer>();
  const settle = (socket: TLSSocket) => {
    clearTimeout(handshakes.get(socket));
    handshakes.delete(socket);
  };

  const onSocket = (socket: TLSSocket) => {
    const [oldest] = handshakes.keys();
    if (handshakes.size >= HANDSHAKES_MAX) oldest?.destroy();
    sockets.add(socket);
    handshakes.set(
      socket,
      setTimeout(() => socket.destroy(), HANDSHAKE_TIMEOUT_MS),
    );
    // Until the front takes over; an unheard error would end the process.
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      sockets.delete(socket);
      settle(socket);
    });
  };
  const onSecure = (socket: TLSSocket) => {
    if (socket.destroyed) return;
    settle(socket);
    const refusal = refusalOf(socket, context.authorities);
    if (refusal !== undefined) {
      refuse(socket, refusal);
      return;
    }
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    serveClient(socket, upstreams, sockets.size > CONNECTIONS_MAX);
  };

  const server = createServer(
    { ...context.options, allowHalfOpen: true, handshakeTimeout: HANDSHAKE_TIMEOUT_MS },
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
          `Cannot serve the API at tcp://${host}:${options.port}: ${cause.message}`,
          { cause },
        ),
      ),
    );
    server.listen(options.port, host, resolve);
  });
  server.on("error", (error) => tell(`The API's listener failed: ${error.message}`));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : options.port;

  const reload = setInterval(() => {
    refused.clear();
    try {
      const next = readContext(files);
      if (next.key !== context.key) server.setSecureContext(next.options);
      context = next;
      told = "";
    } catch (error) {
      // Also what the TLS library says of a certificate that it cannot use.
      tell(`The API's certificates stay as they are: ${messageOf(error)}`);
    }
    for (const socket of sockets) {
      const refusal = handshakes.has(socket) ? undefined : refusalOf(socket, context.authorities);
      if (refusal !== undefined) refuse(socket, refusal);
    }
  }, periodMs);
  reload.unref();

  return {
    port,
    close: async () => {
      clearInterval(reload);
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/**
 * Serves until it is closed: what hinders it is told, and tried again each minute. A lost or broken file is
 * no reason to leave the cluster's containers alone.
 */
export function keepTlsFront(
  options: TlsFrontOptions,
  log: Pick<Logger, "info" | "warn" | "error">,
): { close(): Promise<void> } {
  let front: TlsFront | undefined;
  let timer: Timer | undefined;
  let isClosed = false;
  let told = "";
  const onProblem = (message: string) => log.warn({ component: "api" }, message);
  const start = async () => {
    try {
      front = await startTlsFront({ ...options, onProblem });
      log.info({ component: "api", host: options.host, port: front.port }, "Serving by TLS");
    } catch (error) {
      const message = messageOf(error);
      if (message !== told) log.error({ component: "api" }, message);
      told = message;
      if (!isClosed) timer = setTimeout(attempt, RELOAD_PERIOD_MS);
    }
  };
  let attempts = Promise.resolve();
  const attempt = () => {
    attempts = start();
  };
  attempt();
  return {
    close: async () => {
      isClosed = true;
      clearTimeout(timer);
      await attempts;
      await front?.close();
    },
  };
}

/** What the files say, in the forms that are needed; `key` tells whether they have changed. */
function readContext(files: ApiTlsFiles) {
  const read = (option: keyof ApiTlsFiles) => {
    try {
      return readFileSync(files[option], "utf8");
    } catch (cause) {
      throw unusable(option, files[option], messageOf(cause), cause);
    }
  };
  const [ca, cert, keyPem] = [read("tlscacert"), read("tlscert"), read("tlskey")];
  const parse = (option: "tlscacert" | "tlscert", text: string) => {
    try {
      return decodeCertificates(text).map((der) => new X509Certificate(der));
    } catch (cause) {
      throw unusable(option, files[option], "it is no certificate in PEM", cause);
    }
  };
  const authorities = parse("tlscacert", ca);
  const [own] = parse("tlscert", cert);
  let key: ReturnType<typeof createPrivateKey>;
  try {
    key = createPrivateKey(keyPem);
  } catch (cause) {
    throw unusable(
      "tlskey",
      files.tlskey,
      "it is no private key in PEM without a passphrase",
      cause,
    );
  }
  if (own?.checkPrivateKey(key) !== true) {
    throw unusable("tlskey", files.tlskey, `it is not the key of ${files.tlscert}`);
  }
  return {
    key: [ca, cert, keyPem].join("\n"),
    authorities,
    options: {
      cert,
      key: keyPem,
      ca: authorities.map((authority) => authority.toString()),
      minVersion: "TLSv1.2" as const,
      requestCert: true,
      // Judged by `refusalOf`, too: the library also trusts what the system trusts.
      rejectUnauthorized: false,
    },
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function unusable(option: string, path: string, why: string, cause?: unknown): ClusterError {
  return new ClusterError("invalid-argument", `Cannot use --${option} "${path}": ${why}`, {
    cause,
  });
}

/** Why this client may not use the API; undefined when it may. */
function refusalOf(socket: TLSSocket, authorities: X509Certificate[]): string | undefined {
  const raw = rawCertificate(socket);
  if (!raw) return "it showed no certificate";
  const certificate = new X509Certificate(raw);
  if (!socket.authorized)
    return `its certificate is not valid (${String(socket.authorizationError)})`;
  if (!isIssuedBy(certificate, authorities, Date.now())) {
    return "its certificate is not signed by the CA of --tlscacert";
  }
  if (identityOf(certificate)) return "its certificate is a node's, not a user's";
  return undefined;
}
