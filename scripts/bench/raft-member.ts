/**
 * One manager of the bench, a process of its own: a real startManager (consensus and state workers,
 * raft.db with fsync), RPC server and pool over mutual TLS, wired as agent/node.ts does; no engine, no
 * mesh, no sessions.
 *
 * What the load calls: `propose` from the load's certificate goes the way of the API (Manager.proposeRaw:
 * answered once applied, with its outcome), which is what etcd's Put promises. `heartbeat`, which the
 * bench has no other use for, is a linearizable read of one config (Manager.read). From other members
 * both are the real ones.
 */
import { readFileSync } from "node:fs";
import { managerRpc, type ManagerRpc } from "../../agent/manager-handlers.ts";
import { createLogger } from "../../agent/logger.ts";
import { startManager } from "../../agent/manager.ts";
import { systemRandom } from "../../agent/random.ts";
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { decodeProposal } from "../../core/protocol.ts";
import type { Proposal } from "../../core/store/action.ts";
import type { TlsIdentity } from "../../net/rpc/peer.ts";
import { createPool } from "../../net/rpc/pool.ts";
import { type RpcHandlers, startRpcServer } from "../../net/rpc/server.ts";

export type MemberConfig = {
  nodeId: string;
  clusterId: string;
  dataDir: string;
  host: string;
  port: number;
  tls: TlsIdentity;
  /** Of the first member: what founds the cluster. */
  founding?: Proposal;
  members: { nodeId: string; addr: string }[];
};

const JOIN_RETRY_MS = 100;

async function main(config: MemberConfig): Promise<void> {
  const { nodeId, members } = config;
  const log = createLogger("warn");
  const addr = `${config.host}:${config.port}`;
  const pool = createPool({
    tls: () => config.tls,
    onUnreachable: (peer) => holder.manager?.reportUnreachable(peer),
  });
  const holder: { rpc?: ManagerRpc; manager?: Awaited<ReturnType<typeof startManager>> } = {};
  const manager = await startManager({
    // As a real manager: what it stores is sealed.
    storageKey: new Uint8Array(32).fill(7),
    nodeId,
    dataDir: config.dataDir,
    ...(config.founding ? { bootstrap: { addr } } : {}),
    log,
    random: systemRandom,
    tls: config.tls,
    sendRaft: (to, peerAddr, data) => pool.note(to, peerAddr, "raft", { data }),
    lastKnownAddr: (peer) => members.find((m) => m.nodeId === peer)?.addr,
    forwardProposal: async ({ nodeId, addr, term }, data, timeoutMs) => {
      await pool.request(nodeId, addr, "propose", { data, term }, { timeoutMs });
    },
    onStateOutput: (output) => holder.rpc?.onStateOutput(output),
    onStatus: (status) => process.send?.({ type: "status", status }),
    onRemoved: () => log.warn("Removed from the membership"),
    onCrash: (name, code, error) => {
      log.fatal({ code, err: error?.stack }, `The ${name} worker ended`);
      process.exit(1);
    },
  });
  holder.manager = manager;
  const rpc = managerRpc({ manager, nodeId, log, random: systemRandom });
  holder.rpc = rpc;
  const { propose } = rpc.handlers;
  assert(propose, "managers serve propose");
  const isMember = (id: string | undefined) => members.some((m) => m.nodeId === id);
  const handlers: RpcHandlers = {
    ...rpc.handlers,
    propose: (params, connection) =>
      isMember(connection.peer.nodeId)
        ? propose(params, connection)
        : manager.proposeRaw(decodeProposal(params.data)),
    heartbeat: async ({ sessionId: id }) => {
      const config = await manager.read((view) => view.config(id));
      return { managers: [{ nodeId: id, addr: config?.spec.Labels?.["value"] ?? "" }] };
    },
  };
  await startRpcServer({
    host: config.host,
    port: config.port,
    tls: config.tls,
    clusterId: config.clusterId,
    handlers,
    notes: { raft: (body, connection) => rpc.onRaftNote(connection, body.data) },
    onError: (where, error) => log.warn({ where, err: String(error) }, "RPC"),
  });
  if (config.founding && !manager.readLocal((view) => view.cluster())) {
    await manager.proposeRaw(config.founding);
  }
  process.on("message", (message) => {
    if (message !== "status") return;
    manager.freshStatus().then(
      (status) => process.send?.({ type: "status", status }),
      (error: unknown) => log.warn({ err: String(error) }, "No status"),
    );
  });
  process.send?.({ type: "started" });
  const isVoter = () => manager.status().members.some((m) => m.nodeId === nodeId && !m.isLearner);
  while (!isVoter()) {
    for (const member of members.filter((m) => m.nodeId !== nodeId)) {
      try {
        await pool.request(
          member.nodeId,
          member.addr,
          "raft-join",
          { addr },
          { timeoutMs: 20_000 },
        );
        break;
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
      }
    }
    await Bun.sleep(JOIN_RETRY_MS);
  }
}

if (import.meta.main) {
  // The bench is gone, however it ended.
  process.on("disconnect", () => process.exit(0));
  // Written by raft-cluster.ts.
  await main(JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as MemberConfig);
}
