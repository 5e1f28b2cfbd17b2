import { describe, expect, test } from "bun:test";
import { planAllocation } from "../../../core/allocator/allocate.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { Service } from "../../../core/objects/service.ts";
import { PLANNERS } from "../../../core/planners.ts";
import {
  aNetwork,
  aNode,
  anIngressNetwork,
  aService,
  aState,
  aTask,
  runningTasks,
  runToQuiet,
  scaleTo,
  setNodeState,
  START_MS,
  updateSpec,
} from "../../fixtures/cluster.ts";

const net = (over: Parameters<typeof aNetwork>[1] = {}) =>
  aNetwork("net", { subnet: "10.0.1.0/24", gateway: "10.0.1.1", ...over });
const predefined = (name: string, driver: string) => aNetwork(name, { driver, predefined: true });

/** One service and one new task of it, allocated. */
function allocate(service: Service, networks: Network[]) {
  const task = aTask(service, { id: "task", state: "new" });
  const cluster = aState({ services: [service], networks, tasks: [task] });
  const plan = planAllocation({ view: cluster.view, nowMs: START_MS, random: cluster.random });
  expect(cluster.apply(plan.actions, START_MS)).toBe(0);
  return { task: cluster.view.task("task"), service: cluster.view.service(service.id), plan };
}

