/**
 * The load, a process of its own: closed loops of writers or readers against one member, ours by its
 * RPC (`propose`; see raft-member.ts), etcd by etcd-client.ts. Jobs come by IPC, one at a time.
 *
 * One write sets the 256 characters of one of 1,000 existing objects: for etcd a Put of that value to
 * that key, for ours an update of that config's spec, whose label is the value. Ours carries some 170
 * bytes more (ids, time, names, JSON). One read asks for one of these objects, linearizably.
 */
import { ClusterError } from "../../core/errors.ts";
import { encodeProposal } from "../../core/protocol.ts";
import type { StoreAction } from "../../core/store/action.ts";
import { connectRpc } from "../../net/rpc/client.ts";
import type { RpcConnection, TlsIdentity } from "../../net/rpc/peer.ts";
import { connectEtcd } from "./etcd-client.ts";

export type LoadTarget = { kind: "shoal" | "etcd"; addr: string; tls: TlsIdentity };
export type LoadJob =
  /** Creates the objects. */
  | { type: "prepare"; target: LoadTarget }
  | {
      type: "load";
      target: LoadTarget;
      operation: "write" | "read";
      workers: number;
      warmupMs: number;
      /** Whichever comes first. */
      durationMs: number;
      count?: number;
    }
  /** Until a write is acknowledged by one of the targets; they are tried in turn. */
  | { type: "next-write"; targets: LoadTarget[]; attemptMs: number };
export type LoadResult = {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  count: number;
  /** With those of the warm-up. */
  totalCount: number;
  errorCount: number;
};

const OBJECTS = 1_000;
const VALUE_BYTES = 256;
/** Connections that the workers share; one more for each so many workers. */
const WORKERS_PER_CONNECTION = 64;
const RETRY_MS = 5;
const PREPARE_WORKERS = 32;

type Store = { write(n: number): Promise<void>; read(n: number): Promise<void>; close(): void };

const VALUES = Array.from({ length: 64 }, (_, i) =>
  String.fromCharCode(65 + (i % 26))
    .repeat(VALUE_BYTES - 4)
    .concat(String(1000 + i)),
);
const value = (n: number) => VALUES[n % VALUES.length] ?? "";
const objectId = (n: number) => `bench${String(n % OBJECTS).padStart(20, "0")}`;
const runId = crypto.randomUUID().slice(0, 8);
let proposalCount = 0;

function configSpec(n: number) {
  return { Name: objectId(n), Labels: { value: value(proposalCount) } };
}

function proposalBytes(action: StoreAction): Uint8Array {
  proposalCount++;
  return encodeProposal({
    id: `${runId}${String(proposalCount).padStart(17, "0")}`,
    atMs: Date.now(),
    mode: "all",
    actions: [action],
  });
}

async function openStore(target: LoadTarget, timeoutMs = 5_000): Promise<Store> {
  if (target.kind === "etcd") {
    const client = await connectEtcd(target.addr, target.tls, timeoutMs);
    return {
      write: (n) => client.put(objectId(n), value(proposalCount++)),
      read: async (n) => {
        if ((await client.range(objectId(n))) < VALUE_BYTES) throw missing(n);
      },
      close: () => client.close(),
    };
  }
  const connection: RpcConnection = await connectRpc({
    addr: target.addr,
    tls: target.tls,
    timeoutMs,
  });
  return {
    write: async (n) => {
      const set = { spec: configSpec(n) };
      const data = proposalBytes({ type: "update", table: "config", id: objectId(n), set });
      await connection.request("propose", { data });
    },
    read: async (n) => {
      const { managers } = await connection.request("heartbeat", { sessionId: objectId(n) });
      if (managers[0]?.addr.length !== VALUE_BYTES) throw missing(n);
    },
    close: () => connection.close(),
  };
}

function missing(n: number): Error {
  return new Error(`Object ${objectId(n)} is not there`);
}

async function prepare(target: LoadTarget): Promise<LoadResult> {
  const startedMs = performance.now();
  if (target.kind === "etcd") {
    const store = await openStore(target);
    await spread(PREPARE_WORKERS, OBJECTS, (n) => store.write(n));
    store.close();
  } else {
    const connection = await connectRpc({ addr: target.addr, tls: target.tls, timeoutMs: 5_000 });
    await spread(PREPARE_WORKERS, OBJECTS, async (n) => {
      const object = { id: objectId(n), spec: configSpec(n) };
      await connection.request("propose", {
        data: proposalBytes({ type: "create", table: "config", object }),
      });
    });
    connection.close();
  }
  return summary(new Float64Array(0), {
    count: OBJECTS,
    totalCount: OBJECTS,
    tookMs: performance.now() - startedMs,
    errorCount: 0,
  });
}

