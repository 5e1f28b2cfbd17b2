/**
 * Making keys, requests and certificates. The CA's work is done by @peculiar/x509 (kept by others;
 * this file is its only user) and that library is loaded at the first use: it costs some 100 ms and
 * 20 MB, which a worker node that only asks for certificates never pays.
 *
 * Rules: ECDSA P-256 everywhere; a request proves possession of its key and nothing else, the CA
 * writes every other field; all certificates are backdated by an hour for clocks that run behind.
 * Source: SwarmKit ca/certificates.go.
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  randomBytes,
  sign,
} from "node:crypto";
import { isIP } from "node:net";
import { promisify } from "node:util";
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { NodeRole } from "../../core/objects/node.ts";
import type { Random } from "../../core/random.ts";
import { DER_TAGS, encodeDer } from "./der.ts";
import { decodeCertificates, encodePem } from "./pem.ts";
import { ROLE_UNITS, parseCertificate } from "./read.ts";

const BACKDATE_MS = 3_600_000;
const ROOT_LIFE_MS = 20 * 365 * 86_400_000;
/** Source: SwarmKit manager/controlapi/ca_rotation.go, minRootExpiration. */
const OWN_ROOT_LIFE_MS_MIN = 365 * 86_400_000;
/** Source: SwarmKit ca/certificates.go, MinNodeCertExpiration. */
export const CERTIFICATE_LIFE_MS_MIN = 3_600_000;
const SERIAL_BYTES = 16;
const CSR_LENGTH_MAX = 16_384;
const SANS_MAX = 16;
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export type CertificateAuthority = { certificatePem: string; keyPem: string };

type X509Library = typeof import("@peculiar/x509");
let library: Promise<X509Library> | undefined;
function loadLibrary(): Promise<X509Library> {
  library ??= (async () => {
    // The library's decorators need it, and it must come first.
    await import("reflect-metadata");
    return import("@peculiar/x509");
  })();
  return library;
}

/** A new root: self-signed, 20 years. @default name swarm-ca */
export async function createRootCa(
  options: { random?: Random; nowMs?: UnixMs; name?: string } = {},
): Promise<CertificateAuthority> {
  const { nowMs = Date.now(), name = "swarm-ca" } = options;
  const x509 = await loadLibrary();
  const { keyPem, spki } = await createKey();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(options.random),
    name: [{ CN: [name] }],
    notBefore: new Date(nowMs - BACKDATE_MS),
    notAfter: new Date(nowMs + ROOT_LIFE_MS),
    signingAlgorithm: ALGORITHM,
    keys: { privateKey: await importKey(keyPem), publicKey: await importPublicKey(spki) },
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      new x509.SubjectKeyIdentifierExtension(keyIdentifier(spki)),
    ],
  });
  return { certificatePem: encodePem("CERTIFICATE", new Uint8Array(certificate.rawData)), keyPem };
}

/**
 * A root that the user brings: one self-signed P-256 CA certificate with its key, or without (empty) when an
 * external CA has it.
 * @throws {ClusterError} invalid-argument saying what is wrong with it.
 */
export function readRootCa(given: {
  certificatePem: string;
  keyPem: string;
  nowMs: UnixMs;
}): CertificateAuthority {
  const refuse = (why: string) =>
    new ClusterError("invalid-argument", `Cannot use the given root CA: ${why}`);
  const certificates = decodeCertificates(given.certificatePem);
  if (certificates.length !== 1) {
    throw refuse(`the file has ${certificates.length} certificates, it must have one`);
  }
  const certificate = parseCertificate(given.certificatePem);
  const { namedCurve } = certificate.publicKey.asymmetricKeyDetails ?? {};
  if (namedCurve !== "prime256v1") {
    throw refuse(
      `its key is ${namedCurve ?? certificate.publicKey.asymmetricKeyType ?? "unknown"}, it must be ECDSA P-256`,
    );
  }
  if (!certificate.ca) throw refuse("it is not a CA's certificate");
  if (!certificate.verify(certificate.publicKey)) {
    throw refuse("it is not signed by itself, intermediates are not supported");
  }
  if (Date.parse(certificate.validTo) < given.nowMs + OWN_ROOT_LIFE_MS_MIN) {
    throw refuse(`it ends ${certificate.validTo}, a year of life is needed at least`);
  }
  const certificatePem = encodePem("CERTIFICATE", certificate.raw);
  if (given.keyPem === "") return { certificatePem, keyPem: "" };
  let key: KeyObject;
  try {
    key = createPrivateKey(given.keyPem);
  } catch (cause) {
    throw new ClusterError(
      "invalid-argument",
      "Cannot use the given root CA: its key is not readable",
      {
        cause,
      },
    );
  }
  if (!certificate.checkPrivateKey(key)) throw refuse("the key is not the certificate's");
  return { certificatePem, keyPem: key.export({ type: "pkcs8", format: "pem" }) };
}

