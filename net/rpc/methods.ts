/**
 * The inter-node RPC: methods, the role each needs, and their shapes. One port (2377/tcp), mutual
 * TLS; msgpack frames. `any` means that no client certificate is needed (join). A removed node's
 * certificate is refused by the handler that checks membership.
 */
import type { AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import type { NodeId, RaftIndex } from "../../core/ids.ts";
import type { NodeAvailability, NodeDescription, NodeRole } from "../../core/objects/node.ts";
import type { TaskStatus } from "../../core/objects/task.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { Outcome } from "../../core/store/action.ts";

export type ManagerAddress = { nodeId: NodeId; addr: string };

/** Request/response methods. */
export type RpcMethods = {
  /** A first certificate against a join token. The answer comes once the node object is committed. */
  "issue-certificate": {
    role: "any";
    params: {
      csrPem: string;
      token: string;
      availability: NodeAvailability;
      hostname: string;
      dataPathAddr: string;
    };
    result: {
      nodeId: NodeId;
      clusterId: string;
      role: NodeRole;
      certificatePem: string;
      caCertificatePem: string;
      managers: ManagerAddress[];
    };
  };
  /** A new certificate for the caller, with the role its node object has. */
  "renew-certificate": {
    role: "worker";
    params: { csrPem: string };
    result: { role: NodeRole; certificatePem: string; caCertificatePem: string };
  };
  /** Answers not-leader with details `{ leader?: ManagerAddress }` on a follower. */
  "session-open": {
    role: "worker";
    params: { description: NodeDescription; dataPathAddr: string };
    result: { sessionId: string; heartbeatPeriodMs: number; managers: ManagerAddress[] };
  };
  heartbeat: {
    role: "worker";
    params: { sessionId: string };
    result: { managers: ManagerAddress[] };
  };
  "report-status": {
    role: "worker";
    params: { sessionId: string; statuses: { taskId: string; status: TaskStatus }[] };
    result: Record<string, never>;
  };
  /** The caller leaves: its node is marked down at once (a manager is removed from raft first). */
  "node-leave": { role: "worker"; params: { force: boolean }; result: Record<string, never> };
  /** Forwarded write; the leader answers with the outcome. `data` is encodeProposal's. */
  propose: {
    role: "manager";
    params: { data: Uint8Array };
    result: { index: RaftIndex; outcome: Outcome };
  };
  /** The caller, certified as manager, becomes a learner and then a voter. */
  "raft-join": {
    role: "manager";
    params: { addr: string };
    result: { members: RaftStatus["members"] };
  };
  /** Raft status as the leader sees it. */
  "cluster-status": {
    role: "manager";
    params: Record<string, never>;
    result: { status: RaftStatus };
  };
  /** The leader's answer for operations that only it can do. */
  "check-demotion": { role: "manager"; params: { nodeId: NodeId }; result: Record<string, never> };
};
export type RpcMethod = keyof RpcMethods;

/** One-way messages, in order per connection. */
export type RpcNotes = {
  /** Consensus bytes, between managers. */
  raft: { role: "manager"; body: { data: Uint8Array } };
  /** Manager → agent on the session's connection. */
  assignments: { role: "manager"; body: { sessionId: string; message: AssignmentsMessage } };
  /** Manager → agent: open a new session. */
  "session-end": { role: "manager"; body: { sessionId: string; reason: string } };
};
export type RpcNote = keyof RpcNotes;
