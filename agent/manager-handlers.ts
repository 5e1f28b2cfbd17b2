/**
 * What other nodes may ask of a manager by RPC. The transport has checked the certificate's role;
 * here is checked that the caller still is a node of the cluster.
 */
import { isDeepStrictEqual } from "node:util";
import { planAttachment } from "../core/allocator/attachments.ts";
import { chooseMeshAddress, chooseNodeIndex } from "../core/allocator/node-index.ts";
import { assert } from "../core/assert.ts";
import { NODE_LEFT_MESSAGE, trustedRoots } from "../core/ca/root-rotation.ts";
import { ClusterError } from "../core/errors.ts";
import { newId, type NodeId } from "../core/ids.ts";
import type { Cluster } from "../core/objects/cluster.ts";
import type { NodeObject, NodeRole } from "../core/objects/node.ts";
import type { StateOutput } from "../core/protocol.ts";
import type { Random } from "../core/random.ts";
import { parseJoinToken, tokenSecretsEqual } from "../net/pki/join-token.ts";
import type { ManagerAddress, NetReport, RpcMethods, RpcNotes } from "../net/rpc/methods.ts";
import type { RpcConnection } from "../net/rpc/peer.ts";
import type { RpcHandlers } from "../net/rpc/server.ts";
import { createCertificateSigner, type SignCertificate } from "./certificate-signer.ts";
import { openTokens } from "./cluster-secrets.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";
import { openAssignments, type Vault } from "./vault.ts";

/** Two joins may choose the same index or mesh address; apply refuses the second, which tries again. */
const JOIN_ATTEMPTS_MAX = 10;
/** A learner that has not caught up by then is told so; it stays a learner and asks again. */
const RAFT_JOIN_TIMEOUT_MS = 20_000;
const PROMOTE_RETRY_MS = 100;

type HeldSession = {
  nodeId: NodeId;
  connection: RpcConnection;
  /** Something could not be opened for it. */
  isPartial?: boolean;
};

export type ManagerRpc = {
  handlers: RpcHandlers;
  onRaftNote(connection: RpcConnection, data: Uint8Array): void;
  onAssignmentsApplied(
    connection: RpcConnection,
    applied: RpcNotes["assignments-applied"]["body"],
  ): void;
  /** Routes the state worker's session outputs to their connections. */
  onStateOutput(output: StateOutput): void;
  /** New keys are there: nodes that could not be sent everything open a new session. */
  keysLearned(): void;
  /** The connection of the node's session, while this manager holds it. */
  sessionOf(nodeId: NodeId): RpcConnection | undefined;
  /** @throws {ClusterError} forbidden for a caller that is no manager of the cluster any more. */
  admitManager(connection: RpcConnection): void;
};

/** Somebody took meanwhile what was chosen. */
const isOvertaken = (error: unknown) =>
  error instanceof ClusterError &&
  ["name-conflict", "in-use", "failed-precondition"].includes(error.code);

