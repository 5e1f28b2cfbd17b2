/** IPv6 in the plan; what both families have alike is in plan.test.ts. */
import { describe, expect, test } from "bun:test";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { createPlanMemory, planMesh, type PlanOptions } from "../../../net/mesh/plan.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";
import { labItems6, six, UNDERLAY6 } from "./ipv6-lab.ts";
import { labTable, networkId } from "./lab-state.ts";

const OPTIONS = { underlayMtu: 1500, balance: "random", hasBrNetfilter: true } as const;
const tableOf = (items: AssignmentItem[]): MeshTable => {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: items, removed: [] });
  return table;
};
function planOf(table: MeshTable, more: Partial<PlanOptions> = {}) {
  const plan = planMesh(table, new Set(), { ...OPTIONS, ...more });
  if (!plan) throw new Error("The table makes no plan");
  return plan;
}
/** The node's items with one of them changed. */
function changed(key: string, change: (item: AssignmentItem) => AssignmentItem): MeshTable {
  return tableOf(labItems6(1).map((item) => (item.key === key ? change(item) : item)));
}

describe("planMesh with IPv6", () => {
  const plan = planOf(tableOf(labItems6(1)));

  test("the plan of IPv4 is the same, and without a network with IPv6 there is no other", () => {
    const plain = planOf(labTable(1));
    expect(plain.filter6).toBeUndefined();
    expect(plain.ipv6).toBeUndefined();
    expect(plan.filter).toEqual(plain.filter);
    expect(plan.routes).toEqual(plain.routes);
    expect(plan.rules).toEqual(plain.rules);
    expect(plain.sysctls.filter(({ key }) => key.includes("ipv6"))).toEqual([]);
  });

  test("the filter has the same shape in the other family, of the networks that have it", () => {
    const { filter, filter6 } = plan;
    expect(filter6?.family).toBe("ipv6");
    expect(filter6?.subnets).toEqual([
      "fd00:101::/64",
      "fd00:102::/64",
      "fd00:103::/64",
      "fd00:104::/64",
    ]);
    expect(filter6?.peers).toEqual(filter.peers);
    expect(filter6?.meshAddresses).toContain("fd73:686f:616c::aff:ff01");
    expect(filter6?.virtualIps.map(({ chain }) => chain)).toEqual(
      filter.virtualIps.map(({ chain }) => chain),
    );
    expect(filter6?.virtualIps[0]).toMatchObject({
      address: six("10.101.0.2"),
      targets: [six("10.101.0.21"), six("10.101.0.22"), six("10.101.0.23")],
    });
    // Sources of a node that is not to see itself as a stranger.
    expect(filter6?.selfLoops).toContainEqual({ node: UNDERLAY6(3), task: six("10.101.0.33") });
  });

  test("ports lead to the leg with the way out, and are not there where that has no IPv6", () => {
    const portsOf = (published: number) =>
      plan.filter6?.ports.filter((port) => port.publishedPort === published);
    expect(portsOf(8081)?.[0]?.targets).toEqual([six("10.101.0.33")]);
    // Published on the ingress network.
    expect(portsOf(8084)).toEqual([]);
    expect(portsOf(8085)?.[0]?.targets).toEqual([]);
  });

  test("a network that lost IPv6 to a conflict is planned in IPv4 only", () => {
    const table = changed(`network/${networkId("netB")}`, (item) =>
      item.kind === "network"
        ? { ...item, body: { ...item.body, subnet6: "fd00:101::/64" } }
        : item,
    );
    const { filter, filter6, conflicts } = planOf(table);
    expect(conflicts).toEqual(["network netB: bad subnet fd00:101::/64 or gateway fd00:102::1"]);
    expect(filter6?.subnets).not.toContain("fd00:102::/64");
    expect(filter.subnets).toContain("10.102.0.0/24");
    expect(filter6?.localAddresses).not.toContain(six("10.102.0.11"));
  });

  test("bridges answer for tasks elsewhere and for service addresses, once they are made", () => {
    const bridge = bridgeName(networkId("netA"));
    const answered = plan.ipv6?.proxies.filter((proxy) => proxy.bridge === bridge);
    const addresses = answered?.map((proxy) => proxy.address);
    expect(addresses).toContain(six("10.101.0.23"));
    expect(addresses).toContain(six("10.101.0.2"));
    expect(addresses).not.toContain(six("10.101.0.21"));
    expect(addresses).not.toContain(six("10.102.0.33"));
    const early = planOf(tableOf(labItems6(1)), { devices: new Set(["eth0"]) });
    expect(early.ipv6?.proxies).toEqual([]);
    expect(early.ipv6?.addresses.map(({ device }) => device)).toEqual(["shmesh"]);
    expect(early.filter6).toEqual(plan.filter6);
  });

  test("a kernel without IPv6 has IPv4, and says so", () => {
    const { filter6, ipv6, conflicts } = planOf(tableOf(labItems6(1)), { hasIpv6: false });
    expect([filter6, ipv6]).toEqual([undefined, undefined]);
    expect(conflicts).toEqual(["IPv6 of all networks: this kernel has none"]);
  });

  test("devices whose addresses routers gave go on listening to them", () => {
    const { sysctls } = planOf(tableOf(labItems6(1)), { advertisedDevices: ["eth0.5"] });
    const names = sysctls.map(({ key }) => key);
    const place = names.indexOf("net.ipv6.conf.eth0/5.accept_ra");
    expect(sysctls[place]).toMatchObject({ value: 2, from: 1 });
    expect(place).toBeLessThan(names.indexOf("net.ipv6.conf.all.forwarding"));
  });

  test("planning with the memory of other plans gives what planning without gives", () => {
    const memory = createPlanMemory();
    const tables = [
      tableOf(labItems6(1)),
      labTable(1),
      changed("service/service-web", (item) =>
        item.kind === "service" ? { ...item, body: { ...item.body, mode: "dnsrr" } } : item,
      ),
      tableOf(labItems6(1)),
    ];
    for (const table of tables) {
      const remembered = planMesh(table, new Set(), OPTIONS, memory);
      expect(remembered).toEqual(planMesh(table, new Set(), OPTIONS));
    }
  });
});
