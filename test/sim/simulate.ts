/**
 * One simulated life of a cluster, decided by a seed: first faults and load (safety: nothing wrong may
 * ever be seen), then the faults end and it must converge within a bound (liveness).
 */
import { configurationOf, decodeConfiguration, findMember } from "../../core/raft/configuration.ts";
import { encodeConfiguration } from "../../core/raft/configuration.ts";
import type { Configuration } from "../../core/raft/messages.ts";
import type { Raft, RaftAnswer } from "../../core/raft/raft.ts";
import type { MembershipChange } from "../../core/protocol.ts";
import { type Random, seededRandom } from "../../core/random.ts";
import { acknowledgedProposals, proposalBytes } from "./checkers/acknowledged.ts";
import { committedLog } from "./checkers/committed-log.ts";
import { electionSafety } from "./checkers/election-safety.ts";
import { linearizableReads } from "./checkers/linearizable-reads.ts";
import { checkLogMatching } from "./checkers/log-matching.ts";
import { memberships } from "./checkers/memberships.ts";
import { stateEquality } from "./checkers/state-equality.ts";
import { createDisk } from "./disk.ts";
import { drawFaults, type Faults } from "./faults.ts";
import { createNetwork, type Network } from "./network.ts";
import {
  CRASH_POINTS,
  crashNode,
  createNode,
  input,
  type NodeContext,
  type SimNode,
  startNode,
  TICK_MS,
} from "./node.ts";
import { createWorld, type World } from "./world.ts";

export type SimulationOptions = {
  seed: number;
  /** Voters at the beginning. */
  nodeCount: number;
  /** One line per transition. */
  trace?: (line: string) => void;
};

/** What happened, to see that the faults and features were really exercised. */
export type SimulationStats = {
  events: number;
  terms: number;
  commits: number;
  acknowledged: number;
  reads: number;
  crashes: number;
  restores: number;
  memberships: number;
  removals: number;
  wipes: number;
  transfers: number;
  /** Virtual time from the end of the faults to convergence. */
  convergedMs: number;
};

export type SimulationResult = { seed: number; violations: string[]; stats: SimulationStats };

/** Virtual time in which a healed cluster must elect, commit and bring everybody up to date. */
const LIVENESS_MS_MAX = 30_000;
const LOG_CHECK_MS = 500;
/** Nodes beside the voters of the beginning, to be added. */
const SPARE_COUNT = 2;
const VIOLATIONS_MAX = 5;

type Request =
  | { type: "proposal"; proposal: number }
  | { type: "read"; atLeast: number; isLast: boolean }
  | { type: "membership" }
  | { type: "transfer" };

type Simulation = {
  world: World;
  random: Random;
  faults: Faults;
  network: Network;
  context: NodeContext;
  nodes: SimNode[];
  requests: Map<number, Request>;
  nextRequestId: number;
  nextProposal: number;
  isCalm: boolean;
  marker: { proposal: number; index: number | undefined } | undefined;
  /** Members whose last read was answered. */
  lastReaders: Set<string>;
  violations: string[];
  stats: SimulationStats;
  check: {
    elections: ReturnType<typeof electionSafety>;
    committed: ReturnType<typeof committedLog>;
    memberships: ReturnType<typeof memberships>;
    states: ReturnType<typeof stateEquality>;
    acknowledged: ReturnType<typeof acknowledgedProposals>;
    reads: ReturnType<typeof linearizableReads>;
  };
};

