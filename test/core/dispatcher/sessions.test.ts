import { describe, expect, test } from "bun:test";
import {
  closeSession,
  createSessions,
  expireSessions,
  forgiveDelay,
  hasSession,
  heartbeatPeriodMs,
  openSession,
  planNodeStatus,
  recordHeartbeat,
  type SessionInfo,
} from "../../../core/dispatcher/sessions.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { applyOrThrow, clusterDraft, create, DESCRIPTION, nodeDraft } from "../store/objects.ts";

/** Default period 1 s, so expiry after 4 s and a grace of 12 s. */
function world() {
  const rows = createMemoryRows();
  applyOrThrow(
    rows,
    create("cluster", clusterDraft()),
    create("node", nodeDraft("n1", 1, { dataPathAddr: "" })),
    create("node", nodeDraft("n2", 2)),
  );
  const sessions = createSessions();
  expireSessions(sessions, rows, 0);
  return { rows, sessions };
}
const session = (nodeId: string, sessionId: string): SessionInfo => ({
  sessionId,
  nodeId,
  description: DESCRIPTION,
  addr: "192.0.2.9",
  dataPathAddr: "192.0.2.8",
});
type World = ReturnType<typeof world>;
const run = ({ rows, sessions }: World, nowMs: number) => {
  const ended = expireSessions(sessions, rows, nowMs);
  const actions = planNodeStatus(sessions, rows, nowMs);
  if (actions.length > 0) applyOrThrow(rows, ...actions);
  return { ended, actionCount: actions.length };
};
const states = ({ rows }: World) => rows.nodes().map((node) => node.status.state);

describe("sessions", () => {
  test("make a node ready with its description and addresses, once", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    expect(run(w, 0)).toEqual({ ended: [], actionCount: 1 });
    expect(w.rows.node("n1")).toMatchObject({
      status: { state: "ready", message: "", addr: "192.0.2.9" },
      description: DESCRIPTION,
      dataPathAddr: "192.0.2.8",
    });
    expect(run(w, 1)).toEqual({ ended: [], actionCount: 0 });
  });

  test("keep a data path address that the node does not tell", () => {
    const w = world();
    openSession(w.sessions, { ...session("n2", "a"), dataPathAddr: "" }, 0);
    run(w, 0);
    expect(w.rows.node("n2")?.dataPathAddr).toBe("192.0.2.2");
  });

  test("end after four missed heartbeats, and the node is down at once", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    run(w, 0);
    expect(recordHeartbeat(w.sessions, { nodeId: "n1", sessionId: "a" }, 1_000)).toBe(true);
    expect(run(w, 4_999)).toEqual({ ended: [], actionCount: 0 });
    expect(run(w, 5_000)).toEqual({
      ended: [{ sessionId: "a", reason: "heartbeat failure" }],
      actionCount: 1,
    });
    expect(w.rows.node("n1")?.status).toEqual({
      state: "down",
      message: "heartbeat failure",
      addr: "192.0.2.9",
    });
    expect(recordHeartbeat(w.sessions, { nodeId: "n1", sessionId: "a" }, 5_001)).toBe(false);
    expect(run(w, 6_000)).toEqual({ ended: [], actionCount: 0 });
  });

  test("leave nodes never heard of as they are until the grace time has passed", () => {
    const w = world();
    expect(run(w, 11_999).actionCount).toBe(0);
    run(w, 12_000);
    expect(states(w)).toEqual(["down", "down"]);
  });

  test("do not give the grace time to a member that consensus does not hear of either", () => {
    const w = world();
    w.sessions.silentMembers = new Set(["n1"]);
    expect(run(w, 2_999).actionCount).toBe(0);
    run(w, 3_000);
    expect(states(w)).toEqual(["down", "unknown"]);
  });

  test("give a node that joins later its own grace time", () => {
    const w = world();
    applyOrThrow(w.rows, create("node", nodeDraft("n3", 3)));
    run(w, 10_000);
    run(w, 21_999);
    expect(states(w)).toEqual(["down", "down", "unknown"]);
    run(w, 22_000);
    expect(states(w)).toEqual(["down", "down", "down"]);
  });

  test("give the grace time of at least 8 s when heartbeats are quick", () => {
    const w = world();
    const spec = { ...w.rows.cluster()!.spec, Dispatcher: { HeartbeatPeriod: 100e6 } };
    applyOrThrow(w.rows, { type: "update", table: "cluster", id: "c1", set: { spec } });
    expect(heartbeatPeriodMs(w.rows)).toBe(100);
    run(w, 7_999);
    expect(states(w)).toEqual(["unknown", "unknown"]);
    run(w, 8_000);
    expect(states(w)).toEqual(["down", "down"]);
  });

  test("a closed session's node has until its expiry to come back", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    run(w, 0);
    closeSession(w.sessions, "a");
    run(w, 3_999);
    expect(w.rows.node("n1")?.status.state).toBe("ready");
    run(w, 4_000);
    expect(w.rows.node("n1")?.status.state).toBe("down");
    openSession(w.sessions, session("n1", "b"), 5_000);
    run(w, 5_000);
    expect(w.rows.node("n1")?.status.state).toBe("ready");
  });

  test("a newer session ends the older one, whose end is then ignored", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    expect(openSession(w.sessions, session("n1", "b"), 1)).toEqual({
      sessionId: "a",
      reason: "replaced by a newer session",
    });
    closeSession(w.sessions, "a");
    expect(hasSession(w.sessions, { nodeId: "n1", sessionId: "a" })).toBe(false);
    expect(hasSession(w.sessions, { nodeId: "n1", sessionId: "b" })).toBe(true);
    expect(hasSession(w.sessions, { nodeId: "n2", sessionId: "b" })).toBe(false);
    expect(openSession(w.sessions, session("n1", "b"), 2)).toBeUndefined();
  });

  test("a node that others declare down stays so, until it opens a new session", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    run(w, 0);
    run(w, 1);
    const status = { state: "down", message: "node left the swarm", addr: "" } as const;
    applyOrThrow(w.rows, { type: "update", table: "node", id: "n1", set: { status } });
    expect(planNodeStatus(w.sessions, w.rows, 2)).toEqual([]);
    expect(run(w, 2)).toEqual({
      ended: [{ sessionId: "a", reason: "node left the swarm" }],
      actionCount: 0,
    });
    openSession(w.sessions, session("n1", "b"), 3);
    expect(run(w, 3)).toEqual({ ended: [], actionCount: 1 });
    expect(states(w)).toEqual(["ready", "unknown"]);
  });

  test("a removed node's session ends", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    applyOrThrow(w.rows, { type: "remove", table: "node", id: "n1" });
    expect(run(w, 1).ended).toEqual([{ sessionId: "a", reason: "node removed" }]);
    expect(w.sessions.nodes.has("n1")).toBe(false);
  });

  test("nobody is blamed for time in which the leader itself was held up", () => {
    const w = world();
    openSession(w.sessions, session("n1", "a"), 0);
    forgiveDelay(w.sessions, 20_000);
    expect(run(w, 20_000)).toEqual({ ended: [], actionCount: 1 });
    expect(states(w)).toEqual(["ready", "unknown"]);
  });
});
