/**
 * The replicated log as one member knows it, in memory as a whole (bounded by compaction: 10,000
 * entries or 64 MiB, plus a tail), beside the copy on disk that the host keeps from Ready batches.
 *
 *     1 … base │ base+1 … applied … handed … commit … last
 *      cut off │            persisted may lie anywhere between commit's entries and last
 *
 * Invariants: (L1) entries are consecutive from base.index + 1; (L2) terms never fall;
 * (L3) applied ≤ handed ≤ min(commit, persisted); (L4) base ≤ applied;
 * (L5) nothing at or before commit is ever removed or changed, except by compaction;
 * (L6) `configurations` has the configuration at base, then each one in the entries.
 */
import { assert } from "../assert.ts";
import type { RaftIndex } from "../ids.ts";
import { decodeConfiguration } from "./configuration.ts";
import { type Configuration, type Entry, entrySizeBytes, type LogBase } from "./messages.ts";

export type RaftLog = {
  base: LogBase;
  entries: Entry[];
  configurations: { index: RaftIndex; configuration: Configuration }[];
  /** First index that no Ready has handed out for persisting yet. */
  unstableFrom: RaftIndex;
  /** Durable up to here. */
  persistedIndex: RaftIndex;
  commitIndex: RaftIndex;
  /** Given to the state machine up to here. */
  handedIndex: RaftIndex;
  /** Reported as applied by the state machine. */
  appliedIndex: RaftIndex;
  /** Of all entries in memory. */
  sizeBytes: number;
};

/** The log as found on disk: everything is persisted. */
export function openLog(stored: {
  base: LogBase;
  entries: Entry[];
  commitIndex: RaftIndex;
  appliedIndex: RaftIndex;
}): RaftLog {
  const { base } = stored;
  const log: RaftLog = {
    base,
    entries: [],
    configurations: [{ index: base.index, configuration: base.configuration }],
    unstableFrom: base.index + 1,
    persistedIndex: base.index,
    commitIndex: base.index,
    handedIndex: base.index,
    appliedIndex: base.index,
    sizeBytes: 0,
  };
  appendEntries(log, stored.entries);
  const last = lastIndex(log);
  log.unstableFrom = last + 1;
  log.persistedIndex = last;
  assert(stored.appliedIndex <= last, `Applied ${stored.appliedIndex} is beyond the log's ${last}`);
  assert(stored.commitIndex <= last, `Commit ${stored.commitIndex} is beyond the log's ${last}`);
  log.appliedIndex = Math.max(base.index, stored.appliedIndex);
  log.handedIndex = log.appliedIndex;
  // What was applied was committed, even when the commit index was not written in time.
  log.commitIndex = Math.max(stored.commitIndex, log.appliedIndex);
  return log;
}

export function lastIndex(log: RaftLog): RaftIndex {
  return log.base.index + log.entries.length;
}

export function lastTerm(log: RaftLog): number {
  return log.entries.at(-1)?.term ?? log.base.term;
}

/** Undefined when the index was cut off (and is not the base itself) or is not there yet. */
export function termAt(log: RaftLog, index: RaftIndex): number | undefined {
  if (index === log.base.index) return log.base.term;
  return log.entries[index - log.base.index - 1]?.term;
}

export function entryAt(log: RaftLog, index: RaftIndex): Entry | undefined {
  return log.entries[index - log.base.index - 1];
}

/**
 * Entries `from` … `to` inclusive, as many as fit in `sizeBytesMax`, at least one when there is one.
 */
export function sliceEntries(
  log: RaftLog,
  range: { from: RaftIndex; to: RaftIndex; sizeBytesMax: number },
): Entry[] {
  const start = range.from - log.base.index - 1;
  assert(start >= 0, `Entries from ${range.from} were cut off at ${log.base.index}`);
  const end = Math.min(range.to - log.base.index, log.entries.length);
  let sizeBytes = 0;
  let stop = start;
  while (stop < end) {
    sizeBytes += entrySizeBytes(log.entries[stop] as Entry); // stop < end ≤ length
    if (sizeBytes > range.sizeBytesMax && stop > start) break;
    stop++;
  }
  return log.entries.slice(start, stop);
}

/** Adds entries at the end; the caller has checked that they follow. */
export function appendEntries(log: RaftLog, entries: readonly Entry[]): void {
  for (const entry of entries) {
    assert(
      entry.index === lastIndex(log) + 1,
      `Entry ${entry.index} does not follow ${lastIndex(log)}`,
    );
    assert(
      entry.term >= lastTerm(log),
      `Term ${entry.term} of entry ${entry.index} falls from ${lastTerm(log)}`,
    );
    log.entries.push(entry);
    log.sizeBytes += entrySizeBytes(entry);
    if (entry.type === "configuration") {
      log.configurations.push({
        index: entry.index,
        configuration: decodeConfiguration(entry.data),
      });
    }
  }
}

