/**
 * What a manager knows of its group when nobody leads: since when, which managers it hears, and what
 * to tell the user. Owns the bounds after which reads are answered stale and writes refused.
 *
 * 1. "A leader is known" is consensus's word. While one is known nothing is answered stale.
 * 2. Time is monotonic and begins with the start of the manager: one that has just started waits as
 *    long as one that has just lost its leader.
 */
import { ClusterError } from "../core/errors.ts";
import type { NodeId } from "../core/ids.ts";
import type { RaftStatus } from "../core/protocol.ts";

/** Without a leader for so long, reads are answered from what is applied here, marked stale. */
export const STALE_AFTER_MS = 2_000;
/** Without a leader for so long, writes are refused at once: an election with a quorum is over by then. */
export const REFUSE_AFTER_MS = 10_000;
/** Managers without a leader speak to each other at least once in two election timeouts. */
const SILENT_AFTER_MS = 5_000;

export type LeaderWatch = {
  /** Each status of consensus. */
  observe(status: RaftStatus): void;
  /** A message of consensus came from there. */
  hear(from: NodeId): void;
  /** How long no leader has been known; undefined while one is. */
  lostMs(): number | undefined;
  isHeard(nodeId: NodeId): boolean;
  /** Which managers are missed and what to do, in Docker's first words. */
  error(): ClusterError;
};

/** @param nameOf a manager's host name, where it is known. */
export function createLeaderWatch(options: {
  nodeId: NodeId;
  nameOf: (nodeId: NodeId) => string | undefined;
  nowMs?: () => number;
}): LeaderWatch {
  const { nodeId, nameOf, nowMs = () => performance.now() } = options;
  const startedAtMs = nowMs();
  /** Only of members, so it is as small as the group. */
  const heardAtMs = new Map<NodeId, number>();
  let lostAtMs: number | undefined = startedAtMs;
  let members: RaftStatus["members"] = [];

  const isHeard = (id: NodeId) =>
    id === nodeId || nowMs() - (heardAtMs.get(id) ?? Number.NEGATIVE_INFINITY) < SILENT_AFTER_MS;

  const describe = (id: NodeId, addr: string) => {
    const heard = heardAtMs.get(id);
    const since =
      heard === undefined
        ? "not heard since this agent started"
        : `last heard ${Math.round((nowMs() - heard) / 1_000)} s ago`;
    const name = nameOf(id);
    return `${name === undefined ? id : `${name} (${id})`} at ${addr}, ${since}`;
  };

  return {
    observe: (status) => {
      ({ members } = status);
      if (status.leaderId !== undefined) lostAtMs = undefined;
      else lostAtMs ??= nowMs();
      for (const id of heardAtMs.keys()) {
        if (!members.some((member) => member.nodeId === id)) heardAtMs.delete(id);
      }
    },
    hear: (from) => {
      if (members.some((member) => member.nodeId === from)) heardAtMs.set(from, nowMs());
    },
    lostMs: () => (lostAtMs === undefined ? undefined : nowMs() - lostAtMs),
    isHeard,
    error: () => {
      const voters = members.filter((member) => !member.isLearner);
      const needed = Math.floor(voters.length / 2) + 1;
      const missing = voters.filter((member) => !isHeard(member.nodeId));
      const list = missing.map((member) => describe(member.nodeId, member.addr)).join("; ");
      const remedy =
        missing.length > 0
          ? 'Start them again; if they are lost for good, run "docker swarm init --force-new-cluster" on one survivor'
          : "They are there and elect a leader: try again in a moment";
      return new ClusterError(
        "no-quorum",
        `The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online: ${needed} of ${voters.length} are needed, ${voters.length - missing.length} answer; missing: ${list || "none"}. ${remedy}`,
        { retry: "later" },
      );
    },
  };
}
