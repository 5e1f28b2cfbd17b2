/**
 * Sealing of what a manager's databases hold, by a key of this manager's own (agent/storage-key.ts): log entries,
 * snapshots and rows lie on the disk encrypted, and whoever has the disk without the key learns sizes, numbers, ids
 * and when what was written, nothing of the content. What a row is (`context`) is authenticated with it, so that
 * one cannot be put in another's place.
 *
 * AES-256-GCM. No nonce may come twice under one key, and a log has more rows than random nonces are safe for: each
 * opening of a file makes a key of its own from the manager's and a random salt, and counts its nonces. Sealed form:
 * version (1), salt (16), counter (8), ciphertext, tag (16).
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { ClusterError } from "./errors.ts";

const CIPHER = "aes-256-gcm";
const VERSION = 1;
const SALT_BYTES = 16;
const COUNTER_BYTES = 8;
const HEAD_BYTES = 1 + SALT_BYTES + COUNTER_BYTES;
const TAG_BYTES = 16;
const KEY_BYTES = 32;
/** Keys kept of salts that were met: one for each start of which something is left. */
const SALTS_MAX = 256;
/** JSON, which is what is in clear, begins otherwise. */
const TEXT_MARK = "~";

export type RowSealer = {
  /** Names the key without telling it. */
  readonly keyId: string;
  seal(context: string, plain: Uint8Array): Uint8Array;
  /** @throws {ClusterError} internal when it is damaged, or sealed by another key or as something else. */
  open(context: string, sealed: Uint8Array): Uint8Array;
  sealText(context: string, text: string): string;
  /** @throws {ClusterError} as open; also for what is in clear. */
  openText(context: string, stored: string): string;
  /** What stands for a name that is looked for: the same for the same name. */
  tokenOf(name: string): string;
};

export function isSealedText(stored: string): boolean {
  return stored.startsWith(TEXT_MARK);
}

/** A sealer for one opening of a file. `key`: 32 bytes. */
export function createRowSealer(key: Uint8Array): RowSealer {
  const derive = (salt: Uint8Array, purpose: string) =>
    Buffer.from(hkdfSync("sha256", key, salt, `shoal ${purpose}`, KEY_BYTES));
  const tokenKey = derive(new Uint8Array(0), "names");
  const ownSalt = randomBytes(SALT_BYTES);
  const ownKey = derive(ownSalt, "rows");
  const known = new Map<string, Uint8Array>([[ownSalt.toString("hex"), ownKey]]);
  let counter = 0n;

  const keyOf = (salt: Buffer): Uint8Array => {
    const id = salt.toString("hex");
    const found = known.get(id);
    if (found) return found;
    const derived = derive(salt, "rows");
    if (known.size >= SALTS_MAX) known.clear();
    known.set(id, derived);
    return derived;
  };
  const nonceOf = (head: Buffer): Buffer => {
    const nonce = Buffer.alloc(12);
    head.copy(nonce, 4, 1 + SALT_BYTES, HEAD_BYTES);
    return nonce;
  };
  const sealer: RowSealer = {
    keyId: derive(new Uint8Array(0), "key id").toString("hex").slice(0, 16),
    seal: (context, plain) => {
      const head = Buffer.alloc(HEAD_BYTES);
      head[0] = VERSION;
      ownSalt.copy(head, 1);
      head.writeBigUInt64BE(counter++, 1 + SALT_BYTES);
      const cipher = createCipheriv(CIPHER, ownKey, nonceOf(head));
      cipher.setAAD(Buffer.from(context));
      const body = cipher.update(plain);
      cipher.final();
      return Buffer.concat([head, body, cipher.getAuthTag()]);
    },
    open: (context, sealed) => {
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
      const end = bytes.length - TAG_BYTES;
      if (end < HEAD_BYTES || bytes[0] !== VERSION) throw unopened(context);
      try {
        const salt = bytes.subarray(1, 1 + SALT_BYTES);
        const decipher = createDecipheriv(CIPHER, keyOf(salt), nonceOf(bytes));
        decipher.setAAD(Buffer.from(context));
        decipher.setAuthTag(bytes.subarray(end));
        const plain = decipher.update(bytes.subarray(HEAD_BYTES, end));
        decipher.final();
        return plain;
      } catch (cause) {
        throw unopened(context, cause);
      }
    },
    sealText: (context, text) =>
      TEXT_MARK + Buffer.from(sealer.seal(context, Buffer.from(text))).toString("base64"),
    openText: (context, stored) => {
      if (!isSealedText(stored)) throw unopened(context);
      const sealed = Buffer.from(stored.slice(TEXT_MARK.length), "base64");
      return Buffer.from(sealer.open(context, sealed)).toString();
    },
    tokenOf: (name) => createHmac("sha256", tokenKey).update(name).digest("base64url").slice(0, 22),
  };
  return sealer;
}

function unopened(context: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "internal",
    `Cannot open what is sealed as ${context}: it is damaged, or sealed by another key`,
    cause === undefined ? {} : { cause },
  );
}
