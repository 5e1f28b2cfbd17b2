/** Rules of the paper and the thesis, one member at a time; whole clusters are simulated in test/sim. */
import { describe, expect, test } from "bun:test";
import { configurationOf, encodeConfiguration } from "../../../core/raft/configuration.ts";
import { lastIndex } from "../../../core/raft/log.ts";
import { type Entry, type Message, NO_BYTES } from "../../../core/raft/messages.ts";
import {
  createRaft,
  type Raft,
  type RaftAnswer,
  type RaftInput,
  type RaftOptions,
  raftStatus,
  type Ready,
  step,
  takeReady,
} from "../../../core/raft/raft.ts";
import { seededRandom } from "../../../core/random.ts";

const ELECTION_TICKS = 10;

/** A member `a` of `voters` ("a b (c)": c learns), with an entry of each of `terms` behind the first. */
function member(
  voters: string,
  state: {
    terms?: number[];
    term?: number;
    votedFor?: string;
    joinedIndex?: number;
    options?: Partial<RaftOptions>;
  } = {},
): Raft {
  const terms = state.terms ?? [];
  const members = voters.split(" ").map((word) => {
    const nodeId = word.replaceAll(/[()]/g, "");
    return { nodeId, addr: `${nodeId}:1`, isLearner: word !== nodeId, addedAtIndex: 1 };
  });
  const data = encodeConfiguration(configurationOf(members));
  const entries: Entry[] = [
    { index: 1, term: 1, type: "configuration", data },
    ...terms.map((term, i): Entry => ({ index: i + 2, term, type: "normal", data: NO_BYTES })),
  ];
  const raft = createRaft(
    {
      nodeId: "a",
      electionTicks: ELECTION_TICKS,
      heartbeatTicks: 1,
      random: seededRandom(1),
      ...state.options,
    },
    {
      hardState: {
        term: state.term ?? terms.at(-1) ?? 1,
        votedFor: state.votedFor,
        commitIndex: 1,
        joinedIndex: state.joinedIndex ?? 1,
      },
      base: { index: 0, term: 0, configuration: configurationOf([]) },
      entries,
      snapshot: undefined,
    },
    1,
  );
  carryOut(raft);
  return raft;
}

type Done = { sent: { to: string; message: Message }[]; answers: RaftAnswer[]; readies: Ready[] };

/** All duties, as the host does them. */
function carryOut(raft: Raft): Done {
  const done: Done = { sent: [], answers: [], readies: [] };
  for (let ready = takeReady(raft); ready; ready = takeReady(raft)) {
    done.readies.push(ready);
    done.sent.push(...ready.messagesBefore, ...ready.messagesAfter);
    done.answers.push(...ready.answers);
    if (ready.persist) step(raft, { type: "persisted" });
    const last = ready.committed.at(-1);
    if (last) step(raft, { type: "applied", index: last.index });
  }
  return done;
}

function give(raft: Raft, ...inputs: RaftInput[]): Done {
  for (const input of inputs) step(raft, input);
  return carryOut(raft);
}

function hear(raft: Raft, from: string, message: Message): Done {
  return give(raft, { type: "message", from, message });
}

function ticks(raft: Raft, count: number): Done {
  return give(raft, ...Array.from({ length: count }, (): RaftInput => ({ type: "tick" })));
}

const of = <T extends Message["type"]>(done: Done, type: T) =>
  done.sent.flatMap(
    ({ message }) => (message.type === type ? [message as Extract<Message, { type: T }>] : []), // compared just before
  );

/** `a` wins an election with the votes of `supporters`. */
function elect(raft: Raft, ...supporters: string[]): Done {
  for (let i = 0; i < 3 * ELECTION_TICKS && raft.role === "follower"; i++) ticks(raft, 1);
  const term = raft.term + 1;
  const granted = { term, isGranted: true } as const;
  for (const from of supporters) hear(raft, from, { type: "pre-vote-response", ...granted });
  let done: Done | undefined;
  for (const from of supporters) {
    const next = hear(raft, from, { type: "vote-response", ...granted });
    done = { ...next, sent: [...(done?.sent ?? []), ...next.sent] };
  }
  expect(raft.role).toBe("leader");
  return done ?? carryOut(raft);
}

