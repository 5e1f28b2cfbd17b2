/**
 * The cluster's own events, as stock Swarm shows them to `docker events`: made of the changes that
 * this manager applies. Keeps the last ones for `since`, and of every object the few attributes
 * whose change an event tells.
 *
 * Without a listener it costs one map entry per object and one ring entry per change; tasks, which
 * are most of all changes, have no events.
 *
 * Source: moby daemon/events.go (logNodeEvent, logServiceEvent).
 */
import type { UnixMs } from "../../core/ids.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import { replicasOf, type Service } from "../../core/objects/service.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { Change } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { nodeName } from "./lookup.ts";

/** Past events kept. */
export const PAST_EVENTS_MAX = 1_000;

export type ClusterEventType = "node" | "service" | "network" | "secret" | "config" | "stack";
export type ClusterEvent = {
  type: ClusterEventType;
  action: "create" | "update" | "remove";
  id: string;
  /** `name`, of stacks `revision`, and what has changed as `<what>.old` and `<what>.new`. */
  attributes: Record<string, string>;
  atMs: UnixMs;
  /** Nanoseconds within the millisecond: they keep events of one millisecond apart, in order. */
  nanoseconds: number;
};

export type ClusterEvents = {
  /** From oldest to newest. */
  past(): readonly ClusterEvent[];
  /** Gives the way to stop it. */
  listen(handler: (event: ClusterEvent) => void): () => void;
};
export type ClusterEventsSink = ClusterEvents & {
  /** What is there when this manager starts, or after a snapshot: no events. */
  seed(view: ClusterView): void;
  take(changes: readonly Change[]): void;
  /** Another leader is a change of two nodes. */
  takeStatus(status: RaftStatus): void;
  /** This node is no manager any more. */
  clear(): void;
};

/** Attributes by name whose change is told, besides the object's name. */
type Known = {
  name: string;
  told: Record<string, string>;
  /** Attributes of every event. */
  shown?: Record<string, string>;
  /** Services: when their spec was set. */
  specVersion?: number;
};

export function createClusterEvents(nowMs: () => UnixMs): ClusterEventsSink {
  const known = new Map<string, Known>();
  const listeners = new Set<(event: ClusterEvent) => void>();
  let past: ClusterEvent[] = [];
  let leaderId: string | undefined;
  let lastMs = 0;
  let nanoseconds = 0;

  const emit = (event: Omit<ClusterEvent, "nanoseconds">) => {
    nanoseconds = event.atMs === lastMs ? nanoseconds + 1 : 0;
    lastMs = event.atMs;
    const made = { ...event, nanoseconds };
    past.push(made);
    // Cut in steps: not one copy per event.
    if (past.length >= 2 * PAST_EVENTS_MAX) past = past.slice(-PAST_EVENTS_MAX);
    for (const listener of listeners) listener(made);
  };

  const take = (change: Change) => {
    if (!isTold(change)) return;
    const now = describe(change);
    const before = known.get(change.id);
    const attributes: Record<string, string> = { name: now.name, ...now.shown };
    if (change.kind === "update" && before) {
      addChanges(attributes, before.told, now.told);
      // What the allocator writes after each change of the spec is no news to anybody.
      const isOwnWork = now.specVersion !== undefined && now.specVersion === before.specVersion;
      if (isOwnWork && Object.keys(attributes).length === 1) return;
    }
    if (change.kind === "remove") known.delete(change.id);
    else known.set(change.id, now);
    const { createdAtMs, updatedAtMs } = change.object;
    const atMs = { create: createdAtMs, update: updatedAtMs, remove: nowMs() }[change.kind];
    emit({ type: change.table, action: change.kind, id: change.id, attributes, atMs });
  };

  const tellLeader = (nodeId: string, isLeader: boolean) => {
    const attributes = {
      name: known.get(nodeId)?.name ?? "",
      "leader.new": String(isLeader),
      "leader.old": String(!isLeader),
    };
    emit({ type: "node", action: "update", id: nodeId, attributes, atMs: nowMs() });
  };

  return {
    past: () => past.slice(-PAST_EVENTS_MAX),
    listen: (handler) => {
      listeners.add(handler);
      return () => void listeners.delete(handler);
    },
    seed: (view) => {
      known.clear();
      for (const node of view.nodes()) known.set(node.id, describeNode(node));
      for (const service of view.services()) known.set(service.id, describeService(service));
    },
    take: (changes) => {
      for (const change of changes) take(change);
    },
    takeStatus: (status) => {
      if (status.leaderId === undefined || status.leaderId === leaderId) return;
      const former = leaderId;
      leaderId = status.leaderId;
      // The first word of who leads is no change.
      if (former === undefined) return;
      if (known.has(former)) tellLeader(former, false);
      tellLeader(leaderId, true);
    },
    clear: () => {
      known.clear();
      past = [];
      leaderId = undefined;
    },
  };
}

function addChanges(
  attributes: Record<string, string>,
  before: Record<string, string>,
  now: Record<string, string>,
): void {
  for (const [what, value] of Object.entries(now)) {
    const old = before[what];
    if (old === value) continue;
    attributes[`${what}.new`] = value;
    if (old !== undefined) attributes[`${what}.old`] = old;
  }
}

type Told = Exclude<Change, { table: "task" | "cluster" | "attachment" }>;

/** Stock has events of these objects, but of stacks, which it does not know. */
function isTold(change: Change): change is Told {
  return !["task", "cluster", "attachment"].includes(change.table);
}

function describe(change: Told): Known {
  if (change.table === "node") return describeNode(change.object);
  if (change.table === "service") return describeService(change.object);
  const { Name: name } = change.object.spec;
  if (change.table !== "stack") return { name, told: {} };
  const revision = change.object.revisions.at(-1)?.number ?? 0;
  return { name, told: {}, shown: { revision: String(revision) } };
}

const REACHABILITY = { ready: "reachable", down: "unreachable" } as const;

function describeNode(node: NodeObject): Known {
  const { state } = node.status;
  // Of managers. Every manager sees the node's state; who answers consensus, only the leader does.
  const reachability =
    node.managerAddr !== undefined && (state === "ready" || state === "down")
      ? { reachability: REACHABILITY[state] }
      : {};
  return {
    name: nodeName(node),
    told: { availability: node.spec.Availability, role: node.role, state, ...reachability },
  };
}

function describeService({ spec, specVersion, updateStatus }: Service): Known {
  const replicas = replicasOf(spec);
  return {
    name: spec.Name,
    specVersion,
    told: {
      image: spec.TaskTemplate.ContainerSpec.Image,
      ...(replicas === undefined ? {} : { replicas: String(replicas) }),
      ...(updateStatus === undefined ? {} : { updatestate: updateStatus.state }),
    },
  };
}
