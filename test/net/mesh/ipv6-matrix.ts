/** Rows of the acceptance matrix in IPv6, for one back-end; see matrix.ts, and ipv6-lab.ts for the lab. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { ServiceEntry } from "../../../core/dispatcher/assignment.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import {
  addIpv6,
  CLIENT6,
  labItems6,
  labNetwork6,
  six,
  startNode6,
  UNDERLAY6,
} from "./ipv6-lab.ts";
import { eventually, type Lab, labObstacle, type LabUpOptions, labUp, NODES } from "./lab.ts";
import { CLIENT, networkId, taskId, UNDERLAY } from "./lab-state.ts";

const WEB_VIP = six("10.101.0.2");
const FAR_VIP = six("10.101.0.3");
const NONE_VIP = six("10.101.0.4");
const A1 = six("10.101.0.11");
const WEB3 = six("10.101.0.23");
const EVEN = "web1:2 web2:2 web3:2";

async function expectAll(cases: [string, Promise<string>, string | RegExp][]): Promise<void> {
  const seen = await Promise.all(cases.map(async ([name, probe]) => [name, await probe] as const));
  const wrong = seen.flatMap(([name, text], place) => {
    const wanted = cases[place]?.[2] ?? "";
    const isRight = typeof wanted === "string" ? text === wanted : wanted.test(text);
    return isRight ? [] : [`${name}: got "${text}", want ${wanted}`];
  });
  expect(wrong).toEqual([]);
}

/** The rows of one back-end, in a lab of their own. */
export function describeIpv6Matrix(options: LabUpOptions): void {
  const { backend, variant } = options;
  const title = `mesh in IPv6 by ${backend}${variant ? ` (${variant})` : ""}`;
  const obstacle = labObstacle(options);
  if (obstacle !== undefined) {
    describe.skip(`${title} (skipped: ${obstacle})`, () => {
      test("the matrix", () => undefined);
    });
    return;
  }
  let lab: Lab;
  let outside: { end(): Promise<void> };
  const ping = async (from: string, address: string, ...more: string[]) => {
    const result = await lab.inside(from, ["busybox", "ping", "-c1", "-W1", ...more, address]);
    return result.code === 0 ? "answered" : "no answer";
  };
  const shown = async (node: number, argv: string[]) => (await lab.inside(`h${node}`, argv)).stdout;

  describe(title, () => {
    beforeAll(async () => {
      lab = await labUp(options);
      outside = await addIpv6(lab);
      // As an engine with ip6tables leaves it, on one node.
      await lab.inside("h2", ["ip6tables", "-P", "FORWARD", "DROP"]);
      await Promise.all(NODES.map((node) => startNode6(lab, node)));
      for (const mesh of lab.meshes.values()) await mesh.settled();
    }, 120_000);
    afterAll(async () => {
      await outside?.end();
      await lab?.down();
    }, 60_000);

    test("a node programs both families without an error, and a check finds nothing to mend", async () => {
      for (const mesh of lab.meshes.values()) await mesh.check();
      expect(lab.outputs).toEqual([]);
      for (const mesh of lab.meshes.values()) {
        expect(mesh.status()).toMatchObject({ backend, repairs: {} });
        expect(mesh.status().lastError).toBeUndefined();
      }
    });

    test("containers reach each other on one and on two hosts", async () => {
      await expectAll([
        ["same host", lab.tcp("cA1", six("10.101.0.21"), 80), `web1 ${A1}`],
        ["cross host", lab.tcp("cA1", WEB3, 80), `web3 ${A1}`],
        ["to the node that filters", lab.tcp("cA1", six("10.101.0.22"), 80), `web2 ${A1}`],
        ["from there", lab.tcp("cAB2", WEB3, 80), `web3 ${six("10.101.0.12")}`],
        ["cross host udp", lab.udp("cA1", WEB3, 9000), `web3 ${A1}`],
        ["same host ping", ping("cA1", six("10.101.0.21")), "answered"],
        ["cross host ping", ping("cA1", WEB3), "answered"],
        ["large ping", ping("cA1", WEB3, "-s", "1402"), "answered"],
        ["host to local task", lab.tcp("h1", six("10.101.0.21"), 80), /^web1 /],
        ["host to remote task", lab.tcp("h1", six("10.101.0.33"), 80), /^far3 /],
        ["IPv4 beside it", lab.tcp("cA1", "10.101.0.23", 80), "web3 10.101.0.11"],
      ]);
    });

    test("networks are isolated, and sources cannot be forged", async () => {
      await lab.inside("rtr", ["ip", "-6", "route", "add", WEB3, "via", UNDERLAY6(3)]);
      const forged = six("10.102.0.99");
      await lab.inside("cA1", ["ip", "-6", "addr", "add", forged, "dev", "eth0", "nodad"]);
      const silent = "no answer";
      await expectAll([
        ["A to B same host", lab.tcp("cA1", six("10.102.0.11"), 80), silent],
        ["A to B cross host", lab.tcp("cA1", six("10.102.0.33"), 80), silent],
        ["A to B service address", lab.tcp("cA1", six("10.102.0.3"), 80), silent],
        ["A to C, route known", lab.tcp("cA1", six("10.103.0.33"), 80), silent],
        ["outside to task", lab.tcp("cli", WEB3, 80), silent],
        ["forged source", ping("cA1", WEB3, "-I", forged), silent],
      ]);
      await lab.inside("cA1", ["ip", "-6", "addr", "del", forged, "dev", "eth0"]);
    });

    test("a service address spreads over its tasks and keeps the client's address", async () => {
      expect(await lab.spread(6, () => lab.tcp("cA1", WEB_VIP, 80))).toBe(EVEN);
      await expectAll([
        ["one remote task", lab.tcp("cA1", FAR_VIP, 80), `far3 ${A1}`],
        [
          "one task on this host",
          lab.tcp("cB3", six("10.102.0.3"), 80),
          `far3 ${six("10.102.0.13")}`,
        ],
        ["udp", lab.udp("cA1", FAR_VIP, 9000), `far3 ${A1}`],
        ["ping", ping("cA1", FAR_VIP), "answered"],
        ["its own service", lab.tcp("far3", FAR_VIP, 80), /^far3 /],
        ["internal network", lab.tcp("int1", six("10.104.0.2"), 80), /^int[12] /],
        ["no task", lab.tcp("cA1", NONE_VIP, 80), "refused"],
        ["host, task here", lab.tcp("h3", FAR_VIP, 80), /^far3 /],
        ["host, task elsewhere", lab.tcp("h1", FAR_VIP, 80), "far3 fd73:686f:616c::aff:ff01"],
        ["host, no task", lab.tcp("h1", NONE_VIP, 80), "refused"],
      ]);
    });

    test("a published port keeps the client's address at every node", async () => {
      await expectAll([
        ["node without task", lab.tcp("cli", UNDERLAY6(1), 8081), `far3 ${CLIENT6}`],
        ["another one", lab.tcp("cli", UNDERLAY6(2), 8081), `far3 ${CLIENT6}`],
        ["node with the task", lab.tcp("cli", UNDERLAY6(3), 8081), `far3 ${CLIENT6}`],
        ["node without the network", lab.tcp("cli", UNDERLAY6(1), 8082), `solo3 ${CLIENT6}`],
        ["udp", lab.udp("cli", UNDERLAY6(1), 9001), `far3 ${CLIENT6}`],
        ["IPv4 beside it", lab.tcp("cli", UNDERLAY(1), 8081), `far3 ${CLIENT}`],
        ["no task", lab.tcp("cli", UNDERLAY6(1), 8083), "refused"],
        ["published on a network without IPv6", lab.tcp("cli", UNDERLAY6(1), 8084), "refused"],
        ["another node's host", lab.tcp("h2", UNDERLAY6(1), 8081), `far3 ${UNDERLAY6(2)}`],
        ["own address", lab.tcp("h1", UNDERLAY6(1), 8081), /^far3 /],
        // Asked again by 127.0.0.1, which is answered.
        ["localhost", lab.tcp("h1", "::1", 8081), "refused"],
        ["container, own node", lab.tcp("cA1", UNDERLAY6(1), 8081), /^far3 /],
        ["container, other node", lab.tcp("cA1", UNDERLAY6(2), 8081), /^far3 /],
        ["the task by another node", lab.tcp("far3", UNDERLAY6(1), 8081), /^far3 /],
        ["egress", lab.tcp("cA1", CLIENT6, 80), `outside ${UNDERLAY6(1)}`],
      ]);
      expect(await lab.spread(6, () => lab.tcp("cli", UNDERLAY6(1), 8080))).toBe(EVEN);
    });

    test("affinity, policy snat and counting are as in IPv4", async () => {
      const tell = async (change: (service: ServiceEntry) => ServiceEntry) => {
        for (const [node, mesh] of lab.meshes) {
          const put = labItems6(node).flatMap((item) =>
            item.kind === "service" ? [{ ...item, body: change(item.body) }] : [],
          );
          mesh.assignments({ isComplete: false, put, removed: [] });
        }
        for (const mesh of lab.meshes.values()) await mesh.settled();
      };
      await tell((service) => ({
        ...service,
        balancing: { hasAffinity: true },
        ports: service.ports.map((port) => ({ ...port, publish: "snat" })),
      }));
      await expectAll([
        ["node without task", lab.tcp("cli", UNDERLAY6(1), 8081), "far3 fd73:686f:616c::aff:ff01"],
        ["node with the task", lab.tcp("cli", UNDERLAY6(3), 8081), `far3 ${six("10.101.0.1")}`],
        ["its service address", lab.tcp("cA1", FAR_VIP, 80), `far3 ${A1}`],
      ]);
      for (const client of ["cA1", "cAB2"]) {
        expect(await lab.spread(4, () => lab.tcp(client, WEB_VIP, 80))).toMatch(/^web\d:4$/);
      }
      const count = async (face: string) => {
        const counts = (await lab.meshes.get(1)?.connections()) ?? [];
        const found = counts.find((one) => one.family === "ipv6" && one.face === face);
        return (found?.connections ?? 0) > 0 ? "some" : "none";
      };
      await expectAll([
        ["address", eventually("some", () => count(FAR_VIP)), "some"],
        ["port", eventually("some", () => count("8081/tcp")), "some"],
      ]);
      await tell((service) => service);
      expect(await lab.tcp("cli", UNDERLAY6(1), 8081)).toBe(`far3 ${CLIENT6}`);
    });

    test("what others remove of IPv6 is mended by the next check and counted", async () => {
      const mesh = lab.meshes.get(1);
      if (!mesh) throw new Error("no mesh");
      const bridge = bridgeName(networkId("netA"));
      for (const command of [
        `ip -6 neigh del proxy ${WEB3} dev ${bridge}`,
        `ip -6 neigh del proxy ${FAR_VIP} dev ${bridge}`,
        `ip -6 neigh add proxy fd00:101::99 dev ${bridge}`,
        `ip -6 route del ${six("10.101.0.33")}`,
        "ip -6 rule del pref 20003",
        "ip -6 neigh del fd73:686f:616c::aff:ff03 dev shmesh",
        `sysctl -qw net.ipv6.conf.${bridge}.proxy_ndp=0`,
      ]) {
        const result = await lab.inside("h1", command.split(" "));
        expect([command, result.code]).toEqual([command, 0]);
      }
      await mesh.check();
      expect(mesh.status().repairs).toEqual({
        proxy: 3,
        route: 1,
        rule: 1,
        neighbour: 1,
        sysctl: 1,
      });
      await lab.inside("cA1", ["ip", "-6", "neigh", "flush", "dev", "eth0"]);
      await expectAll([
        ["task", lab.tcp("cA1", WEB3, 80), `web3 ${A1}`],
        ["service address", lab.tcp("cA1", FAR_VIP, 80), `far3 ${A1}`],
        ["published port", lab.tcp("cli", UNDERLAY6(1), 8081), `far3 ${CLIENT6}`],
      ]);
    });

    test("a task that is gone leaves no route, no proxy and no flow", async () => {
      const mesh = lab.meshes.get(1);
      if (!mesh) throw new Error("no mesh");
      const key = `endpoint/${taskId("far3")}`;
      const far3 = six("10.101.0.33");
      const flows = () => shown(1, ["conntrack", "-L", "-f", "ipv6", "--reply-src", far3]);
      await lab.udp("cA1", FAR_VIP, 9000);
      expect(await flows()).not.toBe("");
      mesh.assignments({ isComplete: false, put: [], removed: [key] });
      await mesh.settled();
      expect(await flows()).toBe("");
      expect(await shown(1, ["ip", "-6", "route", "show", far3])).toBe("");
      expect(await shown(1, ["ip", "-6", "neigh", "show", "proxy"])).not.toContain(`${far3} `);
      await expectAll([
        ["service address", lab.tcp("cA1", FAR_VIP, 80), "refused"],
        ["published port", lab.tcp("cli", UNDERLAY6(1), 8081), "refused"],
      ]);
      const put = labItems6(1).filter((item) => item.key === key);
      mesh.assignments({ isComplete: false, put, removed: [] });
      await mesh.settled();
      expect(await lab.tcp("cA1", FAR_VIP, 80)).toBe(`far3 ${A1}`);
    });

    test("where input filters, containers still find their gateway", async () => {
      const mesh = lab.meshes.get(2);
      const probe = async () => {
        await lab.inside("cAB2", ["ip", "-6", "neigh", "flush", "all"]);
        return lab.tcp("cAB2", WEB3, 80);
      };
      await lab.inside("h2", ["ip6tables", "-P", "INPUT", "DROP"]);
      expect(await probe()).toBe("no answer");
      await mesh?.check();
      expect(mesh?.status().repairs["iptables"]).toBe(backend === "ipvs" ? 2 : 1);
      expect(await probe()).toBe(`web3 ${six("10.101.0.12")}`);
      await mesh?.check();
      expect(mesh?.status().repairs["iptables"]).toBe(backend === "ipvs" ? 2 : 1);
      await lab.inside("h2", ["ip6tables", "-P", "INPUT", "ACCEPT"]);
    });

    test("a deleted mesh device comes back with its IPv6", async () => {
      await lab.inside("h1", ["ip", "link", "del", "shmesh"]);
      const probe = () => lab.tcp("cA1", FAR_VIP, 80);
      expect(await eventually(`far3 ${A1}`, probe)).toBe(`far3 ${A1}`);
    });

    test("IPv6 that somebody has switched off on the mesh device comes back", async () => {
      const key = "net.ipv6.conf.shmesh.disable_ipv6";
      await lab.inside("h1", ["sysctl", "-qw", `${key}=1`]);
      await lab.meshes.get(1)?.check();
      expect(await lab.tcp("cA1", FAR_VIP, 80)).toBe(`far3 ${A1}`);
    });

    test("IPv6 goes with the last network that has it, and IPv4 goes on", async () => {
      const mesh = lab.meshes.get(1);
      if (!mesh) throw new Error("no mesh");
      expect(labNetwork6("netA").subnet6).toBe("fd00:101::/64");
      const put = labItems6(1).map((item) =>
        item.kind === "network"
          ? { ...item, body: { ...item.body, subnet6: undefined, gateway6: undefined } }
          : item,
      );
      // Old objects: without the fields.
      const plain = JSON.parse(JSON.stringify(put)) as typeof put;
      mesh.assignments({ isComplete: true, put: plain as never, removed: [] });
      await mesh.settled();
      const proto = ["table", "all", "proto", "117"];
      expect(await shown(1, ["ip", "-6", "route", "show", ...proto])).toBe("");
      expect(await shown(1, ["ip", "-6", "neigh", "show", "proxy"])).toBe("");
      expect(await shown(1, ["ip", "-6", "rule"])).not.toContain("fwmark");
      expect(await shown(1, ["ip", "-6", "addr", "show", "dev", "shmesh"])).not.toContain("fd73");
      expect(await lab.tcp("cA1", "10.101.0.3", 80)).toBe("far3 10.101.0.11");
    });

    test("wipe removes what was made of IPv6", async () => {
      await lab.meshes.get(2)?.wipe();
      expect(await shown(2, ["ip", "-6", "route", "show", "table", "all", "proto", "117"])).toBe(
        "",
      );
      expect(await shown(2, ["ip", "-6", "neigh", "show", "proxy"])).toBe("");
      expect(await shown(2, ["ip", "-6", "rule"])).not.toContain("fwmark");
      expect(await shown(2, ["ip6tables", "-S"])).not.toContain("0x10000000");
    });
  });
}
