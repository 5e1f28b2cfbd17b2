/**
 * A chaos run: a lab, services, steady traffic, faults one after the other (and beside them what people
 * do to services), rests in which everything has to be as it should, and the verdict over all of it.
 *
 * Three invariants: no request is answered by a wrong service; after the faults and SETTLE_MS the kernel
 * of every node is as wanted (the mesh itself has nothing to mend, and an independent look finds nothing
 * stale) and every service answers through every host; outside of a fault's window no request fails.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run, waitFor } from "../../../scripts/lab/command.ts";
import type { Host } from "../../../scripts/lab/host.ts";
import type { Lab } from "../../../scripts/lab/lab.ts";
import { missingTasks } from "./cluster-state.ts";
import { seededRandom } from "../faults/random.ts";
import {
  type Chaos,
  changeSysctl,
  cluster,
  cutNetwork,
  cutPower,
  deleteDevice,
  drain,
  type Fault,
  flushIptables,
  flushNft,
  killAgent,
  killContainer,
  killEngine,
  scale,
  turnOver,
  update,
} from "./faults.ts";
import { checkKernel } from "./kernel.ts";
import type { RequestRecord, Stream } from "./record.ts";
import {
  createServices,
  readRecords,
  readStarts,
  streamsFor,
  TURN,
  writeStreams,
} from "./services.ts";
import { describeRecord, judge, type Verdict, type Window } from "./verdict.ts";

/** With how much weight each is chosen. */
const BREAKING: Record<string, [number, Fault]> = {
  container: [4, killContainer],
  agent: [3, killAgent],
  engine: [3, killEngine],
  power: [2, cutPower],
  network: [2, cutNetwork],
  nft: [1, flushNft],
  iptables: [1, flushIptables],
  vxlan: [1, deleteDevice],
  sysctl: [1, changeSysctl],
};
const CHANGING: Record<string, [number, Fault]> = {
  scale: [3, scale],
  update: [3, update],
  "turn-over": [4, turnOver],
  drain: [1, drain],
};
export const FAULT_NAMES = [...Object.keys(BREAKING), ...Object.keys(CHANGING)];

/** After the last fault everything has to be right within this time. */
const SETTLE_MS = 30_000;
/** Traffic without a failure, for a rest to count as one. */
const QUIET_MS = 3_000;
/** Two checks of the mesh and some; one in the short form. */
const NO_REPAIR_MS = 11_000;
const NO_REPAIR_SHORT_MS = 6_000;
const BREAK_PAUSE_MS = [500, 6_000] as const;
const CHANGE_PAUSE_MS = [1_000, 8_000] as const;
const SEQUENCE_PAUSE_MS = [200, 1_500] as const;
const START_TIMEOUT_MS = 60_000;
const START_SLACK_MS = 100;
const UNEXCUSED_SHOWN_MAX = 40;

export type ChaosOptions = {
  lab: Lab;
  seed: number;
  /** How long faults come; not with `sequence`. */
  seconds: number;
  /** Between two rests; not with `sequence`. */
  restSeconds: number;
  /** Names in FAULT_NAMES, of those that come by chance. */
  faults: readonly string[];
  /** In place of chance: these break one after the other, and that is the end. */
  sequence?: readonly string[];
  agentFlags: string[];
  note(line: string): void;
};

export type ChaosReport = {
  faults: Record<string, number>;
  /** Everything that is not as it should be. */
  violations: string[];
  verdict: Verdict;
  settledMs: number[];
  repairs: Record<string, number>;
};

function choose(
  table: Record<string, [number, Fault]>,
  names: readonly string[],
  random: () => number,
): [string, Fault] | undefined {
  const entries = Object.entries(table).filter(([name]) => names.includes(name));
  const sum = entries.reduce((total, [, [weight]]) => total + weight, 0);
  let left = random() * sum;
  for (const [name, [weight, fault]] of entries) {
    left -= weight;
    if (left < 0) return [name, fault];
  }
  return undefined;
}

/** The last host's engine kills its containers when it ends; the others' live on. */
const engineConfigOf = (lab: Lab) => (host: Host) =>
  host === lab.hosts.at(-1) ? { "live-restore": false } : {};

