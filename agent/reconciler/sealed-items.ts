/**
 * Assignments as the journal stores them: secrets, and tasks with credentials for their image, sealed by a
 * key of this node's own, which lies in a file apart (0600). Losing the key is as losing node.db: the
 * managers send everything again. Another node cannot read what is sealed here.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { openSealed, SEAL_KEY_BYTES, sealBytes } from "../../net/pki/seal.ts";

export type ItemSealer = {
  encode(item: AssignmentItem): string;
  /** @throws {ClusterError} internal when the key is another one now; SyntaxError when it is no JSON. */
  decode(itemKey: string, stored: string): AssignmentItem;
};

const SEALED_PREFIX = "sealed:";

/** @param keyPath read, or made when it is missing. */
export function openItemSealer(keyPath: string): ItemSealer {
  const key = readOrMakeKey(keyPath);
  return {
    encode: (item) => {
      const text = JSON.stringify(item);
      if (!isSecret(item)) return text;
      return `${SEALED_PREFIX}${sealBytes(key, item.key, Buffer.from(text))}`;
    },
    decode: (itemKey, stored) => {
      const text = stored.startsWith(SEALED_PREFIX)
        ? new TextDecoder().decode(openSealed(key, itemKey, stored.slice(SEALED_PREFIX.length)))
        : stored;
      // Written by encode of this or an earlier version of ours.
      return JSON.parse(text) as AssignmentItem;
    },
  };
}

function isSecret(item: AssignmentItem): boolean {
  if (item.kind === "secret" || item.kind === "mesh-keys") return true;
  return item.kind === "task" && item.body.spec.ContainerSpec.PullOptions !== undefined;
}

/** One of another length (a crash while it was written) is replaced: nothing was sealed by it. */
function readOrMakeKey(path: string): Uint8Array {
  try {
    const key = readFileSync(path);
    if (key.length === SEAL_KEY_BYTES) return key;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const key = randomBytes(SEAL_KEY_BYTES);
  const file = openSync(`${path}.tmp`, "w", 0o600);
  try {
    writeSync(file, key);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(`${path}.tmp`, path);
  return key;
}
