import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { type Session, type SessionPorts, startSession } from "../../agent/session.ts";
import type { AssignmentItem, AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import type { TaskState, TaskStatus } from "../../core/objects/task.ts";
import { seededRandom } from "../../core/random.ts";
import { connectRpc } from "../../net/rpc/client.ts";
import type { ManagerAddress } from "../../net/rpc/methods.ts";
import type { RpcConnection, TlsIdentity } from "../../net/rpc/peer.ts";
import { type RpcHandlers, type RpcServer, startRpcServer } from "../../net/rpc/server.ts";
import {
  type TestCluster,
  failureOf,
  makeCluster,
  makeNode,
  until,
} from "../net/rpc/identities.ts";

let cluster: TestCluster;
let managerTls: TlsIdentity;
let otherManagerTls: TlsIdentity;
let worker: TlsIdentity;
beforeAll(async () => {
  cluster = await makeCluster("cluster1");
  managerTls = await makeNode(cluster, "manager", "m1");
  otherManagerTls = await makeNode(cluster, "manager", "m2");
  worker = await makeNode(cluster, "worker", "w1");
});
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

type StatusReport = { taskId: string; status: TaskStatus };

/** A manager whose part in the conversation the test decides. */
type FakeManager = {
  addr: string;
  isLeader: boolean;
  /** Told in not-leader answers. */
  leaderHint: ManagerAddress | undefined;
  managers: ManagerAddress[];
  heartbeatPeriodMs: number;
  sessions: { id: string; connection: RpcConnection }[];
  heartbeats: number;
  reports: StatusReport[][];
  onReport: (statuses: StatusReport[]) => Promise<void>;
  onHeartbeat: () => Promise<void>;
  onOpen: (id: string, connection: RpcConnection) => Promise<void>;
  server: RpcServer;
};

async function startManager(tls = managerTls): Promise<FakeManager> {
  const notLeader = () =>
    new ClusterError("not-leader", "This manager does not lead", {
      details: fake.leaderHint ? { leader: fake.leaderHint } : {},
    });
  const handlers: RpcHandlers = {
    "session-open": async (_params, connection) => {
      if (!fake.isLeader) throw notLeader();
      const id = `s${fake.sessions.length + 1}`;
      fake.sessions.push({ id, connection });
      await fake.onOpen(id, connection);
      return { sessionId: id, heartbeatPeriodMs: fake.heartbeatPeriodMs, managers: fake.managers };
    },
    heartbeat: async () => {
      if (!fake.isLeader) throw notLeader();
      fake.heartbeats++;
      await fake.onHeartbeat();
      return { managers: fake.managers };
    },
    "report-status": async (params) => {
      await fake.onReport(params.statuses);
      fake.reports.push(params.statuses);
      return {};
    },
  };
  const server = await startRpcServer({ host: "127.0.0.1", port: 0, tls, handlers });
  cleanups.push(() => server.close());
  const fake: FakeManager = {
    addr: `127.0.0.1:${server.port}`,
    isLeader: true,
    leaderHint: undefined,
    managers: [],
    heartbeatPeriodMs: 100,
    sessions: [],
    heartbeats: 0,
    reports: [],
    onReport: async () => undefined,
    onHeartbeat: async () => undefined,
    onOpen: async (id, connection) => send({ id, connection }, 1, "complete"),
    server,
  };
  return fake;
}

function send(
  session: { id: string; connection: RpcConnection } | undefined,
  generation: number,
  type: AssignmentsMessage["type"] = "incremental",
  put: AssignmentItem[] = [],
): void {
  const message = { type, generation, put, removed: [] };
  session?.connection.note("assignments", { sessionId: session.id, message });
}

type Agent = Session & {
  states: string[];
  assignments: AssignmentsMessage[];
  learned: ManagerAddress[][];
  dialed: string[];
  refused: string[];
};
function startAgent(managers: FakeManager[], overrides: Partial<SessionPorts> = {}): Agent {
  const seen = {
    states: [] as string[],
    assignments: [] as AssignmentsMessage[],
    learned: [] as ManagerAddress[][],
    dialed: [] as string[],
    refused: [] as string[],
  };
  const session = startSession({
    managers: () => managers.map(({ addr }, at) => ({ nodeId: `m${at + 1}`, addr })),
    connect: (addr) => {
      seen.dialed.push(addr);
      return connectRpc({ addr, tls: worker, timeoutMs: 1_000 });
    },
    description: async () => ({
      Hostname: "host",
      Platform: { Architecture: "x86_64", OS: "linux" },
      Resources: { NanoCPUs: 2e9, MemoryBytes: 1e9 },
      Engine: { EngineVersion: "20.10.24", Labels: {} },
      TLSInfo: { TrustRoot: "r", CertIssuerSubject: "s", CertIssuerPublicKey: "k" },
    }),
    dataPathAddr: "127.0.0.1",
    onAssignments: (message) => void seen.assignments.push(message),
    onManagers: (list) => void seen.learned.push(list),
    onState: (state, reason) => void seen.states.push(reason ? `${state}: ${reason}` : state),
    onStatusRefused: (taskId) => void seen.refused.push(taskId),
    random: seededRandom(1),
    ...overrides,
  });
  cleanups.push(() => session.close());
  return Object.assign(session, seen);
}

const status = (state: TaskState, message = ""): TaskStatus => ({ state, atMs: 1, message });
const generations = (agent: Agent) => agent.assignments.map((message) => message.generation);

describe("startSession()", () => {
  test("opens a session, takes assignments in order and sends heartbeats", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    expect(agent.isConnected()).toBe(true);
    expect(agent.connection()?.peer.nodeId).toBe("m1");
    const [session] = leader.sessions;
    for (const generation of [2, 3, 4]) send(session, generation);
    await until("all have come", () => agent.assignments.length === 4);
    expect(generations(agent)).toEqual([1, 2, 3, 4]);
    await until("it beats", () => leader.heartbeats >= 2);
    expect(agent.states).toEqual(["connected"]);
    expect(leader.sessions).toHaveLength(1);
  });

  test("takes a complete set that overtakes the answer, and none of another session", async () => {
    const leader = await startManager();
    leader.onOpen = async (id, connection) => {
      send({ id: "another", connection }, 1, "complete");
      send({ id, connection }, 1, "complete");
      send({ id, connection }, 2);
      await Bun.sleep(20);
    };
    const agent = startAgent([leader]);
    await until("both have come", () => agent.assignments.length === 2);
    expect(generations(agent)).toEqual([1, 2]);
  });

  test("goes from a follower to the leader it names at once", async () => {
    const [follower, leader] = [await startManager(), await startManager()];
    follower.isLeader = false;
    follower.leaderHint = { nodeId: "m2", addr: leader.addr };
    const agent = startAgent([follower]);
    await agent.waitConnected(2_000);
    expect(agent.dialed).toEqual([follower.addr, leader.addr]);
    expect(leader.sessions).toHaveLength(1);
  });

  test("does not spin between managers that name each other", async () => {
    const [one, two] = [await startManager(), await startManager()];
    for (const [manager, other] of [
      [one, two],
      [two, one],
    ] as const) {
      manager.isLeader = false;
      manager.leaderHint = { nodeId: "x", addr: other.addr };
    }
    const agent = startAgent([one]);
    const failure = await failureOf(agent.waitConnected(500));
    expect(failure.code).toBe("deadline");
    expect(failure.message).toContain("This manager does not lead");
    expect(agent.dialed.length).toBeGreaterThan(3);
    expect(agent.dialed.length).toBeLessThan(30);
    // The reason is told once, not at each attempt.
    expect(agent.states).toEqual(["disconnected: This manager does not lead"]);
  });

  test("goes past a manager that names one that is gone", async () => {
    const [gone, stale, leader] = [
      await startManager(),
      await startManager(),
      await startManager(),
    ];
    stale.isLeader = false;
    stale.leaderHint = { nodeId: "gone", addr: gone.addr };
    await gone.server.close();
    // The one that is named stands before the one that names it: if it counted as tried in turn, the same
    // two would be asked for ever.
    const agent = startAgent([gone, stale, leader]);
    await agent.waitConnected(4_000);
    expect(leader.sessions).toHaveLength(1);
  });

  test("tries the next manager when one is down, and finds the new leader after a loss", async () => {
    const [one, two] = [await startManager(), await startManager()];
    two.isLeader = false;
    const agent = startAgent([one, two]);
    await agent.waitConnected(2_000);
    await one.server.close();
    two.isLeader = true;
    await until(
      "a session with the second",
      () => two.sessions.length === 1 && agent.isConnected(),
    );
    expect(agent.states.at(0)).toBe("connected");
    expect(agent.states.at(-1)).toBe("connected");
    expect(generations(agent)).toEqual([1, 1]);
  });

  test("leaves a manager that leads no more, by its heartbeat", async () => {
    const [one, two] = [await startManager(), await startManager()];
    const agent = startAgent([one]);
    await agent.waitConnected(2_000);
    one.isLeader = false;
    one.leaderHint = { nodeId: "m2", addr: two.addr };
    await until("a session with the second", () => two.sessions.length === 1);
    await until("it is connected", () => agent.isConnected());
  });

  test("leaves a leader that does not answer heartbeats", async () => {
    const leader = await startManager();
    leader.onHeartbeat = () => new Promise(() => undefined);
    const agent = startAgent([leader]);
    await until("another session", () => leader.sessions.length === 2, 3_000);
    expect(agent.states[1]).toContain('did not answer "heartbeat" in 200 ms');
  });

  test("opens a new session at a gap, and takes a repeated set once", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await until("the first set", () => agent.assignments.length === 1);
    send(leader.sessions[0], 1, "complete");
    send(leader.sessions[0], 2);
    send(leader.sessions[0], 2);
    send(leader.sessions[0], 4);
    await until("a new session's set", () => agent.assignments.length === 3);
    expect(generations(agent)).toEqual([1, 2, 1]);
    expect(leader.sessions).toHaveLength(2);
    expect(agent.states[1]).toContain("generation 4 (incremental) came after 2");
  });

  test("does not begin with an increment", async () => {
    const leader = await startManager();
    let count = 0;
    leader.onOpen = async (id, connection) =>
      send({ id, connection }, 1, ++count === 1 ? "incremental" : "complete");
    const agent = startAgent([leader]);
    await until("a complete set", () => agent.assignments.length === 1);
    expect(agent.assignments[0]?.type).toBe("complete");
    expect(leader.sessions).toHaveLength(2);
  });

  test("opens a new session when the leader ends it, and ignores the end of another", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    const [session] = leader.sessions;
    session?.connection.note("session-end", { sessionId: "another", reason: "x" });
    session?.connection.note("session-end", { sessionId: "s1", reason: "replaced" });
    await until("a second session", () => leader.sessions.length === 2);
    expect(agent.states.slice(0, 2)).toEqual(["connected", "disconnected: replaced"]);
  });

  test("remembers the managers it is told of, in answers and in settings", async () => {
    const [one, two] = [await startManager(), await startManager()];
    one.managers = [{ nodeId: "m1", addr: one.addr }];
    const agent = startAgent([one]);
    await until("the first set", () => agent.assignments.length === 1);
    const managers = [...one.managers, { nodeId: "m2", addr: two.addr }];
    send(one.sessions[0], 2, "incremental", [
      {
        key: "settings/w1",
        kind: "settings",
        body: {
          nodeId: "w1",
          clusterId: "cluster1",
          role: "worker",
          managers,
          caCertificatePem: "",
          heartbeatPeriodMs: 60_000,
          dataPathPort: 4789,
          hostname: "h",
        },
      },
    ]);
    await until("the set", () => agent.assignments.length === 2);
    expect(agent.learned).toEqual([one.managers, managers]);
    await one.server.close();
    await until("a session with the learned one", () => two.sessions.length === 1);
  });

  test("says why there is no session and goes on trying", async () => {
    const leader = await startManager();
    leader.onOpen = () =>
      Promise.reject(new ClusterError("forbidden", "Node w1 is not part of this cluster any more"));
    const agent = startAgent([leader]);
    await until("it says so", () => agent.states.length === 1);
    expect(agent.states).toEqual(["disconnected: Node w1 is not part of this cluster any more"]);
    leader.onOpen = async () => undefined;
    await agent.waitConnected(3_000);
  });

  test("waits for the engine's description", async () => {
    const leader = await startManager();
    let isUp = false;
    const agent = startAgent([leader], {
      description: async () => {
        if (!isUp) throw new ClusterError("docker", "Cannot reach the engine");
        return {
          Hostname: "h",
          Platform: { Architecture: "a", OS: "l" },
          Resources: { NanoCPUs: 1, MemoryBytes: 1 },
          Engine: { EngineVersion: "1" },
        };
      },
    });
    await until("it says so", () => agent.states.includes("disconnected: Cannot reach the engine"));
    isUp = true;
    await agent.waitConnected(3_000);
  });

  test("tells a changed description by a new session with the same manager", async () => {
    const [one, two] = [await startManager(), await startManager(otherManagerTls)];
    const agent = startAgent([one, two]);
    await agent.waitConnected(2_000);
    agent.descriptionChanged();
    await until("a second session", () => one.sessions.length === 2 && agent.isConnected());
    expect(agent.dialed).toEqual([one.addr, one.addr]);
  });

  test("ends with close(), whatever it is doing", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    agent.close();
    agent.close();
    expect(agent.isConnected()).toBe(false);
    await until("the manager sees it", () => leader.server.connections().length === 0);
    const idle = startAgent([]);
    await until("it looks for managers", () => idle.states.length === 1);
    expect(idle.states).toEqual(["disconnected: no manager is known"]);
    idle.close();
    const count = leader.sessions.length;
    await Bun.sleep(150);
    expect(leader.sessions).toHaveLength(count);
  });
});