/** Three managers and a worker, all services running. The lab was made without agents. */
async function form(options: ChaosOptions, workDir: string): Promise<void> {
  const { lab } = options;
  const last = lab.hosts.at(-1);
  if (last) {
    await last.stopDockerd();
    await last.startDockerd(engineConfigOf(lab)(last));
  }
  await Promise.all(lab.hosts.map((host) => host.startAgent(options.agentFlags)));
  const [first, ...rest] = lab.hosts;
  if (!first) throw new Error("A lab without hosts");
  await first.docker("swarm", "init");
  for (const [place, host] of rest.entries()) {
    const role = place < 2 ? "manager" : "worker";
    const token = await first.docker("swarm", "join-token", "-q", role);
    await host.docker("swarm", "join", "--token", token, `${first.address}:2377`);
  }
  await createServices(first, workDir);
}

/** Runs to the end of the time and judges. @throws {Error} when the cluster cannot be formed. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { lab, note } = options;
  const workDir = join(lab.dir, "chaos");
  mkdirSync(workDir, { recursive: true });
  const random = seededRandom(options.seed);
  // Of its own: the two sequences do not depend on each other's speed.
  const changeRandom = seededRandom(options.seed + 1);
  const violations: string[] = [];
  const windows: Window[] = [];
  const faults: Record<string, number> = {};
  const streams = new Map<string, Stream>();
  const settledMs: number[] = [];
  let turnName = "turn1";
  const ask = (name: string | undefined) => {
    const wanted = streamsFor(lab, name);
    for (const stream of Object.values(wanted).flat()) streams.set(stream.id, stream);
    writeStreams(workDir, wanted);
  };
  const violate = (text: string) => {
    violations.push(text);
    note(`  VIOLATION: ${text}`);
  };
  const chaos: Chaos = {
    lab,
    workDir,
    random,
    windows,
    note,
    violate,
    owners: new Map(),
    turnName: () => turnName,
    askTurn: async (name) => {
      ask(name);
      turnName = name ?? turnName;
      await Bun.sleep(1_000);
    },
    away: new Set(),
    agentFlags: options.agentFlags,
    engineConfig: engineConfigOf(lab),
    watches: new Set(),
  };

  note("three managers, a worker, services");
  ask(undefined);
  await form(options, workDir);
  await waitFor("all tasks", async () => missingTasks(await cluster(chaos)).length === 0, {
    timeoutMs: START_TIMEOUT_MS,
  });
  chaos.owners.set(TURN, [{ identity: turnName, fromMs: 0, toMs: Number.POSITIVE_INFINITY }]);
  await chaos.askTurn(turnName);
  const beganMs = Date.now();
  const asker = startAsker(lab, workDir);
  const at = () => `${((Date.now() - beganMs) / 1_000).toFixed(0).padStart(5)} s`;
  const endMs = beganMs + options.seconds * 1_000;

  const loop = async (
    next: () => [string, Fault] | undefined,
    own: () => number,
    pauseMs: readonly [number, number],
    isOver: () => boolean,
  ) => {
    for (;;) {
      await Bun.sleep(pauseMs[0] + own() * (pauseMs[1] - pauseMs[0]));
      const chosen = isOver() ? undefined : next();
      if (!chosen) return;
      const [name, fault] = chosen;
      faults[name] = (faults[name] ?? 0) + 1;
      try {
        const said = await fault({ ...chaos, random: own });
        note(`${at()}  ${said}`);
      } catch (error) {
        violate(
          `${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
        );
      }
    }
  };
  const rest = async () => {
    const fromMs = Date.now();
    await Promise.all(chaos.watches);
    try {
      const took = await settle(chaos, workDir, streams, fromMs);
      settledMs.push(Date.now() - fromMs);
      note(`${at()}  settled: ${took}`);
    } catch (error) {
      violate(error instanceof Error ? error.message : String(error));
    }
    const peaceMs = options.sequence ? NO_REPAIR_SHORT_MS : NO_REPAIR_MS;
    for (const text of await unmended(lab, peaceMs)) violate(text);
  };
  const changing = () => choose(CHANGING, options.faults, changeRandom);
  if (options.sequence) {
    const left = [...options.sequence];
    const state = { isOver: false };
    const next = (): [string, Fault] | undefined => {
      const name = left.shift();
      const [, fault] = BREAKING[name ?? ""] ?? [];
      return name !== undefined && fault ? [name, fault] : undefined;
    };
    await Promise.all([
      loop(next, random, SEQUENCE_PAUSE_MS, () => false).finally(() => {
        state.isOver = true;
      }),
      loop(changing, changeRandom, SEQUENCE_PAUSE_MS, () => state.isOver),
    ]);
    await rest();
  } else {
    // Quiet at first: what fails here fails without a fault.
    await rest();
    while (Date.now() < endMs) {
      const untilMs = Math.min(endMs, Date.now() + options.restSeconds * 1_000);
      const isOver = () => Date.now() >= untilMs;
      await Promise.all([
        loop(() => choose(BREAKING, options.faults, random), random, BREAK_PAUSE_MS, isOver),
        loop(changing, changeRandom, CHANGE_PAUSE_MS, isOver),
      ]);
      await rest();
    }
  }
  await asker.stop();

  const records = readRecords(workDir);
  // A program that has been started and does not listen yet refuses: that is not the network's doing.
  for (const { service, beganMs, listensMs } of readStarts(workDir)) {
    const services = /^turn\d+$/.test(service) ? [TURN, service] : [service];
    const [fromMs, toMs] = [beganMs - START_SLACK_MS, listensMs + START_SLACK_MS];
    windows.push({ fault: "program starts", fromMs, toMs, hosts: [], services, lookupHosts: [] });
  }
  const verdict = judge({
    records,
    streams,
    windows,
    owners: chaos.owners,
    clientAddress: lab.client.address,
  });
  writeFileSync(join(workDir, "windows.json"), JSON.stringify(windows, undefined, 1));
  for (const text of verdict.wrong) violate(`wrong answer: ${text}`);
  for (const record of verdict.unexcused.slice(0, UNEXCUSED_SHOWN_MAX)) {
    violate(`failed outside of a window: ${describeRecord(record)}`);
  }
  if (verdict.unexcused.length > UNEXCUSED_SHOWN_MAX) {
    violate(`… ${verdict.unexcused.length} failed outside of a window`);
  }
  return { faults, violations, verdict, settledMs, repairs: await repairsOf(lab) };
}

function startAsker(lab: Lab, workDir: string) {
  const command = [
    process.execPath,
    join(import.meta.dir, "asker.ts"),
    join(workDir, "streams.json"),
    join(workDir, "records"),
    "client",
  ];
  const child = Bun.spawn(lab.client.enter(command), { stdout: "inherit", stderr: "inherit" });
  return {
    stop: async () => {
      child.kill("SIGTERM");
      await child.exited;
    },
  };
}

/**
 * Waits for all tasks, for a right kernel on every node, and for traffic without failures. Returns what
 * took its time.
 * @throws {Error} when something is not right in SETTLE_MS.
 */
