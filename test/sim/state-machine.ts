/**
 * The replicated state of the simulator: a hash over everything applied, so that any difference in
 * content or order shows at once. It outlives its process; a crash may take its newest part.
 */
import { crc32 } from "../../core/raft/checksum.ts";
import type { Entry } from "../../core/raft/messages.ts";

export type StateMachine = {
  appliedIndex: number;
  hash: number;
  /** Earlier (index, hash) pairs, oldest first: what a crash may fall back to. */
  checkpoints: { index: number; hash: number }[];
};

const CHECKPOINTS_MAX = 40;
/** A snapshot is padded to so many bytes per applied entry, to a bound: it has several pieces. */
const PADDING_BYTES_MAX = 1_200;

export function createStateMachine(): StateMachine {
  return { appliedIndex: 0, hash: 0, checkpoints: [{ index: 0, hash: 0 }] };
}

export function applyEntry(state: StateMachine, entry: Entry): void {
  const head = new Uint8Array(8);
  new DataView(head.buffer).setUint32(0, entry.index);
  new DataView(head.buffer).setUint32(4, entry.term);
  const data = entry.type === "normal" ? entry.data : new Uint8Array(0);
  state.hash = crc32(data, crc32(head, state.hash));
  state.appliedIndex = entry.index;
  state.checkpoints.push({ index: state.appliedIndex, hash: state.hash });
  if (state.checkpoints.length > 2 * CHECKPOINTS_MAX) state.checkpoints.splice(0, CHECKPOINTS_MAX);
}

export function takeSnapshot(state: StateMachine): Uint8Array {
  const bytes = new Uint8Array(8 + Math.min(PADDING_BYTES_MAX, state.appliedIndex * 8));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, state.appliedIndex);
  view.setUint32(4, state.hash);
  for (let i = 8; i < bytes.length; i++) bytes[i] = (state.hash >>> (i % 24)) & 0xff;
  return bytes;
}

/** False when the bytes are not those of `takeSnapshot` at that index. */
export function restoreSnapshot(state: StateMachine, index: number, data: Uint8Array): boolean {
  const view = new DataView(data.buffer, data.byteOffset);
  state.appliedIndex = view.getUint32(0);
  state.hash = view.getUint32(4);
  state.checkpoints = [{ index: state.appliedIndex, hash: state.hash }];
  for (let i = 8; i < data.length; i++) {
    if (data[i] !== ((state.hash >>> (i % 24)) & 0xff)) return false;
  }
  return state.appliedIndex === index;
}

/** A power cut: the last `count` applied entries are gone. */
export function loseTail(state: StateMachine, count: number): void {
  const keep = Math.max(1, state.checkpoints.length - count);
  state.checkpoints.length = Math.min(state.checkpoints.length, keep);
  const last = state.checkpoints.at(-1);
  if (!last) return;
  state.appliedIndex = last.index;
  state.hash = last.hash;
}
