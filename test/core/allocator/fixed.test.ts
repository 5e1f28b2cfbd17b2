import { describe, expect, test } from "bun:test";
import { planAllocation } from "../../../core/allocator/allocate.ts";
import { checkFixedAddresses } from "../../../core/allocator/fixed.ts";
import { ClusterError } from "../../../core/errors.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import { aNetwork, aNode, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

const net = aNetwork("net", { subnet: "10.0.1.0/29", gateway: "10.0.1.1" });
function asking(name: string, Addresses: Record<string, string>): Service {
  const service = aService(name, { networks: ["net"] });
  service.spec.TaskTemplate.ContainerSpec.EngineOptions = { Addresses };
  return service;
}
/** The addresses, or the errors, of the new tasks. */
function allocate(services: Service[], tasks: Task[]): Record<string, string> {
  const nodes = [aNode({ id: "n1" }), aNode({ id: "n2", state: "down" })];
  const cluster = aState({ services, networks: [net], tasks, nodes });
  const input = { view: cluster.view, nowMs: START_MS, random: cluster.random };
  expect(cluster.apply(planAllocation(input).actions, START_MS)).toBe(0);
  expect(planAllocation(input).actions).toEqual([]);
  const found: Record<string, string> = {};
  for (const { id } of tasks) {
    const task = cluster.view.task(id);
    found[id] = task?.networks?.[0]?.address ?? task?.status.err ?? "";
  }
  return found;
}
const isNew = (service: Service, id: string, slot = 1) =>
  aTask(service, { id, slot, state: "new" });

describe("an address that a service has asked for", () => {
  test("is its task's, by the network's name or as the only one", () => {
    const [a, b] = [asking("a", { net: "10.0.1.5" }), asking("b", { "": "10.0.1.6" })];
    expect(allocate([a, b], [isNew(a, "ta"), isNew(b, "tb")])).toEqual({
      ta: "10.0.1.5",
      tb: "10.0.1.6",
    });
  });

  test("is kept free for it while it has no task", () => {
    const a = asking("a", { "": "10.0.1.4" });
    const other = aService("other", { networks: ["net"], replicas: 4 });
    const tasks = [1, 2, 3].map((slot) => isNew(other, `o${slot}`, slot));
    const found = allocate([a, other], tasks);
    expect(Object.values(found)).not.toContain("10.0.1.4");
    // The subnet has six addresses: gateway, two VIPs, the kept one, and two more.
    expect(found["o3"]).toContain("could not find an available IP");
  });

  test("is waited for while a task has it, also on a node that is down", () => {
    const a = asking("a", { "": "10.0.1.5" });
    const held = aTask(a, {
      id: "held",
      nodeId: "n2",
      desiredState: "shutdown",
      networks: [{ networkId: "net", address: "10.0.1.5", aliases: [] }],
    });
    expect(allocate([a], [held, isNew(a, "next")])["next"]).toBe(
      'address 10.0.1.5 of network "net" belongs to task a.1.held (on a node that is down; docker node rm gives it up); wait until it is free, or ask for another',
    );
    const dead = { ...held, status: { ...held.status, state: "failed" as const } };
    expect(allocate([a], [dead, isNew(a, "next")])["next"]).toBe("10.0.1.5");
  });

  test("must be of a network that the service is on", () => {
    const a = asking("a", { elsewhere: "10.0.1.5" });
    expect(allocate([a], [isNew(a, "t")])["t"]).toContain('not attached to network "elsewhere"');
  });
});

describe("checkFixedAddresses()", () => {
  const check = (Addresses: Record<string, string>, others: Service[] = []) => {
    const service = asking("a", Addresses);
    const { view } = aState({ networks: [net], services: others });
    try {
      checkFixedAddresses(view, service.spec, undefined);
    } catch (error) {
      if (error instanceof ClusterError) return error.message;
      throw error;
    }
    return "fine";
  };
  test.each<[Record<string, string>, string]>([
    [{ "": "10.0.1.5" }, "fine"],
    [{ net: "10.0.1.6" }, "fine"],
    [{ other: "10.0.1.5" }, 'not attached to network "other"'],
    [{ "": "10.0.1.1" }, "its gateway is 10.0.1.1"],
    [{ "": "10.0.1.7" }, "has 10.0.1.0/29"],
    [{ "": "10.0.2.5" }, "has 10.0.1.0/29"],
  ])("of %j: %s", (addresses, text) => {
    expect(check(addresses)).toContain(text);
  });

  test("refuses what another service has asked for", () => {
    const text = check({ "": "10.0.1.5" }, [asking("b", { net: "10.0.1.5" })]);
    expect(text).toContain("it belongs to service b");
  });

  test("refuses what a slot of a stateful service keeps, with or without a task", () => {
    const db = {
      ...aService("db", { replicas: 1 }),
      slots: { 3: { addresses: { net: "10.0.1.5" } } },
    };
    const text = check({ "": "10.0.1.5" }, [db]);
    expect(text).toContain("it belongs to slot 3 of the stateful service db; choose another");
    expect(check({ "": "10.0.1.6" }, [db])).toBe("fine");
  });
});
