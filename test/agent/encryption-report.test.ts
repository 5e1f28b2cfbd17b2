import { expect, test } from "bun:test";
import { startEncryptionReport } from "../../agent/encryption-report.ts";
import { createLogger } from "../../agent/logger.ts";
import type { AssignmentsMessage } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import type { NodeEncryption } from "../../core/objects/node.ts";

const says = (generation: string): NodeEncryption => ({ generations: [generation], keyIds: [] });

function entry(nodeId: string, encryption?: NodeEncryption): AssignmentsMessage {
  const body = { nodeId, hostname: "", index: 1, dataPathAddr: "", meshAddress: "" };
  const item = {
    key: `peer/${nodeId}`,
    kind: "peer" as const,
    body: encryption ? { ...body, encryption } : body,
  };
  return { type: "incremental", generation: 2, put: [item], removed: [] };
}

function reporter(nodeId: () => string | undefined = () => "n1") {
  const asked: NodeEncryption[] = [];
  const answers: (() => Promise<unknown>)[] = [];
  const report = startEncryptionReport({
    nodeId,
    ask: (encryption) => {
      asked.push(encryption);
      return (answers.shift() ?? (() => Promise.resolve()))();
    },
    log: createLogger("silent"),
  });
  return { report, asked, answers };
}

test("a node tells what differs from what the managers know, and nothing else", async () => {
  const { report, asked } = reporter();
  report.say(says("g1"));
  // Nobody has spoken yet.
  expect(asked).toEqual([]);
  report.take(entry("n2"));
  expect(asked).toEqual([]);
  report.take(entry("n1", says("g1")));
  expect(asked).toEqual([]);
  report.say(says("g2"));
  expect(asked).toEqual([says("g2")]);
  report.take(entry("n1", says("g2")));
  await Bun.sleep(0);
  expect(asked).toHaveLength(1);
  // A leader that knew less: the entry is an older one again.
  report.take(entry("n1"));
  expect(asked).toHaveLength(2);
  report.stop();
});

test("a node that has left tells nobody, and does again where it joins", async () => {
  let nodeId: string | undefined = "n1";
  const { report, asked } = reporter(() => nodeId);
  report.take(entry("n1"));
  nodeId = undefined;
  report.say(says("g1"));
  expect(asked).toEqual([]);
  nodeId = "n2";
  report.take(entry("n2"));
  expect(asked).toEqual([says("g1")]);
  report.stop();
});

test("what is said while the leader is asked is told after", async () => {
  const { report, asked, answers } = reporter();
  const first = Promise.withResolvers<void>();
  answers.push(() => first.promise);
  report.take(entry("n1"));
  report.say(says("g1"));
  report.say(says("g2"));
  expect(asked).toEqual([says("g1")]);
  first.resolve();
  await Bun.sleep(1);
  expect(asked).toEqual([says("g1"), says("g2")]);
  report.stop();
});

test("a refusal is tried again", async () => {
  const { report, asked, answers } = reporter();
  answers.push(() => Promise.reject(new ClusterError("unavailable", "no leader")));
  report.take(entry("n1"));
  report.say(says("g1"));
  const endMs = performance.now() + 5_000;
  while (asked.length < 2 && performance.now() < endMs) await Bun.sleep(20);
  expect(asked).toEqual([says("g1"), says("g1")]);
  report.stop();
});
