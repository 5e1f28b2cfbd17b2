import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { currentReadMark } from "../../../agent/api/stale.ts";
import { ClusterError } from "../../../core/errors.ts";
import { type ApiLab, createLab } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
  // As the node without a leader: what may be stale is answered, what may not is refused.
  lab.ports.read = (run) => {
    const mark = currentReadMark();
    if (!mark)
      return Promise.reject(new ClusterError("no-quorum", "The swarm does not have a leader"));
    mark.stale = { index: 42, leaderLostMs: 2_500.4 };
    return Promise.resolve(run(lab.ports.rows));
  };
});
afterEach(() => lab.engine.stop());

describe("without a leader", () => {
  test.each(["/services", "/nodes", "/v1.41/tasks", "/networks", "/swarm"])(
    "GET %s is answered and marked stale",
    async (path) => {
      const answer = await lab.call("GET", path);
      expect([answer.status, answer.headers.get("shoal-stale")]).toEqual([
        200,
        "index=42, leader-lost-ms=2500",
      ]);
    },
  );

  test("GET of what is not there is refused, marked stale too", async () => {
    const answer = await lab.call("GET", "/services/nothing");
    expect([answer.status, answer.headers.get("shoal-stale")]).toEqual([
      404,
      "index=42, leader-lost-ms=2500",
    ]);
  });

  test("a write is refused before it reads anything stale", async () => {
    const answer = await lab.call("POST", "/swarm/update?version=1", {
      Name: "default",
      Orchestration: {},
    });
    expect([answer.status, answer.headers.get("shoal-stale")]).toEqual([503, null]);
    expect(answer.text).toContain("does not have a leader");
    expect(lab.ports.proposed).toEqual([]);
  });

  test("requests at the same time do not share a mark", async () => {
    const [read, write] = await Promise.all([
      lab.call("GET", "/services"),
      lab.call("DELETE", "/services/web"),
    ]);
    expect(read.headers.get("shoal-stale")).not.toBeNull();
    expect([write.status, write.headers.get("shoal-stale")]).toEqual([503, null]);
  });
});

describe("with a leader", () => {
  test("nothing is marked", async () => {
    const fresh = createLab();
    const answer = await fresh.call("GET", "/services");
    expect([answer.status, answer.headers.get("shoal-stale")]).toEqual([200, null]);
    await fresh.engine.stop();
  });
});

describe("/shoal/v1", () => {
  test("GET backup gives bytes that nobody keeps", async () => {
    const answer = await lab.call("GET", "/shoal/v1/backup");
    expect([answer.status, answer.text]).toEqual([200, "a backup"]);
    expect(answer.headers.get("cache-control")).toBe("no-store");
  });

  test("POST restore is refused on a node that is in a swarm, and takes the addresses", async () => {
    const refused = await lab.call("POST", "/shoal/v1/restore", "bytes");
    expect(refused.status).toBe(503);
    expect(refused.text).toContain("already part of a swarm");
    lab.ports.local = { state: "inactive", isManager: false, managers: [] };
    let asked: unknown;
    const restore = lab.ports.restore.bind(lab.ports);
    lab.ports.restore = (request) => {
      asked = request;
      return restore(request);
    };
    const done = await lab.call(
      "POST",
      "/shoal/v1/restore?advertise-addr=eth1&listen-addr=&availability=drain",
      "bytes",
    );
    expect([done.status, asked]).toEqual([
      200,
      { backup: new TextEncoder().encode("bytes"), AdvertiseAddr: "eth1", Availability: "drain" },
    ]);
    const wrong = await lab.call("POST", "/shoal/v1/restore?availability=gone", "bytes");
    expect(wrong.status).toBe(400);
  });
});