function truncateFrom(log: RaftLog, index: RaftIndex): void {
  assert(index > log.commitIndex, `Truncating at ${index} would undo commit ${log.commitIndex}`);
  for (const entry of log.entries.splice(index - log.base.index - 1)) {
    log.sizeBytes -= entrySizeBytes(entry);
  }
  while ((log.configurations.at(-1)?.index ?? 0) >= index && log.configurations.length > 1) {
    log.configurations.pop();
  }
  log.unstableFrom = Math.min(log.unstableFrom, index);
  log.persistedIndex = Math.min(log.persistedIndex, index - 1);
}

/**
 * Takes a leader's entries after (previousIndex, previousTerm): keeps what agrees, removes what
 * conflicts, adds what is new. Returns the last index that now equals the leader's log, or undefined
 * when the previous entry does not match. `truncatedFrom` tells whether own entries were removed.
 * Source: raft §5.3.
 */
export function tryAppend(
  log: RaftLog,
  previous: { index: RaftIndex; term: number },
  entries: readonly Entry[],
): { matchedIndex: RaftIndex; truncatedFrom?: RaftIndex } | undefined {
  if (termAt(log, previous.index) !== previous.term) return undefined;
  const matchedIndex = previous.index + entries.length;
  for (let i = 0; i < entries.length; i++) {
    const entry = entries[i] as Entry; // i < length
    const term = termAt(log, entry.index);
    if (term === entry.term) continue;
    if (term === undefined) {
      appendEntries(log, entries.slice(i));
      return { matchedIndex };
    }
    truncateFrom(log, entry.index);
    appendEntries(log, entries.slice(i));
    return { matchedIndex, truncatedFrom: entry.index };
  }
  return { matchedIndex };
}

/**
 * The latest index at or before `index` whose term is not above `term`: where two logs may agree.
 * Skips a whole term per round instead of one entry. Source: raft §5.3 (end), etcd's log probing.
 */
export function findMatchCandidate(
  log: RaftLog,
  index: RaftIndex,
  term: number,
): { index: RaftIndex; term: number } {
  let candidate = Math.min(index, lastIndex(log));
  while (candidate > log.base.index) {
    const own = termAt(log, candidate);
    if (own === undefined || own <= term) break;
    candidate--;
  }
  return { index: candidate, term: termAt(log, candidate) ?? 0 };
}

/** Whether a log ending in (lastIndex, lastTerm) may lead this one. Source: raft §5.4.1. */
export function isUpToDate(
  log: RaftLog,
  other: { lastIndex: RaftIndex; lastTerm: number },
): boolean {
  const own = lastTerm(log);
  return other.lastTerm > own || (other.lastTerm === own && other.lastIndex >= lastIndex(log));
}

/** The configuration in force at an index: the last one at or before it. */
export function configurationAt(
  log: RaftLog,
  index: RaftIndex,
): { index: RaftIndex; configuration: Configuration } {
  for (let i = log.configurations.length - 1; i > 0; i--) {
    const candidate = log.configurations[i];
    if (candidate && candidate.index <= index) return candidate;
  }
  const first = log.configurations[0];
  assert(first, "The log has a configuration at its base");
  return first;
}

/** Forgets the entries up to `index`, which a snapshot covers. */
export function compactLog(log: RaftLog, index: RaftIndex): void {
  if (index <= log.base.index) return;
  assert(
    index <= log.appliedIndex,
    `Compacting to ${index} goes beyond applied ${log.appliedIndex}`,
  );
  assert(index <= log.persistedIndex, `Compacting to ${index} goes beyond ${log.persistedIndex}`);
  const term = termAt(log, index);
  assert(term !== undefined, `Entry ${index} is in the log`);
  const { configuration } = configurationAt(log, index);
  for (const entry of log.entries.splice(0, index - log.base.index)) {
    log.sizeBytes -= entrySizeBytes(entry);
  }
  log.configurations = [
    { index: configurationAt(log, index).index, configuration },
    ...log.configurations.filter((item) => item.index > index),
  ];
  log.base = { index, term, configuration };
}

/** Replaces everything by a snapshot of the leader. */
export function restoreLog(log: RaftLog, base: LogBase): void {
  assert(
    base.index > log.commitIndex,
    `Snapshot ${base.index} is behind commit ${log.commitIndex}`,
  );
  log.base = base;
  log.entries = [];
  log.configurations = [{ index: base.index, configuration: base.configuration }];
  log.unstableFrom = base.index + 1;
  log.persistedIndex = base.index;
  log.commitIndex = base.index;
  log.sizeBytes = 0;
}
