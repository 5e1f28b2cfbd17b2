import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  chooseSubnet,
  explainExhaustion,
  freeCount,
  openAddressPools,
  poolSize,
  takeAddress,
  validatePools,
  validateSubnet,
} from "../../../core/allocator/ipam.ts";
import { cidrsOverlap } from "../../../core/store/cidr.ts";
import { aCluster, aNetwork, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

describe("chooseSubnet()", () => {
  test("gives the lowest free subnet of the cluster's pools", () => {
    const net = (name: string, subnet: string) => aNetwork(name, { subnet });
    const { view } = aState({ networks: [net("a", "10.0.0.0/24"), net("b", "10.0.2.0/23")] });
    expect(chooseSubnet(view)).toEqual({ subnet: "10.0.1.0/24", gateway: "10.0.1.1" });
  });

  test("passes over addresses that tasks still hold of a removed network", () => {
    const stopping = aTask(aService("web"), {
      nodeId: "n1",
      desiredState: "remove",
      networks: [{ networkId: "gone", address: "10.0.0.7", aliases: [] }],
      state: "running",
    });
    const { view } = aState({ tasks: [stopping] });
    expect(chooseSubnet(view).subnet).toBe("10.0.1.0/24");
  });

  test("passes over the mesh pool and takes the next pool when one is full", () => {
    const source = { subnetSize: 24, meshPool: "10.255.0.0/16", used: ["10.254.255.0/24"] };
    expect(chooseSubnet({ ...source, addressPools: ["10.254.255.0/24", "10.255.0.0/15"] })).toEqual(
      {
        subnet: "10.254.0.0/24",
        gateway: "10.254.0.1",
      },
    );
    expect(() => chooseSubnet({ ...source, addressPools: ["10.255.4.0/22"] })).toThrow(
      "Cannot find a free /24 subnet in 10.255.4.0/22",
    );
  });

  test("never overlaps what is used, and finds the same as a scan", () => {
    const used = fc.array(
      fc.record({ at: fc.integer({ min: 0, max: 63 }), length: fc.integer({ min: 22, max: 28 }) }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(used, (wishes) => {
        const taken = wishes.map(({ at, length }) => `10.9.${at}.0/${length}`);
        const source = { addressPools: ["10.9.0.0/18"], subnetSize: 26, meshPool: "10.255.0.0/16" };
        const candidates = Array.from(
          { length: 256 },
          (_, index) => `10.9.${Math.floor(index / 4)}.${(index % 4) * 64}/26`,
        );
        const expected = candidates.find((one) => !taken.some((other) => cidrsOverlap(one, other)));
        expect(chooseSubnet({ ...source, used: taken }).subnet).toBe(expected ?? "");
      }),
    );
  });
});

describe("validateSubnet()", () => {
  const { view } = aState({ networks: [aNetwork("a", { subnet: "10.0.1.0/24" })] });

  test("normalises the subnet and fills in the gateway", () => {
    expect(validateSubnet(view, { subnet: "192.168.7.9/20" })).toEqual({
      subnet: "192.168.0.0/20",
      gateway: "192.168.0.1",
    });
    expect(validateSubnet(view, { subnet: "10.9.0.0/24", gateway: "10.9.0.254" }).gateway).toBe(
      "10.9.0.254",
    );
  });

  test("with a range of addresses, takes the gateway from it", () => {
    const wish = { subnet: "10.9.0.0/16", ipRange: "10.9.3.7/24" };
    const chosen = { subnet: "10.9.0.0/16", ipRange: "10.9.3.0/24" };
    expect(validateSubnet(view, wish)).toEqual({ ...chosen, gateway: "10.9.3.0" });
    const named = { ...wish, gateway: "10.9.0.1" };
    expect(validateSubnet(view, named)).toEqual({ ...chosen, gateway: "10.9.0.1" });
    const low = { subnet: "10.9.0.0/16", ipRange: "10.9.0.0/24" };
    expect(validateSubnet(view, low).gateway).toBe("10.9.0.1");
    for (const ipRange of ["10.8.0.0/24", "10.0.0.0/8", "10.9.1.0/30", "fd00::/64", "x"]) {
      expect(() => validateSubnet(view, { ...wish, ipRange })).toThrow("invalid ip-range");
    }
  });

  const bad: [string, string | undefined, string][] = [
    ["10.0.0.0/23", undefined, "Pool overlaps with other one"],
    ["10.255.3.0/24", undefined, "the mesh pool"],
    ["10.9.0.0/30", undefined, "prefix length is 30"],
    ["10.9.0.0/4", undefined, "prefix length is 4"],
    ["fd00::/64", undefined, "IPv6"],
    ["10.9.0.0", undefined, "not an IPv4 CIDR"],
    ["10.9.0.0/24", "10.8.0.1", "no matching subnet for gateway"],
    ["10.9.0.0/24", "10.9.0.255", "no matching subnet for gateway"],
  ];
  for (const [subnet, gateway, message] of bad) {
    test(`refuses ${subnet} ${gateway ?? ""}`, () => {
      const wish = { subnet, ...(gateway === undefined ? {} : { gateway }) };
      expect(() => validateSubnet(view, wish)).toThrow(message);
    });
  }
});

describe("validatePools()", () => {
  const bad: [string[], number, string][] = [
    [["10.0.0.0"], 24, "invalid CIDR address: 10.0.0.0"],
    [["10.0.0.0/25"], 24, "Cannot cut /24 subnets"],
    [["10.0.0.0/8", "10.1.0.0/16"], 24, "it overlaps pool 10.0.0.0/8"],
    [["10.255.8.0/21"], 24, "lies within the mesh pool"],
  ];
  for (const [pools, size, message] of bad) {
    test(`refuses ${pools.join(", ")}`, () => {
      expect(() => validatePools(pools, size, "10.255.0.0/16")).toThrow(message);
    });
  }
  test("takes the defaults", () => validatePools(["10.0.0.0/8"], 24, "10.255.0.0/16"));
});

describe("takeAddress()", () => {
  const service = aService("web");
  const network = aNetwork("net", { subnet: "10.0.1.0/29", gateway: "10.0.1.1" });
  const pool = (tasks: Parameters<typeof aTask>[1][]) => {
    const { view } = aState({
      cluster: aCluster(),
      networks: [network],
      services: [service],
      tasks: tasks.map((over) => aTask(service, over)),
    });
    const found = openAddressPools(view).get("net");
    if (!found) throw new Error("No pool");
    return found;
  };
  const at = (id: string, last: number, ageMs: number) => ({
    id,
    createdAtMs: START_MS - ageMs,
    networks: [{ networkId: "net", address: `10.0.1.${last}`, aliases: [] }],
  });
  const takeAll = (from: ReturnType<typeof pool>) => {
    const taken: string[] = [];
    for (let next = takeAddress(from); next !== undefined; next = takeAddress(from))
      taken.push(next);
    return taken.map((address) => Number(address.split(".")[3]));
  };

  test("gives every address but network, gateway and broadcast, each once", () => {
    expect(takeAll(pool([]))).toEqual([2, 3, 4, 5, 6]);
  });

  test("of a network with a range gives those of it, whatever is taken beside", () => {
    const spec = {
      ...network.spec,
      IPAM: { Driver: "default", Config: [{ IPRange: "10.0.1.8/29" }] },
    };
    const ranged = aNetwork("net", { spec, subnet: "10.0.1.0/24", gateway: "10.0.1.8" });
    const fixed = ["10.0.1.99", "10.0.1.2", "10.0.1.10"].map((address, place) => ({
      id: `t${place}`,
      createdAtMs: START_MS - place,
      networks: [{ networkId: "net", address, aliases: [] }],
    }));
    const { view } = aState({
      networks: [ranged],
      services: [service],
      tasks: fixed.map((over) => aTask(service, over)),
    });
    const found = openAddressPools(view).get("net");
    if (!found) throw new Error("No pool");
    expect([poolSize(found), freeCount(found)]).toEqual([7, 6]);
    expect(takeAll(found)).toEqual([9, 11, 12, 13, 14, 15]);
    expect(freeCount(found)).toBe(0);
    expect(explainExhaustion(found)).toContain("all 7 addresses of ip-range 10.0.1.8/29");
  });

  test("goes on after the newest task's, also a dead one's, and comes round", () => {
    const dead = { state: "failed" as const, desiredState: "shutdown" as const };
    expect(takeAll(pool([at("a", 2, 30), { ...at("b", 4, 10), ...dead }]))).toEqual([5, 6, 3, 4]);
  });
});
