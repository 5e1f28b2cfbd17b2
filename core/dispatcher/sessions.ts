/**
 * The leader's knowledge of which nodes live: sessions and heartbeats, and what follows for the
 * nodes' status. In the leader's memory only; what follows from it is proposed.
 *
 * 1. A node has at most one session; a newer one ends the older.
 * 2. A session ends HEARTBEAT_MISSED_MAX periods after its last heartbeat.
 * 3. A node without a session is declared down that long after it was last heard of. One that this
 *    leader never heard of (after a change of leadership, or just joined) gets the grace time first
 *    and stays as it is until then; but a raft member that does not answer consensus either (the
 *    former leader's host, most likely) is not waited for longer than any other silent node.
 * 4. When somebody else declares a node down while its session is open (it leaves the cluster), that
 *    stands and ends the session.
 * 5. Time is passed in and must not jump: the shell gives monotonic milliseconds and says when it was
 *    held up itself (`forgiveDelay`).
 *
 * Source of the texts: SwarmKit manager/dispatcher. Stock: 3 × 5 s, and 6 × after a change of leader.
 */
import type { NodeId } from "../ids.ts";
import { HEARTBEAT_MISSED_MAX } from "../objects/cluster.ts";
import type { NodeDescription, NodeObject } from "../objects/node.ts";
import type { StoreAction } from "../store/action.ts";
import type { ClusterView } from "../store/view.ts";

/** Nodes never heard of by this leader get this many expiry times, and at least GRACE_MS_MIN. */
const GRACE_EXPIRIES = 3;
const GRACE_MS_MIN = 8_000;
/**
 * The election that brought this leader took at least so long, and a member that does not answer
 * consensus either was silent already then: so much of its expiry has passed.
 */
const SILENT_BEFORE_MS = 1_000;
/** Before the cluster object exists. */
const HEARTBEAT_PERIOD_MS_DEFAULT = 1_000;

export type SessionInfo = {
  sessionId: string;
  nodeId: NodeId;
  description: NodeDescription;
  /** Address seen on the connection, no port. */
  addr: string;
  /** Empty: the node does not say, what is known stays. */
  dataPathAddr: string;
};

type Presence = {
  session: SessionInfo | undefined;
  /** Last sign of life; `isHeard` false: the time from which the grace counts. */
  sinceMs: number;
  isHeard: boolean;
  /** The view has shown the node ready since its session was opened. */
  wasReady: boolean;
};

export type Sessions = {
  nodes: Map<NodeId, Presence>;
  nodeBySession: Map<string, NodeId>;
  /** Raft members that consensus does not hear of, as told last. */
  silentMembers: ReadonlySet<NodeId>;
};
export type EndedSession = { sessionId: string; reason: string };

export function createSessions(): Sessions {
  return { nodes: new Map(), nodeBySession: new Map(), silentMembers: new Set() };
}

/** How often a node shall send a heartbeat. */
export function heartbeatPeriodMs(view: ClusterView): number {
  const period = view.cluster()?.spec.Dispatcher.HeartbeatPeriod;
  return period && period > 0 ? period / 1e6 : HEARTBEAT_PERIOD_MS_DEFAULT;
}

/** Opens a session, which is a sign of life; gives the node's older session that it ends. */
export function openSession(
  sessions: Sessions,
  info: SessionInfo,
  nowMs: number,
): EndedSession | undefined {
  const older = sessions.nodes.get(info.nodeId)?.session;
  if (older) sessions.nodeBySession.delete(older.sessionId);
  sessions.nodes.set(info.nodeId, {
    session: info,
    sinceMs: nowMs,
    isHeard: true,
    wasReady: false,
  });
  sessions.nodeBySession.set(info.sessionId, info.nodeId);
  // The same id again is a repeated message.
  if (!older || older.sessionId === info.sessionId) return undefined;
  return { sessionId: older.sessionId, reason: "replaced by a newer session" };
}

/** The connection is gone. The node has until its expiry to come back before it is down. */
export function closeSession(sessions: Sessions, sessionId: string): void {
  const nodeId = sessions.nodeBySession.get(sessionId);
  if (nodeId === undefined) return;
  sessions.nodeBySession.delete(sessionId);
  const presence = sessions.nodes.get(nodeId);
  if (presence) presence.session = undefined;
}

/** False when that session is not open (any more): the node must open a new one. */
export function recordHeartbeat(
  sessions: Sessions,
  beat: { nodeId: NodeId; sessionId: string },
  nowMs: number,
): boolean {
  if (!hasSession(sessions, beat)) return false;
  const presence = sessions.nodes.get(beat.nodeId);
  if (presence) presence.sinceMs = Math.max(presence.sinceMs, nowMs);
  return true;
}

