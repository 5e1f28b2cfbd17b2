import { afterEach, beforeEach, expect, test } from "bun:test";
import { type ApiLab, createLab } from "./lab.ts";
import { makeNode, makeTask, NODE_ID } from "./fake-ports.ts";

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
  const away = makeNode("node2aaaaaaaaaaaaaaaaaaaa", "beta", {
    spec: { Labels: {}, Role: "worker", Availability: "drain" },
  });
  lab.ports.put("node", away);
  const refused = await move("db/slots/1", { Node: "beta" });
  expect([refused.status, refused.text]).toEqual([
    400,
    expect.stringContaining("cannot move to beta: the node is ready, its availability drain"),
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
