/** If two logs have the same term at an index, they are equal up to it. Source: raft figure 3. */
import { entryAt, lastIndex } from "../../../core/raft/log.ts";
import type { Raft } from "../../../core/raft/raft.ts";
import { isSameData } from "./committed-log.ts";
import type { Report } from "./report.ts";

export function checkLogMatching(rafts: readonly Raft[], report: Report): void {
  for (let i = 0; i < rafts.length; i++) {
    for (let j = i + 1; j < rafts.length; j++) {
      const [a, b] = [rafts[i], rafts[j]];
      if (a && b) checkPair(a, b, report);
    }
  }
}

function checkPair(a: Raft, b: Raft, report: Report): void {
  let hasMatched = false;
  const from = Math.min(lastIndex(a.log), lastIndex(b.log));
  const to = Math.max(a.log.base.index, b.log.base.index);
  for (let index = from; index > to; index--) {
    const x = entryAt(a.log, index);
    const y = entryAt(b.log, index);
    if (!x || !y) continue;
    if (x.term === y.term && isSameData(x, y)) {
      hasMatched = true;
    } else if (hasMatched || x.term === y.term) {
      report("log-matching", `${a.nodeId} and ${b.nodeId} differ at ${index}, but agree later`);
      return;
    }
  }
}