/** A node's new key and the request (PKCS #10) for its certificate. The key never leaves the node. */
export async function createKeyAndCsr(): Promise<{ keyPem: string; csrPem: string }> {
  const { keyPem, spki } = await createKey();
  const version = encodeDer(DER_TAGS.integer, Uint8Array.of(0));
  // An empty subject: the CA would not read it.
  const subject = encodeDer(DER_TAGS.sequence);
  const body = encodeDer(DER_TAGS.sequence, version, subject, spki, encodeDer(DER_TAGS.context0));
  const algorithm = encodeDer(
    DER_TAGS.sequence,
    // ecdsa-with-SHA256, 1.2.840.10045.4.3.2
    encodeDer(DER_TAGS.objectIdentifier, Buffer.from("2a8648ce3d040302", "hex")),
  );
  const signature = encodeDer(DER_TAGS.bitString, Uint8Array.of(0), sign("sha256", body, keyPem));
  const request = encodeDer(DER_TAGS.sequence, body, algorithm, signature);
  return { keyPem, csrPem: encodePem("CERTIFICATE REQUEST", request) };
}

/**
 * Signs a node's certificate. Of the request only the public key is taken, after its signature was
 * verified. `sans` are host names and IP addresses beside the node id.
 * @throws {ClusterError} invalid-argument when the request is unreadable, badly signed or not P-256, or
 * the life is shorter than an hour.
 */
