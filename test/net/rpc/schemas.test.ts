import { describe, expect, test } from "bun:test";
import { NOTE_SCHEMAS, PARAMS_SCHEMAS, isRpcMethod, isRpcNote } from "../../../net/rpc/schemas.ts";

const status = {
  state: "running",
  atMs: 1,
  message: "started",
  err: "",
  container: { id: "c", pid: 7, exitCode: 0 },
  ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }],
};

describe("PARAMS_SCHEMAS", () => {
  test("keep every field of a status and drop what no build here knows", () => {
    const params = { sessionId: "s", statuses: [{ taskId: "t", status }] };
    const sent = {
      ...params,
      fromTheFuture: 1,
      statuses: [{ taskId: "t", status: { ...status, new: 1 } }],
    };
    expect(PARAMS_SCHEMAS["report-status"].parse(sent)).toEqual(params as never);
  });

  test("refuse states that are none, long texts and too many statuses", () => {
    const refused = [
      { sessionId: "s", statuses: [{ taskId: "t", status: { ...status, state: "constructor" } }] },
      { sessionId: "s".repeat(300), statuses: [] },
      { sessionId: "s", statuses: Array.from({ length: 1_001 }, () => ({ taskId: "t", status })) },
      { sessionId: "s", statuses: [{ taskId: "t", status: { ...status, atMs: "1" } }] },
    ];
    for (const params of refused) {
      expect(PARAMS_SCHEMAS["report-status"].safeParse(params).success).toBe(false);
    }
  });

  test("take bytes only where bytes belong", () => {
    expect(PARAMS_SCHEMAS.propose.safeParse({ data: new Uint8Array(1) }).success).toBe(true);
    expect(PARAMS_SCHEMAS.propose.safeParse({ data: [1] }).success).toBe(false);
  });
});

describe("NOTE_SCHEMAS", () => {
  test("check the frame of assignments and leave their bodies alone", () => {
    const item = { key: "task/t", kind: "task", body: { id: "t", anything: [1] } };
    const message = { type: "complete", generation: 1, put: [item], removed: [] };
    const note = { sessionId: "s", message };
    expect(NOTE_SCHEMAS.assignments.parse(note)).toEqual(note as never);
    for (const wrong of [
      { ...message, generation: 0 },
      { ...message, type: "partial" },
      { ...message, put: [{ key: "k" }] },
      { ...message, removed: [1] },
    ]) {
      expect(NOTE_SCHEMAS.assignments.safeParse({ sessionId: "s", message: wrong }).success).toBe(
        false,
      );
    }
  });
});

describe("isRpcMethod() and isRpcNote()", () => {
  test("know the names of the contract only", () => {
    expect(isRpcMethod("propose")).toBe(true);
    expect(isRpcNote("raft")).toBe(true);
    for (const name of ["raft", "toString", "__proto__", ""]) expect(isRpcMethod(name)).toBe(false);
    for (const name of ["propose", "toString", "__proto__", ""])
      expect(isRpcNote(name)).toBe(false);
  });
});
