/**
 * What the state worker does while its manager leads: plans, keeps sessions, dispatches assignments,
 * batches status reports. It lives from one gain of leadership to its loss and takes nothing along.
 *
 * 1. It changes the state only by proposals; it sees their effect when they come back applied.
 * 2. It plans again only when none of its plan's proposals is under way. One that does not come in
 *    PLAN_TIMEOUT_MS may be lost or late: an empty proposal after it tells, by coming first or alone.
 * 3. Liveness is counted in monotonic time, so that a clock set forward declares nobody down;
 *    plans use the wall clock, which their times are shown by.
 *
 * The decisions are pure and elsewhere: core/planners.ts, dispatcher/sessions.ts, dispatcher/dispatch.ts.
 * Clocks and timers are a port, so that the simulator runs this same code in virtual time.
 */
import {
  acknowledge,
  addReceiver,
  createDispatch,
  dispatchRound,
  dropReceiver,
} from "../dispatcher/dispatch.ts";
import {
  closeSession,
  createSessions,
  type EndedSession,
  expireSessions,
  forgiveDelay,
  hasSession,
  heartbeatPeriodMs,
  openSession,
  planNodeStatus,
  recordHeartbeat,
  type SessionInfo,
} from "../dispatcher/sessions.ts";
import { ClusterError } from "../errors.ts";
import { newId } from "../ids.ts";
import { planAll } from "../leader.ts";
import type { TaskStatus } from "../objects/task.ts";
import type { Planner } from "../plan.ts";
import { encodeProposal, type StateOutput } from "../protocol.ts";
import type { Random } from "../random.ts";
import type { Change, StoreAction, TaskStatusAction } from "./action.ts";
import { mergeStatus } from "./apply.ts";
import { refuseStatus } from "./refusals.ts";
import type { AppliedBatch } from "./sqlite-store.ts";
import type { ClusterView } from "./view.ts";

/** Changes are collected this long before planning, but never longer than PLAN_DELAY_MS_MAX. */
const PLAN_DEBOUNCE_MS = 15;
const PLAN_DELAY_MS_MAX = 200;
const ACTIONS_PER_PROPOSAL_MAX = 200;
/** Raft entries above this are cut, unless they hold a single action. */
const PROPOSAL_BYTES_MAX = 1024 * 1024;
/** The rest of a longer plan is planned again from the state after these. */
const PLAN_PROPOSALS_MAX = 32;
/** Half of what consensus takes uncommitted (core/raft, UNCOMMITTED_BYTES_MAX): users propose too. */
const PLAN_BYTES_MAX = 16 * 1024 * 1024;
const PLAN_TIMEOUT_MS = 2_000;
/** All of a plan was dropped and nothing changed: something else must happen first, or time pass. */
const PLAN_RETRY_MS = 1_000;
/** Planners that undo each other would otherwise go round at the speed of commits. */
const PLAN_ROUNDS_UNDELAYED_MAX = 50;
const WAKE_MS_MIN = 50;
const WAKE_MS_MAX = 60_000;
const SESSION_TICK_MS = 250;
/** A tick later than this means that this thread or machine was held up. */
const TICK_DELAY_MS_MAX = 500;
const DISPATCH_DEBOUNCE_MS = 5;
const REPORT_DEBOUNCE_MS = 10;
const REPORTS_PER_PROPOSAL_MAX = 1_000;
const REPORT_PROPOSALS_MAX = 4;
/** Statuses that wait; more are refused as busy and reported again by their nodes. */
const REPORTS_WAITING_MAX = 20_000;
const REPORT_TIMEOUT_MS = 5_000;

export type LeaderPorts = {
  /** The live view over the worker's rows. */
  view: ClusterView;
  planners: readonly Planner[];
  random: Random;
  propose(data: Uint8Array): void;
  output(output: StateOutput): void;
  time: LeaderTime;
};

/** Clocks and timers: the thread's own in worker.ts, virtual ones in the simulator. */
export type LeaderTime = {
  /** The proposer's wall clock. */
  wallMs: () => number;
  /** Never set, never goes back. */
  monotonicMs: () => number;
  /** Runs once after the delay; gives what takes it back, which may be called at any time. */
  after: (delayMs: number, run: () => void) => () => void;
};

