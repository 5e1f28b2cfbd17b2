import { describe, expect, test } from "bun:test";
import { diffRouting, diffSysctls, foundLink, wantedRouting } from "../../../net/mesh/diff.ts";
import {
  parseForwarding,
  parseInterfaces,
  parseNeighbours,
  parseRoutes,
  parseRules,
  parseSysctls,
  portsWithoutHairpin,
} from "../../../net/mesh/observe.ts";
import { type MeshPlan, planMesh } from "../../../net/mesh/plan.ts";
import { labEndpoint, labTable } from "./lab-state.ts";

function planOf(node: number, prepare?: (table: ReturnType<typeof labTable>) => void): MeshPlan {
  const table = labTable(node);
  prepare?.(table);
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("no plan");
  return plan;
}

describe("diffRouting", () => {
  test("what is as wanted needs no step", () => {
    const plan = planOf(1);
    const steps = diffRouting(plan, wantedRouting(plan));
    expect(steps).toEqual({ ip: [], bridge: [], ipLast: [], bridgeLast: [], counts: {} });
  });

  test("a task that moves has its route replaced, one that goes has it removed last", () => {
    const before = wantedRouting(planOf(1));
    const after = planOf(1, (table) => {
      table.endpoints.delete("endpoint/task-web3");
      table.endpoints.set(
        "endpoint/task-web2",
        labEndpoint({ name: "web2", service: "web", node: 3, legs: { netA: "10.101.0.22" } }),
      );
    });
    const steps = diffRouting(after, before);
    expect(steps.ip).toEqual([
      "route replace 10.101.0.22/32 via 192.168.77.3 dev shmesh onlink src 10.255.255.1 table main proto 117",
    ]);
    expect(steps.ipLast).toEqual(["route del 10.101.0.23/32 table main proto 117"]);
    expect(steps.counts).toEqual({ route: 2 });
  });

  test("a node that leaves has its objects removed", () => {
    const before = wantedRouting(planOf(1));
    const steps = diffRouting(
      planOf(1, (table) => table.peers.delete("peer/node3")),
      before,
    );
    expect(steps.ipLast).toContain("neigh del 192.168.77.3 dev shmesh");
    expect(steps.ipLast).toContain("route del default table 10003 proto 117");
    expect(steps.ipLast).toContain("rule del pref 20003 fwmark 0x30000/0xfff0000 lookup 10003");
    expect(steps.bridgeLast).toEqual(["fdb del 02:53:c0:a8:4d:03 dev shmesh self"]);
  });

  test("a device of another identity is made again, with all that went with it", () => {
    const plan = planOf(1);
    const found = { ...wantedRouting(plan), link: "02:53:c0:a8:4d:01 4096 192.168.77.9 4789" };
    const steps = diffRouting(plan, found);
    expect(steps.ip[0]).toBe("link del shmesh");
    expect(steps.ip).toContain("addr replace 10.255.255.1/32 dev shmesh");
    expect(steps.ip.some((line) => line.startsWith("rule"))).toBeFalse();
    expect(steps.counts).toEqual({ link: 1 });
  });

  test("another underlay MTU changes the device in place", () => {
    const plan = planOf(1);
    const steps = diffRouting(plan, { ...wantedRouting(plan), mtu: 1400 });
    expect(steps.ip).toEqual(["link set shmesh mtu 1450"]);
  });
});

test("settings are written when they differ, minima only when lower, unknown ones never", () => {
  const wanted = [
    { key: "a", value: 2 },
    { key: "b", value: 1, device: "sh01234567" },
    { key: "c", value: 100, isMinimum: true },
    { key: "d", value: 100, isMinimum: true },
    { key: "e", value: 1 },
  ];
  const found = parseSysctls("a = 0\nb = 1\nc = 50\nd = 200\n");
  expect(diffSysctls(wanted, found).map((change) => change.line)).toEqual(["a=2", "c=100"]);
});

