import { describe, expect, test } from "bun:test";
import {
  acknowledge,
  addReceiver,
  createDispatch,
  dispatchRound,
  dropReceiver,
} from "../../../core/dispatcher/dispatch.ts";
import {
  ACK_WAIT_MS,
  DRAIN_MS,
  DRAIN_MS_DNSRR,
  drainMsOf,
} from "../../../core/dispatcher/withdrawal.ts";
import type { NodeState } from "../../../core/objects/node.ts";
import { LIST_TTL_S } from "../../../net/dns/answer.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import {
  applyOrThrow,
  clusterDraft,
  create,
  networkDraft,
  nodeDraft,
  serviceDraft,
  taskDraft,
  taskStatus,
} from "../store/objects.ts";

/** Task t1 runs on n1 and is balanced by n1 and n2, which have had their complete sets (generation 1). */
function serving(labels: Record<string, string> = {}, mode: "vip" | "dnsrr" = "vip") {
  const rows = createMemoryRows();
  const ready = (id: string, index: number) =>
    create("node", nodeDraft(id, index, { status: { state: "ready", message: "", addr: "" } }));
  const network = { networkId: "net1", address: "10.0.1.5", aliases: [] };
  applyOrThrow(
    rows,
    create("cluster", clusterDraft()),
    ready("n1", 1),
    ready("n2", 2),
    create("network", networkDraft("net1")),
    create(
      "service",
      serviceDraft("s1", {}, { endpoint: { specVersion: 0, mode, ports: [], virtualIps: [] } }),
    ),
    create(
      "task",
      taskDraft("t1", "s1", {
        nodeId: "n1",
        networks: [network],
        serviceLabels: labels,
        status: taskStatus("running"),
      }),
    ),
  );
  const dispatch = createDispatch(rows, 0);
  const round = (nowMs: number, ...actions: StoreAction[]) => {
    const changes = actions.length > 0 ? applyOrThrow(rows, ...actions) : [];
    const { messages, wakeAtMs } = dispatchRound(dispatch, rows, changes, nowMs);
    const told = messages.map(({ sessionId, message }) => {
      const words = message.put.map((item) => {
        if (item.kind === "endpoint") return item.body.isReady ? "in" : "out";
        return item.kind === "task" ? item.body.desiredState : item.kind;
      });
      return `${sessionId} ${message.generation}${message.isAckWanted ? "?" : ""}: ${words.join(",")}`;
    });
    return { told, wakeAtMs };
  };
  addReceiver(dispatch, "a", "n1");
  addReceiver(dispatch, "b", "n2");
  round(0);
  return { rows, dispatch, round };
}

const shutdown: StoreAction = {
  type: "update",
  table: "task",
  id: "t1",
  set: { desiredState: "shutdown" },
};
const setNode = (state: NodeState): StoreAction => {
  const status = { state, message: "", addr: "" };
  return { type: "update", table: "node", id: "n1", set: { status } };
};

