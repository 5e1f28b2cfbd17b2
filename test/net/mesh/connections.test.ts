import { describe, expect, test } from "bun:test";
import type { ConnectionCount } from "../../../net/mesh/backend.ts";
import { connectionTotals, countsOf } from "../../../net/mesh/connections.ts";
import { connectionCounts, facesOfChains } from "../../../net/mesh/iptables-rules.ts";
import { parseNftCounters } from "../../../net/mesh/nftables.ts";
import { randomPlan, seededRandom } from "./random-plan.ts";

/** A kernel whose counters are set by hand, and a clock. */
function fakeKernel() {
  const state = {
    nowMs: 0,
    reads: 0,
    costMs: 0,
    isBroken: false,
    counters: new Map<string, number>(),
  };
  const totals = connectionTotals(
    async () => {
      state.reads += 1;
      state.nowMs += state.costMs;
      if (state.isBroken) throw new Error("no kernel");
      return [...state.counters].map(
        ([serviceId, connections]): ConnectionCount => ({
          serviceId,
          family: "ipv4",
          face: "10.0.0.2",
          connections,
        }),
      );
    },
    () => state.nowMs,
  );
  const read = async () => {
    state.nowMs += 1_000;
    const counts = await totals.read();
    return Object.fromEntries(counts.map(({ serviceId, connections }) => [serviceId, connections]));
  };
  return { state, totals, read };
}

describe("connectionTotals", () => {
  test("a counter that begins anew goes on from what was seen", async () => {
    const { state, read } = fakeKernel();
    for (const [counter, total] of [
      [5, 5],
      [7, 7],
      [2, 9],
      [2, 9],
      [0, 9],
      [1, 10],
    ] as const) {
      state.counters.set("web", counter);
      expect(await read()).toEqual({ web: total });
    }
  });

  test("whatever the kernel's objects do, totals never fall and count what was read", async () => {
    const random = seededRandom(1);
    const { state, read } = fakeKernel();
    let wanted = 0;
    let counter = 0;
    for (let turn = 0; turn < 500; turn += 1) {
      const grown = Math.floor(random() * 4);
      // Ends before it counts again: then nothing is lost, if what is new shows that it is.
      if (random() < 0.2 && counter > grown) counter = 0;
      counter += grown;
      wanted += grown;
      state.counters.set("web", counter);
      expect(await read()).toEqual({ web: wanted });
    }
  });

  test("a service that is gone is forgotten", async () => {
    const { state, read } = fakeKernel();
    state.counters.set("web", 5);
    await read();
    state.counters.delete("web");
    // Not at once: while the kernel is changed, nothing may be seen of it for a moment.
    expect(await read()).toEqual({});
    state.counters.set("web", 1);
    expect(await read()).toEqual({ web: 6 });
    state.counters.delete("web");
    for (let turn = 0; turn < 60; turn += 1) await read();
    state.counters.set("web", 1);
    expect(await read()).toEqual({ web: 1 });
  });

  test("many that ask at once, or within a second, share a reading", async () => {
    const { state, totals, read } = fakeKernel();
    state.counters.set("web", 1);
    await Promise.all([read(), totals.read(), totals.read()]);
    expect(state.reads).toBe(1);
    state.nowMs += 999;
    await totals.read();
    expect(state.reads).toBe(1);
    state.nowMs += 1;
    await totals.read();
    expect(state.reads).toBe(2);
  });

  test("a reading that takes long serves for longer", async () => {
    const { state, totals } = fakeKernel();
    state.costMs = 500;
    await totals.read();
    state.nowMs += 9_999;
    await totals.read();
    expect(state.reads).toBe(1);
    state.nowMs += 1;
    await totals.read();
    expect(state.reads).toBe(2);
  });

  test("a reading that failed is tried again by the next who asks", async () => {
    const { state, totals } = fakeKernel();
    state.counters.set("web", 1);
    state.isBroken = true;
    expect(await totals.read().catch(String)).toContain("no kernel");
    state.isBroken = false;
    expect(await totals.read()).toHaveLength(1);
  });
});

describe("counters of the kernel", () => {
  test("nft's listing gives addresses and ports; what is unknown is left out", () => {
    const list = (elem: unknown[]) =>
      JSON.stringify({ nftables: [{ metainfo: {} }, { set: { name: "viphits", elem } }] });
    const counted = (val: unknown, packets: number) => ({
      elem: { val, counter: { packets, bytes: 1 } },
    });
    const elements = [
      counted("10.1.0.2", 3),
      counted("fd00::2", 4),
      counted({ concat: ["tcp", 8080] }, 5),
      counted({ concat: ["tcp"] }, 6),
      { elem: { val: "10.1.0.9" } },
      "10.1.0.10",
    ];
    expect([...parseNftCounters(list(elements))]).toEqual([
      ["10.1.0.2", 3],
      ["fd00::2", 4],
      ["8080/tcp", 5],
    ]);
    expect(parseNftCounters('{"nftables":[{"set":{"name":"viphits"}}]}').size).toBe(0);
  });

  test("iptables-save gives them by chain, and the plan says whose the chains are", () => {
    const plan = {
      ...randomPlan(1, 0),
      virtualIps: [
        {
          serviceId: "web",
          bridge: "sh00000000",
          address: "10.101.0.2",
          hasAffinity: false,
          chain: "x",
          targets: ["10.101.0.21"],
          unready: [],
        },
      ],
      ports: [
        {
          serviceId: "web",
          protocol: "tcp" as const,
          publishedPort: 8080,
          targetPort: 80,
          hasAffinity: false,
          isSnat: false,
          targets: ["10.101.0.21"],
          unready: [],
        },
      ],
    };
    const saved = [
      "*nat",
      ":SH-V-a650002 - [0:0]",
      "[12:720] -A SH-VIPS -d 10.101.0.2/32 -g SH-V-a650002",
      "[7:420] -A SH-V-a650002 -j DNAT --to-destination 10.101.0.21",
      "[4:99] -A SH-PORT-tcp -p tcp -m tcp --dport 8080 -g SH-P-tcp-8080",
      "[9:99] -A PREROUTING -j SH-PRE",
      "COMMIT",
    ].join("\n");
    const counts = countsOf(plan, facesOfChains(plan, connectionCounts(saved, "SH-")));
    expect(counts.map(({ face, connections }) => [face, connections])).toEqual([
      ["10.101.0.2", 12],
      ["8080/tcp", 4],
    ]);
  });
});