export type Leader = {
  /** Opens the session; its complete set follows as output. @throws {ClusterError} not-found for a removed node. */
  openSession(info: SessionInfo): { heartbeatPeriodMs: number };
  closeSession(sessionId: string): void;
  /** An unknown session is answered by a session-end, so that the node opens a new one. */
  heartbeat(beat: { nodeId: string; sessionId: string }): void;
  /** The session's node balances by what it was sent up to this generation. */
  assignmentsApplied(session: { sessionId: string; generation: number }): void;
  /** Raft members of which consensus has no word. */
  silentMembers(nodeIds: readonly string[]): void;
  /**
   * Resolves once the statuses are applied or known to be stale.
   * @throws {ClusterError} not-found when the session is not open; busy; deadline; not-leader when leadership ends first.
   */
  report(report: {
    nodeId: string;
    sessionId: string;
    statuses: { taskId: string; status: TaskStatus }[];
  }): Promise<void>;
  /** After each apply transaction. */
  applied(batch: AppliedBatch): void;
  /** Ends every session, refuses every waiter, stops every timer. */
  stop(): void;
};

/**
 * Begins this term's duties: plans at once, over the live view, and counts each node's silence from
 * now, so that no node is declared down for the time without a leader.
 */
export function startLeader(ports: LeaderPorts): Leader {
  const { view } = ports;
  const { monotonicMs, after } = ports.time;
  const sessions = createSessions();
  const dispatch = createDispatch(view, monotonicMs());
  let hasStopped = false;

  const endSessions = (ended: readonly EndedSession[]) => {
    for (const { sessionId, reason } of ended) {
      dropReceiver(dispatch, sessionId);
      ports.output({ type: "session-end", sessionId, reason });
    }
  };

  const planning = startPlanning(ports, (nowMs) => planNodeStatus(sessions, view, nowMs));
  const reports = startReports(ports);

  // ---- dispatching ----------------------------------------------------------------------------
  let undispatched: Change[] = [];
  let cancelDispatch: (() => void) | undefined;
  let cancelRedispatch: (() => void) | undefined;
  const dispatchSoon = () => {
    cancelDispatch ??= after(DISPATCH_DEBOUNCE_MS, () => {
      cancelDispatch = undefined;
      cancelRedispatch?.();
      const changes = undispatched;
      undispatched = [];
      const nowMs = monotonicMs();
      const { messages, wakeAtMs } = dispatchRound(dispatch, view, changes, nowMs);
      for (const { sessionId, message } of messages) {
        ports.output({ type: "assignments", sessionId, message });
      }
      if (wakeAtMs !== undefined) cancelRedispatch = after(wakeAtMs - nowMs, dispatchSoon);
    });
  };

  // ---- liveness -------------------------------------------------------------------------------
  let lastTickMs = monotonicMs();
  const tick = () => {
    cancelTick = after(SESSION_TICK_MS, tick);
    const nowMs = monotonicMs();
    const delayMs = nowMs - lastTickMs - SESSION_TICK_MS;
    lastTickMs = nowMs;
    if (delayMs > TICK_DELAY_MS_MAX) forgiveDelay(sessions, delayMs);
    endSessions(expireSessions(sessions, view, nowMs));
    if (planNodeStatus(sessions, view, nowMs).length > 0) planning.planNow();
  };
  let cancelTick = after(SESSION_TICK_MS, tick);
  expireSessions(sessions, view, lastTickMs);
  planning.planNow();

  return {
    openSession: (info) => {
      if (!view.node(info.nodeId)) {
        throw new ClusterError("not-found", `node ${info.nodeId} not found`);
      }
      const replaced = openSession(sessions, info, monotonicMs());
      if (replaced) endSessions([replaced]);
      addReceiver(dispatch, info.sessionId, info.nodeId);
      dispatchSoon();
      planning.planNow();
      return { heartbeatPeriodMs: heartbeatPeriodMs(view) };
    },
    closeSession: (sessionId) => {
      closeSession(sessions, sessionId);
      dropReceiver(dispatch, sessionId);
    },
    assignmentsApplied: (session) => {
      acknowledge(dispatch, session);
      dispatchSoon();
    },
    silentMembers: (nodeIds) => {
      sessions.silentMembers = new Set(nodeIds);
    },
    heartbeat: (beat) => {
      if (recordHeartbeat(sessions, beat, monotonicMs())) return;
      endSessions([{ sessionId: beat.sessionId, reason: "session is not open" }]);
    },
    report: (report) => {
      if (hasSession(sessions, report)) return reports.add(report.nodeId, report.statuses);
      const message = `Cannot take status reports of node ${report.nodeId}: session ${report.sessionId} is not open`;
      return Promise.reject(new ClusterError("not-found", message));
    },
    applied: (batch) => {
      if (hasStopped) return;
      // Before dispatching: a removed node is told by the end of its session.
      const hasNodeChange = batch.changes.some((change) => change.table === "node");
      if (hasNodeChange) endSessions(expireSessions(sessions, view, monotonicMs()));
      if (batch.changes.length > 0) {
        for (const change of batch.changes) undispatched.push(change);
        dispatchSoon();
      }
      const proposalIds = batch.outcomes.map((outcome) => outcome.proposalId);
      reports.applied(proposalIds);
      planning.applied(proposalIds, batch.changes.length > 0);
    },
    stop: () => {
      hasStopped = true;
      cancelTick();
      cancelDispatch?.();
      cancelRedispatch?.();
      planning.stop();
      const reason = "leadership lost";
      endSessions([...sessions.nodeBySession.keys()].map((sessionId) => ({ sessionId, reason })));
      reports.stop();
    },
  };
}