describe("planAllocation()", () => {
  test("gives VIPs and addresses on each overlay network, in this order", () => {
    const web = aService("web", {
      networks: ["net", "ingress", "host"],
      ports: [{ TargetPort: 80, PublishedPort: 8080 }],
    });
    const networks = [net(), anIngressNetwork(), predefined("host", "host")];
    const { task, service } = allocate(web, networks);
    expect(service?.endpoint).toEqual({
      specVersion: 1,
      mode: "vip",
      ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" }],
      virtualIps: [
        { networkId: "net", address: "10.0.1.2" },
        { networkId: "ingress", address: "10.0.0.2" },
      ],
    });
    expect(task?.networks).toEqual([
      { networkId: "net", address: "10.0.1.3", aliases: [] },
      { networkId: "ingress", address: "10.0.0.3", aliases: [] },
      { networkId: "host", aliases: [] },
    ]);
    expect(task?.status).toMatchObject({ state: "pending", message: "pending task scheduling" });
  });

  test("no networks and no ports: no attachment", () => {
    const { task, service } = allocate(aService("web"), [anIngressNetwork()]);
    expect(task?.networks).toEqual([]);
    expect(service?.endpoint?.virtualIps).toEqual([]);
  });

  test("dnsrr has no VIP", () => {
    const { task, service } = allocate(aService("web", { networks: ["net"], mode: "dnsrr" }), [
      net(),
    ]);
    expect(service?.endpoint?.virtualIps).toEqual([]);
    expect(task?.networks?.[0]?.address).toBe("10.0.1.2");
  });

  const ports = [{ TargetPort: 80 }];
  const attachments: [string, string[], Network[], string[]][] = [
    ["no network", [], [], ["ingress"]],
    ["an overlay network", ["net"], [net()], ["net"]],
    ["an internal network", ["net"], [net({ internal: true })], ["net", "ingress"]],
    ["the host's network", ["host"], [predefined("host", "host")], ["host"]],
  ];
  for (const [what, names, networks, expected] of attachments) {
    test(`a task with ports and ${what} is attached to ${expected.join(" and ")}`, () => {
      const { task } = allocate(aService("web", { networks: names, ports }), [
        anIngressNetwork(),
        ...networks,
      ]);
      expect(task?.networks?.map((network) => network.networkId)).toEqual(expected);
    });
  }

  test("host-mode ports need no ingress", () => {
    const web = aService("web", { ports: [{ TargetPort: 80, PublishMode: "host" }] });
    const { task, service } = allocate(web, [anIngressNetwork()]);
    expect(task?.networks).toEqual([]);
    expect(task?.ports?.[0]).toMatchObject({ PublishedPort: 0, PublishMode: "host" });
    expect(service?.endpoint?.virtualIps).toEqual([]);
  });

  test("keeps VIPs and dynamic ports over updates", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" })],
      networks: [net(), anIngressNetwork()],
      services: [
        aService("one", { replicas: 1, ports: [{ TargetPort: 80 }] }),
        aService("two", { replicas: 1, networks: ["net"], ports: [{ TargetPort: 80 }] }),
      ],
    });
    let nowMs = runToQuiet(cluster, { planners: PLANNERS });
    const before = cluster.view.service("two")?.endpoint;
    expect(before?.ports[0]?.PublishedPort).toBe(30_001);
    updateSpec(
      cluster,
      "two",
      (spec) => ({ ...spec, EndpointSpec: { Ports: [{ TargetPort: 90 }, { TargetPort: 80 }] } }),
      nowMs,
    );
    nowMs = runToQuiet(cluster, { planners: PLANNERS, nowMs });
    const after = cluster.view.service("two")?.endpoint;
    expect(after?.ports.map((port) => port.PublishedPort)).toEqual([30_002, 30_001]);
    expect(after?.virtualIps).toEqual(before?.virtualIps ?? []);
  });

  test("tells which network is full and how to help, and goes on when there is room", () => {
    const small = net({ subnet: "10.0.1.0/29" });
    const cluster = aState({
      nodes: [aNode({ id: "n1" })],
      networks: [small],
      services: [aService("web", { replicas: 6, networks: ["net"] })],
    });
    const nowMs = runToQuiet(cluster, { planners: PLANNERS });
    expect(runningTasks(cluster.view, "web").length).toBe(4);
    const waiting = cluster.view.tasks().filter((task) => task.status.state === "new");
    expect(waiting.length).toBe(2);
    expect(waiting[0]?.status.err).toMatch(
      /^could not find an available IP on network "net": all 5 addresses of 10\.0\.1\.0\/29 are in use; .*larger subnet$/,
    );
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 3), nowMs);
    runToQuiet(cluster, { planners: PLANNERS, nowMs });
    expect(runningTasks(cluster.view, "web").length).toBe(3);
    expect(cluster.view.tasks().length).toBe(3);
  });

  test("a service whose network has no room for a VIP tells it in its tasks", () => {
    const small = net({ subnet: "10.0.1.0/29" });
    const cluster = aState({
      nodes: [aNode({ id: "n1" })],
      networks: [small],
      services: [
        aService("a", { replicas: 4, networks: ["net"] }),
        aService("b", { replicas: 1, networks: ["net"] }),
      ],
    });
    runToQuiet(cluster, { planners: PLANNERS });
    const err = cluster.view.tasks().find((task) => task.status.state === "new")?.status.err;
    expect(err).toContain('network "net"');
  });

  test("never gives the address of a task on a down node to another", () => {
    const cluster = aState({
      nodes: [aNode({ id: "n1" }), aNode({ id: "n2" })],
      networks: [net({ subnet: "10.0.1.0/29" })],
      services: [aService("web", { replicas: 2, networks: ["net"] })],
    });
    let nowMs = runToQuiet(cluster, { planners: PLANNERS });
    const lost = new Set(cluster.view.tasksByNode("n1").map((task) => task.networks?.[0]?.address));
    setNodeState(cluster, "n1", "down", nowMs);
    updateSpec(cluster, "web", (spec) => scaleTo(spec, 4), nowMs);
    nowMs = runToQuiet(cluster, { planners: PLANNERS, nowMs });
    const addresses = runningTasks(cluster.view, "web").map((task) => task.networks?.[0]?.address);
    // Of five: the VIP, one lost, three running.
    expect(addresses.length).toBe(3);
    expect(addresses.some((address) => lost.has(address))).toBe(false);
  });

  test("a network without a subnet is named, and nothing is allocated", () => {
    const { subnet: _none, ...bare } = net();
    const { task, service, plan } = allocate(aService("web", { networks: ["net"] }), [bare]);
    expect(task?.status.err).toContain('network "net" has no subnet');
    expect(service?.endpoint).toBeUndefined();
    expect(plan.reasons.map((reason) => reason.objectId)).toEqual(["web", "task"]);
  });
});
