/**
 * The consensus thread (core/raft/worker.ts) in virtual time: the real host loop and core over a fake
 * disk. Time is ticks; inputs that arrive together are one turn; an fsync holds the turn up. It may die
 * between any two duties of a turn.
 */
import { assert, unreachable } from "../../../core/assert.ts";
import { type ErrorBody, fromErrorBody } from "../../../core/errors.ts";
import type { RaftIndex } from "../../../core/ids.ts";
import type {
  ConsensusAnswer,
  ConsensusInput,
  ConsensusOutput,
  ConsensusToState,
  StateToConsensus,
} from "../../../core/protocol.ts";
import { createHost, type Host, hasWork, pushInput, runTurn } from "../../../core/raft/host.ts";
import type { HostInput } from "../../../core/raft/host.ts";
import { type RaftAnswer, raftStatus } from "../../../core/raft/raft.ts";
import { type Random, seededRandom } from "../../../core/random.ts";
import type { Disk } from "../disk.ts";
import type { ClusterFaults } from "./faults.ts";
import type { CrashPoints } from "./crash-points.ts";
import { createThread, type Line, type Thread } from "./threads.ts";
import type { Process, VirtualTime } from "./virtual-time.ts";

type Waiter = { resolve(answer: ConsensusAnswer): void; reject(error: Error): void };

export type ConsensusThread = {
  thread: Thread<ConsensusOutput>;
  /** The state thread's end of the line between the two. */
  fromState(message: StateToConsensus): void;
  host(): Host | undefined;
};

