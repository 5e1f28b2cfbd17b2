/**
 * Three real consensus threads with real raft.db files in one process; the test is their main thread,
 * their network (a map of connections that can be cut) and their state machines.
 */
import { Database } from "bun:sqlite";
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { type WorkerClient, workerClient } from "../../../agent/worker-client.ts";
import type {
  ConsensusAnswer,
  ConsensusInput,
  ConsensusOutput,
  ConsensusToState,
  RaftStatus,
  StateToConsensus,
} from "../../../core/protocol.ts";
import { smallDisk } from "../../fixtures/small-disk.ts";

type Node = {
  id: string;
  client: WorkerClient<ConsensusInput, ConsensusAnswer, ConsensusOutput>;
  worker: Worker;
  state: FakeState;
  status: RaftStatus | undefined;
  isRemoved: boolean;
};
/** A state machine that keeps the entries as text, outliving its node's threads as a file would. */
type FakeState = {
  appliedIndex: number;
  log: string[];
  leaderships: string[];
  problems: string[];
};

const dirs: string[] = [];
const running = new Map<string, Node>();
const states = new Map<string, FakeState>();

afterEach(async () => {
  for (const node of running.values()) await node.worker.terminate();
  running.clear();
  states.clear();
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});

function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "shoal-raft-"));
  dirs.push(dir);
  return dir;
}

async function start(
  id: string,
  dir: string,
  extra: Pick<
    Extract<ConsensusInput, { type: "init" }>,
    "bootstrap" | "forceNewCluster" | "acceptLoss"
  > = {},
): Promise<Node> {
  const worker = new Worker(new URL("./worker-entry.ts", import.meta.url));
  const client = workerClient<ConsensusInput, ConsensusAnswer, ConsensusOutput>(worker, id);
  const state = states.get(id) ?? { appliedIndex: 0, log: [], leaderships: [], problems: [] };
  states.set(id, state);
  const node: Node = { id, client, worker, state, status: undefined, isRemoved: false };
  client.onOutput((output) => {
    if (output.type === "status-changed") node.status = output.status;
    else if (output.type === "removed") node.isRemoved = true;
    else if (output.type === "send")
      running.get(output.to)?.client.notify({ type: "peer-message", from: id, data: output.data });
  });
  client.onExit(({ error, wasAsked }) => {
    if (running.get(id) === node) running.delete(id);
    if (error && !wasAsked) console.error(`${id} ended: ${error.stack}`);
  });
  const channel = new MessageChannel();
  serveState(channel.port1, state);
  running.set(id, node);
  const answer = await client.request(
    { type: "init", nodeId: id, dir, electionTicks: 10, tickMs: 20, ...extra },
    { port: channel.port2, timeoutMs: 5_000 },
  );
  if (answer.type === "ready") node.status = answer.status;
  return node;
}

function serveState(port: MessagePort, state: FakeState): void {
  const post = (message: StateToConsensus) => port.postMessage(message);
  port.on("message", (message: ConsensusToState) => {
    switch (message.type) {
      case "apply":
        for (const entry of message.entries) {
          if (entry.index !== state.appliedIndex + 1) state.problems.push(`gap at ${entry.index}`);
          state.appliedIndex = entry.index;
          if (entry.data.byteLength > 0) state.log.push(new TextDecoder().decode(entry.data));
        }
        post({ type: "applied", index: state.appliedIndex });
        break;
      case "restore":
        state.appliedIndex = message.index;
        state.log = JSON.parse(new TextDecoder().decode(message.data)) as string[]; // written below
        break;
      case "leadership":
        state.leaderships.push(`${message.term}:${message.isLeader}:${message.leaderId ?? "-"}`);
        break;
      case "take-snapshot": {
        const data = new TextEncoder().encode(JSON.stringify(state.log));
        post({ type: "snapshot", index: state.appliedIndex, data });
        break;
      }
    }
  });
  post({ type: "opened", appliedIndex: state.appliedIndex });
}

