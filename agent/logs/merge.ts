/** Several logs in the order of their times. Pure. */
import { type LogRecord, recordTime } from "./record.ts";

export type RecordSource<R extends LogRecord> = {
  /** What came next, in the order of time, never empty; undefined at the end. */
  next(): Promise<R[] | undefined>;
};

type Head<R extends LogRecord> = {
  source: RecordSource<R>;
  at: number;
  batch: R[];
  time: string;
  rank: number;
};
type Ranked = { time: string; rank: number };

/** Records in one batch that goes on. */
const BATCH_MAX = 256;

/**
 * Merges by time; of equal times the earlier source comes first, and the order within a source stays.
 * Needs the next record of every source before it goes on, and holds one batch of each. What is known
 * already is given out before it waits.
 */
export async function* mergeByTime<R extends LogRecord>(
  sources: readonly RecordSource<R>[],
): AsyncGenerator<R[]> {
  const firsts = await Promise.all(sources.map((source) => source.next()));
  const heap: Head<R>[] = [];
  for (const [rank, source] of sources.entries()) {
    const batch = firsts[rank];
    if (batch) insert(heap, newHead(source, batch, rank));
  }
  let out: R[] = [];
  for (let head = heap[0]; head; head = heap[0]) {
    const record = head.batch[head.at];
    if (record) out.push(record);
    head.at += 1;
    const following = head.batch[head.at];
    if (following) {
      head.time = laterOf(recordTime(following), head.time);
      sink(heap);
      if (out.length < BATCH_MAX) continue;
    }
    yield out;
    out = [];
    if (following) continue;
    const batch = await head.source.next();
    if (batch) Object.assign(head, newHead(head.source, batch, head.rank, head.time));
    else removeTop(heap);
    sink(heap);
  }
}

function newHead<R extends LogRecord>(
  source: RecordSource<R>,
  batch: R[],
  rank: number,
  notBefore = "",
): Head<R> {
  const [first] = batch;
  const time = first ? laterOf(recordTime(first), notBefore) : notBefore;
  return { source, at: 0, batch, time, rank };
}

/** A source whose times step back does not hold up its own later lines. */
function laterOf(time: string, other: string): string {
  return time > other ? time : other;
}

// ---- a binary heap: the earliest on top ---------------------------------------------------------

function isBefore(one: Ranked, other: Ranked): boolean {
  return one.time === other.time ? one.rank < other.rank : one.time < other.time;
}

function insert<H extends Ranked>(heap: H[], head: H): void {
  heap.push(head);
  let at = heap.length - 1;
  while (at > 0) {
    const above = (at - 1) >> 1;
    if (!swapIfBefore(heap, at, above)) return;
    at = above;
  }
}

function removeTop(heap: Ranked[]): void {
  const last = heap.pop();
  if (last && heap.length > 0) heap[0] = last;
}

/** The top may be too late now. */
function sink(heap: Ranked[]): void {
  for (let at = 0; ; ) {
    const [left, right] = [heap[2 * at + 1], heap[2 * at + 2]];
    if (!left) return;
    const below = right && isBefore(right, left) ? 2 * at + 2 : 2 * at + 1;
    if (!swapIfBefore(heap, below, at)) return;
    at = below;
  }
}

function swapIfBefore(heap: Ranked[], lower: number, upper: number): boolean {
  const [below, above] = [heap[lower], heap[upper]];
  if (!below || !above || !isBefore(below, above)) return false;
  heap[lower] = above;
  heap[upper] = below;
  return true;
}