async function settle(
  chaos: Chaos,
  workDir: string,
  streams: ReadonlyMap<string, Stream>,
  fromMs: number,
): Promise<string> {
  const took: string[] = [];
  const until = async (what: string, moreMs: number, look: () => Promise<string[]>) => {
    let wrong: string[] = [];
    /** What was seen last before it was right. */
    let last = "";
    const timeoutMs = Math.max(1_000, fromMs + SETTLE_MS - Date.now()) + moreMs;
    await waitFor(
      what,
      async () => {
        wrong = await look();
        last = wrong[0] ?? last;
        return wrong.length === 0;
      },
      { timeoutMs, intervalMs: 500 },
    ).catch((error: unknown) => {
      throw new Error(`Not settled: ${what}: ${wrong.join("\n    ")} (${String(error)})`);
    });
    took.push(`${what} at ${Date.now() - fromMs} ms${last === "" ? "" : ` (last: ${last})`}`);
  };
  await until("all tasks", 0, async () => {
    const state = await cluster(chaos);
    const down = state.nodes.filter((node) => node.state !== "ready");
    return [...missingTasks(state), ...down.map((node) => `${node.hostname} is ${node.state}`)];
  });
  await until("kernels as the cluster is", 0, async () => {
    const state = await cluster(chaos);
    return (await Promise.all(chaos.lab.hosts.map((host) => checkKernel(host, state)))).flat();
  });
  await until("all services through all hosts", QUIET_MS, async () => {
    const sinceMs = Date.now() - QUIET_MS;
    const recent = readRecords(workDir).filter((record) => record.endMs >= sinceMs);
    return silentStreams(recent, streams, chaos);
  });
  return took.join("; ");
}