export function startConsensusThread(options: {
  time: VirtualTime;
  process: Process;
  random: Random;
  faults: ClusterFaults;
  disk: Disk;
  crashes: CrashPoints;
  toState: Line<ConsensusToState>;
}): ConsensusThread {
  const { time, process, random, faults, disk, crashes, toState } = options;
  let init: Extract<ConsensusInput, { type: "init" }> | undefined;
  let host: Host | undefined;
  let appliedIndex: RaftIndex | undefined;
  let onReady: (() => void) | undefined;
  const waiters = new Map<number, Waiter>();
  let nextRequestId = 1;
  let isTurnScheduled = false;
  let busyUntilMs = 0;
  let turnMs = 0;
  let lastTickMs = 0;

  const open = () => {
    if (!init || appliedIndex === undefined || host) return;
    const stored = disk.read();
    host = createHost(
      {
        nodeId: init.nodeId,
        electionTicks: init.electionTicks,
        heartbeatTicks: 1,
        random: seededRandom(Math.floor(random.next() * 0x1_0000_0000)),
        snapshotEntries: faults.snapshotEntries,
        tailEntries: faults.tailEntries,
        snapshotPieceBytes: 4_000,
      },
      stored,
      {
        storage: {
          persist: (batch) => {
            crashes.pass("before-persist");
            disk.persist(batch);
            turnMs += random.next() * faults.fsyncMsMax;
            crashes.pass("after-persist");
          },
          stageSnapshotPiece: (index, piece, data) => disk.stageSnapshotPiece(index, piece, data),
          readSnapshotPiece: (index, piece) => disk.readSnapshotPiece(index, piece),
        },
        send: (to, data) => {
          if (random.next() < 0.5) crashes.pass("amid-sends");
          thread.notify({ type: "send", to, data });
        },
        state: {
          apply: (entries) => {
            crashes.pass("before-apply");
            toState({
              type: "apply",
              entries: entries.map(({ index, term, type, data }) => ({
                index,
                term,
                data: type === "normal" ? data : new Uint8Array(0),
              })),
            });
          },
          restore: (snapshot) => toState({ type: "restore", ...snapshot }),
          leadership: ({ isLeader, term, leaderId }) =>
            toState({
              type: "leadership",
              isLeader,
              term,
              ...(leaderId === undefined ? {} : { leaderId }),
            }),
          takeSnapshot: () => toState({ type: "take-snapshot" }),
        },
        answer: settle,
        statusChanged: (status) => thread.notify({ type: "status-changed", status }),
        removed: () => thread.notify({ type: "removed" }),
      },
      appliedIndex,
    );
    lastTickMs = time.monotonicMs(process);
    setTimeout(tick, init.tickMs);
    scheduleTurn();
    onReady?.();
  };

  const settle = (answer: RaftAnswer) => {
    const waiter = waiters.get(answer.requestId);
    assert(waiter, `Request ${answer.requestId} was answered before`);
    waiters.delete(answer.requestId);
    if (answer.type === "refused") waiter.reject(refusalOf(answer.refusal));
    else if (answer.type === "committed")
      waiter.resolve({ type: "committed", index: answer.index });
    else if (answer.type === "read-ready")
      waiter.resolve({ type: "read-ready", index: answer.index });
    else waiter.resolve({ type: "done" });
  };

  const tick = () => {
    const tickMs = init?.tickMs ?? 100;
    const nowMs = time.monotonicMs(process);
    const lateMs = ((init?.electionTicks ?? 10) * tickMs) / 2;
    const isLate = nowMs - lastTickMs - tickMs > lateMs;
    lastTickMs = nowMs;
    push(isLate ? { type: "tick", isLate } : { type: "tick" });
    setTimeout(tick, tickMs);
  };

  const push = (input: HostInput) => {
    if (!host) return;
    pushInput(host, input);
    scheduleTurn();
  };
  const scheduleTurn = () => {
    if (isTurnScheduled) return;
    isTurnScheduled = true;
    time.post(process, Math.max(0.01, busyUntilMs - time.world.nowMs), () => {
      isTurnScheduled = false;
      if (!host) return;
      turnMs = 0;
      runTurn(host);
      busyUntilMs = time.world.nowMs + turnMs;
      if (hasWork(host)) scheduleTurn();
    });
  };

  const request = (ask: (requestId: number) => void) =>
    new Promise<ConsensusAnswer>((resolve, reject) => {
      const requestId = nextRequestId++;
      waiters.set(requestId, { resolve, reject });
      ask(requestId);
    });

  const handle = (
    input: ConsensusInput,
  ): Promise<ConsensusAnswer> | ConsensusAnswer | undefined => {
    switch (input.type) {
      case "init":
        init = input;
        return new Promise((resolve) => {
          onReady = () => {
            assert(host, "Opened");
            resolve({ type: "ready", status: raftStatus(host.raft) });
          };
          open();
        });
      case "propose":
        return request((requestId) =>
          push({ type: "proposal", requestId, data: input.data, term: input.term }),
        );
      case "read-index":
        return request((requestId) => push({ type: "read-index", requestId }));
      case "change-membership":
        return request((requestId) =>
          push({ type: "conf-change", requestId, change: input.change }),
        );
      case "transfer-leadership": {
        const { to } = input;
        return request((requestId) =>
          push({ type: "transfer", requestId, ...(to === undefined ? {} : { to }) }),
        );
      }
      case "status":
        assert(host, "A manager asks after init");
        return { type: "status", status: raftStatus(host.raft) };
      case "peer-message":
        push({ type: "peer-frame", from: input.from, frame: input.data });
        return undefined;
      case "set-compaction":
        // The simulator's own small thresholds stay, so that logs are cut often.
        return undefined;
      case "lines":
        // The simulator's managers have no certificate: main brings all messages.
        return undefined;
      case "peer-unreachable":
        push({ type: "peer-unreachable", nodeId: input.nodeId });
        return undefined;
      case "stop":
        host = undefined;
        thread.exit();
        return { type: "done" };
      default:
        return unreachable(input);
    }
  };

  const thread: Thread<ConsensusOutput> = createThread<
    ConsensusInput,
    ConsensusAnswer,
    ConsensusOutput
  >({ time, process, random, delayMsMax: () => faults.threadDelayMsMax }, handle);

  return {
    thread,
    host: () => host,
    fromState: (message) => {
      switch (message.type) {
        case "opened":
          ({ appliedIndex } = message);
          open();
          break;
        case "applied":
          push({ type: "state-applied", index: message.index });
          break;
        case "propose":
          push({ type: "proposal", data: message.data });
          break;
        case "snapshot":
          push({ type: "state-snapshot", index: message.index, data: message.data });
          break;
        default:
          unreachable(message);
      }
    },
  };
}

function refusalOf(refusal: ErrorBody): Error {
  return fromErrorBody(refusal);
}
