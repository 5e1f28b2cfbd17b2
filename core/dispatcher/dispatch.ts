/**
 * Who was sent what, and the messages that bring every session up to date with the view.
 *
 * 1. All sessions have the same shared part, so its difference is computed once per round, from the
 *    keys that the changes touch: O(changes), not O(tasks).
 * 2. A session's own part is computed again only for nodes that the changes touch.
 * 3. After a round every open session has been sent exactly `assignmentsFor(view, its node)`, up to
 *    `isSameItem`, with the tasks held that are being withdrawn (withdrawal.ts). The generation counts
 *    what was sent, without gaps.
 *
 * In the memory of the leader only: a new one starts with complete sets.
 */
import { unreachable } from "../assert.ts";
import type { NodeId, TaskId } from "../ids.ts";
import type { Change } from "../store/action.ts";
import type { ClusterView } from "../store/view.ts";
import type { AssignmentItem, AssignmentsMessage } from "./assignment.ts";
import {
  type AssignmentDiff,
  diffAssignments,
  isSameItem,
  ownAssignments,
  sharedAssignments,
  sharedItem,
  sharedKeysOf,
} from "./assignments.ts";
import {
  acknowledgeWithdrawals,
  awaitSession,
  beginWithdrawal,
  endWithdrawals,
  isHeld,
  type Withdrawals,
} from "./withdrawal.ts";

type Receiver = {
  nodeId: NodeId;
  /** What was sent as the node's own part; `undefined` before the complete set. */
  own: Map<string, AssignmentItem> | undefined;
  generation: number;
};

export type Dispatch = {
  shared: Map<string, AssignmentItem>;
  receivers: Map<string, Receiver>;
  withdrawals: Withdrawals;
};
export type DispatchRound = {
  messages: { sessionId: string; message: AssignmentsMessage }[];
  /** The next round is due then although nothing has changed. */
  wakeAtMs: number | undefined;
};

/** Starts with the shared part of this view. `nowMs` here and below: monotonic. */
export function createDispatch(view: ClusterView, nowMs: number): Dispatch {
  const withdrawals: Withdrawals = new Map();
  for (const task of view.tasks()) beginWithdrawal(withdrawals, view, task, nowMs);
  return { shared: sharedAssignments(view), receivers: new Map(), withdrawals };
}

/** The session gets a complete set in the next round. */
export function addReceiver(dispatch: Dispatch, sessionId: string, nodeId: NodeId): void {
  dispatch.receivers.set(sessionId, { nodeId, own: undefined, generation: 0 });
}

export function dropReceiver(dispatch: Dispatch, sessionId: string): void {
  dispatch.receivers.delete(sessionId);
  acknowledge(dispatch, { sessionId, generation: Number.POSITIVE_INFINITY });
}

/** The session's node balances by what it was sent up to this generation; the next round may be due. */
export function acknowledge(
  dispatch: Dispatch,
  session: { sessionId: string; generation: number },
): void {
  acknowledgeWithdrawals(dispatch.withdrawals, session);
}