/** The planning loop: debounce, plan, propose, wait until applied, again. */
function startPlanning(ports: LeaderPorts, planSessions: (nowMs: number) => StoreAction[]) {
  const { wallMs, monotonicMs, after } = ports.time;
  const inFlight = new Set<string>();
  /** Something changed since the last plan was made. */
  let isDirty = false;
  let firstDirtyMs = 0;
  /** Rounds in a row whose plan was not empty. */
  let roundCount = 0;
  /** The next round waits as long as the last one took, so that applying gets half of the thread. */
  let earliestMs = 0;
  let cancelPlan: (() => void) | undefined;
  let cancelWake: (() => void) | undefined;
  let cancelTimeout: (() => void) | undefined;

  const planIn = (delayMs: number) => {
    cancelPlan?.();
    cancelPlan = after(Math.max(delayMs, earliestMs - monotonicMs()), plan);
  };

  const plan = () => {
    cancelPlan = undefined;
    // With a plan under way: `applied` or the timeout comes back here.
    if (inFlight.size > 0) {
      markDirty();
      return;
    }
    isDirty = false;
    cancelWake?.();
    const nowMs = wallMs();
    const startedMs = monotonicMs();
    const planned = planAll(ports.planners, { view: ports.view, nowMs, random: ports.random });
    const endedMs = monotonicMs();
    earliestMs = endedMs + Math.min(endedMs - startedMs, PLAN_DELAY_MS_MAX);
    const actions = [...planSessions(endedMs), ...planned.actions];
    if (planned.wakeAtMs !== undefined) {
      const waitMs = Math.min(Math.max(planned.wakeAtMs - nowMs, WAKE_MS_MIN), WAKE_MS_MAX);
      cancelWake = after(waitMs, () => planIn(0));
    }
    if (actions.length === 0) {
      roundCount = 0;
      return;
    }
    roundCount += 1;
    for (const { id, data } of cutPlan(actions, nowMs, ports.random)) {
      inFlight.add(id);
      ports.propose(data);
    }
    cancelTimeout = after(PLAN_TIMEOUT_MS, fence);
  };

  /**
   * The plan is long in coming: lost, or only late. To plan beside one that is late would make its tasks
   * twice. What was proposed before this comes before this or never, since consensus keeps the order.
   */
  const fence = () => {
    markDirty();
    const id = newId(ports.random);
    inFlight.clear();
    inFlight.add(id);
    ports.propose(encodeProposal({ id, atMs: wallMs(), mode: "each", actions: [] }));
    cancelTimeout = after(PLAN_TIMEOUT_MS, fence);
  };

  const markDirty = () => {
    if (!isDirty) firstDirtyMs = monotonicMs();
    isDirty = true;
  };

  return {
    planNow: () => {
      markDirty();
      if (inFlight.size === 0) planIn(0);
    },
    applied: (proposalIds: readonly string[], hasChanges: boolean) => {
      if (hasChanges) markDirty();
      let isOwn = false;
      for (const id of proposalIds) if (inFlight.delete(id)) isOwn = true;
      if (inFlight.size > 0) return;
      if (isOwn) {
        cancelTimeout?.();
        // The next step of what was planned (allocate after create, …) need not wait for others.
        if (!isDirty) planIn(PLAN_RETRY_MS);
        else planIn(roundCount < PLAN_ROUNDS_UNDELAYED_MAX ? 0 : PLAN_DELAY_MS_MAX);
      } else if (hasChanges) {
        const latestMs = firstDirtyMs + PLAN_DELAY_MS_MAX - monotonicMs();
        planIn(Math.max(0, Math.min(PLAN_DEBOUNCE_MS, latestMs)));
      }
    },
    stop: () => {
      cancelPlan?.();
      cancelWake?.();
      cancelTimeout?.();
    },
  };
}

