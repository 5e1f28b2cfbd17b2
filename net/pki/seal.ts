/**
 * Sealing of secrets at rest: AES-256-GCM with a random nonce; what the bytes are for (`context`) is
 * authenticated with them, so that one secret's cannot be put in another's place. Text form: base64 of
 * nonce, ciphertext and tag.
 *
 * Keys come from the callers: agent/vault.ts has the cluster's, agent/lock.ts a manager's own for its private files,
 * agent/reconciler/sealed-items.ts a node's for its journal.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";

const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
export const SEAL_KEY_BYTES = 32;

/** The plain bytes as text that only the key opens, and only for the same context. */
export function sealBytes(key: Uint8Array, context: string, plain: Uint8Array): string {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, key, nonce);
  cipher.setAAD(Buffer.from(context));
  const parts = [nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()];
  return Buffer.concat(parts).toString("base64");
}

/**
 * The plain bytes again.
 * @throws {ClusterError} internal when it is damaged, or sealed by another key or for something else.
 */
export function openSealed(key: Uint8Array, context: string, sealed: string): Uint8Array {
  const bytes = Buffer.from(sealed, "base64");
  const end = bytes.length - TAG_BYTES;
  try {
    const decipher = createDecipheriv(CIPHER, key, bytes.subarray(0, NONCE_BYTES));
    decipher.setAAD(Buffer.from(context));
    decipher.setAuthTag(bytes.subarray(Math.max(0, end)));
    return Buffer.concat([
      decipher.update(bytes.subarray(NONCE_BYTES, Math.max(NONCE_BYTES, end))),
      decipher.final(),
    ]);
  } catch (cause) {
    // The library's text says nothing of the content; ours neither.
    throw new ClusterError(
      "internal",
      `Cannot open what is sealed for ${context}: it is damaged, or was sealed for something else`,
      { cause },
    );
  }
}
