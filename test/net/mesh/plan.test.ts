import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import {
  createPlanMemory,
  type MeshPlan,
  planMesh,
  publishAddressOf,
} from "../../../net/mesh/plan.ts";
import { nftTableText, renderNftTable } from "../../../net/mesh/render.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import {
  labEndpoint,
  labItems,
  labNetwork,
  labService,
  labTable,
  networkId,
  NODE_ID,
  taskId,
  UNDERLAY,
} from "./lab-state.ts";
import { randomTable } from "./random-plan.ts";

const OPTIONS = { underlayMtu: 1500, balance: "random", hasBrNetfilter: true } as const;

function planOf(table: MeshTable, present: string[] = []): MeshPlan {
  const plan = planMesh(table, new Set(present), OPTIONS);
  if (!plan) throw new Error("The table makes no plan");
  return plan;
}
const destinations = (plan: MeshPlan) =>
  plan.routes.filter((route) => route.table === "main").map((route) => route.destination);

describe("planMesh", () => {
  test("a table without the node's own entry gives no plan", () => {
    const table = labTable(1);
    table.peers.delete(`peer/${NODE_ID(1)}`);
    expect(planMesh(table, new Set(), OPTIONS)).toBeUndefined();
    expect(planMesh(emptyTable(), new Set(), OPTIONS)).toBeUndefined();
  });

  test("a node without a network has the device, the peers and the published ports", () => {
    const plan = planOf(labTable(1, []));
    expect(plan.filter.networks).toEqual([]);
    expect(plan.filter.virtualIps).toEqual([]);
    expect(plan.filter.ports.map((port) => port.publishedPort)).toContain(8080);
    expect(plan.neighbours).toHaveLength(2);
    expect(plan.link.mtu).toBe(1450);
    expect(destinations(plan)).toEqual(["10.255.255.2/32", "10.255.255.3/32"]);
  });

  test("a network counts when the engine has it or a task is assigned here", () => {
    const table = labTable(3, []);
    expect(planOf(table, [networkId("netB")]).filter.networks.map((each) => each.bridge)).toEqual([
      bridgeName(networkId("netB")),
    ]);
    table.endpoints.set(
      "endpoint/x",
      labEndpoint({ name: "x", service: "web", node: 3, legs: { netA: "10.101.0.9" } }, false),
    );
    expect(planOf(table).filter.networks.map((each) => each.subnet)).toEqual(["10.101.0.0/24"]);
  });

  test("only ready tasks are balanced, all tasks are routed", () => {
    const table = labTable(1);
    for (const endpoint of table.endpoints.values()) endpoint.isReady = false;
    const plan = planOf(table);
    expect(plan.filter.virtualIps.every((vip) => vip.targets.length === 0)).toBeTrue();
    expect(plan.filter.ports.every((port) => port.targets.length === 0)).toBeTrue();
    expect(destinations(plan)).toContain("10.101.0.23/32");
    expect(plan.filter.publishedTasks).toContainEqual({
      address: "10.101.0.21",
      protocol: "tcp",
      port: 80,
    });
  });

  test("a service that prefers tasks here is balanced over them, elsewhere over all", () => {
    const webOf = (self: number, isReadyHere = true) => {
      const table = labTable(self);
      for (const [key, service] of table.services) {
        if (service.name === "web")
          table.services.set(key, { ...service, balancing: { isLocalFirst: true } });
      }
      for (const [key, endpoint] of table.endpoints) {
        if (endpoint.taskId === taskId(`web${self}`))
          table.endpoints.set(key, { ...endpoint, isReady: isReadyHere });
      }
      const { virtualIps, ports } = planOf(table).filter;
      const faces = [
        virtualIps.find((vip) => vip.address === "10.101.0.2"),
        ports.find((port) => port.publishedPort === 8080),
      ];
      return faces.map((face) => face && { targets: face.targets, unready: face.unready });
    };
    const [one, two, three] = ["10.101.0.21", "10.101.0.22", "10.101.0.23"];
    const local = { targets: [one], unready: [two, three] };
    expect(webOf(1)).toEqual([local, local]);
    const others = { targets: [two, three], unready: [one] };
    expect(webOf(1, false)).toEqual([others, others]);
  });

  test("a port with policy local has this node's tasks only, one with snat is marked so", () => {
    const portsOf = (self: number) => {
      const table = labTable(self);
      for (const [key, service] of table.services) {
        const publish = service.name === "far" ? "local" : "snat";
        const ports = service.ports.map((port) => ({ ...port, publish }) as const);
        table.services.set(key, { ...service, ports });
      }
      return planOf(table).filter.ports;
    };
    const far = (self: number) => portsOf(self).find((port) => port.publishedPort === 8081);
    expect(far(3)).toMatchObject({ targets: ["10.101.0.33"], isSnat: false });
    expect(far(1)).toMatchObject({ targets: [], unready: ["10.101.0.33"] });
    expect(portsOf(1).find((port) => port.publishedPort === 8080)).toMatchObject({ isSnat: true });
  });

  test("a published task is routed everywhere, another one only where its network is", () => {
    const plan = planOf(labTable(2));
    expect(destinations(plan)).toContain("10.103.0.33/32");
    expect(destinations(plan)).not.toContain("10.105.0.99/32");
    const onNode3 = planOf(labTable(3));
    // cA1 publishes nothing, but node 3 has network A; int1's network only through mix3.
    expect(destinations(onNode3)).toContain("10.101.0.11/32");
    expect(destinations(planOf(labTable(1, [])))).not.toContain("10.101.0.11/32");
  });

  test("the ingress network is not open, an internal one is", () => {
    const networks = planOf(labTable(1)).filter.networks;
    const isOpen = (name: string) =>
      networks.find((each) => each.bridge === bridgeName(networkId(name)))?.isOpen;
    expect(isOpen("ingress")).toBeFalse();
    expect(isOpen("netI")).toBeTrue();
  });

  test("the publish address is on the first network by name that is not internal", () => {
    const byId = new Map(
      ["netA", "netB", "netI", "ingress"].map((name) => [networkId(name), labNetwork(name)]),
    );
    const of = (legs: Record<string, string>) =>
      publishAddressOf(labEndpoint({ name: "x", service: "x", node: 1, legs }), byId);
    expect(of({ netB: "10.102.0.9", netA: "10.101.0.9" })).toBe("10.101.0.9");
    expect(of({ netI: "10.104.0.9", netB: "10.102.0.9" })).toBe("10.102.0.9");
    expect(of({ netI: "10.104.0.9" })).toBeUndefined();
    expect(of({ unknown: "10.9.0.9" })).toBeUndefined();
  });

  test("an address that came home has no route to elsewhere", () => {
    const table = labTable(1);
    table.endpoints.set(
      "endpoint/old",
      labEndpoint({ name: "zz", service: "web", node: 2, legs: { netA: "10.101.0.21" } }, false),
    );
    expect(destinations(planOf(table))).not.toContain("10.101.0.21/32");
  });

  test("entries that contradict each other are left out and named", () => {
    const table = labTable(1);
    const peer = table.peers.get(`peer/${NODE_ID(2)}`);
    if (!peer) throw new Error("no peer");
    table.peers.set("peer/again", { ...peer, nodeId: "again", index: 9 });
    table.peers.set("peer/mine", {
      ...peer,
      nodeId: "mine",
      index: 10,
      dataPathAddr: UNDERLAY(1),
    });
    table.networks.set("network/twice", { ...labNetwork("netA"), id: "twice" });
    table.services.set("service/z", { ...labService("web"), serviceId: "z", virtualIps: [] });
    table.services.set("service/bad", {
      ...labService("none"),
      serviceId: "bad",
      ports: [{ protocol: "tcp", publishedPort: 70_000, targetPort: 80 }],
    });
    const plan = planOf(table);
    // The node that joined last has the address; its tasks are those that are reached.
    expect(plan.filter.peers.map((each) => each.index)).toEqual([3, 9]);
    expect(plan.conflicts).toHaveLength(8);
    expect(new Set(plan.filter.subnets).size).toBe(plan.filter.subnets.length);
  });

  test("the order of the items does not matter", () => {
    const items = labItems(2);
    const expected = planOf(tableOf(items));
    fc.assert(
      fc.property(fc.shuffledSubarray(items, { minLength: items.length }), (shuffled) => {
        expect(planOf(tableOf(shuffled))).toEqual(expected);
      }),
      { numRuns: 30 },
    );
  });

  test("any table gives text with unique keys, live targets and closed references", () => {
    fc.assert(
      fc.property(fc.subarray(labItems(1)), fc.array(fc.boolean()), (items, readiness) => {
        const table = tableOf(items);
        let place = 0;
        for (const [key, endpoint] of table.endpoints) {
          const isReady = readiness[place++ % Math.max(1, readiness.length)] ?? false;
          table.endpoints.set(key, { ...endpoint, isReady });
        }
        const plan = planMesh(table, new Set(), OPTIONS);
        if (!plan) return;
        const nft = renderNftTable(plan.filter);
        for (const set of nft.sets) {
          for (const value of set.elements.values()) {
            if (value?.startsWith("goto ")) expect(nft.chains.has(value.slice(5))).toBeTrue();
          }
        }
        const ready = new Set(
          [...table.endpoints.values()]
            .filter((endpoint) => endpoint.isReady)
            .flatMap((endpoint) => endpoint.addresses.map((leg) => leg.address)),
        );
        for (const { targets } of [...plan.filter.virtualIps, ...plan.filter.ports]) {
          for (const target of targets) expect(ready.has(target)).toBeTrue();
        }
        expect(nftTableText(nft)).not.toContain("undefined");
        expect(new Set(plan.routes.map((each) => `${each.table} ${each.destination}`)).size).toBe(
          plan.routes.length,
        );
      }),
      { numRuns: 100 },
    );
  });
});

