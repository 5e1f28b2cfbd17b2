/**
 * Where a task goes: the preference tree over label values, and the order of nodes in a branch.
 *
 * Each preference is a level of the tree. On each level the branch with the fewest tasks of the
 * service is taken; nodes that lack the label are a branch of their own. Tasks on all nodes count,
 * also on those that can take no more, else a full branch would look empty. Source: SwarmKit
 * manager/scheduler/nodeset.go, scheduler.go nodeLess.
 */
import { assert } from "../assert.ts";
import { labelOf } from "./constraint.ts";
import { FAILURES_MAX, type NodeInfo } from "./node-info.ts";

export type Candidate = {
  info: NodeInfo;
  /** Recent deaths of this service version here. */
  failureCount: number;
  /** Wanted tasks of the service here. */
  serviceCount: number;
};

export type Branch = {
  /** Wanted tasks of the service below. */
  taskCount: number;
  candidateCount: number;
  children: Map<string, Branch>;
  /** Leaves only. */
  candidates: Candidate[];
};

/** `isSuitable`: the node can take a task now; others only count. O(nodes × preferences). */
export function buildTree(
  descriptors: readonly string[],
  nodes: Iterable<{ candidate: Candidate; isSuitable: boolean }>,
): Branch {
  const root = emptyBranch();
  for (const { candidate, isSuitable } of nodes) {
    for (const branch of pathOf(root, descriptors, candidate)) {
      branch.taskCount += candidate.serviceCount;
      if (isSuitable) branch.candidateCount += 1;
    }
    if (isSuitable) leafOf(root, descriptors, candidate).candidates.push(candidate);
  }
  return root;
}

/** The best node, or `undefined` when none is left. O(branches + nodes of the branch). */
export function choose(root: Branch): Candidate | undefined {
  let branch = root;
  while (branch.children.size > 0) {
    let next: Branch | undefined;
    for (const child of branch.children.values()) {
      const isBetter = next === undefined || child.taskCount < next.taskCount;
      if (child.candidateCount > 0 && isBetter) next = child;
    }
    if (next === undefined) return undefined;
    branch = next;
  }
  let best: Candidate | undefined;
  for (const candidate of branch.candidates) {
    if (best === undefined || compareCandidates(candidate, best) < 0) best = candidate;
  }
  return best;
}

/** Counts a task placed on the candidate, which is dropped when it can take no more. */
export function place(
  root: Branch,
  descriptors: readonly string[],
  candidate: Candidate,
  isStillSuitable: boolean,
): void {
  candidate.serviceCount += 1;
  for (const branch of pathOf(root, descriptors, candidate)) {
    branch.taskCount += 1;
    if (!isStillSuitable) branch.candidateCount -= 1;
  }
  if (isStillSuitable) return;
  const { candidates } = leafOf(root, descriptors, candidate);
  const index = candidates.indexOf(candidate);
  assert(index >= 0, "A placed candidate is in its branch");
  candidates.splice(index, 1);
}

/** Fewer recent failures (from FAILURES_MAX on), fewer tasks of the service, fewer tasks, id. */
export function compareCandidates(a: Candidate, b: Candidate): number {
  if (a.failureCount >= FAILURES_MAX || b.failureCount >= FAILURES_MAX) {
    if (a.failureCount !== b.failureCount) return a.failureCount - b.failureCount;
  }
  return (
    a.serviceCount - b.serviceCount ||
    a.info.count - b.info.count ||
    (a.info.node.id < b.info.node.id ? -1 : 1)
  );
}

function emptyBranch(): Branch {
  return { taskCount: 0, candidateCount: 0, children: new Map(), candidates: [] };
}

/** The branches from the root to the candidate's leaf, made when missing. */
function pathOf(root: Branch, descriptors: readonly string[], { info }: Candidate): Branch[] {
  const path = [root];
  let branch = root;
  for (const descriptor of descriptors) {
    const value = labelOf(info.node, descriptor) ?? "";
    let child = branch.children.get(value);
    if (!child) {
      child = emptyBranch();
      branch.children.set(value, child);
    }
    path.push(child);
    branch = child;
  }
  return path;
}

function leafOf(root: Branch, descriptors: readonly string[], candidate: Candidate): Branch {
  return pathOf(root, descriptors, candidate).at(-1) ?? root;
}