export function simulate(options: SimulationOptions): SimulationResult {
  const sim = build(options);
  const { world, faults, stats } = sim;
  for (const node of sim.nodes.slice(0, options.nodeCount)) startNode(node, sim.context);
  startWorkload(sim);
  startFaults(sim);
  startLogChecks(sim);
  world.schedule(faults.safetyMs, () => calm(sim));
  const end: { convergedMs?: number } = {};
  const poll = () => {
    if (hasConverged(sim)) end.convergedMs = world.nowMs - faults.safetyMs;
    else world.schedule(100, poll);
  };
  world.schedule(faults.safetyMs + 100, poll);
  const endMs = faults.safetyMs + LIVENESS_MS_MAX;
  while (end.convergedMs === undefined && world.nowMs < endMs && sim.violations.length === 0) {
    if (!world.runNext()) break;
  }
  if (end.convergedMs === undefined && sim.violations.length === 0) {
    violate(sim, "liveness", `no convergence in ${LIVENESS_MS_MAX} ms: ${describe(sim)}`);
  }
  checkLogMatching(liveRafts(sim), (rule, what) => violate(sim, rule, what));
  sim.check.acknowledged.check(sim.check.committed);
  stats.events = world.eventCount;
  stats.terms = sim.check.elections.termCount();
  stats.commits = sim.check.committed.lastIndex();
  stats.acknowledged = sim.check.acknowledged.count();
  stats.reads = sim.check.reads.count();
  stats.convergedMs = end.convergedMs ?? LIVENESS_MS_MAX;
  return { seed: options.seed, violations: sim.violations, stats };
}

function build(options: SimulationOptions): Simulation {
  const { seed, nodeCount } = options;
  const random = seededRandom(seed);
  const faults = drawFaults(random);
  const world = createWorld();
  const violations: string[] = [];
  const report = (rule: string, what: string) => violate(sim, rule, what);
  const trace = (who: string, what: string) => {
    options.trace?.(`${world.nowMs.toFixed(0).padStart(7)}  ${who.padEnd(4)}  ${what}`);
  };
  // Advisory, and in truth not always told.
  const tellUnreachable = ({ from, to }: { from: string; to: string }) => {
    const sender = sim.nodes.find((candidate) => candidate.id === from);
    if (!sender || random.next() < 0.7) return;
    world.schedule(random.next() * 20, () => {
      input(sender, sim.context, { type: "peer-unreachable", nodeId: to });
    });
  };
  const network = createNetwork({
    world,
    random,
    faults,
    deliver: ({ from, to }, frame) => {
      const node = sim.nodes.find((candidate) => candidate.id === to);
      if (node) input(node, sim.context, { type: "peer-frame", from, frame });
      if (!node?.host) tellUnreachable({ from, to });
    },
    lost: (link) => tellUnreachable(link),
  });
  const context: NodeContext = {
    world,
    random,
    faults,
    events: {
      send: (from, to, frame, extraMs) => network.send({ from, to }, frame, extraMs),
      answer: (node, answer) => onAnswer(sim, node, answer),
      observe: (node) => observe(sim, node),
      applied: (node) => {
        const { appliedIndex, hash } = node.state;
        sim.check.states.observe(node.id, appliedIndex, hash);
      },
      restored: (node) => {
        const { appliedIndex, hash } = node.state;
        sim.check.states.observe(node.id, appliedIndex, hash);
        sim.stats.restores++;
      },
      removed: (node) => onRemoved(sim, node),
      violation: report,
      trace: (node, what) => trace(node.id, what),
    },
  };
  const ids = Array.from({ length: nodeCount + SPARE_COUNT }, (_, i) => `n${i + 1}`);
  const nodes = ids.map((id) =>
    createNode(id, createDisk(), TICK_MS * (1 + (random.next() - 0.5) * faults.tickSkew)),
  );
  foundCluster(nodes.slice(0, nodeCount));
  const committed = committedLog(report);
  const sim: Simulation = {
    world,
    random,
    faults,
    network,
    context,
    nodes,
    requests: new Map(),
    nextRequestId: 1,
    nextProposal: 1,
    isCalm: false,
    marker: undefined,
    lastReaders: new Set(),
    violations,
    stats: {
      events: 0,
      terms: 0,
      commits: 0,
      acknowledged: 0,
      reads: 0,
      crashes: 0,
      restores: 0,
      memberships: 0,
      removals: 0,
      wipes: 0,
      transfers: 0,
      convergedMs: 0,
    },
    check: {
      elections: electionSafety(report),
      committed,
      memberships: memberships(report, committed),
      states: stateEquality(report),
      acknowledged: acknowledgedProposals(report),
      reads: linearizableReads(report),
    },
  };
  if (options.trace) trace("-", JSON.stringify(faults));
  return sim;
}

