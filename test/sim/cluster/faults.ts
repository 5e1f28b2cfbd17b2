/**
 * Swarm testing for the whole control plane: the seed decides which faults exist at all and how hard
 * they are. Rates are per second of virtual time, or per message or call where it says so.
 */
import type { Random } from "../../../core/random.ts";

export type ClusterFaults = {
  // ---- network
  /** Latency of a message: uniform between them. */
  latencyMsMin: number;
  latencyMsMax: number;
  /** A raft message is lost, doubled, or overtakes others. Per message. */
  raftDropRate: number;
  raftDuplicateRate: number;
  raftReorderMs: number;
  /** A connection breaks: what is under way over it is lost, requests may or may not have run. */
  resetsPerSecond: number;
  /** An assignments message is dropped since the connection's queue is full. Per message. */
  noteDropRate: number;
  /** One is lost without anybody knowing, which the generations are there against. Per message. */
  noteLossRate: number;
  /** All hosts in two groups, one direction between two hosts, or a link that comes and goes. */
  partitionsPerSecond: number;
  oneWaysPerSecond: number;
  flapsPerSecond: number;
  partitionMsMax: number;

  // ---- processes and machines
  /** The agent dies, at rest or at a duty of consensus or of the state thread. */
  crashesPerSecond: number;
  downMsMax: number;
  /** Of the crashes: the machine goes down with its containers, and its peers are not told. */
  powerCutRate: number;
  /** A power cut also loses what state.db and node.db wrote last. */
  stateLossRate: number;
  /** The agent is stopped in an orderly way, and started again. */
  restartsPerSecond: number;
  pausesPerSecond: number;
  pauseMsMax: number;
  fsyncMsMax: number;
  /** Delay between the threads of an agent. */
  threadDelayMsMax: number;

  // ---- clocks
  /** Wall clocks differ by up to so much; jumps stay within it. */
  clockSkewMsMax: number;
  clockJumpsPerSecond: number;
  /** Rate of a clock: 1 ± this. */
  clockDrift: number;

  // ---- engines
  engineCallMsMax: number;
  /** A call takes up to so long. Per call. */
  engineSlowRate: number;
  engineSlowMs: number;
  /** A call fails with a text of the engine's, is done but its answer is lost. Per call. */
  engineFailRate: number;
  engineReplyLostRate: number;
  /** The daemon is away for a while; its containers go on or end. */
  enginesAwayPerSecond: number;
  engineAwayMsMax: number;
  /** A container ends by itself. Per second and container. */
  containerDeathsPerSecond: number;
  /** Events of the engine that nobody hears. Per event. */
  engineEventLossRate: number;

  // ---- what users do
  clientCount: number;
  clientPauseMs: number;
  /** Of what users do, writes and reads of the note. */
  noteShare: number;
  membershipsPerSecond: number;
  availabilitiesPerSecond: number;
  removalsPerSecond: number;
  joinsPerSecond: number;
  transfersPerSecond: number;

  // ---- sizes
  managerCount: number;
  workerCount: number;
  spareCount: number;
  servicesMax: number;
  /** Prefix length of subnets: small ones make addresses come back soon. */
  subnetSize: number;
  snapshotEntries: number;
  tailEntries: number;
  /** Length of the phase with faults. */
  safetyMs: number;
};

export function drawFaults(random: Random): ClusterFaults {
  const faults = drawIndependent(random);
  const profile = random.next();
  if (profile < 0.15) return { ...faults, ...drawPowerCuts(random) };
  return profile < 0.3 ? { ...faults, ...drawLateNews(random) } : faults;
}

/** Machines that lose power all the time, and with it what they wrote last, while much happens on them. */
function drawPowerCuts(random: Random): Partial<ClusterFaults> {
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  return {
    crashesPerSecond: 0.2 + random.next() * 0.6,
    downMsMax: whole(100, 2_000),
    powerCutRate: 0.7 + random.next() * 0.3,
    stateLossRate: 1,
    containerDeathsPerSecond: random.next() * 0.15,
  };
}

/** Leaders come and go while much is written, and some hear of it late. */
function drawLateNews(random: Random): Partial<ClusterFaults> {
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  return {
    crashesPerSecond: 0.1 + random.next() * 0.3,
    downMsMax: whole(100, 2_000),
    powerCutRate: 0,
    resetsPerSecond: random.next() * 2,
    transfersPerSecond: random.next() * 0.5,
    raftDropRate: random.next() < 0.5 ? 0 : random.next() * 0.2,
    threadDelayMsMax: whole(20, 600),
    clientCount: 3,
    clientPauseMs: whole(50, 400),
    noteShare: 0.3 + random.next() * 0.6,
  };
}

