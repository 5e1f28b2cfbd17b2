import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decideFormation, type PeerReport } from "../../../agent/formation/decide.ts";
import type { FormAnswer } from "../../../agent/formation/message.ts";

const DIGEST = "the list";
const me = { bootId: "b1", peersDigest: DIGEST, role: "auto" } as const;
const says = (bootId: string, more: Partial<FormAnswer> = {}): PeerReport => ({
  addr: `h${bootId.slice(1)}`,
  answer: {
    number: "1",
    bootId,
    peersDigest: DIGEST,
    state: "fresh",
    self: `h${bootId.slice(1)}`,
    ...more,
  },
});
const fails = (addr: string): PeerReport => ({ addr, failure: "no answer" });
const stranger: PeerReport = {
  addr: "h2",
  answer: { number: "1", bootId: "b2", peersDigest: DIGEST, state: "fresh" },
};
const tokens = { manager: "M", worker: "W" };
const member = (bootId: string) => says(bootId, { state: "member", tokens });

describe("decideFormation()", () => {
  test("founds as the first of the list once all others say that they never were in a cluster", () => {
    const all = [says("b1"), says("b2"), says("b3")];
    expect(decideFormation(me, all)).toEqual({ type: "found", self: "h1" });
    expect(decideFormation(me, [says("b1")])).toEqual({ type: "found", self: "h1" });
  });

  const waits: [string, PeerReport[], string][] = [
    ["one is silent", [says("b1"), says("b2"), fails("h3")], "h3: no answer"],
    ["one has left a cluster", [says("b1"), says("b2", { state: "left" })], "h2 was in a cluster"],
    ["one has another list", [says("b1"), says("b2", { peersDigest: "x" })], "another list"],
    ["one is a host named twice", [says("b1"), says("b2"), says("b2")], "the same host"],
    ["it is named twice itself", [says("b1"), says("b1")], "all this host"],
    ["it is not the first", [says("b2"), says("b1")], "h2 is to found the cluster"],
    ["it is not in the list", [says("b2"), says("b3")], "no manager of a cluster answers"],
    ["a name leads to another host", [says("b1"), says("b2", { self: "h3" })], "itself for h3"],
    ["a name leads to who knows whom", [says("b1"), stranger], "does not know yet which"],
    ["a member gives no token", [says("b1"), says("b2", { state: "member" })], "gives no token"],
  ];
  for (const [when, reports, why] of waits) {
    test(`waits while ${when}`, () => {
      const decision = decideFormation(me, reports);
      expect(decision.type === "wait" ? decision.why : decision).toContain(why);
    });
  }

  test("joins whatever is there, the founder too: as a manager in the list, else as a worker", () => {
    expect(decideFormation(me, [says("b1"), member("b2"), fails("h3")])).toEqual({
      type: "join",
      addrs: ["h2"],
      token: "M",
      self: "h1",
    });
    const decision = decideFormation(me, [member("b2"), member("b3")]);
    expect(decision).toEqual({ type: "join", addrs: ["h2", "h3"], token: "W" });
    expect(decideFormation({ ...me, role: "manager" }, [member("b2")])).toMatchObject({
      token: "M",
    });
    expect(decideFormation({ ...me, role: "worker" }, [says("b1"), member("b2")])).toMatchObject({
      token: "W",
    });
    expect(decideFormation({ ...me, role: "worker" }, [says("b1")]).type).toBe("wait");
  });

  test("of any hosts in any state, any cut off from any, names leading anywhere, at most one founds, and none beside a cluster", () => {
    const state = fc.constantFrom("fresh", "member", "left", "dead");
    const world = fc.array(state, { minLength: 1, maxLength: 6 }).chain((states) =>
      fc.tuple(
        fc.constant(states),
        fc.array(fc.boolean(), { minLength: 36, maxLength: 36 }),
        // Which host each name leads to, for all hosts but the one that has the name.
        fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 6, maxLength: 6 }),
      ),
    );
    fc.assert(
      fc.property(world, fc.boolean(), ([states, cuts, leads], isMisled) => {
        const founders = states.filter((own, index) => {
          if (own !== "fresh") return false;
          const reports = states.map((_, place): PeerReport => {
            const isCut = place !== index && cuts[index * 6 + place] === true;
            const there = isMisled && place !== index ? (leads[place] ?? 0) : place;
            const found = states[there];
            if (found === undefined || found === "dead" || isCut) return fails(`h${place}`);
            if (there === index && place !== index) return says(`b${index}`);
            const told = found === "member" ? { tokens } : {};
            const answer = { state: found, self: `h${there}`, ...told };
            return { ...says(`b${there}`, answer), addr: `h${place}` };
          });
          return decideFormation({ ...me, bootId: `b${index}` }, reports).type === "found";
        });
        expect(founders.length).toBeLessThanOrEqual(1);
        if (states.includes("member") || states.includes("left")) expect(founders).toEqual([]);
      }),
      { seed: 1, numRuns: 2_000 },
    );
  });
});
