import { describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import { familyPair, type OneFamily } from "../../../net/mesh/family-pair.ts";
import { randomPlan } from "./random-plan.ts";

const PLAN = randomPlan(1, 0);
const PLAN6 = { ...PLAN, family: "ipv6" as const };

function fakeFamily(name: string, log: string[]) {
  const state = { isRefused: false, isThere: false };
  const act = async (what: string) => {
    log.push(`${name} ${what}`);
    if (state.isRefused) throw new ClusterError("unavailable", "Cannot program: no nat");
  };
  const family: OneFamily = {
    apply: async () => {
      await act("apply");
      state.isThere = true;
    },
    mend: async () => {
      await act("mend");
      return { "iptables-chains": 1 };
    },
    isPresent: async () => {
      log.push(`${name} look`);
      return state.isThere;
    },
    wipe: async () => {
      await act("wipe");
      state.isThere = false;
    },
  };
  return { state, family };
}

function fakePair() {
  const log: string[] = [];
  const four = fakeFamily("4", log);
  const six = fakeFamily("6", log);
  const pair = familyPair(four.family, six.family);
  /** What was done since the last question. */
  const done = () => log.splice(0).join(", ");
  return { four: four.state, six: six.state, pair, done };
}

describe("familyPair", () => {
  test("without a plan for IPv6 there is one look at it, and then nothing", async () => {
    const { pair, done } = fakePair();
    await pair.apply(PLAN);
    await pair.apply(PLAN);
    await pair.mend();
    expect(done()).toBe("4 apply, 6 look, 4 apply, 4 mend");
  });

  test("what an earlier run left of IPv6 goes, and goes with the last plan for it", async () => {
    const { pair, six, done } = fakePair();
    six.isThere = true;
    await pair.apply(PLAN);
    expect(done()).toBe("4 apply, 6 look, 6 wipe");
    await pair.apply(PLAN, PLAN6);
    expect(await pair.mend()).toEqual({ "iptables-chains": 2 });
    await pair.apply(PLAN);
    await pair.mend();
    expect(done()).toBe("4 apply, 6 apply, 4 mend, 6 mend, 4 apply, 6 wipe, 4 mend");
  });

  test("a kernel that refuses IPv6 has IPv4, says why, and is asked again", async () => {
    const { pair, six, done } = fakePair();
    six.isRefused = true;
    await pair.apply(PLAN, PLAN6);
    expect(pair.problem()).toBe(
      "IPv6 does not work on this node, IPv4 does: Cannot program: no nat",
    );
    expect(await pair.mend()).toEqual({ "iptables-chains": 1 });
    expect(done()).toBe("4 apply, 6 apply, 4 mend, 6 apply");
    six.isRefused = false;
    await pair.mend();
    expect(pair.problem()).toBeUndefined();
  });

  test("what IPv4 is refused is the caller's to know", async () => {
    const { pair, four } = fakePair();
    four.isRefused = true;
    expect(await pair.apply(PLAN, PLAN6).catch(String)).toContain("no nat");
  });

  test("a wipe takes both", async () => {
    const { pair, done } = fakePair();
    await pair.apply(PLAN, PLAN6);
    done();
    await pair.wipe();
    expect(done()).toBe("4 wipe, 6 wipe");
    await pair.wipe();
    expect(done()).toBe("4 wipe, 6 look");
  });
});
