import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { majority, quorumValue, voteResult } from "../../../core/raft/quorum.ts";

const votersOf = (count: number) => Array.from({ length: count }, (_, i) => `n${i}`);

describe("majority()", () => {
  test.each([
    [1, 1],
    [2, 2],
    [3, 2],
    [4, 3],
    [5, 3],
  ])("of %d is %d", (count, expected) => {
    expect(majority(count)).toBe(expected);
  });

  test("any two majorities of configurations that differ by one voter share a voter", () => {
    for (let count = 1; count < 20; count++) {
      expect(majority(count) + majority(count + 1)).toBeGreaterThan(count + 1);
    }
  });
});

describe("quorumValue()", () => {
  test("is the highest value that a majority has reached, as counted naively", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(20), { minLength: 1, maxLength: 9 }), (values) => {
        const voters = votersOf(values.length);
        const valueOf = (voter: string) => values[voters.indexOf(voter)] ?? 0;
        let naive = 0;
        for (let candidate = 0; candidate <= 20; candidate++) {
          const reached = values.filter((value) => value >= candidate).length;
          if (reached * 2 > values.length) naive = candidate;
        }
        expect(quorumValue(voters, valueOf)).toBe(naive);
      }),
    );
  });

  test("is 0 without voters", () => {
    expect(quorumValue([], () => 9)).toBe(0);
  });
});

describe("voteResult()", () => {
  test("agrees with trying out every way in which the missing votes may fall", () => {
    const vote = fc.constantFrom(true, false, undefined);
    fc.assert(
      fc.property(fc.array(vote, { minLength: 1, maxLength: 7 }), (cast) => {
        const voters = votersOf(cast.length);
        const votes = new Map<string, boolean>();
        cast.forEach((value, i) => {
          if (value !== undefined) votes.set(voters[i] ?? "", value);
        });
        const granted = cast.filter((value) => value === true).length;
        const missing = cast.filter((value) => value === undefined).length;
        const canWin = (granted + missing) * 2 > cast.length;
        const hasWon = granted * 2 > cast.length;
        expect(voteResult(voters, votes)).toBe(hasWon ? "won" : canWin ? "pending" : "lost");
      }),
    );
  });

  test("does not count those who are no voters, and nobody wins without voters", () => {
    const votes = new Map([
      ["n0", true],
      ["stranger", true],
    ]);
    expect(voteResult(votersOf(3), votes)).toBe("pending");
    expect(voteResult([], votes)).toBe("lost");
  });
});
