/**
 * One simulated host: an engine and a disk that stay, and an agent that lives, dies and begins again. The
 * agent's parts are the real ones (session, reconciler, manager, its RPC handlers, role manager, pool);
 * here is only what agent/node.ts does between them, in the same order: start, follow the role that the
 * managers tell, join raft, stop.
 */
import { pino } from "pino";
import { managerRpc } from "../../../agent/manager-handlers.ts";
import { type Manager, startManagerOver } from "../../../agent/manager.ts";
import { createDockerNetworks } from "../../../agent/reconciler/networks.ts";
import { createImages } from "../../../agent/reconciler/image.ts";
import type { Journal } from "../../../agent/reconciler/journal.ts";
import { type Reconciler, startReconciler } from "../../../agent/reconciler/reconciler.ts";
import type { TaskRecord } from "../../../agent/reconciler/task-step.ts";
import { startRoleManager } from "../../../agent/role-manager.ts";
import { type Session, startSession } from "../../../agent/session.ts";
import { workerClient } from "../../../agent/worker-client.ts";
import { assert } from "../../../core/assert.ts";
import type { AssignmentItem, AssignmentsMessage } from "../../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../../core/errors.ts";
import type { NodeRole } from "../../../core/objects/node.ts";
import type {
  ConsensusAnswer,
  ConsensusInput,
  ConsensusOutput,
  ConsensusToState,
  StateAnswer,
  StateInput,
  StateOutput,
  StateToConsensus,
} from "../../../core/protocol.ts";
import type { Host as RaftHost } from "../../../core/raft/host.ts";
import type { Random } from "../../../core/random.ts";
import type { MemoryRows } from "../../../core/store/memory-rows.ts";
import type { RpcHandlers } from "../../../net/rpc/connection.ts";
import type { ManagerAddress, RpcMethod, RpcMethods } from "../../../net/rpc/methods.ts";
import { createPool, type RpcPool } from "../../../net/rpc/pool.ts";
import { createDisk, type Disk } from "../disk.ts";
import { startConsensusThread } from "./consensus-thread.ts";
import { type CrashPoint, createCrashPoints } from "./crash-points.ts";
import type { SimEngine } from "./engine.ts";
import type { ClusterFaults } from "./faults.ts";
import type { Certificate, SimNetwork } from "./network.ts";
import { emptyStateFile, loseStateTail, startStateThread, type StateFile } from "./state-thread.ts";
import type { StateObserver } from "./state-thread.ts";
import { createLine } from "./threads.ts";
import type { Clock, Process, VirtualTime } from "./virtual-time.ts";

const RPC_TIMEOUT_MS = 5_000;
const SESSION_CONNECT_TIMEOUT_MS = 2_000;
const RAFT_JOIN_TIMEOUT_MS = 25_000;
const RETRY_MS = 500;
const RAFT_CHECK_MS = 2_000;
const HANDOVER_TIMEOUT_MS = 2_000;
const MESH_MS = 60;
const SILENT_LOG = pino({ level: "silent" });

/** What node.json and the certificate say. */
type Identity = { nodeId: string; role: NodeRole; managers: ManagerAddress[] };

type JournalFile = {
  isComplete: boolean;
  items: Map<string, AssignmentItem>;
  records: Map<string, TaskRecord>;
  /** What takes back the newest changes, oldest first: a power cut may lose them. */
  undo: (() => void)[];
};
const JOURNAL_UNDO_MAX = 30;

export type SimHost = {
  readonly name: string;
  readonly addr: string;
  readonly clock: Clock;
  readonly engine: SimEngine;
  /** Absent: it has not joined. */
  identity: Identity | undefined;
  raftDisk: Disk;
  stateFile: StateFile;
  journal: JournalFile;
  life: Life | undefined;
};

/** One life of the agent. */
export type Life = {
  process: Process;
  /** Dies when it passes there. */
  arm(point: CrashPoint): void;
  manager(): Manager | undefined;
  raft(): RaftHost | undefined;
  rows(): MemoryRows | undefined;
  session(): Session | undefined;
  /** As SIGTERM; the host is down afterwards. */
  stop(): Promise<void>;
  closeFiles(): void;
};

