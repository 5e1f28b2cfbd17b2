/**
 * Who was sent what, and the messages that bring every session up to date with the view.
 *
 * 1. All sessions have the same shared part, so its difference is computed once per round, from the
 *    keys that the changes touch: O(changes), not O(tasks).
 * 2. A session's own part is computed again only for nodes that the changes touch.
 * 3. After a round every open session has been sent exactly `assignmentsFor(view, its node)`, up to
 *    `isSameItem`. The generation counts what was sent, without gaps.
 *
 * In the memory of the leader only: a new one starts with complete sets.
 */
import { unreachable } from "../assert.ts";
import type { NodeId } from "../ids.ts";
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

type Receiver = {
  nodeId: NodeId;
  /** What was sent as the node's own part; `undefined` before the complete set. */
  own: Map<string, AssignmentItem> | undefined;
  generation: number;
};

export type Dispatch = {
  shared: Map<string, AssignmentItem>;
  receivers: Map<string, Receiver>;
};

/** Starts with the shared part of this view. */
export function createDispatch(view: ClusterView): Dispatch {
  return { shared: sharedAssignments(view), receivers: new Map() };
}

/** The session gets a complete set in the next round. */
export function addReceiver(dispatch: Dispatch, sessionId: string, nodeId: NodeId): void {
  dispatch.receivers.set(sessionId, { nodeId, own: undefined, generation: 0 });
}

export function dropReceiver(dispatch: Dispatch, sessionId: string): void {
  dispatch.receivers.delete(sessionId);
}

/** `changes`: all since the last round (or since `createDispatch`), in any order. */
export function dispatchRound(
  dispatch: Dispatch,
  view: ClusterView,
  changes: readonly Change[],
): { sessionId: string; message: AssignmentsMessage }[] {
  const shared = refreshShared(dispatch.shared, view, changes);
  const touched = touchedNodes(changes);
  const messages: { sessionId: string; message: AssignmentsMessage }[] = [];
  for (const [sessionId, receiver] of dispatch.receivers) {
    // Its session is about to end; an empty set would tell a removed node to stop its containers.
    if (!view.node(receiver.nodeId)) continue;
    if (!receiver.own) {
      receiver.own = ownAssignments(view, receiver.nodeId);
      receiver.generation = 1;
      const put = [...dispatch.shared.values(), ...receiver.own.values()];
      messages.push({ sessionId, message: { type: "complete", generation: 1, put, removed: [] } });
      continue;
    }
    const isTouched = touched === "all" || touched.has(receiver.nodeId);
    const own = isTouched ? refreshOwn(receiver.own, view, receiver.nodeId) : NO_DIFF;
    const put = [...shared.put, ...own.put];
    const removed = [...shared.removed, ...own.removed];
    if (put.length === 0 && removed.length === 0) continue;
    receiver.generation += 1;
    messages.push({
      sessionId,
      message: { type: "incremental", generation: receiver.generation, put, removed },
    });
  }
  return messages;
}

const NO_DIFF: AssignmentDiff = { put: [], removed: [] };

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
): AssignmentDiff {
  const diff = diffAssignments(own, ownAssignments(view, nodeId));
  for (const key of diff.removed) own.delete(key);
  for (const item of diff.put) own.set(item.key, item);
  return diff;
}

/** Nodes whose own part the changes may touch. */
function touchedNodes(changes: readonly Change[]): ReadonlySet<NodeId> | "all" {
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
        break;
      default:
        unreachable(change);
    }
  }
  return nodes;
}
