import { describe, expect, test } from "bun:test";
import { collectLogs, type LogPorts, type LogWish } from "../../../agent/logs/collect.ts";
import { encodeRecords, recordBytes } from "../../../agent/logs/record.ts";
import type { LogItem } from "../../../agent/logs/render.ts";
import type { LogSink } from "../../../agent/logs/stream.ts";
import { ClusterError } from "../../../core/errors.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task, TaskState } from "../../../core/objects/task.ts";
import type { LogOpen, LogTask } from "../../../net/rpc/methods.ts";
import { createFakePorts, type FakePorts, makeNode, makeTask } from "../api/fake-ports.ts";
import { timeOf, until } from "./fake-engine.ts";

type FakeStream = {
  open: LogOpen;
  sink: LogSink;
  more: LogTask[];
  granted: number;
  isClosed: boolean;
  /** One line of the task with this number. */
  say(task: number, time: number, text?: string): void;
};

const SERVICE = {
  id: "s1",
  version: 1,
  createdAtMs: 1,
  updatedAtMs: 1,
  spec: {
    Name: "web",
    Mode: { Replicated: {} },
    TaskTemplate: { ContainerSpec: { Image: "x" } },
  },
  specVersion: 1,
} as Service;
const WISH: LogWish = {
  kind: "service",
  id: "s1",
  stdout: true,
  stderr: true,
  follow: false,
  details: false,
};

function world() {
  const cluster: FakePorts = createFakePorts("/nowhere");
  for (const id of ["n11", "n12"]) cluster.put("node", makeNode(id, id));
  cluster.put("service", SERVICE);
  const streams: FakeStream[] = [];
  const listeners = new Set<() => void>();
  const state = { isLinkClosed: false, links: 0, isLost: false };
  const ports: LogPorts = {
    link: async () => {
      state.links += 1;
      return {
        open: (open, sink) => {
          const stream: FakeStream = {
            open,
            sink,
            more: [],
            granted: 0,
            isClosed: false,
            say: (task, time, text = "") => {
              const payload = Buffer.from(`${timeOf(time)} ${text}`);
              const record = { stream: 1, task, payload };
              sink.data(encodeRecords([record], recordBytes(record)));
            },
          };
          streams.push(stream);
          return {
            more: (tasks) => void stream.more.push(...tasks),
            grant: (bytes) => {
              stream.granted += bytes;
            },
            close: () => {
              stream.isClosed = true;
            },
          };
        },
        isLost: () => state.isLost,
        close: () => {
          state.isLinkClosed = true;
        },
      };
    },
    readLocal: (read) => read(cluster.rows),
    onTasksChanged: (handler) => {
      listeners.add(handler);
      return () => void listeners.delete(handler);
    },
  };
  const put = (id: string, nodeId: string | undefined, taskState: TaskState = "running") => {
    const { nodeId: _, ...rest } = makeTask(SERVICE, id);
    const status: Task["status"] = { state: taskState, atMs: 1, message: "" };
    cluster.put("task", { ...rest, ...(nodeId === undefined ? {} : { nodeId }), status });
    for (const listener of listeners) listener();
  };
  return { cluster, ports, streams, listeners, state, put };
}
const show = (item: LogItem) =>
  item.type === "line"
    ? `${item.ref.nodeId}/${item.ref.taskId} ${Buffer.from(item.record.payload).toString().slice(27, 29)}`
    : `${item.isLast ? "last" : "notice"}: ${item.reasons.join(", ")}`;