async function spread(workers: number, count: number, run: (n: number) => Promise<void>) {
  let next = 0;
  const worker = async () => {
    while (next < count) await run(next++);
  };
  await Promise.all(Array.from({ length: workers }, worker));
}

async function load(job: Extract<LoadJob, { type: "load" }>): Promise<LoadResult> {
  const connections = Math.max(1, Math.ceil(job.workers / WORKERS_PER_CONNECTION));
  const stores = await Promise.all(
    Array.from({ length: connections }, () => openStore(job.target)),
  );
  const beginMs = performance.now() + job.warmupMs;
  const endMs = beginMs + job.durationMs;
  let latencies = new Float64Array(1 << 16);
  let sampleCount = 0;
  let doneCount = 0;
  let totalCount = 0;
  let errorCount = 0;
  let lastMs = beginMs;
  let step = 0;
  const worker = async (i: number) => {
    const store = stores[i % stores.length];
    if (!store) return;
    for (;;) {
      const startMs = performance.now();
      if (startMs >= endMs || doneCount >= (job.count ?? Infinity)) return;
      try {
        // A step that shares no factor with OBJECTS: concurrent workers touch different objects.
        const n = step++ * 7;
        await (job.operation === "write" ? store.write(n) : store.read(n));
      } catch (error) {
        errorCount++;
        if (!(error instanceof ClusterError)) throw error;
        await Bun.sleep(RETRY_MS);
        continue;
      }
      const nowMs = performance.now();
      totalCount++;
      if (startMs < beginMs || nowMs > endMs) continue;
      doneCount++;
      lastMs = nowMs;
      if (sampleCount === latencies.length) {
        const grown = new Float64Array(latencies.length * 2);
        grown.set(latencies);
        latencies = grown;
      }
      latencies[sampleCount++] = nowMs - startMs;
    }
  };
  await Promise.all(Array.from({ length: job.workers }, (_, i) => worker(i)));
  for (const store of stores) store.close();
  const tookMs = job.count === undefined ? job.durationMs : lastMs - beginMs;
  return summary(latencies.subarray(0, sampleCount), {
    count: doneCount,
    totalCount,
    tookMs,
    errorCount,
  });
}

function summary(
  latencies: Float64Array,
  counted: { count: number; totalCount: number; tookMs: number; errorCount: number },
): LoadResult {
  const { count, totalCount, tookMs, errorCount } = counted;
  latencies.sort();
  const at = (part: number) => latencies[Math.floor(latencies.length * part)] ?? Number.NaN;
  return {
    perSecond: (count * 1000) / tookMs,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    count,
    totalCount,
    errorCount,
  };
}

/** Connections to all members are held: a client of a cluster has them before a leader dies. */
const held = new Map<string, Promise<Store>>();

async function nextWrite(job: Extract<LoadJob, { type: "next-write" }>): Promise<LoadResult> {
  const startedMs = performance.now();
  let errorCount = 0;
  for (;;) {
    const target = job.targets[errorCount % job.targets.length];
    if (!target) throw new Error("A job names targets");
    const key = `${target.kind} ${target.addr}`;
    try {
      let opening = held.get(key);
      if (!opening) {
        opening = openStore(target, job.attemptMs);
        held.set(key, opening);
      }
      const write = opening.then((store) => store.write(errorCount));
      await Promise.race([write, late(job.attemptMs, write)]);
      const tookMs = performance.now() - startedMs;
      return summary(new Float64Array(0), { count: 1, totalCount: 1, tookMs, errorCount });
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      errorCount++;
      if (error.code !== "deadline") {
        held.delete(key);
        await Bun.sleep(RETRY_MS);
      }
    }
  }
}

async function late(timeoutMs: number, forgotten: Promise<void>): Promise<never> {
  await Bun.sleep(timeoutMs);
  // Whatever becomes of it: the next attempt is on its way.
  forgotten.catch(() => undefined);
  throw new ClusterError("deadline", "No answer in time");
}

if (import.meta.main) {
  process.on("disconnect", () => process.exit(0));
  process.on("message", (message) => {
    // Only the bench writes there.
    const { id, job } = message as { id: number; job: LoadJob };
    const done =
      job.type === "prepare"
        ? prepare(job.target)
        : job.type === "load"
          ? load(job)
          : nextWrite(job);
    done.then(
      (result) => process.send?.({ id, result }),
      (error: unknown) => process.send?.({ id, error: String(error) }),
    );
  });
  process.send?.({ id: 0, result: undefined });
}
