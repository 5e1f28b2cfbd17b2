/**
 * Reading certificates with node:crypto alone: every node does it, so nothing heavy is imported.
 * Nothing here decides trust; see `isIssuedBy` for the one check that goes beyond the TLS library's.
 */
import { X509Certificate } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { NodeDescription, NodeRole } from "../../core/objects/node.ts";
import { DER_TAGS, readDerChildren, readDerElement } from "./der.ts";
import { decodeCertificates } from "./pem.ts";

/** Organisational unit of each role. Source: SwarmKit ca/certificates.go, ManagerRole, WorkerRole. */
export const ROLE_UNITS = { manager: "swarm-manager", worker: "swarm-worker" } as const;

export type CertificateIdentity = {
  nodeId: string;
  role: NodeRole;
  clusterId: string;
  notBeforeMs: UnixMs;
  notAfterMs: UnixMs;
};

/** @throws {ClusterError} invalid-argument when the text holds no readable certificate. */
export function parseCertificate(pem: string): X509Certificate {
  const [der] = decodeCertificates(pem);
  try {
    return new X509Certificate(der ?? "");
  } catch (cause) {
    throw new ClusterError("invalid-argument", "Cannot read the certificate", { cause });
  }
}

/** What a certificate says of its holder; undefined when it is not a node's certificate. */
export function identityOf(certificate: X509Certificate): CertificateIdentity | undefined {
  const subject = new Map<string, string>();
  // One attribute a line, as the name's RDNs are. A repeated attribute makes the name ambiguous.
  for (const line of certificate.subject.split("\n")) {
    const at = line.indexOf("=");
    const key = line.slice(0, at);
    if (at < 1 || subject.has(key)) return undefined;
    subject.set(key, line.slice(at + 1));
  }
  const nodeId = subject.get("CN");
  const clusterId = subject.get("O");
  const unit = subject.get("OU");
  const role: NodeRole | undefined =
    unit === ROLE_UNITS.manager ? "manager" : unit === ROLE_UNITS.worker ? "worker" : undefined;
  if (!nodeId || !clusterId || !role) return undefined;
  return {
    nodeId,
    role,
    clusterId,
    notBeforeMs: Date.parse(certificate.validFrom),
    notAfterMs: Date.parse(certificate.validTo),
  };
}

/**
 * Identity of a node certificate in PEM.
 * @throws {ClusterError} invalid-argument when it is not a node's certificate.
 */
export function readCertificate(certificatePem: string): CertificateIdentity {
  const certificate = parseCertificate(certificatePem);
  const identity = identityOf(certificate);
  if (identity) return identity;
  throw new ClusterError(
    "invalid-argument",
    `Cannot read a node's identity from the certificate of "${certificate.subject.replaceAll("\n", ", ")}": it needs CN, O and OU swarm-manager or swarm-worker`,
  );
}

/**
 * True when `certificate` bears the signature of one of the given CA certificates and now is within
 * its life. Asked besides the TLS library's verdict: whatever else the process trusts (system
 * roots, SSL_CERT_FILE), only the cluster's own CA makes a node.
 */
export function isIssuedBy(
  certificate: X509Certificate,
  authorities: X509Certificate[],
  nowMs: UnixMs,
): boolean {
  if (nowMs < Date.parse(certificate.validFrom) || nowMs > Date.parse(certificate.validTo)) {
    return false;
  }
  return authorities.some(
    (authority) =>
      authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey),
  );
}

/**
 * TLSInfo as the Docker API shows it: the trusted root (or roots) and, in base64, subject DER and
 * public key DER of the issuer: the root that signed `certificatePem`, without it the first one.
 * Source: Docker Engine API, definition TLSInfo.
 */
export function tlsInfo(
  caCertificatePem: string,
  certificatePem?: string,
): NonNullable<NodeDescription["TLSInfo"]> {
  const authority = issuerOf(caCertificatePem, certificatePem);
  const publicKey = authority.publicKey.export({ type: "spki", format: "der" });
  return {
    TrustRoot: caCertificatePem,
    CertIssuerSubject: Buffer.from(subjectDer(authority.raw)).toString("base64"),
    CertIssuerPublicKey: publicKey.toString("base64"),
  };
}

function issuerOf(caCertificatePem: string, certificatePem: string | undefined): X509Certificate {
  const first = parseCertificate(caCertificatePem);
  if (certificatePem === undefined) return first;
  const certificate = parseCertificate(certificatePem);
  const roots = decodeCertificates(caCertificatePem).map((der) => new X509Certificate(der));
  return roots.find((root) => certificate.verify(root.publicKey)) ?? first;
}

/**
 * The whole `Name` element of a certificate's subject. TBSCertificate is version [0] (absent in v1),
 * serial, algorithm, issuer, validity, subject. Source: RFC 5280 §4.1.
 */
function subjectDer(raw: Uint8Array): Uint8Array {
  const [tbs] = readDerChildren(raw, readDerElement(raw, 0));
  const fields = tbs ? readDerChildren(raw, tbs) : [];
  const subject = fields[fields[0]?.tag === DER_TAGS.context0 ? 5 : 4];
  if (!subject) throw new ClusterError("invalid-argument", "Cannot read the certificate's subject");
  return raw.subarray(subject.fullStart, subject.end);
}
