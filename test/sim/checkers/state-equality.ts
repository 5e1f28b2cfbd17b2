/** Equal applied index, equal state: on every node, after every entry and every snapshot. */
import type { Report } from "./report.ts";

export function stateEquality(report: Report) {
  const hashes: (number | undefined)[] = [];
  return {
    observe: (nodeId: string, index: number, hash: number): void => {
      const known = hashes[index];
      if (known === undefined) hashes[index] = hash;
      else if (known !== hash) report("state-equality", `${nodeId} differs at applied ${index}`);
    },
  };
}