describe("leaderIs()", () => {
  /** Two managers, of which the first answers sessions and tells nothing by its heartbeats. */
  const startTwo = async () => {
    const [one, two] = [await startManager(), await startManager(otherManagerTls)];
    one.heartbeatPeriodMs = 60_000;
    two.heartbeatPeriodMs = 60_000;
    return { one, two, leader: { nodeId: "m2", addr: two.addr } };
  };

  test("ends a session with another manager, and the next one is with the leader", async () => {
    const { one, two, leader } = await startTwo();
    const agent = startAgent([one]);
    await agent.waitConnected(2_000);
    agent.leaderIs(leader);
    expect(agent.isConnected()).toBe(false);
    await until("a session with the leader", () => agent.isConnected());
    expect(agent.connection()?.peer.nodeId).toBe("m2");
    expect(agent.dialed).toEqual([one.addr, two.addr]);
    expect(agent.states).toEqual([
      "connected",
      "disconnected: another manager leads now",
      "connected",
    ]);
  });

  test("changes nothing when the session is with the leader", async () => {
    const { one } = await startTwo();
    const agent = startAgent([one]);
    await agent.waitConnected(2_000);
    agent.leaderIs({ nodeId: "m1", addr: one.addr });
    expect(agent.isConnected()).toBe(true);
    send(one.sessions[0], 2);
    await until("the set", () => agent.assignments.length === 2);
    expect(agent.states).toEqual(["connected"]);
  });

  test("cuts a back-off short", async () => {
    const { two, leader } = await startTwo();
    // Each attempt fails at once, so the waits grow: the sixth is 1 to 2 s.
    const { promise: isSlow, resolve } = Promise.withResolvers<void>();
    let count = 0;
    const agent = startAgent([], {
      managers: () => {
        if (++count === 6) resolve();
        return [];
      },
    });
    await isSlow;
    const startMs = performance.now();
    agent.leaderIs(leader);
    await until("a session with the leader", () => agent.isConnected());
    expect(performance.now() - startMs).toBeLessThan(800);
    expect(agent.dialed).toEqual([two.addr]);
  });

  test("ends an attempt that waits for a manager without an answer", async () => {
    const { one, two, leader } = await startTwo();
    one.onOpen = () => new Promise(() => undefined);
    const agent = startAgent([one]);
    await until("it asks the first", () => one.sessions.length === 1);
    agent.leaderIs(leader);
    await agent.waitConnected(2_000);
    expect(agent.connection()?.peer.nodeId).toBe("m2");
    expect(two.sessions).toHaveLength(1);
  });

  test("is heeded when it comes while another manager is being dialed", async () => {
    const { one, two, leader } = await startTwo();
    const gate = Promise.withResolvers<void>();
    const dialed: string[] = [];
    const agent = startAgent([one], {
      connect: async (addr) => {
        dialed.push(addr);
        if (addr === one.addr) await gate.promise;
        return connectRpc({ addr, tls: worker, timeoutMs: 1_000 });
      },
    });
    await until("it dials the first", () => dialed.length === 1);
    agent.leaderIs(leader);
    gate.resolve();
    await agent.waitConnected(2_000);
    expect(agent.connection()?.peer.nodeId).toBe("m2");
    expect(dialed).toEqual([one.addr, two.addr]);
    expect(one.sessions).toEqual([]);
  });

  test("is forgotten once followed: a later session goes where it is led", async () => {
    const { one, two, leader } = await startTwo();
    const agent = startAgent([one]);
    await agent.waitConnected(2_000);
    agent.leaderIs(leader);
    await until("a session with the second", () => two.sessions.length === 1);
    agent.leaderIs({ nodeId: "m1", addr: one.addr });
    await until("a session with the first", () => one.sessions.length === 2);
    await until("it is connected", () => agent.isConnected());
    expect(agent.connection()?.peer.nodeId).toBe("m1");
  });
});

