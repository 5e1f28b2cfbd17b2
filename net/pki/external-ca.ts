/**
 * Certificates from an external CA that speaks CFSSL's protocol: POST of the request to its `sign` endpoint, over
 * TLS in which both sides show a certificate of the same root: the server's own, and the asking manager's.
 *
 * 1. Nothing of an answer is believed: a certificate is taken only if it is directly signed by the root, carries
 *    the key of the request and the identity asked for, and serves both ends of TLS. What it says of its life
 *    counts; the cluster's own setting (`--cert-expiry`) is not known to the CA, as in stock.
 * 2. Addresses are tried in turn; each try, the whole call and the size of an answer are bounded.
 *
 * Source: CFSSL doc/api/endpoint_sign.txt; SwarmKit ca/external.go (request), ca/certificates.go (checks).
 */
import { createPublicKey, X509Certificate } from "node:crypto";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { NodeRole } from "../../core/objects/node.ts";
import { readCsrKey } from "./issue.ts";
import { decodeCertificates, encodePem } from "./pem.ts";
import { identityOf, isIssuedBy, ROLE_UNITS } from "./read.ts";

/** One address. Source: SwarmKit ca/external.go, ExternalRequestTimeout. */
const ATTEMPT_TIMEOUT_MS = 5_000;
/** All addresses together: whoever asks waits for it. */
const CALL_TIMEOUT_MS = 12_000;
/** Source: SwarmKit ca/external.go, CertificateMaxSize. */
const ANSWER_BYTES_MAX = 100 << 10;
/** Of a CA's own words in an error. */
const WORDS_LENGTH_MAX = 200;
const REASONS_MAX = 4;
/** serverAuth, clientAuth. Source: RFC 5280 §4.2.1.12. */
const USAGES = ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"] as const;

export type ExternalRequest = {
  csrPem: string;
  nodeId: string;
  role: NodeRole;
  clusterId: string;
};

export type ExternalCaOptions = {
  /** `https://…/api/v1/cfssl/sign` */
  urls: readonly string[];
  /** The root by which it signs, and of which its own TLS certificate is. */
  rootPem: string;
  /** What this manager shows; absent where it has no certificate yet. */
  tls?: { certificatePem: string; keyPem: string };
  request: ExternalRequest;
  nowMs: UnixMs;
  attemptTimeoutMs?: number;
  callTimeoutMs?: number;
};

/**
 * A node's certificate, in canonical PEM.
 * @throws {ClusterError} unavailable naming each address and what was wrong with it; invalid-argument for a request
 * that is none.
 */
export async function signExternally(options: ExternalCaOptions): Promise<string> {
  const { urls, request, attemptTimeoutMs = ATTEMPT_TIMEOUT_MS } = options;
  const key = await readCsrKey(request.csrPem);
  const endsAtMs = Date.now() + (options.callTimeoutMs ?? CALL_TIMEOUT_MS);
  const reasons: string[] = [];
  for (const url of urls) {
    const timeoutMs = Math.min(attemptTimeoutMs, endsAtMs - Date.now());
    if (timeoutMs <= 0) {
      reasons.push("the rest was not tried for want of time");
      break;
    }
    try {
      const certificate = await ask(url, options, timeoutMs);
      return checked(certificate, key, options);
    } catch (error) {
      reasons.push(`${url}: ${wordsOf(error, timeoutMs)}`);
    }
  }
  throw new ClusterError(
    "unavailable",
    `The external CA has not signed the certificate of node ${request.nodeId}: ${reasons.slice(0, REASONS_MAX).join("; ") || "it has no address"}`,
    { retry: "later" },
  );
}

const answerSchema = z.object({
  success: z.boolean(),
  result: z.object({ certificate: z.string() }).nullish(),
  errors: z.array(z.object({ message: z.string() })).nullish(),
});

