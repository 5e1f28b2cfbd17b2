/**
 * Who takes part is a function of the log: at the same index the same members, on every node that has
 * committed it and in every snapshot, however it came by them. Source: thesis §4.1.
 */
import { decodeConfiguration, encodeConfiguration } from "../../../core/raft/configuration.ts";
import type { Configuration } from "../../../core/raft/messages.ts";
import type { Raft } from "../../../core/raft/raft.ts";
import type { committedLog } from "./committed-log.ts";
import type { Report } from "./report.ts";

export function memberships(report: Report, committed: ReturnType<typeof committedLog>) {
  /** What was looked at already; a configuration in force is a new object whenever it changes. */
  const seen = new WeakSet<object>();
  const expect = (who: string, index: number, found: Configuration): void => {
    const wanted = committedAt(committed, index);
    if (!wanted || isSame(wanted, found)) return;
    report("memberships", `${who} at ${index} has ${names(found)}, the log ${names(wanted)}`);
  };
  return {
    observe: (raft: Raft): void => {
      const { configuration, configurationIndex, log, snapshot } = raft;
      if (configurationIndex <= log.commitIndex && !seen.has(configuration)) {
        seen.add(configuration);
        expect(raft.nodeId, log.commitIndex, configuration);
      }
      if (snapshot && !seen.has(snapshot)) {
        seen.add(snapshot);
        expect(`the snapshot of ${raft.nodeId}`, snapshot.index, snapshot.configuration);
      }
    },
  };
}

/** Undefined where nobody has been looked at yet. */
function committedAt(
  committed: ReturnType<typeof committedLog>,
  index: number,
): Configuration | undefined {
  for (let at = index; at > 0; at--) {
    const entry = committed.at(at);
    if (!entry) return undefined;
    if (entry.type === "configuration") return decodeConfiguration(entry.data);
  }
  return undefined;
}

function isSame(a: Configuration, b: Configuration): boolean {
  return Buffer.compare(encodeConfiguration(a), encodeConfiguration(b)) === 0;
}

function names(configuration: Configuration): string {
  return configuration.members
    .map(({ nodeId, isLearner }) => (isLearner ? `(${nodeId})` : nodeId))
    .join(" ");
}
