/**
 * Writes of clients: what was acknowledged is committed, where it was said to be, once; what was refused
 * has changed nothing; a conditional write was applied to the version that it named.
 */
import type { Report } from "../../checkers/report.ts";
import type { History } from "../history.ts";

export type WriteRecord = {
  proposalId: string;
  /** `<table>/<id>` and version, when the write was conditional. */
  condition?: { key: string; version: number };
  outcome: "unknown" | "refused" | { index: number };
};

export function checkAcknowledged(
  history: History,
  writes: readonly WriteRecord[],
  report: Report,
): void {
  for (const { proposalId, condition, outcome } of writes) {
    const entries = history.entriesOf(proposalId);
    const applied = entries.filter((entry) => entry.outcome?.type === "applied");
    if (applied.length > 1) {
      const at = applied.map((entry) => entry.index).join(", ");
      report("acknowledged", `write ${proposalId} was applied ${applied.length} times: at ${at}`);
    }
    const [first] = applied;
    if (outcome === "refused" && first) {
      report("acknowledged", `write ${proposalId} was refused but is applied at ${first.index}`);
    }
    if (typeof outcome === "object" && first?.index !== outcome.index) {
      const found = first ? `at ${first.index}` : "nowhere";
      report(
        "acknowledged",
        `write ${proposalId} was acknowledged at ${outcome.index}, is ${found}`,
      );
    }
    if (!condition || !first) continue;
    const before = history
      .versions(condition.key)
      .filter((version) => version.index < first.index)
      .at(-1);
    if (before?.index !== condition.version) {
      report(
        "acknowledged",
        `write ${proposalId} at ${first.index} was for version ${condition.version} of ${condition.key}, which had ${before?.index}`,
      );
    }
  }
}
