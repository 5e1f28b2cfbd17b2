/**
 * Consensus against Debian's etcd: three members each, processes of one machine, mutual TLS, an fsync
 * before every acknowledgement; one load process for both (raft-load.ts says what a write is). Rounds
 * alternate between the two, both clusters run all the time, and the medians of the rounds count.
 *
 * Options: `--quick` (short rounds), `--rounds N`, `--duration MS` (of each measurement in them),
 * `--kills N`, `--writes N` (of the memory run),
 * `--only throughput,memory,failover`, `--workers 1,16,256`, `--operations write,read`, `--no-peer`.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BenchRow } from "../bench.ts";
import { type EtcdCluster, isEtcdInstalled, startEtcd } from "./etcd.ts";
import { processorMs, type ShoalCluster, startShoal } from "./raft-cluster.ts";
import type { LoadJob, LoadResult, LoadTarget } from "./raft-load.ts";

type Settings = {
  rounds: number;
  warmupMs: number;
  durationMs: number;
  kills: number;
  etcdKills: number;
  writes: number;
  hasCheckPerf: boolean;
  phases: Set<string>;
  workers: number[];
  operations: ("write" | "read")[];
  hasPeer: boolean;
};
type Load = {
  run(job: LoadJob): Promise<LoadResult>;
  stop(): Promise<void>;
};
type Bench = {
  settings: Settings;
  shoal: ShoalCluster;
  etcd: EtcdCluster | undefined;
  load: Load;
  tls: LoadTarget["tls"];
};

const ATTEMPT_MS = 300;
/** Time for garbage collection and checkpoints before memory is read. */
const SETTLE_MS = 1_000;
const MEMORY_PARTS = 10;

/** @throws when etcd is not installed and `--no-peer` is not given. */
export async function measureRaft(flags: readonly string[]): Promise<BenchRow[]> {
  const settings = settingsOf(flags);
  if (settings.hasPeer && !isEtcdInstalled()) {
    throw new Error(
      "etcd is not installed: apt-get install --no-install-recommends etcd-server etcd-client, or give --no-peer",
    );
  }
  const dir = mkdtempSync(join(tmpdir(), "shoal-bench-raft-"));
  const stops: (() => Promise<void>)[] = [];
  // Members and load end with this process (their IPC closes); etcd must be told.
  const stopAll = async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
    rmSync(dir, { recursive: true, force: true });
  };
  const onSignal = () => void stopAll().finally(() => process.exit(130));
  process.once("SIGINT", onSignal);
  process.once("SIGTERM", onSignal);
  try {
    const shoal = await startShoal(join(dir, "shoal"));
    stops.push(() => shoal.stop());
    const load = await startLoad();
    stops.push(() => load.stop());
    let etcd: EtcdCluster | undefined;
    if (settings.hasPeer) {
      const started = await startEtcd(join(dir, "etcd"), (name) => shoal.issue(name));
      stops.push(() => started.stop());
      etcd = started;
    }
    const bench: Bench = { settings, shoal, etcd, load, tls: await shoal.issue("load") };
    await load.run({ type: "prepare", target: await shoalLeader(bench) });
    if (etcd) await load.run({ type: "prepare", target: await etcdLeader(bench, etcd) });
    const rows: BenchRow[] = [];
    if (settings.phases.has("throughput")) rows.push(...(await measureThroughput(bench)));
    if (settings.phases.has("memory")) rows.push(...(await measureMemory(bench)));
    if (settings.phases.has("failover")) rows.push(...(await measureFailover(bench)));
    return rows;
  } finally {
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
    await stopAll();
  }
}

function settingsOf(flags: readonly string[]): Settings {
  const isQuick = flags.includes("--quick");
  const valueOf = (name: string) => {
    const at = flags.indexOf(name);
    return at === -1 ? undefined : flags[at + 1];
  };
  const numberOf = (name: string, fallback: number) => {
    const given = valueOf(name);
    if (given === undefined) return fallback;
    if (!/^\d+$/.test(given)) throw new Error(`${name} takes a number, not "${given}"`);
    return Number(given);
  };
  const kills = numberOf("--kills", isQuick ? 3 : 50);
  const phases = new Set((valueOf("--only") ?? "throughput,memory,failover").split(","));
  const operations = (valueOf("--operations") ?? "write,read").split(",");
  return {
    rounds: numberOf("--rounds", isQuick ? 2 : 5),
    warmupMs: isQuick ? 200 : 500,
    durationMs: numberOf("--duration", isQuick ? 700 : 3_000),
    kills,
    etcdKills: Math.min(kills, isQuick ? 1 : 15),
    writes: numberOf("--writes", isQuick ? 3_000 : 100_000),
    hasCheckPerf: !isQuick,
    phases,
    workers: (valueOf("--workers") ?? "1,16,256").split(",").map(Number),
    operations: (["write", "read"] as const).filter((operation) => operations.includes(operation)),
    hasPeer: !flags.includes("--no-peer"),
  };
}

