import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { makeNode, NODE_ID } from "./fake-ports.ts";
import golden from "./golden/nodes.json" with { type: "json" };
import { type ApiLab, at, createLab, field, keyPaths } from "./lab.ts";

const WORKER_ID = "node2bbbbbbbbbbbbbbbbbbbb";
const MANAGER_ID = "node3cccccccccccccccccccc";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
  lab.ports.put("node", makeNode(WORKER_ID, "beta"));
});
afterEach(() => lab.engine.stop());

const spec = (set: Record<string, unknown> = {}) => ({
  Labels: {},
  Role: "worker",
  Availability: "active",
  ...set,
});
const version = (id: string) => lab.ports.rows.node(id)?.version ?? 0;
const update = (id: string, body: unknown) =>
  lab.call("POST", `/nodes/${id}/update?version=${version(id)}`, body);
const ids = async (filters: Record<string, unknown>) => {
  const path = `/nodes?filters=${encodeURIComponent(JSON.stringify(filters))}`;
  const { body } = await lab.call("GET", path);
  return Array.isArray(body) ? body.map((node) => field(node, "ID").slice(0, 5)) : body;
};

describe("GET /nodes", () => {
  test("has the keys of stock's answer", async () => {
    const { body } = await lab.call("GET", "/nodes");
    expect([...keyPaths(at(body, 0), [".Labels"])].sort()).toEqual(
      [...keyPaths(golden[0], [".Labels"])].sort(),
    );
    expect(at(body, 0, "ManagerStatus")).toEqual({
      Leader: true,
      Reachability: "reachable",
      Addr: "192.168.77.10:2377",
    });
    expect(at(body, 1, "ManagerStatus")).toBeUndefined();
    expect(at(body, 0, "CreatedAt")).toBe("2026-11-22T07:12:21.96Z");
  });

  test.each([
    [{}, ["node1", "node2"]],
    [{ id: ["node2"] }, ["node2"]],
    [{ name: { be: true, al: true } }, ["node1", "node2"]],
    [{ name: { be: true } }, ["node2"]],
    [{ role: { manager: true } }, ["node1"]],
    [{ "node.label": { a: true } }, ["node1"]],
    [{ "node.label": { "a=c": true } }, []],
    [{ membership: { pending: true } }, []],
  ])("filters by %j", async (filters, wanted) => {
    expect(await ids(filters)).toEqual(wanted);
  });

  test("refuses roles and memberships that do not exist", async () => {
    const path = `/nodes?filters=${encodeURIComponent('{"role":["zzz"]}')}`;
    const answer = await lab.call("GET", path);
    expect([answer.status, answer.body]).toEqual([400, { message: "Invalid role filter: 'zzz'" }]);
  });
});

describe("GET /nodes/{id}", () => {
  test.each([NODE_ID, "alpha", "node1"])("finds %s", async (ref) => {
    expect(field((await lab.call("GET", `/nodes/${ref}`)).body, "ID")).toBe(NODE_ID);
  });

  test("refuses what is unknown or ambiguous", async () => {
    const unknown = await lab.call("GET", "/nodes/nope");
    expect([unknown.status, unknown.body]).toEqual([404, { message: "node nope not found" }]);
    const many = await lab.call("GET", "/nodes/node");
    expect([many.status, many.body]).toEqual([
      400,
      { message: "node node is ambiguous (2 matches found)" },
    ]);
  });

  test("shows a node that has had no session", async () => {
    const { description: _, ...bare } = makeNode("node4", "");
    lab.ports.put("node", { ...bare, status: { state: "unknown", message: "", addr: "" } });
    const { body } = await lab.call("GET", "/nodes/node4");
    expect(at(body, "Description")).toEqual({
      Platform: {},
      Resources: {},
      Engine: {},
      TLSInfo: {},
    });
    expect(at(body, "Status")).toEqual({ State: "unknown" });
  });
});