export function managerRpc(options: {
  manager: Manager;
  nodeId: NodeId;
  log: Logger;
  random: Random;
  /** Absent where nothing is sealed (the simulator). */
  vault?: Vault;
  /** @default by the cluster's own key */
  sign?: SignCertificate;
  /** Answers a host that forms a cluster by itself (formation/); absent: this one was given no secret for it. */
  form?(sealed: Uint8Array, tokens: () => Promise<Cluster["joinTokens"]>): Promise<Uint8Array>;
  /** This leader has all nodes look at their network; absent in the simulator. */
  netDoctor?(ref?: string): Promise<NetReport>;
}): ManagerRpc {
  const { manager, log, vault } = options;
  const sign =
    options.sign ??
    createCertificateSigner({ log, nowMs: () => Date.now(), ...(vault ? { vault } : {}) });
  /** Sessions held here, on the leader. Bounded by the connection limit of the server. */
  const sessions = new Map<string, HeldSession>();

  const managers = (): ManagerAddress[] =>
    manager
      .status()
      .members.filter((m) => !m.isLearner)
      .map(({ nodeId, addr }) => ({ nodeId, addr }));

  const notLeader = () => {
    const { leaderId, members } = manager.status();
    const leader = members.find((m) => m.nodeId === leaderId && m.nodeId !== options.nodeId);
    return new ClusterError("not-leader", "This manager does not lead", {
      details: leader ? { leader: { nodeId: leader.nodeId, addr: leader.addr } } : {},
      retry: "later",
    });
  };
  const mustLead = () => {
    if (!manager.status().isLeader) throw notLeader();
  };
  const callerId = (connection: RpcConnection): NodeId => {
    const { nodeId } = connection.peer;
    assert(nodeId !== undefined, "the server lets only certified peers call this method");
    return nodeId;
  };
  const refuseStranger = (nodeId: NodeId) =>
    new ClusterError(
      "forbidden",
      `Node ${nodeId} is not part of this cluster any more: it was removed; leave with "docker swarm leave --force" and join again`,
    );
  const isManager = (node: NodeObject) => node.role === "manager" && node.spec.Role === "manager";
  /**
   * The caller as a node, which need not pass `isFit`. What is applied here may be somewhat old, and the
   * caller have joined or been promoted since: nobody is refused by it before a barrier is passed.
   */
  const memberCaller = async (connection: RpcConnection, isFit = (_node: NodeObject) => true) => {
    const nodeId = callerId(connection);
    const known = manager.readLocal((view) => view.node(nodeId));
    if (known && isFit(known)) return known;
    const node = await manager.read((view) => view.node(nodeId));
    if (!node) throw refuseStranger(nodeId);
    return node;
  };
  const mustHaveCluster = (cluster: Cluster | undefined): Cluster => {
    if (!cluster)
      throw new ClusterError("unavailable", "This manager is being prepared", { retry: "later" });
    return cluster;
  };

  const roleOfToken = (cluster: Cluster, token: string): NodeRole => {
    const { secret } = parseJoinToken(token);
    const tokens = openTokens(vault, cluster);
    if (tokenSecretsEqual(secret, parseJoinToken(tokens.manager).secret)) return "manager";
    if (tokenSecretsEqual(secret, parseJoinToken(tokens.worker).secret)) return "worker";
    throw new ClusterError(
      "invalid-argument",
      "A valid join token is necessary to join this cluster",
    );
  };

  const issue = async (
    params: RpcMethods["issue-certificate"]["params"],
    connection: RpcConnection,
  ) => {
    for (let attempt = 1; ; attempt++) {
      const { cluster, index, meshAddress } = await manager.read((view) => ({
        cluster: mustHaveCluster(view.cluster()),
        index: chooseNodeIndex(view),
        meshAddress: chooseMeshAddress(view),
      }));
      const role = roleOfToken(cluster, params.token);
      const nodeId = newId(options.random);
      const certificatePem = await sign(cluster, { csrPem: params.csrPem, nodeId, role });
      const dataPathAddr = params.dataPathAddr || connection.peer.address;
      try {
        await manager.propose([
          {
            type: "create",
            table: "node",
            object: {
              id: nodeId,
              spec: { Labels: {}, Role: role, Availability: params.availability },
              status: { state: "unknown", message: "", addr: connection.peer.address },
              role,
              index,
              meshAddress,
              dataPathAddr,
            },
          },
        ]);
      } catch (error) {
        if (!isOvertaken(error) || attempt >= JOIN_ATTEMPTS_MAX) throw error;
        continue;
      }
      log.info(
        { joined: nodeId, role, hostname: params.hostname, address: connection.peer.address },
        "Node joined",
      );
      return {
        nodeId,
        clusterId: cluster.id,
        role,
        certificatePem,
        caCertificatePem: trustedRoots(cluster),
        managers: managers(),
      };
    }
  };

  const raftJoin = async (nodeId: NodeId, addr: string) => {
    const isMember = () => manager.status().members.find((m) => m.nodeId === nodeId);
    const deadlineMs = Date.now() + RAFT_JOIN_TIMEOUT_MS;
    const attempt = async (run: () => Promise<void>) => {
      // One membership change at a time: another one under way, or a learner still catching up.
      for (;;) {
        try {
          await run();
          return;
        } catch (error) {
          const canWait =
            error instanceof ClusterError &&
            ["failed-precondition", "busy", "proposal-dropped"].includes(error.code);
          if (!canWait || Date.now() >= deadlineMs) throw error;
          mustLead();
          await Bun.sleep(PROMOTE_RETRY_MS);
        }
      }
    };
    const found = isMember();
    if (!found)
      await attempt(() => manager.changeMembership({ type: "add-learner", nodeId, addr }));
    else if (found.addr !== addr)
      await attempt(() => manager.changeMembership({ type: "set-addr", nodeId, addr }));
    await attempt(async () => {
      if (isMember()?.isLearner === false) return;
      await manager.changeMembership({ type: "promote", nodeId });
    });
    await manager.propose([
      { type: "update", table: "node", id: nodeId, set: { managerAddr: addr } },
    ]);
    return { members: manager.status().members };
  };

  /** Takes a manager out of raft when the rest keeps a majority; a leader hands over first. */
  const removeFromRaft = async (nodeId: NodeId, force: boolean) => {
    const status = await manager.freshStatus();
    if (!status.members.some((m) => m.nodeId === nodeId)) return;
    const rest = status.members.filter((m) => !m.isLearner && m.nodeId !== nodeId);
    if (rest.length === 0) {
      throw new ClusterError(
        "failed-precondition",
        "attempting to demote the last manager of the swarm",
      );
    }
    const reachable = rest.filter((m) => m.nodeId === options.nodeId || m.isReachable).length;
    if (reachable < Math.floor(rest.length / 2) + 1 && !force) {
      throw new ClusterError(
        "failed-precondition",
        "can't remove member from the raft: this would result in a loss of quorum",
      );
    }
    await manager.changeMembership({ type: "remove", nodeId });
  };

  const handlers: RpcHandlers = {
    "issue-certificate": (params, connection) => issue(params, connection),
    form: async ({ sealed }) => {
      if (!options.form) {
        throw new ClusterError("unauthenticated", "this host was given no formation secret");
      }
      // Asked for only once it is known that the other has the secret.
      const tokens = async () =>
        openTokens(vault, await manager.read((view) => mustHaveCluster(view.cluster())));
      return { sealed: await options.form(sealed, tokens) };
    },
    "renew-certificate": async (params, connection) => {
      // The newest: the caller was just told that its role has changed, and asks whom it likes.
      const { expiredNodeId } = connection.peer;
      const askingId = expiredNodeId ?? callerId(connection);
      const { cluster, caller } = await manager.read((view) => ({
        cluster: mustHaveCluster(view.cluster()),
        caller: view.node(askingId),
      }));
      const hasLeft = caller?.status.message === NODE_LEFT_MESSAGE;
      if (!caller || (hasLeft && expiredNodeId)) throw refuseStranger(askingId);
      const { id: nodeId, role } = caller;
      const certificatePem = await sign(cluster, { csrPem: params.csrPem, nodeId, role });
      if (expiredNodeId) log.info({ node: nodeId }, "Expired certificate renewed");
      return { role, certificatePem, caCertificatePem: trustedRoots(cluster) };
    },
    "session-open": async (params, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      const sessionId = Buffer.from(options.random.bytes(16)).toString("hex");
      for (const [id, held] of sessions) {
        if (held.nodeId === caller.id) sessions.delete(id);
      }
      // Registered first: the complete set follows the answer closely.
      sessions.set(sessionId, { nodeId: caller.id, connection });
      connection.onClose(() => {
        if (sessions.delete(sessionId)) manager.state.notify({ type: "session-close", sessionId });
      });
      const answer = await manager.state.request({
        type: "session-open",
        nodeId: caller.id,
        sessionId,
        description: params.description,
        addr: connection.peer.address,
        dataPathAddr: params.dataPathAddr,
        nowMs: Date.now(),
      });
      assert(answer.type === "session", "session-open is answered by session");
      return { sessionId, heartbeatPeriodMs: answer.heartbeatPeriodMs, managers: managers() };
    },
    heartbeat: async (params, connection) => {
      mustLead();
      const nodeId = callerId(connection);
      if (sessions.get(params.sessionId)?.nodeId !== nodeId) {
        throw new ClusterError(
          "not-found",
          `Session ${params.sessionId} is not held here: open a new one`,
        );
      }
      manager.state.notify({
        type: "heartbeat",
        nodeId,
        sessionId: params.sessionId,
        nowMs: Date.now(),
      });
      return { managers: managers() };
    },
    "report-status": async (params, connection) => {
      mustLead();
      const nodeId = callerId(connection);
      if (sessions.get(params.sessionId)?.nodeId !== nodeId) {
        throw new ClusterError(
          "not-found",
          `Session ${params.sessionId} is not held here: open a new one`,
        );
      }
      await manager.state.request(
        { type: "report-status", nodeId, sessionId: params.sessionId, statuses: params.statuses },
        { timeoutMs: 10_000 },
      );
      return {};
    },
    attach: async (params, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      for (let attempt = 1; ; attempt++) {
        const { network, object, isNew } = await manager.read((view) =>
          planAttachment(view, { ...params, nodeId: caller.id }, options.random),
        );
        try {
          if (isNew) await manager.propose([{ type: "create", table: "attachment", object }]);
        } catch (error) {
          if (!isOvertaken(error) || attempt >= JOIN_ATTEMPTS_MAX) throw error;
          continue;
        }
        const { gateway = "", spec } = network;
        const { id, address, address6 } = object;
        const six = address6 === undefined ? {} : { address6 };
        const config = spec.ConfigFrom === undefined ? {} : { configFrom: spec.ConfigFrom };
        return { id, networkName: spec.Name, address, ...six, gateway, ...config };
      }
    },
    detach: async (params, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      const own = await manager.read((view) =>
        params.ids.filter((id) => view.attachment(id)?.nodeId === caller.id),
      );
      const actions = own.map((id) => ({ type: "remove", table: "attachment", id }) as const);
      if (actions.length > 0) await manager.propose(actions, "each");
      return {};
    },
    "mesh-state": async ({ encryption }, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      if (isDeepStrictEqual(caller.encryption, encryption)) return {};
      await manager.propose([
        { type: "update", table: "node", id: caller.id, set: { encryption } },
      ]);
      return {};
    },
    "node-leave": async (params, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      if (caller.id === options.nodeId) {
        // The caller hands over and asks the next leader.
        await manager.transferLeadership();
        throw notLeader();
      }
      await removeFromRaft(caller.id, params.force);
      await manager.propose([
        {
          type: "update",
          table: "node",
          id: caller.id,
          set: {
            role: "worker",
            spec: { ...caller.spec, Role: "worker" },
            status: { ...caller.status, state: "down", message: NODE_LEFT_MESSAGE },
          },
          unset: ["managerAddr"],
        },
      ]);
      return {};
    },
    propose: async (params, connection) => {
      mustLead();
      // A demoted manager's certificate still says manager until it is renewed.
      const caller = await memberCaller(connection, ({ role }) => role === "manager");
      if (caller.role !== "manager") {
        throw new ClusterError("forbidden", "Only managers propose: this node is a worker");
      }
      return { index: await manager.proposeAsLeader(params.data, params.term) };
    },
    "raft-join": async (params, connection) => {
      mustLead();
      const caller = await memberCaller(connection, isManager);
      if (!isManager(caller)) {
        throw new ClusterError("forbidden", `Node ${caller.id} is not a manager: promote it first`);
      }
      return raftJoin(caller.id, params.addr);
    },
    "raft-leave": async (_params, connection) => {
      mustLead();
      const caller = await memberCaller(connection);
      await removeFromRaft(caller.id, false);
      log.warn({ member: caller.id }, "Member taken out of raft: it has lost its log");
      return {};
    },
    "data-keys": async (_params, connection) => {
      const caller = await memberCaller(connection, isManager);
      if (!isManager(caller)) {
        throw new ClusterError("forbidden", `Node ${caller.id} is not a manager`);
      }
      return { keys: [...(vault?.keys() ?? [])] };
    },
    "cluster-status": async (_params, connection) => {
      mustLead();
      await memberCaller(connection);
      return { status: await manager.freshStatus() };
    },
    "net-doctor": async ({ node }, connection) => {
      mustLead();
      const caller = await memberCaller(connection, isManager);
      if (!isManager(caller)) {
        throw new ClusterError("forbidden", `Node ${caller.id} is not a manager`);
      }
      if (!options.netDoctor) throw new ClusterError("not-implemented", "There is no doctor here");
      return { report: await options.netDoctor(node) };
    },
  };

  return {
    handlers,
    onRaftNote: (connection, data) =>
      manager.receiveRaft(callerId(connection), data, connection.peer.address),
    onAssignmentsApplied: (connection, applied) => {
      if (sessions.get(applied.sessionId)?.connection !== connection) return;
      manager.state.notify({ type: "assignments-applied", ...applied });
    },
    keysLearned: () => {
      for (const held of sessions.values()) if (held.isPartial) held.connection.close();
    },
    sessionOf: (nodeId) =>
      [...sessions.values()].find((held) => held.nodeId === nodeId)?.connection,
    admitManager: (connection) => {
      const nodeId = callerId(connection);
      const role = manager.readLocal((view) => view.node(nodeId)?.role);
      if (role !== "manager")
        throw new ClusterError("forbidden", `Node ${nodeId} is not a manager`);
    },
    onStateOutput: (output) => {
      if (output.type === "assignments") {
        const held = sessions.get(output.sessionId);
        if (!held) return;
        const { sessionId } = output;
        const message = vault
          ? openAssignments(vault, output.message, (error) => {
              log.error({ node: held.nodeId, err: error.message }, "Not sent to a node");
              held.isPartial = true;
            })
          : output.message;
        // A dropped increment would show as a gap only with the next one, which may never come.
        if (!held.connection.note("assignments", { sessionId, message })) held.connection.close();
      } else if (output.type === "session-end") {
        const held = sessions.get(output.sessionId);
        if (!held) return;
        sessions.delete(output.sessionId);
        held.connection.note("session-end", { sessionId: output.sessionId, reason: output.reason });
      }
    },
  };
}
