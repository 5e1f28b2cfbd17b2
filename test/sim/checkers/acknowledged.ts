/** An acknowledged proposal is at the index it was acknowledged with, for ever. */
import type { committedLog } from "./committed-log.ts";
import type { Report } from "./report.ts";

export function acknowledgedProposals(report: Report) {
  const acknowledged = new Map<number, number>();
  let highest = 0;
  return {
    acknowledge: (index: number, proposal: number): void => {
      const known = acknowledged.get(index);
      if (known !== undefined && known !== proposal) {
        report("acknowledged", `${known} and ${proposal} were both acknowledged at ${index}`);
      }
      acknowledged.set(index, proposal);
      highest = Math.max(highest, index);
    },
    /** Membership changes are acknowledged too, but have no number. */
    highest: () => highest,
    note: (index: number): void => {
      highest = Math.max(highest, index);
    },
    count: () => acknowledged.size,
    /** At the end: each must be in the committed log. */
    check: (log: ReturnType<typeof committedLog>): void => {
      for (const [index, proposal] of acknowledged) {
        const entry = log.at(index);
        if (!entry || proposalOf(entry.data) !== proposal) {
          report("acknowledged", `proposal ${proposal}, acknowledged at ${index}, is lost`);
        }
      }
    },
  };
}

/** A proposal's bytes begin with its number. */
export function proposalBytes(proposal: number, sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(4, sizeBytes));
  new DataView(bytes.buffer).setUint32(0, proposal);
  return bytes;
}

function proposalOf(data: Uint8Array): number | undefined {
  if (data.length < 4) return undefined;
  return new DataView(data.buffer, data.byteOffset).getUint32(0);
}
