import { describe, expect, test } from "bun:test";
import { configurationOf, votersOf } from "../../../core/raft/configuration.ts";
import {
  MEMBERS_MAX,
  type MembershipFacts,
  planMembership,
} from "../../../core/raft/membership.ts";
import type { Configuration } from "../../../core/raft/messages.ts";
import type { MembershipChange } from "../../../core/protocol.ts";

/** "a b (c)": two voters and a learner. */
function members(text: string): Configuration {
  return configurationOf(
    text.split(" ").map((word, i) => {
      const nodeId = word.replaceAll(/[()]/g, "");
      return { nodeId, addr: `${nodeId}:1`, isLearner: word !== nodeId, addedAtIndex: i + 1 };
    }),
  );
}

function show(configuration: Configuration): string {
  return configuration.members.map((m) => (m.isLearner ? `(${m.nodeId})` : m.nodeId)).join(" ");
}

function plan(
  before: string,
  change: MembershipChange,
  known: Partial<MembershipFacts> = {},
): string {
  const facts = { isActive: () => true, matchIndex: () => 1_000, lastIndex: 1_000, ...known };
  const result = planMembership(members(before), change, facts);
  if (result.type === "changed") return show(result.configuration);
  return result.type === "refused" ? result.refusal.message : "unchanged";
}

describe("planMembership()", () => {
  test("lets a node learn first, and vote when it has caught up", () => {
    expect(plan("a", { type: "add-learner", nodeId: "b", addr: "b:1" })).toBe("a (b)");
    expect(plan("a (b)", { type: "promote", nodeId: "b" })).toBe("a b");
  });

  test("remembers at which entry a member was added", () => {
    const change = { type: "add-learner", nodeId: "b", addr: "b:1" } as const;
    const facts = { isActive: () => true, matchIndex: () => 0, lastIndex: 41 };
    const result = planMembership(members("a"), change, facts);
    expect(result).toMatchObject({ configuration: { members: [{}, { addedAtIndex: 42 }] } });
  });

  test("refuses to promote what is unknown, unreached, far behind, or not joined yet", () => {
    const change = { type: "promote", nodeId: "b" } as const;
    expect(plan("a", change)).toMatch(/not a member/);
    expect(plan("a (b)", change, { matchIndex: () => undefined })).toMatch(/not reached/);
    expect(plan("a (b)", change, { matchIndex: () => 400 })).toMatch(/600 entries behind/);
    expect(plan("a (b)", change, { matchIndex: () => 1, lastIndex: 3 })).toMatch(
      /2 entries behind/,
    );
  });

  test("takes a repeated request as done", () => {
    expect(plan("a b", { type: "promote", nodeId: "b" })).toBe("unchanged");
    expect(plan("a b", { type: "remove", nodeId: "c" })).toBe("unchanged");
    expect(plan("a (b)", { type: "add-learner", nodeId: "b", addr: "b:1" })).toBe("unchanged");
    expect(plan("a b", { type: "set-addr", nodeId: "b", addr: "b:1" })).toBe("unchanged");
  });

  test("keeps a quorum that can be reached", () => {
    const onlyAandB = { isActive: (id: string) => id === "a" || id === "b" };
    expect(plan("a b c", { type: "remove", nodeId: "c" }, onlyAandB)).toBe("a b");
    expect(plan("a b c", { type: "remove", nodeId: "b" }, onlyAandB)).toMatch(/only 1 of the 2/);
    expect(plan("a", { type: "remove", nodeId: "a" })).toMatch(/last manager/);
    // A learner counts for nothing.
    expect(plan("a b (c)", { type: "remove", nodeId: "c" }, { isActive: () => false })).toBe("a b");
  });

  test("changes an address in place", () => {
    const facts = { isActive: () => true, matchIndex: () => 0, lastIndex: 9 };
    const change = { type: "set-addr", nodeId: "b", addr: "b:2" } as const;
    const result = planMembership(members("a b"), change, facts);
    expect(result).toMatchObject({
      configuration: { members: [{}, { addr: "b:2", addedAtIndex: 2 }] },
    });
    expect(plan("a", change)).toMatch(/not a member/);
  });

  test("bounds the number of members", () => {
    const many = Array.from({ length: MEMBERS_MAX }, (_, i) => `m${i}`).join(" ");
    expect(plan(many, { type: "add-learner", nodeId: "x", addr: "x:1" })).toMatch(/most allowed/);
  });

  test("changes one voter at a time, so that old and new majorities meet", () => {
    const changes: MembershipChange[] = [
      { type: "add-learner", nodeId: "d", addr: "d:1" },
      { type: "promote", nodeId: "c" },
      { type: "remove", nodeId: "a" },
    ];
    for (const change of changes) {
      const before = members("a b (c)");
      const facts = { isActive: () => true, matchIndex: () => 9, lastIndex: 9 };
      const result = planMembership(before, change, facts);
      if (result.type !== "changed") throw new Error("Every change is allowed");
      const [old, now] = [new Set(votersOf(before)), new Set(votersOf(result.configuration))];
      expect(old.symmetricDifference(now).size).toBeLessThanOrEqual(1);
    }
  });
});
