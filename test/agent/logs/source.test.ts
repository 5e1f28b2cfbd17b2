import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { decodeRecords, type LogRecord, recordTime } from "../../../agent/logs/record.ts";
import { createLogSource } from "../../../agent/logs/source.ts";
import { type LogStream, openOver, serveOver } from "../../../agent/logs/stream.ts";
import type { LogEnd, LogOpen, LogTask } from "../../../net/rpc/methods.ts";
import { type FakeConnection, fakePair } from "./fake-connection.ts";
import {
  engineFrame,
  type FakeLogEngine,
  startFakeLogEngine,
  timeOf,
  until,
} from "./fake-engine.ts";

let engine: FakeLogEngine;
beforeEach(async () => {
  engine = await startFakeLogEngine();
});
afterEach(() => engine.stop());

const task = (name: string, set: Partial<LogTask> = {}): LogTask => ({
  id: name,
  container: name,
  isTty: false,
  ...set,
});
const frames = (from: number, count: number, text = "") =>
  Buffer.concat(
    Array.from({ length: count }, (_, at) => {
      const number = from + at;
      return engineFrame(1, timeOf(number), `${number}${text}\n`);
    }),
  );
const OPEN: LogOpen = {
  nodeId: "n1",
  tasks: [],
  stdout: true,
  stderr: true,
  follow: false,
  details: false,
  windowBytes: 1_000_000,
};

/** A stream through both ends of a connection, taken as fast as it comes unless `isSlow`. */
function start(set: Partial<LogOpen>, options: { isSlow?: boolean; streamsMax?: number } = {}) {
  const [near, far] = fakePair();
  const source = createLogSource({
    nodeId: () => "n1",
    socketPath: engine.socketPath,
    ...(options.streamsMax === undefined ? {} : { streamsMax: options.streamsMax }),
  });
  serveOver(far, source.open);
  return { ...read(near, set, options.isSlow), near, far };
}
function read(near: FakeConnection, set: Partial<LogOpen>, isSlow = false) {
  const seen: { records: LogRecord[]; bytes: number; end?: LogEnd; stream?: LogStream } = {
    records: [],
    bytes: 0,
  };
  const opener = openOver(near, ({ nodeId }) => `node ${nodeId} disconnected unexpectedly`);
  const stream = opener(
    { ...OPEN, ...set },
    {
      data: (bytes) => {
        seen.records.push(...(decodeRecords(bytes) ?? []));
        seen.bytes += bytes.length;
        if (!isSlow) stream.grant(bytes.length);
      },
      end: (end) => {
        seen.end = end;
      },
    },
  );
  return { seen, stream, opener };
}
const lines = (records: LogRecord[]) =>
  records.map(
    ({ task, payload }) => `${task}:${Buffer.from(payload).toString().slice(31).trimEnd()}`,
  );

describe("a log stream without follow", () => {
  test("merges the tasks of the node by time, and ends", async () => {
    engine.add("a", Buffer.concat([frames(1, 2), frames(5, 1)]));
    engine.add("b", frames(3, 2));
    const { seen } = start({ tasks: [task("a"), task("b")] });
    await until(() => seen.end !== undefined);
    expect(lines(seen.records)).toEqual(["0:1", "0:2", "1:3", "1:4", "0:5"]);
    expect(seen.end).toEqual({ taskCount: 2 });
    await until(() => engine.openCount() === 0);
  });

  test("asks the engine for what was asked for", async () => {
    engine.add("a");
    const { seen } = start({
      stderr: false,
      details: true,
      tasks: [task("a", { tail: 3, since: "17.5" })],
    });
    await until(() => seen.end !== undefined);
    expect(engine.requests).toEqual([
      "/containers/a/logs?stdout=1&stderr=0&follow=0&details=1&timestamps=1&tail=3&since=17.5",
    ]);
  });

  test("passes over a container that is not there", async () => {
    engine.add("b", frames(1, 1));
    const { seen } = start({ tasks: [task("gone"), task("b")] });
    await until(() => seen.end !== undefined);
    expect(lines(seen.records)).toEqual(["1:1"]);
    expect(seen.end?.reason).toBeUndefined();
  });

  test("says which task could not be read, and why", async () => {
    engine.add("a", Buffer.from("this is no log"));
    engine.add("b", frames(1, 1));
    const { seen } = start({ tasks: [task("a"), task("b")] });
    await until(() => seen.end !== undefined);
    expect(lines(seen.records)).toEqual(["1:1"]);
    expect(seen.end?.reason).toStartWith("task a: ");
  });

  test("sends no more than the window until it is granted", async () => {
    engine.add("a", frames(1_000, 3_000, "x".repeat(100)));
    const { seen, stream } = start({ tasks: [task("a")], windowBytes: 10_000 }, { isSlow: true });
    await until(() => seen.bytes >= 10_000);
    await Bun.sleep(30);
    expect(seen.bytes).toBeLessThan(10_000 + 300);
    stream.grant(seen.bytes);
    const before = seen.bytes;
    await until(() => seen.bytes >= before + 9_000);
    expect(seen.end).toBeUndefined();
    stream.grant(10_000_000);
    await until(() => seen.end !== undefined);
    expect(seen.records).toHaveLength(3_000);
  });

  test("sends again what a full connection did not take, in order", async () => {
    engine.add("a", frames(1, 500));
    const { seen, far } = start({ tasks: [task("a")] });
    far.isFull = true;
    await Bun.sleep(20);
    expect(seen.records).toHaveLength(0);
    far.isFull = false;
    await until(() => seen.end !== undefined);
    expect(lines(seen.records)).toEqual(Array.from({ length: 500 }, (_, at) => `0:${at + 1}`));
  });
});