describe("what the tools print", () => {
  test("routes, rules, neighbours and forwarding entries come back as planned", () => {
    expect(
      parseRoutes(
        '[{"dst":"default","gateway":"192.168.77.2","dev":"shmesh","table":"10002","flags":["onlink"]},' +
          '{"dst":"10.101.0.2","dev":"shmesh","scope":"link","flags":[]},' +
          '{"dst":"10.255.0.2","gateway":"192.168.77.2","dev":"shmesh","prefsrc":"10.255.0.1","flags":["onlink"]},' +
          '{"dst":"10.9.0.0/24","gateway":"192.168.77.2","dev":"eth0","flags":[]}]',
      ),
    ).toEqual(
      new Map([
        ["default table 10002", "default via 192.168.77.2 dev shmesh onlink table 10002 proto 117"],
        ["10.101.0.2/32 table main", "10.101.0.2/32 dev shmesh scope link table main proto 117"],
        [
          "10.255.0.2/32 table main",
          "10.255.0.2/32 via 192.168.77.2 dev shmesh onlink src 10.255.0.1 table main proto 117",
        ],
        ["10.9.0.0/24 table main", "other"],
      ]),
    );
    const rules = parseRules(
      '[{"priority":0,"src":"all","table":"local"},{"priority":19999,"src":"all","fwmark":"0","fwmask":"0xfff0000","goto":32766},' +
        '{"priority":20002,"src":"all","fwmark":"0x20000","fwmask":"0xfff0000","table":"10002"}]',
    );
    expect([...rules.keys()]).toEqual([
      "pref 19999 fwmark 0/0xfff0000 goto 32766",
      "pref 20002 fwmark 0x20000/0xfff0000 lookup 10002",
    ]);
    expect(
      parseNeighbours(
        '[{"dst":"192.168.77.2","lladdr":"02:53:c0:a8:4d:02","state":["PERMANENT"]},{"dst":"10.1.0.1","state":["FAILED"]}]',
      ),
    ).toEqual(
      new Map([["192.168.77.2", "192.168.77.2 lladdr 02:53:c0:a8:4d:02 dev shmesh nud permanent"]]),
    );
    expect(
      parseForwarding(
        '[{"mac":"02:53:c0:a8:4d:02","dst":"192.168.77.2","flags":["self"],"state":"permanent"}]',
      ).get("02:53:c0:a8:4d:02"),
    ).toBe("02:53:c0:a8:4d:02 dev shmesh dst 192.168.77.2 self permanent");
    expect(parseRoutes("").size).toBe(0);
  });

  test("interfaces give the mesh device and the ports without the flag", () => {
    const found = parseInterfaces(
      JSON.stringify([
        {
          ifname: "shmesh",
          ifindex: 4,
          address: "02:53:c0:a8:4d:01",
          mtu: 1450,
          flags: ["UP"],
          linkinfo: {
            info_kind: "vxlan",
            info_data: { id: 4096, local: "192.168.77.1", port: 4789, learning: false },
          },
          addr_info: [
            { family: "inet", local: "10.255.255.1", prefixlen: 32 },
            { family: "inet6", local: "fe80::1", prefixlen: 64 },
          ],
        },
        ...[
          { ifname: "v1", master: "sh01234567", hairpin: false },
          { ifname: "v2", master: "sh01234567", hairpin: true },
          { ifname: "v3", master: "docker0", hairpin: false },
        ].map(({ hairpin, ...rest }) => ({ ...rest, linkinfo: { info_slave_data: { hairpin } } })),
      ]),
    );
    expect(portsWithoutHairpin(found)).toEqual(["v1"]);
    expect(foundLink(found)).toEqual({
      link: wantedRouting(planOf(1)).link,
      mtu: 1450,
      addresses: new Map([["10.255.255.1/32", "10.255.255.1/32"]]),
    });
  });
});
