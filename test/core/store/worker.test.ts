import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel, Worker } from "node:worker_threads";
import { type WorkerClient, workerClient } from "../../../agent/worker-client.ts";
import { applyAssignments, type AssignmentSet } from "../../../core/dispatcher/assignments.ts";
import { ClusterError } from "../../../core/errors.ts";
import {
  type ConsensusToState,
  encodeProposal,
  type StateAnswer,
  type StateInput,
  type StateOutput,
  type StateToConsensus,
} from "../../../core/protocol.ts";
import type { Outcome, Proposal, StoreAction } from "../../../core/store/action.ts";
import { openStateReader, type StateReader } from "../../../core/store/sqlite-store.ts";
import {
  clusterDraft,
  create,
  DESCRIPTION,
  nodeDraft,
  proposal,
  secretDraft,
  serviceDraft,
  taskStatus,
} from "./objects.ts";

/** The code of the error that the promise is rejected with (`expect().rejects` blocks the event loop). */
const refusalOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof ClusterError ? error.code : error),
  );

/** Longer than any wait that succeeds, on two shared cores. */
const WAIT_MS_MAX = 10_000;

/** Waits for a condition, looked at again whenever something came. */
function waiter() {
  const checks = new Set<() => void>();
  return {
    wake: () => {
      for (const check of checks) check();
    },
    until: <T>(what: string, condition: () => T | undefined | false): Promise<T> =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          checks.delete(check);
          reject(new Error(`Waited ${WAIT_MS_MAX} ms for ${what}`));
        }, WAIT_MS_MAX);
        const check = () => {
          const value = condition();
          if (!value) return;
          checks.delete(check);
          clearTimeout(timer);
          resolve(value);
        };
        checks.add(check);
        check();
      }),
  };
}

/**
 * A real state worker thread, with the test as consensus: a log of one that commits what is proposed
 * at once (unless told to lose it).
 */
async function startWorker(dir: string, log: Uint8Array[] = []) {
  const worker = new Worker(new URL("./state-worker-entry.ts", import.meta.url));
  const client: WorkerClient<StateInput, StateAnswer, StateOutput> = workerClient(worker, "state");
  const { port1, port2 } = new MessageChannel();
  const { wake, until } = waiter();
  const outputs: StateOutput[] = [];
  const outcomes = new Map<string, Outcome>();
  const assignments = new Map<string, AssignmentSet>();
  const toldApplied: number[] = [];
  const snapshots: Extract<StateToConsensus, { type: "snapshot" }>[] = [];
  let exit: { code: number; wasAsked: boolean; error?: Error } | undefined;
  let losesProposals = false;
  let lostCount = 0;

  const send = (message: ConsensusToState) => port1.postMessage(message);
  const append = (data: Uint8Array) => {
    log.push(data);
    send({ type: "apply", entries: [{ index: log.length, term: 1, data }] });
  };
  port1.on("message", (message: StateToConsensus) => {
    if (message.type === "opened") {
      const entries = log.map((data, i) => ({ index: i + 1, term: 1, data }));
      send({ type: "apply", entries: entries.slice(message.appliedIndex) });
    } else if (message.type === "propose") {
      if (losesProposals) lostCount += 1;
      else append(message.data);
    } else if (message.type === "applied") {
      toldApplied.push(message.index);
    } else {
      snapshots.push(message);
    }
    wake();
  });
  client.onOutput((output) => {
    outputs.push(output);
    if (output.type === "applied") {
      for (const { proposalId, outcome } of output.outcomes) outcomes.set(proposalId, outcome);
    } else if (output.type === "assignments") {
      const before = assignments.get(output.sessionId) ?? new Map();
      assignments.set(output.sessionId, applyAssignments(before, output.message));
    }
    wake();
  });
  client.onExit((ended) => {
    exit = ended;
    wake();
  });
  const ready = await client.request({ type: "init", nodeId: "m1", dir }, { port: port2 });
  const reader: StateReader = openStateReader(join(dir, "state.db"));
  let proposalCount = 0;
  return {
    ready,
    client,
    log,
    outputs,
    assignments,
    until,
    send,
    append,
    snapshots,
    reader,
    exit: () => exit,
    lostCount: () => lostCount,
    setLosesProposals: (value: boolean) => {
      losesProposals = value;
    },
    lead: (isLeader: boolean, term = 1) =>
      send({ type: "leadership", isLeader, term, ...(isLeader ? { leaderId: "m1" } : {}) }),
    toldApplied: (index: number) => until(`applied ${index}`, () => toldApplied.includes(index)),
    /** Commits as if another manager's API had proposed it. */
    commit: (actions: StoreAction[], mode: Proposal["mode"] = "all"): Promise<Outcome> => {
      const id = `${dir}-${proposalCount++}`;
      append(encodeProposal(proposal(actions, { id, mode })));
      return until(`outcome of ${id}`, () => outcomes.get(id));
    },
    openSession: (nodeId: string, sessionId: string) =>
      client.request({
        type: "session-open",
        nodeId,
        sessionId,
        description: DESCRIPTION,
        addr: "192.0.2.1",
        dataPathAddr: "192.0.2.1",
        nowMs: 0,
      }),
    sessionEnd: (sessionId: string) =>
      until(`end of session ${sessionId}`, () =>
        outputs.find((o) => o.type === "session-end" && o.sessionId === sessionId),
      ),
    /** Waits until the state, read as the main thread does, satisfies the condition. */
    state: <T>(what: string, read: Parameters<typeof reader.read<T | undefined | false>>[0]) =>
      until(what, () => reader.read(read)),
    close: async () => {
      reader.close();
      await client.stop({ type: "stop" });
      port1.close();
    },
  };
}