export async function issueCertificate(options: {
  ca: CertificateAuthority;
  csrPem: string;
  nodeId: string;
  role: NodeRole;
  clusterId: string;
  lifetimeMs: number;
  nowMs: UnixMs;
  sans?: string[];
  random?: Random;
}): Promise<string> {
  const { ca, csrPem, nodeId, role, clusterId, lifetimeMs, nowMs, sans = [] } = options;
  assert(nodeId !== "" && clusterId !== "", "A certificate names a node and a cluster");
  assert(sans.length <= SANS_MAX, `A certificate has at most ${SANS_MAX} names`);
  if (!(lifetimeMs >= CERTIFICATE_LIFE_MS_MIN)) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot issue a certificate for ${lifetimeMs} ms: at least ${CERTIFICATE_LIFE_MS_MIN} ms are needed; raise the certificate expiry of the swarm`,
    );
  }
  return signLeaf({
    ca,
    spki: await readCsrKey(csrPem),
    subject: [{ CN: [nodeId] }, { OU: [ROLE_UNITS[role]] }, { O: [clusterId] }],
    usages: ["clientAuth", "serverAuth"],
    sans: [...new Set([nodeId, ...sans])],
    lifetimeMs,
    nowMs,
    random: options.random,
  });
}

/**
 * A key and certificate for the API over TLS: of a `server` that is called by `names` (host names, IP
 * addresses), or of a `client`, whose name is the first.
 */
export async function issueApiCertificate(options: {
  ca: CertificateAuthority;
  kind: "server" | "client";
  names: [string, ...string[]];
  lifetimeMs: number;
  nowMs: UnixMs;
}): Promise<{ certificatePem: string; keyPem: string }> {
  const { ca, kind, names, lifetimeMs, nowMs } = options;
  assert(names.length <= SANS_MAX, `A certificate has at most ${SANS_MAX} names`);
  const { keyPem, spki } = await createKey();
  const certificatePem = await signLeaf({
    ca,
    spki,
    subject: [{ CN: [names[0]] }],
    usages: [kind === "server" ? "serverAuth" : "clientAuth"],
    sans: kind === "server" ? names : [],
    lifetimeMs,
    nowMs,
  });
  return { certificatePem, keyPem };
}

/** Signs a leaf for this key, until `lifetimeMs` from now or the CA's own end. */
async function signLeaf(leaf: {
  ca: CertificateAuthority;
  spki: Uint8Array;
  subject: Record<string, string[]>[];
  usages: ("clientAuth" | "serverAuth")[];
  sans: string[];
  lifetimeMs: number;
  nowMs: UnixMs;
  random?: Random | undefined;
}): Promise<string> {
  const { ca, spki, nowMs } = leaf;
  const x509 = await loadLibrary();
  const authority = parseCertificate(ca.certificatePem);
  const authoritySpki = authority.publicKey.export({ type: "spki", format: "der" });
  const notAfterMs = Math.min(nowMs + leaf.lifetimeMs, Date.parse(authority.validTo));
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(leaf.random),
    issuer: new x509.X509Certificate(authority.raw).subjectName,
    subject: leaf.subject,
    notBefore: new Date(nowMs - BACKDATE_MS),
    notAfter: new Date(notAfterMs),
    signingAlgorithm: ALGORITHM,
    publicKey: await importPublicKey(spki),
    signingKey: await importKey(ca.keyPem),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(leaf.usages.map((usage) => x509.ExtendedKeyUsage[usage])),
      ...(leaf.sans.length === 0
        ? []
        : [
            new x509.SubjectAlternativeNameExtension(
              leaf.sans.map((value) => ({ type: isIP(value) === 0 ? "dns" : "ip", value })),
            ),
          ]),
      new x509.SubjectKeyIdentifierExtension(keyIdentifier(spki)),
      new x509.AuthorityKeyIdentifierExtension(keyIdentifier(authoritySpki)),
    ],
  });
  return encodePem("CERTIFICATE", new Uint8Array(certificate.rawData));
}

/**
 * The request's public key (SPKI, DER), once its signature by that key is verified.
 * @throws {ClusterError} invalid-argument when it is unreadable, badly signed or not P-256.
 */
export async function readCsrKey(csrPem: string): Promise<Uint8Array> {
  const fail = (why: string, cause?: unknown) =>
    new ClusterError("invalid-argument", `Cannot accept the certificate request: ${why}`, {
      cause,
    });
  if (csrPem.length > CSR_LENGTH_MAX) throw fail(`it has ${csrPem.length} characters`);
  const x509 = await loadLibrary();
  let spki: Uint8Array;
  let isSigned: boolean;
  try {
    const request = new x509.Pkcs10CertificateRequest(csrPem);
    spki = new Uint8Array(request.publicKey.rawData);
    isSigned = await request.verify();
  } catch (cause) {
    throw fail("it is not readable", cause);
  }
  if (!isSigned) throw fail("its signature does not match its key");
  const key = createPublicKey({ key: Buffer.from(spki), type: "spki", format: "der" });
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType !== "ec" || curve !== "prime256v1") {
    throw fail(`its key is ${curve ?? key.asymmetricKeyType}, it must be ECDSA P-256`);
  }
  return spki;
}

async function createKey(): Promise<{ keyPem: string; spki: Uint8Array }> {
  const pair = await promisify(generateKeyPair)("ec", { namedCurve: "prime256v1" });
  return {
    keyPem: pair.privateKey.export({ type: "pkcs8", format: "pem" }),
    spki: pair.publicKey.export({ type: "spki", format: "der" }),
  };
}

function importKey(keyPem: string): Promise<CryptoKey> {
  const der = Buffer.from(keyPem.replace(/-----[^-]+-----|\s/g, ""), "base64");
  return crypto.subtle.importKey("pkcs8", der, ALGORITHM, false, ["sign"]);
}

function importPublicKey(spki: Uint8Array): Promise<CryptoKey> {
  return crypto.subtle.importKey("spki", Buffer.from(spki), ALGORITHM, true, ["verify"]);
}

/** SHA-1 of the key's bits, in hex. Source: RFC 5280 §4.2.1.2, method 1. */
function keyIdentifier(spki: Uint8Array): string {
  // SPKI of a P-256 key ends in its 65-byte uncompressed point.
  return createHash("sha1").update(spki.subarray(-65)).digest("hex");
}

/** 16 bytes, positive and not zero (RFC 5280 §4.1.2.2), in hex. */
function serialNumber(random: Random | undefined): string {
  const bytes = Buffer.from(random ? random.bytes(SERIAL_BYTES) : randomBytes(SERIAL_BYTES));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString("hex");
}