/** `changes`: all since the last round (or since `createDispatch`), in any order. */
export function dispatchRound(
  dispatch: Dispatch,
  view: ClusterView,
  changes: readonly Change[],
  nowMs: number,
): DispatchRound {
  const { withdrawals } = dispatch;
  const begun = beginWithdrawals(dispatch, view, changes, nowMs);
  const shared = refreshShared(dispatch.shared, view, changes);
  const touched = touchedNodes(changes);
  const messages: DispatchRound["messages"] = [];
  const receivers: [string, Receiver][] = [];
  // Its session is about to end; an empty set would tell a removed node to stop its containers.
  for (const entry of dispatch.receivers) if (view.node(entry[1].nodeId)) receivers.push(entry);
  // Their endpoints are among what follows. A complete set to come knows nothing else.
  for (const [sessionId, { own, generation }] of receivers) {
    if (own) awaitSession(withdrawals, begun, { sessionId, generation: generation + 1 });
  }
  const { ended, wakeAtMs } = endWithdrawals(withdrawals, view, nowMs);
  if (touched !== "all") {
    for (const { nodeId } of ended) if (nodeId !== undefined) touched.add(nodeId);
  }
  const held = (taskId: TaskId) => isHeld(withdrawals, taskId);
  for (const [sessionId, receiver] of receivers) {
    if (!receiver.own) {
      receiver.own = ownAssignments(view, receiver.nodeId, held);
      receiver.generation = 1;
      const put = [...dispatch.shared.values(), ...receiver.own.values()];
      messages.push({ sessionId, message: { type: "complete", generation: 1, put, removed: [] } });
      continue;
    }
    const isTouched = touched === "all" || touched.has(receiver.nodeId);
    const own = isTouched ? refreshOwn(receiver.own, view, receiver.nodeId, held) : NO_DIFF;
    const put = [...shared.put, ...own.put];
    const removed = [...shared.removed, ...own.removed];
    if (put.length === 0 && removed.length === 0) continue;
    receiver.generation += 1;
    const { generation } = receiver;
    const ack = begun.length > 0 ? { isAckWanted: true as const } : {};
    messages.push({
      sessionId,
      message: { type: "incremental", generation, put, removed, ...ack },
    });
  }
  return { messages, wakeAtMs };
}

const NO_DIFF: AssignmentDiff = { put: [], removed: [] };

/**
 * Gives those whose endpoint was ready in what was sent last, so that this round takes them out. Those of
 * a node that is down went out with the node: nobody's word is waited for. But should that node come back
 * just now, others may still send to them, so they too get their drain time.
 */
function beginWithdrawals(
  dispatch: Dispatch,
  view: ClusterView,
  changes: readonly Change[],
  nowMs: number,
): TaskId[] {
  const begun: TaskId[] = [];
  for (const { table, id } of changes) {
    const sent = table === "task" ? dispatch.shared.get(`endpoint/${id}`) : undefined;
    if (sent?.kind !== "endpoint") continue;
    const { isReady, nodeId } = sent.body;
    if (!isReady && view.node(nodeId)?.status.state !== "down") continue;
    const task = view.task(id);
    if (task && beginWithdrawal(dispatch.withdrawals, view, task, nowMs) && isReady) begun.push(id);
  }
  return begun;
}

function refreshShared(
  shared: Map<string, AssignmentItem>,
  view: ClusterView,
  changes: readonly Change[],
): AssignmentDiff {
  const keys = new Set<string>();
  for (const change of changes) {
    for (const key of sharedKeysOf(view, change)) keys.add(key);
  }
  const diff: AssignmentDiff = { put: [], removed: [] };
  for (const key of keys) {
    const before = shared.get(key);
    const after = sharedItem(view, key);
    if (!after) {
      if (shared.delete(key)) diff.removed.push(key);
    } else if (!before || !isSameItem(before, after)) {
      shared.set(key, after);
      diff.put.push(after);
    }
  }
  return diff;
}

function refreshOwn(
  own: Map<string, AssignmentItem>,
  view: ClusterView,
  nodeId: NodeId,
  held: (taskId: TaskId) => boolean,
): AssignmentDiff {
  const diff = diffAssignments(own, ownAssignments(view, nodeId, held));
  for (const key of diff.removed) own.delete(key);
  for (const item of diff.put) own.set(item.key, item);
  return diff;
}

/** Nodes whose own part the changes may touch. */
function touchedNodes(changes: readonly Change[]): Set<NodeId> | "all" {
  const nodes = new Set<NodeId>();
  for (const change of changes) {
    switch (change.table) {
      case "task":
        if (change.object.nodeId !== undefined) nodes.add(change.object.nodeId);
        break;
      case "cluster":
      case "node":
        // Settings name the managers and what the cluster object says.
        return "all";
      case "secret":
      case "config":
        return "all";
      case "network":
      case "service":
      case "attachment":
      case "stack":
        break;
      default:
        unreachable(change);
    }
  }
  return nodes;
}
