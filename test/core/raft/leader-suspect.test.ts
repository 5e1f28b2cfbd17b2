/** A broken connection to the leader shortens the wait for an election, and only that. */
import { describe, expect, test } from "bun:test";
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import type { OutgoingMessage } from "../../../core/raft/messages.ts";
import { createRaft, type Raft, step, takeReady } from "../../../core/raft/raft.ts";
import { seededRandom } from "../../../core/random.ts";

const ELECTION_TICKS = 10;
const HEARTBEAT = {
  type: "heartbeat",
  term: 1,
  epoch: 1,
  commitIndex: 1,
  readId: 0,
  removedAtIndex: 0,
} as const;

/** `a` of three, hearing the leader `b`. */
function follower(seed = 1): Raft {
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
  hear(raft);
  return raft;
}

function hear(raft: Raft): void {
  step(raft, { type: "message", from: "b", message: HEARTBEAT });
  carryOut(raft);
}

function carryOut(raft: Raft): OutgoingMessage[] {
  const sent: OutgoingMessage[] = [];
  for (let ready = takeReady(raft); ready; ready = takeReady(raft)) {
    sent.push(...ready.messagesBefore, ...ready.messagesAfter);
    if (ready.persist) step(raft, { type: "persisted" });
  }
  return sent;
}

function ticksToCampaign(raft: Raft): number {
  for (let tick = 1; tick <= 3 * ELECTION_TICKS; tick++) {
    step(raft, { type: "tick" });
    if (carryOut(raft).some(({ message }) => message.type === "pre-vote")) return tick;
  }
  return Number.POSITIVE_INFINITY;
}

function answerToPreVote(raft: Raft): boolean | undefined {
  const message = { type: "pre-vote", term: 2, lastIndex: 1, lastTerm: 1 } as const;
  step(raft, { type: "message", from: "c", message });
  for (const { message: answer } of carryOut(raft)) {
    if (answer.type === "pre-vote-response") return answer.isGranted;
  }
  return undefined;
}

describe("a follower that lost its connection to the leader", () => {
  test("asks for votes after a few heartbeats without word", () => {
    const took = Array.from({ length: 200 }, (_, seed) => {
      const raft = follower(seed);
      step(raft, { type: "peer-unreachable", nodeId: "b" });
      return ticksToCampaign(raft);
    });
    expect(Math.min(...took)).toBe(3);
    expect(Math.max(...took)).toBe(6);
  });

  test("waits a whole election timeout again when the leader is heard after all", () => {
    const raft = follower();
    step(raft, { type: "peer-unreachable", nodeId: "b" });
    hear(raft);
    expect(ticksToCampaign(raft)).toBeGreaterThanOrEqual(ELECTION_TICKS);
  });

  test("helps another to replace the leader, which one that hears it does not", () => {
    const raft = follower();
    step(raft, { type: "tick" });
    step(raft, { type: "tick" });
    expect(answerToPreVote(raft)).toBe(false);
    step(raft, { type: "peer-unreachable", nodeId: "b" });
    expect(answerToPreVote(raft)).toBe(true);
    // Its answers do not reach the leader, but it hears it.
    hear(raft);
    for (let i = 0; i < 2 * ELECTION_TICKS; i++) {
      step(raft, { type: "peer-unreachable", nodeId: "b" });
      step(raft, { type: "tick" });
      expect(answerToPreVote(raft)).toBe(false);
      hear(raft);
    }
  });

  test("does not mind that another peer is unreachable", () => {
    const raft = follower();
    step(raft, { type: "peer-unreachable", nodeId: "c" });
    expect(ticksToCampaign(raft)).toBeGreaterThanOrEqual(ELECTION_TICKS);
  });
});