function accept(raft: Raft, from: string, index: number, epoch = 1): Done {
  return hear(raft, from, { type: "append-response", term: raft.term, epoch, index });
}

const heartbeat = (
  term: number,
  extra: { commitIndex?: number; epoch?: number } = {},
): Message => ({
  type: "heartbeat",
  term,
  epoch: 1,
  commitIndex: 1,
  readId: 0,
  removedAtIndex: 0,
  ...extra,
});

describe("elections", () => {
  test("begin with a pre-vote that changes no term, and are won by a majority", () => {
    const raft = member("a b c");
    const asked = ticks(raft, 2 * ELECTION_TICKS);
    expect(of(asked, "pre-vote").length).toBeGreaterThanOrEqual(2);
    expect([raft.term, raft.role]).toEqual([1, "pre-candidate"]);
    const voting = hear(raft, "b", { type: "pre-vote-response", term: 2, isGranted: true });
    expect(of(voting, "vote")).toHaveLength(2);
    expect([raft.term, raft.votedFor]).toEqual([2, "a"]);
    hear(raft, "b", { type: "vote-response", term: 2, isGranted: true });
    expect(raft.role).toBe("leader");
  });

  test("a vote is durable before it is told", () => {
    const raft = member("a b c");
    step(raft, {
      type: "message",
      from: "b",
      message: { type: "vote", term: 5, lastIndex: 1, lastTerm: 1, isForced: false },
    });
    const ready = takeReady(raft);
    expect(ready?.messagesBefore).toEqual([]);
    expect(ready?.persist?.hardState).toMatchObject({ term: 5, votedFor: "b" });
    expect(ready?.messagesAfter).toEqual([
      { to: "b", message: { type: "vote-response", term: 5, isGranted: true } },
    ]);
  });

  test("one vote per term", () => {
    const raft = member("a b c");
    const ask = (from: string) =>
      hear(raft, from, { type: "vote", term: 5, lastIndex: 9, lastTerm: 4, isForced: false });
    expect(of(ask("b"), "vote-response")[0]?.isGranted).toBe(true);
    expect(of(ask("c"), "vote-response")[0]?.isGranted).toBe(false);
    expect(of(ask("b"), "vote-response")[0]?.isGranted).toBe(true);
  });

  test("a vote is remembered over a restart", () => {
    const raft = member("a b c", { term: 5, votedFor: "b" });
    const ask = (from: string) =>
      hear(raft, from, { type: "vote", term: 5, lastIndex: 9, lastTerm: 4, isForced: false });
    expect(of(ask("c"), "vote-response")[0]?.isGranted).toBe(false);
    expect(of(ask("b"), "vote-response")[0]?.isGranted).toBe(true);
  });

  test.each(["pre-vote", "vote"] as const)("a log that is behind gets no %s", (type) => {
    const raft = member("a b c", { terms: [2, 2] });
    const ask = (lastIndex: number, lastTerm: number) => {
      const request = { term: 9, lastIndex, lastTerm };
      const done = hear(
        raft,
        "b",
        type === "vote" ? { type, ...request, isForced: false } : { type, ...request },
      );
      return of(done, `${type}-response`)[0]?.isGranted;
    };
    expect(ask(2, 2)).toBe(false);
    expect(ask(9, 1)).toBe(false);
    expect(ask(3, 2)).toBe(true);
  });

  test("who hears a leader helps nobody against it, unless the leader asked for it", () => {
    const raft = member("a b c");
    hear(raft, "b", heartbeat(1));
    const ask = (isForced: boolean) =>
      hear(raft, "c", { type: "vote", term: 7, lastIndex: 9, lastTerm: 1, isForced });
    expect(ask(false).sent).toEqual([]);
    expect(raft.term).toBe(1);
    const preVote = hear(raft, "c", { type: "pre-vote", term: 8, lastIndex: 9, lastTerm: 1 });
    expect(of(preVote, "pre-vote-response")[0]).toMatchObject({ isGranted: false, term: 1 });
    expect(of(ask(true), "vote-response")[0]?.isGranted).toBe(true);
  });

  test("a late tick concludes nothing from silence, the next one may", () => {
    const raft = member("a b c");
    hear(raft, "b", heartbeat(1));
    ticks(raft, ELECTION_TICKS - 1);
    raft.electionElapsed = 3 * ELECTION_TICKS;
    expect(give(raft, { type: "tick", isLate: true }).sent).toEqual([]);
    expect(of(ticks(raft, 1), "pre-vote")).toHaveLength(2);
  });

  test("the only voter leads at its first tick; its learner hears nothing before that is durable", () => {
    const raft = member("a (b)");
    step(raft, { type: "tick" });
    expect(raft.role).toBe("leader");
    const ready = takeReady(raft);
    expect(ready?.messagesBefore).toEqual([]);
    expect(ready?.messagesAfter.map(({ to }) => to)).toContain("b");
    expect(ready?.committed).toEqual([]);
    step(raft, { type: "persisted" });
    expect(raft.log.commitIndex).toBe(2);
  });

  test("a leader that no majority answers steps down", () => {
    const raft = member("a b c");
    elect(raft, "b");
    ticks(raft, ELECTION_TICKS);
    expect(raft.role).toBe("leader");
    ticks(raft, 2);
    expect([raft.role, raft.leaderId]).toEqual(["follower", undefined]);
  });
});