describe("collectLogs() without follow", () => {
  test("merges nodes by time and tells at the end what is missing", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    put("t2", "n12");
    put("t3", "n19", "shutdown");
    put("t4", undefined, "pending");
    const collection = await collectLogs(ports, { ...WISH, tail: 5 });
    await until(() => streams.length === 3);
    const [one, two, three] = streams;
    expect(one?.open.tasks).toEqual([{ id: "t1", container: "web.1.t1", isTty: false, tail: 5 }]);
    three?.sink.end({ taskCount: 0, reason: "node n19 is not available" });
    one?.say(0, 11);
    one?.say(0, 13);
    two?.say(0, 12);
    one?.sink.end({ taskCount: 1 });
    two?.sink.end({ taskCount: 1 });
    const items: string[] = [];
    for (let got = await collection.next(); got; got = await collection.next()) {
      items.push(...got.map(show));
    }
    expect(items).toEqual([
      "n11/t1 11",
      "n12/t2 12",
      "n11/t1 13",
      "last: task t4 has not been scheduled, node n19 is not available",
    ]);
  });

  test("grants a node what the reader has taken, not before", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, WISH);
    await until(() => streams.length === 1);
    for (let time = 10; time < 20; time += 1) streams[0]?.say(0, time);
    await Bun.sleep(5);
    expect(streams[0]?.granted).toBe(0);
    await collection.next();
    expect(streams[0]?.granted).toBeGreaterThan(0);
    expect(streams[0]?.granted).toBeLessThan(200);
    collection.close();
    expect(streams[0]?.isClosed).toBe(true);
  });

  test("tries a node again that is ready but between two sessions", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, WISH);
    await until(() => streams.length === 1);
    streams[0]?.sink.end({ taskCount: 0, reason: "node n11 is not available" });
    await until(() => streams.length === 2);
    streams[1]?.say(0, 10);
    streams[1]?.sink.end({ taskCount: 1 });
    expect((await collection.next())?.map(show)).toEqual(["n11/t1 10"]);
    expect(await collection.next()).toBeUndefined();
  });

  test("does not begin a node's log anew when it was lost half way", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, WISH);
    await until(() => streams.length === 1);
    streams[0]?.say(0, 10);
    expect((await collection.next())?.map(show)).toEqual(["n11/t1 10"]);
    const rest = collection.next();
    streams[0]?.sink.end({ taskCount: 0, reason: "node n11 disconnected unexpectedly" });
    expect((await rest)?.map(show)).toEqual(["last: node n11 disconnected unexpectedly"]);
    expect(streams).toHaveLength(1);
  });

  test("of one task asks its node only", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    put("t2", "n11");
    const collection = await collectLogs(ports, { ...WISH, kind: "task", id: "t2" });
    await until(() => streams.length === 1);
    expect(streams[0]?.open.tasks.map((task) => task.id)).toEqual(["t2"]);
    collection.close();
  });

  test("of a service without tasks ends at once", async () => {
    const collection = await collectLogs(world().ports, WISH);
    expect(await collection.next()).toBeUndefined();
  });
});

describe("collectLogs() with follow", () => {
  const FOLLOW = { ...WISH, follow: true, tail: 0 };

  test("takes in tasks that begin later, on nodes known and new", async () => {
    const { ports, streams, put, listeners } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, FOLLOW);
    await until(() => streams.length === 1);
    put("t2", "n11");
    put("t3", "n12");
    put("t4", "n12", "preparing");
    await until(() => streams.length === 2 && streams[0]?.more.length === 1);
    // Of a task that begins now, everything is new.
    expect(streams[0]?.more).toEqual([{ id: "t2", container: "web.1.t2", isTty: false }]);
    expect(streams[1]?.open.tasks.map((task) => task.id)).toEqual(["t3"]);
    streams[0]?.say(1, 11);
    expect((await collection.next())?.map(show)).toEqual(["n11/t2 11"]);
    collection.close();
    expect(streams.every((stream) => stream.isClosed)).toBe(true);
    expect(listeners.size).toBe(0);
    expect(await collection.next()).toBeUndefined();
  });

  test("names a node that is away at once and once, and goes on after the last line", async () => {
    const { ports, streams, put } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, { ...WISH, follow: true });
    await until(() => streams.length === 1);
    streams[0]?.sink.end({ taskCount: 0, reason: "node n11 is not available" });
    expect((await collection.next())?.map(show)).toEqual(["notice: node n11 is not available"]);
    await until(() => streams.length === 2);
    streams[1]?.say(0, 11);
    expect((await collection.next())?.map(show)).toEqual(["n11/t1 11"]);
    streams[1]?.sink.end({ taskCount: 0, reason: "node n11 disconnected unexpectedly" });
    await until(() => streams.length === 3);
    expect(streams[2]?.open.tasks[0]?.since).toBe("1767225600.000000011");
    // The engine gives the last line once more.
    streams[2]?.say(0, 11);
    streams[2]?.say(0, 12);
    expect((await collection.next())?.map(show)).toEqual(["n11/t1 12"]);
    collection.close();
  });

  test("makes another way when the leader is lost", async () => {
    const { ports, streams, put, state } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, FOLLOW);
    await until(() => streams.length === 1);
    state.isLost = true;
    streams[0]?.sink.end({ taskCount: 0, reason: "the leader is not available" });
    state.isLost = false;
    await until(() => streams.length === 2);
    // Nothing of the past was wanted, but what was written meanwhile is.
    expect(Number(streams[1]?.open.tasks[0]?.since)).toBeGreaterThan(1_700_000_000);
    collection.close();
  });

  test("ends when the service and its tasks are gone", async () => {
    const { ports, streams, put, cluster, listeners } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, FOLLOW);
    await until(() => streams.length === 1);
    const last = collection.next();
    cluster.rows.delete("task", "t1");
    cluster.rows.delete("service", "s1");
    streams[0]?.sink.end({ taskCount: 1 });
    for (const listener of listeners) listener();
    expect(await last).toBeUndefined();
  });

  test("ends when this node is no manager any more", async () => {
    const { ports, streams, put, listeners } = world();
    put("t1", "n11");
    const collection = await collectLogs(ports, FOLLOW);
    await until(() => streams.length === 1);
    const last = collection.next();
    ports.readLocal = () => {
      throw new ClusterError("unavailable", "not a manager");
    };
    for (const listener of listeners) listener();
    expect(await last).toBeUndefined();
    expect(streams[0]?.isClosed).toBe(true);
  });
});
