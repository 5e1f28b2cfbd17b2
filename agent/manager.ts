/**
 * A manager's main thread: the consensus and state workers, proposals and linearizable reads over
 * them. What others may ask of a manager by RPC is in manager-handlers.ts; who becomes a manager,
 * in role-manager.ts.
 *
 * A proposal's outcome is learnt where it is applied: `propose` registers its id, brings the bytes
 * to the leader, and waits until this node's own state worker reports the id. When the way to the
 * leader breaks in between, whether it was appended is unknown; then
 *   1. a ReadIndex barrier is passed (a leader of a later term has committed an entry of its own, so
 *      whatever the old leader appended is now either committed or gone for ever);
 *   2. if the outcome has been seen by then, it is the answer; if not, the same proposal is sent
 *      again: a leader of a later term has never had it, and the same leader, which may still be
 *      about to commit it, knows it by its id and appends it once (proposeAsLeader). Each attempt is
 *      for one term, so that one that was long under way is not appended later. Only when a
 *      snapshot was installed meanwhile is the outcome unknown for good (it may lie inside), and the
 *      caller is told so.
 *
 * Without a leader (leader-watch.ts has the bounds) a read that may be stale is answered from what is
 * applied here, and a proposal that nobody can have appended is refused; both at once when it lasts.
 * Without room on disk (disk-space.ts) nothing is proposed here, and later nothing is taken from peers
 * either: to them this manager is then as one that is cut off.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import { assert } from "../core/assert.ts";
import { ClusterError } from "../core/errors.ts";
import { newId, type NodeId, type RaftIndex } from "../core/ids.ts";
import {
  type ConsensusAnswer,
  type ConsensusInput,
  type ConsensusOutput,
  decodeProposal,
  encodeProposal,
  type MembershipChange,
  type RaftStatus,
  type StateAnswer,
  type StateInput,
  type StateOutput,
} from "../core/protocol.ts";
import type { Random } from "../core/random.ts";
import type { Outcome, Proposal, StoreAction } from "../core/store/action.ts";
import { createRowSealer } from "../core/sqlite-seal.ts";
import { CLEAR_ROWS, sealedRows } from "../core/store/sqlite-row-form.ts";
import { openStateReader, type StateReader } from "../core/store/sqlite-store.ts";
import type { ClusterView } from "../core/store/view.ts";
import type { Staleness } from "./api/stale.ts";
import type { DiskSpace } from "./disk-space.ts";
import {
  createLeaderWatch,
  type LeaderWatch,
  REFUSE_AFTER_MS,
  STALE_AFTER_MS,
} from "./leader-watch.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { Logger } from "./logger.ts";
import { createRecent } from "./recent.ts";
import { spawnWorker } from "./spawn-workers.ts";
import { type WorkerClient, workerClient } from "./worker-client.ts";

/** As stock Swarm's swarmRequestTimeout. */
const PROPOSE_TIMEOUT_MS = 20_000;
/** One ReadIndex round; a new leader is normally there in less than half of it. */
const READ_TIMEOUT_MS = 10_000;
/** Wait for a leader before trying again. */
const LEADER_POLL_MS = 50;
/** A leader without room hands over; so long a proposal waits for the next one. */
const HANDOVER_WAIT_MS = 5_000;
const FORWARD_TIMEOUT_MS = 5_000;
/** Proposals that a leader knows again when they come a second time. */
const TAKEN_MIN = 20_000;