/** All begin with the same first entry, as if it had been committed long ago. */
function foundCluster(nodes: readonly SimNode[]): void {
  const configuration = configurationOf(
    nodes.map(({ id }) => ({ nodeId: id, addr: `${id}:1`, isLearner: false, addedAtIndex: 1 })),
  );
  const data = encodeConfiguration(configuration);
  for (const node of nodes) {
    node.disk.persist({
      hardState: { term: 1, votedFor: undefined, commitIndex: 1, joinedIndex: 1 },
      isLogCleared: false,
      entries: [{ index: 1, term: 1, type: "configuration", data }],
    });
  }
}

function violate(sim: Simulation, rule: string, what: string): void {
  if (sim.violations.length < VIOLATIONS_MAX) {
    sim.violations.push(`${rule} at ${sim.world.nowMs.toFixed(0)} ms: ${what}`);
  }
}

function liveRafts(sim: Simulation): Raft[] {
  return sim.nodes.flatMap((node) => (node.host ? [node.host.raft] : []));
}

function observe(sim: Simulation, node: SimNode): void {
  const raft = node.host?.raft;
  if (!raft) return;
  if (sim.check.elections.observe(raft)) {
    sim.check.committed.observeLeader(raft);
    sim.context.events.trace(node, `is elected in term ${raft.term}`);
    attackLeader(sim, node);
  } else if (raft.role === "candidate" && node.candidateTerm < raft.term) {
    node.candidateTerm = raft.term;
    attackElection(sim, node);
  }
  node.seenCommit = sim.check.committed.observe(raft, node.seenCommit);
  sim.check.memberships.observe(raft);
}

function startLogChecks(sim: Simulation): void {
  const check = () => {
    checkLogMatching(liveRafts(sim), (rule, what) => violate(sim, rule, what));
    if (!sim.isCalm) sim.world.schedule(LOG_CHECK_MS, check);
  };
  sim.world.schedule(LOG_CHECK_MS, check);
}

// ---- load ---------------------------------------------------------------------------------------

/** Runs `act` at random moments, `perSecond` on average, until the faults end. */
function repeat(sim: Simulation, perSecond: number, act: () => void): void {
  if (perSecond <= 0) return;
  const next = () => {
    const delayMs = (-Math.log(1 - sim.random.next()) / perSecond) * 1_000;
    sim.world.schedule(delayMs, () => {
      if (sim.isCalm) return;
      act();
      next();
    });
  };
  next();
}

function startWorkload(sim: Simulation): void {
  const { faults, random } = sim;
  repeat(sim, faults.proposalsPerSecond, () => {
    const node = random.next() < 0.85 ? pickLeader(sim) : pickNode(sim);
    if (node) propose(sim, node);
  });
  repeat(sim, faults.readsPerSecond, () => {
    const node = pickNode(sim);
    if (node) read(sim, node);
  });
  repeat(sim, faults.transfersPerSecond, () => {
    const leader = pickLeader(sim);
    if (!leader) return;
    const requestId = newRequest(sim, { type: "transfer" });
    const to = random.next() < 0.5 ? pickNode(sim)?.id : undefined;
    input(leader, sim.context, { type: "transfer", requestId, ...(to ? { to } : {}) });
  });
  repeat(sim, faults.membershipsPerSecond, () => changeMembership(sim));
}

function newRequest(sim: Simulation, request: Request): number {
  const requestId = sim.nextRequestId++;
  sim.requests.set(requestId, request);
  return requestId;
}