describe("commitment", () => {
  test("entries of an earlier term are not committed by counting (raft figure 8)", () => {
    const raft = member("a b c d e", { terms: [2], term: 3 });
    elect(raft, "b", "c");
    expect(raft.term).toBe(4);
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    // A majority has entry 2 of term 2, but another leader may still replace it.
    expect(raft.log.commitIndex).toBe(1);
    accept(raft, "b", 3);
    accept(raft, "c", 3);
    expect(raft.log.commitIndex).toBe(3);
  });

  test("the leader's appends may leave before its own disk is done, its own vote counts after", () => {
    const raft = member("a b c");
    elect(raft, "b");
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    step(raft, { type: "proposal", requestId: 1, data: new Uint8Array([1]) });
    const ready = takeReady(raft);
    const early = ready?.messagesBefore.map(({ message }) => message.type);
    expect(early).toEqual(["append", "append"]);
    expect(raft.log.persistedIndex).toBe(2);
    step(raft, { type: "persisted" });
    expect(raft.log.persistedIndex).toBe(3);
    expect(raft.log.commitIndex).toBe(2);
    const done = accept(raft, "c", 3);
    expect(done.answers).toEqual([{ type: "committed", requestId: 1, index: 3 }]);
  });

  test("a follower answers for entries after they are durable", () => {
    const raft = member("a b c");
    step(raft, {
      type: "message",
      from: "b",
      message: {
        type: "append",
        term: 2,
        epoch: 1,
        previousIndex: 1,
        previousTerm: 1,
        commitIndex: 9,
        entries: [{ index: 2, term: 2, type: "normal", data: NO_BYTES }],
      },
    });
    const ready = takeReady(raft);
    expect(ready?.persist?.entries.map((entry) => entry.index)).toEqual([2]);
    expect(ready?.messagesBefore).toEqual([]);
    expect(ready?.messagesAfter[0]?.message).toMatchObject({ type: "append-response", index: 2 });
    // Commits no more than what it knows to match, applies nothing before it is durable.
    expect(raft.log.commitIndex).toBe(2);
    expect(ready?.committed).toEqual([]);
  });

  test("a follower commits no more than what it knows to match, however long its log is", () => {
    const raft = member("a b c", { terms: [1, 1] });
    hear(raft, "b", {
      type: "append",
      term: 2,
      epoch: 1,
      previousIndex: 1,
      previousTerm: 1,
      commitIndex: 3,
      entries: [{ index: 2, term: 1, type: "normal", data: NO_BYTES }],
    });
    expect([raft.log.commitIndex, raft.log.entries.length]).toEqual([2, 3]);
  });

  test("a member that is added again starts from nothing: late answers do not count", () => {
    const raft = member("a b c");
    elect(raft, "b");
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    const remove = give(raft, {
      type: "conf-change",
      requestId: 1,
      change: { type: "remove", nodeId: "c" },
    });
    expect(remove.answers).toEqual([]);
    accept(raft, "b", 3);
    const change = { type: "add-learner", nodeId: "c", addr: "c:1" } as const;
    give(raft, { type: "conf-change", requestId: 2, change });
    accept(raft, "c", 4);
    expect(raft.progress.get("c")?.matchIndex).toBe(0);
    accept(raft, "c", 4, 4);
    expect(raft.progress.get("c")?.matchIndex).toBe(4);
  });

  // It may have begun anew with an empty log while the leader still tells it of its removal. Taking that for
  // its membership, it was given a snapshot in which it had been the only voter, and led (found by a seed).
  test("a removed member is told that it has not joined, whatever its log will hold", () => {
    const raft = member("a b c");
    elect(raft, "b");
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    const change = { type: "remove", nodeId: "c" } as const;
    const removal = give(raft, { type: "conf-change", requestId: 1, change });
    const told = [...removal.sent, ...accept(raft, "b", 3).sent, ...ticks(raft, 2).sent];
    const toRemoved = told.filter(({ to }) => to === "c").map(({ message }) => message);
    const epochs = toRemoved.flatMap((message) => ("epoch" in message ? [message.epoch] : []));
    expect(epochs.length).toBeGreaterThan(0);
    for (const epoch of epochs) expect(epoch).toBe(Number.MAX_SAFE_INTEGER);
    const anew = member("a", { joinedIndex: Number.MAX_SAFE_INTEGER });
    ticks(anew, 3 * ELECTION_TICKS);
    expect(anew.role).toBe("follower");
  });
});

