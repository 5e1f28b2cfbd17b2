/**
 * Runs on the leader: brings each node's certified role (`role`) and the raft membership to what
 * its spec asks for (`spec.Role`). Level-based: one look at nodes and members, at most one change,
 * then again. Promotion only sets the role; the node renews its certificate and asks to join raft
 * itself. Demotion takes the member out first, so that a worker never has a vote.
 * Source: SwarmKit manager/role_manager.go (order of steps).
 */
import { ClusterError } from "../core/errors.ts";
import type { NodeId } from "../core/ids.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";

const PERIOD_MS = 1_000;

export function startRoleManager(options: { manager: Manager; nodeId: NodeId; log: Logger }): {
  wake(): void;
  stop(): void;
} {
  const { manager, log } = options;
  let isRunning = false;
  let isStopped = false;

  const step = async (): Promise<void> => {
    const status = await manager.freshStatus();
    if (!status.isLeader) return;
    const silent = status.members.filter((m) => m.isReachable === false).map((m) => m.nodeId);
    manager.state.notify({ type: "silent-members", nodeIds: silent });
    const nodes = manager.readLocal((view) => view.nodes());
    const voters = status.members.filter((m) => !m.isLearner);
    for (const node of nodes) {
      const isMember = status.members.some((m) => m.nodeId === node.id);
      if (node.spec.Role === "manager" && node.role === "worker") {
        await manager.propose([
          {
            type: "update",
            table: "node",
            id: node.id,
            ifVersion: node.version,
            set: { role: "manager" },
          },
        ]);
        return;
      }
      if (node.spec.Role === "worker" && node.role === "manager") {
        if (isMember && !(await removeMember(node.id))) continue;
        await manager.propose([
          {
            type: "update",
            table: "node",
            id: node.id,
            ifVersion: node.version,
            set: { role: "worker" },
            unset: ["managerAddr"],
          },
        ]);
        return;
      }
    }
    const known = new Set(nodes.map((n) => n.id));
    for (const member of status.members) {
      // A removed node's membership; the founder's own object may not be applied yet.
      if (known.has(member.nodeId) || member.nodeId === options.nodeId || nodes.length === 0)
        continue;
      await removeMember(member.nodeId);
      return;
    }

    async function removeMember(nodeId: NodeId): Promise<boolean> {
      const isVoter = voters.some((m) => m.nodeId === nodeId);
      const rest = voters.filter((m) => m.nodeId !== nodeId);
      const reachable = rest.filter((m) => m.nodeId === options.nodeId || m.isReachable).length;
      if (isVoter && reachable < Math.floor(rest.length / 2) + 1) {
        log.warn(
          { member: nodeId, reachable, voters: voters.length },
          "Cannot take the member out of raft: the rest would have no majority",
        );
        return false;
      }
      if (nodeId === options.nodeId) {
        await manager.transferLeadership();
        return false;
      }
      await manager.changeMembership({ type: "remove", nodeId });
      log.info({ member: nodeId }, "Member taken out of raft");
      return true;
    }
  };

  const run = () => {
    if (isRunning || isStopped) return;
    isRunning = true;
    step()
      .catch((error: unknown) => {
        // Leadership moved, another change under way, or a stale version: the next round looks again.
        if (error instanceof ClusterError)
          log.debug({ err: error.message, code: error.code }, "Role round not finished");
        else throw error;
      })
      .finally(() => {
        isRunning = false;
      });
  };
  const timer = setInterval(run, PERIOD_MS);
  return {
    wake: run,
    stop: () => {
      isStopped = true;
      clearInterval(timer);
    },
  };
}
