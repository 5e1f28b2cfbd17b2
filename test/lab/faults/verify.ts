/** What must hold after a fault is over: nothing lost, one order, equal states, the wanted tasks. */
import { join } from "node:path";
import { waitFor } from "../../../scripts/lab/command.ts";
import type { Host } from "../../../scripts/lab/host.ts";
import { checkLinearizability, type Operation } from "../../checkers/linearizability.ts";
import { type Cluster, SERVICE_NAME, SERVICE_REPLICAS } from "./cluster.ts";
import { type Load, request } from "./load.ts";
import type { StateDigest } from "./read-state.ts";

export type Findings = {
  violations: string[];
  operationCount: number;
  acknowledgedCount: number;
  unknownCount: number;
  failedCount: number;
  /** The longest that a client waited for an acknowledgement. */
  slowestWriteMs: number;
};

const EQUAL_TIMEOUT_MS = 15_000;
const TASKS_TIMEOUT_MS = 60_000;
/** Lists that every manager must answer alike. */
const LISTS = ["/configs", "/services", "/networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D"];

/** Ends the load and checks everything; the cluster must be whole again. */
export async function verify(cluster: Cluster, load: Load): Promise<Findings> {
  await load.stop();
  const violations: string[] = [];
  const attempt = async (what: string, body: () => Promise<void>) => {
    try {
      await body();
    } catch (error) {
      violations.push(`${what}: ${messageOf(error)}`);
    }
  };
  for (const host of cluster.hosts) {
    await attempt(`read all through ${host.name}`, () => load.readAll(host));
  }
  violations.push(...checkHistory(load));
  await attempt("states", () => checkStates(cluster.hosts));
  await attempt("lists", () => checkLists(cluster.hosts));
  await attempt("tasks", () => checkTasks(cluster));
  return { violations, ...countOutcomes(load.history) };
}

/** With its causes. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause ? `${error.message} (${messageOf(error.cause)})` : error.message;
}

function countOutcomes(history: readonly Operation[]) {
  const count = (outcome: Operation["outcome"]) =>
    history.filter((operation) => operation.outcome === outcome).length;
  const acknowledged = history.filter(({ op, outcome }) => op !== "read" && outcome === "ok");
  return {
    operationCount: history.length,
    acknowledgedCount: acknowledged.length,
    slowestWriteMs: Math.max(0, ...acknowledged.map(({ startMs, endMs }) => endMs - startMs)),
    unknownCount: count("unknown"),
    failedCount: count("fail"),
  };
}

function checkHistory(load: Load): string[] {
  const { violations, undecidedKeys } = checkLinearizability(load.history);
  const lastReads = load.history.filter(({ process }) => process.endsWith("-end"));
  // Said by the checker too; this says which.
  const isThere = new Set(lastReads.filter(({ value }) => value !== null).map(({ key }) => key));
  const lost = load.history.filter(
    ({ op, outcome, key }) => op === "cas" && outcome === "ok" && !isThere.has(key),
  );
  return [
    ...violations.map(({ key, message }) => `not linearizable: ${key}: ${message}`),
    ...undecidedKeys.map((key) => `undecided: ${key}`),
    ...load.versionFaults.map((text) => `version with two values: ${text}`),
    ...new Set(lost.map(({ key }) => `acknowledged write lost: ${key}`)),
  ];
}

/** A manager's rows, from its own state.db. */
async function readState(host: Host): Promise<StateDigest> {
  const script = join(import.meta.dir, "read-state.ts");
  const text = await host.run([process.execPath, script, "/var/lib/shoal"]);
  // What read-state.ts prints.
  return JSON.parse(text) as StateDigest;
}

/** All state machines at one index, with the same rows. */
export async function checkStates(hosts: readonly Host[]): Promise<void> {
  let last: StateDigest[] = [];
  const isEven = async () => {
    last = await Promise.all(hosts.map(readState));
    return new Set(last.map(({ appliedIndex }) => appliedIndex)).size === 1;
  };
  try {
    await waitFor("one applied index", isEven, { timeoutMs: EQUAL_TIMEOUT_MS, intervalMs: 300 });
  } catch (error) {
    const shown = hosts.map((host, i) => `${host.name} ${last[i]?.appliedIndex}`).join(", ");
    throw new Error(`The applied indices stay apart: ${shown}`, { cause: error });
  }
  const tables = Object.keys(last[0]?.digests ?? {});
  const different = tables.filter(
    (table) => new Set(last.map(({ digests }) => digests[table])).size > 1,
  );
  if (different.length > 0) {
    const list = different.join(", ");
    throw new Error(`Tables differ at applied index ${last[0]?.appliedIndex}: ${list}`);
  }
}

async function checkLists(hosts: readonly Host[]): Promise<void> {
  for (const path of LISTS) {
    const replies = await Promise.all(
      hosts.map((host) => request(host, path, { timeoutMs: 15_000 })),
    );
    const bodies = replies.map(({ status, text }) => {
      if (status !== 200) throw new Error(`${path}: ${status} ${text}`);
      const rows = JSON.parse(text) as { ID?: string; Id?: string }[];
      return JSON.stringify(
        rows.toSorted((a, b) => ((a.ID ?? a.Id ?? "") < (b.ID ?? b.Id ?? "") ? -1 : 1)),
      );
    });
    if (new Set(bodies).size > 1) throw new Error(`${path} differs between managers`);
  }
}

/** The service's containers that really run, over all engines. */
export async function checkTasks(cluster: Cluster): Promise<void> {
  let counts: number[] = [];
  try {
    await waitFor(
      `${SERVICE_REPLICAS} task containers`,
      async () => {
        counts = await Promise.all(
          cluster.hosts.map(async (host) => {
            const filter = `label=com.docker.swarm.service.name=${SERVICE_NAME}`;
            const text = await host.engine("ps", "-q", "--filter", filter);
            return text.split("\n").filter((line) => line !== "").length;
          }),
        );
        return counts.reduce((sum, count) => sum + count, 0) === SERVICE_REPLICAS;
      },
      { timeoutMs: TASKS_TIMEOUT_MS, intervalMs: 300 },
    );
  } catch (error) {
    throw new Error(`${counts.join(" + ")} containers run, not ${SERVICE_REPLICAS}`, {
      cause: error,
    });
  }
}
