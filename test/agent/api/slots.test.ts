import { afterEach, beforeEach, expect, test } from "bun:test";
import { type ApiLab, createLab, serviceSpec } from "./lab.ts";
import { makeNode, makeTask, NODE_ID } from "./fake-ports.ts";

const BETA_ID = "node2aaaaaaaaaaaaaaaaaaaa";
let lab: ApiLab;
beforeEach(async () => {
  lab = createLab();
  await lab.createService({ Name: "db", Labels: { "shoal.stateful": "true" } });
  await lab.createService({ Name: "web" });
});
afterEach(() => lab.engine.stop());
const slots = (name: string) => lab.call("GET", `/shoal/v1/services/${name}/slots`);
const move = (path: string, body: unknown = {}) =>
  lab.call("POST", `/shoal/v1/services/${path}`, body);

test("slots are listed with what is remembered of them, also of those scaled down", async () => {
  const { id } = lab.ports.rows.serviceByName("db") ?? expect.unreachable();
  const remembered = { 2: { nodeId: NODE_ID, addresses: { gone: "10.0.9.3" } }, 5: {} };
  await lab.ports.propose([{ type: "update", table: "service", id, set: { slots: remembered } }]);
  expect((await slots("db")).body).toEqual([
    { Slot: 1, Name: "db-1", Addresses: {}, IsUsed: true },
    {
      Slot: 2,
      Name: "db-2",
      Node: expect.objectContaining({ ID: NODE_ID }),
      Addresses: { gone: "10.0.9.3" },
      IsUsed: true,
    },
    { Slot: 5, Name: "db-5", Addresses: {}, IsUsed: false },
  ]);
});

test("a slot gets another home, or none", async () => {
  expect((await move("db/slots/1", { Node: NODE_ID })).status).toBe(200);
  const homes = () => lab.ports.rows.serviceByName("db")?.slots;
  expect(homes()).toEqual({ 1: { nodeId: NODE_ID } });
  expect((await move("db/slots/1")).status).toBe(200);
  expect(homes()).toEqual({ 1: {} });
});

test("a move to a node that cannot have it is refused, as one to nowhere while it runs", async () => {
  const away = makeNode(BETA_ID, "beta", {
    spec: { Labels: {}, Role: "worker", Availability: "drain" },
  });
  lab.ports.put("node", away);
  const refused = await move("db/slots/1", { Node: "beta" });
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining(
      "slot 1 of db cannot move to beta: its availability is drain (ready: docker node update --availability active beta). Free for it: alpha. With Force (--force) it moves",
    ),
  ]);
  const service = lab.ports.rows.serviceByName("db") ?? expect.unreachable();
  lab.ports.put("task", makeTask(service, "t1"));
  const alpha = lab.ports.rows.node(NODE_ID) ?? expect.unreachable();
  lab.ports.put("node", { ...alpha, spec: { ...alpha.spec, Availability: "pause" } });
  const stays = await move("db/slots/1");
  expect([stays.status, stays.text]).toEqual([
    400,
    expect.stringContaining("is on alpha and stays there"),
  ]);
});

test("a move is refused in the scheduler's words when the node has no room, and done by Force", async () => {
  await lab.createService({
    Name: "big",
    Labels: { "shoal.stateful": "true" },
    Mode: { Replicated: { Replicas: 1 } },
    template: { Resources: { Reservations: { MemoryBytes: 3_000 * 2 ** 20 } } },
  });
  const big = lab.ports.rows.serviceByName("big") ?? expect.unreachable();
  const web = lab.ports.rows.serviceByName("web") ?? expect.unreachable();
  lab.ports.put("node", makeNode(BETA_ID, "beta"));
  lab.ports.put("task", makeTask(big, "b1"));
  const spec = {
    ...web.spec.TaskTemplate,
    Resources: { Reservations: { MemoryBytes: 1_000 * 2 ** 20 } },
  };
  lab.ports.put("task", makeTask(web, "w1", { nodeId: BETA_ID, spec }));
  const refused = await move("big/slots/1", { Node: "beta" });
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining(
      "slot 1 of big cannot move to beta: memory: 3000 MiB reserved by the task, 2814 MiB free of 3814 MiB (resources: reserve 2814 MiB or less (--reserve-memory), or move other services off beta). Free for it: alpha.",
    ),
  ]);
  expect(lab.ports.rows.serviceByName("big")?.slots).toBeUndefined();
  // Its own task is no hindrance where it is.
  expect((await move("big/slots/1", { Node: NODE_ID })).status).toBe(200);
  expect((await move("big/slots/1", { Node: "beta", Force: true })).status).toBe(200);
  expect(lab.ports.rows.serviceByName("big")?.slots).toEqual({ 1: { nodeId: BETA_ID } });
});

