import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import {
  appendEntries,
  compactLog,
  configurationAt,
  findMatchCandidate,
  isUpToDate,
  lastIndex,
  lastTerm,
  openLog,
  type RaftLog,
  restoreLog,
  sliceEntries,
  termAt,
  tryAppend,
} from "../../../core/raft/log.ts";
import { EMPTY_CONFIGURATION, type Entry, NO_BYTES } from "../../../core/raft/messages.ts";

/** A log with an entry of each of these terms, beginning at index 1. */
function logOf(...terms: number[]): RaftLog {
  const log = openLog({
    base: { index: 0, term: 0, configuration: EMPTY_CONFIGURATION },
    entries: [],
    commitIndex: 0,
    appliedIndex: 0,
  });
  appendEntries(log, entriesOf(1, terms));
  return log;
}

function entriesOf(from: number, terms: readonly number[]): Entry[] {
  return terms.map((term, i) => ({ index: from + i, term, type: "normal", data: NO_BYTES }));
}

function configurationEntry(index: number, term: number, ...ids: string[]): Entry {
  const members = ids.map((nodeId) => {
    return { nodeId, addr: `${nodeId}:1`, isLearner: false, addedAtIndex: 1 };
  });
  const data = encodeConfiguration(configurationOf(members));
  return { index, term, type: "configuration", data };
}

const termsOf = (log: RaftLog) => log.entries.map((entry) => entry.term);
const namesAt = (log: RaftLog, index: number) =>
  configurationAt(log, index).configuration.members.map((member) => member.nodeId);

describe("tryAppend()", () => {
  test("refuses entries whose predecessor is missing or of another term", () => {
    const log = logOf(1, 1);
    expect(tryAppend(log, { index: 3, term: 1 }, entriesOf(4, [1]))).toBeUndefined();
    expect(tryAppend(log, { index: 2, term: 2 }, entriesOf(3, [2]))).toBeUndefined();
    expect(termsOf(log)).toEqual([1, 1]);
  });

  test("replaces what conflicts, and only that", () => {
    const log = logOf(1, 1, 2, 2);
    log.persistedIndex = 4;
    log.unstableFrom = 5;
    const result = tryAppend(log, { index: 1, term: 1 }, entriesOf(2, [1, 3]));
    expect(result).toEqual({ matchedIndex: 3, truncatedFrom: 3 });
    expect(termsOf(log)).toEqual([1, 1, 3]);
    expect([log.persistedIndex, log.unstableFrom]).toEqual([2, 3]);
  });

  test("keeps later entries when a repeated, shorter message agrees", () => {
    const log = logOf(1, 1, 1);
    expect(tryAppend(log, { index: 0, term: 0 }, entriesOf(1, [1]))).toEqual({ matchedIndex: 1 });
    expect(termsOf(log)).toEqual([1, 1, 1]);
  });

  test("never undoes what is committed", () => {
    const log = logOf(1, 1);
    log.commitIndex = 2;
    expect(() => tryAppend(log, { index: 1, term: 1 }, entriesOf(2, [2]))).toThrow(/undo commit/);
  });

  test("makes the log equal to the leader's up to the match, whatever it was", () => {
    const ascending = fc
      .array(fc.integer({ min: 1, max: 4 }), { maxLength: 8 })
      .map((terms) => terms.toSorted((a, b) => a - b));
    fc.assert(
      fc.property(ascending, ascending, fc.nat(8), (own, leader, start) => {
        const log = logOf(...own);
        const from = Math.min(start, leader.length);
        const previous = { index: from, term: leader[from - 1] ?? 0 };
        // Equal terms at an index mean equal logs before it: skip pairs that no run can give.
        let common = 0;
        while (common < own.length && own[common] === leader[common]) common++;
        fc.pre(!own.some((term, i) => i > common && term === leader[i]));
        const result = tryAppend(log, previous, entriesOf(from + 1, leader.slice(from)));
        if (!result) return expect(termAt(log, from)).not.toBe(previous.term);
        expect(termsOf(log).slice(0, leader.length)).toEqual(leader);
        expect(result.matchedIndex).toBe(leader.length);
        return undefined;
      }),
    );
  });
});

