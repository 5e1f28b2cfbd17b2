/** Counting: what a majority of the voters agrees on. Source: raft §5.2, §5.3. */
import type { NodeId } from "../ids.ts";

/** How many of `count` voters are a majority. */
export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * The highest value that a majority of the voters has reached. 0 without voters: an empty
 * configuration agrees on nothing.
 */
export function quorumValue(voters: readonly NodeId[], valueOf: (voter: NodeId) => number): number {
  if (voters.length === 0) return 0;
  const values = voters.map(valueOf).sort((a, b) => b - a);
  return values[majority(voters.length) - 1] ?? 0;
}

/** The state of an election: `lost` when the votes still missing cannot make a majority. */
export type VoteResult = "won" | "lost" | "pending";

/** How the votes cast so far decide. */
export function voteResult(
  voters: readonly NodeId[],
  votes: ReadonlyMap<NodeId, boolean>,
): VoteResult {
  let granted = 0;
  let missing = 0;
  for (const voter of voters) {
    const vote = votes.get(voter);
    if (vote === undefined) missing++;
    else if (vote) granted++;
  }
  const needed = majority(voters.length);
  if (voters.length > 0 && granted >= needed) return "won";
  return granted + missing < needed || voters.length === 0 ? "lost" : "pending";
}