describe("reportStatuses()", () => {
  test("sends in one batch what comes within 50 ms, the latest of each task", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    agent.reportStatuses([
      { taskId: "a", status: status("preparing") },
      { taskId: "b", status: status("running") },
    ]);
    agent.reportStatuses([{ taskId: "a", status: status("starting") }]);
    await until("a report", () => leader.reports.length === 1);
    expect(leader.reports).toEqual([
      [
        { taskId: "b", status: status("running") },
        { taskId: "a", status: status("starting") },
      ],
    ]);
  });

  test("sends many in batches of 500", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    agent.reportStatuses(
      Array.from({ length: 1_200 }, (_, n) => ({ taskId: `t${n}`, status: status("running") })),
    );
    await until("all", () => leader.reports.flat().length === 1_200);
    expect(leader.reports.map((batch) => batch.length)).toEqual([500, 500, 200]);
  });

  test("never lets two reports of a task overtake each other", async () => {
    const leader = await startManager();
    const gate = Promise.withResolvers<void>();
    let current = 0;
    leader.onReport = async () => {
      expect(++current).toBe(1);
      await gate.promise;
      current--;
    };
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    agent.reportStatuses([{ taskId: "a", status: status("running") }]);
    await until("it is under way", () => current === 1);
    agent.reportStatuses([{ taskId: "a", status: status("failed") }]);
    gate.resolve();
    await until("both", () => leader.reports.length === 2);
    expect(leader.reports.flat().map((report) => report.status.state)).toEqual([
      "running",
      "failed",
    ]);
  });

  test("repeats until acknowledged, over sessions and leaders", async () => {
    const [one, two] = [await startManager(), await startManager()];
    one.onReport = async () => {
      one.isLeader = false;
      throw new ClusterError("not-leader", "no", {
        details: { leader: { nodeId: "m2", addr: two.addr } },
      });
    };
    let attempts = 0;
    two.onReport = async () => {
      if (++attempts === 1) throw new ClusterError("busy", "later");
    };
    const agent = startAgent([one]);
    agent.reportStatuses([{ taskId: "a", status: status("running") }]);
    await until("the second leader has it", () => two.reports.length === 1, 5_000);
    expect(one.reports).toEqual([]);
    expect(two.reports.flat()).toEqual([{ taskId: "a", status: status("running") }]);
    await Bun.sleep(100);
    expect(two.reports).toHaveLength(1);
  });

  test("drops a malformed status and delivers the others", async () => {
    const leader = await startManager();
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    const reports = Array.from({ length: 8 }, (_, n) => ({
      taskId: `t${n}`,
      status: status("running"),
    }));
    reports[5] = { taskId: "t5", status: status("running", "x".repeat(100_000)) };
    agent.reportStatuses(reports);
    await until("the others", () => leader.reports.flat().length === 7);
    expect(leader.reports.flat().map((report) => report.taskId)).toEqual([
      "t0",
      "t1",
      "t2",
      "t3",
      "t4",
      "t6",
      "t7",
    ]);
    expect(agent.refused).toEqual(["t5"]);
  });

  test("keeps a bounded number and opens a new session when it drops some", async () => {
    const leader = await startManager();
    leader.onReport = () => new Promise(() => undefined);
    const agent = startAgent([leader]);
    await agent.waitConnected(2_000);
    agent.reportStatuses(
      Array.from({ length: 10_001 }, (_, n) => ({ taskId: `t${n}`, status: status("running") })),
    );
    await until("a new session", () => leader.sessions.length === 2);
    expect(agent.states[1]).toContain("more than 10000 statuses wait");
  });
});
