/**
 * The backup file: one cluster's whole state at one applied index, in one file that proves itself.
 *
 *   line 1   `shoal-backup 1`                     magic and format version
 *   line 2   JSON: BackupHeader                   readable without the passphrase
 *   then     the body, or AES-256-GCM of it followed by the tag
 *              line 1   JSON: the keys by which secrets are sealed (vault.ts); not in format 1
 *              then     the snapshot (core/store/sqlite-snapshot.ts)
 *   end      SHA-256 of all bytes before          finds damage before anything is tried
 *
 * With a passphrase the key is scrypt's, and both lines are authenticated with the body. The header
 * tells what the backup is (cluster, index, time), never what is in it. Everything else is in the
 * body: the CA's private key, the join tokens, all secrets, and the keys that open them. Whoever reads
 * an unencrypted backup can become any node of the cluster.
 *
 * Pure but for randomness; files and sockets are the callers' (cli/backup.ts, node.ts).
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes, scryptSync } from "node:crypto";
import { z } from "zod";
import { ClusterError } from "../core/errors.ts";
import { createMemoryRows } from "../core/store/memory-rows.ts";
import { decodeSnapshot } from "../core/store/sqlite-snapshot.ts";
import { openUnlockKey } from "./cluster-secrets.ts";
import { type DataKey, dataKeysSchema, openByKeys } from "./vault.ts";

const MAGIC = "shoal-backup ";
const FORMAT_VERSION = 2;
/** Before, the body was the snapshot alone, with secrets in clear. */
const FORMAT_WITH_KEYS = 2;
const DIGEST_BYTES = 32;
const TAG_BYTES = 16;
const KEY_BYTES = 32;
/** A header is some hundred bytes; a longer line is another file. */
const HEADER_BYTES_MAX = 4_096;
/** OWASP's figure for scrypt (2^17, 8, 1): about 128 MiB and half a second. */
const SCRYPT = { N: 131_072, r: 8, p: 1 } as const;
/** Of a header that somebody may have written: more would let a file use up the host's memory. */
const SCRYPT_BYTES_MAX = 512 * 1024 * 1024;
export const PASSPHRASE_LENGTH_MIN = 8;

const headerSchema = z.object({
  createdAt: z.string(),
  /** The shoal that wrote it. */
  shoalVersion: z.string(),
  clusterId: z.string(),
  /** The node that wrote it. */
  nodeId: z.string(),
  /** Every change up to this raft index is in it, and none after. */
  index: z.number().int().nonnegative(),
  /** Made without a leader: acknowledged changes may be missing. */
  isStale: z.boolean(),
  encryption: z
    .object({
      cipher: z.literal("aes-256-gcm"),
      kdf: z.literal("scrypt"),
      N: z.number().int().min(2),
      r: z.number().int().min(1),
      p: z.number().int().min(1).max(16),
      salt: z.string(),
      nonce: z.string(),
    })
    .nullable(),
});

export type BackupHeader = z.output<typeof headerSchema>;
export type Backup = {
  header: BackupHeader;
  /** As `encodeSnapshot` makes it. */
  snapshot: Uint8Array;
  /** Of the secrets in it; none in a file of format 1. */
  dataKeys: readonly DataKey[];
};

