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
  /** A crash also loses what the state machine wrote last (state.db has no fsync of its own). */
  stateLossRate: number;
  /** An election has been won: the winner dies, or is cut off, within `attackMsMax`. */
  leaderAttackRate: number;
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
  return random.next() < 0.35 ? { ...faults, ...drawTurmoil(random) } : faults;
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
    appendBytesMax: random.next() < 0.6 ? 1 : whole(40, 300),
    membershipsPerSecond: random.next() < 0.5 ? 0 : whole(1, 8),
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
    stateLossRate: sometimes(0.5, 1),
    leaderAttackRate: sometimes(0.5, 0.9),
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