async function ask(url: string, options: ExternalCaOptions, timeoutMs: number): Promise<string> {
  const { request, rootPem, tls, nowMs } = options;
  const authorities = rootsOf(rootPem);
  const unit = ROLE_UNITS[request.role];
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      certificate_request: request.csrPem,
      hosts: [unit, request.nodeId],
      subject: { CN: request.nodeId, names: [{ OU: unit, O: request.clusterId }] },
    }),
    redirect: "manual",
    signal: AbortSignal.timeout(timeoutMs),
    tls: {
      ca: rootPem,
      ...(tls ? { cert: tls.certificatePem, key: tls.keyPem } : {}),
      checkServerIdentity: (host: string, shown: PeerCertificate) => {
        // Besides the library's verdict, which system roots may have widened.
        if (!isIssuedBy(new X509Certificate(shown.raw), authorities, nowMs)) {
          return new Error("its TLS certificate is not signed by its root");
        }
        return checkServerIdentity(host, shown);
      },
    },
  });
  const text = await readBounded(response);
  if (response.status !== 200) {
    // CFSSL gives its reason in the same form with other codes too.
    const said = answerSchema.safeParse(parseJson(text)).data?.errors?.[0]?.message ?? text;
    throw new Error(`it answered ${response.status}: ${shortened(said)}`);
  }
  const answer = answerSchema.safeParse(parseJson(text));
  if (!answer.success) throw new Error(`its answer is not CFSSL's: ${shortened(text)}`);
  const { success, result, errors } = answer.data;
  if (!success || !result) {
    const said = (errors ?? []).map(({ message }) => message).join(", ");
    throw new Error(`it refused: ${shortened(said || "no reason given")}`);
  }
  return result.certificate;
}

async function readBounded(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of response.body ?? []) {
    sizeBytes += chunk.length;
    if (sizeBytes > ANSWER_BYTES_MAX) {
      throw new Error(`its answer has more than ${ANSWER_BYTES_MAX} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

/** The certificate, once it is what was asked for. @throws {Error} saying what it is not. */
function checked(pem: string, csrSpki: Uint8Array, options: ExternalCaOptions): string {
  const { request, rootPem, nowMs } = options;
  const [der] = decodeCertificates(pem);
  const certificate = new X509Certificate(der ?? "");
  const refuse = (why: string) => new Error(`its certificate is not usable: ${why}`);
  if (!isIssuedBy(certificate, rootsOf(rootPem), nowMs)) {
    throw refuse("it is not signed by the root of that CA, or not valid now");
  }
  const key = createPublicKey({ key: Buffer.from(csrSpki), type: "spki", format: "der" });
  if (!certificate.publicKey.equals(key)) throw refuse("its key is not that of the request");
  const identity = identityOf(certificate);
  const isIt =
    identity?.nodeId === request.nodeId &&
    identity.role === request.role &&
    identity.clusterId === request.clusterId;
  if (!isIt) {
    throw refuse(
      `it is of "${certificate.subject.replaceAll("\n", ", ")}", not of CN=${request.nodeId}, OU=${ROLE_UNITS[request.role]}, O=${request.clusterId}`,
    );
  }
  if (certificate.ca) throw refuse("it is a CA's");
  // What Node's documentation calls keyUsage are the extended usages.
  const usages: readonly string[] = certificate.keyUsage ?? [];
  if (!USAGES.every((usage) => usages.includes(usage))) {
    throw refuse("it is not for client auth and server auth: add both usages to the CA's profile");
  }
  return encodePem("CERTIFICATE", certificate.raw);
}

function rootsOf(pem: string): X509Certificate[] {
  return decodeCertificates(pem).map((der) => new X509Certificate(der));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function wordsOf(error: unknown, timeoutMs: number): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === "TimeoutError") return `no answer within ${timeoutMs} ms`;
  return shortened(error.message);
}

function shortened(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  return line.length > WORDS_LENGTH_MAX ? `${line.slice(0, WORDS_LENGTH_MAX)}…` : line;
}
