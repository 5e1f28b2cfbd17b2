/**
 * The inter-node RPC: methods, the role each needs, and their shapes. One port (2377/tcp), mutual
 * TLS; msgpack frames. `any` means that no client certificate is needed (join). A removed node's
 * certificate is refused by the handler that checks membership.
 */
import type { AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import type { NodeId, RaftIndex } from "../../core/ids.ts";
import type {
  NodeAvailability,
  NodeDescription,
  NodeEncryption,
  NodeRole,
} from "../../core/objects/node.ts";
import type { TaskStatus } from "../../core/objects/task.ts";
import type { RaftStatus } from "../../core/protocol.ts";

export type ManagerAddress = { nodeId: NodeId; addr: string };

/** A task whose log is wanted. `tail` and `since` are its own, so that a lost stream can go on. */
export type LogTask = {
  id: string;
  /** What the engine of its node knows its container by. */
  container: string;
  isTty: boolean;
  /** Lines before now; absent: all. */
  tail?: number;
  /** Unix seconds with a fraction, as the engine takes them. */
  since?: string;
};
/** One node's part of a log stream (agent/logs/DESIGN.md). */
export type LogOpen = {
  nodeId: NodeId;
  tasks: LogTask[];
  stdout: boolean;
  stderr: boolean;
  follow: boolean;
  /** With the attributes of the log driver. */
  details: boolean;
  /** Bytes that may be sent before the first grant. */
  windowBytes: number;
};
/** `taskCount`: how many of the tasks named so far were served. `reason`: why some was not. */
export type LogEnd = { taskCount: number; reason?: string };

/** One thing that `shoal net doctor` looked at (agent/doctor/DESIGN.md). */
export type NetFinding = {
  /** Which check: mesh, tunnel, managers, … */
  check: string;
  severity: "ok" | "warning" | "error";
  /** What was looked at. */
  about: string;
  seen: string;
  /** What to do; absent where nothing is wrong. */
  fix?: string;
  /** How many targets of the check it stands for. */
  count: number;
};
/** What one node found, with what the leader compares between nodes. */
export type NetNodeReport = {
  findings: NetFinding[];
  /** The node's clock when it was asked and when it answered. */
  receivedAtMs: number;
  answeredAtMs: number;
  /** Of the device that carries the data path address. */
  underlayMtu?: number;
  underlayPrefixLength?: number;
};
export type NetReport = {
  /** `node`: the asked node alone, for the reason in `note`. */
  scope: "cluster" | "node";
  note?: string;
  /** Of the cluster as a whole. */
  cluster: NetFinding[];
  nodes: { nodeId: NodeId; hostname: string; findings: NetFinding[] }[];
  checks: number;
  warnings: number;
  errors: number;
};

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
  /** Between hosts that are to be one cluster and share a secret, by which both are sealed. */
  form: { role: "any"; params: { sealed: Uint8Array }; result: { sealed: Uint8Array } };
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
  /**
   * An address for a container that a user puts on an attachable network of the caller's node; `network`
   * is a name or an id. Held until `detach`. Without address and gateway the engine chooses them. A
   * manager of an older version gives another address than the wanted one.
   */
  attach: {
    role: "worker";
    params: { network: string; name: string; aliases: string[]; address?: string };
    /** `address6` where the network has IPv6. */
    result: {
      id: string;
      networkName: string;
      address: string;
      address6?: string;
      gateway: string;
      /** Of a network of a local driver: the configuration that the caller's node must have. */
      configFrom?: string;
    };
  };
  /** No container of the caller has these addresses any more; ids that are not its own are ignored. */
  detach: { role: "worker"; params: { ids: string[] }; result: Record<string, never> };
  /** What the caller says of encrypted networks: whether it can, and what the others send to it by. */
  "mesh-state": {
    role: "worker";
    params: { encryption: NodeEncryption };
    result: Record<string, never>;
  };
  /** The caller leaves: its node is marked down at once (a manager is removed from raft first). */
  "node-leave": { role: "worker"; params: { force: boolean }; result: Record<string, never> };
  /**
   * Forwarded write: answered once committed; the caller learns the outcome when it applies the
   * entry itself. `data` is encodeProposal's. `term`: in which the caller knows the callee to lead; in
   * another one it is refused (not-leader), and nothing was appended.
   */
  propose: {
    role: "manager";
    params: { data: Uint8Array; term?: number };
    result: { index: RaftIndex };
  };
  /** The caller, certified as manager, becomes a learner and then a voter. */
  "raft-join": {
    role: "manager";
    params: { addr: string };
    result: { members: RaftStatus["members"] };
  };
  /**
   * The caller's log is lost: it is taken out of raft, so that it may come back with an empty one
   * (raft-join). Refused when the others would have no majority.
   */
  "raft-leave": { role: "manager"; params: Record<string, never>; result: Record<string, never> };
  /** The keys by which secrets are sealed at rest, of any manager that has them. `key`: base64. */
  "data-keys": {
    role: "manager";
    params: Record<string, never>;
    result: { keys: { id: string; createdAtMs: number; key: string }[] };
  };
  /** Raft status as the leader sees it. */
  "cluster-status": {
    role: "manager";
    params: Record<string, never>;
    result: { status: RaftStatus };
  };
  /** The leader has every node, or the named one, look at its network. Changes nothing. */
  "net-doctor": { role: "manager"; params: { node?: string }; result: { report: NetReport } };
  /** Manager → agent on the session's connection. The answer is of a node, so the asker checks its shape. */
  "net-check": {
    role: "manager";
    params: Record<string, never>;
    result: { report: NetNodeReport };
  };
};
export type RpcMethod = keyof RpcMethods;

/** One-way messages, in order per connection. */
export type RpcNotes = {
  /** Consensus bytes, between managers. */
  raft: { role: "manager"; body: { data: Uint8Array } };
  /** Manager → agent on the session's connection. */
  assignments: { role: "manager"; body: { sessionId: string; message: AssignmentsMessage } };
  /** Agent → manager: this node balances by what it was sent up to this generation. */
  "assignments-applied": { role: "worker"; body: { sessionId: string; generation: number } };
  /** Manager → agent: open a new session. */
  "session-end": { role: "manager"; body: { sessionId: string; reason: string } };
  /** API node → leader → agent. `stream` is a number of the opener's, of this connection only. */
  "logs-open": { role: "manager"; body: { stream: number; open: LogOpen } };
  /** Further tasks of the same node. */
  "logs-more": { role: "manager"; body: { stream: number; tasks: LogTask[] } };
  /** So many bytes were taken by the reader. */
  "logs-grant": { role: "manager"; body: { stream: number; bytes: number } };
  "logs-close": { role: "manager"; body: { stream: number } };
  /** Agent → leader → API node: whole records (agent/logs/record.ts). */
  "logs-data": { role: "worker"; body: { stream: number; data: Uint8Array } };
  /** The last of its stream. */
  "logs-end": { role: "worker"; body: { stream: number } & LogEnd };
};
export type RpcNote = keyof RpcNotes;
