/**
 * Whether the request being handled may be answered without a leader, and whether it was. Reads (GET,
 * HEAD) may; what writes must see the cluster as it is. The mark travels beside the handlers, which
 * need not know: app.ts opens the scope and writes the header, the node's `read` looks at it.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { RaftIndex } from "../../core/ids.ts";

export type Staleness = {
  /** What was read contains every change up to this one. */
  index: RaftIndex;
  /** For so long this manager has known no leader. */
  leaderLostMs: number;
};
export type ReadMark = { stale?: Staleness };

const scope = new AsyncLocalStorage<ReadMark>();

/** Runs a request that may be answered stale; `mark.stale` tells afterwards if it was. */
export function runMayBeStale<T>(mark: ReadMark, run: () => T): T {
  return scope.run(mark, run);
}

/** The mark of the request that this code runs for; undefined when it must not be stale. */
export function currentReadMark(): ReadMark | undefined {
  return scope.getStore();
}

export const STALE_HEADER = "Shoal-Stale";

/** `index=…, leader-lost-ms=…` */
export function staleHeader({ index, leaderLostMs }: Staleness): string {
  return `index=${index}, leader-lost-ms=${Math.round(leaderLostMs)}`;
}
