/**
 * Join tokens: `SWMTKN-1-<digest>-<secret>`. The digest (SHA-256 of the root CA's canonical PEM,
 * base 36, 50 characters) lets a joining node recognise the cluster before it sends anything; the
 * secret (16 random bytes, base 36, 25 characters) lets the cluster recognise the node.
 *
 * Source: SwarmKit ca/config.go, GenerateJoinToken, ParseJoinToken.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import type { Random } from "../../core/random.ts";
import { decodeCertificates, encodePem } from "./pem.ts";

const PREFIX = "SWMTKN";
const VERSION = "1";
const DIGEST_LENGTH = 50;
const SECRET_BYTES = 16;
const SECRET_LENGTH = 25;
/** Longer texts are not looked at: 84 characters are a whole token. */
const TOKEN_LENGTH_MAX = 256;

/** Both parts in the base 36 form in which the token carries them. */
export type JoinToken = { caDigest: string; secret: string };

/** A fresh token for the cluster of this CA. Make one each for workers and managers. */
export function makeJoinToken(caCertificatePem: string, random: Random): string {
  const secret = base36(random.bytes(SECRET_BYTES), SECRET_LENGTH);
  return `${PREFIX}-${VERSION}-${caDigest(caCertificatePem)}-${secret}`;
}

/** @throws {ClusterError} invalid-argument `invalid join token: …`, saying what is wrong with it. */
export function parseJoinToken(text: string): JoinToken {
  const fail = (why: string) =>
    // Docker's words at the start: people and scripts search for them.
    new ClusterError("invalid-argument", `invalid join token: ${why}`);
  if (text.length > TOKEN_LENGTH_MAX) throw fail(`it has ${text.length} characters`);
  const parts = text.trim().split("-");
  const [prefix, version, digest, secret] = parts;
  if (prefix !== PREFIX) throw fail(`it does not start with "${PREFIX}-"`);
  if (version !== VERSION) {
    throw fail(`version "${version ?? ""}" is not known, only "${VERSION}" is`);
  }
  if (parts.length !== 4) throw fail(`it has ${parts.length} parts instead of 4; copy it whole`);
  if (!isBase36(digest, DIGEST_LENGTH)) {
    throw fail(`its CA digest is not ${DIGEST_LENGTH} characters of 0-9 and a-z; copy it whole`);
  }
  if (!isBase36(secret, SECRET_LENGTH)) {
    throw fail(`its secret is not ${SECRET_LENGTH} characters of 0-9 and a-z; copy it whole`);
  }
  return { caDigest: digest, secret };
}

/** Digest of the first certificate in the text, as a token carries it. */
export function caDigest(certificatePem: string): string {
  const [der] = decodeCertificates(certificatePem);
  const hash = createHash("sha256").update(encodePem("CERTIFICATE", der ?? new Uint8Array()));
  return base36(hash.digest(), DIGEST_LENGTH);
}

/** Equality of two secrets whose duration tells nothing of where they differ. */
export function tokenSecretsEqual(one: string, other: string): boolean {
  const hashed = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hashed(one), hashed(other));
}

function base36(bytes: Uint8Array, length: number): string {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return value.toString(36).padStart(length, "0");
}

function isBase36(text: string | undefined, length: number): text is string {
  return text !== undefined && text.length === length && /^[0-9a-z]+$/.test(text);
}
