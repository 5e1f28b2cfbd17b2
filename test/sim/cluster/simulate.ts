/**
 * One simulated life of a whole cluster, decided by a seed: managers and workers with their engines, users,
 * and faults (safety: nothing wrong may ever be seen); then the faults end, and what is wanted must run within
 * a bound of virtual time (liveness).
 */
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import { chooseSubnet, DEFAULT_MESH_POOL } from "../../../core/allocator/ipam.ts";
import { newId } from "../../../core/ids.ts";
import { defaultClusterSpec } from "../../../core/objects/cluster.ts";
import { encodeProposal } from "../../../core/protocol.ts";
import { type Random, seededRandom } from "../../../core/random.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import type { Manager } from "../../../agent/manager.ts";
import { createWorld, type World } from "../world.ts";
import { checkAcknowledged } from "./checkers/acknowledged.ts";
import { runningContainers } from "./checkers/containers.ts";
import { convergenceDifferences } from "./checkers/convergence.ts";
import { exclusiveUse } from "./checkers/exclusive-use.ts";
import { checkRegisters, checkWitnesses } from "./checkers/linearizable.ts";
import { slotRules } from "./checkers/slots.ts";
import { type Replica, stateEquality } from "./checkers/state-equality.ts";
import { checkTaskStep } from "./checkers/task-rules.ts";
import {
  act,
  activateAll,
  changeAvailability,
  changeRole,
  type ClientRecords,
  joinNode,
  networkAction,
  nodeAction,
  removeNode,
  runJob,
  type Session,
  touchAll,
} from "./clients.ts";
import { CRASH_POINTS, SimulatedCrash } from "./crash-points.ts";
import { createSimEngine } from "./engine.ts";
import { type ClusterFaults, drawFaults, endFaults } from "./faults.ts";
import { createRecorder, type Recorder } from "./history.ts";
import { createSimHost, endLife, type HostContext, type SimHost, startLife } from "./host.ts";
import { createSimNetwork, type SimNetwork } from "./network.ts";
import { type Clock, EPOCH_MS, installVirtualTime, type VirtualTime } from "./virtual-time.ts";

export type ClusterSimulationOptions = {
  seed: number;
  /** Changes what the seed drew, for named scenarios. */
  faults?: Partial<ClusterFaults>;
  /** What happens, in place of what the seed would let users and faults do; told before the start. */
  script?: (control: ScenarioControl) => void;
  /** One line per transition. */
  trace?: (line: string) => void;
};

export type ClusterSimulationStats = {
  events: number;
  entries: number;
  writes: number;
  acknowledged: number;
  reads: number;
  services: number;
  tasks: number;
  containers: number;
  crashes: number;
  leaders: number;
  joins: number;
  removals: number;
  convergedMs: number;
};

export type ClusterSimulationResult = {
  seed: number;
  violations: string[];
  stats: ClusterSimulationStats;
};

/** The hands of a named scenario. Hosts are counted from 1: managers first, then workers. */
export type ScenarioControl = {
  at(timeMs: number, run: () => void): void;
  host(number: number): SimHost;
  leader(): SimHost | undefined;
  /** Through some manager that lives, tried again until it has an answer. */
  user(job: (session: Session) => Promise<void>): void;
  crash(host: SimHost): void;
  /** With its containers, and what was written last. */
  powerCut(host: SimHost): void;
  start(host: SimHost): void;
  /** Breaks so many connections, of whoever they are. */
  breakConnections(count: number): void;
  /** Both ways. */
  cut(one: SimHost, other: SimHost, durationMs: number): void;
  faults: ClusterFaults;
  history: Recorder["history"];
};

/** Virtual time in which a healed cluster must run what is wanted. */
const LIVENESS_MS_MAX = 300_000;
const CONVERGENCE_POLL_MS = 500;
/** Polls in a row without a difference. */
const STABLE_POLLS = 3;
const VIOLATIONS_MAX = 5;

type Simulation = {
  world: World;
  time: VirtualTime;
  random: Random;
  faults: ClusterFaults;
  network: SimNetwork;
  hosts: SimHost[];
  context: HostContext;
  recorder: Recorder;
  records: ClientRecords;
  isCalm: boolean;
  violations: string[];
  stats: ClusterSimulationStats;
  trace(who: string, what: string): void;
};

