import { describe, expect, test } from "bun:test";
import { type LogItem, renderDetails, renderItems } from "../../../agent/logs/render.ts";
import { timeOf } from "./fake-engine.ts";

const ref = { taskId: "t1", serviceId: "s1", nodeId: "n1" };
const OWN =
  "com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s1,com.docker.swarm.task.id=t1";
const line = (text: string, stream = 1): LogItem => ({
  type: "line",
  record: { stream, task: 0, payload: Buffer.from(`${timeOf(1)} ${text}`) },
  ref,
});
const plain = { timestamps: false, details: false, stderr: true, isTty: false };
const render = (items: LogItem[], options: Partial<typeof plain> = {}) =>
  Buffer.from(renderItems(items, { ...plain, ...options }, () => timeOf(9)));
const frames = (bytes: Buffer) => {
  const found: [number, string][] = [];
  for (let at = 0; at < bytes.length; at += 8 + bytes.readUInt32BE(at + 4)) {
    expect(bytes.subarray(at + 1, at + 4)).toEqual(Buffer.alloc(3));
    const end = at + 8 + bytes.readUInt32BE(at + 4);
    found.push([bytes.readUInt8(at), bytes.toString("utf8", at + 8, end)]);
  }
  return found;
};

describe("renderItems()", () => {
  test("frames lines by stream, with what was asked for before them", () => {
    expect(frames(render([line("a\n"), line("b\n", 2)]))).toEqual([
      [1, "a\n"],
      [2, "b\n"],
    ]);
    expect(frames(render([line("a\n")], { timestamps: true }))).toEqual([[1, `${timeOf(1)} a\n`]]);
    // Engines put an empty list of attributes and a space before the line.
    expect(frames(render([line(" a b\n")], { details: true }))).toEqual([[1, `${OWN} a b\n`]]);
    expect(frames(render([line("k=v a\n")], { details: true, timestamps: true }))).toEqual([
      [1, `${timeOf(1)} ${OWN},k=v a\n`],
    ]);
  });

  test("gives raw bytes for a terminal", () => {
    expect(render([line("a\r\n"), line("b")], { isTty: true }).toString()).toBe("a\r\nb");
  });

  test("leaves a line without a time as it is", () => {
    const odd: LogItem = {
      type: "line",
      record: { stream: 1, task: 0, payload: Buffer.from("odd\n") },
      ref,
    };
    expect(frames(render([odd], { timestamps: true }))).toEqual([[1, "odd\n"]]);
  });

  test("ends with stock's error when something is missing", () => {
    const last: LogItem = { type: "notice", reasons: ["x", "y"], isLast: true, ref: undefined };
    const text =
      "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved for the following reasons: x, y\n";
    expect(frames(render([last]))).toEqual([[3, text]]);
    expect(render([last], { isTty: true }).toString()).toBe(text);
  });

  test("names a missing node on stderr while the log goes on", () => {
    const notice: LogItem = {
      type: "notice",
      reasons: ["node n1 is not available"],
      isLast: false,
      ref,
    };
    const [[stream, text] = []] = frames(render([notice], { details: true, timestamps: true }));
    expect(stream).toBe(2);
    expect(text).toStartWith(`${timeOf(9)} ${OWN} warning: incomplete log stream.`);
    expect(render([notice], { stderr: false })).toHaveLength(0);
  });
});

describe("renderDetails()", () => {
  test("sorts by key, and says itself whose line it is", () => {
    expect(renderDetails("z=1,a%20b=2,com.docker.swarm.task.id=forged", ref)).toBe(
      `a%20b=2,${OWN},z=1`,
    );
  });
});