function propose(sim: Simulation, node: SimNode): number {
  const proposal = sim.nextProposal++;
  const requestId = newRequest(sim, { type: "proposal", proposal });
  const data = proposalBytes(proposal, Math.floor(sim.random.next() * 120));
  input(node, sim.context, { type: "proposal", requestId, data });
  return proposal;
}

function read(sim: Simulation, node: SimNode, isLast = false): void {
  const atLeast = sim.check.reads.begin(sim.check.acknowledged.highest());
  const requestId = newRequest(sim, { type: "read", atLeast, isLast });
  input(node, sim.context, { type: "read-index", requestId });
}

function onAnswer(sim: Simulation, node: SimNode, answer: RaftAnswer): void {
  const request = sim.requests.get(answer.requestId);
  if (!request) {
    violate(sim, "answers", `${node.id} answers request ${answer.requestId} twice`);
    return;
  }
  sim.requests.delete(answer.requestId);
  if (answer.type === "refused") return;
  if (answer.type === "read-ready" && request.type === "read") {
    sim.check.reads.end(node.id, answer.index, request.atLeast);
    if (request.isLast) sim.lastReaders.add(node.id);
  } else if (answer.type === "committed" && request.type === "proposal") {
    sim.check.acknowledged.acknowledge(answer.index, request.proposal);
    if (sim.marker?.proposal === request.proposal) sim.marker.index = answer.index;
  } else if (answer.type === "committed" && request.type === "membership") {
    sim.check.acknowledged.note(answer.index);
    sim.stats.memberships++;
  } else if (answer.type === "done" && request.type === "transfer") {
    sim.stats.transfers++;
  } else {
    violate(sim, "answers", `${node.id} answers a ${request.type} with ${answer.type}`);
  }
}

function pick<T>(random: Random, items: readonly T[]): T | undefined {
  return items[Math.floor(random.next() * items.length)];
}

function pickNode(sim: Simulation): SimNode | undefined {
  const up = sim.nodes.filter((node) => node.host);
  return pick(sim.random, up);
}

/** A node that believes that it leads; several may. */
function pickLeader(sim: Simulation): SimNode | undefined {
  const leaders = sim.nodes.filter((node) => node.host?.raft.role === "leader");
  return pick(sim.random, leaders);
}

// ---- membership ---------------------------------------------------------------------------------

function changeMembership(sim: Simulation): void {
  const { random } = sim;
  const leader = pickLeader(sim);
  const raft = leader?.host?.raft;
  if (!leader || !raft) return;
  // Often one that was there before: coming back is where old promises matter.
  const isReturn = random.next() < 0.3;
  const node = pick(
    random,
    sim.nodes.filter(({ id, life }) => {
      return !isReturn || (life > 0 && !findMember(raft.configuration, id));
    }),
  );
  if (!node) return;
  const member = findMember(raft.configuration, node.id);
  let change: MembershipChange;
  if (!member) {
    if (random.next() < 0.7) wipeRemoved(sim, node);
    if (!node.host) startNode(node, sim.context);
    change = { type: "add-learner", nodeId: node.id, addr: `${node.id}:1` };
  } else if (random.next() < 0.15) {
    change = { type: "set-addr", nodeId: node.id, addr: `${node.id}:${sim.nextRequestId}` };
  } else if (member.isLearner && random.next() < 0.8) {
    change = { type: "promote", nodeId: node.id };
  } else {
    change = { type: "remove", nodeId: node.id };
  }
  const requestId = newRequest(sim, { type: "membership" });
  input(leader, sim.context, { type: "conf-change", requestId, change });
}

/**
 * A manager that is demoted deletes its log; promoted again it begins anew under the same id. That is
 * safe once its removal is committed and nobody's log brings it back.
 */
