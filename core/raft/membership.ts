/**
 * Rules for changing who takes part: one member at a time (thesis §4.1), so that any majority of the
 * old and any majority of the new configuration share a voter; new members learn first (thesis
 * §4.2.1). That only one change is under way, and that the leader has committed an entry of its own
 * term before (the correction to thesis §4.1), is checked by raft.ts, which knows the log.
 */
import { unreachable } from "../assert.ts";
import type { ErrorCode } from "../errors.ts";
import type { NodeId, RaftIndex } from "../ids.ts";
import type { MembershipChange } from "../protocol.ts";
import { configurationOf, findMember, votersOf } from "./configuration.ts";
import type { Configuration, ConfigurationMember } from "./messages.ts";
import { majority } from "./quorum.ts";

/** Why an input was not carried out, in the form of a ClusterError. */
export type Refusal = { code: ErrorCode; message: string; details?: Record<string, unknown> };

/** What the leader knows of the members at this moment. */
export type MembershipFacts = {
  /** Answered within an election timeout. */
  isActive(nodeId: NodeId): boolean;
  /** Where the member's log is known to equal ours; undefined while it is not being replicated to. */
  matchIndex(nodeId: NodeId): RaftIndex | undefined;
  /** The change's own entry would follow this one. */
  lastIndex: RaftIndex;
};

/** Bound of a configuration; stock Swarm advises at most 7 managers. */
export const MEMBERS_MAX = 31;
/** A learner this close to the end of the log is caught up: less than a round trip under load. */
export const PROMOTE_LAG_ENTRIES_MAX = 500;

/**
 * The configuration after a change; `unchanged` when it already is so (a repeated request), or why
 * not. Source of the quorum rule for removals: SwarmKit manager/state/raft CanRemoveMember.
 */
export function planMembership(
  configuration: Configuration,
  change: MembershipChange,
  facts: MembershipFacts,
): { type: "changed"; configuration: Configuration } | { type: "unchanged" } | Refused {
  const { members } = configuration;
  const member = findMember(configuration, change.nodeId);
  switch (change.type) {
    case "add-learner":
      if (member) return replaceAddr(members, member, change.addr);
      if (members.length >= MEMBERS_MAX) {
        return refuse(
          `Cannot add "${change.nodeId}": the cluster has ${members.length} managers, the most allowed`,
        );
      }
      return changed([
        ...members,
        {
          nodeId: change.nodeId,
          addr: change.addr,
          isLearner: true,
          addedAtIndex: facts.lastIndex + 1,
        },
      ]);
    case "promote": {
      if (!member)
        return refuse(`Cannot promote "${change.nodeId}": it is not a member, add it first`);
      if (!member.isLearner) return { type: "unchanged" };
      const match = facts.matchIndex(change.nodeId);
      const lag = facts.lastIndex - (match ?? 0);
      // Before its own addition it would not vote (joinedIndex), whatever the quorum needs.
      const hasJoined = match !== undefined && match >= member.addedAtIndex;
      if (!hasJoined || lag > PROMOTE_LAG_ENTRIES_MAX) {
        const state = match === undefined ? "is not reached yet" : `is ${lag} entries behind`;
        return refuse(`Cannot promote "${change.nodeId}": it ${state}; try again later`);
      }
      return changed(
        members.map((m) => (m.nodeId === change.nodeId ? { ...m, isLearner: false } : m)),
      );
    }
    case "remove": {
      if (!member) return { type: "unchanged" };
      const rest = configurationOf(members.filter((m) => m.nodeId !== change.nodeId));
      if (member.isLearner) return { type: "changed", configuration: rest };
      const voters = votersOf(rest);
      if (voters.length === 0) {
        return refuse(`Cannot remove "${change.nodeId}": it is the last manager of the cluster`);
      }
      const activeCount = voters.filter((voter) => facts.isActive(voter)).length;
      if (activeCount < majority(voters.length)) {
        return refuse(
          `Cannot remove "${change.nodeId}": only ${activeCount} of the ${voters.length} managers that would remain can be reached, which is no quorum; bring a manager back first`,
        );
      }
      return { type: "changed", configuration: rest };
    }
    case "set-addr":
      if (!member) {
        return refuse(`Cannot set the address of "${change.nodeId}": it is not a member`);
      }
      return replaceAddr(members, member, change.addr);
    default:
      return unreachable(change);
  }
}

type Refused = { type: "refused"; refusal: Refusal };

function refuse(message: string): Refused {
  return { type: "refused", refusal: { code: "failed-precondition", message } };
}

function changed(members: readonly ConfigurationMember[]) {
  return { type: "changed", configuration: configurationOf(members) } as const;
}

function replaceAddr(
  members: readonly ConfigurationMember[],
  member: ConfigurationMember,
  addr: string,
) {
  if (member.addr === addr) return { type: "unchanged" } as const;
  return changed(members.map((m) => (m.nodeId === member.nodeId ? { ...m, addr } : m)));
}
