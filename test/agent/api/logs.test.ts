import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { logOptions } from "../../../agent/api/logs.ts";
import { encodeRecords, recordBytes } from "../../../agent/logs/record.ts";
import type { LogSink } from "../../../agent/logs/stream.ts";
import { timeOf, until } from "../logs/fake-engine.ts";
import { makeTask, notManager } from "./fake-ports.ts";
import { type ApiLab, createLab } from "./lab.ts";

let lab: ApiLab;
let sinks: LogSink[];
let closedCount: number;
beforeEach(() => {
  lab = createLab();
  sinks = [];
  closedCount = 0;
  lab.ports.logs.link = async () => ({
    open: (_open, sink) => {
      sinks.push(sink);
      return {
        more: () => undefined,
        grant: () => undefined,
        close: () => {
          closedCount += 1;
        },
      };
    },
    isLost: () => false,
    close: () => undefined,
  });
});
afterEach(() => lab.engine.stop());

const query = (text: string) => {
  const params = new URLSearchParams(text);
  return logOptions((name) => params.get(name) ?? undefined);
};

describe("logOptions()", () => {
  test("reads the query", () => {
    expect(query("stdout=1&follow=true&details=1&tail=10&since=1795331542.5")).toEqual({
      stdout: true,
      stderr: false,
      follow: true,
      timestamps: false,
      details: true,
      tail: 10,
      since: "1795331542.5",
    });
    expect(query("stderr=1&tail=all&since=0")).not.toContainAnyKeys(["tail", "since"]);
  });

  test.each([
    ["", "you must choose at least one stream"],
    ["stdout=0", "you must choose at least one stream"],
    ["stdout=1&tail=many", 'tail value must be a positive integer or "all"'],
    ["stdout=1&tail=-1", "negative tail values not supported"],
    ["stdout=1&since=yesterday", "could not parse since timestamp"],
  ])("refuses %p", (text, message) => {
    expect(() => query(text)).toThrow(message);
  });
});

describe("GET /services/{id}/logs and /tasks/{id}/logs", () => {
  const withTask = async (tty = false) => {
    const id = await lab.createService({ container: tty ? { TTY: true } : {} });
    const service = lab.ports.rows.service(id);
    if (!service) throw new Error("no service");
    lab.ports.put("task", makeTask(service, "t1"));
  };
  /** The answer, whose only node says one line and ends. */
  const logs = async (path: string) => {
    const answer = await lab.app.request(path);
    const body = answer.bytes();
    await until(() => sinks.length === 1);
    const record = { stream: 1, task: 0, payload: Buffer.from(`${timeOf(1)} hello\n`) };
    sinks[0]?.data(encodeRecords([record], recordBytes(record)));
    sinks[0]?.end({ taskCount: 1 });
    return { answer, body: Buffer.from(await body) };
  };

  test.each([
    ["/v1.41/services/web/logs?stdout=1", "raw"],
    ["/v1.41/tasks/t1/logs?stdout=1", "raw"],
  ])("%s is of type %s, in frames", async (path, type) => {
    await withTask();
    const { answer, body } = await logs(path);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toBe(`application/vnd.docker.${type}-stream`);
    expect(answer.headers.get("ostype")).toBe("linux");
    expect(body).toEqual(Buffer.from("\x01\0\0\0\0\0\0\x06hello\n"));
  });

  test("has no frames for a terminal", async () => {
    await withTask(true);
    const { answer, body } = await logs("/services/web/logs?stdout=1&timestamps=1");
    expect(answer.headers.get("content-type")).toBe("application/vnd.docker.raw-stream");
    expect(body.toString()).toBe(`${timeOf(1)} hello\n`);
  });

  test("is refused as in stock", async () => {
    await withTask();
    const ask = async (path: string) => {
      const { status, body } = await lab.call("GET", path);
      return { status, body };
    };
    expect(await ask("/services/web/logs")).toEqual({
      status: 400,
      body: { message: "Bad parameters: you must choose at least one stream" },
    });
    expect(await ask("/services/x/logs?stdout=1")).toEqual({
      status: 404,
      body: { message: "service x not found" },
    });
    expect(await ask("/tasks/x/logs?stdout=1")).toEqual({
      status: 404,
      body: { message: "task x not found" },
    });
    lab.ports.failure = notManager();
    expect((await ask("/services/web/logs?stdout=1")).status).toBe(503);
  });

  test("ends on the nodes when the client goes", async () => {
    await withTask();
    const answer = await lab.app.request("/services/web/logs?stdout=1&follow=1");
    await until(() => sinks.length === 1);
    await answer.body?.cancel();
    expect(closedCount).toBe(1);
  });
});