function wipeRemoved(sim: Simulation, node: SimNode): void {
  const { committed } = sim.check;
  let newest: { index: number; configuration: Configuration } | undefined;
  for (let index = committed.lastIndex(); index > 0 && !newest; index--) {
    const entry = committed.at(index);
    if (entry?.type === "configuration") {
      newest = { index, configuration: decodeConfiguration(entry.data) };
    }
  }
  if (!newest || findMember(newest.configuration, node.id)) return;
  for (const other of sim.nodes) {
    for (const entry of other.disk.read().entries) {
      if (entry.type !== "configuration" || entry.index <= newest.index) continue;
      if (findMember(decodeConfiguration(entry.data), node.id)) return;
    }
    const raft = other.host?.raft;
    if (raft && raft.configurationIndex > newest.index && findMember(raft.configuration, node.id)) {
      return;
    }
  }
  crashNode(node, sim.context, "to begin anew");
  node.disk.wipe();
  Object.assign(node.state, { appliedIndex: 0, hash: 0, checkpoints: [{ index: 0, hash: 0 }] });
  sim.stats.wipes++;
}

function onRemoved(sim: Simulation, node: SimNode): void {
  sim.stats.removals++;
  sim.context.events.trace(node, "is removed");
  const index = node.host?.raft.removedAtIndex ?? 0;
  // What this turn commits is looked at when it ends.
  sim.world.schedule(0, () => {
    const entry = sim.check.committed.at(index);
    const isRemoval =
      entry?.type === "configuration" && !findMember(decodeConfiguration(entry.data), node.id);
    // A snapshot may have carried this node over that entry, before anybody was looked at there.
    if (entry && !isRemoval) {
      violate(sim, "membership", `${node.id} is told of a removal at ${index} that never was`);
    }
  });
}

// ---- faults -------------------------------------------------------------------------------------

function startFaults(sim: Simulation): void {
  const { faults, random, nodes, network, world, context } = sim;
  const durationMs = () => random.next() * faults.partitionMsMax;
  repeat(sim, faults.partitionsPerSecond, () => {
    const left = new Set(nodes.filter(() => random.next() < 0.5));
    const lastsMs = durationMs();
    context.events.trace(nodes[0] as SimNode, `partition of ${lastsMs.toFixed(0)} ms`); // never empty
    for (const a of nodes) {
      for (const b of nodes) {
        if (left.has(a) !== left.has(b)) network.cut({ from: a.id, to: b.id }, lastsMs);
      }
    }
  });
  repeat(sim, faults.oneWaysPerSecond, () => {
    const [from, to] = [pick(random, nodes), pick(random, nodes)];
    if (from && to) network.cut({ from: from.id, to: to.id }, durationMs());
  });
  repeat(sim, faults.pausesPerSecond, () => {
    const node = random.next() < 0.5 ? pickLeader(sim) : pickNode(sim);
    if (node) node.pausedUntilMs = world.nowMs + random.next() * faults.pauseMsMax;
  });
  repeat(sim, faults.crashesPerSecond, () => {
    const node = random.next() < 0.4 ? pickLeader(sim) : pickNode(sim);
    if (node) crashSoon(sim, node, faults.downMsMax);
  });
  repeat(sim, faults.blackoutsPerSecond, () => {
    context.events.trace(nodes[0] as SimNode, "blackout"); // never empty
    for (const node of nodes) if (node.host) crashSoon(sim, node, faults.downMsMax);
  });
}

function crashSoon(sim: Simulation, node: SimNode, downMsMax: number): void {
  const { random, world, context } = sim;
  sim.stats.crashes++;
  const { life } = node;
  node.crashAt = pick(random, CRASH_POINTS);
  // Some points are not passed soon by every node: then it dies wherever it is.
  const patienceMs = node.crashAt === "at-rest" ? 0 : Math.min(300, downMsMax);
  world.schedule(patienceMs, () => {
    if (node.life === life && !sim.isCalm) crashNode(node, context, "at rest");
  });
  world.schedule(patienceMs + random.next() * downMsMax, () => {
    if (!node.host) startNode(node, context);
  });
}