test("a home is not given up while no node can take the slot, but by Force", async () => {
  const alpha = lab.ports.rows.node(NODE_ID) ?? expect.unreachable();
  lab.ports.put("node", { ...alpha, status: { ...alpha.status, state: "down" } });
  const refused = await move("db/slots/1");
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining("cannot move to any node; the nearest is alpha: it is down"),
  ]);
  expect((await move("db/slots/1", { Force: true })).status).toBe(200);
});

test("a slot does not move while its next task would wait for another service, but by Force", async () => {
  await lab.createService({
    Name: "late",
    Labels: { "shoal.stateful": "true", "shoal.depends-on": "web:healthy" },
  });
  const refused = await move("late/slots/1", { Node: NODE_ID });
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining("slot 1 of late cannot move now: its next task waits for"),
  ]);
  expect((await move("late/slots/1", { Node: NODE_ID, Force: true })).status).toBe(200);
});

test("a slot is forgotten once it is not wanted, and nothing of it runs", async () => {
  const db = lab.ports.rows.serviceByName("db") ?? expect.unreachable();
  const remembered = { 2: { nodeId: NODE_ID }, 3: { nodeId: NODE_ID } };
  await lab.ports.propose([
    { type: "update", table: "service", id: db.id, set: { slots: remembered } },
  ]);
  const forget = async (slot: number) => {
    const { status, text } = await lab.call("DELETE", `/shoal/v1/services/db/slots/${slot}`);
    return [status, text];
  };
  expect(await forget(2)).toEqual([
    400,
    expect.stringContaining(
      "slot 2 of db cannot be forgotten: it is wanted. Scale the service below it (docker service scale db=1), or give it another home (shoal slots move db 2",
    ),
  ]);
  const leaving = makeTask(db, "t3", { slot: 3, desiredState: "remove" });
  lab.ports.put("task", leaving);
  expect(await forget(3)).toEqual([
    400,
    expect.stringContaining("its task db.3.t3 is running on alpha, which is ready; try again when"),
  ]);
  await lab.ports.propose([{ type: "remove", table: "task", id: leaving.id }]);
  expect(await forget(3)).toEqual([200, ""]);
  expect(lab.ports.rows.serviceByName("db")?.slots).toEqual({ 2: { nodeId: NODE_ID } });
  expect(await forget(3)).toEqual([404, expect.stringContaining("has no slot")]);
});

test("a rollback that would forget homes, or make names double, is refused in words", async () => {
  const db = () => lab.ports.rows.serviceByName("db") ?? expect.unreachable();
  const update = (Labels: Record<string, string>, query = "") =>
    lab.call(
      "POST",
      `/services/db/update?version=${db().version}${query}`,
      serviceSpec({ Name: "db", Labels }),
    );
  const labels = { "shoal.stateful": "true" };
  await update({});
  await update(labels);
  const slots = { 1: { nodeId: NODE_ID } };
  await lab.ports.propose([{ type: "update", table: "service", id: db().id, set: { slots } }]);
  const refused = await update({}, "&rollback=previous");
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining(
      "service db was not stateful before: a rollback would forget the homes of its slots (1)",
    ),
  ]);
  expect((await update({})).status).toBe(200);
  await lab.ports.propose([
    { type: "update", table: "service", id: db().id, set: {}, unset: ["slots"] },
  ]);
  await lab.createService({ Name: "db-2" });
  const clash = await update({}, "&rollback=previous");
  expect([clash.status, clash.text]).toEqual([
    400,
    expect.stringContaining("a slot would have the name of service db-2"),
  ]);
});

test("what an update may be rolled back to keeps its slots' names", async () => {
  const db = lab.ports.rows.serviceByName("db") ?? expect.unreachable();
  const path = `/services/db/update?version=${db.version}`;
  await lab.ports.propose([
    { type: "update", table: "service", id: db.id, set: { slots: { 1: { nodeId: NODE_ID } } } },
  ]);
  expect((await lab.call("POST", path, serviceSpec({ Name: "db" }))).status).toBe(200);
  const spec = serviceSpec({ Name: "db-2" });
  const refused = await lab.call("POST", "/services/create", spec);
  expect(refused.text).toContain("name db-2 is for a slot of the stateful service db");
});

test.each([
  ["web/slots/1", {}, 400, "service web is not stateful"],
  ["nobody/slots/1", {}, 404, "service nobody not found"],
  ["db/slots/3", {}, 404, "it has 1 to 2"],
  ["db/slots/0", {}, 404, "has no slot"],
  ["db/slots/1e0", {}, 404, "has no slot"],
  ["db/slots/1", { Node: "nowhere" }, 404, "node nowhere not found"],
  ["db/slots/1", { Node: 7 }, 400, "invalid value for Node"],
])("POST %s %j is refused and changes nothing", async (path, body, status, text) => {
  const answer = await move(path, body);
  expect([answer.status, answer.text]).toEqual([status, expect.stringContaining(text)]);
  expect(lab.ports.rows.serviceByName("db")?.slots).toBeUndefined();
});
