/**
 * Swarm testing: the seed decides which faults exist at all and how hard they are, so that some seeds
 * are calm in one respect and extreme in another. Rates are per message or per second of virtual time.
 */
import type { Random } from "../../core/random.ts";

export type Faults = {
  /** A message is lost. */
  dropRate: number;
  /** A message arrives twice. */
  duplicateRate: number;
  /** A byte of a message is changed. */
  damageRate: number;
  /** Latency of a message: uniform between them; messages may overtake each other unless `isFifo`. */
  latencyMsMin: number;
  latencyMsMax: number;
  isFifo: boolean;
  /** A message is held back for up to `spikeMs`. */
  spikeRate: number;
  spikeMs: number;
  /** The nodes are split in two groups. */
  partitionsPerSecond: number;
  /** One direction between two nodes is cut. */
  oneWaysPerSecond: number;
  /** How long either lasts at most. */
  partitionMsMax: number;
  /** A node dies, at a duty of its loop that is drawn too. */
  crashesPerSecond: number;
  downMsMax: number;
  /** All nodes die within moments, each at a duty of its own, and return each in its own time. */
  blackoutsPerSecond: number;
  /** A crash also loses what the state machine wrote last (state.db has no fsync of its own). */
  stateLossRate: number;
  /** An election has been won: the winner dies, or is cut off, within `attackMsMax`. */
  leaderAttackRate: number;
  /** Of these strikes, those that kill; the others cut off. */
  leaderCrashShare: number;
  /** Of those cut off, the ones that still hear one node (or themselves). */
  friendShare: number;
  /** Of these strikes, those that come at once: what the winner sends first is still under way. */
  attackAtOnceShare: number;
  /** An election begins: another node dies within `attackMsMax`, and is soon back. */
  electionAttackRate: number;
  attackMsMax: number;
  electionTicks: number;
  /** A node stands still: no ticks, no turns. */
  pausesPerSecond: number;
  pauseMsMax: number;
  /** Length of a node's tick over the nominal one. */
  tickSkew: number;
  /** Inputs gather for so long before a turn. */
  turnDelayMsMax: number;
  /** An fsync takes so long; the loop stands still meanwhile. */
  fsyncMsMax: number;
  /** The state machine reports after so long. */
  applyDelayMsMax: number;

  proposalsPerSecond: number;
  readsPerSecond: number;
  membershipsPerSecond: number;
  transfersPerSecond: number;
  snapshotEntries: number;
  tailEntries: number;
  appendBytesMax: number;
  snapshotPieceBytes: number;
  /** Length of the phase with faults. */
  safetyMs: number;
};

export function drawFaults(random: Random): Faults {
  const faults = drawIndependent(random);
  const profile = random.next();
  if (profile < 0.25) return faults;
  if (profile < 0.4) return { ...faults, ...drawTurmoil(random) };
  if (profile < 0.65) return { ...faults, ...drawRaces(random) };
  if (profile < 0.8) return { ...faults, ...drawSuccession(random) };
  return { ...faults, ...drawComing(random) };
}

/** Elections all the time, each struck at its most delicate moments: the rare orders need many tries. */
function drawTurmoil(random: Random): Partial<Faults> {
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  return {
    leaderAttackRate: 0.6 + random.next() * 0.4,
    electionAttackRate: random.next() < 0.5 ? 0 : random.next(),
    attackMsMax: whole(5, 250),
    electionTicks: whole(2, 5),
    partitionMsMax: whole(200, 1_500),
    downMsMax: whole(1, 800),
    blackoutsPerSecond: random.next() < 0.4 ? 0 : 0.3 + random.next() * 1.5,
    appendBytesMax: random.next() < 0.6 ? 1 : whole(40, 300),
    membershipsPerSecond: random.next() < 0.5 ? 0 : whole(1, 8),
  };
}

/** Candidates race, their requests are long under way, and those who are to vote die and return meanwhile. */
function drawRaces(random: Random): Partial<Faults> {
  const chance = (probability: number) => random.next() < probability;
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  const latencyMsMax = whole(20, 90);
  return {
    latencyMsMax,
    electionTicks: 2,
    electionAttackRate: 0.8 + random.next() * 0.2,
    leaderAttackRate: 1,
    leaderCrashShare: random.next(),
    attackMsMax: latencyMsMax * whole(1, 2),
    downMsMax: whole(1, 15),
    partitionMsMax: whole(300, 800),
    fsyncMsMax: chance(0.5) ? 0 : whole(1, 10),
    crashesPerSecond: chance(0.5) ? 0 : random.next(),
    partitionsPerSecond: 0,
    pausesPerSecond: 0,
    spikeRate: 0.1 + random.next() * 0.2,
    spikeMs: whole(30, 200),
    membershipsPerSecond: chance(0.8) ? 0 : whole(1, 4),
  };
}

/**
 * One leader after the other is struck within a few messages of its election, and is back an election or
 * two later: entries of several terms, each on few logs, that are taken up again and again.
 */
