/** What a manager does with a write that it forwards, over threads that the test plays. */
import { expect, test } from "bun:test";
import { MessageChannel } from "node:worker_threads";
import { createLogger } from "../../agent/logger.ts";
import { type Manager, startManagerOver } from "../../agent/manager.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import type { WorkerClient } from "../../agent/worker-client.ts";
import { ClusterError } from "../../core/errors.ts";
import {
  type ConsensusAnswer,
  type ConsensusInput,
  type ConsensusOutput,
  encodeProposal,
  type RaftStatus,
  type StateAnswer,
  type StateInput,
  type StateOutput,
} from "../../core/protocol.ts";
import { seededRandom } from "../../core/random.ts";

/** A thread that answers at once, by `answer`; `say` is what it tells unasked. */
function fakeWorker<I, A, O>(answer: (input: I) => A) {
  let handler: (output: O) => void = () => undefined;
  const client: WorkerClient<I, A, O> = {
    request: async (input) => answer(input),
    notify: () => undefined,
    onOutput: (next) => {
      handler = next;
    },
    onExit: () => undefined,
    stop: () => Promise.resolve(),
  };
  return { client, say: (output: O) => handler(output) };
}

const led = (term: number, leaderId: string): RaftStatus => ({
  term,
  leaderId,
  isLeader: false,
  commitIndex: 1,
  appliedIndex: 1,
  members: ["a", "b", "c"].map((nodeId) => ({ nodeId, addr: `${nodeId}:1`, isLearner: false })),
});

/** Follower `a` of leader `b`; `forward` plays the leaders. */
async function follower(forward: (leaderId: string, term: number) => Promise<void>) {
  const given: (number | undefined)[] = [];
  const consensus = fakeWorker<ConsensusInput, ConsensusAnswer, ConsensusOutput>((input) => {
    if (input.type === "init") return { type: "ready", status: led(1, "b") };
    if (input.type === "propose") {
      given.push(input.term);
      if (input.term !== 3) throw new ClusterError("not-leader", "Another term");
      return { type: "committed", index: 9 };
    }
    return input.type === "read-index" ? { type: "read-ready", index: 1 } : { type: "done" };
  });
  const state = fakeWorker<StateInput, StateAnswer, StateOutput>((input) =>
    input.type === "init" ? { type: "ready", appliedIndex: 1 } : { type: "done" },
  );
  const { port1, port2 } = new MessageChannel();
  const manager: Manager = await startManagerOver(
    {
      nodeId: "a",
      dataDir: "",
      log: createLogger("silent"),
      random: seededRandom(1),
      sendRaft: () => true,
      lastKnownAddr: () => undefined,
      forwardProposal: (leader) => forward(leader.nodeId, leader.term),
      onStateOutput: () => undefined,
      onStatus: () => undefined,
      onRemoved: () => undefined,
      onCrash: () => undefined,
    },
    {
      consensus: consensus.client,
      state: state.client,
      line: { state: port1, consensus: port2 },
      raftDir: "",
      stateDir: "",
      openReader: () => ({
        read: (read) => {
          // Only whether there is a cluster yet.
          return read(createMemoryRows());
        },
        close: () => undefined,
      }),
    },
  );
  const stop = async () => {
    await manager.stop();
    port1.close();
    port2.close();
  };
  return { manager, stop, consensus, state, given };
}

const PROPOSAL = { id: "p1", atMs: 0, mode: "all", actions: [] } as const;

test("a write at a leader that stands still goes to the next one as soon as that leads", async () => {
  const asked: string[] = [];
  const { manager, stop, consensus, state } = await follower((leaderId, term) => {
    asked.push(`${leaderId} of term ${term}`);
    if (leaderId === "b") return new Promise(() => undefined);
    const outcome = { type: "applied", index: 2, droppedCount: 0 } as const;
    const outcomes = [{ proposalId: PROPOSAL.id, outcome }];
    state.say({ type: "applied", index: 2, outcomes, changes: [] });
    return Promise.resolve();
  });
  const writing = manager.proposeRaw({ ...PROPOSAL, actions: [] });
  const startedMs = performance.now();
  consensus.say({ type: "status-changed", status: led(2, "c") });
  expect(await writing).toEqual({ index: 2 });
  expect(asked).toEqual(["b of term 1", "c of term 2"]);
  // Not the time limit of the request to the old leader.
  expect(performance.now() - startedMs).toBeLessThan(2_000);
  await stop();
});

test("a forwarded write is appended once in the term that it is for, and in no other", async () => {
  const { manager, stop, consensus, given } = await follower(() => Promise.resolve());
  consensus.say({ type: "status-changed", status: { ...led(3, "a"), isLeader: true } });
  const data = encodeProposal({ ...PROPOSAL, actions: [] });
  expect(await manager.proposeAsLeader(data, 3)).toBe(9);
  // It was long under way to an earlier time as leader: refused, and the later one is known as before.
  expect(manager.proposeAsLeader(data, 1)).rejects.toThrow("Another term");
  expect(await manager.proposeAsLeader(data, 3)).toBe(9);
  expect(await manager.proposeAsLeader(data)).toBe(9);
  expect(given).toEqual([3, 1]);
  await stop();
});

test("a write at a manager whose disk is full is refused at once, naming the disk", async () => {
  const { manager, stop } = await follower(() => Promise.reject(new Error("Not to be asked")));
  manager.useDisk({
    state: "critical",
    freeBytes: 0,
    text: "the file system of /x has 0 MiB left",
  });
  const error = await manager.proposeRaw({ ...PROPOSAL, actions: [] }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(ClusterError);
  expect(String(error)).toContain("the file system of /x has 0 MiB left");
  const reading = await manager.read((view) => view.nodes()).catch((e: unknown) => e);
  expect(String(reading)).toContain("the file system of /x has 0 MiB left");
  await stop();
});
