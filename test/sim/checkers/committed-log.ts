/**
 * What is committed once, on any node, stays: the same entry at the same index for everybody
 * (state machine safety), and every later leader has it (leader completeness). Source: raft figure 3.
 */
import type { Entry } from "../../../core/raft/messages.ts";
import { entryAt, termAt } from "../../../core/raft/log.ts";
import type { Raft } from "../../../core/raft/raft.ts";
import type { Report } from "./report.ts";

export function committedLog(report: Report) {
  const committed: (Entry | undefined)[] = [];
  let newestTerm = 0;
  return {
    /** Looks at what a node has newly committed; returns up to where it was looked at. */
    observe: (raft: Raft, seenIndex: number): number => {
      const { log } = raft;
      for (let index = Math.max(seenIndex, log.base.index) + 1; index <= log.commitIndex; index++) {
        const entry = entryAt(log, index);
        if (!entry) {
          report("committed-log", `${raft.nodeId} commits ${index}, which it does not have`);
          break;
        }
        const known = committed[index];
        if (!known) committed[index] = entry;
        else if (known.term !== entry.term || !isSameData(known, entry)) {
          report(
            "committed-log",
            `${raft.nodeId} commits (${index}, term ${entry.term}), others (${index}, term ${known.term})`,
          );
        }
      }
      return log.commitIndex;
    },
    observeLeader: (raft: Raft): void => {
      // A leader that another has overtaken already need not have the latter's entries.
      if (raft.term < newestTerm) return;
      newestTerm = raft.term;
      for (let index = raft.log.base.index + 1; index < committed.length; index++) {
        const entry = committed[index];
        if (entry && termAt(raft.log, index) !== entry.term) {
          report(
            "leader-completeness",
            `${raft.nodeId} leads term ${raft.term} without (${index}, term ${entry.term})`,
          );
          return;
        }
      }
    },
    at: (index: number): Entry | undefined => committed[index],
    lastIndex: () => committed.length - 1,
  };
}

export function isSameData(a: Entry, b: Entry): boolean {
  if (a.data === b.data) return true;
  if (a.type !== b.type || a.data.length !== b.data.length) return false;
  return a.data.every((byte, i) => byte === b.data[i]);
}
