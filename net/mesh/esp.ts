/**
 * Keys and numbers of the IPsec associations between two nodes. Pure.
 *
 * AES-GCM must never see one (key, nonce) pair twice. The kernel makes the nonce of the association's salt,
 * its own sequence number (64 bits, ESN: it refuses to wrap) and a constant that it draws for each
 * association. So within one association nothing repeats, and two associations must not have one key. Theirs
 * is a function of:
 *
 *   the cluster's key (its own 12 hours) · sender · receiver · the sender's generation
 *
 * A generation is 128 random bits, drawn by the process that makes the association; for each generation it
 * makes the one to a peer by a key at most once (encryption.ts, `made`). An association that is lost, by a
 * reboot or by hand, is never made again: another generation is drawn, and told to the peers.
 */
import { hkdfSync } from "node:crypto";
import { assert } from "../../core/assert.ts";
import { NODE_INDEX_MAX } from "./names.ts";

/** One direction between two nodes. */
export type Association = {
  source: string;
  target: string;
  /** Unique at the receiver: the sender's index, and 20 bits of the derivation. */
  spi: number;
  /** `0x` and 72 hex digits: AES-256 key, then the 4 bytes of salt of RFC 4106. */
  key: string;
};

const KEY_BYTES = 32;
const SALT_BYTES = 4;
const SPI_BITS = 20;
const LABEL = "shoal encrypted network 1";

export type EspParties = {
  sender: { nodeId: string; index: number };
  receiver: { nodeId: string };
  generation: string;
};

/** `secret`: base64 of the cluster's key. */
export function deriveEsp(secret: string, parties: EspParties): Pick<Association, "spi" | "key"> {
  const { sender, receiver, generation } = parties;
  assert(sender.index >= 1 && sender.index <= NODE_INDEX_MAX, "A node's index is in its range");
  // Lists in JSON: no two different triples give one text.
  const info = JSON.stringify([sender.nodeId, receiver.nodeId, generation]);
  const bytes = Buffer.from(
    hkdfSync("sha256", Buffer.from(secret, "base64"), LABEL, info, KEY_BYTES + SALT_BYTES + 4),
  );
  const low = bytes.readUInt32BE(KEY_BYTES + SALT_BYTES) & (2 ** SPI_BITS - 1);
  return {
    spi: sender.index * 2 ** SPI_BITS + low,
    key: `0x${bytes.subarray(0, KEY_BYTES + SALT_BYTES).toString("hex")}`,
  };
}

/** Outer IPv4 header. */
const IPV4_BYTES = 20;
/** SPI and sequence number, the explicit part of the nonce, and the integrity value. */
const ESP_BYTES = 8 + 8 + 16;
/** What is encrypted beside the inner packet: UDP, VXLAN, inner Ethernet. */
const INSIDE_BYTES = 8 + 8 + 14;
/** Length of the padding and next header; all that is encrypted is padded to words of 4 bytes. */
const TRAILER_BYTES = 2;

/**
 * The largest packet of an encrypted network that fits into one of the underlay, 84 to 87 bytes less:
 * 20 + 32 + align4(packet + 30 + 2) ≤ underlay.
 */
export function encryptedMtu(underlayMtu: number): number {
  const roomBytes = underlayMtu - IPV4_BYTES - ESP_BYTES;
  return roomBytes - (roomBytes % 4) - INSIDE_BYTES - TRAILER_BYTES;
}