/** Polls a level until it holds; the bound is far above what a loaded CI machine needs. */
async function until<T>(what: string, find: () => T | undefined | false): Promise<T> {
  const deadlineMs = performance.now() + 15_000;
  for (;;) {
    const found = find();
    if (found) return found;
    if (performance.now() > deadlineMs) throw new Error(`Waited in vain until ${what}`);
    await Bun.sleep(5);
  }
}

function leader(): Node | undefined {
  const leaders = [...running.values()].filter((node) => node.status?.isLeader);
  leaders.sort((a, b) => (b.status?.term ?? 0) - (a.status?.term ?? 0));
  return leaders[0];
}

async function propose(node: Node, text: string): Promise<number> {
  const data = new TextEncoder().encode(text);
  const answer = await node.client.request({ type: "propose", data }, { timeoutMs: 5_000 });
  if (answer.type !== "committed") throw new Error(`Got ${answer.type}`);
  return answer.index;
}

async function startThree(
  homes = new Map(["a", "b", "c"].map((id) => [id, tempDir()])),
): Promise<Map<string, string>> {
  const first = await start("a", homes.get("a") ?? "", { bootstrap: { addr: "a:1" } });
  await until("a leads alone", () => first.status?.isLeader);
  for (const id of ["b", "c"]) {
    await start(id, homes.get(id) ?? "");
    await first.client.request({
      type: "change-membership",
      change: { type: "add-learner", nodeId: id, addr: `${id}:1` },
    });
    for (;;) {
      try {
        await first.client.request({
          type: "change-membership",
          change: { type: "promote", nodeId: id },
        });
        break;
      } catch (error) {
        expect(String(error)).toMatch(/try again later/);
        await Bun.sleep(5);
      }
    }
  }
  return homes;
}

