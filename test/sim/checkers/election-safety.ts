/** At most one leader in a term. Source: raft figure 3. */
import type { Raft } from "../../../core/raft/raft.ts";
import type { Report } from "./report.ts";

export function electionSafety(report: Report) {
  const leaders = new Map<number, string>();
  return {
    /** True the first time that a term's leader is seen. */
    observe: (raft: Raft): boolean => {
      if (raft.role !== "leader") return false;
      const known = leaders.get(raft.term);
      if (known === raft.nodeId) return false;
      if (known !== undefined) {
        report("election-safety", `${known} and ${raft.nodeId} both lead term ${raft.term}`);
      }
      leaders.set(raft.term, raft.nodeId);
      return true;
    },
    termCount: () => leaders.size,
  };
}
