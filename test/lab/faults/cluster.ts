/** A cluster of managers in a lab, for faults: formed, observed, and its agents kept running. */
import { copyFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "../../../scripts/lab/command.ts";
import type { Host } from "../../../scripts/lab/host.ts";
import type { Lab } from "../../../scripts/lab/lab.ts";

/** A disk of its own for /var/lib/shoal, so that it can be filled and slowed down. */
export const DISK_BYTES = 512 * 1024 * 1024;
export const SERVICE_NAME = "steady";
export const SERVICE_REPLICAS = 3;
const WATCH_INTERVAL_MS = 200;
const LAST_WORDS_MAX = 600;
/** An agent asks the leader for it, at most for 2 s. */
const STATUS_TIMEOUT_MS = 3_000;

export type Cluster = {
  lab: Lab;
  hosts: readonly Host[];
  /** Agents that ended without being asked to, with the end of their logs. They are started again. */
  incidents: string[];
  /** SIGKILL, and no restart until {@link start}. */
  kill(host: Host): Promise<void>;
  start(host: Host): Promise<void>;
  /** Ends are no incidents from now on, and nothing restarts the agent. */
  expectEnd(host: Host): void;
  /** Of the leader as `host` knows it; undefined when it knows none. */
  leader(): Promise<Host | undefined>;
  /** Ends watching the agents. */
  close(): Promise<void>;
};

/** Formats a disk for each host and starts its agent there; the lab was made without agents. */
export async function startAgents(lab: Lab, binary: string | undefined): Promise<void> {
  if (binary !== undefined) {
    // Not over the old file: it may be a link to another's binary.
    const target = join(lab.dir, "bin", "shoal");
    rmSync(target, { force: true });
    copyFileSync(binary, target);
  }
  await Promise.all(
    lab.hosts.map(async (host) => {
      const image = join(lab.dir, host.name, "shoal.img");
      await host.run(["truncate", "-s", String(DISK_BYTES), image]);
      await host.run(["mkfs.ext4", "-q", "-m", "0", image]);
      // In the host's own mount namespace: it goes with the lab, and the loop device with it.
      await host.run(["mount", "-o", "loop", image, "/var/lib/shoal"]);
      await host.run(["rm", "-rf", "/var/lib/shoal/lost+found"]);
      await host.startAgent();
    }),
  );
}

/** All hosts become managers of one cluster with a service that runs a task for each. */
export async function formCluster(lab: Lab): Promise<Cluster> {
  const [first, ...rest] = lab.hosts;
  if (!first) throw new Error("Cannot form a cluster of no hosts");
  await first.docker("swarm", "init");
  const token = await first.docker("swarm", "join-token", "-q", "manager");
  for (const host of rest) {
    await host.docker("swarm", "join", "--token", token, `${first.address}:2377`);
  }
  const cluster = watch(lab);
  await waitManagers(cluster);
  await first.docker(
    "service",
    "create",
    "-d",
    "--no-resolve-image",
    "--name",
    SERVICE_NAME,
    "--replicas",
    String(SERVICE_REPLICAS),
    "lab:latest",
  );
  return cluster;
}

/** Waits until every host lists all hosts as ready and reachable managers. */
export async function waitManagers(cluster: Cluster, timeoutMs = 60_000): Promise<void> {
  await waitFor(
    `${cluster.hosts.length} ready managers`,
    async () => {
      for (const host of cluster.hosts) {
        const text = await host.docker("node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}");
        const ready = text.split("\n").filter((line) => /^Ready (Leader|Reachable)$/.test(line));
        if (ready.length !== cluster.hosts.length) return undefined;
      }
      return true;
    },
    { timeoutMs, intervalMs: 200 },
  );
}

function watch(lab: Lab): Cluster {
  const isExpected = new Set<Host>();
  const incidents: string[] = [];
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      for (const host of lab.hosts) {
        if (isExpected.has(host) || host.isAgentAlive()) continue;
        incidents.push(`the agent of ${host.name} ended unasked: ${lastWords(host.agentLog())}`);
        // As systemd does; the next round looks again.
        await Bun.sleep(1_000);
        await host.startAgent().catch(() => undefined);
      }
      await Bun.sleep(WATCH_INTERVAL_MS);
    }
  })();
  return {
    lab,
    hosts: lab.hosts,
    incidents,
    kill: async (host) => {
      isExpected.add(host);
      await host.killAgent("SIGKILL");
    },
    start: async (host) => {
      await host.startAgent();
      isExpected.delete(host);
    },
    expectEnd: (host) => void isExpected.add(host),
    leader: () => findLeader(lab.hosts),
    close: async () => {
      isOver = true;
      await watching;
    },
  };
}

/** Why an agent says that it ends; else the last that it said. */
function lastWords(log: string): string {
  const lines = log.trimEnd().split("\n").slice(-10);
  const words = lines.findLast((line) => line.includes('"level":"fatal"')) ?? lines.at(-1) ?? "";
  return words.slice(0, LAST_WORDS_MAX);
}

type Status = {
  node: { nodeId?: string };
  /** As the leader sees it, where it could be asked. */
  raft: { term: number; leaderId: string | null } | null;
};

async function statusOf(host: Host): Promise<Status | undefined> {
  try {
    const response = await fetch("http://d/shoal/v1/status", {
      unix: host.agentSocket(),
      signal: AbortSignal.timeout(STATUS_TIMEOUT_MS),
      keepalive: false,
    });
    const { node, raft } = (await response.json()) as Status;
    return { node: { nodeId: node.nodeId ?? "" }, raft };
  } catch {
    return undefined; // dead or stopped
  }
}

/** The leader of the newest term that any agent knows of. */
async function findLeader(hosts: readonly Host[]): Promise<Host | undefined> {
  const found = await Promise.all(
    hosts.map(async (host) => {
      const status = await statusOf(host);
      return status && { host, status };
    }),
  );
  const answers = found.filter((one) => one !== undefined);
  const newest = answers
    .flatMap(({ status }) => (status.raft?.leaderId ? [status.raft] : []))
    .toSorted((a, b) => b.term - a.term)[0];
  return answers.find(({ status }) => status.node.nodeId === newest?.leaderId)?.host;
}

/** Waits for a leader and returns it. */
export async function waitLeader(cluster: Cluster, timeoutMs = 15_000): Promise<Host> {
  try {
    return await waitFor("a leader", () => cluster.leader(), { timeoutMs, intervalMs: 100 });
  } catch (error) {
    const said = await Promise.all(
      cluster.hosts.map(async (host) => `${host.name}: ${JSON.stringify(await statusOf(host))}`),
    );
    throw new Error(`No leader: ${said.join("; ")}`, { cause: error });
  }
}

/** A path on the host's disk, as seen from outside of it. */
export function hostPath(host: Host, path: string): string {
  const holder = host.pid("holder");
  if (holder === undefined) throw new Error(`Host ${host.name} is not up`);
  return `/proc/${holder}/root${path}`;
}