describe("a task that serves and is wanted no more", () => {
  test("goes out of all tables first, and is told to stop after their word and its drain time", () => {
    const { dispatch, round } = serving();
    expect(round(1_000, shutdown)).toEqual({
      told: ["a 2?: out", "b 2?: out"],
      wakeAtMs: 1_000 + ACK_WAIT_MS,
    });
    acknowledge(dispatch, { sessionId: "a", generation: 2 });
    acknowledge(dispatch, { sessionId: "b", generation: 1 });
    expect(round(1_050)).toEqual({ told: [], wakeAtMs: 1_000 + ACK_WAIT_MS });
    acknowledge(dispatch, { sessionId: "b", generation: 2 });
    expect(round(1_060)).toEqual({ told: [], wakeAtMs: 1_060 + DRAIN_MS });
    expect(round(1_060 + DRAIN_MS - 1).told).toEqual([]);
    expect(round(1_060 + DRAIN_MS)).toEqual({ told: ["a 3: shutdown"], wakeAtMs: undefined });
  });

  test("without a service address drains for as long as clients may remember its own", () => {
    const { dispatch, round } = serving({}, "dnsrr");
    round(0, shutdown);
    for (const sessionId of ["a", "b"]) acknowledge(dispatch, { sessionId, generation: 2 });
    expect(round(10).wakeAtMs).toBe(10 + DRAIN_MS_DNSRR);
    expect(DRAIN_MS_DNSRR).toBeGreaterThan(LIST_TTL_S * 1_000);
    const labelled = serving({ "shoal.drain": "1s" }, "dnsrr");
    labelled.round(0, shutdown);
    for (const sessionId of ["a", "b"]) {
      acknowledge(labelled.dispatch, { sessionId, generation: 2 });
    }
    expect(labelled.round(10).wakeAtMs).toBe(1_010);
  });

  test("is not held longer than the bound by a node that says nothing", () => {
    const { round } = serving();
    round(0, shutdown);
    expect(round(ACK_WAIT_MS)).toEqual({ told: [], wakeAtMs: ACK_WAIT_MS + DRAIN_MS });
    expect(round(ACK_WAIT_MS + DRAIN_MS).told).toEqual(["a 3: shutdown"]);
  });

  test("does not wait for a session that has ended", () => {
    const { dispatch, round } = serving();
    round(0, shutdown);
    acknowledge(dispatch, { sessionId: "a", generation: 2 });
    dropReceiver(dispatch, "b");
    expect(round(10).wakeAtMs).toBe(10 + DRAIN_MS);
  });

  test("is told as running to a session that its node opens anew meanwhile", () => {
    const { dispatch, round } = serving();
    round(0, shutdown);
    dropReceiver(dispatch, "a");
    addReceiver(dispatch, "c", "n1");
    const { told } = round(10);
    expect(told).toHaveLength(1);
    expect(told[0]).toContain("running");
    expect(told[0]).toContain("out");
  });

  test("of a node that is down drains without anybody's word, should the node come back", () => {
    const { dispatch, round } = serving();
    round(0, setNode("down"));
    dropReceiver(dispatch, "a");
    expect(round(1_000, shutdown).wakeAtMs).toBe(1_000 + DRAIN_MS);
    addReceiver(dispatch, "c", "n1");
    const { told } = round(1_100, setNode("ready"));
    expect(told.find((line) => line.startsWith("c"))).toContain("running");
    expect(round(1_000 + DRAIN_MS).told).toEqual(["c 2: shutdown"]);
  });

  test("is let go at once when it has ended or its service is removed", () => {
    const failed: StoreAction = {
      type: "task-status",
      id: "t1",
      nodeId: "n1",
      status: taskStatus("failed"),
    };
    for (const end of [failed, { type: "remove", table: "service", id: "s1" } as const]) {
      const { round } = serving();
      round(0, shutdown);
      const { told, wakeAtMs } = round(10, end);
      expect(told.join()).toContain("shutdown");
      expect(wakeAtMs).toBeUndefined();
    }
  });

  test("drains as long as its service's label says", () => {
    const { dispatch, round } = serving({ "shoal.drain": "5s" });
    round(0, shutdown);
    for (const sessionId of ["a", "b"]) acknowledge(dispatch, { sessionId, generation: 2 });
    expect(round(0).wakeAtMs).toBe(5_000);
  });

  test("is held for the longest wait by a leader that finds it leaving", () => {
    const { rows, round } = serving();
    round(0, shutdown);
    const dispatch = createDispatch(rows, 100);
    addReceiver(dispatch, "d", "n1");
    const { messages, wakeAtMs } = dispatchRound(dispatch, rows, [], 100);
    const task = messages[0]?.message.put.find((item) => item.kind === "task");
    expect(task?.body.desiredState).toBe("running");
    expect(wakeAtMs).toBeLessThanOrEqual(100 + ACK_WAIT_MS);
  });
});

test("drainMsOf() reads a number with its unit, and nothing else", () => {
  const read = (text: string) => drainMsOf({ "shoal.drain": text });
  expect(["0s", "250ms", "1.5s", "2m", "1h"].map(read)).toEqual([
    0, 250, 1_500, 120_000, 3_600_000,
  ]);
  expect(["", "5", "-1s", "2h", "1e3s", " 1s", "s"].map(read)).toEqual(
    Array.from({ length: 7 }, () => undefined),
  );
  expect(drainMsOf({})).toBeUndefined();
});