export type HostContext = {
  time: VirtualTime;
  random: Random;
  faults: ClusterFaults;
  network: SimNetwork;
  observer(host: SimHost): StateObserver;
  assigned(host: SimHost, message: AssignmentsMessage): void;
  trace(host: SimHost, what: string): void;
};

export function createSimHost(name: string, engine: SimEngine, clock: Clock): SimHost {
  return {
    name,
    addr: `${name}:2377`,
    clock,
    engine,
    identity: undefined,
    raftDisk: createDisk(),
    stateFile: emptyStateFile(),
    journal: { isComplete: false, items: new Map(), records: new Map(), undo: [] },
    life: undefined,
  };
}

/** The agent is gone, whatever it was doing. */
export function endLife(
  host: SimHost,
  context: HostContext,
  how: { isPowerCut: boolean; why: string },
): void {
  const { life } = host;
  if (!life) return;
  host.life = undefined;
  life.closeFiles();
  life.process.isAlive = false;
  context.network.processEnded(life.process, how.isPowerCut);
  if (how.isPowerCut && context.random.next() < context.faults.stateLossRate) {
    loseStateTail(host.stateFile, context.random);
    const { undo } = host.journal;
    for (let lost = context.random.next() * undo.length; lost >= 1; lost--) undo.pop()?.();
  }
  host.journal.undo = [];
  context.trace(host, `dies ${how.why}, state at ${host.stateFile.index}`);
}

export function startLife(host: SimHost, context: HostContext): void {
  assert(!host.life, "One life at a time");
  assert(host.identity, "A host that has not joined has nothing to start");
  const process: Process = {
    name: host.name,
    isAlive: true,
    pausedUntilMs: 0,
    clock: host.clock,
  };
  context.trace(host, `starts as ${host.identity.role}`);
  context.time.enter(process, () => {
    host.life = startAgent(host, process, context);
  });
}

type ManagerParts = {
  manager: Manager;
  handlers: RpcHandlers;
  roles: { wake(): void; stop(): void };
  raft(): RaftHost | undefined;
  rows: MemoryRows;
  unlisten(): void;
};

