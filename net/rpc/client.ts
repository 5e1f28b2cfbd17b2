/** Connecting to a manager: with the node's certificate, or as a joining node with a token. */
import { X509Certificate } from "node:crypto";
import { type DetailedPeerCertificate, type TLSSocket, connect } from "node:tls";
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import type { NodeRole } from "../../core/objects/node.ts";
import { caDigest, parseJoinToken } from "../pki/join-token.ts";
import { encodePem } from "../pki/pem.ts";
import { identityOf, isIssuedBy } from "../pki/read.ts";
import {
  type RpcHandlers,
  type RpcNoteHandlers,
  createConnection,
  describe,
} from "./connection.ts";
import type { RpcConnection, TlsIdentity } from "./peer.ts";
import { contextOptions, trustOf, trustOfNode, verifyPeer } from "./tls.ts";

const DEFAULT_PORT = 2377;
/** Certificates looked at in a presented chain. */
const CHAIN_MAX = 5;

export type ConnectOptions = {
  /** `host:port` or `[IPv6]:port`. */
  addr: string;
  /** This node's certificate; absent while joining, then `caCertificatePem` says whom to believe. */
  tls?: TlsIdentity;
  caCertificatePem?: string;
  /** For connect, handshake and hello together. */
  timeoutMs: number;
  /** Refuse another node at this address. */
  expectNodeId?: string;
  /** Default: manager, for nobody else listens. */
  expectRole?: NodeRole;
  notes?: RpcNoteHandlers;
  /** What the manager may ask over this connection. @default nothing */
  handlers?: RpcHandlers;
  /** Bugs in them. */
  onHandlerError?: (method: string, error: unknown) => void;
  /** Period of the proof of life (connection.ts). */
  tickMs?: number;
};

/**
 * An open connection: the server is a certified manager of our cluster and has accepted us (its
 * hello says so; with TLS 1.3 a refused client would at first see itself connected).
 * @throws {ClusterError} unavailable when it cannot be reached or is not the node that is meant,
 * deadline, unauthenticated when one side does not accept the other's certificate, or the refusal that
 * the server gives.
 */