/** Streams that had a failure, or no answer at all. */
function silentStreams(
  recent: RequestRecord[],
  streams: ReadonlyMap<string, Stream>,
  chaos: Chaos,
): string[] {
  const failed = recent.filter((record) => record.kind !== "ok").map(describeRecord);
  const answered = new Set(
    recent.filter(({ kind }) => kind === "ok").map(({ place, streamId }) => `${place} ${streamId}`),
  );
  const isAsked = (stream: Stream) =>
    !/^turn\d/.test(stream.service) || stream.service === chaos.turnName();
  const silent = [...streams.values()].filter(isAsked).flatMap((stream) => {
    const places = stream.via === undefined ? chaos.lab.hosts.map(({ name }) => name) : ["client"];
    return places.map((place) => `${place} ${stream.id}`).filter((key) => !answered.has(key));
  });
  return [...failed, ...silent.map((key) => `${key}: no answer`)];
}

/** Drift that the mesh still finds when nobody does anything, and errors that it shows. */
async function unmended(lab: Lab, peaceMs: number): Promise<string[]> {
  const before = await repairsByHost(lab);
  await Bun.sleep(peaceMs);
  const after = await repairsByHost(lab);
  return lab.hosts.flatMap(({ name }, place) =>
    Object.entries(after[place] ?? {})
      .filter(([kind, count]) => count !== (before[place]?.[kind] ?? 0))
      .map(
        ([kind, count]) =>
          `${name}: mended in peace: ${kind} ${before[place]?.[kind] ?? 0} → ${count}`,
      ),
  );
}

async function repairsByHost(lab: Lab): Promise<Record<string, number>[]> {
  return Promise.all(
    lab.hosts.map(async (host) => {
      const socket = ["--unix-socket", host.agentSocket()];
      const text = await run(["curl", "-sS", ...socket, "http://shoal/shoal/v1/metrics"]);
      const found = text.matchAll(/shoal_mesh_repairs_total\{kind="([^"]+)"\} (\d+)/g);
      return Object.fromEntries([...found].map(([, kind = "", count]) => [kind, Number(count)]));
    }),
  );
}

async function repairsOf(lab: Lab): Promise<Record<string, number>> {
  const sum: Record<string, number> = {};
  for (const counts of await repairsByHost(lab)) {
    for (const [kind, count] of Object.entries(counts)) sum[kind] = (sum[kind] ?? 0) + count;
  }
  return sum;
}

/** For people: what happened, in a few lines. */
export function describeReport(report: ChaosReport): string {
  const { verdict } = report;
  const list = (counts: Record<string, number>, unit = "") =>
    Object.entries(counts)
      .map(([name, count]) => `${name} ${count}${unit}`)
      .join(", ") || "none";
  const excused = Object.values(verdict.excused).reduce((sum, count) => sum + count, 0);
  return [
    `faults: ${list(report.faults)}`,
    `requests: ${verdict.requestCount}, answered ${verdict.okCount}, failed in a fault's window ${excused}, outside ${verdict.unexcused.length}, wrong ${verdict.wrong.length}`,
    `slowest good answer: ${verdict.slowestOkMs} ms`,
    `failed in windows of: ${list(verdict.excused)}; look-ups failed: ${verdict.lookupCount} (${verdict.lookupsExcused} in windows)`,
    `longest outage of one stream: ${list(verdict.outageMs, " ms")}`,
    `settled after: ${report.settledMs.join(", ")} ms`,
    `mended by the meshes that run now: ${list(report.repairs)}`,
    `${report.violations.length} violations`,
  ].join("\n");
}