function startAgent(host: SimHost, process: Process, context: HostContext): Life {
  const { time, random, faults, network } = context;
  const crashes = createCrashPoints();
  let managing: ManagerParts | undefined;
  let starting: { raft(): RaftHost | undefined; rows: MemoryRows } | undefined;
  let closeStateFile: (() => void) | undefined;
  let session: Session | undefined;
  let isStopping = false;

  const crash = (error: unknown) => {
    setImmediate(() => {
      throw error;
    });
  };
  const mustHave = <T>(value: T | undefined, what: string): T => {
    assert(value !== undefined, `${what} exists in this state`);
    return value;
  };
  const me = (): Identity => mustHave(host.identity, "identity");
  const certificate = (): Certificate => ({ nodeId: me().nodeId, role: me().role });
  let tail: Promise<unknown> = Promise.resolve();
  const exclusive = <T>(run: () => Promise<T>): Promise<T> => {
    const result = tail.then(run, run);
    tail = result.catch(() => undefined);
    return result;
  };
  const keepManagers = (managers: ManagerAddress[]) => {
    if (managers.length > 0) host.identity = { ...me(), managers };
  };
  const connect = (wish: { addr: string; timeoutMs: number; expectNodeId?: string }) =>
    network.connect({ ...wish, process, certificate: certificate(), expectRole: "manager" });

  const pool: RpcPool = createPool({
    // Certificates are taken from the identity in connect().
    tls: () => ({ certificatePem: "", keyPem: "", caCertificatePem: "" }),
    onUnreachable: (nodeId) => managing?.manager.reportUnreachable(nodeId),
    connect,
    jitter: () => random.next(),
  });

  // ---- local parts ----------------------------------------------------------------------------

  const docker = host.engine.portFor(process);
  const toMain = createLine<() => void>(
    { time, process, random, delayMsMax: () => faults.threadDelayMsMax },
    (act) => act(),
  );
  const toReconciler = createLine<() => void>(
    { time, process, random, delayMsMax: () => faults.threadDelayMsMax },
    (act) => act(),
  );
  const reconciler: Reconciler = startReconciler({
    docker,
    images: createImages(docker),
    networks: createDockerNetworks(docker, 1_500),
    files: { dirOf: (taskId) => `/run/${taskId}`, write: () => {}, remove: () => {} },
    journal: openSimJournal(host.journal, crashes.pass),
    nowMs: () => Date.now(),
    output: (output) => {
      if (output.type === "statuses") toMain(() => session?.reportStatuses(output.statuses));
    },
  });

  const takeAssignments = (message: AssignmentsMessage, applied: () => void) => {
    context.assigned(host, message);
    // There is no mesh here: its word comes some time later.
    if (message.isAckWanted) setTimeout(applied, MESH_MS);
    toReconciler(() =>
      reconciler.assignments({
        isComplete: message.type === "complete",
        put: message.put,
        removed: message.removed,
      }),
    );
    for (const item of message.put) {
      if (item.kind !== "settings") continue;
      keepManagers(item.body.managers);
      followRole(item.body.role);
    }
  };

  const startNodeSession = () => {
    session = startSession({
      managers: () => {
        const known = me().managers;
        const self = managing ? [{ nodeId: me().nodeId, addr: host.addr }] : [];
        return [...known, ...self.filter((s) => !known.some((k) => k.nodeId === s.nodeId))];
      },
      connect: (addr) => connect({ addr, timeoutMs: SESSION_CONNECT_TIMEOUT_MS }),
      description: () => reconciler.describe(),
      dataPathAddr: `192.168.0.${host.name.replace(/\D/g, "")}`,
      onAssignments: takeAssignments,
      onManagers: keepManagers,
      onState: (state, reason) => {
        context.trace(host, `session ${state}${reason === undefined ? "" : `: ${reason}`}`);
        if (state === "connected") toReconciler(() => reconciler.reportAll());
      },
      random,
    });
  };

  // ---- manager parts --------------------------------------------------------------------------

  const startManagerParts = async () => {
    const holder: {
      rpc?: ReturnType<typeof managerRpc>;
      roles?: { wake(): void };
      toState?(message: ConsensusToState): void;
      toConsensus?(message: StateToConsensus): void;
    } = {};
    const lines = { time, process, random, delayMsMax: () => faults.threadDelayMsMax };
    const stateThread = startStateThread({
      time,
      process,
      random,
      faults,
      crashes,
      file: host.stateFile,
      observer: context.observer(host),
      toConsensus: createLine(lines, (message: StateToConsensus) => holder.toConsensus?.(message)),
    });
    const consensusThread = startConsensusThread({
      time,
      process,
      random,
      faults,
      crashes,
      disk: host.raftDisk,
      toState: createLine(lines, stateThread.fromConsensus),
    });
    holder.toConsensus = consensusThread.fromState;
    closeStateFile = stateThread.closeFile;
    starting = { raft: consensusThread.host, rows: stateThread.rows };
    const manager = await startManagerOver(
      {
        nodeId: me().nodeId,
        dataDir: "",
        log: SILENT_LOG,
        random,
        sendRaft: (to, addr, data) => pool.note(to, addr, "raft", { data }),
        lastKnownAddr: (nodeId) => me().managers.find((m) => m.nodeId === nodeId)?.addr,
        forwardProposal: async ({ nodeId, addr, term }, data, timeoutMs) => {
          await pool.request(nodeId, addr, "propose", { data, term }, { timeoutMs });
        },
        onStateOutput: (output) => {
          holder.rpc?.onStateOutput(output);
          if (output.type === "applied" && output.changes.some((c) => c.table === "node")) {
            holder.roles?.wake();
          }
        },
        onStatus: (status) => {
          // A follower's own configuration may be old: the leader tells it over the session.
          if (status.isLeader) {
            const voters = status.members.filter((m) => !m.isLearner);
            keepManagers(voters.map(({ nodeId, addr }) => ({ nodeId, addr })));
          }
          holder.roles?.wake();
          const leader = status.members.find((m) => m.nodeId === status.leaderId);
          if (status.isLeader) context.trace(host, `leads term ${status.term}`);
          if (leader && (leader.nodeId !== me().nodeId || status.isLeader)) {
            session?.leaderIs({ nodeId: leader.nodeId, addr: leader.addr });
          }
        },
        onRemoved: () => context.trace(host, "is no raft member any more"),
        onCrash: (name) => crash(new Error(`The ${name} thread ended unasked`)),
      },
      {
        consensus: workerClient<ConsensusInput, ConsensusAnswer, ConsensusOutput>(
          consensusThread.thread.worker,
          "consensus",
        ),
        state: workerClient<StateInput, StateAnswer, StateOutput>(
          stateThread.thread.worker,
          "state",
        ),
        // The simulated threads have their line already and look at no port.
        line: { state: {} as never, consensus: {} as never },
        raftDir: "",
        stateDir: "",
        openReader: () => ({ read: (read) => read(stateThread.fileRows), close: () => {} }),
      },
    );
    const rpc = managerRpc({ manager, nodeId: me().nodeId, log: SILENT_LOG, random });
    holder.rpc = rpc;
    const handlers: RpcHandlers = {
      ...rpc.handlers,
      // Without the cryptography, which takes real time.
      "renew-certificate": async (_params, connection) => {
        const node = await manager.read((view) => view.node(connection.peer.nodeId ?? ""));
        if (!node) throw new ClusterError("forbidden", "not part of this cluster any more");
        return { role: node.role, certificatePem: "", caCertificatePem: "" };
      },
    };
    const unlisten = network.listen(host.addr, {
      process,
      certificate,
      handlers,
      notes: {
        raft: (body, connection) => rpc.onRaftNote(connection, body.data),
        "assignments-applied": (body, connection) => rpc.onAssignmentsApplied(connection, body),
      },
    });
    const roles = startRoleManager({ manager, nodeId: me().nodeId, log: SILENT_LOG });
    holder.roles = roles;
    managing = {
      manager,
      handlers,
      roles,
      raft: consensusThread.host,
      rows: stateThread.rows,
      unlisten,
    };
  };

  const stopManagerParts = async () => {
    const parts = managing;
    managing = undefined;
    if (!parts) return;
    parts.roles.stop();
    parts.unlisten();
    await parts.manager.stop();
    starting = undefined;
    closeStateFile = undefined;
  };

  const removeManagerState = () => {
    host.raftDisk = createDisk();
    host.stateFile = emptyStateFile();
  };

  const askManagers = async <M extends RpcMethod>(
    method: M,
    params: RpcMethods[M]["params"],
    timeoutMs: number,
    targets: ManagerAddress[],
  ): Promise<RpcMethods[M]["result"]> => {
    const deadlineMs = Date.now() + timeoutMs;
    let failure: unknown = new ClusterError("unavailable", "No manager is known");
    let hint: ManagerAddress | undefined;
    while (Date.now() < deadlineMs && !isStopping) {
      const round: ManagerAddress[] = hint ? [hint] : targets;
      hint = undefined;
      for (const target of round) {
        try {
          return await pool.request(target.nodeId, target.addr, method, params, {
            timeoutMs: Math.max(1, deadlineMs - Date.now()),
          });
        } catch (error) {
          failure = error;
          if (!(error instanceof ClusterError)) throw error;
          if (error.code === "not-leader") {
            hint = error.details["leader"] as ManagerAddress | undefined; // as notLeader() made it
            if (hint) break;
          } else if (
            !["unavailable", "deadline", "busy", "proposal-dropped", "no-quorum"].includes(
              error.code,
            )
          ) {
            throw error;
          }
        }
      }
      if (!hint) await Bun.sleep(RETRY_MS);
    }
    throw failure;
  };

  /**
   * Whether the others see this node as the manager that it is. It may have been taken out and promoted
   * again while it was away, or before it noticed; and a join may have ended half way.
   */
  const isInRaft = ({ manager }: ManagerParts): boolean => {
    const { nodeId } = me();
    const { members, leaderId } = manager.status();
    const self = members.find((m) => m.nodeId === nodeId);
    if (!self || self.isLearner || self.addr !== host.addr || leaderId === undefined) return false;
    return manager.readLocal((view) => view.node(nodeId)?.managerAddr === host.addr);
  };

  const keepInRaft = () => {
    const again = async (parts: ManagerParts) => {
      while (managing === parts && !isStopping) {
        try {
          if (!isInRaft(parts) && parts.manager.status().isLeader) {
            // Nobody else can say so.
            const set = { managerAddr: host.addr };
            const { nodeId } = me();
            await parts.manager.propose([{ type: "update", table: "node", id: nodeId, set }]);
          } else if (!isInRaft(parts)) {
            const others = me().managers.filter((m) => m.nodeId !== me().nodeId);
            await askManagers("raft-join", { addr: host.addr }, RAFT_JOIN_TIMEOUT_MS, others);
          }
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
        }
        await Bun.sleep(RAFT_CHECK_MS);
      }
    };
    if (managing) again(managing).catch(crash);
  };

  // ---- role -----------------------------------------------------------------------------------

  const renewCertificate = async (): Promise<NodeRole> => {
    const answer = await askManagers(
      "renew-certificate",
      { csrPem: "" },
      RPC_TIMEOUT_MS,
      me().managers,
    );
    host.identity = { ...me(), role: answer.role };
    pool.reset();
    return answer.role;
  };

  let wantedRole: NodeRole | undefined;
  const isFollowed = (role: NodeRole) =>
    role === me().role && (role === "manager") === (managing !== undefined);
  const followRole = (role: NodeRole) => {
    wantedRole = role;
    if (isStopping || isFollowed(role)) return;
    const step = async () => {
      if (isStopping) return;
      // The role may have changed again, which the next settings tell.
      if (role !== me().role && (await renewCertificate()) !== role) return;
      if (role === "manager" && !managing) {
        context.trace(host, "is promoted");
        removeManagerState();
        await startManagerParts();
        keepInRaft();
      } else if (role === "worker" && managing) {
        context.trace(host, "is demoted");
        await stopManagerParts();
        removeManagerState();
      }
    };
    exclusive(step)
      // Told otherwise while this one was being followed, when nothing was to be done for it yet.
      .then(() => {
        if (wantedRole !== undefined && wantedRole !== role) followRole(wantedRole);
      })
      .catch((error: unknown) => {
        if (!(error instanceof ClusterError)) crash(error);
        if (!isStopping) setTimeout(() => followRole(wantedRole ?? role), RETRY_MS);
      });
  };

  // ---- life -----------------------------------------------------------------------------------

  exclusive(async () => {
    if (me().role === "manager") {
      await startManagerParts();
      keepInRaft();
    }
    startNodeSession();
  }).catch(crash);

  return {
    process,
    arm: (point) => {
      crashes.armed = point;
    },
    manager: () => managing?.manager,
    raft: () => starting?.raft(),
    rows: () => starting?.rows,
    session: () => session,
    closeFiles: () => closeStateFile?.(),
    stop: async () => {
      isStopping = true;
      const manager = managing?.manager;
      if (manager?.status().isLeader && manager.status().members.length > 1) {
        await Promise.race([
          manager.transferLeadership().catch(() => undefined),
          Bun.sleep(HANDOVER_TIMEOUT_MS),
        ]);
      }
      session?.close();
      await stopManagerParts();
      pool.close();
      await reconciler.stop();
    },
  };
}

