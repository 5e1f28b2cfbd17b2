/**
 * Frames on a byte stream: a u32 length (big endian), then that many bytes. Pure.
 *
 * The decoder keeps what has arrived and nothing more: a peer that announces a large frame makes us
 * allocate only as fast as it sends, and not beyond the limit.
 */
import { assert } from "../../core/assert.ts";

/** Largest payload between certified nodes; raft snapshots are sent in smaller pieces. */
export const FRAME_BYTES_MAX = 64 * 1024 * 1024;
export const FRAME_HEAD_BYTES = 4;

/** The length prefix of a payload; they are written one after the other. */
export function encodeFrameHead(payloadBytes: number): Uint8Array {
  assert(payloadBytes <= FRAME_BYTES_MAX, `A frame of ${payloadBytes} bytes is too long`);
  const head = new Uint8Array(FRAME_HEAD_BYTES);
  new DataView(head.buffer).setUint32(0, payloadBytes);
  return head;
}

export type FrameDecoder = {
  /**
   * Takes the next bytes, returns the payloads they complete. A payload may share the memory of
   * `chunk`, which belongs to the decoder from now on.
   * @throws {RangeError} when a frame is announced that is longer than `bytesMax`: the stream cannot
   * be read on.
   */
  push(chunk: Uint8Array): Uint8Array[];
  /** Raises or lowers the limit for the frames to come. */
  setLimit(bytesMax: number): void;
};

/** A decoder for one stream, at its beginning; `bytesMax` limits a payload. */
export function createFrameDecoder(bytesMax: number): FrameDecoder {
  let limit = bytesMax;
  let chunks: Uint8Array[] = [];
  let size = 0;
  /** Bytes that must be there before there is anything to do. */
  let wanted = FRAME_HEAD_BYTES;

  const join = () => {
    const only = chunks[0];
    const all = chunks.length === 1 && only ? only : Buffer.concat(chunks, size);
    return all;
  };

  return {
    push: (chunk) => {
      if (chunk.length > 0) chunks.push(chunk);
      size += chunk.length;
      if (size < wanted) return [];
      const payloads: Uint8Array[] = [];
      const all = join();
      const view = new DataView(all.buffer, all.byteOffset, all.byteLength);
      let offset = 0;
      for (;;) {
        const rest = all.length - offset;
        wanted = FRAME_HEAD_BYTES;
        if (rest < wanted) break;
        const length = view.getUint32(offset);
        if (length > limit) {
          throw new RangeError(`A frame of ${length} bytes is longer than ${limit}`);
        }
        wanted += length;
        if (rest < wanted) break;
        payloads.push(all.subarray(offset + FRAME_HEAD_BYTES, offset + wanted));
        offset += wanted;
      }
      const rest = all.subarray(offset);
      chunks = rest.length > 0 ? [rest] : [];
      size = rest.length;
      return payloads;
    },
    setLimit: (next) => {
      limit = next;
    },
  };
}