describe("a followed log stream", () => {
  const follow = (tasks: LogTask[]) => start({ tasks, follow: true });

  test("sends lines as they are written, and of tasks that are named later", async () => {
    const a = engine.add("a", frames(1, 1), true);
    engine.add("b", frames(10, 1), true);
    const { seen, stream } = follow([task("a")]);
    await until(() => seen.records.length === 1);
    a.say(frames(2, 1));
    await until(() => seen.records.length === 2);
    stream.more([task("b")]);
    await until(() => seen.records.length === 3);
    expect(lines(seen.records)).toEqual(["0:1", "0:2", "1:10"]);
    expect(seen.end).toBeUndefined();
    stream.close();
    await until(() => engine.openCount() === 0);
  });

  test("ends when the last container has stopped, after its last line", async () => {
    const a = engine.add("a", frames(1, 1), true);
    const { seen } = follow([task("a")]);
    await until(() => seen.records.length === 1);
    // Written while the engine did not follow any more.
    a.body = Buffer.concat([a.body, frames(2, 1)]);
    a.stop();
    await until(() => seen.end !== undefined);
    expect(lines(seen.records)).toEqual(["0:1", "0:2"]);
    expect(seen.end).toEqual({ taskCount: 1 });
    expect(engine.requests.at(-1)).toContain("since=1767225600.000000001");
  });

  test("ends in the engine when the connection does", async () => {
    engine.add("a", frames(1, 1), true);
    const { seen, far } = follow([task("a")]);
    await until(() => engine.openCount() === 1 && seen.records.length === 1);
    far.close();
    await until(() => engine.openCount() === 0);
    expect(seen.end).toEqual({ taskCount: 0, reason: "node n1 disconnected unexpectedly" });
  });
});

describe("log streams", () => {
  test("of a node are bounded, with a clear refusal", async () => {
    engine.add("a", frames(1, 1), true);
    const { seen, opener, stream } = start({ tasks: [task("a")], follow: true }, { streamsMax: 1 });
    await until(() => seen.records.length === 1);
    const ends: LogEnd[] = [];
    const open = { ...OPEN, tasks: [task("a")] };
    const sink = { data: () => undefined, end: (end: LogEnd) => void ends.push(end) };
    opener(open, sink);
    await until(() => ends.length === 1);
    expect(ends[0]?.reason).toBe("node n1 serves 1 log streams already, at most 1 are possible");
    stream.close();
    await until(() => engine.openCount() === 0);
    opener(open, sink);
    await until(() => ends.length === 2);
    expect(ends[1]).toEqual({ taskCount: 1 });
  });

  test("for another node are refused", async () => {
    const { seen } = start({ nodeId: "n2", tasks: [] });
    await until(() => seen.end !== undefined);
    expect(seen.end?.reason).toBe("this is node n1, not n2");
  });

  test("of thousands of tasks are named in several messages", async () => {
    engine.add("last", frames(7, 1));
    const { seen, near } = start({
      tasks: [...Array.from({ length: 10_050 }, (_, at) => task(`t${at}`)), task("last")].slice(
        -10_050,
      ),
      follow: false,
      stdout: true,
    });
    expect(near.sent.filter((note) => note !== "logs-grant")).toEqual(["logs-open", "logs-more"]);
    await until(() => seen.end !== undefined || seen.records.length > 0);
    expect(seen.records.map(recordTime)).toEqual([timeOf(7)]);
    near.close();
  }, 20_000);
});
