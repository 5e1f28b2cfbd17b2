/**
 * Linearizability of what clients saw, twice. With witnesses: every operation names the raft index at which
 * it took effect, so the order is known and only has to fit real time and content. And without: the values
 * of single registers (a mark on each node) through the search of test/checkers.
 */
import { checkLinearizability, type Operation } from "../../../checkers/linearizability.ts";
import type { Report } from "../../checkers/report.ts";
import { type History, objectAt } from "../history.ts";

/** An operation that has ended well. Times are virtual. */
export type WitnessedOperation = {
  kind: "read" | "write";
  startMs: number;
  endMs: number;
  /** Of the entry, or of the view that was read. */
  index: number;
  /** Of a read: what was seen, with its version; `undefined`: absent. */
  seen: { key: string; version: number | undefined }[];
};

export function checkWitnesses(
  history: History,
  operations: readonly WitnessedOperation[],
  report: Report,
): void {
  const byEnd = [...operations].sort((a, b) => a.endMs - b.endMs);
  const byStart = [...operations].sort((a, b) => a.startMs - b.startMs);
  let ended = 0;
  let floor = 0;
  for (const operation of byStart) {
    // What had ended before this one began.
    for (let next = byEnd[ended]; next && next.endMs < operation.startMs; next = byEnd[++ended]) {
      floor = Math.max(floor, next.index);
    }
    const { kind, index, startMs } = operation;
    if (index < floor || (kind === "write" && index === floor)) {
      report(
        "linearizable",
        `a ${kind} that began at ${startMs.toFixed(0)} ms took effect at ${index}, after ${floor} was known`,
      );
    }
    for (const { key, version } of operation.seen) {
      const expected = objectAt(history, key, index)?.version;
      if (expected === version) continue;
      report(
        "linearizable",
        `a read at ${index} saw version ${version} of ${key}, not ${expected}`,
      );
    }
  }
}

export function checkRegisters(operations: readonly Operation[], report: Report): void {
  for (const { key, message } of checkLinearizability(operations).violations) {
    report("linearizable", `register ${key}: ${message}`);
  }
}
