/** An election without a winner (two candidates share the votes) is repeated soon. */
import { expect, test } from "bun:test";
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import { createRaft, type Raft, step, takeReady } from "../../../core/raft/raft.ts";
import { seededRandom } from "../../../core/random.ts";

const ELECTION_TICKS = 10;

/** `a` of three, as a candidate whose votes do not come. */
function candidate(seed: number): Raft {
  const members = ["a", "b", "c"].map((nodeId) => ({
    nodeId,
    addr: `${nodeId}:1`,
    isLearner: false,
    addedAtIndex: 1,
  }));
  const data = encodeConfiguration(configurationOf(members));
  const raft = createRaft(
    { nodeId: "a", electionTicks: ELECTION_TICKS, heartbeatTicks: 1, random: seededRandom(seed) },
    {
      hardState: { term: 1, votedFor: undefined, commitIndex: 1, joinedIndex: 1 },
      base: { index: 0, term: 0, configuration: configurationOf([]) },
      entries: [{ index: 1, term: 1, type: "configuration", data }],
      snapshot: undefined,
    },
    1,
  );
  for (let i = 0; i < 2 * ELECTION_TICKS && raft.role === "follower"; i++) {
    step(raft, { type: "tick" });
  }
  const message = { type: "pre-vote-response", term: 2, isGranted: true } as const;
  step(raft, { type: "message", from: "b", message });
  expect(raft.role).toBe("candidate");
  carryOut(raft);
  return raft;
}

function carryOut(raft: Raft): string[] {
  const sent: string[] = [];
  for (let ready = takeReady(raft); ready; ready = takeReady(raft)) {
    sent.push(...ready.messagesBefore.map(({ message }) => message.type));
    sent.push(...ready.messagesAfter.map(({ message }) => message.type));
    if (ready.persist) step(raft, { type: "persisted" });
  }
  return sent;
}

function ticksToRetry(raft: Raft): number {
  for (let tick = 1; tick <= 3 * ELECTION_TICKS; tick++) {
    step(raft, { type: "tick" });
    if (carryOut(raft).includes("pre-vote")) return tick;
  }
  return Number.POSITIVE_INFINITY;
}

test("a candidate without enough votes asks again within an election timeout, by a pre-vote", () => {
  const took = Array.from({ length: 200 }, (_, seed) => ticksToRetry(candidate(seed)));
  // Time for an answer; and not all at the same time.
  expect(Math.min(...took)).toBe(ELECTION_TICKS / 5);
  expect(Math.max(...took)).toBe(ELECTION_TICKS / 5 + ELECTION_TICKS - 1);
});