export async function connectRpc(options: ConnectOptions): Promise<RpcConnection> {
  const { addr, timeoutMs, tls, expectNodeId, expectRole = "manager" } = options;
  const caCertificatePem = tls?.caCertificatePem ?? options.caCertificatePem;
  assert(caCertificatePem !== undefined, "A client knows the CA of the cluster");
  const trust = tls ? trustOfNode(tls) : trustOf(caCertificatePem);
  const endsAtMs = Date.now() + timeoutMs;
  const socket = await openSocket(addr, timeoutMs, {
    ...(tls ? contextOptions(tls) : {}),
    ca: trust.authorities.map((authority) => authority.toString()),
  });
  try {
    const peer = verifyPeer(socket, trust);
    const refuse = (why: string) =>
      new ClusterError("unauthenticated", `Cannot use the node at ${addr}: ${why}`);
    if (peer.expiredNodeId !== undefined) throw expired(addr);
    if (peer.nodeId === undefined) throw refuse("it shows no certificate");
    if (peer.role !== expectRole) throw refuse(`it is a ${peer.role}, not a ${expectRole}`);
    if (expectNodeId !== undefined && peer.nodeId !== expectNodeId) {
      // Another machine has the address now; of the node itself that says nothing.
      throw new ClusterError(
        "unavailable",
        `Cannot use the node at ${addr}: it is node ${peer.nodeId}, not ${expectNodeId}`,
        { retry: "later" },
      );
    }
    const { connection, opened } = createConnection({
      socket,
      peer,
      side: "client",
      ...(options.notes ? { notes: options.notes } : {}),
      ...(options.handlers ? { handlers: options.handlers } : {}),
      ...(options.onHandlerError ? { onHandlerError: options.onHandlerError } : {}),
      ...(options.tickMs === undefined ? {} : { tickMs: options.tickMs }),
    });
    const timer = setTimeout(() => connection.close(), Math.max(1, endsAtMs - Date.now()));
    try {
      await opened;
    } catch (error) {
      if (Date.now() < endsAtMs) throw error;
      throw late(addr, timeoutMs);
    } finally {
      clearTimeout(timer);
    }
    return connection;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/**
 * The root CA of the cluster at `addr`, recognised by the token's digest. Nothing is sent to the
 * server: its chain is taken without trust, the CA in it must have the digest, and must have
 * signed the server's certificate, which must be a manager's.
 * @throws {ClusterError} invalid-argument for a malformed token; failed-precondition `remote CA does
 * not match fingerprint. …`; unauthenticated when the chain is not a manager's; unavailable; deadline.
 */
export async function fetchRootCa(options: {
  addr: string;
  token: string;
  timeoutMs: number;
}): Promise<string> {
  const { addr, timeoutMs } = options;
  const expected = parseJoinToken(options.token).caDigest;
  const socket = await openSocket(addr, timeoutMs, { rejectUnauthorized: false });
  const chain = presentedChain(socket);
  socket.destroy();
  const [leaf] = chain;
  const candidates = chain
    .slice(1)
    .map((certificate) => ({ certificate, pem: encodePem("CERTIFICATE", certificate.raw) }));
  const found = candidates.find(({ pem }) => caDigest(pem) === expected);
  if (!found) {
    const shown = candidates.map(({ pem }) => caDigest(pem)).join(", ") || "none";
    throw new ClusterError(
      "failed-precondition",
      // Docker's words, and what they lack.
      `remote CA does not match fingerprint. Expected: ${expected}, the node at ${addr} shows: ${shown}; use the join token of the cluster that this node belongs to`,
      { details: { expected, shown } },
    );
  }
  if (!leaf || !isIssuedBy(leaf, [found.certificate], Date.now())) {
    throw new ClusterError(
      "unauthenticated",
      `Cannot use the node at ${addr}: its certificate is not valid or not signed by the CA it shows`,
    );
  }
  const identity = identityOf(leaf);
  if (identity?.role !== "manager") {
    throw new ClusterError(
      "unauthenticated",
      `Cannot use the node at ${addr}: its certificate is not a manager's`,
    );
  }
  return found.pem;
}

/**
 * The CA that the node at `addr` shows, taken without trust: for messages that need none, since they are
 * sealed by a secret that both sides have.
 * @throws {ClusterError} unavailable, deadline.
 */
export async function fetchShownCa(options: { addr: string; timeoutMs: number }): Promise<string> {
  const socket = await openSocket(options.addr, options.timeoutMs, { rejectUnauthorized: false });
  const ca = presentedChain(socket).find((certificate) => certificate.ca);
  socket.destroy();
  if (ca) return encodePem("CERTIFICATE", ca.raw);
  throw new ClusterError("unavailable", `The node at ${options.addr} shows no CA`);
}

/** Host and port of `host:port`, `[IPv6]:port`, or either without a port. */
export function splitAddress(addr: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(addr);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? DEFAULT_PORT : Number(match[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new ClusterError("invalid-argument", `Cannot use address "${addr}": write host:port`);
  }
  return { host, port };
}

function late(addr: string, timeoutMs: number): ClusterError {
  return new ClusterError("deadline", `${addr} did not answer in ${timeoutMs} ms`, {
    retry: "later",
  });
}

/** A socket through its handshake; the server's certificate is not judged yet. */
function openSocket(
  addr: string,
  timeoutMs: number,
  tlsOptions: Parameters<typeof connect>[0],
): Promise<TLSSocket> {
  const { host, port } = splitAddress(addr);
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...tlsOptions,
      host,
      port,
      minVersion: "TLSv1.3",
      // A node is known by CN, OU and O of its certificate, not by where it is reached.
      checkServerIdentity: () => undefined,
    });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(late(addr, timeoutMs));
    }, timeoutMs);
    const onError = (cause: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      reject(connectError(addr, cause));
    };
    const onClose = () => onError(new Error("the connection was closed"));
    socket.once("error", onError);
    socket.once("close", onClose);
    socket.once("secureConnect", () => {
      clearTimeout(timer);
      socket.off("error", onError);
      socket.off("close", onClose);
      // Until the connection takes over; an unheard error would end the process.
      socket.on("error", () => undefined);
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}

/** It passes: a manager that was off renews its certificate as soon as it finds the others, or itself leads. */
function expired(addr: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "unavailable",
    `Cannot use the manager at ${addr} yet: its certificate has expired, and it has not renewed it`,
    { cause, retry: "later" },
  );
}

function connectError(addr: string, cause: unknown): ClusterError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  if (code === "CERT_HAS_EXPIRED") return expired(addr, cause);
  // OpenSSL's verdicts on the server's certificate; the rest are the network's.
  if (/CERT|SELF_SIGNED|VERIFY|ISSUER|ALTNAME/.test(code)) {
    return new ClusterError(
      "unauthenticated",
      `Cannot accept the certificate of ${addr}: it is not valid in this cluster (${code})`,
      { cause },
    );
  }
  return new ClusterError("unavailable", `Cannot connect to ${addr}: ${describe(cause)}`, {
    cause,
    retry: "later",
  });
}

/** Leaf first. */
function presentedChain(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  // Bun leaves fields out where Node's type has them: without certificate, at the chain's end.
  let next: Partial<DetailedPeerCertificate> | undefined | null = socket.getPeerCertificate(true);
  while (next?.raw && chain.length < CHAIN_MAX) {
    const certificate = new X509Certificate(next.raw);
    if (chain.some((known) => known.fingerprint256 === certificate.fingerprint256)) break;
    chain.push(certificate);
    next = next.issuerCertificate;
  }
  return chain;
}
