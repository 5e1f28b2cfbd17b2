import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  address6Of,
  chooseSubnet6,
  clusterPrefix6,
  MESH_POOL6,
  validateSubnet6,
} from "../../../core/allocator/address6.ts";
import { planAttachment } from "../../../core/allocator/attachments.ts";
import { formatAddress, openAddressPools, takeAddress } from "../../../core/allocator/ipam.ts";
import { planAllocation } from "../../../core/allocator/allocate.ts";
import type { Network } from "../../../core/objects/network.ts";
import { seededRandom } from "../../../core/random.ts";
import { cidrs6Overlap, parseAddress6, parseCidr6 } from "../../../core/store/cidr6.ts";
import { isMeshAddress6, meshAddress6 } from "../../../net/mesh/names.ts";
import { aNetwork, aService, aState, aTask, START_MS } from "../../fixtures/cluster.ts";

const SIX = { subnet6: "fd00:1::/64", gateway6: "fd00:1::1" };
const net = (name: string, over: Partial<Network> = {}): Network => ({
  ...aNetwork(name, { subnet: "10.0.1.0/24", gateway: "10.0.1.1" }),
  ...over,
});

describe("address6Of()", () => {
  test("the n-th address of one subnet has the n-th of the other", () => {
    const network = net("net", SIX);
    expect(address6Of(network, "10.0.1.7")).toBe("fd00:1::7");
    expect(address6Of(network, "10.0.1.254")).toBe("fd00:1::fe");
    expect(address6Of(net("old"), "10.0.1.7")).toBeUndefined();
  });

  test("whoever would have the gateway gets the place of the IPv4 gateway", () => {
    const network = net("net", { ...SIX, gateway6: "fd00:1::7" });
    expect(address6Of(network, "10.0.1.7")).toBe("fd00:1::1");
    expect(address6Of(network, "10.0.1.8")).toBe("fd00:1::8");
  });

  test("no two holders of a network have one, and none has the gateway", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 29 }),
        fc.nat(),
        fc.nat(),
        fc.integer({ min: 0, max: 3 }),
        (length, place, place6, more) => {
          const size = 2 ** (32 - length);
          const base = 10 * 2 ** 24;
          const six = parseCidr6(`fd00:1::/${128 - (32 - length) - more}`);
          if (!six) throw new Error("no block");
          const room = Number(six.last - six.first);
          const network = net("net", {
            subnet: `10.0.0.0/${length}`,
            gateway: formatAddress(base + 1 + (place % (size - 2))),
            subnet6: `fd00:1::/${six.prefixLength}`,
            gateway6: `fd00:1::${(1 + (place6 % room)).toString(16)}`,
          });
          const { view } = aState({ networks: [network] });
          const pool = openAddressPools(view).get(network.id);
          if (!pool) throw new Error("no pool");
          const seen = new Set<string>([network.gateway6 ?? ""]);
          for (;;) {
            const address = takeAddress(pool);
            if (address === undefined) break;
            const address6 = address6Of(network, address) ?? "";
            const value = parseAddress6(address6) ?? -1n;
            expect(value > six.first && value <= six.last).toBe(true);
            expect(seen.has(address6)).toBe(false);
            seen.add(address6);
          }
          expect(seen.size).toBe(size - 2);
        },
      ),
      { numRuns: 30 },
    );
  });
});

