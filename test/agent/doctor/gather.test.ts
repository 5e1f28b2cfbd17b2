import { describe, expect, test } from "bun:test";
import type { TcpOutcome } from "../../../agent/doctor/facts.ts";
import { type GatherOptions, gatherFacts } from "../../../agent/doctor/gather.ts";
import type { Probes } from "../../../agent/doctor/probes.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { labTable, networkId } from "../../net/mesh/lab-state.ts";

const device = (name: string, mtu: number, address?: string) => ({
  name,
  index: 1,
  mac: "",
  mtu,
  isUp: true,
  addresses: address === undefined ? [] : [{ address, prefixLength: 24 }],
});

function makeProbes(set: Partial<Probes> = {}): Probes {
  return {
    tcp: async (_address, port) => ({ type: port === 1 ? "refused" : "connected", ms: 1 }),
    ping: async () => "answered",
    dns: async () => ({ type: "answered", code: "NXDOMAIN", isAuthority: true, ms: 1 }),
    dnsOf: async () => ({ type: "answered", code: "NOERROR", isAuthority: true, ms: 2 }),
    interfaces: async () => [
      device("eth0", 1_500, "192.168.77.1"),
      device("shmesh", 1_450, "10.255.0.1"),
      device(bridgeName(networkId("netA")), 1_450),
    ],
    setting: async (path) => (path.endsWith("count") ? 5 : path.endsWith("max") ? 50 : 1),
    firewall: async () => ({ forward: [], user: [] }),
    listeners: async () => [
      { port: 8_080, inode: "7" },
      { port: 22, inode: "8" },
    ],
    processes: async () => new Map([["7", "nginx (pid 3)"]]),
    ...set,
  };
}
const gather = (set: Partial<GatherOptions> & { probes: Probes }) =>
  gatherFacts({
    loadTable: async () => labTable(1),
    meshStatus: async () => ({ type: "status", backend: "nftables", repairs: {} }),
    turn: 0,
    ...set,
  });

describe("gathering", () => {
  test("every probe's word becomes a fact", async () => {
    const facts = await gather({ probes: makeProbes() });
    expect(facts.peers.map(({ tcp, ping }) => [tcp.type, ping])).toEqual([
      ["refused", "answered"],
      ["refused", "answered"],
    ]);
    expect(facts.devices).toEqual({
      underlay: { name: "eth0", mtu: 1_500, prefixLength: 24 },
      mesh: { mtu: 1_450, isUp: true },
    });
    expect(facts.conntrack).toEqual({ count: 5, max: 50 });
    expect(facts.listeners).toEqual([{ port: 8_080, process: "nginx (pid 3)", service: "web" }]);
    expect(facts.dns).toMatchObject([
      { network: "netA", own: { code: "NXDOMAIN" }, inside: { code: "NOERROR" } },
    ]);
    expect(facts.endpoints.length).toBeGreaterThan(5);
    expect(facts.leftOut).toEqual({ peers: 0, endpoints: 0, ports: 0, networks: 0 });
  });

  test("a task that is gone when it is tried again is no finding", async () => {
    let loads = 0;
    const tried: string[] = [];
    const facts = await gather({
      loadTable: async () => {
        const table = labTable(1);
        loads += 1;
        if (loads > 1) table.endpoints.delete("endpoint/task-web2");
        return table;
      },
      probes: makeProbes({
        tcp: async (address, port): Promise<TcpOutcome> => {
          tried.push(`${address}:${port}`);
          if (address === "10.101.0.22") return { type: "silent", ms: 1 };
          return { type: port === 1 ? "refused" : "connected", ms: 1 };
        },
      }),
    });
    expect(tried.filter((one) => one === "10.101.0.22:80")).toHaveLength(2);
    expect(facts.endpoints.some(({ address }) => address === "10.101.0.22")).toBeFalse();
    expect(facts.endpoints.some(({ address }) => address === "10.101.0.23")).toBeTrue();
  });

  test("what does not end in time is counted as left out; the rest is there", async () => {
    const never = new Promise<never>(() => {});
    const facts = await gather({
      timeoutMs: 100,
      meshStatus: () => never,
      probes: makeProbes({
        tcp: (_address, port) =>
          port === 80 ? never : Promise.resolve({ type: "connected" as const, ms: 1 }),
        ping: () => never,
        firewall: () => never,
      }),
    });
    expect(facts.mesh.type).toBe("unknown");
    expect(facts.firewall).toBeUndefined();
    expect(facts.endpoints.every(({ port }) => port === 9_000)).toBeTrue();
    expect(facts.leftOut.endpoints).toBeGreaterThan(0);
  });

  test("pings that hang do not hide that a peer is silent", async () => {
    const facts = await gather({
      timeoutMs: 1_600,
      probes: makeProbes({
        tcp: async () => ({ type: "silent", ms: 1 }),
        ping: () => new Promise<never>(() => {}),
      }),
    });
    expect(facts.peers.map(({ tcp }) => tcp.type)).toEqual(["silent", "silent"]);
  });
});