export function simulateCluster(options: ClusterSimulationOptions): ClusterSimulationResult {
  const world = createWorld();
  const holder: { sim?: Simulation } = {};
  const time = installVirtualTime(world, (process, error) => {
    const { sim } = holder;
    if (sim) onThrow(sim, process.name, error);
    else throw error;
  });
  try {
    const sim = build(options, time);
    holder.sim = sim;
    if (options.script) options.script(controlOf(sim));
    run(sim, options.script !== undefined);
    return { seed: options.seed, violations: sim.violations, stats: sim.stats };
  } finally {
    time.uninstall();
  }
}

function controlOf(sim: Simulation): ScenarioControl {
  const { world, hosts, context, network, faults, time } = sim;
  const user: ScenarioControl["user"] = (job) => {
    const host = pick(sim.random, managersOf(sim));
    let isDone = false;
    const again = () => {
      if (!isDone) world.schedule(100, () => user(job));
    };
    if (!host) {
      again();
      return;
    }
    const run = async (manager: Manager) => {
      await job(sessionOf(sim, manager, "script"));
      isDone = true;
    };
    runJob(time, host, run, again);
  };
  return {
    at: (timeMs, run) => world.schedule(timeMs, run),
    host: (number) => {
      const host = hosts[number - 1];
      if (!host) throw new Error(`There is no host ${number}`);
      return host;
    },
    leader: () => leaderOf(sim),
    user,
    crash: (host) => endLife(host, context, { isPowerCut: false, why: "by script" }),
    powerCut: (host) => {
      endLife(host, context, { isPowerCut: true, why: "by a power cut" });
      host.engine.goAway(100, true);
    },
    start: (host) => startLife(host, context),
    breakConnections: (count) => {
      for (let broken = 0; broken < count; broken++) network.breakOne();
    },
    cut: (one, other, durationMs) => {
      network.cut({ from: one.name, to: other.name }, durationMs);
      network.cut({ from: other.name, to: one.name }, durationMs);
    },
    faults,
    history: sim.recorder.history,
  };
}

function run(sim: Simulation, isScripted: boolean): void {
  const { world, faults, hosts, context, recorder, stats } = sim;
  for (const host of hosts) if (host.identity) startLife(host, context);
  if (!isScripted) {
    startUsers(sim);
    startFaults(sim);
  }
  world.schedule(faults.safetyMs, () => calm(sim, isScripted));
  let stablePolls = 0;
  let differences: string[] = ["not looked at"];
  const poll = () => {
    differences = convergenceDifferences(recorder.history, hosts);
    stablePolls = differences.length === 0 ? stablePolls + 1 : 0;
    world.schedule(CONVERGENCE_POLL_MS, poll);
  };
  world.schedule(faults.safetyMs + 1_000, poll);
  const endMs = faults.safetyMs + LIVENESS_MS_MAX;
  while (stablePolls < STABLE_POLLS && world.nowMs < endMs && sim.violations.length === 0) {
    if (!world.runNext()) break;
  }
  if (stablePolls < STABLE_POLLS && sim.violations.length === 0) {
    const shown = differences.slice(0, 6).join("; ");
    violate(sim, "convergence", `not after ${LIVENESS_MS_MAX} ms: ${shown}`);
  }
  const report = (rule: string, what: string) => violate(sim, rule, what);
  checkAcknowledged(recorder.history, sim.records.writes, report);
  checkWitnesses(recorder.history, sim.records.witnessed, report);
  checkRegisters(sim.records.registers, report);
  stats.events = world.eventCount;
  stats.entries = recorder.history.lastIndex();
  stats.writes = sim.records.writes.length;
  stats.acknowledged = sim.records.writes.filter(
    ({ outcome }) => typeof outcome === "object",
  ).length;
  stats.reads = sim.records.witnessed.filter(({ kind }) => kind === "read").length;
  stats.services = recorder.history.services.size;
  stats.convergedMs = Math.round(world.nowMs - faults.safetyMs);
}