export type ManagerOptions = {
  nodeId: NodeId;
  dataDir: string;
  bootstrap?: { addr: string };
  forceNewCluster?: { addr: string };
  log: Logger;
  random: Random;
  /** Seals raft.db and state.db. */
  storageKey?: Uint8Array;
  /** What the consensus thread shows to peers; absent, all that it sends goes by sendRaft. */
  tls?: TlsIdentity;
  /** Brings consensus bytes to a peer to which that thread has no line; false when they were dropped. */
  sendRaft(to: NodeId, addr: string, data: Uint8Array): boolean;
  /**
   * Former members that consensus hears nothing of any more: they were cut off by force, do not know
   * it, and would go on as if they could outvote this node.
   */
  isOutcast?(nodeId: NodeId): boolean;
  /** Where a node was known to be, for one that is not in the own configuration (yet): a joining
   * node answers a leader of whose membership it has no entry. */
  lastKnownAddr(nodeId: NodeId): string | undefined;
  /** Brings an encoded proposal to the leader of that term; resolves when it is committed there. */
  forwardProposal(
    leader: { nodeId: NodeId; addr: string; term: number },
    data: Uint8Array,
    timeoutMs: number,
  ): Promise<void>;
  onStateOutput(output: StateOutput): void;
  onStatus(status: RaftStatus): void;
  /** This node was taken out of the membership. */
  onRemoved(): void;
  /** A thread stands still for want of room on disk, or goes on. */
  onDiskFull?(isFull: boolean): void;
  /** May be removed when a write finds the disk full. */
  ballastPath?: string;
  /** As consensus's: this node is the only manager, and takes what is left of its log. */
  acceptLoss?: boolean;
  /** A worker ended unasked. */
  onCrash(name: string, code: number, error: Error | undefined): void;
};

export type Manager = {
  /** Without a leader, `isReachable` is whether this manager hears the member itself. */
  status(): RaftStatus;
  /** From the consensus worker itself, with reachability on the leader. */
  freshStatus(): Promise<RaftStatus>;
  propose(actions: StoreAction[], mode?: Proposal["mode"]): Promise<{ index: RaftIndex }>;
  proposeRaw(proposal: Proposal): Promise<{ index: RaftIndex }>;
  /**
   * Appends encoded bytes as the leader of `term` (the one known here, when undefined); resolves when
   * committed. @throws {ClusterError} not-leader (also in another term), proposal-dropped, busy.
   */
  proposeAsLeader(data: Uint8Array, term?: number): Promise<RaftIndex>;
  /**
   * Linearizable. With `onStale` a read that finds no leader for STALE_AFTER_MS is answered all the
   * same, and `onStale` is called; without, it fails.
   * @throws {ClusterError} no-quorum, naming the managers missed; deadline.
   */
  read<T>(read: (view: ClusterView) => T, onStale?: (staleness: Staleness) => void): Promise<T>;
  /** Why there is no leader, and since when; undefined while one is known or for a short moment. */
  leaderLost(): { lostMs: number; error: ClusterError } | undefined;
  /** Everything at one applied index; linearizable unless `onStale` was called. */
  snapshot(
    onStale: (staleness: Staleness) => void,
  ): Promise<{ index: RaftIndex; data: Uint8Array }>;
  /** Called when the free space has changed its kind. */
  useDisk(space: DiskSpace): void;
  /** The node's certificate is another one now. */
  setTls(tls: TlsIdentity): void;
  /** Without a barrier: what this node has applied. For checks that may be stale. */
  readLocal<T>(read: (view: ClusterView) => T): T;
  changeMembership(change: MembershipChange): Promise<void>;
  transferLeadership(to?: NodeId): Promise<void>;
  /** `fromHost`: the address that the peer's connection came from. */
  receiveRaft(from: NodeId, data: Uint8Array, fromHost?: string): void;
  /** The transport could not reach this peer. */
  reportUnreachable(nodeId: NodeId): void;
  state: WorkerClient<StateInput, StateAnswer, StateOutput>;
  stop(): Promise<void>;
};

/** Removes what a former manager keeps of the cluster. */
export function removeManagerState(dataDir: string): void {
  for (const name of ["raft", "state"]) {
    rmSync(join(dataDir, name), { recursive: true, force: true });
  }
}