describe("consensus worker", () => {
  test("three threads commit, survive the leader's end, and find their logs again", async () => {
    const homes = await startThree();
    const first = await until("a leader is there", leader);
    const texts = Array.from({ length: 50 }, (_, i) => `x${i}`);
    await Promise.all(texts.map((text) => propose(first, text)));

    await first.worker.terminate();
    running.delete(first.id);
    const second = await until("another leads", () => {
      const found = leader();
      return found !== first && found;
    });
    const index = await propose(second, "after");
    texts.push("after");

    const again = await start(first.id, homes.get(first.id) ?? "");
    await until("the old leader has caught up", () => again.state.appliedIndex >= index);
    // Reads pass through the leader from anywhere.
    const read = await again.client.request({ type: "read-index" }, { timeoutMs: 5_000 });
    expect(read.type === "read-ready" && read.index >= index).toBe(true);
    for (const node of running.values()) {
      await until(`${node.id} has applied`, () => node.state.appliedIndex >= index);
      expect(node.state.problems).toEqual([]);
      expect(node.state.log.toSorted()).toEqual(texts.toSorted());
      expect(node.state.log).toEqual(second.state.log);
    }
    // A proposal on a follower names the leader.
    const error: unknown = await propose(again, "no").catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: "not-leader", details: { leader: { nodeId: second.id } } });
  });

  test("leadership moves on request, and a removed member learns of it", async () => {
    await startThree();
    const first = await until("a leader is there", leader);
    const target = [...running.keys()].find((id) => id !== first.id) ?? "";
    const done = await first.client.request({ type: "transfer-leadership", to: target });
    expect(done.type).toBe("done");
    const second = await until("the target leads", () => {
      const found = leader();
      return found?.id === target && found;
    });
    expect(second.state.leaderships.at(-1)).toMatch(/:true:/);
    await second.client.request({
      type: "change-membership",
      change: { type: "remove", nodeId: first.id },
    });
    await until("the removed node knows", () => first.isRemoved);
    const index = await propose(second, "two are enough");
    expect(index).toBeGreaterThan(0);
  });

  test("a restarted single manager leads again, alone by force if need be", async () => {
    const homes = await startThree();
    const first = await until("a leader is there", leader);
    await propose(first, "kept");
    for (const node of running.values()) await node.client.stop({ type: "stop" });
    expect(running.size).toBe(0);
    const again = await start("b", homes.get("b") ?? "", { forceNewCluster: { addr: "b:2" } });
    await until("b leads alone", () => again.status?.isLeader);
    expect(again.status?.members.map((m) => `${m.nodeId} ${m.addr}`)).toEqual(["b b:2"]);
    expect(again.state.log).toContain("kept");
    await propose(again, "goes on");
  });

  test("an only manager whose log has lost its end goes on from its state, when it may", async () => {
    const dir = tempDir();
    const node = await start("s", dir, { bootstrap: { addr: "s:1" } });
    await until("s leads", () => node.status?.isLeader);
    for (const text of ["one", "two", "three"]) await propose(node, text);
    await until("all is applied", () => node.state.log.length === 3);
    await node.client.stop({ type: "stop" });
    const db = new Database(join(dir, "raft.db"));
    db.run("DELETE FROM entry WHERE log_index > 3");
    db.close();
    const refused: unknown = await start("s", dir).catch((caught: unknown) => caught);
    expect(refused).toMatchObject({ details: { isDamaged: true } });
    const again = await start("s", dir, { acceptLoss: true });
    await until("s leads again", () => again.status?.isLeader);
    await propose(again, "four");
    await until("the new one is applied", () => again.state.log.length === 4);
    expect(again.state.log).toEqual(["one", "two", "three", "four"]);
    expect(again.state.problems).toEqual([]);
    await again.client.stop({ type: "stop" });
    const last = await start("s", dir);
    await until("s leads as ever", () => last.status?.isLeader);
  });

  test.skipIf(process.getuid?.() !== 0)(
    "a leader whose disk is full stands still, says that it does not lead, and follows when there is room",
    async () => {
      const disk = smallDisk(16 * 1024 * 1024);
      try {
        const homes = new Map([
          ["a", disk.dir],
          ["b", tempDir()],
          ["c", tempDir()],
        ]);
        await startThree(homes);
        const first = await until("a leader is there", leader);
        if (first.id !== "a") {
          await first.client.request({ type: "transfer-leadership", to: "a" });
        }
        const full = await until("a leads", () => leader()?.id === "a" && leader());
        const index = await propose(full, "before");
        disk.fill();
        const lost = propose(full, "x".repeat(500_000)).catch((error: unknown) => error);
        await until("a says that it does not lead", () => !full.status?.isLeader);
        const second = await until("another leads", leader);
        expect(second.id).not.toBe("a");
        const later = await propose(second, "meanwhile");
        expect(full.state.appliedIndex).toBeLessThan(later);
        disk.free();
        await until("a has caught up", () => full.state.appliedIndex >= later);
        expect(full.state.problems).toEqual([]);
        expect(full.state.log).toEqual(second.state.log);
        expect(later).toBeGreaterThan(index);
        // Appended by some, so it may have passed; but nobody is left waiting.
        await lost;
      } finally {
        for (const node of running.values()) await node.worker.terminate();
        running.clear();
        disk.remove();
      }
    },
  );

  test("a node without a log stays silent, and refuses what belongs to another node", async () => {
    const dir = tempDir();
    const node = await start("x", dir);
    const status = await node.client.request({ type: "status" });
    expect(status).toMatchObject({ type: "status", status: { term: 0, members: [] } });
    const error: unknown = await propose(node, "no").catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: "not-leader" });
    await node.client.stop({ type: "stop" });

    const owner = await start("y", dir, { bootstrap: { addr: "y:1" } });
    await until("y leads", () => owner.status?.isLeader);
    await owner.client.stop({ type: "stop" });
    const refused: unknown = await start("z", dir).catch((caught: unknown) => caught);
    expect(refused).toMatchObject({ code: "failed-precondition" });
  });
});
