/** What an idle agent costs: memory on a manager and on a worker, start-up time, size of the binary. */
import { readFileSync, statSync } from "node:fs";
import type { BenchRow } from "../bench.ts";
import { waitFor } from "../lab/command.ts";
import { createLab, DEFAULT_BINARY, type Lab } from "../lab/lab.ts";

/** Time for the first garbage collections and the last of the joins' work. */
const SETTLE_MS = 20_000;
const START_ROUNDS = 5;

export async function measureFootprint(): Promise<BenchRow[]> {
  const lab = await createLab({ hosts: 2, agents: true });
  try {
    const manager = lab.host(1);
    const worker = lab.host(2);
    await manager.docker("swarm", "init");
    const token = await manager.docker("swarm", "join-token", "-q", "worker");
    await worker.docker("swarm", "join", "--token", token, `${manager.address}:2377`);
    await Bun.sleep(SETTLE_MS);
    const rows: BenchRow[] = [
      { name: "resident memory, manager", unit: "MiB", ours: residentMiB(manager.pid("agent")) },
      { name: "resident memory, worker", unit: "MiB", ours: residentMiB(worker.pid("agent")) },
    ];
    const starts: { apiMs: number; nodeMs: number }[] = [];
    for (let round = 0; round < START_ROUNDS; round++) starts.push(await timeStart(lab));
    const median = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1] ?? 0;
    rows.push(
      {
        name: "start to listening socket, manager",
        unit: "ms",
        ours: median(starts.map((s) => s.apiMs)),
      },
      {
        name: "start to node running, manager",
        unit: "ms",
        ours: median(starts.map((s) => s.nodeMs)),
      },
      { name: "binary", unit: "MiB", ours: Math.round(statSync(DEFAULT_BINARY).size / 2 ** 20) },
    );
    return rows;
  } finally {
    await lab.down();
  }
}

function residentMiB(pid: number | undefined): number {
  const line = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Math.round(Number(line?.[1]) / 1024);
}

/** From the spawn to the log lines that say it. */
async function timeStart(lab: Lab): Promise<{ apiMs: number; nodeMs: number }> {
  const host = lab.host(1);
  await host.killAgent("SIGTERM");
  const startedAtMs = Date.now();
  await host.startAgent();
  const lines = () =>
    host
      .agentLog()
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l) as { time: string; msg: string });
  const since = (message: string) =>
    lines()
      .map((l) => ({ atMs: Date.parse(l.time), message: l.msg }))
      .findLast((l) => l.message === message && l.atMs >= startedAtMs);
  const node = await waitFor("the node to run", () => since("Node started"));
  return { apiMs: (since("Listening")?.atMs ?? 0) - startedAtMs, nodeMs: node.atMs - startedAtMs };
}