describe("disturbance", () => {
  test("a stranger's answers and higher terms change nothing at the leader", () => {
    const raft = member("a b c");
    elect(raft, "b");
    const strange: Message[] = [
      { type: "append-response", term: 99, epoch: 1, index: 9 },
      { type: "heartbeat-response", term: 99, epoch: 1, commitIndex: 9, readId: 9 },
      { type: "vote-response", term: 99, isGranted: false },
      { type: "vote", term: 99, lastIndex: 99, lastTerm: 98, isForced: false },
      { type: "pre-vote", term: 99, lastIndex: 99, lastTerm: 98 },
      { type: "read-index", term: 99, readId: 1 },
    ];
    for (const message of strange) hear(raft, "stranger", message);
    expect([raft.role, raft.term]).toEqual(["leader", 2]);
  });

  test("a node that has not reached its own addition neither votes nor campaigns", () => {
    const raft = member("a b", { joinedIndex: 5 });
    const vote = { type: "vote", term: 9, lastIndex: 99, lastTerm: 8, isForced: true } as const;
    expect(of(hear(raft, "b", vote), "vote-response")[0]?.isGranted).toBe(false);
    expect(of(ticks(raft, 5 * ELECTION_TICKS), "pre-vote")).toEqual([]);
    hear(raft, "b", { type: "timeout-now", term: 9 });
    expect(raft.role).toBe("follower");
    // Another leader's word replaces the first one's, until it is reached.
    hear(raft, "b", heartbeat(9, { epoch: 1 }));
    expect(of(ticks(raft, 3 * ELECTION_TICKS), "pre-vote").length).toBeGreaterThan(0);
  });

  test("a node without a configuration stays silent", () => {
    const raft = createRaft(
      { nodeId: "a", electionTicks: 10, heartbeatTicks: 1, random: seededRandom(1) },
      {
        hardState: { term: 0, votedFor: undefined, commitIndex: 0, joinedIndex: undefined },
        base: { index: 0, term: 0, configuration: configurationOf([]) },
        entries: [],
        snapshot: undefined,
      },
      0,
    );
    expect(ticks(raft, 100).sent).toEqual([]);
    expect(raftStatus(raft)).toMatchObject({ isLeader: false, members: [] });
  });
});

