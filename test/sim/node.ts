/**
 * One simulated manager: the real core and the real host loop, over a fake disk, a fake network and a
 * small state machine. Dies at a chosen duty of the loop, and begins again from what its disk holds.
 */
import { createHost, type Host, hasWork, pushInput, runTurn } from "../../core/raft/host.ts";
import type { HostInput, HostPorts } from "../../core/raft/host.ts";
import { isCommitUntold, type RaftAnswer } from "../../core/raft/raft.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import { type Random, seededRandom } from "../../core/random.ts";
import type { Disk } from "./disk.ts";
import type { Faults } from "./faults.ts";
import {
  applyEntry,
  createStateMachine,
  loseTail,
  restoreSnapshot,
  type StateMachine,
  takeSnapshot,
} from "./state-machine.ts";
import type { World } from "./world.ts";

export const TICK_MS = 100;

/** Where in the loop a node dies. */
export const CRASH_POINTS = [
  "at-rest",
  "before-persist",
  "after-persist",
  "amid-sends",
  "before-apply",
  "after-apply",
] as const;
export type CrashPoint = (typeof CRASH_POINTS)[number];

/** Thrown by a port; whoever runs the turn takes the node down. */
export class SimulatedCrash extends Error {
  override name = "SimulatedCrash";
}

export type SimNode = {
  id: string;
  disk: Disk;
  state: StateMachine;
  host: Host | undefined;
  /** Counts the lives; events of an earlier one are void. */
  life: number;
  crashAt: CrashPoint | undefined;
  pausedUntilMs: number;
  wasPaused: boolean;
  isTurnScheduled: boolean;
  /** The loop stands still in an fsync until then. */
  busyUntilMs: number;
  /** How long this turn has taken so far. */
  turnMs: number;
  tickMs: number;
  /** Committed entries up to here have been checked. */
  seenCommit: number;
  toldLeader: boolean;
  /** The term of the last candidacy that was seen. */
  candidateTerm: number;
};

export type NodeEvents = {
  send(from: string, to: string, frame: Uint8Array, extraDelayMs: number): void;
  answer(node: SimNode, answer: RaftAnswer): void;
  /** After anything that may have changed the node. */
  observe(node: SimNode): void;
  applied(node: SimNode): void;
  restored(node: SimNode): void;
  removed(node: SimNode): void;
  violation(rule: string, what: string): void;
  trace(node: SimNode, what: string): void;
};

export type NodeContext = { world: World; random: Random; faults: Faults; events: NodeEvents };

export function createNode(id: string, disk: Disk, tickMs: number): SimNode {
  return {
    id,
    disk,
    state: createStateMachine(),
    host: undefined,
    life: 0,
    crashAt: undefined,
    pausedUntilMs: 0,
    wasPaused: false,
    isTurnScheduled: false,
    busyUntilMs: 0,
    turnMs: 0,
    tickMs,
    seenCommit: 0,
    toldLeader: false,
    candidateTerm: 0,
  };
}

export function startNode(node: SimNode, context: NodeContext): void {
  const { random, faults, events } = context;
  node.life++;
  node.crashAt = undefined;
  node.isTurnScheduled = false;
  node.toldLeader = false;
  node.busyUntilMs = 0;
  const stored = node.disk.read();
  node.host = createHost(
    {
      nodeId: node.id,
      electionTicks: faults.electionTicks,
      heartbeatTicks: 1,
      random: seededRandom(Math.floor(random.next() * 0x1_0000_0000)),
      appendBytesMax: faults.appendBytesMax,
      snapshotEntries: faults.snapshotEntries,
      tailEntries: faults.tailEntries,
      snapshotPieceBytes: faults.snapshotPieceBytes,
    },
    stored,
    createPorts(node, context),
    node.state.appliedIndex,
  );
  node.seenCommit = node.host.raft.log.base.index;
  events.trace(node, `starts at term ${stored.hardState.term}, applied ${node.state.appliedIndex}`);
  scheduleTick(node, context);
  scheduleTurn(node, context);
}

export function crashNode(node: SimNode, context: NodeContext, why: string): void {
  const { random, faults, events } = context;
  if (!node.host) return;
  node.host = undefined;
  node.life++;
  node.crashAt = undefined;
  if (random.next() < faults.stateLossRate) {
    loseTail(node.state, Math.floor(random.next() * 30));
  }
  events.trace(node, `dies ${why}, state at ${node.state.appliedIndex}`);
}

export function input(node: SimNode, context: NodeContext, what: HostInput): void {
  if (!node.host) return;
  pushInput(node.host, what);
  scheduleTurn(node, context);
}

export function isPaused(node: SimNode, world: World): boolean {
  return node.pausedUntilMs > world.nowMs;
}

function scheduleTick(node: SimNode, context: NodeContext): void {
  const { life } = node;
  const { world, random } = context;
  world.schedule(node.tickMs, () => {
    if (!node.host || node.life !== life) return;
    if (isPaused(node, world)) {
      node.wasPaused = true;
    } else {
      // The worker marks a late tick; a short stall it cannot tell from none.
      const isLate = node.wasPaused && random.next() < 0.7;
      node.wasPaused = false;
      input(node, context, isLate ? { type: "tick", isLate } : { type: "tick" });
    }
    scheduleTick(node, context);
  });
}