/** The file's bytes. @throws {ClusterError} invalid-argument for a passphrase that is too short. */
export function encodeBackup(
  backup: Omit<Backup, "header"> & { header: Omit<BackupHeader, "encryption"> },
  passphrase?: string,
): Uint8Array<ArrayBuffer> {
  const keys = new TextEncoder().encode(`${JSON.stringify(backup.dataKeys)}\n`);
  if (passphrase === undefined) {
    return sealed(headBytes({ ...backup.header, encryption: null }), [keys, backup.snapshot]);
  }
  if (passphrase.length < PASSPHRASE_LENGTH_MIN) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot encrypt the backup: the passphrase has ${passphrase.length} characters, ${PASSPHRASE_LENGTH_MIN} are needed`,
    );
  }
  const salt = randomBytes(16);
  const nonce = randomBytes(12);
  const encryption = {
    cipher: "aes-256-gcm",
    kdf: "scrypt",
    ...SCRYPT,
    salt: salt.toString("base64"),
    nonce: nonce.toString("base64"),
  } as const;
  const head = headBytes({ ...backup.header, encryption });
  const cipher = createCipheriv("aes-256-gcm", deriveKey(passphrase, salt, SCRYPT), nonce);
  cipher.setAAD(head);
  const body = [cipher.update(keys), cipher.update(backup.snapshot), cipher.final()];
  return sealed(head, [...body, cipher.getAuthTag()]);
}

/** The header of whole and undamaged bytes. @throws {ClusterError} invalid-argument, failed-precondition. */
export function readBackupHeader(data: Uint8Array): BackupHeader {
  return split(data).header;
}

/**
 * The backup in the bytes, proved: checksum, passphrase, and that the snapshot can be read.
 * @throws {ClusterError} invalid-argument when it is no backup, damaged, or the passphrase is missing
 * or wrong; failed-precondition for a newer format.
 */
export function decodeBackup(data: Uint8Array, passphrase?: string): Backup {
  const { header, head, body, format } = split(data);
  const plain = header.encryption ? decrypt(header.encryption, head, body, passphrase) : body;
  const { dataKeys, snapshot } = splitBody(plain, format);
  let index: number;
  try {
    ({ index } = decodeSnapshot(snapshot));
  } catch (cause) {
    if (!(cause instanceof ClusterError)) throw cause;
    throw damaged(cause.message, cause);
  }
  if (index !== header.index) throw damaged(`it says index ${header.index} and holds ${index}`);
  return { header, snapshot, dataKeys };
}

/** The unlock key of the cluster in the backup; undefined when it is not locked. @throws {ClusterError} */
export function unlockKeyIn({ snapshot, dataKeys }: Backup): string | undefined {
  const { index, rows: bodies } = decodeSnapshot(snapshot);
  const rows = createMemoryRows();
  rows.replaceAll(
    bodies.filter(({ table }) => table === "cluster"),
    index,
  );
  const cluster = rows.cluster();
  const keys = { open: (context: string, text: string) => openByKeys(dataKeys, context, text) };
  return cluster && openUnlockKey(keys, cluster);
}

function splitBody(body: Uint8Array, format: number): Omit<Backup, "header"> {
  if (format < FORMAT_WITH_KEYS) return { dataKeys: [], snapshot: body };
  const end = body.indexOf(0x0a);
  const line = new TextDecoder().decode(body.subarray(0, Math.max(0, end)));
  const dataKeys = dataKeysSchema.safeParse(parsed(line));
  if (end < 0 || !dataKeys.success) throw damaged("the keys of its secrets cannot be read");
  return { dataKeys: dataKeys.data, snapshot: body.subarray(end + 1) };
}

function headBytes(header: BackupHeader): Uint8Array {
  return new TextEncoder().encode(`${MAGIC}${FORMAT_VERSION}\n${JSON.stringify(header)}\n`);
}

function sealed(head: Uint8Array, body: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const parts = [head, ...body];
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  parts.push(hash.digest());
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function split(data: Uint8Array) {
  const [magic, afterMagic] = lineAt(data, 0);
  if (magic === undefined || !magic.startsWith(MAGIC)) {
    throw new ClusterError(
      "invalid-argument",
      'Cannot read the backup: this is not a file that "shoal backup" wrote',
    );
  }
  const format = Number(magic.slice(MAGIC.length));
  if (format > FORMAT_VERSION) {
    throw new ClusterError(
      "failed-precondition",
      `Cannot read the backup: its format is ${format}, this shoal reads ${FORMAT_VERSION}; use the version that wrote it, or a newer one`,
    );
  }
  const end = data.length - DIGEST_BYTES;
  const digest = createHash("sha256")
    .update(data.subarray(0, Math.max(0, end)))
    .digest();
  if (end < afterMagic || !digest.equals(data.subarray(end))) {
    throw damaged("its checksum differs: it was changed, or not copied whole");
  }
  const [line, afterHead] = lineAt(data, afterMagic);
  const header = headerSchema.safeParse(parsed(line));
  if (!header.success || !(format >= 1)) throw damaged("its header cannot be read");
  return {
    header: header.data,
    head: data.subarray(0, afterHead),
    body: data.subarray(afterHead, end),
    format,
  };
}

function lineAt(data: Uint8Array, from: number): [text: string | undefined, next: number] {
  const end = data.subarray(from, from + HEADER_BYTES_MAX).indexOf(0x0a);
  if (end === -1) return [undefined, from];
  return [new TextDecoder().decode(data.subarray(from, from + end)), from + end + 1];
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function decrypt(
  encryption: NonNullable<BackupHeader["encryption"]>,
  head: Uint8Array,
  body: Uint8Array,
  passphrase: string | undefined,
): Uint8Array {
  if (passphrase === undefined) {
    throw new ClusterError(
      "invalid-argument",
      "Cannot read the backup: it is encrypted; give its passphrase by --passphrase-file",
    );
  }
  const { N, r, p } = encryption;
  if (128 * N * r * p > SCRYPT_BYTES_MAX) throw damaged("its key derivation would take too much");
  const key = deriveKey(passphrase, Buffer.from(encryption.salt, "base64"), { N, r, p });
  const nonce = Buffer.from(encryption.nonce, "base64");
  const at = body.length - TAG_BYTES;
  if (nonce.length !== 12 || at < 0) throw damaged("its encryption header does not fit its body");
  const decipher = createDecipheriv("aes-256-gcm", key, nonce);
  decipher.setAAD(head);
  decipher.setAuthTag(body.subarray(at));
  try {
    return Buffer.concat([decipher.update(body.subarray(0, at)), decipher.final()]);
  } catch (cause) {
    // The checksum has shown that the file is as it was written.
    throw new ClusterError("invalid-argument", "Cannot read the backup: the passphrase is wrong", {
      cause,
    });
  }
}

function deriveKey(
  passphrase: string,
  salt: Uint8Array,
  cost: { N: number; r: number; p: number },
): Uint8Array {
  const maxmem = 128 * cost.N * cost.r * cost.p + 64 * 1024 * 1024;
  return scryptSync(passphrase.normalize("NFC"), salt, KEY_BYTES, { ...cost, maxmem });
}

function damaged(why: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "invalid-argument",
    `Cannot read the backup: ${why}; use another copy`,
    cause === undefined ? {} : { cause },
  );
}