/** The two threads behind a manager, and the way to the state beside them. */
export type ManagerWorkers = {
  consensus: WorkerClient<ConsensusInput, ConsensusAnswer, ConsensusOutput>;
  state: WorkerClient<StateInput, StateAnswer, StateOutput>;
  /** The line between the two, one end for each; given to them in `init`. */
  line: { state: MessagePort; consensus: MessagePort };
  raftDir: string;
  stateDir: string;
  /** Called once both are ready. */
  openReader(): StateReader;
};

export function startManager(options: ManagerOptions): Promise<Manager> {
  const raftDir = join(options.dataDir, "raft");
  const stateDir = join(options.dataDir, "state");
  mkdirSync(raftDir, { recursive: true, mode: 0o700 });
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const { port1, port2 } = new MessageChannel();
  return startManagerOver(options, {
    consensus: workerClient(spawnWorker("consensus"), "consensus"),
    state: workerClient(spawnWorker("state"), "state"),
    line: { state: port1, consensus: port2 },
    raftDir,
    stateDir,
    openReader: () =>
      openStateReader(
        join(stateDir, "state.db"),
        (error) => options.onCrash("state", 0, error),
        options.storageKey ? sealedRows(createRowSealer(options.storageKey), true) : CLEAR_ROWS,
      ),
  });
}