describe("POST /nodes/{id}/update", () => {
  test("sets labels, availability and role", async () => {
    const wish = spec({ Labels: { z: "1" }, Availability: "drain", Role: "manager" });
    const answer = await update(WORKER_ID, wish);
    expect([answer.status, answer.text]).toEqual([200, ""]);
    expect(lab.ports.rows.node(WORKER_ID)?.spec).toEqual({
      Labels: { z: "1" },
      Role: "manager",
      Availability: "drain",
    });
    // Certified only once the role manager has done its part.
    expect(lab.ports.rows.node(WORKER_ID)?.role).toBe("worker");
  });

  test.each([
    [{ Role: "boss" }, 400, 'invalid Role: "boss"'],
    [{ Role: "" }, 400, 'invalid Role: ""'],
    [{ Availability: "off" }, 400, 'invalid Availability: "off"'],
  ])("refuses %j", async (set, status, message) => {
    const answer = await update(WORKER_ID, spec(set));
    expect([answer.status, answer.body]).toEqual([status, { message }]);
  });

  test("refuses a stale version, and one that is no number", async () => {
    const stale = await lab.call("POST", `/nodes/${WORKER_ID}/update?version=1`, spec());
    expect([stale.status, field(stale.body, "message")]).toEqual([
      500,
      "rpc error: code = Unknown desc = update out of sequence",
    ]);
    const wrong = await lab.call("POST", `/nodes/${WORKER_ID}/update?version=abc`, spec());
    expect([wrong.status, field(wrong.body, "message")]).toEqual([
      400,
      "invalid node version 'abc': strconv.ParseUint: parsing \"abc\": invalid syntax",
    ]);
  });

  test("is not disturbed by what managers write of the node", async () => {
    const seen = version(WORKER_ID);
    const ofManagers = (set: object) =>
      lab.ports.propose([{ type: "update", table: "node", id: WORKER_ID, set }]);
    await ofManagers({ dataPathAddr: "192.168.77.99" });
    const path = `/nodes/${WORKER_ID}/update?version=${seen}`;
    expect((await lab.call("POST", path, spec({ Labels: { a: "1" } }))).status).toBe(200);
    expect(lab.ports.rows.node(WORKER_ID)?.dataPathAddr).toBe("192.168.77.99");
    // Now another one has set the spec.
    const again = await lab.call("POST", path, spec({ Labels: { b: "1" } }));
    expect([again.status, field(again.body, "message")]).toEqual([
      500,
      "rpc error: code = Unknown desc = update out of sequence",
    ]);
    expect(lab.ports.rows.node(WORKER_ID)?.spec.Labels).toEqual({ a: "1" });
  });

  test("is made anew when a manager writes in between", async () => {
    const { clusterStatus } = lab.ports;
    const role = { role: "manager", managerAddr: "192.168.77.11:2377" } as const;
    const wish = { Labels: {}, Role: "manager", Availability: "active" } as const;
    lab.ports.put("node", { ...makeNode(WORKER_ID, "beta"), ...role, spec: wish });
    let asked = 0;
    lab.ports.clusterStatus = async () => {
      asked += 1;
      const set = { dataKeyId: `key${asked}` };
      if (asked < 3)
        await lab.ports.propose([{ type: "update", table: "node", id: WORKER_ID, set }]);
      return await clusterStatus();
    };
    expect((await update(WORKER_ID, spec())).status).toBe(200);
    expect(asked).toBe(3);
    expect(lab.ports.rows.node(WORKER_ID)?.spec.Role).toBe("worker");
  });

  test("refuses to demote the last manager", async () => {
    const answer = await update(NODE_ID, spec());
    expect([answer.status, field(answer.body, "message")]).toEqual([
      400,
      "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm",
    ]);
  });

  test.each([
    // Reachability of the other manager (absent: not known, taken as reachable).
    [false, 400],
    [true, 200],
    [undefined, 200],
  ])("with the other manager reachable: %p, a demotion answers %i", async (isReachable, status) => {
    lab.ports.put(
      "node",
      makeNode(MANAGER_ID, "gamma", {
        spec: { Labels: {}, Role: "manager", Availability: "active" },
        role: "manager",
        managerAddr: "192.168.77.12:2377",
      }),
    );
    const other = { nodeId: MANAGER_ID, addr: "192.168.77.12:2377", isLearner: false };
    lab.ports.raft.members.push(isReachable === undefined ? other : { ...other, isReachable });
    const answer = await update(NODE_ID, spec());
    expect(answer.status).toBe(status);
    if (status === 400) expect(answer.text).toContain("this would result in a loss of quorum");
  });
});

describe("DELETE /nodes/{id}", () => {
  test("refuses a manager and a node that is up", async () => {
    const manager = await lab.call("DELETE", `/nodes/${NODE_ID}?force=1`);
    expect([manager.status, field(manager.body, "message")]).toEqual([
      400,
      `rpc error: code = FailedPrecondition desc = node ${NODE_ID} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal`,
    ]);
    const up = await lab.call("DELETE", "/nodes/beta");
    expect([up.status, field(up.body, "message")]).toEqual([
      400,
      `rpc error: code = FailedPrecondition desc = node ${WORKER_ID} is not down and can't be removed`,
    ]);
  });

  test("removes a node that is down, or any worker by force", async () => {
    expect((await lab.call("DELETE", "/nodes/beta?force=1")).status).toBe(200);
    expect(lab.ports.rows.node(WORKER_ID)).toBeUndefined();
    const status = { state: "down" as const, message: "", addr: "" };
    lab.ports.put("node", makeNode(MANAGER_ID, "gone", { status }));
    expect((await lab.call("DELETE", "/nodes/gone")).status).toBe(200);
  });
});
