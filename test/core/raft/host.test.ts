/** The order of duties and the bounds of the loop; whole clusters are simulated in test/sim. */
import { describe, expect, test } from "bun:test";
import { encodeFrame } from "../../../core/raft/codec.ts";
import {
  createHost,
  hasWork,
  type Host,
  INPUTS_MAX,
  pushInput,
  runTurn,
} from "../../../core/raft/host.ts";
import type { RaftAnswer } from "../../../core/raft/raft.ts";
import { bootstrapBatch } from "../../../core/raft/sqlite-log.ts";
import { seededRandom } from "../../../core/random.ts";
import { createDisk, type Disk } from "../../sim/disk.ts";

type Recorded = { host: Host; duties: string[]; answers: RaftAnswer[]; restored: Uint8Array[] };

function start(
  disk: Disk,
  options: { appliedIndex?: number; snapshotEntries?: number } = {},
): Recorded {
  const duties: string[] = [];
  const answers: RaftAnswer[] = [];
  const restored: Uint8Array[] = [];
  const host = createHost(
    {
      nodeId: "a",
      electionTicks: 10,
      heartbeatTicks: 1,
      random: seededRandom(1),
      tailEntries: 2,
      snapshotPieceBytes: 4,
      snapshotEntries: options.snapshotEntries ?? 1_000,
    },
    disk.read(),
    {
      storage: {
        ...disk,
        persist: (batch) => {
          disk.persist(batch);
          duties.push(`persist ${batch.entries.map((entry) => entry.index).join(",")}`);
        },
      },
      send: (to) => duties.push(`send ${to}`),
      state: {
        apply: (entries) => duties.push(`apply ${entries.map((entry) => entry.index).join(",")}`),
        restore: ({ index, data }) => {
          duties.push(`restore ${index}`);
          restored.push(data);
        },
        leadership: ({ isLeader }) => duties.push(`leads ${isLeader}`),
        takeSnapshot: () => duties.push("take-snapshot"),
      },
      answer: (answer) => {
        answers.push(answer);
        duties.push(`answer ${answer.type}`);
      },
      statusChanged: () => undefined,
      removed: () => undefined,
    },
    options.appliedIndex ?? 0,
  );
  return { host, duties, answers, restored };
}

function founded(): Disk {
  const disk = createDisk();
  disk.persist(bootstrapBatch("a", "a:1"));
  return disk;
}

function proposal(requestId: number) {
  return { type: "proposal", requestId, data: new Uint8Array([requestId]) } as const;
}

/** A leader with `count` proposals applied, and one turn more. */
function busyLeader(count: number): Recorded & { disk: Disk } {
  const disk = founded();
  const recorded = start(disk, { snapshotEntries: 5 });
  pushInput(recorded.host, { type: "tick" });
  runTurn(recorded.host);
  for (let i = 1; i <= count; i++) pushInput(recorded.host, proposal(i));
  runTurn(recorded.host);
  pushInput(recorded.host, { type: "state-applied", index: 2 + count });
  runTurn(recorded.host);
  return { ...recorded, disk };
}

describe("runTurn()", () => {
  test("persists, applies, then tells the leadership; one turn's proposals share an fsync", () => {
    const { host, duties } = start(founded());
    pushInput(host, { type: "tick" });
    runTurn(host);
    expect(duties).toEqual(["persist 2", "apply 1", "apply 2", "leads true"]);
    duties.length = 0;
    for (let i = 1; i <= 3; i++) pushInput(host, proposal(i));
    runTurn(host);
    expect(duties).toEqual([
      "persist 3,4,5",
      "apply 3,4,5",
      "answer committed",
      "answer committed",
      "answer committed",
    ]);
  });

  test("takes a snapshot when it is time, stages a piece per turn, then cuts the log", () => {
    const { host, duties, disk } = busyLeader(6);
    expect(duties.at(-1)).toBe("take-snapshot");
    const data = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    pushInput(host, { type: "state-snapshot", index: 8, data });
    let turns = 0;
    while (hasWork(host)) {
      runTurn(host);
      turns++;
    }
    expect(turns).toBe(5); // taken in, three pieces, put in force
    const stored = disk.read();
    expect(stored.snapshot).toMatchObject({ index: 8, pieceCount: 3, sizeBytes: 9 });
    expect([stored.base.index, stored.entries.map((entry) => entry.index)]).toEqual([6, [7, 8]]);

    // A state machine that lost its file is given it back, and the rest of the log.
    const again = start(disk, { appliedIndex: 0 });
    expect(again.duties).toEqual(["restore 8"]);
    expect(again.restored).toEqual([data]);
    expect(again.host.raft.log.appliedIndex).toBe(8);
  });

  test("drops damaged frames and counts them", () => {
    const { host } = start(founded());
    const frame = encodeFrame([{ type: "timeout-now", term: 1 }]);
    frame[frame.length - 1] = 0xff;
    pushInput(host, { type: "peer-frame", from: "b", frame });
    runTurn(host);
    expect([host.damagedCount, host.raft.term]).toEqual([1, 1]);
  });
});

describe("pushInput()", () => {
  test("refuses requests and drops frames beyond its bound, but keeps ticks", () => {
    const { host, answers } = start(founded());
    for (let i = 0; i < INPUTS_MAX; i++) pushInput(host, { type: "peer-unreachable", nodeId: "b" });
    pushInput(host, proposal(1));
    pushInput(host, { type: "peer-frame", from: "b", frame: new Uint8Array() });
    pushInput(host, { type: "tick" });
    expect(answers).toMatchObject([{ requestId: 1, refusal: { code: "busy" } }]);
    expect([host.overflowCount, host.inputs.length]).toEqual([1, INPUTS_MAX + 1]);
  });
});