/** Whether that session is open and the node's own: one replaced or expired is not. */
export function hasSession(
  sessions: Sessions,
  session: { nodeId: NodeId; sessionId: string },
): boolean {
  return sessions.nodeBySession.get(session.sessionId) === session.nodeId;
}

/**
 * Ends the sessions whose heartbeats are missing, whose node is gone or was declared down by others;
 * begins to count for new nodes.
 */
export function expireSessions(
  sessions: Sessions,
  view: ClusterView,
  nowMs: number,
): EndedSession[] {
  const ended: EndedSession[] = [];
  const expiryMs = heartbeatPeriodMs(view) * HEARTBEAT_MISSED_MAX;
  for (const [nodeId, presence] of sessions.nodes) {
    const node = view.node(nodeId);
    const { session } = presence;
    if (session) {
      if (node?.status.state === "ready") presence.wasReady = true;
      const reason = endReason(node, presence, nowMs - presence.sinceMs >= expiryMs);
      if (reason !== undefined) {
        closeSession(sessions, session.sessionId);
        ended.push({ sessionId: session.sessionId, reason });
      }
    }
    if (!node) sessions.nodes.delete(nodeId);
  }
  for (const { id } of view.nodes()) {
    if (!sessions.nodes.has(id)) {
      const absent = { session: undefined, isHeard: false, wasReady: false };
      sessions.nodes.set(id, { ...absent, sinceMs: nowMs });
    }
  }
  return ended;
}

/** Why a session ends now; `undefined` while it goes on. */
function endReason(
  node: NodeObject | undefined,
  presence: Presence,
  isExpired: boolean,
): string | undefined {
  if (!node) return "node removed";
  if (isExpired) return "heartbeat failure";
  if (presence.wasReady && node.status.state === "down") return node.status.message;
  return undefined;
}

/**
 * The clock's keeper was held up for `delayMs` (a busy machine, a stopped process): heartbeats sent
 * meanwhile may still wait to be read, so nobody is blamed for that time.
 */
export function forgiveDelay(sessions: Sessions, delayMs: number): void {
  for (const presence of sessions.nodes.values()) presence.sinceMs += delayMs;
}

/** Actions that bring the nodes' status in line with the sessions; none when it is so already. */
export function planNodeStatus(
  sessions: Sessions,
  view: ClusterView,
  nowMs: number,
): StoreAction[] {
  const expiryMs = heartbeatPeriodMs(view) * HEARTBEAT_MISSED_MAX;
  const graceMs = Math.max(GRACE_EXPIRIES * expiryMs, GRACE_MS_MIN);
  const limitMs = (nodeId: NodeId, isHeard: boolean) => {
    if (isHeard) return expiryMs;
    return sessions.silentMembers.has(nodeId) ? expiryMs - SILENT_BEFORE_MS : graceMs;
  };
  const actions: StoreAction[] = [];
  for (const node of view.nodes()) {
    const presence = sessions.nodes.get(node.id);
    if (!presence) continue;
    if (presence.session) {
      if (presence.wasReady && node.status.state === "down") continue;
      const set = readyFields(node, presence.session);
      if (set) actions.push({ type: "update", table: "node", id: node.id, set });
      continue;
    }
    if (nowMs - presence.sinceMs < limitMs(node.id, presence.isHeard)) continue;
    if (node.status.state === "down") continue;
    const status = { state: "down", message: "heartbeat failure", addr: node.status.addr } as const;
    actions.push({ type: "update", table: "node", id: node.id, set: { status } });
  }
  return actions;
}

/** What an open session says of the node and the view does not. */
function readyFields(
  node: NodeObject,
  session: SessionInfo,
): Partial<Pick<NodeObject, "status" | "description" | "dataPathAddr">> | undefined {
  const set: Partial<Pick<NodeObject, "status" | "description" | "dataPathAddr">> = {};
  const { status } = node;
  if (status.state !== "ready" || status.message !== "" || status.addr !== session.addr) {
    set.status = { state: "ready", message: "", addr: session.addr };
  }
  if (JSON.stringify(node.description) !== JSON.stringify(session.description)) {
    set.description = session.description;
  }
  if (session.dataPathAddr !== "" && node.dataPathAddr !== session.dataPathAddr) {
    set.dataPathAddr = session.dataPathAddr;
  }
  return Object.keys(set).length > 0 ? set : undefined;
}