describe("membership", () => {
  const removeC: RaftInput = {
    type: "conf-change",
    requestId: 7,
    change: { type: "remove", nodeId: "c" },
  };

  test("changes only after an entry of the own term, and one at a time", () => {
    const raft = member("a b c");
    elect(raft, "b");
    expect(give(raft, removeC).answers[0]).toMatchObject({ refusal: { code: "busy" } });
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    expect(give(raft, removeC).answers).toEqual([]);
    expect(raft.voters).toEqual(["a", "b"]);
    const second = give(raft, { ...removeC, requestId: 8 });
    expect(second.answers[0]).toMatchObject({ refusal: { code: "busy" } });
    const done = accept(raft, "b", 3);
    expect(done.answers).toEqual([{ type: "committed", requestId: 7, index: 3 }]);
    // The removed one is told, and then forgotten.
    expect(done.sent.some(({ to }) => to === "c") || raft.progress.has("c")).toBe(true);
    hear(raft, "c", {
      type: "heartbeat-response",
      term: 2,
      epoch: raft.progress.get("c")?.epoch ?? 0,
      commitIndex: 3,
      readId: 0,
    });
    expect(raft.progress.has("c")).toBe(false);
  });

  test("a voter whose removal is not committed still campaigns, for others may need it", () => {
    const raft = member("a b", { term: 2 });
    const members = [{ nodeId: "b", addr: "b:1", isLearner: false, addedAtIndex: 1 }];
    const data = encodeConfiguration(configurationOf(members));
    hear(raft, "b", {
      type: "append",
      term: 2,
      epoch: 1,
      previousIndex: 1,
      previousTerm: 1,
      commitIndex: 1,
      entries: [{ index: 2, term: 2, type: "configuration", data }],
    });
    expect(raft.voters).toEqual(["b"]);
    expect(of(ticks(raft, 3 * ELECTION_TICKS), "pre-vote").length).toBeGreaterThan(0);
    hear(raft, "b", heartbeat(2, { commitIndex: 2 }));
    expect(of(ticks(raft, 3 * ELECTION_TICKS), "pre-vote")).toEqual([]);
  });

  test("a configuration goes with its entry when another leader replaces that", () => {
    const raft = member("a b c", { term: 2 });
    const members = [{ nodeId: "b", addr: "b:1", isLearner: false, addedAtIndex: 1 }];
    const data = encodeConfiguration(configurationOf(members));
    const append = (term: number, entry: Entry): Message => ({
      type: "append",
      term,
      epoch: 1,
      previousIndex: 1,
      previousTerm: 1,
      commitIndex: 1,
      entries: [entry],
    });
    hear(raft, "b", append(2, { index: 2, term: 2, type: "configuration", data }));
    expect(raft.voters).toEqual(["b"]);
    hear(raft, "c", append(3, { index: 2, term: 3, type: "normal", data: NO_BYTES }));
    expect(raft.voters).toEqual(["a", "b", "c"]);
  });

  test("a leader that removes itself hands over once that is committed", () => {
    const raft = member("a b c");
    elect(raft, "b");
    accept(raft, "b", 2);
    accept(raft, "c", 2);
    const removal = { type: "remove", nodeId: "a" } as const;
    give(raft, { type: "conf-change", requestId: 1, change: removal });
    accept(raft, "b", 3);
    expect(raft.role).toBe("leader");
    const done = accept(raft, "c", 3);
    expect(raft.role).toBe("follower");
    expect(of(done, "timeout-now")).toHaveLength(1);
    expect(done.readies.some((ready) => ready.isRemoved)).toBe(true);
    expect(of(ticks(raft, 3 * ELECTION_TICKS), "pre-vote")).toEqual([]);
  });
});

describe("reads", () => {
  const confirm = (raft: Raft, from: string, readId: number) =>
    hear(raft, from, {
      type: "heartbeat-response",
      term: raft.term,
      epoch: 1,
      commitIndex: 1,
      readId,
    });

  test("wait for an entry of the own term, then for a majority after they began", () => {
    const raft = member("a b c");
    elect(raft, "b");
    expect(of(give(raft, { type: "read-index", requestId: 1 }), "heartbeat")).toEqual([]);
    const begun = accept(raft, "b", 2);
    const [asked] = of(begun, "heartbeat").filter(({ readId }) => readId > 0);
    expect(asked?.readId).toBe(1);
    expect(confirm(raft, "b", 0).answers).toEqual([]);
    const done = confirm(raft, "c", 1);
    expect(done.answers).toEqual([{ type: "read-ready", requestId: 1, index: 2 }]);
  });

  test("of a follower go to the leader, again when unanswered, and end without one", () => {
    const raft = member("a b c");
    hear(raft, "b", heartbeat(1));
    const asked = of(give(raft, { type: "read-index", requestId: 1 }), "read-index");
    expect(asked).toHaveLength(1);
    const readId = asked[0]?.readId ?? 0;
    expect(of(ticks(raft, ELECTION_TICKS / 2), "read-index")).toEqual(asked);
    const stale = { type: "read-index-response", term: 1, readId: readId + 1, index: 9 } as const;
    expect(hear(raft, "b", stale).answers).toEqual([]);
    const done = hear(raft, "b", { type: "read-index-response", term: 1, readId, index: 4 });
    expect(done.answers).toEqual([{ type: "read-ready", requestId: 1, index: 4 }]);
    give(raft, { type: "read-index", requestId: 2 });
    const ended = ticks(raft, 3 * ELECTION_TICKS);
    expect(ended.answers).toMatchObject([{ requestId: 2, refusal: { code: "no-quorum" } }]);
  });
});

