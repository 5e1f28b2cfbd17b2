/**
 * This node's life in a cluster: init, join, restart, promotion, demotion, leave. Owns the parts
 * (workers, RPC server, session) and gives the HTTP faces their ports. All life steps run one at a
 * time; node.json is the commit point (identity.ts).
 *
 * 1. Nothing half made: a step that fails before its commit point undoes what it made.
 * 2. The local parts (reconciler, mesh) run from their own journals from the first moment, whether
 *    or not a manager can be reached.
 * 3. What the node is follows what the managers say of it (`settings.role`), never a local wish.
 */
import { rmSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { assert } from "../core/assert.ts";
import { trustedRoots } from "../core/ca/root-rotation.ts";
import type { AssignmentsMessage } from "../core/dispatcher/assignment.ts";
import { ClusterError } from "../core/errors.ts";
import { KNOWN_KINDS, type NodeRole } from "../core/objects/node.ts";
import type { RaftStatus } from "../core/protocol.ts";
import type { Random } from "../core/random.ts";
import { signExternally } from "../net/pki/external-ca.ts";
import { createKeyAndCsr } from "../net/pki/issue.ts";
import { readCertificate, tlsInfo } from "../net/pki/read.ts";
import { loadPki, removePki, savePki } from "../net/pki/store.ts";
import { connectRpc, fetchRootCa } from "../net/rpc/client.ts";
import type { ManagerAddress } from "../net/rpc/methods.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import { createPool, type RpcPool } from "../net/rpc/pool.ts";
import { type RpcServer, startRpcServer } from "../net/rpc/server.ts";
import type { BackendName } from "../net/mesh/backend.ts";
import { loadTable } from "../net/mesh/table.ts";
import { createAskManagers } from "./ask-managers.ts";
import { createCertificateKeeper } from "./certificate.ts";
import { createCertificateSigner } from "./certificate-signer.ts";
import { planRotation } from "./data-keys.ts";
import { createAskDoctor } from "./doctor/ask.ts";
import { waitForRoom, watchManagerDisk } from "./manager-disk.ts";
import { createRaftMember, RAFT_JOIN_TIMEOUT_MS } from "./raft-member.ts";
import {
  chooseAddresses,
  DEFAULT_RPC_PORT,
  formatHostPort,
  localAddresses6,
  parseHostPort,
  watchAddresses6,
} from "./address.ts";
import type {
  ApiPorts,
  InitRequest,
  JoinRequest,
  LocalNode,
  RestoreRequest,
  RestoreResult,
} from "./api/ports.ts";
import { currentReadMark } from "./api/stale.ts";
import { startAttachments } from "./attachments.ts";
import { startEncryptionReport } from "./encryption-report.ts";
import { type MeshKeysKeeper, startMeshKeys } from "./mesh-keys.ts";
import { decodeBackup, encodeBackup } from "./backup.ts";
import { createClusterEvents } from "./api/cluster-events.ts";
import { createSpecVersions } from "./api/spec-versions.ts";
import { createNodeDoctor } from "./doctor/doctor.ts";
import { hostProbes, ownCommand } from "./doctor/probes.ts";
import type { Formation } from "./formation/formation.ts";
import { foundCluster } from "./found-cluster.ts";
import { ballastPathOf, type DiskWatch } from "./disk-space.ts";
import { loadIdentity, type NodeIdentity, removeIdentity, saveIdentity } from "./identity.ts";
import { type LocalParts, startLocalParts } from "./local-parts.ts";
import type { Logger } from "./logger.ts";
import { renderMetrics } from "./metrics.ts";
import type { LogPorts } from "./logs/collect.ts";
import { createLogRelay, type LogRelay, openLogLink } from "./logs/relay.ts";
import { createLogSource } from "./logs/source.ts";
import { serveOver } from "./logs/stream.ts";
import { type Manager, removeManagerState, startManager } from "./manager.ts";
import { type ManagerRpc, managerRpc } from "./manager-handlers.ts";
import { restoreCluster, writeLogFromState, writeRestoredLog } from "./restore.ts";
import {
  clearForRebuild,
  isLogDamaged,
  isRebuildPending,
  putLogAside,
  takeLogBack,
} from "./rebuild.ts";
import { startRoleManager } from "./role-manager.ts";
import { type Session, startSession } from "./session.ts";
import { sealFounding, unlockKeyOf } from "./cluster-secrets.ts";
import { keepLock, LOCKED, LOCKED_LEAVE, type LockKeeper, openLock } from "./lock.ts";
import { forgetStorageKey, loadStorageKey, resealStorageKey } from "./storage-key.ts";
import { openVault } from "./vault.ts";

/** As stock Swarm: after this the join goes on in the background. */
const JOIN_TIMEOUT_MS = 20_000;
const LEADER_TIMEOUT_MS = 10_000;
const RPC_TIMEOUT_MS = 5_000;
/** One manager, which may have to ask an external CA with several addresses. */
const RENEW_TIMEOUT_MS = 15_000;
/** The others have a leader, or they do not answer. */
const OTHERS_ASK_MS = 3_000;
/** In a text that says what each manager said. */
const REASONS_MAX = 3;
/** Short: the next manager may be the one that lives. */
const SESSION_CONNECT_TIMEOUT_MS = 2_000;
const RETRY_MS = 500;
/** How long a call waits for a life step under way (start, promotion). */
const START_WAIT_MS = 5_000;
/** A leader that stops hands over first; without an answer in this time it stops all the same. */
const HANDOVER_TIMEOUT_MS = 2_000;

const NOT_IN_SWARM =
  'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.';
const IS_WORKER =
  "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
const IS_PREPARING =
  "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.";
/** Remembered as cut off; more than any cluster has managers. */
const FORMER_MANAGERS_MAX = 100;
const ALREADY_IN_SWARM =
  'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';

export type NodeOptions = {
  dataDir: string;
  engineSocket: string;
  /** @default auto: what this host's kernel can do best */
  meshBackend?: "auto" | BackendName;
  version: string;
  /** The address that others are told from now on, when it has changed since init or join. */
  advertiseAddr?: string;
  /** While it is in no cluster, it may form one by itself. */
  formation?: Pick<Formation, "answer" | "giveWay" | "waitsFor">;
  log: Logger;
  random: Random;
  /** A broken part: the process ends with a non-zero code. */
  fatal(message: string, details: Record<string, unknown>): never;
};

export type Node = {
  api: ApiPorts;
  /** Goes on as what node.json says. */
  start(): Promise<void>;
  stop(): Promise<void>;
};

type ManagerParts = {
  manager: Manager;
  rpc: ManagerRpc;
  server: RpcServer;
  roles: { wake(): void; stop(): void };
  disk: DiskWatch;
  logs: LogRelay;
  lock: LockKeeper;
  meshKeys: MeshKeysKeeper;
};

export function createNode(options: NodeOptions): Node {
  const { dataDir, log, random } = options;
  let identity: Omit<NodeIdentity, "formatVersion"> | undefined;
  let tls: TlsIdentity | undefined;
  let local: LocalParts | undefined;
  let managing: ManagerParts | undefined;
  let session: Session | undefined;
  let pool: RpcPool | undefined;
  /** The manager that joinRaftInBackground looks after. */
  let keptInRaft: ManagerParts | undefined;
  let isPending = false;
  let lastError: string | undefined;
  let isStopping = false;
  const askManagers = createAskManagers({
    pool: () => pool,
    isStopping: () => isStopping,
  });
  const lock = openLock(dataDir);
  const vault = openVault(dataDir, lock.files, lock.isLocked());
  const sign = createCertificateSigner({ vault, tls: () => tls, log, nowMs: () => Date.now() });
  const clusterEvents = createClusterEvents(() => Date.now());
  const specVersions = createSpecVersions();
  const seedApi = (manager: Manager) =>
    manager.readLocal((view) => {
      clusterEvents.seed(view);
      specVersions.seed(view);
    });
  const logSource = createLogSource({
    nodeId: () => identity?.nodeId,
    socketPath: options.engineSocket,
  });
  const attachments = startAttachments({
    nodeId: () => identity?.nodeId,
    engineSocket: options.engineSocket,
    ask: (method, params, timeoutMs) =>
      askManagers(method, params, timeoutMs, identity?.managers ?? []),
    log,
  });
  const addressWatch = watchAddresses6(() => session?.descriptionChanged());
  const encryption = startEncryptionReport({
    nodeId: () => identity?.nodeId,
    ask: (state) =>
      askManagers("mesh-state", { encryption: state }, RPC_TIMEOUT_MS, identity?.managers ?? []),
    log,
  });
  const reportBug = (where: string, error: unknown) =>
    log.error(
      { where, err: error instanceof Error ? error.stack : String(error) },
      "Bug in a handler",
    );
  const doctor = createNodeDoctor({
    probes: hostProbes({
      engineSocket: options.engineSocket,
      askCommand: ownCommand("net", "ask"),
    }),
    loadTable: () => loadTable(join(dataDir, "mesh")),
    meshStatus: async (timeoutMs) => {
      if (!local) return { type: "unknown", message: "this node's parts are not running" };
      try {
        const answer = await local.mesh.request({ type: "status" }, { timeoutMs });
        assert(answer.type === "status", "status is answered by status");
        return answer;
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        return { type: "unknown", message: `the mesh thread does not answer: ${error.message}` };
      }
    },
    nowMs: () => Date.now(),
  });
  const askDoctor = createAskDoctor({
    doctor,
    nodeId: () => mustHave(identity, "identity").nodeId,
    manager: () =>
      managing ?? { why: lock.isLocked() ? "this manager is locked" : "this node is no manager" },
    pool: () => mustHave(pool, "pool"),
  });
  /** Log collections that wait for new tasks. */
  const taskListeners = new Set<() => void>();

  // ---- life steps, one at a time --------------------------------------------------------------

  let tail: Promise<unknown> = Promise.resolve();
  const exclusive = <T>(run: () => Promise<T>): Promise<T> => {
    const result = tail.then(run, run);
    tail = result.catch(() => undefined);
    return result;
  };

  const mustHave = <T>(value: T | undefined, what: string): T => {
    assert(value !== undefined, `${what} exists in this state`);
    return value;
  };

  const certifiedRole = (): NodeRole =>
    readCertificate(mustHave(tls, "identity").certificatePem).role;

  const keepManagers = (managers: ManagerAddress[]) => {
    if (!identity || managers.length === 0) return;
    if (JSON.stringify(identity.managers) === JSON.stringify(managers)) return;
    identity = { ...identity, managers };
    saveIdentity(dataDir, identity);
  };

  const startParts = (): Promise<LocalParts> =>
    startLocalParts({
      dataDir,
      engineSocket: options.engineSocket,
      meshBackend: options.meshBackend ?? "auto",
      log,
      onContainerGone: () => attachments.containerGone(),
      onStatuses: (statuses) => session?.reportStatuses(statuses),
      onDescriptionChanged: () => session?.descriptionChanged(),
      onEncryption: (state) => encryption.say(state),
      fatal: options.fatal,
    });

  // ---- session --------------------------------------------------------------------------------

  const takeAssignments = (message: AssignmentsMessage, applied: () => void) => {
    if (!local) return;
    local.assign(message, applied);
    attachments.take(message);
    encryption.take(message);
    for (const item of message.put) {
      if (item.kind !== "settings") continue;
      keepManagers(item.body.managers);
      followRole(item.body.role);
      certificates.followCa(item.body);
    }
  };

  const startNodeSession = () => {
    session = startSession({
      managers: () => {
        // Its own address this node knows best: the others may not have heard of a new one yet.
        const others = otherManagers();
        if (!managing || !identity) return identity?.managers ?? [];
        return [...others, { nodeId: identity.nodeId, addr: identity.advertiseAddr }];
      },
      connect: async (addr) => {
        const connection = await connectRpc({
          addr,
          tls: mustHave(tls, "TLS identity"),
          timeoutMs: SESSION_CONNECT_TIMEOUT_MS,
          expectRole: "manager",
          handlers: { "net-check": async () => ({ report: await doctor.examine() }) },
          onHandlerError: reportBug,
        });
        serveOver(connection, logSource.open);
        return connection;
      },
      description: async () => {
        const description = await mustHave(local, "local parts").describe();
        const { caCertificatePem, certificatePem } = mustHave(tls, "TLS identity");
        const addresses6 = localAddresses6();
        return {
          ...description,
          TLSInfo: tlsInfo(caCertificatePem, certificatePem),
          knows: [...KNOWN_KINDS],
          ...(addresses6.length > 0 ? { addresses6 } : {}),
        };
      },
      dataPathAddr: mustHave(identity, "identity").dataPathAddr,
      onAssignments: takeAssignments,
      onManagers: keepManagers,
      onState: (state, reason) => {
        log.info({ state, reason }, "Session");
        if (state === "connected") {
          lastError = undefined;
          local?.reconciler.notify({ type: "report-all" });
        } else if (reason?.includes("is not part of this cluster any more")) {
          lastError = reason;
        }
      },
      random,
    });
  };

  // ---- manager parts --------------------------------------------------------------------------

  /** Writes the private files as the lock is now. */
  const resealFiles = () => {
    savePki(dataDir, mustHave(tls, "TLS identity"), lock.files);
    vault.save();
    resealStorageKey(dataDir, lock.files);
  };

  /** For a cluster that has just begun here: what the keeper would do a moment later. */
  const lockAtOnce = (manager: Manager) => {
    const cluster = manager.readLocal((view) => view.cluster());
    if (cluster) lock.follow(unlockKeyOf(vault, cluster), resealFiles);
  };

  const startManagerParts = async (start: {
    bootstrap?: { addr: string };
    forceNewCluster?: { addr: string };
    acceptLoss?: boolean;
  }) => {
    const me = mustHave(identity, "identity");
    const listen = parseHostPort(me.listenAddr, "ListenAddr", DEFAULT_RPC_PORT);
    const holder: {
      rpc?: ManagerRpc;
      roles?: { wake(): void };
      manager?: Manager;
      lock?: LockKeeper;
      meshKeys?: MeshKeysKeeper;
    } = {};
    const clusterChanged = () => {
      holder.lock?.wake();
      const { manager } = holder;
      if (!manager) return;
      vault.follow(manager.readLocal((view) => view.cluster()?.dataKeys));
      raftMember.wake();
    };
    lock.settle(resealFiles);
    const disk = watchManagerDisk({ dataDir, manager: () => holder.manager, log });
    const manager = await startManager({
      nodeId: me.nodeId,
      dataDir,
      storageKey: loadStorageKey(dataDir, lock.files),
      ...start,
      log: log.child({ component: "manager" }),
      random,
      tls: mustHave(tls, "TLS identity"),
      sendRaft: (to, addr, data) => pool?.note(to, addr, "raft", { data }) ?? false,
      isOutcast: (nodeId) => identity?.formerManagers?.includes(nodeId) === true,
      lastKnownAddr: (nodeId) => identity?.managers.find((m) => m.nodeId === nodeId)?.addr,
      forwardProposal: async (leader, data, timeoutMs) => {
        await mustHave(pool, "pool").request(
          leader.nodeId,
          leader.addr,
          "propose",
          { data, term: leader.term },
          { timeoutMs },
        );
      },
      onStateOutput: (output) => {
        holder.rpc?.onStateOutput(output);
        holder.meshKeys?.take(output);
        if (output.type === "applied" && output.changes.some((c) => c.table === "node"))
          holder.roles?.wake();
        if (output.type !== "applied" || output.changes.some((c) => c.table === "cluster"))
          clusterChanged();
        if (output.type === "applied") {
          clusterEvents.take(output.changes);
          specVersions.take(output.changes);
          if (output.changes.some((c) => c.table === "task" || c.table === "service"))
            for (const listener of taskListeners) listener();
        } else if (output.type === "restored") {
          if (holder.manager) seedApi(holder.manager);
        }
      },
      onStatus: (status) => {
        // A follower's own configuration may be old; what it is to know the leader tells over the
        // session. To forget a newer manager would be to have no way to answer one that leads.
        if (status.isLeader) {
          keepManagers(
            status.members
              .filter((m) => !m.isLearner)
              .map(({ nodeId, addr }) => ({ nodeId, addr })),
          );
        }
        holder.roles?.wake();
        clusterEvents.takeStatus(status);
        const leader = status.members.find((m) => m.nodeId === status.leaderId);
        // Of itself a leader may speak only once it serves.
        if (leader && (leader.nodeId !== me.nodeId || status.isLeader)) {
          const addr = leader.nodeId === me.nodeId ? me.advertiseAddr : leader.addr;
          session?.leaderIs({ nodeId: leader.nodeId, addr });
        }
      },
      onRemoved: () => log.warn("This node is no raft member any more"),
      onDiskFull: (isFull) => disk.writerWaits(isFull),
      ballastPath: ballastPathOf(join(dataDir, "raft")),
      onCrash: (name, code, error) =>
        options.fatal(`The ${name} worker ended unasked`, { code, err: error?.stack }),
    }).catch((error: unknown) => {
      disk.stop();
      throw error;
    });
    holder.manager = manager;
    clusterChanged();
    seedApi(manager);
    manager.useDisk(disk.space());
    const rpc = managerRpc({
      manager,
      nodeId: me.nodeId,
      log: log.child({ component: "rpc" }),
      random,
      vault,
      sign,
      ...(options.formation ? { form: options.formation.answer } : {}),
      netDoctor: (ref) => askDoctor.examineAll({ manager, rpc }, ref),
    });
    holder.rpc = rpc;
    const logs = createLogRelay({
      sessionOf: (nodeId) => rpc.sessionOf(nodeId),
      isLeader: () => manager.status().isLeader,
      admit: (connection) => rpc.admitManager(connection),
    });
    let server: RpcServer;
    try {
      server = await startRpcServer({
        host: listen.host,
        port: listen.port,
        tls: mustHave(tls, "TLS identity"),
        clusterId: me.clusterId,
        handlers: rpc.handlers,
        notes: {
          raft: (body, connection) => rpc.onRaftNote(connection, body.data),
          "assignments-applied": (body, connection) => rpc.onAssignmentsApplied(connection, body),
        },
        onConnection: (connection) => logs.serve(connection),
        onError: (where, error) =>
          log.warn({ where, err: error instanceof Error ? error.stack : String(error) }, "RPC"),
      });
    } catch (error) {
      disk.stop();
      await manager.stop();
      throw error;
    }
    const roles = startRoleManager({
      manager,
      nodeId: me.nodeId,
      log: log.child({ component: "roles" }),
    });
    holder.roles = roles;
    const keeper = keepLock({
      lock,
      vault,
      manager,
      reseal: resealFiles,
      exclusive,
      log: log.child({ component: "lock" }),
    });
    holder.lock = keeper;
    const meshKeys = startMeshKeys({
      manager,
      vault,
      random,
      log: log.child({ component: "mesh-keys" }),
    });
    holder.meshKeys = meshKeys;
    managing = { manager, rpc, server, roles, disk, logs, lock: keeper, meshKeys };
  };

  const stopManagerParts = async () => {
    const parts = managing;
    managing = undefined;
    if (!parts) return;
    parts.roles.stop();
    parts.meshKeys.stop();
    parts.lock.stop();
    parts.disk.stop();
    clusterEvents.clear();
    specVersions.clear();
    for (const listener of taskListeners) listener();
    await parts.server.close();
    await parts.manager.stop();
  };

  const otherManagers = () =>
    (identity?.managers ?? []).filter((m) => m.nodeId !== identity?.nodeId);

  const raftMember = createRaftMember({
    me: () => mustHave(identity, "identity"),
    otherManagers: () => otherManagers(),
    pool: () => mustHave(pool, "pool"),
    ask: askManagers,
    vault,
    log,
  });
  /** Joins, and sees to it from then on that this node stays in raft for as long as it manages. */
  const joinRaftInBackground = () => {
    const parts = managing;
    if (!parts || keptInRaft === parts) return;
    keptInRaft = parts;
    raftMember
      .keep(parts, () => managing === parts && !isStopping)
      .catch((error: unknown) => options.fatal("Joining raft failed", { err: String(error) }));
  };

  /** False when the log is damaged and this manager is to be rebuilt from the others (rebuild.ts). */
  const startOrRebuild = async (start: Parameters<typeof startManagerParts>[0]) => {
    if (isRebuildPending(dataDir)) return false;
    try {
      await startManagerParts(start);
      return true;
    } catch (error) {
      if (!isLogDamaged(error) || start.forceNewCluster) throw error;
      if (otherManagers().length === 0) {
        // There is nobody to rebuild from: it goes on with what can be read, or says that nothing can.
        log.error({ err: error.message }, "This manager's log is damaged, and there is no other");
        await startManagerParts({ ...start, acceptLoss: true });
        return true;
      }
      log.error(
        { err: error.message },
        "This manager's log is damaged: it is rebuilt from the others",
      );
      putLogAside(dataDir);
      return false;
    }
  };

  const rebuildInBackground = () => {
    const again = async () => {
      const isDue = () =>
        !isStopping &&
        isRebuildPending(dataDir) &&
        tls !== undefined &&
        certifiedRole() === "manager";
      while (isDue()) {
        try {
          await askManagers("raft-leave", {}, RAFT_JOIN_TIMEOUT_MS, otherManagers());
          await exclusive(async () => {
            if (!identity || !isDue()) return;
            clearForRebuild(dataDir);
            await startManagerParts({});
            joinRaftInBackground();
            log.info("This manager's log is being rebuilt from the others");
          });
          break;
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
          log.warn({ err: error.message }, "Cannot be rebuilt yet, will try again");
          await Bun.sleep(RETRY_MS);
        }
      }
    };
    again().catch((error: unknown) => options.fatal("Rebuilding failed", { err: String(error) }));
  };

  // ---- certificates and role ------------------------------------------------------------------

  const isExpired = () =>
    tls !== undefined && readCertificate(tls.certificatePem).notAfterMs < Date.now();

  /**
   * For a manager whose certificate has expired and that finds no other one: nobody would accept its
   * connections, not even itself. It has the CA's key, and is to itself what it was last.
   */
  const certifyMyself = async (csrPem: string) => {
    const { nodeId } = mustHave(identity, "identity");
    const { cluster, node } = mustHave(managing, "manager").manager.readLocal((view) => ({
      cluster: view.cluster(),
      node: view.node(nodeId),
    }));
    if (!cluster || !node) throw new ClusterError("unavailable", IS_PREPARING);
    const { role } = node;
    const certificatePem = await sign(cluster, { csrPem, nodeId, role });
    return { role, certificatePem, caCertificatePem: trustedRoots(cluster) };
  };

  /** One round: who asks tries again by itself, and any manager signs. */
  const askForCertificate = async (params: { csrPem: string }) => {
    const failures = new Set<string>();
    for (const { nodeId, addr } of isExpired() ? otherManagers() : (identity?.managers ?? [])) {
      try {
        // Managers that are all expired wait for each other.
        const limits = { timeoutMs: managing && isExpired() ? OTHERS_ASK_MS : RENEW_TIMEOUT_MS };
        return await mustHave(pool, "pool").request(
          nodeId,
          addr,
          "renew-certificate",
          params,
          limits,
        );
      } catch (error) {
        if (!(error instanceof ClusterError) || error.code === "forbidden") throw error;
        failures.add(error.message);
      }
    }
    if (managing && isExpired()) return certifyMyself(params.csrPem);
    const why = [...failures].slice(0, REASONS_MAX).join("; ") || "No manager is known";
    throw new ClusterError("unavailable", why, { retry: "later" });
  };

  const certificates = createCertificateKeeper({
    tls: () => (isStopping ? undefined : tls),
    ask: askForCertificate,
    use: (next, role) => {
      if (role === "manager") lock.make();
      savePki(dataDir, next, lock.files);
      tls = next;
      managing?.server.setTls(next);
      managing?.manager.setTls(next);
      // Connections keep the role of the certificate they were opened with.
      pool?.reset();
    },
    onRootsChanged: () => session?.descriptionChanged(),
    exclusive,
    log,
    random,
  });

  /** What the managers said last; it may change while an earlier word is still being followed. */
  let wantedRole: NodeRole | undefined;
  const followRole = (role: NodeRole) => {
    wantedRole = role;
    if (isStopping || !tls || role === certifiedRole()) {
      const isRight = !tls || isStopping || (role === "manager") === (managing !== undefined);
      if (isRight || isPending) return;
    }
    exclusive(async () => {
      if (!identity || !tls || isStopping) return;
      if (role !== certifiedRole() && (await certificates.renew()) !== role) return;
      if (role === "manager" && !managing) {
        // It starts the manager itself, once it is out of raft.
        if (isRebuildPending(dataDir)) return;
        log.info("Promoted to manager");
        removeManagerState(dataDir);
        await startManagerParts({});
        joinRaftInBackground();
      } else if (role === "worker" && managing) {
        log.info("Demoted to worker");
        await stopManagerParts();
        removeManagerState(dataDir);
        forgetStorageKey(dataDir);
        vault.forget();
        lock.drop(resealFiles);
      }
    })
      .then(() => {
        if (wantedRole !== undefined && wantedRole !== role) followRole(wantedRole);
      })
      .catch((error: unknown) => {
        log.warn({ err: String(error) }, "Role not followed yet, will try again");
        if (!isStopping) setTimeout(() => followRole(wantedRole ?? role), RETRY_MS);
      });
  };

  // ---- start, init, join, leave ---------------------------------------------------------------

  const makePool = () =>
    createPool({
      tls: () => mustHave(tls, "TLS identity"),
      log: (message) => log.debug(message),
      onUnreachable: (nodeId) => managing?.manager.reportUnreachable(nodeId),
    });

  /** Undoes a failed init or join: no part runs, no file is left. */
  const undo = async (parts: LocalParts | undefined) => {
    session?.close();
    session = undefined;
    certificates.disarm();
    await stopManagerParts();
    pool?.close();
    pool = undefined;
    await parts
      ?.stop(true)
      .catch((error: unknown) => log.warn({ err: String(error) }, "Local parts not wiped"));
    local = undefined;
    identity = undefined;
    tls = undefined;
    removePki(dataDir);
    removeIdentity(dataDir);
    vault.forget();
    lock.forget();
  };

  const waitLeader = async (manager: Manager) => {
    const deadlineMs = Date.now() + LEADER_TIMEOUT_MS;
    while (!manager.status().isLeader) {
      if (Date.now() > deadlineMs)
        throw (
          manager.leaderLost()?.error ??
          new ClusterError("unavailable", `No leader within ${LEADER_TIMEOUT_MS} ms`)
        );
      await Bun.sleep(10);
    }
  };

  const finishInit = async () => {
    const me = mustHave(identity, "identity");
    const { manager } = mustHave(managing, "manager");
    if (!me.pendingInit) return;
    await waitLeader(manager);
    if (!manager.readLocal((view) => view.cluster())) await manager.proposeRaw(me.pendingInit);
    const { pendingInit: _, ...rest } = me;
    identity = rest;
    saveIdentity(dataDir, rest);
  };

  const loadTls = (): TlsIdentity => {
    const found = loadPki(dataDir, lock.files);
    if (found) return found;
    throw new ClusterError(
      "internal",
      `Cannot start: "${dataDir}/node.json" exists but the certificate in "${dataDir}/pki" does not; restore it, or remove node.json and join again`,
    );
  };

  /** Starts what node.json and the certificate say. */
  const goOn = async (me: Omit<NodeIdentity, "formatVersion">) => {
    pool = makePool();
    local ??= await startParts();
    if (certifiedRole() === "manager") {
      const addr = me.advertiseAddr;
      const isStarted = await startOrRebuild({
        ...(me.pendingInit ? { bootstrap: { addr } } : {}),
        ...(me.isForcePending ? { forceNewCluster: { addr } } : {}),
      });
      if (isStarted) {
        if (me.pendingInit) await finishInit();
        else if (me.isForcePending) await finishForce();
        joinRaftInBackground();
      } else {
        rebuildInBackground();
      }
    } else {
      // A demotion that was cut off.
      removeManagerState(dataDir);
      forgetStorageKey(dataDir);
      lock.drop(resealFiles);
    }
    startNodeSession();
    certificates.arm();
    log.info({ node: me.nodeId, cluster: me.clusterId }, "Node started");
  };

  const unlock = (unlockKey: Uint8Array) =>
    exclusive(async () => {
      if (!identity || !lock.isLocked()) {
        throw new ClusterError("name-conflict", "swarm is not locked");
      }
      lock.unlock(unlockKey);
      try {
        vault.load();
        tls = loadTls();
        await goOn(identity);
      } catch (error) {
        // As before: what runs on this host goes on, and the key may be given again.
        await stopManagerParts();
        pool?.close();
        pool = undefined;
        tls = undefined;
        lock.close();
        throw error;
      }
    });

  const init = (request: InitRequest) =>
    exclusive(async () => {
      if (identity) {
        if (request.ForceNewCluster && managing) return forceNewCluster(request);
        if (request.ForceNewCluster && isRebuildPending(dataDir)) return forceDamaged(request);
        if (request.ForceNewCluster && lock.isLocked())
          throw new ClusterError("unavailable", LOCKED);
        throw new ClusterError("unavailable", ALREADY_IN_SWARM);
      }
      if (request.ForceNewCluster)
        throw new ClusterError(
          "failed-precondition",
          "--force-new-cluster needs a manager's state on this node, and there is none: this node is in no swarm",
        );
      const addresses = chooseAddresses(request);
      const founded = await foundCluster({ request, addresses, nowMs: Date.now(), random });
      isPending = true;
      let parts: LocalParts | undefined;
      try {
        await options.formation?.giveWay();
        parts = await startParts();
        local = parts;
        tls = founded.tls;
        lock.make();
        savePki(dataDir, founded.tls, lock.files);
        vault.make(Date.now());
        identity = {
          nodeId: founded.nodeId,
          clusterId: founded.clusterId,
          listenAddr: formatHostPort(addresses.listen),
          advertiseAddr: formatHostPort(addresses.advertise),
          dataPathAddr: addresses.dataPath,
          managers: [{ nodeId: founded.nodeId, addr: formatHostPort(addresses.advertise) }],
          pendingInit: sealFounding(vault, founded.proposal),
        };
        saveIdentity(dataDir, identity);
        pool = makePool();
        await startManagerParts({ bootstrap: { addr: identity.advertiseAddr } });
        await finishInit();
        lockAtOnce(mustHave(managing, "manager").manager);
        joinRaftInBackground();
        startNodeSession();
        certificates.arm();
        log.info({ node: founded.nodeId, cluster: founded.clusterId }, "Cluster founded");
        return founded.nodeId;
      } catch (error) {
        await undo(parts);
        throw error;
      } finally {
        isPending = false;
      }
    });

  /**
   * Begins the cluster anew with what this manager has, as its only one. Refused while the others form
   * a quorum: they would go on, and there would be two clusters.
   */
  const forceNewCluster = async (request: InitRequest) => {
    const me = mustHave(identity, "identity");
    const { manager } = mustHave(managing, "manager");
    const { members } = manager.status();
    if (members.filter((m) => !m.isLearner).length > 1) {
      let hasLeader = true;
      await manager.read(
        () => undefined,
        () => {
          hasLeader = false;
        },
      );
      if (hasLeader) {
        throw new ClusterError(
          "failed-precondition",
          'Cannot force a new cluster: this one has a leader and a quorum, and its other managers would go on beside the new one. Remove managers that are gone by "docker node demote" and "docker node rm"; or stop the others first',
        );
      }
    }
    const former = members.map((m) => m.nodeId).filter((id) => id !== me.nodeId);
    beginForce(request, former);
    await stopManagerParts();
    await startManagerParts({
      forceNewCluster: { addr: mustHave(identity, "identity").advertiseAddr },
    });
    await finishForce();
    joinRaftInBackground();
    log.warn({ former }, "A new cluster was forced: this node is its only manager");
    return me.nodeId;
  };

  const beginForce = (request: InitRequest, former: string[]) => {
    const me = mustHave(identity, "identity");
    identity = {
      ...(request.AdvertiseAddr ? withAddress(me, request.AdvertiseAddr) : me),
      isForcePending: true,
      formerManagers: [...new Set([...(me.formerManagers ?? []), ...former])].slice(
        -FORMER_MANAGERS_MAX,
      ),
    };
    saveIdentity(dataDir, identity);
  };

  /**
   * As forceNewCluster, on a manager whose log is damaged and that waits for the others to rebuild it: it goes on
   * with what can be read of the log, else with state.db.
   */
  const forceDamaged = async (request: InitRequest) => {
    const before = mustHave(identity, "identity");
    const isAlive = await askManagers("cluster-status", {}, OTHERS_ASK_MS, otherManagers()).then(
      ({ status }) => status.leaderId !== undefined,
      () => false,
    );
    if (isAlive) {
      throw new ClusterError(
        "failed-precondition",
        "Cannot force a new cluster: the other managers have a leader and a quorum, and this one is about to be rebuilt from them; wait for it, or stop them first",
      );
    }
    takeLogBack(dataDir);
    beginForce(
      request,
      otherManagers().map(({ nodeId }) => nodeId),
    );
    const { nodeId, advertiseAddr: addr } = mustHave(identity, "identity");
    try {
      try {
        await startManagerParts({ forceNewCluster: { addr } });
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        const isUnusable =
          error.code === "failed-precondition" || error.details["isDamaged"] === true;
        if (!isUnusable) throw error;
        log.error({ err: error.message }, "Nothing of the log can be read: state.db is taken");
        const key = loadStorageKey(dataDir, lock.files);
        const index = writeLogFromState(dataDir, { nodeId, addr }, key);
        log.warn({ index }, "The log begins anew from state.db: later changes are lost");
        await startManagerParts({});
      }
      await finishForce();
    } catch (error) {
      await stopManagerParts();
      identity = before;
      saveIdentity(dataDir, before);
      putLogAside(dataDir);
      rebuildInBackground();
      throw new ClusterError(
        "failed-precondition",
        `Cannot force a new cluster here: this manager's log is damaged, and what is left does not do either (${error instanceof Error ? error.message : String(error)}). Force it on another manager, or leave by force and use shoal restore with a backup`,
        { cause: error },
      );
    }
    joinRaftInBackground();
    log.warn("A new cluster was forced with what could be read: this node is its only manager");
    return nodeId;
  };

  /** The other managers' nodes stay, as workers, to be joined again or removed. */
  const finishForce = async () => {
    const me = mustHave(identity, "identity");
    const { manager } = mustHave(managing, "manager");
    await waitLeader(manager);
    const nodes = manager.readLocal((view) => view.nodes());
    const others = nodes.filter((n) => n.id !== me.nodeId && n.role === "manager");
    await manager.propose([
      ...others.map((n) => ({
        type: "update" as const,
        table: "node" as const,
        id: n.id,
        set: { role: "worker" as const, spec: { ...n.spec, Role: "worker" as const } },
        unset: ["managerAddr"],
      })),
      {
        type: "update" as const,
        table: "node" as const,
        id: me.nodeId,
        set: { managerAddr: me.advertiseAddr, dataPathAddr: me.dataPathAddr },
      },
    ]);
    const { isForcePending: _, ...rest } = mustHave(identity, "identity");
    identity = rest;
    saveIdentity(dataDir, rest);
  };

  /** The identity with another address of this host; its port stays unless one is named. */
  const withAddress = (
    me: Omit<NodeIdentity, "formatVersion">,
    advertiseAddr: string,
  ): Omit<NodeIdentity, "formatVersion"> => {
    const was = parseHostPort(me.advertiseAddr, "AdvertiseAddr", DEFAULT_RPC_PORT);
    const listen = parseHostPort(me.listenAddr, "ListenAddr", DEFAULT_RPC_PORT);
    const { advertise } = chooseAddresses({
      ListenAddr: `0.0.0.0:${was.port}`,
      AdvertiseAddr: advertiseAddr,
    });
    const isSame = formatHostPort(advertise) === me.advertiseAddr;
    if (isSame) return me;
    return {
      ...me,
      advertiseAddr: formatHostPort(advertise),
      // A concrete address to listen on was the old one.
      listenAddr: listen.host === was.host ? formatHostPort(advertise) : me.listenAddr,
      dataPathAddr: me.dataPathAddr === was.host ? advertise.host : me.dataPathAddr,
      managers: me.managers.map((m) =>
        m.nodeId === me.nodeId ? { ...m, addr: formatHostPort(advertise) } : m,
      ),
    };
  };

  // ---- backup and restore ---------------------------------------------------------------------

  const backup = async (): Promise<Uint8Array> => {
    const manager = await mustManage();
    const me = mustHave(identity, "identity");
    const mark = currentReadMark();
    let isStale = false;
    const snapshot = await manager.snapshot((staleness) => {
      isStale = true;
      if (mark) mark.stale = staleness;
    });
    return encodeBackup({
      header: {
        createdAt: new Date().toISOString(),
        shoalVersion: options.version,
        clusterId: me.clusterId,
        nodeId: me.nodeId,
        index: snapshot.index,
        isStale,
      },
      snapshot: snapshot.data,
      dataKeys: vault.keys(),
    });
  };

  const restore = (request: RestoreRequest): Promise<RestoreResult> =>
    exclusive(async () => {
      if (identity) throw new ClusterError("unavailable", ALREADY_IN_SWARM);
      const addresses = chooseAddresses(request);
      const backup = decodeBackup(request.backup);
      const restored = await restoreCluster({
        backup,
        addresses,
        ...(request.Availability ? { availability: request.Availability } : {}),
        nowMs: Date.now(),
        random,
      });
      isPending = true;
      let parts: LocalParts | undefined;
      try {
        await options.formation?.giveWay();
        parts = await startParts();
        local = parts;
        tls = restored.tls;
        lock.make();
        savePki(dataDir, restored.tls, lock.files);
        vault.learn(backup.dataKeys);
        if (vault.keys().length === 0) vault.make(Date.now());
        const advertiseAddr = formatHostPort(addresses.advertise);
        removeManagerState(dataDir);
        const storageKey = loadStorageKey(dataDir, lock.files);
        writeRestoredLog(join(dataDir, "raft"), advertiseAddr, restored, storageKey);
        identity = {
          nodeId: restored.nodeId,
          clusterId: restored.clusterId,
          listenAddr: formatHostPort(addresses.listen),
          advertiseAddr,
          dataPathAddr: addresses.dataPath,
          managers: [{ nodeId: restored.nodeId, addr: advertiseAddr }],
        };
        saveIdentity(dataDir, identity);
        pool = makePool();
        await startManagerParts({});
        const { manager } = mustHave(managing, "manager");
        await waitLeader(manager);
        lockAtOnce(manager);
        joinRaftInBackground();
        startNodeSession();
        certificates.arm();
        log.warn(
          { node: restored.nodeId, cluster: restored.clusterId, index: restored.index },
          "Cluster restored from a backup: this node is its only manager",
        );
        return {
          nodeId: restored.nodeId,
          clusterId: restored.clusterId,
          services: manager.readLocal((view) => view.services().length),
          workers: restored.workerCount,
          formerManagers: restored.formerManagerCount,
        };
      } catch (error) {
        await undo(parts);
        throw error;
      } finally {
        isPending = false;
      }
    });

  const certify = async (request: JoinRequest, dataPathAddr: string) => {
    const { keyPem, csrPem } = await createKeyAndCsr();
    let failure: unknown;
    for (const remote of request.RemoteAddrs) {
      const addr = formatHostPort(parseHostPort(remote, "RemoteAddr", DEFAULT_RPC_PORT));
      try {
        const caCertificatePem = await fetchRootCa({
          addr,
          token: request.JoinToken,
          timeoutMs: RPC_TIMEOUT_MS,
        });
        const connection = await connectRpc({
          addr,
          caCertificatePem,
          timeoutMs: RPC_TIMEOUT_MS,
          expectRole: "manager",
        });
        try {
          const answer = await connection.request(
            "issue-certificate",
            {
              csrPem,
              token: request.JoinToken,
              availability: request.Availability ?? "active",
              hostname: hostname(),
              dataPathAddr,
            },
            { timeoutMs: JOIN_TIMEOUT_MS },
          );
          return { answer, keyPem };
        } finally {
          connection.close();
        }
      } catch (error) {
        failure = error;
        if (!(error instanceof ClusterError) || !["unavailable", "deadline"].includes(error.code))
          throw error;
      }
    }
    throw failure;
  };

  const joinCluster = (request: JoinRequest) =>
    exclusive(async () => {
      if (identity) throw new ClusterError("unavailable", ALREADY_IN_SWARM);
      if (request.RemoteAddrs.length === 0) {
        throw new ClusterError("invalid-argument", "at least 1 RemoteAddr is required to join");
      }
      const addresses = chooseAddresses(request);
      isPending = true;
      let parts: LocalParts | undefined;
      try {
        await options.formation?.giveWay();
        parts = await startParts();
        local = parts;
        const { answer, keyPem } = await certify(request, addresses.dataPath);
        tls = {
          certificatePem: answer.certificatePem,
          keyPem,
          caCertificatePem: answer.caCertificatePem,
        };
        if (answer.role === "manager") lock.make();
        savePki(dataDir, tls, lock.files);
        identity = {
          nodeId: answer.nodeId,
          clusterId: answer.clusterId,
          listenAddr: formatHostPort(addresses.listen),
          advertiseAddr: formatHostPort(addresses.advertise),
          dataPathAddr: addresses.dataPath,
          managers: answer.managers,
        };
        saveIdentity(dataDir, identity);
        pool = makePool();
        if (answer.role === "manager") await startManagerParts({});
      } catch (error) {
        await undo(parts);
        throw error;
      } finally {
        isPending = false;
      }
      startNodeSession();
      certificates.arm();
      try {
        const parts = managing;
        if (parts) {
          await raftMember.learnDataKeys(parts, () => managing === parts);
          await raftMember.join(parts.manager, JOIN_TIMEOUT_MS);
        }
        joinRaftInBackground();
        await mustHave(session, "session").waitConnected(JOIN_TIMEOUT_MS);
      } catch (error) {
        joinRaftInBackground();
        log.warn({ err: String(error) }, "The join goes on in the background");
        throw new ClusterError(
          "unavailable",
          'Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the "docker info" command to see the current swarm status of your node.',
          { cause: error },
        );
      }
      log.info({ node: identity.nodeId, cluster: identity.clusterId }, "Joined the cluster");
    });

  const refuseManagerLeave = async (manager: Manager) => {
    let text =
      "You are attempting to leave the swarm on a node that is participating as a manager. ";
    const status = await api.clusterStatus().catch(() => manager.status());
    const voters = status.members.filter((m) => !m.isLearner);
    if (voters.length <= 1) {
      text +=
        "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";
    } else {
      const reachable = voters.filter((m) => m.nodeId === identity?.nodeId || m.isReachable).length;
      if (reachable - 1 < Math.floor((voters.length - 1) / 2) + 1) {
        text += `Removing this node leaves ${reachable - 1} managers out of ${voters.length}. Without a Raft quorum your swarm will be inaccessible. `;
      }
      text +=
        "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";
    }
    throw new ClusterError("unavailable", text);
  };

  const leave = (force: boolean) =>
    exclusive(async () => {
      if (!identity) throw new ClusterError("unavailable", "This node is not part of a swarm");
      if (lock.isLocked() && !force) throw new ClusterError("unavailable", LOCKED_LEAVE);
      if (managing && !force) await refuseManagerLeave(managing.manager);
      const isLast =
        managing && managing.manager.status().members.filter((m) => !m.isLearner).length <= 1;
      // Locked, it is nobody to the managers.
      if (!isLast && tls) {
        try {
          if (managing?.manager.status().isLeader) await managing.manager.transferLeadership();
          await askManagers("node-leave", { force }, RPC_TIMEOUT_MS, otherManagers());
        } catch (error) {
          // The cluster then finds the node dead by itself; what is here goes all the same.
          log.warn({ err: String(error) }, "Could not tell the managers of leaving");
        }
      }
      // From here on a crash is finished at the next start: without node.json the rest is swept.
      rmSync(join(dataDir, "node.json"), { force: true });
      await undo(local);
      log.info("Left the cluster");
    });

  /** What is wrong with a node that is in a cluster all the same. */
  const trouble = (): string | undefined => {
    const space = managing?.disk.space();
    const isShort = space !== undefined && space.state !== "ok";
    const certificate = certificates.status();
    if (certificate?.failure !== undefined) {
      const ends = certificate.notAfterMs < Date.now() ? "ended" : "ends";
      return `This node's certificate ${ends} ${new Date(certificate.notAfterMs).toISOString()} and was not renewed yet: ${certificate.failure}`;
    }
    const lost = managing?.manager.leaderLost();
    // With a full disk it hears no leader by its own choice.
    if (lost && space?.state !== "critical") return lost.error.message;
    return isShort ? `This manager takes no changes: ${space.text}` : undefined;
  };

  const localNode = (): LocalNode => {
    const isLocked = identity !== undefined && lock.isLocked();
    const whole = isLocked ? "locked" : identity ? "active" : "inactive";
    const state = isPending ? "pending" : whole;
    const waits = whole === "inactive" ? options.formation?.waitsFor() : undefined;
    const error = lastError ?? (isLocked ? LOCKED : (waits ?? trouble()));
    const lost = managing?.manager.leaderLost();
    const space = managing?.disk.space();
    const certificate = certificates.status();
    return {
      state: lastError ? "error" : state,
      ...(error ? { error } : {}),
      ...(identity
        ? {
            nodeId: identity.nodeId,
            clusterId: identity.clusterId,
            nodeAddr: identity.advertiseAddr.replace(/:\d+$/, ""),
          }
        : {}),
      isManager: managing !== undefined,
      managers: identity?.managers ?? [],
      ...(lost ? { leaderLostMs: Math.round(lost.lostMs) } : {}),
      ...(space ? { disk: { state: space.state, freeBytes: space.freeBytes } } : {}),
      ...(certificate ? { certificate } : {}),
    };
  };

  /** An agent that has just started answers when its manager does, instead of refusing. */
  const mustManage = async (): Promise<Manager> => {
    if (identity && lock.isLocked()) throw new ClusterError("unavailable", LOCKED);
    if (!managing && identity) await Promise.race([tail, Bun.sleep(START_WAIT_MS)]);
    if (managing) return managing.manager;
    if (!identity) throw new ClusterError("unavailable", isPending ? IS_PREPARING : NOT_IN_SWARM);
    if (!tls || certifiedRole() !== "manager") throw new ClusterError("unavailable", IS_WORKER);
    throw new ClusterError(
      "unavailable",
      lastError ? `${IS_PREPARING} ${lastError}` : IS_PREPARING,
    );
  };

  const logPorts: LogPorts = {
    link: async () => {
      const manager = await mustManage();
      return openLogLink({
        relay: mustHave(managing, "manager").logs,
        leader: () => {
          const { leaderId, members } = manager.status();
          const leader = members.find((m) => m.nodeId === leaderId);
          return leader && { ...leader, isSelf: leader.nodeId === identity?.nodeId };
        },
        connect: (addr, nodeId) =>
          connectRpc({
            addr,
            tls: mustHave(tls, "TLS identity"),
            timeoutMs: SESSION_CONNECT_TIMEOUT_MS,
            expectNodeId: nodeId,
          }),
      });
    },
    readLocal: (read) => {
      if (!managing) throw new ClusterError("unavailable", IS_PREPARING);
      return managing.manager.readLocal(read);
    },
    onTasksChanged: (handler) => {
      taskListeners.add(handler);
      return () => void taskListeners.delete(handler);
    },
  };

  /** Of the kernel; none where it cannot be read in time: the other metrics are worth more. */
  const connectionCounts = async () => {
    try {
      const answer = await local?.mesh.request({ type: "connections" }, { timeoutMs: 2_000 });
      return answer?.type === "connections" ? { connections: answer.counts } : {};
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      return {};
    }
  };
  const api: ApiPorts = {
    attach: attachments.attach,
    attached: attachments.settle,
    vault,
    logs: logPorts,
    clusterEvents,
    specVersions,
    engineSocket: options.engineSocket,
    version: options.version,
    localNode,
    read: async (read) => {
      const manager = await mustManage();
      const mark = currentReadMark();
      return manager.read(
        (view) => {
          if (!view.cluster()) throw new ClusterError("unavailable", IS_PREPARING);
          return read(view);
        },
        mark &&
          ((staleness) => {
            mark.stale = staleness;
          }),
      );
    },
    propose: async (actions) => (await mustManage()).propose(actions),
    clusterStatus: async (): Promise<RaftStatus> => {
      const manager = await mustManage();
      const status = await manager.freshStatus();
      if (status.isLeader) return status;
      const leader = status.members.find((m) => m.nodeId === status.leaderId);
      // Without one: whom this manager hears itself.
      if (!leader) return manager.status();
      try {
        const answer = await mustHave(pool, "pool").request(
          leader.nodeId,
          leader.addr,
          "cluster-status",
          {},
          { timeoutMs: 2_000 },
        );
        return answer.status;
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        return status;
      }
    },
    init,
    join: joinCluster,
    leave: ({ force }) => leave(force),
    unlock,
    netDoctor: async ({ node: ref }) => {
      if (!identity) throw new ClusterError("unavailable", NOT_IN_SWARM);
      return askDoctor.examine(ref);
    },
    rotateDataKey: async () => {
      const manager = await mustManage();
      const cluster = await manager.read((view) => view.cluster());
      if (!cluster) throw new ClusterError("unavailable", IS_PREPARING);
      await manager.propose(planRotation(cluster, vault.prepare(Date.now())));
    },
    proveExternalCa: async (urls, rootPem) => {
      const me = mustHave(identity, "identity");
      const { csrPem } = await createKeyAndCsr();
      const request = {
        csrPem,
        nodeId: me.nodeId,
        role: "manager" as const,
        clusterId: me.clusterId,
      };
      const shown = mustHave(tls, "TLS identity");
      await signExternally({ urls, rootPem, tls: shown, request, nowMs: Date.now() });
    },
    backup,
    restore,
    metrics: async () => {
      const meshStatus = await local?.mesh.request({ type: "status" }, { timeoutMs: 2_000 });
      return renderMetrics({
        version: options.version,
        node: localNode(),
        isSessionOpen: session?.isConnected() ?? false,
        ...(managing ? { raft: await managing.manager.freshStatus() } : {}),
        ...(meshStatus?.type === "status" ? { meshRepairs: meshStatus.repairs } : {}),
        ...(await connectionCounts()),
        residentBytes: process.memoryUsage.rss(),
        uptimeSeconds: process.uptime(),
      });
    },
    reportBug,
    nowMs: () => Date.now(),
    random,
  };

  return {
    api,
    start: () =>
      exclusive(async () => {
        const found = loadIdentity(dataDir);
        if (!found) {
          // A join or init that did not reach its commit point, or a leave that passed it.
          removeIdentity(dataDir);
          vault.forget();
          lock.forget();
          return;
        }
        const { formatVersion: _, ...rest } = found;
        identity = options.advertiseAddr ? withAddress(rest, options.advertiseAddr) : rest;
        if (identity.advertiseAddr !== rest.advertiseAddr) {
          saveIdentity(dataDir, identity);
          log.warn({ was: rest.advertiseAddr, is: identity.advertiseAddr }, "Address changed");
        }
        if (!lock.isLocked()) tls = loadTls();
        await waitForRoom({
          dataDir,
          isStopping: () => isStopping,
          onTrouble: (text) => {
            lastError = text;
          },
          log,
        });
        if (isStopping) return;
        if (!lock.isLocked()) {
          await goOn(identity);
          return;
        }
        local = await startParts();
        log.warn({ node: rest.nodeId }, LOCKED);
      }),
    stop: async () => {
      addressWatch.stop();
      isStopping = true;
      const manager = managing?.manager;
      if (manager?.status().isLeader && manager.status().members.length > 1) {
        await Promise.race([
          manager
            .transferLeadership()
            .catch((error: unknown) =>
              log.warn({ err: String(error) }, "Leadership not handed over"),
            ),
          Bun.sleep(HANDOVER_TIMEOUT_MS),
        ]);
      }
      encryption.stop();
      certificates.disarm();
      session?.close();
      await stopManagerParts();
      pool?.close();
      await local?.stop(false);
    },
  };
}