/** node.db in memory: what is written outlives the agent. Objects are never changed, so none is copied. */
function openSimJournal(
  file: JournalFile,
  pass: (point: "before-journal" | "after-journal") => void,
): Journal {
  const remember = (undo: () => void) => {
    file.undo.push(undo);
    if (file.undo.length > JOURNAL_UNDO_MAX) file.undo.shift();
  };
  const rememberRecord = (taskId: string) => {
    const before = file.records.get(taskId);
    remember(() => {
      if (before) file.records.set(taskId, before);
      else file.records.delete(taskId);
    });
  };
  return {
    hasCompleteSet: () => file.isComplete,
    assignments: () => [...file.items.values()].sort((a, b) => (a.key < b.key ? -1 : 1)),
    putAssignments: ({ isComplete, put, removed }) => {
      pass("before-journal");
      // Synced, and with it everything before.
      file.undo = [];
      if (isComplete) {
        file.items.clear();
        file.isComplete = true;
      }
      for (const key of removed) file.items.delete(key);
      for (const item of put) file.items.set(item.key, item);
      pass("after-journal");
    },
    records: () => new Map([...file.records].sort(([a], [b]) => (a < b ? -1 : 1))),
    putRecord: (taskId, record) => {
      pass("before-journal");
      rememberRecord(taskId);
      file.records.set(taskId, record);
      pass("after-journal");
    },
    deleteRecord: (taskId) => {
      rememberRecord(taskId);
      file.records.delete(taskId);
    },
    clear: () => {
      file.isComplete = false;
      file.items.clear();
      file.records.clear();
    },
    close: () => {},
  };
}