// ---- the cluster --------------------------------------------------------------------------------

function build(options: ClusterSimulationOptions, time: VirtualTime): Simulation {
  const { world } = time;
  const random = seededRandom(options.seed);
  const faults: ClusterFaults = { ...drawFaults(random), ...options.faults };
  const violations: string[] = [];
  const recorder = createRecorder();
  const { history } = recorder;
  const report = (rule: string, what: string) => violate(sim, rule, what);
  const trace = (who: string, what: string) => {
    options.trace?.(`${world.nowMs.toFixed(0).padStart(7)}  ${who.padEnd(4)}  ${what}`);
  };
  const network = createSimNetwork({
    time,
    random,
    faults,
    onBug: (process, error) => violate(sim, "bug", `${process.name}: ${textOf(error)}`),
  });
  const isMember = (name: string) => {
    const host = hosts.find((candidate) => candidate.name === name);
    return history.nodes.has(host?.identity?.nodeId ?? "");
  };
  const containers = runningContainers({ report, isMember });
  const hosts = Array.from(
    { length: faults.managerCount + faults.workerCount + faults.spareCount },
    (_, at) => {
      const name = `h${at + 1}`;
      const clock: Clock = {
        offsetMs: (random.next() - 0.5) * faults.clockSkewMsMax,
        rate: 1 + (random.next() - 0.5) * 2 * faults.clockDrift,
      };
      const engine = createSimEngine({
        time,
        random,
        faults,
        name,
        observer: {
          started: (container) => {
            sim.stats.containers++;
            trace(name, `runs ${container.name}`);
            containers.started(name, container);
          },
          ended: (container) => {
            trace(name, `ends ${container.name} (${container.exitCode})`);
            containers.ended(container);
          },
        },
      });
      return createSimHost(name, engine, clock);
    },
  );
  const states = stateEquality(report);
  const use = exclusiveUse(report);
  const slots = slotRules({
    report,
    clockSkewMsMax: faults.clockSkewMsMax,
    clockDrift: faults.clockDrift,
  });
  const context: HostContext = {
    time,
    random,
    faults,
    network,
    observer: (host) => {
      const holder: { replica?: Replica } = {};
      return {
        replaced: (rows) => {
          holder.replica = states.replaced(host.name, rows);
        },
        applied: ({ index, result, rows }) => {
          const entry = {
            index,
            proposalId: result.proposalId,
            outcome: result.outcome,
            changes: result.changes,
            atMs: world.nowMs,
          };
          recorder.record(entry, (step) => {
            if (step.change.table === "task" && step.change.kind === "create") sim.stats.tasks++;
            checkTaskStep(step, report);
            use.step(step);
            slots.step(step);
            if (options.trace) traceChange(trace, step.change, index);
          });
          if (holder.replica) states.applied(holder.replica, rows, result.changes);
        },
        leads: (isLeader) => {
          if (isLeader) sim.stats.leaders++;
          trace(host.name, isLeader ? "plans" : "plans no more");
        },
      };
    },
    assigned: (host, message) => {
      trace(host.name, `is told ${message.type} ${message.generation}: ${message.put.length} put`);
    },
    trace: (host, what) => trace(host.name, what),
  };
  const sim: Simulation = {
    world,
    time,
    random,
    faults,
    network,
    hosts,
    context,
    recorder,
    violations,
    trace,
    records: { writes: [], witnessed: [], registers: [] },
    isCalm: false,
    stats: {
      events: 0,
      entries: 0,
      writes: 0,
      acknowledged: 0,
      reads: 0,
      services: 0,
      tasks: 0,
      containers: 0,
      crashes: 0,
      leaders: 0,
      joins: 0,
      removals: 0,
      convergedMs: 0,
    },
  };
  foundCluster(sim);
  if (options.trace) trace("-", JSON.stringify(faults));
  return sim;
}

