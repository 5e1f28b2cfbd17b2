import { describe, expect, test } from "bun:test";
import {
  addInflight,
  advanceMatch,
  becomeProbe,
  becomeReplicate,
  becomeSnapshot,
  canAppend,
  freeInflights,
  INFLIGHT_APPENDS_MAX,
  INFLIGHT_BYTES_MAX,
  newProgress,
  retreat,
} from "../../../core/raft/progress.ts";

function replicating(matchIndex: number) {
  const progress = newProgress(matchIndex + 1, 0, 1);
  advanceMatch(progress, matchIndex);
  becomeReplicate(progress);
  return progress;
}

describe("progress", () => {
  test("probes one append at a time", () => {
    const progress = newProgress(5, 0, 1);
    expect(canAppend(progress)).toBe(true);
    progress.isProbing = true;
    expect(canAppend(progress)).toBe(false);
    expect(retreat(progress, 4, 2)).toBe(true);
    expect([progress.nextIndex, canAppend(progress)]).toEqual([3, true]);
  });

  test("takes no news from a rejection that is old, and never retreats behind the match", () => {
    const probing = newProgress(5, 0, 1);
    expect(retreat(probing, 9, 0)).toBe(false);
    const progress = replicating(4);
    progress.nextIndex = 9;
    expect(retreat(progress, 3, 0)).toBe(false);
    expect(retreat(progress, 8, 0)).toBe(true);
    expect([progress.state, progress.nextIndex, progress.matchIndex]).toEqual(["probe", 5, 4]);
  });

  test("has a window of appends and of bytes", () => {
    const progress = replicating(1);
    for (let i = 0; i < INFLIGHT_APPENDS_MAX; i++) {
      expect(canAppend(progress)).toBe(true);
      addInflight(progress, { lastIndex: 2 + i, sizeBytes: 1, sentTick: 0 });
    }
    expect(canAppend(progress)).toBe(false);
    freeInflights(progress, 2);
    expect(canAppend(progress)).toBe(true);
    addInflight(progress, { lastIndex: 999, sizeBytes: INFLIGHT_BYTES_MAX, sentTick: 0 });
    expect(canAppend(progress)).toBe(false);
    becomeProbe(progress);
    expect([progress.inflights.length, progress.inflightBytes]).toEqual([0, 0]);
  });

  test("appends nothing while a snapshot is on its way", () => {
    const progress = newProgress(1, 0, 1);
    becomeSnapshot(progress, { index: 7, pieceCount: 3 }, 11);
    expect(canAppend(progress)).toBe(false);
    expect(retreat(progress, 0, 0)).toBe(false);
    expect(advanceMatch(progress, 7)).toBe(true);
    becomeReplicate(progress);
    expect([progress.nextIndex, progress.snapshot]).toEqual([8, undefined]);
  });
});