function drawSuccession(random: Random): Partial<Faults> {
  const chance = (probability: number) => random.next() < probability;
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  const electionTicks = whole(2, 3);
  const absenceMs = electionTicks * 100 * whole(2, 4);
  const latencyMsMax = whole(5, 40);
  return {
    latencyMsMax,
    leaderAttackRate: 1,
    leaderCrashShare: chance(0.6) ? 0 : random.next(),
    friendShare: chance(0.7) ? 0 : random.next(),
    attackAtOnceShare: random.next(),
    attackMsMax: latencyMsMax * whole(2, 4),
    electionAttackRate: chance(0.7) ? 0 : random.next() * 0.5,
    electionTicks,
    partitionMsMax: absenceMs,
    downMsMax: chance(0.3) ? whole(1, 50) : absenceMs,
    appendBytesMax: chance(0.8) ? 1 : whole(40, 300),
    dropRate: chance(0.7) ? 0 : 0.05,
    spikeRate: chance(0.8) ? 0 : 0.02,
    crashesPerSecond: 0,
    partitionsPerSecond: 0,
    pausesPerSecond: chance(0.8) ? 0 : 0.2,
    snapshotEntries: chance(0.8) ? 10_000 : whole(10, 60),
    membershipsPerSecond: chance(0.8) ? 0 : whole(1, 4),
  };
}

/** Members come and go all the time, some as they were, some with nothing; logs are cut short. */
function drawComing(random: Random): Partial<Faults> {
  const chance = (probability: number) => random.next() < probability;
  const whole = (min: number, max: number) => min + Math.floor(random.next() * (max - min + 1));
  return {
    membershipsPerSecond: whole(3, 12),
    snapshotEntries: whole(5, 25),
    tailEntries: chance(0.7) ? whole(0, 3) : whole(4, 20),
    electionTicks: chance(0.5) ? 10 : whole(2, 5),
    crashesPerSecond: chance(0.4) ? 0 : random.next() * 1.5,
    partitionsPerSecond: chance(0.4) ? 0 : random.next() * 0.7,
    partitionMsMax: whole(300, 2_500),
    pausesPerSecond: chance(0.7) ? 0 : random.next() * 0.4,
    dropRate: chance(0.6) ? 0 : random.next() * 0.1,
  };
}

function drawIndependent(random: Random): Faults {
  const chance = (probability: number) => random.next() < probability;
  const upTo = (max: number) => random.next() * max;
  const sometimes = (probability: number, max: number) => (chance(probability) ? upTo(max) : 0);
  const whole = (min: number, max: number) => min + Math.floor(upTo(max - min + 1));
  return {
    dropRate: sometimes(0.5, chance(0.2) ? 0.5 : 0.1),
    duplicateRate: sometimes(0.4, 0.2),
    damageRate: sometimes(0.2, 0.02),
    latencyMsMin: 1,
    latencyMsMax: chance(0.3) ? 120 : 15,
    isFifo: chance(0.5),
    spikeRate: sometimes(0.4, 0.05),
    spikeMs: whole(200, 3_000),
    partitionsPerSecond: sometimes(0.5, 0.5),
    oneWaysPerSecond: sometimes(0.4, 0.7),
    partitionMsMax: whole(300, 4_000),
    crashesPerSecond: sometimes(0.6, 1.2),
    downMsMax: chance(0.3) ? whole(1, 50) : whole(50, 2_500),
    blackoutsPerSecond: sometimes(0.2, 0.4),
    stateLossRate: sometimes(0.5, 1),
    leaderAttackRate: sometimes(0.5, 0.9),
    leaderCrashShare: 0.6,
    friendShare: 0.5,
    attackAtOnceShare: 0,
    electionAttackRate: sometimes(0.4, 0.8),
    attackMsMax: whole(5, 300),
    electionTicks: 10,
    pausesPerSecond: sometimes(0.3, 0.4),
    pauseMsMax: whole(200, 4_000),
    tickSkew: sometimes(0.4, 0.3),
    turnDelayMsMax: chance(0.5) ? 0 : whole(1, 10),
    fsyncMsMax: chance(0.5) ? 0 : whole(1, 30),
    applyDelayMsMax: chance(0.3) ? 400 : 5,
    proposalsPerSecond: chance(0.2) ? 60 : 5 + upTo(20),
    readsPerSecond: sometimes(0.7, 15),
    membershipsPerSecond: sometimes(0.5, chance(0.3) ? 8 : 2),
    transfersPerSecond: sometimes(0.4, 0.5),
    snapshotEntries: chance(0.3) ? 10_000 : whole(10, 60),
    tailEntries: whole(0, 20),
    appendBytesMax: chance(0.4) ? 1 : whole(40, 1_000),
    snapshotPieceBytes: whole(40, 400),
    safetyMs: whole(6_000, 14_000),
  };
}
