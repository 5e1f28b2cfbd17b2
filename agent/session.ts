/**
 * This node's one session with the leader: assignments come in over it, heartbeats and task
 * statuses go out. Owns finding the leader, the proof that nothing was missed, and the statuses
 * until the leader has taken them. What assignments mean is the reconciler's and the mesh's.
 *
 * Invariants:
 * 1. At most one session; each begins with a complete set (generation 1), then every generation
 *    follows its predecessor. A gap, a complete set that does not come, or a heartbeat without
 *    answer ends the session, and the next one brings a complete set.
 * 2. Statuses: one report under way; of each task the latest status waits, so reports of a task
 *    never overtake each other. One is forgotten only when the leader has taken it, when a later
 *    one of its task has replaced it, or when the leader calls it malformed.
 * 3. A lost leader costs waiting, never state: statuses wait through disconnection (bounded; what
 *    the bound drops comes again, since the reconciler reports everything after a new session).
 */
import { assert } from "../core/assert.ts";
import { HEARTBEAT_MISSED_MAX } from "../core/objects/cluster.ts";
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import type { NodeDescription } from "../core/objects/node.ts";
import type { TaskStatus } from "../core/objects/task.ts";
import type { Random } from "../core/random.ts";
import type { ManagerAddress, RpcNotes } from "../net/rpc/methods.ts";
import type { RpcConnection } from "../net/rpc/peer.ts";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 2_000;
/** "Ask the leader instead" answers followed at once, before the back-off applies again. */
const REDIRECTS_MAX = 3;
const OPEN_TIMEOUT_MS = 10_000;
const COMPLETE_TIMEOUT_MS = 10_000;
/** Half of the leader's own limit: there must be time left to find another leader. */
const HEARTBEAT_UNANSWERED_MAX = HEARTBEAT_MISSED_MAX / 2;
const HEARTBEAT_PERIOD_MS_MIN = 100;
const HEARTBEAT_PERIOD_MS_MAX = 60_000;
const REPORT_DELAY_MS = 50;
const REPORT_BATCH_MAX = 500;
const REPORT_TIMEOUT_MS = 15_000;
const REPORT_RETRY_MS = 500;
/** Tasks whose status waits. Beyond it the oldest go, and the next session asks for all again. */
const STATUSES_MAX = 10_000;
/** Notes that may overtake the answer to session-open. */
const EARLY_NOTES_MAX = 64;
const MANAGERS_MAX = 64;
const ANOTHER_LEADS = "another manager leads now";

export type SessionState = "connected" | "disconnected";
export type StatusReport = { taskId: string; status: TaskStatus };

export type SessionPorts = {
  /** The managers known before any answer (node.json), as of now. */
  managers(): ManagerAddress[];
  connect(addr: string): Promise<RpcConnection>;
  /** Asked for each session; a failure is tried again. */
  description(): Promise<NodeDescription>;
  dataPathAddr: string;
  /** In order; `complete` first. */
  /** `applied`: to be called once this node balances by the message, if that is wanted. */
  onAssignments(message: AssignmentsMessage, applied: () => void): void;
  /** The managers as the leader tells them, when they have changed. */
  onManagers(managers: ManagerAddress[]): void;
  /** On each change of state, and of the reason why there is no session. */
  onState(state: SessionState, reason?: string): void;
  /** The leader refused to read a status; it is dropped. */
  onStatusRefused?(taskId: string, reason: string): void;
  random: Random;
};

export type Session = {
  close(): void;
  /** Queued, sent in batches within 50 ms, repeated until the leader has taken them. */
  reportStatuses(statuses: StatusReport[]): void;
  isConnected(): boolean;
  /** The connection to the leader while there is a session, for other requests to it. */
  connection(): RpcConnection | undefined;
  /**
   * Word from this node's own consensus of who leads now: a session with another manager ends, and
   * the next attempt goes there at once. Without it a leader that is cut off is found out only by
   * heartbeats without answer.
   */
  leaderIs(leader: ManagerAddress): void;
  /** What `description()` gives has changed: a new session with the same manager tells it. */
  descriptionChanged(): void;
  /** Resolves with a session. @throws {ClusterError} deadline, with why there is none. */
  waitConnected(timeoutMs: number): Promise<void>;
};

/** One session while it lives. */
type Current = {
  sessionId: string;
  connection: RpcConnection;
  manager: ManagerAddress;
  generation: number;
  end(reason: string, leader?: ManagerAddress): void;
};
type SessionEnd = { reason: string; leader: ManagerAddress | undefined; wasConnected: boolean };

