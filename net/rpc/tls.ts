/**
 * Who a TLS peer is. The TLS library's verdict comes first, then ours: signed by the cluster's own
 * CA, a node's certificate, of our cluster. An unverified certificate's subject is never looked at:
 * a foreign CA writes whatever OU it likes.
 */
import { X509Certificate } from "node:crypto";
import type { SecureContextOptions, TLSSocket } from "node:tls";
import { ClusterError } from "../../core/errors.ts";
import { decodeCertificates } from "../pki/pem.ts";
import { type CertificateIdentity, identityOf, isIssuedBy, readCertificate } from "../pki/read.ts";
import type { PeerIdentity, TlsIdentity } from "./peer.ts";

/**
 * A node whose certificate has expired may ask for the next one for so long: it was switched off, or cut off.
 * Stock has no way back but to leave and join.
 */
export const EXPIRED_MS_MAX = 90 * 86_400_000;

/** Whom we believe: certificates of these CAs that name this cluster (any, while joining). */
export type Trust = { authorities: X509Certificate[]; clusterId?: string };

export function trustOf(caCertificatePem: string, clusterId?: string): Trust {
  const authorities = decodeCertificates(caCertificatePem).map((der) => new X509Certificate(der));
  return { authorities, ...(clusterId === undefined ? {} : { clusterId }) };
}

/** Trust of a certified node: its CA and the cluster that its own certificate names. */
export function trustOfNode(identity: TlsIdentity): Trust {
  return trustOf(identity.caCertificatePem, readCertificate(identity.certificatePem).clusterId);
}

/** The chain goes along (leaf, then CA), so that a joining node can compare the CA's digest. */
export function contextOptions(identity: TlsIdentity): SecureContextOptions {
  return {
    cert: identity.certificatePem + identity.caCertificatePem,
    key: identity.keyPem,
    ca: decodeCertificates(identity.caCertificatePem).map((der) =>
      new X509Certificate(der).toString(),
    ),
    minVersion: "TLSv1.3",
  };
}

/**
 * The peer's identity; without certificate only its address.
 * @throws {ClusterError} unauthenticated when it shows a certificate that is not a valid one of our
 * cluster.
 */
export function verifyPeer(socket: TLSSocket, trust: Trust): PeerIdentity {
  const address = plainAddress(socket.remoteAddress);
  const raw = rawCertificate(socket);
  if (!raw) return { address };
  const refuse = (why: string) =>
    new ClusterError("unauthenticated", `Cannot accept the certificate of ${address}: ${why}`);
  const certificate = new X509Certificate(raw);
  if (!socket.authorized) {
    const expired = expiredNodeOf(certificate, trust);
    if (expired !== undefined) return { expiredNodeId: expired, address };
    throw refuse(`it is not valid here (${authorizationErrorOf(socket)})`);
  }
  if (!isIssuedBy(certificate, trust.authorities, Date.now())) {
    throw refuse("it is expired or not signed by this cluster's CA");
  }
  const identity: CertificateIdentity | undefined = identityOf(certificate);
  if (!identity) throw refuse("it is no node's certificate");
  if (trust.clusterId !== undefined && identity.clusterId !== trust.clusterId) {
    throw refuse(`it is of cluster "${identity.clusterId}", this is "${trust.clusterId}"`);
  }
  const { nodeId, clusterId, role } = identity;
  return { nodeId, clusterId, role, address };
}

/**
 * The node of a certificate that is good but for its end, which is not long ago. That the peer has its key the
 * handshake has shown. The library's verdict is no help: it names one of several faults.
 */
function expiredNodeOf(certificate: X509Certificate, trust: Trust): string | undefined {
  const endMs = Date.parse(certificate.validTo);
  const nowMs = Date.now();
  if (nowMs <= endMs || nowMs > endMs + EXPIRED_MS_MAX) return undefined;
  if (!isIssuedBy(certificate, trust.authorities, endMs)) return undefined;
  const identity = identityOf(certificate);
  if (!identity) return undefined;
  const isOurs = trust.clusterId === undefined || identity.clusterId === trust.clusterId;
  return isOurs ? identity.nodeId : undefined;
}

/** Undefined without a certificate; Bun then gives an object without fields. */
export function rawCertificate(socket: TLSSocket): Uint8Array | undefined {
  const shown: { raw?: Uint8Array } | null | undefined = socket.getPeerCertificate();
  return shown?.raw;
}

function authorizationErrorOf(socket: TLSSocket): string {
  const error: unknown = socket.authorizationError;
  return error instanceof Error ? error.message : String(error);
}

/** IPv4 addresses on a dual-stack socket come as ::ffff:a.b.c.d. */
function plainAddress(address: string | undefined): string {
  return (address ?? "").replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/, "");
}
