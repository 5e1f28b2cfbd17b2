/**
 * The faults: each breaks something real on a host, looks at what the cluster does meanwhile, mends
 * it, and waits until all managers serve writes again. Run under the load of load.ts; what they find
 * is theirs alone, the history is checked by verify.ts.
 */
import { closeSync, fsyncSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { CRITICAL_BYTES, LOW_BYTES } from "../../../agent/disk-space.ts";
import { waitFor } from "../../../scripts/lab/command.ts";
import type { Host } from "../../../scripts/lab/host.ts";
import { type Cluster, hostPath, waitLeader } from "./cluster.ts";
import { createConfig, type Reply, request } from "./load.ts";
import { slowDown } from "./slow-disk.ts";

export type FaultReport = {
  fault: string;
  /** What happened, with figures. */
  detail: string;
  /** From the moment on at which a majority could work, to the first acknowledged write. */
  writableMs: number;
  violations: string[];
};

export type FaultOptions = {
  cluster: Cluster;
  random: () => number;
  /** How long a partition, a stopped process or a slow disk lasts. */
  holdMs: number;
};

/** The promise of issue 3: writable within 3 s of the majority being back. */
export const WRITABLE_MS_MAX = 3_000;
const PROBE_INTERVAL_MS = 200;
const PROBE_TIMEOUT_MS = 30_000;
/** A write that must not be acknowledged is watched for this long. */
const NO_QUORUM_WATCH_MS = 2_000;

let probeCount = 0;

/**
 * Milliseconds from `sinceMs` to the first write that one of the hosts acknowledges. A new one begins
 * every 200 ms, whatever became of those before: one that got stuck does not hide that others pass.
 */
export async function untilWritable(hosts: readonly Host[], sinceMs: number): Promise<number> {
  let doneMs: number | undefined;
  const deadlineMs = performance.now() + PROBE_TIMEOUT_MS;
  const last: string[] = [];
  while (doneMs === undefined && performance.now() < deadlineMs) {
    for (const host of hosts) {
      const name = `probe-${process.pid}-${probeCount++}`;
      void createConfig(host, name, name)
        .then(({ status, text }) => {
          if (status === 201) doneMs ??= performance.now();
          else last.push(`${host.name}: ${status} ${text.slice(0, 200)}`);
        })
        .catch((error: unknown) => void last.push(`${host.name}: ${String(error)}`));
    }
    await Bun.sleep(PROBE_INTERVAL_MS);
  }
  if (doneMs === undefined) {
    throw new Error(`Not writable in ${PROBE_TIMEOUT_MS} ms; ${last.slice(-3).join("; ")}`);
  }
  return doneMs - sinceMs;
}

/** Until each host, on its own, acknowledges a write; by host name, in milliseconds. */
async function untilAllWritable(hosts: readonly Host[], sinceMs: number): Promise<string> {
  const parts = await Promise.all(
    hosts.map(async (host) => `${host.name} ${ms(await untilWritable([host], sinceMs))}`),
  );
  return parts.join(", ");
}

const ms = (value: number) => `${Math.round(value)} ms`;

function pick<T>(list: readonly T[], random: () => number): T {
  const found = list[Math.floor(random() * list.length)];
  if (found === undefined) throw new Error("Cannot pick from an empty list");
  return found;
}

const others = (cluster: Cluster, ...without: Host[]) =>
  cluster.hosts.filter((host) => !without.includes(host));

function lateViolations(writableMs: number): string[] {
  return writableMs > WRITABLE_MS_MAX ? [`writable again only after ${ms(writableMs)}`] : [];
}

/** kill -9 of any manager; it is started again when the others have written. */
export async function killOne({ cluster, random }: FaultOptions): Promise<FaultReport> {
  const leader = await waitLeader(cluster);
  const victim = pick(cluster.hosts, random);
  const killedMs = performance.now();
  await cluster.kill(victim);
  const writableMs = await untilWritable(others(cluster, victim), killedMs);
  const startedMs = performance.now();
  await cluster.start(victim);
  const back = await untilAllWritable([victim], startedMs);
  const role = victim === leader ? "leader" : "follower";
  return {
    fault: "kill",
    detail: `kill -9 of ${victim.name} (${role}): next write after ${ms(writableMs)}; restarted, writes itself after: ${back}`,
    writableMs,
    violations: lateViolations(writableMs),
  };
}

/** kill -9 of two of three at once: no write passes until one of them is back. */
export async function killTwo({ cluster, random }: FaultOptions): Promise<FaultReport> {
  const survivor = pick(cluster.hosts, random);
  const victims = others(cluster, survivor);
  await Promise.all(victims.map((host) => cluster.kill(host)));
  const violations: string[] = [];
  const refused = await refusedWrite(survivor, violations);
  const first = pick(victims, random);
  await cluster.start(first);
  const backMs = performance.now();
  const writableMs = await untilWritable([survivor, first], backMs);
  await Promise.all(victims.map((host) => cluster.start(host)));
  const all = await untilAllWritable(cluster.hosts, backMs);
  return {
    fault: "kill-two",
    detail: `kill -9 of ${victims.map(({ name }) => name).join(" and ")}: ${survivor.name} alone: ${refused}; ${first.name} back: next write after ${ms(writableMs)}; all: ${all}`,
    writableMs,
    violations: [...violations, ...lateViolations(writableMs)],
  };
}

/** A write through a host that has no majority; what it answers, or that it waits. */
async function refusedWrite(host: Host, violations: string[]): Promise<string> {
  const name = `probe-${process.pid}-${probeCount++}`;
  try {
    const { status, text } = await createConfig(host, name, name, NO_QUORUM_WATCH_MS);
    if (status === 201) violations.push(`${host.name} acknowledged a write without a majority`);
    return `write answered ${status} ${text.slice(0, 80)}`;
  } catch (error) {
    return `write not acknowledged in ${ms(NO_QUORUM_WATCH_MS)} (${(error as Error).name})`;
  }
}

// ---- network --------------------------------------------------------------------------------------

const NFT_TABLE = "lab_fault";

/** Drops what comes to `host` from the others, in a table of its own. */
async function deafen(host: Host, to: readonly Host[]): Promise<void> {
  const addresses = to.map(({ address }) => address).join(", ");
  await host.run(["nft", "-f", "-"], {
    stdin: `
add table ip ${NFT_TABLE}
add chain ip ${NFT_TABLE} input { type filter hook input priority -300; }
add rule ip ${NFT_TABLE} input ip saddr { ${addresses} } drop
`,
  });
}

/** Takes the packet filters away, wherever they are. */
export async function healNetwork(cluster: Cluster): Promise<void> {
  for (const host of cluster.hosts) {
    await host.tryRun(["nft", "delete", "table", "ip", NFT_TABLE]);
  }
}

type Cut = "both ways" | "it hears nothing" | "it is not heard";

async function partition(
  fault: string,
  { cluster, holdMs }: FaultOptions,
  cut: Cut,
): Promise<FaultReport> {
  const victim = await waitLeader(cluster);
  const rest = others(cluster, victim);
  const violations: string[] = [];
  const cutMs = performance.now();
  let refused = "";
  let writableMs = 0;
  let stillMs = 0;
  try {
    if (cut !== "it is not heard") await deafen(victim, rest);
    if (cut !== "it hears nothing") await Promise.all(rest.map((host) => deafen(host, [victim])));
    writableMs = await untilWritable(rest, cutMs);
    // Reached by no majority, or not believed by it.
    refused = await refusedWrite(victim, violations);
    await Bun.sleep(Math.max(0, cutMs + holdMs - performance.now()));
    stillMs = await untilWritable(rest, performance.now());
  } finally {
    await healNetwork(cluster);
  }
  const healedMs = performance.now();
  const afterMs = await untilWritable(cluster.hosts, healedMs);
  const all = await untilAllWritable(cluster.hosts, healedMs);
  return {
    fault,
    detail: `leader ${victim.name} cut off, ${cut}: others write after ${ms(writableMs)}, at the end in ${ms(stillMs)}; ${victim.name} alone: ${refused}; healed: next write after ${ms(afterMs)}, by host: ${all}`,
    writableMs: Math.max(writableMs, afterMs),
    violations: [...violations, ...lateViolations(writableMs), ...lateViolations(afterMs)],
  };
}

const FLAP_CUT_MS = 700;
const FLAP_OPEN_MS = 900;

/**
 * The leader is cut off and joined again, over and over, each time for less than an election takes or
 * little more; in the open times, and in the end, writes must pass.
 */
export async function partitionFlapping({ cluster, holdMs }: FaultOptions): Promise<FaultReport> {
  const victim = await waitLeader(cluster);
  const rest = others(cluster, victim);
  const beganMs = performance.now();
  const waits: number[] = [];
  let [flaps, probesUnderWay] = [0, true];
  const probing = (async () => {
    while (probesUnderWay) waits.push(await untilWritable(rest, performance.now()));
  })();
  try {
    while (performance.now() < beganMs + holdMs) {
      await deafen(victim, rest);
      await Promise.all(rest.map((host) => deafen(host, [victim])));
      await Bun.sleep(FLAP_CUT_MS);
      await healNetwork(cluster);
      await Bun.sleep(FLAP_OPEN_MS);
      flaps++;
    }
  } finally {
    probesUnderWay = false;
    await healNetwork(cluster);
  }
  const healedMs = performance.now();
  await probing;
  const afterMs = await untilWritable(cluster.hosts, healedMs);
  const all = await untilAllWritable(cluster.hosts, healedMs);
  const worstMs = Math.max(0, ...waits);
  return {
    fault: "flapping",
    detail: `leader ${victim.name} cut off ${flaps} times for ${ms(FLAP_CUT_MS)}: ${waits.length} writes by others meanwhile, slowest ${ms(worstMs)}; healed: next write after ${ms(afterMs)}, by host: ${all}`,
    writableMs: afterMs,
    violations: lateViolations(afterMs),
  };
}

/** The leader and the others do not hear each other. */
export const partitionBothWays = (options: FaultOptions) =>
  partition("partition", options, "both ways");
/** The leader sends, but hears nobody: it must step down by itself. */
export const partitionDeaf = (options: FaultOptions) =>
  partition("deaf", options, "it hears nothing");
/** The leader hears, but nobody hears it. */
export const partitionMute = (options: FaultOptions) =>
  partition("mute", options, "it is not heard");

// ---- process --------------------------------------------------------------------------------------

/** SIGSTOP of the leader, SIGCONT later: it wakes believing that no time has passed. */
export async function freeze({ cluster, holdMs }: FaultOptions): Promise<FaultReport> {
  const victim = await waitLeader(cluster);
  const pid = victim.pid("agent");
  if (pid === undefined) throw new Error(`The agent of ${victim.name} is not there`);
  const stoppedMs = performance.now();
  process.kill(pid, "SIGSTOP");
  let writableMs: number;
  try {
    writableMs = await untilWritable(others(cluster, victim), stoppedMs);
    await Bun.sleep(Math.max(0, stoppedMs + holdMs - performance.now()));
  } finally {
    process.kill(pid, "SIGCONT");
  }
  const woken = await untilAllWritable(cluster.hosts, performance.now());
  return {
    fault: "freeze",
    detail: `leader ${victim.name} stopped for ${ms(holdMs)}: others write after ${ms(writableMs)}; woken, writes by host after: ${woken}`,
    writableMs,
    violations: lateViolations(writableMs),
  };
}

// ---- disk -----------------------------------------------------------------------------------------

const FILL_PATH = "/var/lib/shoal/fill";
/** For the agent to notice, and for what was under way to end. */
const SETTLE_MS = 3_000;
const FULL_TIMEOUT_MS = 10_000;
/** Below what a manager wants to have, above what it needs to write at all (agent/disk-space.ts). */
const LOW_LEFT_BYTES = (LOW_BYTES + CRITICAL_BYTES) / 2;

/** The leader's disk gets short of room, then full to the last byte; room comes back later. */
export async function fillDisk({ cluster, holdMs }: FaultOptions): Promise<FaultReport> {
  const victim = await waitLeader(cluster);
  const rest = others(cluster, victim);
  const incidentsBefore = cluster.incidents.length;
  const violations: string[] = [];
  const phases: string[] = [];
  let writableMs = 0;
  let isSaid = false;
  const pass = async (phase: string, fill: () => Promise<unknown>) => {
    const fromMs = performance.now();
    await fill();
    const tookMs = performance.now() - fromMs;
    const othersMs = await untilWritable(rest, fromMs);
    writableMs = Math.max(writableMs, othersMs);
    await Bun.sleep(SETTLE_MS);
    const seen = new Map<string, number>();
    const note = (what: string) => seen.set(what, (seen.get(what) ?? 0) + 1);
    const endMs = performance.now() + holdMs / 2;
    let [write, read] = ["", ""];
    while (performance.now() < endMs) {
      const name = `full-${process.pid}-${probeCount++}`;
      write = await answerOf(() => createConfig(victim, name, name, FULL_TIMEOUT_MS));
      read = await answerOf(() => request(victim, "/configs/none", { timeoutMs: FULL_TIMEOUT_MS }));
      if (phase !== "short of room") isSaid ||= await saysFull(victim);
      note(`write ${write}`);
      note(`read ${read}`);
      await Bun.sleep(100);
    }
    // Taken by the leader of now, or refused with a reason; no silence.
    if (!/^[245]\d\d/.test(write)) violations.push(`disk ${phase}: write ends with "${write}"`);
    if (!read.startsWith("404")) violations.push(`disk ${phase}: read ends with "${read}"`);
    const list = [...seen].map(([what, count]) => `${count} × ${what}`).join("; ");
    const { name } = await waitLeader(cluster);
    phases.push(
      `${phase} (filled in ${ms(tookMs)}): others write after ${ms(othersMs)}, leader ${name}, through it: ${list}`,
    );
  };
  try {
    await pass("short of room", async () => {
      const free = Number(await victim.run(["stat", "-f", "-c", "%a", "/var/lib/shoal"])) * 4096;
      await victim.run(["fallocate", "-l", String(Math.floor(free - LOW_LEFT_BYTES)), FILL_PATH]);
    });
    await pass("full", async () => {
      await victim.tryRun(["sh", "-c", `dd if=/dev/zero bs=1M >> ${FILL_PATH}`]);
      await victim.tryRun(["sh", "-c", `dd if=/dev/zero bs=4k >> ${FILL_PATH}`]);
    });
    // What the ballast has left; ext4 gives it away when the removal is committed.
    await pass("full again", () =>
      victim.tryRun([
        "sh",
        "-c",
        `sync -f /var/lib/shoal; dd if=/dev/zero bs=4k >> ${FILL_PATH}; sync -f /var/lib/shoal; dd if=/dev/zero bs=4k >> ${FILL_PATH}`,
      ]),
    );
  } finally {
    await victim.tryRun(["rm", "-f", FILL_PATH]);
  }
  const all = await untilAllWritable(cluster.hosts, performance.now());
  const ended = cluster.incidents.length - incidentsBefore;
  if (!isSaid) violations.push(`docker info of ${victim.name} does not say that its disk is full`);
  return {
    fault: "full-disk",
    detail: `disk of leader ${victim.name} ${phases.join("; ")}; agent ended ${ended} times; room again, writes by host after: ${all}`,
    writableMs,
    violations: [...violations, ...lateViolations(writableMs)],
  };
}

/** `docker info`, which must answer whatever the disk does. */
async function saysFull(host: Host): Promise<boolean> {
  const { text } = await request(host, "/info", { timeoutMs: FULL_TIMEOUT_MS });
  // The engine's own answer with our Swarm section.
  const { Swarm } = JSON.parse(text) as { Swarm?: { Error?: string } };
  return /takes no changes|MiB/.test(Swarm?.Error ?? "");
}

async function answerOf(send: () => Promise<Reply>): Promise<string> {
  try {
    const { status, text, isStale } = await send();
    if (isStale) return `${status} (stale)`;
    return status < 300 || status === 404 ? String(status) : `${status} ${text.slice(0, 300)}`;
  } catch (error) {
    const { code, name } = error as { code?: unknown; name?: string };
    return typeof code === "string" ? code : String(name);
  }
}

const SLOW_WRITES_PER_SECOND = 20;

/** The leader's disk takes few writes a second; it goes on slowly, or hands over. */
export async function slowDisk({ cluster, holdMs }: FaultOptions): Promise<FaultReport> {
  const victim = await waitLeader(cluster);
  const restore = await slowDown(cluster.lab, victim, SLOW_WRITES_PER_SECOND);
  const slowMs = performance.now();
  const waits: number[] = [];
  try {
    while (performance.now() < slowMs + holdMs) {
      waits.push(await untilWritable(cluster.hosts, performance.now()));
    }
  } finally {
    await restore();
  }
  const writableMs = Math.max(...waits);
  const leader = await waitLeader(cluster);
  return {
    fault: "slow-disk",
    detail: `disk of leader ${victim.name} at ${SLOW_WRITES_PER_SECOND} writes/s for ${ms(holdMs)}: ${waits.length} probes, median ${ms(median(waits))}, longest ${ms(writableMs)}; leader now ${leader.name}`,
    writableMs,
    violations: lateViolations(writableMs),
  };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

const FLIPPED_BYTES = 24;
const PAGE_BYTES = 4096;
/** Long enough for a member that serves to have been asked, and for one that refuses to have ended. */
const ROTTEN_WATCH_MS = 15_000;

export type RotPlace = "raft.db" | "raft.db-wal";

/**
 * Flips bytes in a stopped manager's log. It rebuilds itself from the others, which go on meanwhile;
 * nothing wrong is ever served. One that does not is a violation, and is replaced by hand.
 */
export async function flipBytes(
  { cluster, random }: FaultOptions,
  place: RotPlace,
): Promise<FaultReport> {
  const violations: string[] = [];
  const victim = pick(cluster.hosts, random);
  const rest = others(cluster, victim);
  cluster.expectEnd(victim);
  // Ended in order, the write-ahead log is folded into the file; killed, it is what holds the tail.
  await victim.killAgent(place === "raft.db" ? "SIGTERM" : "SIGKILL");
  const stoppedMs = performance.now();
  const flipped = flipInFile(hostPath(victim, `/var/lib/shoal/raft/${place}`), random);
  const logBefore = victim.agentLog().length;
  const started = await victim.startAgent().then(
    () => "started",
    () => "did not start",
  );
  const watchedMs = performance.now();
  const writableMs = await untilWritable(rest, watchedMs);
  let state = "";
  await waitFor(
    "what becomes of it",
    async () => {
      if (!victim.isAgentAlive()) {
        state = "it refuses";
        return true;
      }
      state = await answerOf(() => request(victim, "/configs/none", { timeoutMs: 2_000 }));
      if (state === "404") {
        state = "it serves";
        return true;
      }
      return performance.now() > watchedMs + ROTTEN_WATCH_MS;
    },
    { timeoutMs: ROTTEN_WATCH_MS * 3 },
  );
  const said = rotWords(victim.agentLog().slice(logBefore));
  let mended = "";
  if (state !== "it serves") {
    violations.push(`${victim.name} did not rebuild itself (${state}${said})`);
    await replace(cluster, victim);
    mended = `; replaced in ${ms(performance.now() - watchedMs)}`;
  } else {
    await cluster.start(victim);
  }
  const all = await untilAllWritable(cluster.hosts, performance.now());
  return {
    fault: `rot ${place}`,
    detail: `${flipped} of ${victim.name} (stopped ${ms(watchedMs - stoppedMs)}): ${started}, ${state}${said}${mended}; others write in ${ms(writableMs)}; in the end, by host: ${all}`,
    writableMs,
    violations: [...violations, ...lateViolations(writableMs)],
  };
}

function flipInFile(path: string, random: () => number): string {
  const { size } = statSync(path);
  if (size <= 2 * PAGE_BYTES) throw new Error(`${path} has only ${size} bytes`);
  const file = openSync(path, "r+");
  try {
    const byte = new Uint8Array(1);
    for (let i = 0; i < FLIPPED_BYTES; i++) {
      // Not the first pages: header and schema, of which SQLite itself says that they are broken.
      const at = 2 * PAGE_BYTES + Math.floor(random() * (size - 2 * PAGE_BYTES));
      readSync(file, byte, 0, 1, at);
      byte[0] = (byte[0] ?? 0) ^ (1 << Math.floor(random() * 8));
      writeSync(file, byte, 0, 1, at);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  return `${FLIPPED_BYTES} bits in ${size} bytes`;
}

/** The agent's own words about it, if any. */
function rotWords(log: string): string {
  const line = log
    .split("\n")
    .find((text) =>
      /checksum|damaged|malformed|corrupt|belong together|Cannot (?:read|open|start)/i.test(text),
    );
  if (line === undefined) return "";
  const match = /"msg":"((?:[^"\\]|\\.)*)"/.exec(line);
  return `, saying: ${(match?.[1] ?? line).slice(0, 300)}`;
}

/** What an operator does: take the dead manager out, empty its disk, join it again. */
export async function replace(cluster: Cluster, victim: Host): Promise<void> {
  const [helper] = others(cluster, victim);
  if (!helper) throw new Error("Cannot replace the only manager");
  cluster.expectEnd(victim);
  if (victim.isAgentAlive()) await victim.killAgent("SIGKILL");
  await victim.run(["sh", "-c", "rm -rf /var/lib/shoal/* /var/lib/shoal/.[!.]*"]);
  const listed = await helper.docker("node", "ls", "--format", "{{.ID}} {{.Hostname}}");
  const line = listed.split("\n").find((text) => text.endsWith(` ${victim.name}`));
  const nodeId = line?.split(" ")[0] ?? "";
  await helper.docker("node", "demote", nodeId);
  await waitFor(
    "the old node's removal",
    async () => (await helper.tryRun(["docker", "node", "rm", "--force", nodeId])).code === 0,
    { timeoutMs: 30_000, intervalMs: 300 },
  );
  await cluster.start(victim);
  const token = await helper.docker("swarm", "join-token", "-q", "manager");
  await victim.docker("swarm", "join", "--token", token, `${helper.address}:2377`);
}