/** A manager over threads that exist already; the simulator has its own. */
export async function startManagerOver(
  options: ManagerOptions,
  workers: ManagerWorkers,
): Promise<Manager> {
  const { nodeId, log } = options;
  const { consensus, state } = workers;
  for (const [name, client] of [
    ["consensus", consensus],
    ["state", state],
  ] as const) {
    client.onExit((exit) => {
      if (!exit.wasAsked) options.onCrash(name, exit.code, exit.error);
    });
  }

  let status: RaftStatus = {
    term: 0,
    isLeader: false,
    commitIndex: 0,
    appliedIndex: 0,
    members: [],
  };
  let appliedIndex = 0;
  const outcomeWaiters = new Map<string, (outcome: Outcome) => void>();
  /** Snapshots installed so far. */
  let restoreCount = 0;
  const appliedWaiters: { index: RaftIndex; resolve(): void }[] = [];
  const statusWaiters = new Set<() => void>();

  const watch = createLeaderWatch({
    nodeId,
    nameOf: (id) => reader?.read((view) => view.node(id)?.description?.Hostname),
  });
  const roaming = createRoaming();
  let space: DiskSpace | undefined;
  let reader: StateReader | undefined;
  /** Set once reads may wait for a leader. */
  let onLeaderSeen: (() => void) | undefined;
  const takesPart = (peer: NodeId) =>
    space?.state !== "critical" &&
    (status.members.some((m) => m.nodeId === peer) || options.isOutcast?.(peer) !== true);

  let { tls } = options;
  let toldLines = "";
  /** Whom the consensus thread reaches itself, and where; the rest comes here as `send`. */
  const tellLines = () => {
    if (!tls) return;
    const peers = status.members
      .filter((member) => member.nodeId !== nodeId && takesPart(member.nodeId))
      .map((member) => ({
        nodeId: member.nodeId,
        addr: roaming.addressOf(member.nodeId, member.addr),
      }));
    const text = JSON.stringify([tls.certificatePem, tls.caCertificatePem, peers]);
    if (text === toldLines) return;
    toldLines = text;
    consensus.notify({ type: "lines", settings: { tls, peers } });
  };

  let isAwaited = false;
  /** On a follower the state worker takes its time unless somebody waits for what it applies. */
  const tellAwaited = () => {
    const next = !status.isLeader && (outcomeWaiters.size > 0 || appliedWaiters.length > 0);
    if (next === isAwaited) return;
    isAwaited = next;
    state.notify({ type: "awaited", isAwaited });
  };

  const setApplied = (index: RaftIndex) => {
    appliedIndex = Math.max(appliedIndex, index);
    for (let i = appliedWaiters.length - 1; i >= 0; i--) {
      const waiter = appliedWaiters[i];
      if (waiter && waiter.index <= appliedIndex) {
        appliedWaiters.splice(i, 1);
        waiter.resolve();
      }
    }
    tellAwaited();
  };

  state.onOutput((output) => {
    if (output.type === "disk-full") {
      options.onDiskFull?.(output.isFull);
      return;
    }
    if (output.type === "applied") {
      for (const { proposalId, outcome } of output.outcomes) {
        outcomeWaiters.get(proposalId)?.(outcome);
      }
      setApplied(output.index);
    } else if (output.type === "restored") {
      restoreCount++;
      setApplied(output.index);
    }
    const isClusterChanged =
      output.type === "restored" ||
      (output.type === "applied" && output.changes.some((change) => change.table === "cluster"));
    if (isClusterChanged) setCompaction();
    options.onStateOutput(output);
  });

  /** The log follows the cluster's spec (`docker swarm update --snapshot-interval`). */
  const setCompaction = () => {
    const spec = reader?.read((view) => view.cluster())?.spec.Raft;
    if (!spec?.SnapshotInterval) return;
    consensus.notify({
      type: "set-compaction",
      snapshotEntries: spec.SnapshotInterval,
      tailEntries: spec.LogEntriesForSlowFollowers,
    });
  };

  consensus.onOutput((output) => {
    if (output.type === "send") {
      if (!takesPart(output.to)) return;
      const member = status.members.find((m) => m.nodeId === output.to);
      const known = member?.addr ?? options.lastKnownAddr(output.to);
      const addr = known === undefined ? undefined : roaming.addressOf(output.to, known);
      if (addr === undefined || !options.sendRaft(output.to, addr, output.data)) {
        consensus.notify({ type: "peer-unreachable", nodeId: output.to });
      }
    } else if (output.type === "status-changed") {
      if (output.status.leaderId !== status.leaderId || output.status.term !== status.term) {
        log.info(
          { term: output.status.term, leader: output.status.leaderId },
          "Leadership changed",
        );
      }
      status = output.status;
      tellLines();
      tellAwaited();
      watch.observe(status);
      onLeaderSeen?.();
      for (const waiter of statusWaiters) waiter();
      options.onStatus(status);
    } else if (output.type === "line-failed") {
      roaming.failed(output.nodeId);
      tellLines();
    } else if (output.type === "disk-full") {
      options.onDiskFull?.(output.isFull);
    } else {
      options.onRemoved();
    }
  });

  const { ballastPath } = options;
  const ballast = ballastPath === undefined ? {} : { ballastPath };
  const sealing = options.storageKey ? { storageKey: options.storageKey } : {};
  const [stateReady, consensusReady] = await Promise.all([
    state.request(
      { type: "init", nodeId, dir: workers.stateDir, ...ballast, ...sealing },
      { port: workers.line.state },
    ),
    consensus.request(
      {
        type: "init",
        nodeId,
        dir: workers.raftDir,
        ...ballast,
        ...sealing,
        ...(options.acceptLoss ? { acceptLoss: true } : {}),
        ...(options.bootstrap ? { bootstrap: options.bootstrap } : {}),
        ...(options.forceNewCluster ? { forceNewCluster: options.forceNewCluster } : {}),
        electionTicks: 10,
        tickMs: 100,
      },
      { port: workers.line.consensus },
    ),
  ]).catch(async (error: unknown) => {
    // Whoever starts this manager again (rebuild.ts) must find the files free.
    await Promise.all([consensus.stop({ type: "stop" }), state.stop({ type: "stop" })]);
    throw error;
  });
  assert(
    stateReady.type === "ready" && consensusReady.type === "ready",
    "workers answer init with ready",
  );
  setApplied(stateReady.appliedIndex);
  if (consensusReady.lost !== undefined) {
    log.error(
      { lost: consensusReady.lost },
      "The log had rotted: acknowledged changes may be gone",
    );
  }
  const { commitIndex } = consensusReady.status;
  if (
    stateReady.rebuiltBecause !== undefined ||
    (stateReady.appliedIndex === 0 && commitIndex > 1)
  ) {
    log.warn(
      { because: stateReady.rebuiltBecause ?? "it was empty or missing", commitIndex },
      "state.db is rebuilt from snapshot and log",
    );
  }
  // A status-changed that came before the answer is newer.
  if (status.members.length === 0) status = consensusReady.status;
  tellLines();
  const stateReader = workers.openReader();
  reader = stateReader;
  setCompaction();
  watch.observe(status);

  const waitStatus = (timeoutMs: number) =>
    new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        statusWaiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      statusWaiters.add(done);
    });

  const waitApplied = (index: RaftIndex, timeoutMs: number) =>
    new Promise<void>((resolve, reject) => {
      if (appliedIndex >= index) {
        resolve();
        return;
      }
      const waiter = {
        index,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      const timer = setTimeout(() => {
        const at = appliedWaiters.indexOf(waiter);
        if (at !== -1) appliedWaiters.splice(at, 1);
        tellAwaited();
        reject(
          new ClusterError(
            "deadline",
            `This manager has not applied entry ${index} within ${timeoutMs} ms`,
            { retry: "later" },
          ),
        );
      }, timeoutMs);
      appliedWaiters.push(waiter);
      tellAwaited();
    });

  // Reads that arrive while a barrier is under way share the next one: it begins after they came.
  let barrierRunning: Promise<void> | undefined;
  let barrierNext: Promise<void> | undefined;
  const runBarrier = async () => {
    const answer = await consensus.request({ type: "read-index" }, { timeoutMs: READ_TIMEOUT_MS });
    assert(answer.type === "read-ready", "read-index is answered by read-ready");
    await waitApplied(answer.index, READ_TIMEOUT_MS);
  };
  const barrier = (): Promise<void> => {
    if (!barrierRunning) {
      barrierRunning = runBarrier().finally(() => {
        barrierRunning = undefined;
      });
      return barrierRunning;
    }
    barrierNext ??= barrierRunning
      .catch(() => undefined)
      .then(() => {
        barrierNext = undefined;
        return barrier();
      });
    return barrierNext;
  };

  /** Reads that give up on a leader once none has been known for `afterMs`. */
  const leaderlessWaiters = new Set<{ afterMs: number; resolve(lostMs: number): void }>();
  let leaderlessTimer: Timer | undefined;
  const wakeLeaderless = () => {
    clearTimeout(leaderlessTimer);
    const lostMs = watch.lostMs();
    if (lostMs === undefined) return;
    let dueMs = Number.POSITIVE_INFINITY;
    for (const waiter of leaderlessWaiters) {
      if (lostMs >= waiter.afterMs) waiter.resolve(lostMs);
      else dueMs = Math.min(dueMs, waiter.afterMs - lostMs);
    }
    if (Number.isFinite(dueMs)) leaderlessTimer = setTimeout(wakeLeaderless, dueMs + 1);
  };
  onLeaderSeen = wakeLeaderless;

  /**
   * Passes when everything acknowledged before is applied here. Gives how long there was no leader when
   * that may not be so. @throws {ClusterError} no-quorum, unavailable.
   */
  const passBarrier = async (mayBeStale: boolean): Promise<number | undefined> => {
    if (!mayBeStale) refuseOutsideOfRaft();
    const deadlineMs = Date.now() + READ_TIMEOUT_MS;
    const leaderlessAfterMs = mayBeStale ? STALE_AFTER_MS : REFUSE_AFTER_MS;
    let isOver = false;
    const { promise: leaderless, resolve } = Promise.withResolvers<number>();
    const waiter = { afterMs: leaderlessAfterMs, resolve };
    leaderlessWaiters.add(waiter);
    wakeLeaderless();
    const attempt = async (): Promise<undefined> => {
      for (;;) {
        try {
          await barrier();
          return undefined;
        } catch (error) {
          const mayPass =
            error instanceof ClusterError &&
            ["no-quorum", "deadline", "not-leader"].includes(error.code);
          if (!mayPass) throw error;
          if (isOver || Date.now() >= deadlineMs) throw watch.error();
        }
      }
    };
    const attempted = attempt();
    // Its failure is of no interest once the other has answered.
    attempted.catch(() => undefined);
    try {
      const lostMs = await Promise.race([attempted, leaderless]);
      if (lostMs !== undefined && !mayBeStale) throw watch.error();
      return lostMs;
    } finally {
      isOver = true;
      leaderlessWaiters.delete(waiter);
    }
  };

  const refuseWithoutSpace = () => {
    if (!space || space.state === "ok") return;
    throw new ClusterError(
      "unavailable",
      `Manager ${nodeId} takes no changes: ${space.text}: free space there, or let another manager lead`,
      { details: { reason: NO_SPACE }, retry: "later" },
    );
  };

  /** With a full disk it hears no leader (takesPart): said at once, not after the wait for one. */
  const refuseOutsideOfRaft = () => {
    if (space?.state === "critical") refuseWithoutSpace();
  };

  /**
   * What was given to consensus, and for which term. A proposal whose answer was lost comes again, and must
   * not be appended beside itself: a barrier of the same term does not tell what became of it.
   */
  const taken = createRecent<{ term: number; work: Promise<RaftIndex> }>(TAKEN_MIN);
  const proposeAsLeader = (data: Uint8Array, term = status.term): Promise<RaftIndex> => {
    const id = proposalIdOf(data);
    const known = taken.get(id);
    if (known?.term === term) return known.work;
    const work = proposeOnce(data, term);
    // One that was long under way: consensus refuses it, and what is known of a later term stays.
    if (known && known.term > term) return work;
    taken.set(id, { term, work });
    work.catch((error: unknown) => {
      // It was not appended; whoever waits for it is told so.
      const isUntaken =
        error instanceof ClusterError &&
        (["not-leader", "busy"].includes(error.code) || error.details["reason"] === NO_SPACE);
      if (isUntaken && taken.get(id)?.work === work) taken.delete(id);
    });
    return work;
  };
  const proposeOnce = async (data: Uint8Array, term: number): Promise<RaftIndex> => {
    refuseWithoutSpace();
    const answer = await consensus.request(
      { type: "propose", data, term },
      { timeoutMs: PROPOSE_TIMEOUT_MS },
    );
    assert(answer.type === "committed", "propose is answered by committed");
    return answer.index;
  };

  const leaderAddress = () => {
    if (!status.leaderId) return undefined;
    const member = status.members.find((m) => m.nodeId === status.leaderId);
    return member ? { nodeId: member.nodeId, addr: member.addr, term: status.term } : undefined;
  };

  /** Rejects as soon as another leads: a leader that stands still answers nothing until it wakes. */
  const whileLeading = async (leaderId: NodeId, work: Promise<void>): Promise<void> => {
    const { promise: deposed, reject } = Promise.withResolvers<never>();
    const look = () => {
      if (status.leaderId === undefined || status.leaderId === leaderId) return;
      reject(new ClusterError("unavailable", `Manager ${leaderId} does not lead any more`));
    };
    statusWaiters.add(look);
    try {
      await Promise.race([work, deposed]);
    } finally {
      statusWaiters.delete(look);
    }
  };

  const bringToLeader = async (data: Uint8Array, deadlineMs: number): Promise<void> => {
    if (status.isLeader || status.leaderId === nodeId) {
      await proposeAsLeader(data);
      return;
    }
    const leader = leaderAddress();
    if (!leader) throw new ClusterError("not-leader", "There is no leader at the moment");
    const timeoutMs = Math.min(FORWARD_TIMEOUT_MS, Math.max(1, deadlineMs - Date.now()));
    await whileLeading(leader.nodeId, options.forwardProposal(leader, data, timeoutMs));
  };

  /**
   * True once a barrier has been passed. One that fails settles nothing: to send a proposal again then
   * could have it applied twice.
   */
  const settleBy = async (deadlineMs: number): Promise<boolean> => {
    while (Date.now() < deadlineMs) {
      try {
        await barrier();
        return true;
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        await waitStatus(LEADER_POLL_MS);
      }
    }
    return false;
  };

  const proposeRaw = async (proposal: Proposal): Promise<{ index: RaftIndex }> => {
    const data = encodeProposal(proposal);
    const deadlineMs = Date.now() + PROPOSE_TIMEOUT_MS;
    const restoredBefore = restoreCount;
    /** Somebody may have appended it. */
    let isUncertain = false;
    const refusedUntilMs = Date.now() + HANDOVER_WAIT_MS;
    let outcome: Outcome | undefined;
    const seen = new Promise<void>((resolve) => {
      outcomeWaiters.set(proposal.id, (found) => {
        // The first time that it was applied counts.
        outcome ??= found;
        resolve();
      });
    });
    tellAwaited();
    try {
      while (!outcome) {
        const isHopeless = !isUncertain && (watch.lostMs() ?? 0) >= REFUSE_AFTER_MS;
        if (Date.now() >= deadlineMs || isHopeless) throw giveUp(watch, isUncertain);
        if (!isUncertain) refuseOutsideOfRaft();
        try {
          await bringToLeader(data, deadlineMs);
          await within(seen, deadlineMs - Date.now());
        } catch (error) {
          if (!(error instanceof ClusterError)) throw error;
          if (error.code === "not-leader" || error.code === "busy") {
            await waitStatus(LEADER_POLL_MS);
            continue;
          }
          if (error.details["reason"] === NO_SPACE) {
            // Refused before it was appended. The leader hands over if it can.
            if (Date.now() >= refusedUntilMs) throw error;
            await waitStatus(LEADER_POLL_MS);
            continue;
          }
          if (!["proposal-dropped", "unavailable", "deadline"].includes(error.code)) {
            // A refusal of this attempt says nothing of an earlier one (demoted in between, say).
            throw isUncertain ? giveUp(watch, isUncertain) : error;
          }
          // Unknown whether it was appended: see the head of this file.
          isUncertain = true;
          const settled = settleBy(deadlineMs).then((isSettled) => {
            isUncertain = !isSettled;
          });
          await Promise.race([seen, settled]);
          if (!outcome && restoreCount !== restoredBefore) {
            throw new ClusterError(
              "deadline",
              "It is unknown whether the change was made: this manager caught up by a snapshot meanwhile; look, and repeat it if it was not",
              { retry: "later" },
            );
          }
        }
      }
    } finally {
      outcomeWaiters.delete(proposal.id);
      tellAwaited();
    }
    if (outcome.type === "refused") {
      throw new ClusterError(
        outcome.code,
        outcome.message,
        outcome.details ? { details: outcome.details } : {},
      );
    }
    await waitApplied(outcome.index, PROPOSE_TIMEOUT_MS);
    return { index: outcome.index };
  };

  return {
    status: () => {
      // Until then the others may just not have spoken yet.
      if ((watch.lostMs() ?? 0) < STALE_AFTER_MS) return status;
      const members = status.members.map((m) => ({ ...m, isReachable: watch.isHeard(m.nodeId) }));
      return { ...status, members };
    },
    freshStatus: async () => {
      const answer = await consensus.request({ type: "status" }, { timeoutMs: 2_000 });
      assert(answer.type === "status", "status is answered by status");
      return answer.status;
    },
    propose: (actions, mode = "all") =>
      proposeRaw({ id: newId(options.random), atMs: Date.now(), mode, actions }),
    proposeRaw,
    proposeAsLeader,
    read: async (read, onStale) => {
      const leaderLostMs = await passBarrier(onStale !== undefined);
      return stateReader.read((view) => {
        if (leaderLostMs !== undefined) onStale?.({ index: view.index, leaderLostMs });
        return read(view);
      });
    },
    readLocal: (read) => stateReader.read(read),
    leaderLost: () => {
      const lostMs = watch.lostMs();
      if (lostMs === undefined || lostMs < STALE_AFTER_MS) return undefined;
      return { lostMs, error: watch.error() };
    },
    snapshot: async (onStale) => {
      const leaderLostMs = await passBarrier(true);
      const answer = await state.request({ type: "snapshot" }, { timeoutMs: SNAPSHOT_TIMEOUT_MS });
      assert(answer.type === "snapshot", "snapshot is answered by snapshot");
      const { index, data } = answer;
      if (leaderLostMs !== undefined) onStale({ index, leaderLostMs });
      return { index, data };
    },
    setTls: (next) => {
      tls = next;
      tellLines();
    },
    useDisk: (next) => {
      space = next;
      tellLines();
      state.notify({ type: "hold", isHeld: next.state !== "ok" });
    },
    changeMembership: async (change) => {
      await consensus.request(
        { type: "change-membership", change },
        { timeoutMs: PROPOSE_TIMEOUT_MS },
      );
    },
    transferLeadership: async (to) => {
      await consensus.request(
        to === undefined ? { type: "transfer-leadership" } : { type: "transfer-leadership", to },
        { timeoutMs: 5_000 },
      );
    },
    reportUnreachable: (nodeId) => {
      roaming.failed(nodeId);
      tellLines();
      consensus.notify({ type: "peer-unreachable", nodeId });
    },
    receiveRaft: (from, data, fromHost) => {
      if (!takesPart(from)) return;
      watch.hear(from);
      if (fromHost !== undefined) roaming.seen(from, fromHost);
      consensus.notify({ type: "peer-message", from, data });
    },
    state,
    stop: async () => {
      await consensus.stop({ type: "stop" });
      await state.stop({ type: "stop" });
      clearTimeout(leaderlessTimer);
      stateReader.close();
    },
  };
}