function tableOf(items: AssignmentItem[]): MeshTable {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: structuredClone(items), removed: [] });
  return table;
}

describe("plan memory", () => {
  test("planning with the memory of any plans before gives what planning without gives", () => {
    const memory = createPlanMemory();
    for (let round = 0; round < 150; round += 1) {
      const { table, options } = randomTable(Math.floor(round / 10), round);
      // Most objects stay the same ones from round to round, as in a table that is kept.
      const kept = keptTable(table);
      const without = planMesh(kept, new Set(), options);
      expect(planMesh(kept, new Set(), options, memory)).toEqual(without);
    }
  });

  test("a service that did not change keeps its objects", () => {
    const memory = createPlanMemory();
    const { table, options } = randomTable(3, 0);
    const before = planMesh(table, new Set(), options, memory);
    const [key, endpoint] = [...table.endpoints].find(([name]) => name.includes("web2")) ?? [];
    if (key === undefined || !endpoint) throw new Error("no web2");
    table.endpoints.set(key, { ...endpoint, isReady: !endpoint.isReady });
    const after = planMesh(table, new Set(), options, memory);
    const changed = after?.filter.virtualIps.filter(
      (virtualIp, place) => virtualIp !== before?.filter.virtualIps[place],
    );
    expect(changed?.map(({ address }) => address)).toEqual(["10.101.0.2"]);
  });
});

const keptObjects = new Map<string, unknown>();

/** The table with the object of an earlier round wherever that says the same. */
function keptTable(table: MeshTable): MeshTable {
  const keep = <Entry>(entries: Map<string, Entry>) =>
    new Map(
      [...entries].map(([key, entry]): [string, Entry] => {
        const text = JSON.stringify([key, entry]);
        const known = keptObjects.get(text) ?? entry;
        keptObjects.set(text, known);
        // Put there under the same text, so of the same kind.
        return [key, known as Entry];
      }),
    );
  return {
    ...table,
    peers: keep(table.peers),
    networks: keep(table.networks),
    services: keep(table.services),
    endpoints: keep(table.endpoints),
  };
}