/** The windows in which raft is most delicate are short: strike in them, and again while it leads. */
function attackLeader(sim: Simulation, leader: SimNode): void {
  const { faults, random, world, network, nodes } = sim;
  if (sim.isCalm || random.next() >= faults.leaderAttackRate) return;
  const term = leader.host?.raft.term;
  const isCrash = random.next() < faults.leaderCrashShare;
  const isAtOnce = random.next() < faults.attackAtOnceShare;
  world.schedule(isAtOnce ? 0 : random.next() * faults.attackMsMax, () => {
    const raft = leader.host?.raft;
    if (sim.isCalm || raft?.role !== "leader" || raft.term !== term) return;
    if (isCrash) {
      crashSoon(sim, leader, faults.downMsMax);
      return;
    }
    // Cut off, but for one node perhaps.
    const friend = random.next() < faults.friendShare ? pick(random, nodes) : undefined;
    const lastsMs = random.next() * faults.partitionMsMax;
    for (const other of nodes) {
      if (other === friend) continue;
      network.cut({ from: leader.id, to: other.id }, lastsMs);
      network.cut({ from: other.id, to: leader.id }, lastsMs);
    }
    world.schedule(lastsMs, () => attackLeader(sim, leader));
  });
}

function attackElection(sim: Simulation, candidate: SimNode): void {
  const { faults, random, world, nodes } = sim;
  if (sim.isCalm || random.next() >= faults.electionAttackRate) return;
  const victim = pick(
    random,
    nodes.filter((node) => node.host && node !== candidate),
  );
  if (!victim) return;
  world.schedule(random.next() * faults.attackMsMax, () => {
    if (!sim.isCalm && victim.host) crashSoon(sim, victim, 20);
  });
}

/** The faults end: everybody is up and heard. */
function calm(sim: Simulation): void {
  const { faults } = sim;
  sim.isCalm = true;
  sim.network.heal();
  Object.assign(faults, { stateLossRate: 0, applyDelayMsMax: 5, fsyncMsMax: 2 });
  for (const node of sim.nodes) {
    node.pausedUntilMs = 0;
    node.crashAt = undefined;
    if (!node.host && node.life > 0) startNode(node, sim.context);
    // Turns of a paused node were put off to the end of its pause.
    else if (node.host) {
      node.isTurnScheduled = false;
      input(node, sim.context, { type: "tick", isLate: true });
    }
  }
}

/** A leader commits something new, every member has applied it, and answers a read. */
function hasConverged(sim: Simulation): boolean {
  const leader = sim.nodes.find((node) => {
    const raft = node.host?.raft;
    return raft?.role === "leader" && raft.log.commitIndex >= raft.noopIndex;
  });
  const raft = leader?.host?.raft;
  if (!leader || !raft) return false;
  const isStale = sim.nodes.some((node) => (node.host?.raft.term ?? 0) > raft.term);
  if (isStale || !sim.marker) {
    sim.marker = { proposal: propose(sim, leader), index: undefined };
    return false;
  }
  const { index } = sim.marker;
  if (index === undefined) {
    // Dropped, or not answered yet: ask again now and then.
    if (sim.random.next() < 0.2) sim.marker = undefined;
    return false;
  }
  return raft.configuration.members.every(({ nodeId }) => {
    const node = sim.nodes.find((candidate) => candidate.id === nodeId);
    if (!node?.host || node.state.appliedIndex < index) return false;
    if (sim.lastReaders.has(nodeId)) return true;
    read(sim, node, true);
    return false;
  });
}

function describe(sim: Simulation): string {
  return sim.nodes
    .map(({ id, host, state }) => {
      if (!host) return `${id} down`;
      const { role, term, log, voters } = host.raft;
      return `${id} ${role} t${term} commit ${log.commitIndex} applied ${state.appliedIndex} voters ${voters.join("+")}`;
    })
    .join("; ");
}
