import { describe, expect, test } from "bun:test";
import { planAllocation } from "../../../core/allocator/allocate.ts";
import { planAttachment } from "../../../core/allocator/attachments.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import { seededRandom } from "../../../core/random.ts";
import { aNetwork, aNode, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

const labels = { "shoal.stateful": "true" };
const net = aNetwork("net", { subnet: "10.0.1.0/29", gateway: "10.0.1.1" });
net.spec.Attachable = true;
/** With a home and an address for slot 1. */
const db = (address = "10.0.1.4"): Service => ({
  ...aService("db", { networks: ["net"], replicas: 1, labels, mode: "dnsrr" }),
  slots: { 1: { nodeId: "n1", addresses: { net: address } } },
});
const isNew = (service: Service, over: Partial<Task> = {}) =>
  aTask(service, { id: "new", state: "new", serviceLabels: labels, ...over });
const holding = (service: Service, over: Partial<Task> & { state?: "failed" } = {}) =>
  aTask(service, {
    id: "old",
    nodeId: "n1",
    desiredState: "shutdown",
    networks: [{ networkId: "net", address: "10.0.1.4", aliases: [] }],
    ...over,
  });

function world(services: Service[], tasks: Task[]) {
  const nodes = [aNode({ id: "n1" }), aNode({ id: "n2", state: "down" })];
  return aState({ services, networks: [structuredClone(net)], tasks, nodes });
}

/** The first leg of the new task, or why it has none. */
function allocate(services: Service[], tasks: Task[]) {
  const cluster = world(services, tasks);
  const input = { view: cluster.view, nowMs: START_MS, random: cluster.random };
  expect(cluster.apply(planAllocation(input).actions, START_MS)).toBe(0);
  expect(planAllocation(input).actions).toEqual([]);
  const task = cluster.view.task("new");
  return task?.networks?.[0] ?? task?.status.err;
}

describe("the address of a stateful slot", () => {
  test("is given to its next task, which is also found by the slot's name", () => {
    expect(allocate([db()], [isNew(db())])).toEqual({
      networkId: "net",
      address: "10.0.1.4",
      aliases: ["db-1"],
    });
  });

  test("is taken from the task before it while nothing is written down yet", () => {
    const { slots: _slots, ...service } = db();
    const tasks = [holding(service, { state: "failed" }), isNew(service)];
    expect(allocate([service], tasks)).toMatchObject({ address: "10.0.1.4" });
  });

  test("is waited for while the task before it may still run", () => {
    const wait = "waits until task db.1.old has stopped, whose addresses it keeps";
    expect(allocate([db()], [holding(db()), isNew(db())])).toBe(wait);
    // Also on its home that is down.
    const away = { ...db(), slots: { 1: { nodeId: "n2", addresses: { net: "10.0.1.4" } } } };
    expect(allocate([away], [holding(away, { nodeId: "n2" }), isNew(away)])).toBe(wait);
  });

  test("is another one when somebody has it, and when it is on a down node that is its home no more", () => {
    const other = aService("other", { networks: ["net"], replicas: 1, mode: "dnsrr" });
    for (const holder of [holding(other), holding(db(), { nodeId: "n2" })]) {
      const leg = allocate([db(), other], [holder, isNew(db())]);
      expect(leg).toMatchObject({ networkId: "net", address: "10.0.1.5" });
    }
  });

  test("is kept from tasks, containers and wishes of others while the slot is empty", () => {
    const other = aService("other", { networks: ["net"], replicas: 4, mode: "dnsrr" });
    const tasks = [1, 2, 3, 4].map((slot) => aTask(other, { id: `o${slot}`, slot, state: "new" }));
    const cluster = world([db(), other], tasks);
    const input = { view: cluster.view, nowMs: START_MS, random: cluster.random };
    cluster.apply(planAllocation(input).actions, START_MS);
    const given = cluster.view.tasks().map((task) => task.networks?.[0]?.address);
    expect(given).toEqual(["10.0.1.2", "10.0.1.3", "10.0.1.5", "10.0.1.6"]);
    const request = { nodeId: "n1", network: "net", name: "c", aliases: [] };
    const attach = (address?: string) => () =>
      planAttachment(
        world([db()], []).view,
        { ...request, ...(address ? { address } : {}) },
        seededRandom(1),
      ).object.address;
    expect(attach("10.0.1.4")).toThrow("Address already in use: 10.0.1.4");
    expect(attach()()).toBe("10.0.1.2");
    const asking = aService("asking", { networks: ["net"], mode: "dnsrr" });
    asking.spec.TaskTemplate.ContainerSpec.EngineOptions = { Addresses: { "": "10.0.1.4" } };
    const wish = aTask(asking, { id: "new", state: "new" });
    expect(allocate([db(), asking], [holding(db()), wish])).toContain("belongs to task db.1.old;");
  });
});
