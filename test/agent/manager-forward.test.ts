/** What a manager does with a write that it forwards, over threads that the test plays. */
import { expect, test } from "bun:test";
import { MessageChannel } from "node:worker_threads";
import { createLogger } from "../../agent/logger.ts";
import { type Manager, startManagerOver } from "../../agent/manager.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import type { WorkerClient } from "../../agent/worker-client.ts";
import { ClusterError } from "../../core/errors.ts";
import type {
  ConsensusAnswer,
  ConsensusInput,
  ConsensusOutput,
  RaftStatus,
  StateAnswer,
  StateInput,
  StateOutput,
} from "../../core/protocol.ts";
import { seededRandom } from "../../core/random.ts";

/** A thread that answers at once, by `answer`; `say` is what it tells unasked. */
function fakeWorker<I, A, O>(answer: (input: I) => A) {
  let handler: (output: O) => void = () => undefined;
  const client: WorkerClient<I, A, O> = {
    request: (input) => Promise.resolve(answer(input)),
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
async function follower(forward: (leaderId: string) => Promise<void>) {
  const consensus = fakeWorker<ConsensusInput, ConsensusAnswer, ConsensusOutput>((input) => {
    if (input.type === "init") return { type: "ready", status: led(1, "b") };
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
      forwardProposal: (leader) => forward(leader.nodeId),
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
  return { manager, stop, consensus, state };
}

const PROPOSAL = { id: "p1", atMs: 0, mode: "all", actions: [] } as const;

test("a write at a leader that stands still goes to the next one as soon as that leads", async () => {
  const asked: string[] = [];
  const { manager, stop, consensus, state } = await follower((leaderId) => {
    asked.push(leaderId);
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
  expect(asked).toEqual(["b", "c"]);
  // Not the time limit of the request to the old leader.
  expect(performance.now() - startedMs).toBeLessThan(2_000);
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
