/**
 * Looks at a write-ahead log of SQLite before anything is added: SQLite reads it up to the first frame whose
 * checksum is wrong and forgets the rest without a word.
 *
 * What may stand behind the last good frame of an honest disk is one transaction that was not synced:
 * cut off anywhere, its pages written in any order. Two cannot: the second begins when the first is on
 * disk. So a frame of this generation (its salts) that follows a commit behind the first bad frame
 * proves that what was synced has rotted. A bad last transaction proves nothing: see
 * sqlite-witness.ts for that one.
 *
 * Source: https://www.sqlite.org/fileformat2.html#walformat
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
/** Its last bit says in which byte order checksums are computed. */
const MAGIC = 0x377f0682;
const PAGE_BYTES_MAX = 65_536;

export type WalFindings = {
  /** Transactions of this generation that can be read. */
  commitCount: number;
  /** What proves that synced frames have rotted; undefined when nothing does. */
  rot?: string;
  /** Frames of this generation lie behind the last that can be read: a transaction cut off. */
  hasTornTail: boolean;
};

/** Undefined when there is no such file, or nothing in it. */
export function inspectWal(path: string): WalFindings | undefined {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    return inspect(file, fstatSync(file).size);
  } finally {
    closeSync(file);
  }
}

function inspect(file: number, size: number): WalFindings | undefined {
  const head = readAt(file, 0, HEADER_BYTES);
  if (head.length < HEADER_BYTES || head.every((byte) => byte === 0)) return undefined;
  const view = viewOf(head);
  const magic = view.getUint32(0);
  const isLittleEndian = (magic & 1) === 0;
  const sum: Sum = [0, 0];
  addChecksum(sum, head.subarray(0, 24), isLittleEndian);
  const pageBytes = view.getUint32(8);
  const isGood =
    magic >>> 1 === MAGIC >>> 1 &&
    sum[0] === view.getUint32(24) &&
    sum[1] === view.getUint32(28) &&
    pageBytes >= 512 &&
    pageBytes <= PAGE_BYTES_MAX;
  // It lies in one sector, so that it cannot be half written.
  if (!isGood)
    return { commitCount: 0, rot: "the header of its WAL is damaged", hasTornTail: false };

  const [salt1, salt2] = [view.getUint32(16), view.getUint32(20)];
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const found: WalFindings = { commitCount: 0, hasTornTail: false };
  let badAt: number | undefined;
  let isCommitBehind = false;
  let number = 0;
  for (let at = HEADER_BYTES; at + frameBytes <= size; at += frameBytes) {
    number++;
    const frame = readAt(file, at, badAt === undefined ? frameBytes : FRAME_HEADER_BYTES);
    const frameView = viewOf(frame);
    const isOfThisGeneration =
      frameView.getUint32(8) === salt1 && frameView.getUint32(12) === salt2;
    const isCommit = frameView.getUint32(4) !== 0;
    if (badAt === undefined) {
      if (isOfThisGeneration) {
        addChecksum(sum, frame.subarray(0, 8), isLittleEndian);
        addChecksum(sum, frame.subarray(FRAME_HEADER_BYTES), isLittleEndian);
      }
      if (
        isOfThisGeneration &&
        sum[0] === frameView.getUint32(16) &&
        sum[1] === frameView.getUint32(20)
      ) {
        if (isCommit) found.commitCount++;
        continue;
      }
      badAt = number;
    } else if (isOfThisGeneration && isCommitBehind) {
      found.rot = `frame ${badAt} of its WAL is damaged, and later transactions follow`;
      break;
    }
    if (isOfThisGeneration) {
      found.hasTornTail = true;
      isCommitBehind ||= isCommit;
    }
  }
  return found;
}

type Sum = [number, number];

/** SQLite's running checksum over words of 32 bits, two at a time. */
function addChecksum(sum: Sum, bytes: Uint8Array, isLittleEndian: boolean): void {
  const view = viewOf(bytes);
  let [s0, s1] = sum;
  for (let at = 0; at < bytes.length; at += 8) {
    s0 = (s0 + view.getUint32(at, isLittleEndian) + s1) >>> 0;
    s1 = (s1 + view.getUint32(at + 4, isLittleEndian) + s0) >>> 0;
  }
  sum[0] = s0;
  sum[1] = s1;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function readAt(file: number, at: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count);
  return bytes.subarray(0, readSync(file, bytes, 0, count, at));
}
