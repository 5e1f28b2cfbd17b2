/**
 * A read index covers everything that was acknowledged, and every read index that was answered,
 * before the read began. Source: thesis §6.4.
 */
import type { Report } from "./report.ts";

export function linearizableReads(report: Report) {
  let highestAnswered = 0;
  let count = 0;
  return {
    /** What a read that begins now must at least return. */
    begin: (acknowledgedIndex: number): number => Math.max(acknowledgedIndex, highestAnswered),
    end: (nodeId: string, index: number, atLeast: number): void => {
      count++;
      if (index < atLeast) {
        report("linearizable-reads", `${nodeId} read at ${index}, ${atLeast} was visible before`);
      }
      highestAnswered = Math.max(highestAnswered, index);
    },
    count: () => count,
  };
}
