import { describe, expect, test } from "bun:test";
import {
  expireReads,
  newReadState,
  openRound,
  queueRead,
  READS_MAX,
  restartReads,
  takeConfirmedRounds,
  takeDueForwards,
  takeForward,
} from "../../../core/raft/read-index.ts";
import { seededRandom } from "../../../core/random.ts";

const own = (requestId: number, startedTick = 0) => ({ requestId, startedTick });
const other = (readId: number) => ({ from: "b", readId, startedTick: 0 });

describe("reads of a leader", () => {
  test("share a round, and a confirmation is good for all rounds before it", () => {
    const state = newReadState(seededRandom(1));
    queueRead(state, own(1));
    queueRead(state, other(9));
    expect(openRound(state, 5)?.reads).toHaveLength(2);
    expect(openRound(state, 5)).toBeUndefined();
    queueRead(state, own(2));
    openRound(state, 6);
    expect(takeConfirmedRounds(state, 0)).toEqual([]);
    expect(takeConfirmedRounds(state, 1).map((round) => round.index)).toEqual([5]);
    expect(takeConfirmedRounds(state, 2).map((round) => round.index)).toEqual([6]);
    expect(state.count).toBe(0);
  });
});

describe("reads of a follower", () => {
  test("share a request, which is sent again until it is answered", () => {
    const state = newReadState(seededRandom(1));
    queueRead(state, own(1));
    queueRead(state, own(2));
    const [first] = takeDueForwards(state, 0, 5);
    expect(takeDueForwards(state, 4, 5)).toEqual([]);
    expect(takeDueForwards(state, 5, 5)[0]?.readId).toBe(first?.readId ?? -1);
    expect(takeForward(state, (first?.readId ?? 0) + 1)).toEqual([]);
    expect(takeForward(state, first?.readId ?? 0).map((read) => read.requestId)).toEqual([1, 2]);
    expect(takeForward(state, first?.readId ?? 0)).toEqual([]);
  });

  test("have ids that another life of the node does not use", () => {
    const ids = [1, 2].map((seed) => {
      const state = newReadState(seededRandom(seed));
      queueRead(state, own(1));
      return takeDueForwards(state, 0, 5)[0]?.readId;
    });
    expect(ids[0]).not.toBe(ids[1]);
  });
});

describe("waiting reads", () => {
  test("begin anew under a new leader; those of others are dropped", () => {
    const state = newReadState(seededRandom(1));
    queueRead(state, own(1));
    queueRead(state, other(9));
    openRound(state, 5);
    queueRead(state, own(2));
    restartReads(state);
    expect(state.queue).toEqual([own(1), own(2)]);
    expect([state.rounds.length, state.count]).toEqual([0, 2]);
  });

  test("end at their time, wherever they wait", () => {
    const state = newReadState(seededRandom(1));
    queueRead(state, own(1, 1));
    openRound(state, 5);
    queueRead(state, own(2, 2));
    takeDueForwards(state, 2, 5);
    queueRead(state, own(3, 3));
    expect(expireReads(state, 3).map((read) => read.requestId)).toEqual([1, 2]);
    expect(state.count).toBe(1);
    expect(expireReads(state, 9).map((read) => read.requestId)).toEqual([3]);
  });

  test("are bounded", () => {
    const state = newReadState(seededRandom(1));
    for (let i = 0; i < READS_MAX; i++) expect(queueRead(state, own(i))).toBe(true);
    expect(queueRead(state, own(READS_MAX))).toBe(false);
  });
});