function traceChange(
  trace: (who: string, what: string) => void,
  change: { table: string; kind: string; id: string; object: unknown },
  index: number,
): void {
  const object = change.object as {
    status?: { state?: string; err?: string };
    desiredState?: string;
    serviceName?: string;
    slot?: number;
    nodeId?: string;
    spec?: { Name?: string; Role?: string; Availability?: string };
    role?: string;
  };
  const about =
    change.table === "task"
      ? `${object.serviceName}.${object.slot} ${object.status?.state}>${object.desiredState} on ${object.nodeId?.slice(0, 6)} ${object.status?.err ?? ""}`
      : change.table === "node"
        ? `${object.status?.state} ${object.role}>${object.spec?.Role} ${object.spec?.Availability}`
        : (object.spec?.Name ?? "");
  trace("", `@${index} ${change.kind} ${change.table} ${change.id.slice(0, 6)} ${about}`);
}

/** All managers begin with the same two entries, as if they had been committed long ago. */
function foundCluster(sim: Simulation): void {
  const { random, faults, hosts } = sim;
  const first = hosts.slice(0, faults.managerCount + faults.workerCount);
  const identities = first.map((host, at) => ({
    host,
    nodeId: newId(random),
    role: at < faults.managerCount ? ("manager" as const) : ("worker" as const),
  }));
  const managers = identities.filter(({ role }) => role === "manager");
  const addresses = managers.map(({ host, nodeId }) => ({ nodeId, addr: host.addr }));
  for (const { host, nodeId, role } of identities) {
    host.identity = { nodeId, role, managers: addresses };
  }
  const pools = { addressPools: ["10.0.0.0/8"], subnetSize: faults.subnetSize };
  const ingress = chooseSubnet({ ...pools, meshPool: DEFAULT_MESH_POOL, used: [] });
  const actions: StoreAction[] = [
    {
      type: "create",
      table: "cluster",
      object: {
        id: newId(random),
        spec: defaultClusterSpec(),
        rootCa: { certificatePem: "", keyPem: "" },
        joinTokens: { worker: "", manager: "" },
        ...pools,
        meshPool: DEFAULT_MESH_POOL,
        dataPathPort: 4_789,
      },
    },
    ...identities.map(({ host, nodeId, role }, at) =>
      nodeAction({
        nodeId,
        role,
        random,
        index: at + 1,
        meshAddress: `10.255.0.${at + 1}`,
        hostName: host.name,
        ...(role === "manager" ? { managerAddr: host.addr } : {}),
      }),
    ),
    networkAction(random, "ingress", ingress, 4_096),
  ];
  const configuration = configurationOf(
    addresses.map(({ nodeId, addr }) => ({ nodeId, addr, isLearner: false, addedAtIndex: 1 })),
  );
  const proposal = { id: newId(random), atMs: EPOCH_MS, mode: "all" as const, actions };
  for (const { host } of managers) {
    host.raftDisk.persist({
      hardState: { term: 1, votedFor: undefined, commitIndex: 2, joinedIndex: 1 },
      isLogCleared: false,
      entries: [
        { index: 1, term: 1, type: "configuration", data: encodeConfiguration(configuration) },
        { index: 2, term: 1, type: "normal", data: encodeProposal(proposal) },
      ],
    });
  }
}