describe("subnets of IPv6", () => {
  const view = (...networks: Network[]) => aState({ networks }).view;

  test("a cluster has a /48 of its own, and networks the lowest free /64 of it", () => {
    const empty = view();
    const prefix = clusterPrefix6(empty.cluster()?.id ?? "");
    expect(prefix).toMatch(/^fd[0-9a-f]{2}:[0-9a-f]{1,4}:[0-9a-f]{1,4}::\/48$/);
    const first = chooseSubnet6(empty);
    expect(cidrs6Overlap(first.subnet6, prefix)).toBe(true);
    expect(first.gateway6).toBe(first.subnet6.replace("/64", "1"));
    const second = chooseSubnet6(view(net("one", first)));
    expect(second.subnet6).toBe(first.subnet6.replace("::/64", ":1::/64"));
    // Next to a user's own block within it: after that.
    const wide = { subnet6: prefix.replace("/48", "/62"), gateway6: first.gateway6 };
    expect(chooseSubnet6(view(net("wide", wide))).subnet6).toBe(
      first.subnet6.replace("::/64", ":4::/64"),
    );
    expect(clusterPrefix6("a".repeat(25))).not.toBe(clusterPrefix6("b".repeat(25)));
  });

  test("one that tasks of a removed network still hold is not given out", () => {
    const gone = chooseSubnet6(view());
    const service = aService("web");
    const task = aTask(service, {
      id: "task",
      state: "running",
      networks: [
        {
          networkId: "gone",
          address: "10.0.9.5",
          address6: gone.subnet6.replace("/64", "5"),
          aliases: [],
        },
      ],
    });
    const { view: state } = aState({ services: [service], tasks: [task] });
    expect(chooseSubnet6(state).subnet6).not.toBe(gone.subnet6);
  });

  const check = (subnet6: string, gateway6?: string) =>
    validateSubnet6(view(net("one", SIX)), {
      subnet: "10.0.2.0/24",
      subnet6,
      ...(gateway6 === undefined ? {} : { gateway6 }),
    });

  test("a user's own is taken in canonical form", () => {
    expect(check("FD00:2:0::9/64")).toEqual({ subnet6: "fd00:2::/64", gateway6: "fd00:2::1" });
    expect(check("2001:db8::/120", "2001:db8::FE/120").gateway6).toBe("2001:db8::fe");
  });

  test.each([
    ["fd00:2::", undefined, "not an IPv6 CIDR"],
    ["fd00:2::/121", undefined, "choose one from 48 to 120"],
    ["fd00::/40", undefined, "choose one from 48 to 120"],
    ["fd00:1::/56", undefined, "overlaps with other one on this address space"],
    [MESH_POOL6.replace("/48", "/64"), undefined, "of the nodes' own prefix"],
    ["fe80:1::/64", undefined, "link-local"],
    ["ff05::/64", undefined, "link-local, multicast"],
    ["fd00:2::/64", "fd00:3::1", "no matching subnet for gateway fd00:3::1"],
    ["fd00:2::/64", "fd00:2::", "no matching subnet for gateway"],
    ["fd00:2::/64", "10.0.2.1", "no matching subnet for gateway"],
  ])("refuses %s with gateway %s", (subnet6, gateway6, text) => {
    expect(() => check(subnet6, gateway6)).toThrow(text);
  });
});

describe("on a network with IPv6", () => {
  test("services, tasks and users' containers get both addresses; on others nothing changes", () => {
    const service = aService("web", { networks: ["net", "plain"] });
    const task = aTask(service, { id: "task", state: "new" });
    const networks = [
      net("net", SIX),
      aNetwork("plain", { subnet: "10.0.2.0/24", gateway: "10.0.2.1" }),
    ];
    const cluster = aState({ services: [service], networks, tasks: [task] });
    const plan = planAllocation({ view: cluster.view, nowMs: START_MS, random: cluster.random });
    expect(cluster.apply(plan.actions, START_MS)).toBe(0);
    expect(cluster.view.service("web")?.endpoint?.virtualIps).toEqual([
      { networkId: "net", address: "10.0.1.2", address6: "fd00:1::2" },
      { networkId: "plain", address: "10.0.2.2" },
    ]);
    expect(cluster.view.task("task")?.networks).toEqual([
      { networkId: "net", address: "10.0.1.3", address6: "fd00:1::3", aliases: [] },
      { networkId: "plain", address: "10.0.2.3", aliases: [] },
    ]);
  });

  test("a user's container has both addresses", () => {
    const network = net("net", SIX);
    const attachable = { ...network, spec: { ...network.spec, Attachable: true } };
    const { object } = planAttachment(
      aState({ networks: [attachable] }).view,
      { nodeId: "n1", network: "net", name: "c", aliases: [] },
      seededRandom(1),
    );
    expect(object).toMatchObject({ address: "10.0.1.2", address6: "fd00:1::2" });
  });
});

test("mesh addresses of nodes lie where no network may be", () => {
  expect(meshAddress6("10.255.0.1")).toBe("fd73:686f:616c::aff:1");
  expect(cidrs6Overlap(`${meshAddress6("255.255.255.255")}/128`, MESH_POOL6)).toBe(true);
  expect(isMeshAddress6("fd73:686f:616c::1:2")).toBe(true);
  expect(isMeshAddress6("fd73:686f:616c:1::1")).toBe(false);
});
