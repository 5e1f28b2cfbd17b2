import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  changedRouting,
  diffRouting,
  diffSysctls,
  foundLink,
  wantedRouting,
} from "../../../net/mesh/diff.ts";
import {
  parseForwarding,
  parseInterfaces,
  parseNeighbours,
  parseProxies,
  parseRoutes,
  parseRoutes6,
  parseRules,
  parseSysctls,
  portsWithoutHairpin,
} from "../../../net/mesh/observe.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { type MeshPlan, planMesh } from "../../../net/mesh/plan.ts";
import { applyAssignments, emptyTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "./ipv6-lab.ts";
import { labEndpoint, labTable } from "./lab-state.ts";
import { randomTable } from "./random-plan.ts";

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
    expect(steps).toEqual({
      ip: [],
      bridge: [],
      ipLast: [],
      bridgeLast: [],
      ip6: [],
      ip6Last: [],
      counts: {},
    });
  });

  test("a step from plan to plan is the same without what both begin and end with", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 40 }),
        fc.boolean(),
        (shape, one, other, isMoved) => {
          const [before, after] = [one, other].map((change) => {
            const { table, options } = randomTable(shape, change);
            applyAssignments(table, { isComplete: false, put: labItems6(1), removed: [] });
            const plan = planMesh(table, new Set(), options);
            if (!plan) throw new Error("no plan");
            return plan;
          });
          if (!before || !after) return;
          if (isMoved) after.link.port += 1;
          const step = changedRouting(before, after);
          expect(diffRouting(step.plan, step.found)).toEqual(
            diffRouting(after, wantedRouting(before)),
          );
        },
      ),
      { numRuns: 150 },
    );
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

describe("IPv6", () => {
  const withSix = (node: number) => {
    const table = emptyTable();
    applyAssignments(table, { isComplete: true, put: labItems6(node), removed: [] });
    const plan = planMesh(table, new Set(), {
      underlayMtu: 1500,
      balance: "random",
      hasBrNetfilter: true,
    });
    if (!plan) throw new Error("no plan");
    return plan;
  };

  test("without a network that has it there is no command of it", () => {
    const steps = diffRouting(planOf(1), { ...wantedRouting(planOf(1)), link: undefined });
    expect([...steps.ip6, ...steps.ip6Last]).toEqual([]);
    expect(wantedRouting(planOf(1)).six).toBeUndefined();
  });

  test("addresses come before the routes over them, proxies with them", () => {
    const steps = diffRouting(withSix(1), wantedRouting(planOf(1)));
    expect(steps.ip).toEqual([]);
    expect(steps.ip6[0]).toBe("addr replace fd73:686f:616c::aff:ff01/128 dev shmesh nodad");
    const peer = "fd73:686f:616c::aff:ff03";
    const source = "src fd73:686f:616c::aff:ff01";
    expect(steps.ip6).toContain(
      `route replace ${peer}/128 dev shmesh ${source} table main proto 117`,
    );
    expect(steps.ip6).toContain(
      `route replace fd00:101::17/128 via ${peer} dev shmesh onlink ${source} table main proto 117`,
    );
    expect(steps.ip6).toContain(
      `route replace default via ${peer} dev shmesh onlink table 10003 proto 117`,
    );
    const bridge = bridgeName("id-netA");
    expect(steps.ip6).toContain(`neigh replace proxy fd00:101::17 dev ${bridge}`);
    expect(steps.ip6).toContain(`neigh replace proxy fd00:101::2 dev ${bridge}`);
    // A container of this node answers for itself.
    expect(steps.ip6).not.toContain(`neigh replace proxy fd00:101::15 dev ${bridge}`);
  });

  test("what is as wanted needs no step, and all goes with the last network", () => {
    const plan = withSix(1);
    const steps = diffRouting(plan, wantedRouting(plan));
    expect(steps.counts).toEqual({});
    expect([...steps.ip6, ...steps.ip6Last]).toEqual([]);
    const end = diffRouting(planOf(1), wantedRouting(plan));
    expect(end.ip6).toEqual([]);
    expect(end.ip6Last).toHaveLength(
      Object.values(wantedRouting(plan).six ?? {}).reduce((sum, lines) => sum + lines.size, 0),
    );
    expect(end.ip6Last).toContain("route del default table 10003 proto 117");
  });

  test("a new device gets all of it again, and bridges keep what they answer for", () => {
    const plan = withSix(1);
    const steps = diffRouting(plan, { ...wantedRouting(plan), link: undefined });
    expect(steps.counts).toEqual({ link: 1 });
    expect(steps.ip6.some((line) => line.startsWith("route "))).toBeTrue();
    expect(steps.ip6.some((line) => line.includes("proxy"))).toBeFalse();
  });

  test("what the tools print comes back as planned", () => {
    const routes = parseRoutes6(
      '[{"dst":"default","gateway":"fd73::2","dev":"shmesh","table":"10002","metric":1024,"flags":["onlink"],"pref":"medium"},' +
        '{"dst":"fd00:1::99","dev":"shmesh","metric":1024,"flags":[],"pref":"medium"},' +
        '{"type":"local","dst":"fd00:1::98","dev":"shmesh","table":"local","prefsrc":"fd73::1","metric":1024,"flags":[]},' +
        '{"dst":"fd00:1::97","dev":"eth0","flags":[]}]',
    );
    expect([...routes.values()]).toEqual([
      "default via fd73::2 dev shmesh onlink table 10002 proto 117",
      "fd00:1::99/128 dev shmesh table main proto 117",
      "local fd00:1::98/128 dev shmesh src fd73::1 table local proto 117",
      "other",
    ]);
    const proxies = parseProxies(
      '[{"dst":"fd00:1::99","dev":"sh01234567","proxy":null},{"dst":"fd00:1::98","dev":"br0","proxy":null}]',
    );
    expect([...proxies.keys()]).toEqual(["fd00:1::99 dev sh01234567"]);
  });

  test("a setting with an origin is written only there", () => {
    const wanted = [{ key: "accept_ra", value: 2, from: 1 }];
    const changes = (text: string) => diffSysctls(wanted, parseSysctls(text));
    expect(changes("accept_ra = 1\n")).toHaveLength(1);
    expect(changes("accept_ra = 0\n")).toEqual([]);
    expect(changes("accept_ra = 2\n")).toEqual([]);
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