function drawIndependent(random: Random): ClusterFaults {
  const chance = (probability: number) => random.next() < probability;
  const upTo = (max: number) => random.next() * max;
  const sometimes = (probability: number, max: number) => (chance(probability) ? upTo(max) : 0);
  const whole = (min: number, max: number) => min + Math.floor(upTo(max - min + 1));
  const isSmallNetwork = chance(0.4);
  return {
    latencyMsMin: 1,
    latencyMsMax: chance(0.2) ? 80 : 8,
    raftDropRate: sometimes(0.4, 0.15),
    raftDuplicateRate: sometimes(0.3, 0.1),
    raftReorderMs: sometimes(0.3, 60),
    resetsPerSecond: sometimes(0.5, 1),
    noteDropRate: sometimes(0.3, 0.1),
    noteLossRate: sometimes(0.2, 0.1),
    partitionsPerSecond: sometimes(0.4, 0.2),
    oneWaysPerSecond: sometimes(0.3, 0.3),
    flapsPerSecond: sometimes(0.2, 0.1),
    partitionMsMax: chance(0.5) ? whole(500, 4_000) : whole(4_000, 15_000),

    crashesPerSecond: sometimes(0.6, 0.4),
    downMsMax: chance(0.5) ? whole(100, 3_000) : whole(3_000, 15_000),
    powerCutRate: sometimes(0.5, 0.6),
    stateLossRate: sometimes(0.5, 1),
    restartsPerSecond: sometimes(0.3, 0.1),
    pausesPerSecond: sometimes(0.3, 0.25),
    pauseMsMax: chance(0.5) ? whole(200, 2_000) : whole(2_000, 10_000),
    fsyncMsMax: chance(0.6) ? 2 : chance(0.7) ? whole(5, 60) : whole(200, 900),
    threadDelayMsMax: chance(0.8) ? 0.3 : chance(0.7) ? whole(1, 40) : whole(300, 1_500),

    clockSkewMsMax: chance(0.5) ? 0 : whole(100, 4_000),
    clockJumpsPerSecond: sometimes(0.3, 0.3),
    clockDrift: sometimes(0.4, 0.03),

    engineCallMsMax: chance(0.8) ? 20 : 300,
    engineSlowRate: sometimes(0.3, 0.1),
    engineSlowMs: whole(500, 6_000),
    engineFailRate: sometimes(0.3, 0.05),
    engineReplyLostRate: sometimes(0.4, 0.08),
    enginesAwayPerSecond: sometimes(0.3, 0.2),
    engineAwayMsMax: whole(200, 8_000),
    containerDeathsPerSecond: sometimes(0.5, 0.06),
    engineEventLossRate: sometimes(0.3, 0.5),

    clientCount: whole(1, 3),
    clientPauseMs: whole(200, 2_000),
    noteShare: 0.1,
    membershipsPerSecond: sometimes(0.5, 0.3),
    availabilitiesPerSecond: sometimes(0.5, 0.2),
    removalsPerSecond: sometimes(0.3, 0.1),
    joinsPerSecond: sometimes(0.4, 0.2),
    transfersPerSecond: sometimes(0.4, 0.3),

    managerCount: chance(0.15) ? 1 : chance(0.8) ? 3 : 5,
    workerCount: whole(1, 3),
    spareCount: whole(0, 2),
    servicesMax: whole(1, isSmallNetwork ? 2 : 4),
    subnetSize: isSmallNetwork ? 28 : 24,
    snapshotEntries: chance(0.4) ? 10_000 : whole(20, 120),
    tailEntries: whole(0, 30),
    safetyMs: whole(15_000, 35_000),
  };
}

/** The faults end. Sizes, latencies and clocks' rates stay as they are. */
export function endFaults(faults: ClusterFaults): void {
  Object.assign(faults, {
    raftDropRate: 0,
    raftDuplicateRate: 0,
    raftReorderMs: 0,
    resetsPerSecond: 0,
    noteDropRate: 0,
    noteLossRate: 0,
    stateLossRate: 0,
    fsyncMsMax: 2,
    threadDelayMsMax: 0.3,
    engineCallMsMax: 20,
    engineSlowRate: 0,
    engineFailRate: 0,
    engineReplyLostRate: 0,
    containerDeathsPerSecond: 0,
    engineEventLossRate: 0,
  } satisfies Partial<ClusterFaults>);
}

/** Nothing goes wrong and nobody does anything: what a named scenario starts from. */
export const QUIET: ClusterFaults = {
  latencyMsMin: 1,
  latencyMsMax: 4,
  raftDropRate: 0,
  raftDuplicateRate: 0,
  raftReorderMs: 0,
  resetsPerSecond: 0,
  noteDropRate: 0,
  noteLossRate: 0,
  partitionsPerSecond: 0,
  oneWaysPerSecond: 0,
  flapsPerSecond: 0,
  partitionMsMax: 0,
  crashesPerSecond: 0,
  downMsMax: 0,
  powerCutRate: 0,
  stateLossRate: 0,
  restartsPerSecond: 0,
  pausesPerSecond: 0,
  pauseMsMax: 0,
  fsyncMsMax: 1,
  threadDelayMsMax: 0.3,
  clockSkewMsMax: 0,
  clockJumpsPerSecond: 0,
  clockDrift: 0,
  engineCallMsMax: 10,
  engineSlowRate: 0,
  engineSlowMs: 0,
  engineFailRate: 0,
  engineReplyLostRate: 0,
  enginesAwayPerSecond: 0,
  engineAwayMsMax: 0,
  containerDeathsPerSecond: 0,
  engineEventLossRate: 0,
  clientCount: 0,
  clientPauseMs: 1_000,
  noteShare: 0,
  membershipsPerSecond: 0,
  availabilitiesPerSecond: 0,
  removalsPerSecond: 0,
  joinsPerSecond: 0,
  transfersPerSecond: 0,
  managerCount: 3,
  workerCount: 1,
  spareCount: 0,
  servicesMax: 1,
  subnetSize: 24,
  snapshotEntries: 10_000,
  tailEntries: 10,
  safetyMs: 20_000,
};
