/**
 * The DNS thread is started before anything else of the agent is even loaded: while an agent
 * restarts, nobody answers names, and this is most of that gap. The local parts take it over.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { DnsAnswer, DnsInput } from "../net/dns/protocol.ts";
import { spawnWorker } from "./spawn-workers.ts";
import { type WorkerClient, workerClient } from "./worker-client.ts";

export type DnsThread = {
  client: WorkerClient<DnsInput, DnsAnswer, never>;
  /** Settles once it serves the names of the table on disk. */
  ready: Promise<DnsAnswer>;
};

let early: DnsThread | undefined;

function startThread(dataDir: string): DnsThread {
  const client = workerClient<DnsInput, DnsAnswer, never>(spawnWorker("dns"), "dns");
  const ready = client.request({ type: "init", dir: meshDir(dataDir) });
  // Whoever takes the thread over looks at it; until then a failure is not unhandled.
  ready.catch(() => undefined);
  return { client, ready };
}

/** Where the mesh keeps its table. */
export function meshDir(dataDir: string): string {
  return join(dataDir, "mesh");
}

/** For a process that has just begun: serves what the one before it knew, if it knew anything. */
export function startDnsEarly(dataDir: string): void {
  if (existsSync(meshDir(dataDir))) early ??= startThread(dataDir);
}

/** The thread that was started early, once; else a new one. */
export function takeDnsThread(dataDir: string): DnsThread {
  const thread = early ?? startThread(dataDir);
  early = undefined;
  return thread;
}