describe("configurations in the log", () => {
  test("are in force from their entry on, and go with it", () => {
    const log = logOf(1);
    appendEntries(log, [configurationEntry(2, 1, "a")]);
    appendEntries(log, [configurationEntry(3, 1, "a", "b")]);
    expect(namesAt(log, 1)).toEqual([]);
    expect(namesAt(log, 2)).toEqual(["a"]);
    expect(namesAt(log, 9)).toEqual(["a", "b"]);
    tryAppend(log, { index: 2, term: 1 }, entriesOf(3, [2]));
    expect(namesAt(log, 9)).toEqual(["a"]);
  });

  test("survive compaction and are replaced by a snapshot's", () => {
    const log = logOf(1);
    appendEntries(log, [configurationEntry(2, 1, "a"), ...entriesOf(3, [1, 1])]);
    Object.assign(log, { commitIndex: 4, handedIndex: 4, appliedIndex: 4, persistedIndex: 4 });
    compactLog(log, 3);
    expect([log.base.index, log.base.term, lastIndex(log)]).toEqual([3, 1, 4]);
    expect(namesAt(log, 4)).toEqual(["a"]);
    expect(termAt(log, 3)).toBe(1);
    expect(termAt(log, 2)).toBeUndefined();
    const members = [{ nodeId: "z", addr: "z:1", isLearner: false, addedAtIndex: 7 }];
    restoreLog(log, { index: 9, term: 5, configuration: configurationOf(members) });
    expect([lastIndex(log), lastTerm(log), log.sizeBytes]).toEqual([9, 5, 0]);
    expect(namesAt(log, 9)).toEqual(["z"]);
  });
});

describe("reading the log", () => {
  test("sliceEntries() stays within the size, but gives one entry at least", () => {
    const log = logOf(1, 1, 1);
    const all = { from: 1, to: 3 };
    expect(sliceEntries(log, { ...all, sizeBytesMax: 1_000 })).toHaveLength(3);
    expect(sliceEntries(log, { ...all, sizeBytesMax: 70 })).toHaveLength(2);
    expect(sliceEntries(log, { ...all, sizeBytesMax: 1 })).toHaveLength(1);
    expect(sliceEntries(log, { from: 4, to: 9, sizeBytesMax: 1 })).toEqual([]);
    expect(sliceEntries(log, { from: 2, to: 2, sizeBytesMax: 1_000 })).toHaveLength(1);
  });

  test.each([
    [{ lastIndex: 3, lastTerm: 2 }, true],
    [{ lastIndex: 4, lastTerm: 2 }, true],
    [{ lastIndex: 1, lastTerm: 3 }, true],
    [{ lastIndex: 2, lastTerm: 2 }, false],
    [{ lastIndex: 9, lastTerm: 1 }, false],
  ])("isUpToDate() compares the last terms, then the lengths: %o", (other, expected) => {
    expect(isUpToDate(logOf(1, 1, 2), other)).toBe(expected);
  });

  test("findMatchCandidate() skips whole terms", () => {
    const log = logOf(1, 1, 3, 3, 3);
    expect(findMatchCandidate(log, 9, 2)).toEqual({ index: 2, term: 1 });
    expect(findMatchCandidate(log, 4, 3)).toEqual({ index: 4, term: 3 });
    expect(findMatchCandidate(log, 4, 0)).toEqual({ index: 0, term: 0 });
  });

  test("openLog() refuses a state machine that is ahead of the log", () => {
    const base = { index: 0, term: 0, configuration: EMPTY_CONFIGURATION };
    const stored = { base, entries: entriesOf(1, [1]), commitIndex: 0 };
    expect(() => openLog({ ...stored, appliedIndex: 2 })).toThrow(/beyond/);
    // What was applied was committed.
    expect(openLog({ ...stored, appliedIndex: 1 }).commitIndex).toBe(1);
  });
});