export function startSession(ports: SessionPorts): Session {
  let current: Current | undefined;
  let isClosed = false;
  /** Ends the wait between attempts. */
  let wake: (() => void) | undefined;
  /** The connection of the attempt under way. */
  let dialed: RpcConnection | undefined;
  let learned: ManagerAddress[] = [];
  /** The last that was tried in turn. One that another had named does not count: a manager that names
   * one that is gone would be asked again and again, and those behind it never. */
  let triedLast: string | undefined;
  /** Word of a leader that no attempt has followed yet. */
  let hinted: ManagerAddress | undefined;
  let told: { state: SessionState; reason: string | undefined } = {
    state: "disconnected",
    reason: undefined,
  };
  const connectWaiters = new Set<() => void>();

  const tell = (state: SessionState, reason?: string) => {
    if (told.state === state && told.reason === reason) return;
    told = { state, reason };
    if (state === "connected") for (const resolve of connectWaiters) resolve();
    ports.onState(state, reason);
  };

  // ---- managers -----------------------------------------------------------------------------------

  const learn = (managers: ManagerAddress[]) => {
    if (managers.length === 0 || isSame(managers, learned)) return;
    learned = managers.slice(0, MANAGERS_MAX);
    ports.onManagers(learned);
  };

  /** The manager after the one tried last, of those the leader told and those known from before. */
  const nextManager = (): ManagerAddress | undefined => {
    const all = [...learned, ...ports.managers()];
    const known = all.filter((one, at) => all.findIndex((other) => other.addr === one.addr) === at);
    const last = known.findIndex((manager) => manager.addr === triedLast);
    const next = known[(last + 1) % Math.max(known.length, 1)];
    triedLast = next?.addr;
    return next;
  };

  // ---- statuses -----------------------------------------------------------------------------------

  const waiting = new Map<string, TaskStatus>();
  let reportTimer: Timer | undefined;
  let isReporting = false;
  let batchMax = REPORT_BATCH_MAX;

  const planReport = (delayMs: number) => {
    if (isReporting || !current || waiting.size === 0) return;
    if (reportTimer !== undefined && delayMs > 0) return;
    clearTimeout(reportTimer);
    reportTimer = setTimeout(() => {
      reportTimer = undefined;
      report().catch(crash);
    }, delayMs);
  };

  const report = async () => {
    const session = current;
    if (!session || isReporting || waiting.size === 0) return;
    isReporting = true;
    const batch = [...waiting.entries()].slice(0, batchMax);
    let delayMs = 0;
    try {
      await session.connection.request(
        "report-status",
        {
          sessionId: session.sessionId,
          statuses: batch.map(([taskId, status]) => ({ taskId, status })),
        },
        { timeoutMs: REPORT_TIMEOUT_MS },
      );
      forgetReported(batch);
      batchMax = REPORT_BATCH_MAX;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      delayMs = onReportFailed(session, batch, error);
    } finally {
      isReporting = false;
    }
    planReport(waiting.size >= REPORT_BATCH_MAX ? delayMs : Math.max(delayMs, REPORT_DELAY_MS));
  };

  /** A status that came meanwhile is another object and stays. */
  const forgetReported = (batch: [string, TaskStatus][]) => {
    for (const [taskId, status] of batch) {
      if (waiting.get(taskId) === status) waiting.delete(taskId);
    }
  };

  /** Gives the delay before the next report. */
  const onReportFailed = (
    session: Current,
    batch: [string, TaskStatus][],
    error: ClusterError,
  ): number => {
    if (error.code === "invalid-argument") {
      // One malformed status must not hold up the others: halve until it stands alone.
      if (batch.length > 1) batchMax = Math.ceil(batch.length / 2);
      else {
        forgetReported(batch);
        batchMax = REPORT_BATCH_MAX;
        ports.onStatusRefused?.(batch[0]?.[0] ?? "", error.message);
      }
      return 0;
    }
    if (isSessionLost(error)) session.end(error.message, leaderIn(error));
    return REPORT_RETRY_MS;
  };

  const reportStatuses = (statuses: StatusReport[]) => {
    if (isClosed) return;
    for (const { taskId, status } of statuses) {
      // Inserted anew, so that the oldest stands first.
      waiting.delete(taskId);
      waiting.set(taskId, status);
    }
    if (waiting.size > STATUSES_MAX) {
      for (const taskId of [...waiting.keys()].slice(0, waiting.size - STATUSES_MAX)) {
        waiting.delete(taskId);
      }
      current?.end(`more than ${STATUSES_MAX} statuses wait`);
    }
    planReport(waiting.size >= REPORT_BATCH_MAX ? 0 : REPORT_DELAY_MS);
  };

  // ---- one session --------------------------------------------------------------------------------

  const runSession = async (target: ManagerAddress): Promise<SessionEnd> => {
    const description = await ports.description();
    const connection = await ports.connect(target.addr);
    const ended = Promise.withResolvers<SessionEnd>();
    let session: Current | undefined;
    let isOver = false;
    let heartbeatTimer: Timer | undefined;
    let heartbeatPeriodMs = 0;
    let early: (() => void)[] = [];

    const end = (reason: string, leader?: ManagerAddress) => {
      if (isOver) return;
      isOver = true;
      clearInterval(heartbeatTimer);
      clearTimeout(completeTimer);
      const wasConnected = session !== undefined;
      if (current === session) current = undefined;
      ended.resolve({ reason, leader, wasConnected });
      connection.close();
    };
    const completeTimer = setTimeout(
      () => end(`no complete set came in ${COMPLETE_TIMEOUT_MS} ms`),
      OPEN_TIMEOUT_MS + COMPLETE_TIMEOUT_MS,
    );

    /** Notes may come before the answer that says which session they are for. */
    const inSession = (sessionId: string, act: (session: Current) => void) => {
      const run = () => {
        if (session?.sessionId === sessionId && !isOver) act(session);
      };
      if (session) run();
      else if (early.length < EARLY_NOTES_MAX) early.push(run);
      else end("more notes than expected before the session opened");
    };
    const onAssignments = ({ sessionId, message }: RpcNotes["assignments"]["body"]) =>
      inSession(sessionId, (open) => {
        if (message.generation <= open.generation) return;
        const isFirst = open.generation === 0;
        if (
          message.generation !== open.generation + 1 ||
          (isFirst && message.type !== "complete")
        ) {
          open.end(
            `generation ${message.generation} (${message.type}) came after ${open.generation}`,
          );
          return;
        }
        open.generation = message.generation;
        if (isFirst) clearTimeout(completeTimer);
        for (const { kind, body } of message.put) {
          if (kind !== "settings") continue;
          learn(body.managers);
          beat(body.heartbeatPeriodMs);
        }
        const { generation } = message;
        // A note that is lost costs the leader its longest wait, nothing else.
        ports.onAssignments(message, () => {
          if (!isOver) connection.note("assignments-applied", { sessionId, generation });
        });
      });

    const heartbeat = async (open: Current) => {
      try {
        const { managers } = await connection.request(
          "heartbeat",
          { sessionId: open.sessionId },
          { timeoutMs: heartbeatPeriodMs * HEARTBEAT_UNANSWERED_MAX },
        );
        learn(managers);
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        // Whatever it is: without heartbeats the node is declared down, so look for the leader.
        end(error.message, leaderIn(error));
      }
    };
    /** Sends a heartbeat each period from now on, whether or not the last is answered yet. */
    const beat = (periodMs: number) => {
      const next = Math.min(Math.max(periodMs, HEARTBEAT_PERIOD_MS_MIN), HEARTBEAT_PERIOD_MS_MAX);
      if (next === heartbeatPeriodMs || isOver || !session) return;
      heartbeatPeriodMs = next;
      const open = session;
      clearInterval(heartbeatTimer);
      heartbeatTimer = setInterval(() => {
        heartbeat(open).catch(crash);
      }, heartbeatPeriodMs);
    };

    dialed = connection;
    connection.onClose((reason) => end(reason));
    connection.onNote("assignments", onAssignments);
    connection.onNote("session-end", ({ sessionId, reason }) =>
      inSession(sessionId, (open) => open.end(reason)),
    );
    try {
      if (isClosed) {
        end("closed here");
        return await ended.promise;
      }
      // Word that came while we dialed: an open session with another manager would be of no use.
      if (hinted && hinted.nodeId !== connection.peer.nodeId) {
        end(ANOTHER_LEADS, hinted);
        return await ended.promise;
      }
      hinted = undefined;
      const answer = await connection.request(
        "session-open",
        { description, dataPathAddr: ports.dataPathAddr },
        { timeoutMs: OPEN_TIMEOUT_MS },
      );
      if (!isOver) {
        assert(!current, "A node has one session");
        const { sessionId } = answer;
        session = { sessionId, connection, manager: target, generation: 0, end };
        current = session;
        learn(answer.managers);
        beat(answer.heartbeatPeriodMs);
        tell("connected");
        for (const run of early) run();
        early = [];
        planReport(REPORT_DELAY_MS);
      }
      return await ended.promise;
    } catch (error) {
      end(error instanceof Error ? error.message : String(error));
      throw error;
    } finally {
      dialed = undefined;
    }
  };

  // ---- finding the leader -------------------------------------------------------------------------

  const attempt = async (target: ManagerAddress | undefined): Promise<SessionEnd> => {
    if (!target) {
      return { reason: "no manager is known", leader: undefined, wasConnected: false };
    }
    try {
      return await runSession(target);
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      return { reason: error.message, leader: leaderIn(error), wasConnected: false };
    }
  };

  const mayRun = () => !isClosed;
  const run = async () => {
    let leader: ManagerAddress | undefined;
    let redirects = 0;
    let failures = 0;
    while (mayRun()) {
      leader = hinted ?? leader;
      hinted = undefined;
      const end = await attempt(leader ?? nextManager());
      if (isClosed) return;
      tell("disconnected", end.reason);
      if (end.wasConnected) {
        failures = 0;
        redirects = 0;
      }
      leader = end.leader;
      if (leader && redirects < REDIRECTS_MAX) {
        redirects++;
        continue;
      }
      redirects = 0;
      const fullMs = Math.min(BACKOFF_MS_MIN * 2 ** Math.min(failures, 10), BACKOFF_MS_MAX);
      failures++;
      if (hinted) continue;
      await pause(fullMs * (0.5 + ports.random.next() / 2));
    }
  };
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  run().catch(crash);

  return {
    close: () => {
      if (isClosed) return;
      isClosed = true;
      clearTimeout(reportTimer);
      waiting.clear();
      current?.end("closed here");
      dialed?.close();
      wake?.();
      told = { state: "disconnected", reason: "closed here" };
    },
    reportStatuses,
    isConnected: () => current !== undefined,
    connection: () => current?.connection,
    leaderIs: (leader) => {
      if (current?.connection.peer.nodeId === leader.nodeId) return;
      if (dialed?.peer.nodeId === leader.nodeId) return;
      hinted = leader;
      if (current) current.end(ANOTHER_LEADS, leader);
      // An attempt that waits for another manager's answer may wait for one that is cut off.
      else if (dialed) dialed.close();
      else wake?.();
    },
    descriptionChanged: () => {
      if (current) current.end("this node's description has changed", current.manager);
      // The attempt under way may have the old one.
      else dialed?.close();
    },
    waitConnected: (timeoutMs) =>
      new Promise((resolve, reject) => {
        if (current) {
          resolve();
          return;
        }
        const done = () => {
          clearTimeout(timer);
          connectWaiters.delete(done);
          resolve();
        };
        const timer = setTimeout(() => {
          connectWaiters.delete(done);
          reject(
            new ClusterError(
              "deadline",
              `No session with a leader after ${timeoutMs} ms: ${told.reason ?? "still connecting"}`,
              { retry: "later" },
            ),
          );
        }, timeoutMs);
        connectWaiters.add(done);
      }),
  };
}

/** The leader does not know the session, or is none; other failures may pass. */
function isSessionLost(error: ClusterError): boolean {
  return ["not-leader", "not-found", "forbidden", "unauthenticated", "unavailable"].includes(
    error.code,
  );
}

/** The leader that a not-leader answer names. */
function leaderIn(error: ClusterError): ManagerAddress | undefined {
  const { leader } = error.details;
  if (error.code !== "not-leader" || typeof leader !== "object" || leader === null) {
    return undefined;
  }
  if (!("nodeId" in leader) || !("addr" in leader)) return undefined;
  const { nodeId, addr } = leader;
  return typeof nodeId === "string" && typeof addr === "string" ? { nodeId, addr } : undefined;
}

function isSame(one: ManagerAddress[], other: ManagerAddress[]): boolean {
  return (
    one.length === other.length &&
    one.every((m, at) => m.nodeId === other[at]?.nodeId && m.addr === other[at]?.addr)
  );
}

/** Throws in a turn of its own, so that the process ends as it does for every bug. */
function crash(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
