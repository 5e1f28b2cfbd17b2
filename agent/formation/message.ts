/**
 * What hosts that share a formation secret say to each other before they share a CA. Sealed by a key from
 * the secret (AES-256-GCM), so it needs no trust in the connection: who cannot open it learns nothing, and
 * who answers has the secret. An answer repeats the question's number, so an old one cannot be played again.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from "node:crypto";
import { decode, encode } from "msgpackr";
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import { FORM_BYTES_MAX } from "../../net/rpc/schemas.ts";

/** Of the secret's text: 32 hex digits have 128 bits. */
export const SECRET_LENGTH_MIN = 32;
const SECRET_LENGTH_MAX = 1_024;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

const text = z.string().max(256);
const askSchema = z.object({ number: text, bootId: text, peersDigest: text });
const answerSchema = z.object({
  number: text,
  bootId: text,
  peersDigest: text,
  state: z.enum(["fresh", "member", "left"]),
  self: text.exactOptional(),
  tokens: z.object({ manager: text, worker: text }).exactOptional(),
});

/** `bootId`: one run of one agent. `peersDigest`: of the list of managers that it was given. */
export type FormAsk = z.infer<typeof askSchema>;
/**
 * `fresh`: was never in a cluster; `member`: a manager of one, with its join tokens; `left`: was in one,
 * and is not to form or join another by itself. `self`: which of the list the host takes itself for; absent
 * while it does not know.
 */
export type FormAnswer = z.infer<typeof answerSchema>;

export type FormKey = { readonly key: Uint8Array };

/** @throws {ClusterError} invalid-argument for a secret that is too short to be one. */
export function formKey(secret: string): FormKey {
  const trimmed = secret.trim();
  if (trimmed.length < SECRET_LENGTH_MIN || trimmed.length > SECRET_LENGTH_MAX) {
    throw new ClusterError(
      "invalid-argument",
      `Cannot use the formation secret: it has ${trimmed.length} characters, ${SECRET_LENGTH_MIN} to ${SECRET_LENGTH_MAX} are needed; make one by "openssl rand -hex 32"`,
    );
  }
  return { key: new Uint8Array(hkdfSync("sha256", trimmed, "", "shoal formation 1", 32)) };
}

/** The list as all hosts must have it. */
export function peersDigestOf(peers: readonly string[]): string {
  return createHash("sha256").update(peers.join("\n")).digest("hex");
}

export const sealAsk = (key: FormKey, ask: FormAsk) => seal(key, "ask", ask);
export const sealAnswer = (key: FormKey, answer: FormAnswer) => seal(key, "answer", answer);
/** @throws {ClusterError} unauthenticated when it was not sealed by this secret. */
export function openAsk(key: FormKey, sealed: Uint8Array): FormAsk {
  return shaped(askSchema, open(key, "ask", sealed));
}
/** @throws {ClusterError} unauthenticated also for the answer to another question. */
export function openAnswer(key: FormKey, sealed: Uint8Array, ask: FormAsk): FormAnswer {
  const answer = shaped(answerSchema, open(key, "answer", sealed));
  if (answer.number !== ask.number) throw notOurs();
  return answer;
}

function seal({ key }: FormKey, kind: "ask" | "answer", message: FormAsk | FormAnswer): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(Buffer.from(kind));
  const sealed = [cipher.update(encode(message)), cipher.final()];
  return Buffer.concat([nonce, ...sealed, cipher.getAuthTag()]);
}

function open({ key }: FormKey, kind: "ask" | "answer", sealed: Uint8Array): unknown {
  if (sealed.length < NONCE_BYTES + TAG_BYTES || sealed.length > FORM_BYTES_MAX) throw notOurs();
  const nonce = sealed.subarray(0, NONCE_BYTES);
  const body = sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES);
  const decipher = createDecipheriv("aes-256-gcm", key, nonce);
  decipher.setAAD(Buffer.from(kind));
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
  try {
    return decode(Buffer.concat([decipher.update(body), decipher.final()]));
  } catch {
    throw notOurs();
  }
}

function shaped<T>(schema: z.ZodType<T>, message: unknown): T {
  const { data, success } = schema.safeParse(message);
  if (success) return data;
  throw new ClusterError("unavailable", "the versions of shoal of the two hosts differ: upgrade");
}

function notOurs(): ClusterError {
  return new ClusterError("unauthenticated", "the formation secrets of the two hosts differ");
}