describe("proposals", () => {
  const propose = (raft: Raft, sizeBytes: number, requestId = 1) =>
    give(raft, { type: "proposal", requestId, data: new Uint8Array(sizeBytes) }).answers[0];

  test("are refused by a follower, when too big, and when too many wait", () => {
    const options = { proposalBytesMax: 100, uncommittedBytesMax: 150 };
    const raft = member("a b c", { options });
    expect(propose(raft, 1)).toMatchObject({ refusal: { code: "not-leader" } });
    elect(raft, "b");
    expect(propose(raft, 101)).toMatchObject({ refusal: { code: "invalid-argument" } });
    expect(propose(raft, 80)).toBeUndefined();
    expect(propose(raft, 80)).toMatchObject({ refusal: { code: "busy" } });
    accept(raft, "b", 3);
    expect(propose(raft, 80)).toBeUndefined();
  });

  test("for the leader of another term are refused, and not appended", () => {
    const raft = member("a b c");
    elect(raft, "b");
    const last = lastIndex(raft.log);
    const late = { type: "proposal", requestId: 1, data: NO_BYTES, term: raft.term - 1 } as const;
    expect(give(raft, late).answers).toMatchObject([{ refusal: { code: "not-leader" } }]);
    expect(lastIndex(raft.log)).toBe(last);
    give(raft, { ...late, requestId: 2, term: raft.term });
    expect(lastIndex(raft.log)).toBe(last + 1);
  });

  test("that another leader replaced are said to be dropped, those unknown to be unknown", () => {
    const raft = member("a b c");
    elect(raft, "b");
    propose(raft, 1, 1);
    propose(raft, 1, 2);
    const done = hear(raft, "c", {
      type: "append",
      term: 3,
      epoch: 1,
      previousIndex: 3,
      previousTerm: 2,
      commitIndex: 1,
      entries: [{ index: 4, term: 3, type: "normal", data: NO_BYTES }],
    });
    const dropped = { code: "proposal-dropped", details: { isCommitted: false } };
    expect(done.answers).toMatchObject([{ requestId: 2, refusal: dropped }]);
    const ended = ticks(raft, 3 * ELECTION_TICKS);
    expect(ended.answers).toMatchObject([{ requestId: 1, refusal: { code: "proposal-dropped" } }]);
  });
});

describe("leadership transfer", () => {
  test("waits until the target has everything, takes no proposals meanwhile, ends with its election", () => {
    const raft = member("a b c");
    elect(raft, "b");
    accept(raft, "b", 2);
    const begun = give(raft, { type: "transfer", requestId: 1, to: "c" });
    expect(of(begun, "timeout-now")).toEqual([]);
    const refused = give(raft, { type: "proposal", requestId: 2, data: NO_BYTES });
    expect(refused.answers).toMatchObject([{ refusal: { code: "busy" } }]);
    expect(of(accept(raft, "c", 2), "timeout-now")).toHaveLength(1);
    hear(raft, "c", { type: "vote", term: 3, lastIndex: 2, lastTerm: 2, isForced: true });
    const done = hear(raft, "c", heartbeat(3));
    expect(done.answers).toEqual([{ type: "done", requestId: 1 }]);
  });

  test("is given up after an election timeout", () => {
    const raft = member("a b c");
    elect(raft, "b");
    give(raft, { type: "transfer", requestId: 1, to: "c" });
    const answers: RaftAnswer[] = [];
    for (let i = 0; i < ELECTION_TICKS; i++) {
      accept(raft, "b", 2);
      answers.push(...ticks(raft, 1).answers);
    }
    expect(answers).toMatchObject([{ requestId: 1, refusal: { code: "deadline" } }]);
    expect(give(raft, { type: "proposal", requestId: 2, data: NO_BYTES }).answers).toEqual([]);
  });
});