async function shoalLeader({ shoal, tls }: Bench): Promise<LoadTarget> {
  return { kind: "shoal", addr: (await shoal.leader()).addr, tls };
}

async function etcdLeader({ tls }: Bench, etcd: EtcdCluster): Promise<LoadTarget> {
  return { kind: "etcd", addr: (await etcd.leader()).addr, tls };
}

async function startLoad(): Promise<Load> {
  const waiting = new Map<
    number,
    { resolve(result: LoadResult): void; reject(error: Error): void }
  >();
  let nextId = 1;
  const started = Promise.withResolvers<void>();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "raft-load.ts")], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    // Only raft-load.ts writes there.
    ipc: (message: { id: number; result?: LoadResult; error?: string }) => {
      if (message.id === 0) started.resolve();
      const waiter = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.result) waiter?.resolve(message.result);
      else waiter?.reject(new Error(`The load failed: ${message.error}`));
    },
    onExit: (_child, code, signal) => {
      const error = new Error(`The load process ended (${code ?? signal})`);
      started.reject(error);
      for (const waiter of waiting.values()) waiter.reject(error);
    },
  });
  await started.promise;
  return {
    run: (job) =>
      new Promise((resolve, reject) => {
        const id = nextId++;
        waiting.set(id, { resolve, reject });
        child.send({ id, job });
      }),
    stop: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

// ---- throughput and latency ---------------------------------------------------------------------

async function measureThroughput(bench: Bench): Promise<BenchRow[]> {
  const { settings, etcd } = bench;
  const results = new Map<string, (LoadResult & { processorUs: number })[]>();
  const measure = async (kind: "shoal" | "etcd", operation: "write" | "read", workers: number) => {
    const target =
      kind === "etcd" && etcd ? await etcdLeader(bench, etcd) : await shoalLeader(bench);
    const { warmupMs, durationMs } = settings;
    const job = { type: "load", target, operation, workers, warmupMs, durationMs } as const;
    const members = (kind === "etcd" ? etcd?.members : bench.shoal.members) ?? [];
    const usedMs = () => members.reduce((sum, member) => sum + processorMs(member.pid), 0);
    const usedBeforeMs = usedMs();
    const loaded = await bench.load.run(job);
    const processorUs = ((usedMs() - usedBeforeMs) * 1000) / loaded.totalCount;
    const result = { ...loaded, processorUs };
    const key = `${kind} ${operation} ${workers}`;
    progress(
      `${key}: ${round(result.perSecond)}/s, p50 ${round(result.p50Ms)} ms, p99 ${round(result.p99Ms)} ms, cpu ${round(processorUs)} µs, errors ${result.errorCount}`,
    );
    results.set(key, [...(results.get(key) ?? []), result]);
  };
  for (let i = 0; i < settings.rounds; i++) {
    for (const operation of settings.operations) {
      for (const workers of settings.workers) {
        await measure("shoal", operation, workers);
        if (etcd) await measure("etcd", operation, workers);
      }
    }
  }
  const medianOf = (key: string, field: "perSecond" | "p99Ms" | "p50Ms" | "processorUs") => {
    const found = results.get(key);
    return found && median(found.map((result) => result[field]));
  };
  const rows: BenchRow[] = [];
  const noun = { write: "writer", read: "reader" };
  const counted = (operation: "write" | "read", workers: number) =>
    `${workers} ${noun[operation]}${workers === 1 ? "" : "s"}`;
  for (const operation of settings.operations) {
    const name = operation === "write" ? "writes" : "linearizable reads";
    for (const workers of settings.workers) {
      rows.push(
        row(`${name} ${counted(operation, workers)}`, `${operation}s/s`, {
          ours: medianOf(`shoal ${operation} ${workers}`, "perSecond"),
          peer: medianOf(`etcd ${operation} ${workers}`, "perSecond"),
        }),
      );
    }
    for (const [title, field, unit] of [
      ["p50", "p50Ms", "ms"],
      ["p99", "p99Ms", "ms"],
      ["processor time of the members per", "processorUs", "µs"],
    ] as const) {
      for (const workers of settings.workers) {
        rows.push(
          row(`${title} ${operation} ${counted(operation, workers)}`, unit, {
            ours: medianOf(`shoal ${operation} ${workers}`, field),
            peer: medianOf(`etcd ${operation} ${workers}`, field),
          }),
        );
      }
    }
  }
  if (etcd && settings.hasCheckPerf) {
    progress("etcdctl check perf, one minute");
    const perSecond = await etcd.checkPerf();
    if (perSecond === undefined) progress("etcdctl check perf gave no figure");
    else
      rows.push(
        row("writes 256 writers : etcdctl check perf, 500 clients", "writes/s", {
          ours: medianOf("shoal write 256", "perSecond"),
          peer: perSecond,
        }),
      );
  }
  return rows;
}

// ---- memory -------------------------------------------------------------------------------------

/**
 * The leader's memory over the writes, in ten parts. Growth is from the median of the second to fourth
 * part (code and caches are warm then) to that of the last three: the log kept in memory is a sawtooth.
 */
async function measureMemory(bench: Bench): Promise<BenchRow[]> {
  const { shoal, settings } = bench;
  const parts: number[] = [];
  for (let part = 0; part < MEMORY_PARTS; part++) {
    const target = await shoalLeader(bench);
    const job = { type: "load", target, operation: "write", workers: 256, warmupMs: 0 } as const;
    const count = Math.ceil(settings.writes / MEMORY_PARTS);
    await bench.load.run({ ...job, durationMs: 3_600_000, count });
    await Bun.sleep(SETTLE_MS);
    const leader = await shoal.leader();
    const rss = shoal.residentMiB(leader);
    progress(`leader ${leader.nodeId} after ${(part + 1) * count} writes: ${round(rss)} MiB`);
    parts.push(rss);
  }
  const before = median(parts.slice(1, 4));
  const after = median(parts.slice(-3));
  return [
    row(`memory growth over ${settings.writes} writes`, "MiB", { ours: after - before }),
    row("leader's memory after them", "MiB", { ours: after }),
  ];
}

// ---- failover -----------------------------------------------------------------------------------

async function measureFailover(bench: Bench): Promise<BenchRow[]> {
  const { shoal, etcd, settings } = bench;
  const ours = await killLeaders(bench, "shoal", shoal, settings.kills);
  const peers = etcd ? await killLeaders(bench, "etcd", etcd, settings.etcdKills) : [];
  const at = (list: number[], part: number) =>
    list.length === 0 ? undefined : list.sort((a, b) => a - b)[Math.ceil(list.length * part) - 1];
  return [
    row(`failover median, ${settings.kills} kills`, "ms", {
      ours: at(ours, 0.5),
      peer: at(peers, 0.5),
    }),
    row(`failover p99, ${settings.kills} kills`, "ms", {
      ours: at(ours, 0.99),
      peer: at(peers, 0.99),
    }),
  ];
}

type Member = { addr: string; isUp: boolean };
type Killable<M extends Member> = {
  members: M[];
  leader(): Promise<M>;
  kill(member: M): Promise<void>;
  start(member: M): Promise<void>;
};

/** Times from the kill of a leader to the next acknowledged write. */
async function killLeaders<M extends Member>(
  bench: Bench,
  kind: "shoal" | "etcd",
  cluster: Killable<M>,
  kills: number,
): Promise<number[]> {
  const { load, tls } = bench;
  const timesMs: number[] = [];
  for (let i = 0; i < kills; i++) {
    const leader = await cluster.leader();
    const targets = cluster.members
      .filter((member) => member !== leader)
      .map(({ addr }): LoadTarget => ({ kind, addr, tls }));
    const job: LoadJob = { type: "next-write", targets, attemptMs: ATTEMPT_MS };
    await load.run(job); // connections are there before
    const startedMs = performance.now();
    const killed = cluster.kill(leader);
    const result = await load.run(job);
    const tookMs = performance.now() - startedMs;
    timesMs.push(tookMs);
    progress(`${kind} kill ${i + 1}: ${round(tookMs)} ms, ${result.errorCount} retries`);
    await killed;
    await cluster.start(leader);
  }
  return timesMs;
}

// ---- rows ---------------------------------------------------------------------------------------

function row(
  name: string,
  unit: string,
  { ours = Number.NaN, peer }: { ours?: number | undefined; peer?: number | undefined },
): BenchRow {
  return {
    name,
    unit,
    ours: round(ours),
    ...(peer === undefined ? {} : { peer: round(peer), ratio: round(ours / peer) }),
  };
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

/** Three figures. */
function round(value: number): number {
  return Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3));
}

function progress(text: string): void {
  console.error(`  ${text}`);
}
