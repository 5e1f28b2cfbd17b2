import { describe, expect, test } from "bun:test";
import { createLeaderWatch } from "../../agent/leader-watch.ts";
import type { RaftStatus } from "../../core/protocol.ts";

const status = (leaderId?: string): RaftStatus => ({
  term: 3,
  ...(leaderId === undefined ? {} : { leaderId }),
  isLeader: leaderId === "n1",
  commitIndex: 9,
  appliedIndex: 9,
  members: [1, 2, 3].map((i) => ({
    nodeId: `n${i}`,
    addr: `192.0.2.${i}:2377`,
    isLearner: false,
  })),
});

function watch() {
  const clock = { nowMs: 1_000 };
  const made = createLeaderWatch({
    nodeId: "n1",
    nameOf: (id) => (id === "n3" ? "host3" : undefined),
    nowMs: () => clock.nowMs,
  });
  return { clock, made };
}

describe("leader watch", () => {
  test("counts from the start, ends with a leader, and begins anew when it is lost", () => {
    const { clock, made } = watch();
    clock.nowMs += 500;
    expect(made.lostMs()).toBe(500);
    made.observe(status());
    clock.nowMs += 500;
    expect(made.lostMs()).toBe(1_000);
    made.observe(status("n2"));
    clock.nowMs += 500;
    expect(made.lostMs()).toBeUndefined();
    made.observe(status());
    clock.nowMs += 70;
    made.observe(status());
    expect(made.lostMs()).toBe(70);
  });

  test("names the managers it does not hear, and how many are needed", () => {
    const { clock, made } = watch();
    made.observe(status());
    made.hear("n2");
    expect(made.error().message).toContain(
      "2 of 3 are needed, 2 answer; missing: host3 (n3) at 192.0.2.3:2377, not heard since this agent started. Start them again",
    );
    clock.nowMs += 12_000;
    const { message, code } = made.error();
    expect(code).toBe("no-quorum");
    expect(message).toStartWith("The swarm does not have a leader.");
    expect(message).toContain(
      "1 answer; missing: n2 at 192.0.2.2:2377, last heard 12 s ago; host3",
    );
    expect(message).toContain("docker swarm init --force-new-cluster");
  });

  test("forgets who is no member, and does not remember strangers", () => {
    const { made } = watch();
    made.hear("stranger");
    made.observe(status());
    made.hear("n2");
    expect([
      made.isHeard("n1"),
      made.isHeard("n2"),
      made.isHeard("n3"),
      made.isHeard("stranger"),
    ]).toEqual([true, true, false, false]);
    const { members, ...rest } = status();
    made.observe({ ...rest, members: members.slice(0, 1) });
    made.observe(status());
    expect(made.isHeard("n2")).toBe(false);
  });
});