function scheduleTurn(node: SimNode, context: NodeContext): void {
  if (node.isTurnScheduled) return;
  node.isTurnScheduled = true;
  const { world, random, faults } = context;
  const { life } = node;
  const gatherMs = faults.turnDelayMsMax === 0 ? 0 : random.next() * faults.turnDelayMsMax;
  const freeMs = Math.max(node.busyUntilMs, node.pausedUntilMs) - world.nowMs;
  world.schedule(Math.max(gatherMs, freeMs, 0), () => {
    if (!node.host || node.life !== life) return;
    node.isTurnScheduled = false;
    if (isPaused(node, world)) scheduleTurn(node, context);
    else turn(node, node.host, context);
  });
}

function turn(node: SimNode, host: Host, context: NodeContext): void {
  const { events, world } = context;
  node.turnMs = 0;
  try {
    runTurn(host);
  } catch (error) {
    // What it had decided before it died may already be known to others.
    events.observe(node);
    if (error instanceof SimulatedCrash) {
      crashNode(node, context, error.message);
    } else {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      events.violation("assertion", `${node.id}: ${what}`);
      crashNode(node, context, "by an assertion");
    }
    return;
  }
  events.observe(node);
  node.busyUntilMs = world.nowMs + node.turnMs;
  // As the worker does, if nothing else brings the word of a commit along; here, half of the time.
  const { life } = node;
  if (isCommitUntold(host.raft, host.raft.log.commitIndex) && context.random.next() < 0.5) {
    world.schedule(1, () => {
      if (node.life === life) input(node, context, { type: "commit-notice" });
    });
  }
  if (hasWork(host)) scheduleTurn(node, context);
}

function crashPoint(node: SimNode, point: CrashPoint): void {
  if (node.crashAt === point) throw new SimulatedCrash(point);
}

function createPorts(node: SimNode, context: NodeContext): HostPorts {
  const { world, random, faults, events } = context;
  const { life } = node;
  let lastReportMs = 0;
  const report = (what: HostInput) => {
    // In order, as on a message port.
    lastReportMs = Math.max(lastReportMs, world.nowMs + random.next() * faults.applyDelayMsMax);
    world.schedule(lastReportMs - world.nowMs, () => {
      if (node.life === life) input(node, context, what);
    });
  };
  return {
    storage: {
      persist: (batch) => {
        crashPoint(node, "before-persist");
        node.disk.persist(batch);
        node.turnMs += random.next() * faults.fsyncMsMax;
        crashPoint(node, "after-persist");
      },
      stageSnapshotPiece: (index, piece, data) => {
        node.disk.stageSnapshotPiece(index, piece, data);
      },
      readSnapshotPiece: (index, piece) => node.disk.readSnapshotPiece(index, piece),
    },
    send: (to, frame) => {
      if (random.next() < 0.5) crashPoint(node, "amid-sends");
      events.send(node.id, to, frame, node.turnMs);
    },
    state: {
      apply: (entries) => {
        crashPoint(node, "before-apply");
        for (const entry of entries) {
          if (entry.index !== node.state.appliedIndex + 1) {
            events.violation(
              "apply-order",
              `${node.id} is given ${entry.index} after ${node.state.appliedIndex}`,
            );
          }
          applyEntry(node.state, entry);
          events.applied(node);
        }
        crashPoint(node, "after-apply");
        report({ type: "state-applied", index: node.state.appliedIndex });
      },
      restore: ({ index, data }) => {
        crashPoint(node, "before-apply");
        if (!restoreSnapshot(node.state, index, data)) {
          events.violation(
            "snapshot",
            `${node.id} is given other bytes than were taken at ${index}`,
          );
        }
        events.trace(node, `restores ${index}`);
        events.restored(node);
      },
      leadership: (told) => {
        if (told.isLeader && node.toldLeader) {
          events.violation("leadership", `${node.id} is told twice that it leads`);
        }
        const host = node.host;
        if (told.isLeader && host && node.state.appliedIndex < host.raft.noopIndex) {
          events.violation("leadership", `${node.id} is told that it leads before its first entry`);
        }
        node.toldLeader = told.isLeader;
      },
      takeSnapshot: () => {
        const { appliedIndex } = node.state;
        report({ type: "state-snapshot", index: appliedIndex, data: takeSnapshot(node.state) });
      },
    },
    answer: (answer) => events.answer(node, answer),
    statusChanged: (status: RaftStatus) => {
      const leader = status.isLeader ? "leads" : `follows ${status.leaderId ?? "nobody"}`;
      const members = status.members
        .map((m) => (m.isLearner ? `(${m.nodeId})` : m.nodeId))
        .join(" ");
      events.trace(node, `term ${status.term} ${leader}, commit ${status.commitIndex}, ${members}`);
    },
    removed: () => events.removed(node),
  };
}
