/** Who is asked for a report: the leader about all nodes; without one, or on a worker, this node about itself. */
import { hostname } from "node:os";
import { ClusterError } from "../../core/errors.ts";
import type { NetReport } from "../../net/rpc/methods.ts";
import type { RpcPool } from "../../net/rpc/pool.ts";
import type { Manager } from "../manager.ts";
import type { ManagerRpc } from "../manager-handlers.ts";
import { DOCTOR_TIMEOUT_MS, examineCluster, examineHere, type NodeDoctor } from "./doctor.ts";

export type AskDoctorPorts = {
  doctor: NodeDoctor;
  nodeId: () => string;
  /** The manager here; `why` there is none. */
  manager: () => { manager: Manager; rpc: ManagerRpc } | { why: string };
  pool: () => RpcPool;
};

export type AskDoctor = {
  /** On the leader: all nodes, or the one that is named. */
  examineAll(parts: { manager: Manager; rpc: ManagerRpc }, ref?: string): Promise<NetReport>;
  /** @throws {ClusterError} unavailable when another node is named and cannot be asked. */
  examine(ref?: string): Promise<NetReport>;
};

export function createAskDoctor(ports: AskDoctorPorts): AskDoctor {
  const { doctor } = ports;

  /** On the leader. */
  const examineAll: AskDoctor["examineAll"] = ({ manager, rpc }, ref) =>
    examineCluster(
      {
        // What is applied here: who lost its quorum must be able to look, too.
        read: async (read) => manager.readLocal(read),
        sessionOf: (nodeId) => rpc.sessionOf(nodeId),
        selfId: ports.nodeId(),
        doctor,
        nowMs: () => Date.now(),
      },
      ref,
    );

  /** This node alone. @throws {ClusterError} unavailable when another one was asked for. */
  const examineOnlyHere = async (why: string, ref?: string) => {
    const nodeId = ports.nodeId();
    const name = hostname();
    if (ref !== undefined && ref !== name && ref !== "self" && !nodeId.startsWith(ref)) {
      throw new ClusterError("unavailable", `Cannot ask node ${ref}: ${why}`, { retry: "later" });
    }
    return examineHere({ doctor, nodeId, hostname: name, note: `this node only: ${why}` });
  };

  const examine = async (ref?: string) => {
    const parts = ports.manager();
    if ("why" in parts) {
      return examineOnlyHere(`${parts.why}, and managers alone can ask the others`, ref);
    }
    const { isLeader, leaderId, members } = parts.manager.status();
    if (isLeader) return examineAll(parts, ref);
    const leader = members.find((member) => member.nodeId === leaderId);
    if (!leader) return examineOnlyHere("there is no leader, who alone can ask the others", ref);
    try {
      const { report } = await ports
        .pool()
        .request(leader.nodeId, leader.addr, "net-doctor", ref === undefined ? {} : { node: ref }, {
          timeoutMs: DOCTOR_TIMEOUT_MS,
        });
      return report;
    } catch (error) {
      const isAway =
        error instanceof ClusterError &&
        ["unavailable", "deadline", "not-leader", "busy", "no-quorum"].includes(error.code);
      if (!isAway) throw error;
      return examineOnlyHere(
        `the leader at ${leader.addr} does not answer (${error.message})`,
        ref,
      );
    }
  };

  return { examineAll, examine };
}