/** A plan as encoded proposals of bounded size, at most PLAN_PROPOSALS_MAX of them; the rest is cut off. */
export function cutPlan(
  actions: readonly StoreAction[],
  atMs: number,
  random: Random,
): { id: string; data: Uint8Array }[] {
  const proposals: { id: string; data: Uint8Array }[] = [];
  let position = 0;
  let bytes = 0;
  let count = ACTIONS_PER_PROPOSAL_MAX;
  while (position < actions.length && proposals.length < PLAN_PROPOSALS_MAX) {
    const part = actions.slice(position, position + count);
    const id = newId(random);
    const data = encodeProposal({ id, atMs, mode: "each", actions: part });
    if (data.length > PROPOSAL_BYTES_MAX && part.length > 1) {
      count = Math.ceil(part.length / 2);
      continue;
    }
    bytes += data.length;
    if (bytes > PLAN_BYTES_MAX && proposals.length > 0) break;
    proposals.push({ id, data });
    position += part.length;
  }
  return proposals;
}

/** Status reports: filtered, batched into proposals, answered when applied. */
function startReports(ports: LeaderPorts) {
  const { wallMs, after } = ports.time;
  type Request = { pendingCount: number; resolve(): void; reject(error: Error): void };
  type Waiting = { action: TaskStatusAction; request: Request };
  let queue: Waiting[] = [];
  const proposed = new Map<string, { sent: Waiting[]; cancelTimeout: () => void }>();
  let cancelFlush: (() => void) | undefined;

  const flushSoon = () => {
    if (queue.length > 0 && proposed.size < REPORT_PROPOSALS_MAX) {
      cancelFlush ??= after(REPORT_DEBOUNCE_MS, flush);
    }
  };
  const flush = () => {
    cancelFlush = undefined;
    while (queue.length > 0 && proposed.size < REPORT_PROPOSALS_MAX) {
      const sent = queue.splice(0, REPORTS_PER_PROPOSAL_MAX);
      const id = newId(ports.random);
      const cancelTimeout = after(REPORT_TIMEOUT_MS, () => {
        proposed.delete(id);
        const message = `Status reports were not applied within ${REPORT_TIMEOUT_MS} ms`;
        fail(sent, new ClusterError("deadline", message, { retry: "later" }));
        flushSoon();
      });
      proposed.set(id, { sent, cancelTimeout });
      const actions = sent.map((waiting) => waiting.action);
      ports.propose(encodeProposal({ id, atMs: wallMs(), mode: "each", actions }));
    }
  };
  const fail = (waiting: readonly Waiting[], error: ClusterError) => {
    for (const { request } of waiting) request.reject(error);
  };

  return {
    add: async (nodeId: string, statuses: { taskId: string; status: TaskStatus }[]) => {
      const actions = statuses
        .map(({ taskId, status }) => ({ type: "task-status", id: taskId, nodeId, status }) as const)
        .filter((action) => isNews(ports.view, action));
      if (actions.length === 0) return;
      if (queue.length + actions.length > REPORTS_WAITING_MAX && queue.length > 0) {
        const message = `Cannot take status reports: ${queue.length} are waiting`;
        throw new ClusterError("busy", message, { retry: "later" });
      }
      await new Promise<void>((resolve, reject) => {
        const request: Request = { pendingCount: actions.length, resolve, reject };
        for (const action of actions) queue.push({ action, request });
        flushSoon();
      });
    },
    applied: (proposalIds: readonly string[]) => {
      for (const id of proposalIds) {
        const batch = proposed.get(id);
        if (!batch) continue;
        proposed.delete(id);
        batch.cancelTimeout();
        for (const { request } of batch.sent) {
          request.pendingCount -= 1;
          if (request.pendingCount === 0) request.resolve();
        }
      }
      flushSoon();
    },
    stop: () => {
      cancelFlush?.();
      const error = new ClusterError("not-leader", "This manager no longer leads");
      for (const { sent, cancelTimeout } of proposed.values()) {
        cancelTimeout();
        fail(sent, error);
      }
      proposed.clear();
      fail(queue, error);
      queue = [];
    },
  };
}

/** False when apply would drop the report or it says what is known: nodes repeat all after each new session. */
function isNews(view: ClusterView, action: TaskStatusAction): boolean {
  const task = view.task(action.id);
  if (!task || task.nodeId !== action.nodeId) return false;
  if (refuseStatus(task, action.status)) return false;
  return JSON.stringify(mergeStatus(task.status, action.status)) !== JSON.stringify(task.status);
}
