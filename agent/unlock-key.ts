/**
 * Unlock keys as people copy them: `SWMKEY-1-<base64 without padding>` of 32 bytes.
 * Source: SwarmKit manager/encryption.
 */
import { randomBytes } from "node:crypto";
import { ClusterError } from "../core/errors.ts";
import { SEAL_KEY_BYTES } from "../net/pki/seal.ts";

const PREFIX = "SWMKEY-1-";

export function makeUnlockKey(): string {
  return PREFIX + randomBytes(SEAL_KEY_BYTES).toString("base64").replaceAll("=", "");
}

/** Its bytes, of any length. @throws {ClusterError} invalid-argument in stock's words. */
export function parseUnlockKey(text: string): Uint8Array {
  const body = text.slice(PREFIX.length);
  if (!text.startsWith(PREFIX) || !/^[A-Za-z0-9+/]*$/.test(body) || body.length % 4 === 1) {
    throw new ClusterError("invalid-argument", "invalid key string");
  }
  return Buffer.from(body, "base64");
}