function violate(sim: Simulation, rule: string, what: string): void {
  if (sim.violations.length >= VIOLATIONS_MAX) return;
  const text = `${rule} at ${sim.world.nowMs.toFixed(0)} ms: ${what}`;
  sim.trace("!!", text);
  sim.violations.push(text);
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function onThrow(sim: Simulation, name: string, error: unknown): void {
  const host = sim.hosts.find((candidate) => candidate.name === name);
  const isPlanned = error instanceof SimulatedCrash;
  if (!isPlanned) violate(sim, "bug", `${name}: ${textOf(error)}`);
  if (!host?.life) return;
  endLife(host, sim.context, { isPowerCut: false, why: isPlanned ? error.message : "by a bug" });
  if (isPlanned) startLater(sim, host);
}

// ---- users --------------------------------------------------------------------------------------

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

function pick<T>(random: Random, items: readonly T[]): T | undefined {
  return items[Math.floor(random.next() * items.length)];
}

function managersOf(sim: Simulation): SimHost[] {
  return sim.hosts.filter((host) => host.life?.manager());
}

function leaderOf(sim: Simulation): SimHost | undefined {
  return pick(
    sim.random,
    managersOf(sim).filter((host) => host.life?.manager()?.status().isLeader),
  );
}

function sessionOf(sim: Simulation, manager: Manager, clientName: string): Session {
  const { random, faults, records, world } = sim;
  return { manager, random, faults, records, clientName, nowMs: () => world.nowMs };
}

function startUsers(sim: Simulation): void {
  const { faults, random, world, time } = sim;
  for (let client = 1; client <= faults.clientCount; client++) {
    const name = `u${client}`;
    const next = () => {
      if (sim.isCalm) return;
      const host = pick(random, managersOf(sim));
      const again = () => world.schedule(random.next() * 2 * faults.clientPauseMs, next);
      if (host) runJob(time, host, (manager) => act(sessionOf(sim, manager, name)), again);
      else again();
    };
    world.schedule(random.next() * 2_000, next);
  }
  const sometimes = (perSecond: number, job: (session: Session) => Promise<void>) =>
    repeat(sim, perSecond, () => {
      const host = pick(random, managersOf(sim));
      if (!host) return;
      runJob(
        time,
        host,
        (manager) => job(sessionOf(sim, manager, "admin")),
        () => {},
      );
    });
  sometimes(faults.availabilitiesPerSecond, changeAvailability);
  sometimes(faults.membershipsPerSecond, changeRole);
  sometimes(faults.removalsPerSecond, async (session) => {
    const nodeId = await removeNode(session);
    if (nodeId === undefined) return;
    sim.stats.removals++;
    sim.trace("", `node ${nodeId.slice(0, 6)} was removed`);
  });
  sometimes(faults.joinsPerSecond, async (session) => {
    const host = sim.hosts.find((candidate) => !candidate.identity);
    if (!host) return;
    const joined = await joinNode(session, host);
    // Another user may have been quicker.
    if (!joined || host.identity) return;
    sim.stats.joins++;
    const { members } = session.manager.status();
    const managers = members.map(({ nodeId, addr }) => ({ nodeId, addr }));
    host.identity = { ...joined, managers };
    world.schedule(10, () => {
      if (!host.life) startLife(host, sim.context);
    });
  });
  repeat(sim, faults.transfersPerSecond, () => {
    const leader = leaderOf(sim);
    if (!leader) return;
    runJob(
      time,
      leader,
      (manager) => manager.transferLeadership(),
      () => {},
    );
  });
}

// ---- faults -------------------------------------------------------------------------------------

function startFaults(sim: Simulation): void {
  const { faults, random, hosts, network, world } = sim;
  const durationMs = () => random.next() * faults.partitionMsMax;
  const cutBoth = (a: SimHost, b: SimHost, lastsMs: number) => {
    network.cut({ from: a.name, to: b.name }, lastsMs);
    network.cut({ from: b.name, to: a.name }, lastsMs);
  };
  repeat(sim, faults.partitionsPerSecond, () => {
    const left = new Set(hosts.filter(() => random.next() < 0.5));
    const lastsMs = durationMs();
    sim.trace(
      "",
      `partition for ${lastsMs.toFixed(0)} ms: ${[...left].map((h) => h.name).join(" ")}`,
    );
    for (const a of left) for (const b of hosts) if (!left.has(b)) cutBoth(a, b, lastsMs);
  });
  repeat(sim, faults.oneWaysPerSecond, () => {
    const [from, to] = [pick(random, hosts), pick(random, hosts)];
    if (from && to) network.cut({ from: from.name, to: to.name }, durationMs());
  });
  repeat(sim, faults.flapsPerSecond, () => {
    const [a, b] = [pick(random, hosts), pick(random, hosts)];
    if (!a || !b || a === b) return;
    for (let flap = 0; flap < 8; flap++) {
      world.schedule(flap * 600, () => {
        if (!sim.isCalm) cutBoth(a, b, random.next() * 500);
      });
    }
  });
  repeat(sim, faults.resetsPerSecond, () => network.breakOne());
  repeat(sim, faults.pausesPerSecond, () => {
    const { life } = (random.next() < 0.4 ? leaderOf(sim) : pick(random, hosts)) ?? {};
    if (!life) return;
    // Never shortened: what was put off to the end of a pause keeps its order by that.
    const untilMs = world.nowMs + random.next() * faults.pauseMsMax;
    life.process.pausedUntilMs = Math.max(life.process.pausedUntilMs, untilMs);
  });
  repeat(sim, faults.crashesPerSecond, () => {
    const host = random.next() < 0.4 ? leaderOf(sim) : pick(random, hosts);
    if (host?.life) crashSoon(sim, host);
  });
  repeat(sim, faults.restartsPerSecond, () => {
    const host = random.next() < 0.4 ? leaderOf(sim) : pick(random, hosts);
    if (host?.life) stopAndStart(sim, host);
  });
  repeat(sim, faults.clockJumpsPerSecond, () => {
    const host = pick(random, hosts);
    if (host) host.clock.offsetMs = (random.next() - 0.5) * faults.clockSkewMsMax;
  });
  repeat(sim, faults.enginesAwayPerSecond, () => {
    const host = pick(random, hosts);
    host?.engine.goAway(random.next() * faults.engineAwayMsMax, random.next() < 0.5);
  });
  repeat(sim, faults.containerDeathsPerSecond * hosts.length, () =>
    pick(random, hosts)?.engine.endOne(),
  );
}

function crashSoon(sim: Simulation, host: SimHost): void {
  const { random, faults, world, context } = sim;
  const { life } = host;
  if (!life) return;
  sim.stats.crashes++;
  const isPowerCut = random.next() < faults.powerCutRate;
  const point = pick(random, CRASH_POINTS) ?? "at-rest";
  if (point !== "at-rest") life.arm(point);
  // Some points are not passed soon by every host: then it dies wherever it is.
  world.schedule(point === "at-rest" ? 0 : 400, () => {
    if (host.life !== life || sim.isCalm) return;
    endLife(host, context, { isPowerCut, why: isPowerCut ? "by a power cut" : "at rest" });
    if (isPowerCut) host.engine.goAway(random.next() * 1_000, true);
    startLater(sim, host);
  });
}

function startLater(sim: Simulation, host: SimHost): void {
  sim.world.schedule(sim.random.next() * sim.faults.downMsMax, () => {
    if (!host.life) startLife(host, sim.context);
  });
}

function stopAndStart(sim: Simulation, host: SimHost): void {
  const { life } = host;
  if (!life) return;
  const end = () => {
    if (host.life !== life) return;
    endLife(host, sim.context, { isPowerCut: false, why: "in good order" });
    startLater(sim, host);
  };
  sim.time.post(life.process, 0, () => {
    void life.stop().then(() => sim.world.schedule(0, end));
  });
  // systemd's patience.
  sim.world.schedule(8_000, end);
}

/** The faults end: everybody is up and heard, every engine answers, every image can be had. */
function calm(sim: Simulation, isScripted: boolean): void {
  const { faults, hosts, network, time, world, context } = sim;
  sim.isCalm = true;
  sim.trace("", "calm");
  endFaults(faults);
  network.heal();
  for (const host of hosts) {
    host.engine.heal();
    if (!host.identity) continue;
    if (host.life) host.life.arm("at-rest");
    else startLife(host, context);
  }
  // A script says itself what happens; another change would hide what it leaves open.
  if (isScripted) return;
  const settle = () => {
    const host = pick(sim.random, managersOf(sim));
    const { nodes, networks } = sim.recorder.history;
    const isSettled =
      [...nodes.values()].every((node) => node.spec.Availability !== "pause") &&
      [...networks.values()].some((network) => network.spec.Name === "touch");
    // Again and again: what users began before may still be carried out.
    const again = () => world.schedule(1_000, settle);
    if (isSettled || !host) {
      again();
      return;
    }
    const job = async (manager: Manager) => {
      const session = sessionOf(sim, manager, "admin");
      await activateAll(session);
      await touchAll(session);
    };
    runJob(time, host, job, again);
  };
  world.schedule(2_000, settle);
}