const WORLD: StoreAction[] = [
  create("cluster", clusterDraft()),
  create("node", nodeDraft("n1", 1)),
  create("node", nodeDraft("n2", 2)),
];

let closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.reverse()) await close();
  closers = [];
});
function newDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "shoal-state-worker-"));
  closers.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
async function start(dir = newDir(), log: Uint8Array[] = []) {
  const worker = await startWorker(dir, log);
  closers.push(worker.close);
  return worker;
}

describe("state worker", () => {
  test("applies entries and tells outcomes and changes", async () => {
    const worker = await start();
    expect(worker.ready).toEqual({ type: "ready", appliedIndex: 0 });
    expect(await worker.commit(WORLD)).toEqual({ type: "applied", index: 1, droppedCount: 0 });
    expect(await worker.commit([create("node", nodeDraft("n1", 1))])).toMatchObject({
      type: "refused",
      index: 2,
      code: "name-conflict",
    });
    await worker.toldApplied(2);
    expect(worker.outputs[0]).toMatchObject({
      type: "applied",
      index: 1,
      changes: [
        { kind: "create", table: "cluster", id: "c1" },
        { kind: "create", table: "node", id: "n1" },
        { kind: "create", table: "node", id: "n2" },
      ],
    });
    expect(worker.reader.read((view) => [view.index, view.nodes().length])).toEqual([2, 2]);
  });

  test("brings what a follower applied to the file soon, and at once when it is awaited", async () => {
    const worker = await start();
    const ids = Array.from({ length: 50 }, (_, i) => `n${i + 1}`);
    for (const [i, id] of ids.entries()) {
      worker.append(encodeProposal(proposal([create("node", nodeDraft(id, i + 1))])));
    }
    await worker.toldApplied(50);
    // Many entries together, in order, and none is forgotten.
    const applied = worker.outputs.filter((output) => output.type === "applied");
    expect(applied.length).toBeLessThan(25);
    expect(applied.flatMap((o) => o.changes.map((change) => change.id))).toEqual(ids);
    worker.client.notify({ type: "awaited", isAwaited: true });
    const before = worker.outputs.length;
    worker.append(encodeProposal(proposal([create("node", nodeDraft("n51", 51))])));
    await worker.until("the awaited entry", () => worker.outputs.length > before);
    expect(worker.reader.read((view) => view.nodes().length)).toBe(51);
  });

  test("goes on after its applied index when it is started again", async () => {
    const dir = newDir();
    const first = await startWorker(dir);
    await first.commit(WORLD);
    await first.close();
    expect(first.exit()).toMatchObject({ code: 0, wasAsked: true });
    // One more entry was committed meanwhile; the first is not applied a second time.
    first.log.push(encodeProposal(proposal([create("node", nodeDraft("n3", 3))])));
    const second = await start(dir, first.log);
    expect(second.ready).toEqual({ type: "ready", appliedIndex: 1 });
    await second.toldApplied(2);
    expect(second.reader.read((view) => view.nodes().length)).toBe(3);
  });

  test("dies on a gap in the log rather than go on", async () => {
    const worker = await start();
    worker.send({ type: "apply", entries: [{ index: 7, term: 1, data: new Uint8Array() }] });
    // Bun ends the thread with code 0 here, so the code tells nothing.
    const exit = await worker.until("the worker's end", worker.exit);
    expect(exit.wasAsked).toBe(false);
    expect(exit.error?.message).toBe("Entry 7 follows applied index 0");
  });

  test("takes a snapshot that another worker restores", async () => {
    const one = await start();
    await one.commit(WORLD);
    one.send({ type: "take-snapshot" });
    const snapshot = await one.until("a snapshot", () => one.snapshots[0]);
    expect(snapshot.index).toBe(1);
    const other = await start();
    other.send({ type: "restore", index: 1, term: 1, data: snapshot.data });
    // Consensus and the main thread are told over two ports, in no order.
    await Promise.all([
      other.toldApplied(1),
      other.until("the main thread is told", () => other.outputs[0]),
    ]);
    expect(other.outputs).toEqual([{ type: "restored", index: 1 }]);
    expect(other.reader.read((view) => view.nodes().map((node) => node.id))).toEqual(["n1", "n2"]);
  });

  test("refuses sessions while it does not lead", async () => {
    const worker = await start();
    await worker.commit(WORLD);
    expect(await refusalOf(worker.openSession("n1", "a"))).toBe("not-leader");
    worker.client.notify({ type: "heartbeat", nodeId: "n1", sessionId: "a", nowMs: 0 });
    expect(await worker.sessionEnd("a")).toMatchObject({ reason: "leadership lost" });
  });

  test("leads: makes a node ready, plans, dispatches, wakes, takes reports", async () => {
    const worker = await start();
    await worker.commit([...WORLD, create("secret", secretDraft("x"))]);
    worker.lead(true);
    expect(await worker.openSession("n1", "a")).toEqual({
      type: "session",
      heartbeatPeriodMs: 1000,
    });
    await worker.state("n1 ready", (view) => view.node("n1")?.status.state === "ready");
    await worker.until("the complete set", () => worker.assignments.get("a")?.has("settings/n1"));

    await worker.commit([create("service", serviceDraft("s1"))]);
    const task = await worker.until("the task's assignment", () =>
      [...(worker.assignments.get("a")?.values() ?? [])].find((item) => item.kind === "task"),
    );
    expect(task.body).toMatchObject({ serviceId: "s1", desiredState: "ready" });
    const taskId = task.key.slice("task/".length);
    await worker.until("the start after the delay", () => {
      const item = worker.assignments.get("a")?.get(task.key);
      return item?.kind === "task" && item.body.desiredState === "running";
    });

    const report = (status: ReturnType<typeof taskStatus>, sessionId = "a") =>
      worker.client.request({
        type: "report-status",
        nodeId: "n1",
        sessionId,
        statuses: [
          { taskId, status },
          { taskId: "gone", status },
        ],
      });
    expect(await report(taskStatus("running"))).toEqual({ type: "done" });
    expect(worker.reader.read((view) => view.task(taskId)?.status.state)).toBe("running");

    // What is known already costs no entry.
    const length = worker.log.length;
    expect(await report(taskStatus("running"))).toEqual({ type: "done" });
    expect(await report(taskStatus("starting"))).toEqual({ type: "done" });
    expect(worker.log.length).toBe(length);
    expect(await refusalOf(report(taskStatus("failed"), "b"))).toBe("not-found");
    const echoes = worker.outputs.filter(
      (output) =>
        output.type === "assignments" &&
        output.message.put.some(
          (item) => item.kind === "task" && item.body.status.state === "running",
        ),
    );
    expect(echoes).toEqual([]);
  });

  test("declares a silent node down and ends its session", async () => {
    const worker = await start();
    const spec = { ...clusterDraft().spec, Dispatcher: { HeartbeatPeriod: 100e6 } };
    await worker.commit([create("cluster", clusterDraft({ spec })), ...WORLD.slice(1)]);
    worker.lead(true);
    await worker.openSession("n1", "a");
    await worker.state("n1 ready", (view) => view.node("n1")?.status.state === "ready");
    expect(await worker.sessionEnd("a")).toMatchObject({ reason: "heartbeat failure" });
    await worker.state("n1 down", (view) => view.node("n1")?.status.state === "down");
    expect(worker.reader.read((view) => view.node("n2")?.status.state)).toBe("unknown");
  });

  test("ends sessions: replaced, node removed, leadership lost", async () => {
    const worker = await start();
    await worker.commit(WORLD);
    worker.lead(true);
    await worker.openSession("n1", "a");
    await worker.openSession("n1", "b");
    await worker.openSession("n2", "c");
    expect(await worker.sessionEnd("a")).toMatchObject({ reason: "replaced by a newer session" });
    await worker.state("n1 and n2 ready", (view) =>
      view.nodes().every((node) => node.status.state === "ready"),
    );
    await worker.commit([{ type: "remove", table: "node", id: "n2" }]);
    expect(await worker.sessionEnd("c")).toMatchObject({ reason: "node removed" });
    expect(await refusalOf(worker.openSession("n2", "d"))).toBe("not-found");
    worker.lead(false);
    expect(await worker.sessionEnd("b")).toMatchObject({ reason: "leadership lost" });
    expect(await refusalOf(worker.openSession("n1", "e"))).toBe("not-leader");
  });

  test("plans again when its proposals were lost", async () => {
    const worker = await start();
    await worker.commit(WORLD);
    worker.lead(true);
    worker.setLosesProposals(true);
    await worker.commit([create("service", serviceDraft("s1"))]);
    await worker.until("a lost proposal", () => worker.lostCount() > 0);
    worker.setLosesProposals(false);
    await worker.state("a task", (view) => view.tasksByService("s1").length === 1);
  });

  test("refuses waiting reports when leadership is lost", async () => {
    const worker = await start();
    await worker.commit(WORLD);
    worker.lead(true);
    await worker.commit([create("service", serviceDraft("s1"))]);
    const taskId = await worker.state("a task", (view) => view.tasksByService("s1")[0]?.id);
    await worker.openSession("n1", "a");
    await worker.state("n1 ready", (view) => view.node("n1")?.status.state === "ready");
    worker.setLosesProposals(true);
    const statuses = [{ taskId, status: taskStatus("running") }];
    const report = worker.client.request({
      type: "report-status",
      nodeId: "n1",
      sessionId: "a",
      statuses,
    });
    await worker.until("the lost report", () => worker.lostCount() > 0);
    worker.lead(false);
    expect(await refusalOf(report)).toBe("not-leader");
  });
});