/** The id in an encoded proposal, which JSON.stringify wrote first. */
function proposalIdOf(data: Uint8Array): string {
  const start = new TextDecoder().decode(data.subarray(0, PROPOSAL_ID_BYTES));
  return /^\{"id":"([^"\\]+)"/.exec(start)?.[1] ?? decodeProposal(data).id;
}
const PROPOSAL_ID_BYTES = 64;

/** Resolves as `promise`, or rejects with deadline. */
async function within(promise: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new ClusterError("deadline", "The proposal was not applied in time")),
      Math.max(1, timeoutMs),
    );
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** `details.reason` of a refusal for want of space on the manager's disk. */
const NO_SPACE = "no-space";
/** A backup of a big cluster on a slow disk. */
const SNAPSHOT_TIMEOUT_MS = 60_000;

function giveUp(watch: LeaderWatch, isUncertain: boolean): ClusterError {
  const error = watch.error();
  if (!isUncertain) return error;
  const text = `${error.message}. It is unknown whether the change was made: look, and repeat it if it was not`;
  return new ClusterError("no-quorum", text, { retry: "later" });
}

/**
 * Finds peers by who they are when their address has changed: each is certified, so where its
 * connection comes from is where it is. That address is used in turn with the known one while the
 * known one fails; the peer itself then makes the new one known (raft-join).
 */
function createRoaming() {
  /** As many as there are managers that have spoken to this one. */
  const peers = new Map<NodeId, { host: string; isTried: boolean }>();
  return {
    seen: (nodeId: NodeId, host: string) => {
      const peer = peers.get(nodeId);
      if (peer) peer.host = host;
      else peers.set(nodeId, { host, isTried: false });
    },
    failed: (nodeId: NodeId) => {
      const peer = peers.get(nodeId);
      if (peer) peer.isTried = !peer.isTried;
    },
    addressOf: (nodeId: NodeId, known: string): string => {
      const peer = peers.get(nodeId);
      if (!peer?.isTried || known.startsWith(`${peer.host}:`)) return known;
      return `${peer.host}:${known.slice(known.lastIndexOf(":") + 1)}`;
    },
  };
}
