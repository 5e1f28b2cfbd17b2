import { describe, expect, test } from "bun:test";
import type { AssignmentItem, Peer } from "../../../core/dispatcher/assignment.ts";
import type { NodeEncryption } from "../../../core/objects/node.ts";
import { diffRouting, foundAddresses6, wantedRouting } from "../../../net/mesh/diff.ts";
import { renderIptables } from "../../../net/mesh/iptables-rules.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { parseNeighbours6, parseRoutes6, parseRules } from "../../../net/mesh/observe.ts";
import { type MeshPlan, planMesh, type PlanOptions } from "../../../net/mesh/plan.ts";
import { renderNftTable, ruleLine } from "../../../net/mesh/render.ts";
import { applyAssignments, emptyTable, saveTable, loadTable } from "../../../net/mesh/table.ts";
import { labItems6, six } from "./ipv6-lab.ts";
import { labItems, networkId, UNDERLAY } from "./lab-state.ts";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";

const OPTIONS: PlanOptions = {
  underlayMtu: 1_500,
  balance: "random",
  hasBrNetfilter: true,
  canEncrypt: true,
};
const IPTABLES = { balancer: "nat", hasZones: true, hasCluster: true } as const;
const KEYS = ["k1", "k2"].map((id, place) => ({
  id,
  secret: Buffer.alloc(32, place + 1).toString("base64"),
}));

/** The lab's table of node 1, with network A encrypted. */
function table(options: {
  encrypted?: string[];
  says?: Record<number, NodeEncryption>;
  keys?: typeof KEYS;
  hasIpv6?: boolean;
}) {
  const ids = (options.encrypted ?? ["netA"]).map(networkId);
  const items = (options.hasIpv6 ? labItems6(1) : labItems(1)).map((item): AssignmentItem => {
    if (item.kind === "network" && ids.includes(item.body.id)) {
      return {
        ...item,
        body: { ...item.body, spec: { ...item.body.spec, Options: { encrypted: "" } } },
      };
    }
    if (item.kind !== "peer") return item;
    const encryption = options.says?.[item.body.index];
    const body: Peer = { ...item.body, ...(encryption ? { encryption } : {}) };
    return { ...item, body };
  });
  if (options.keys) {
    items.push({ key: "mesh-keys/cluster", kind: "mesh-keys", body: { keys: options.keys } });
  }
  const made = emptyTable();
  applyAssignments(made, { isComplete: true, put: items, removed: [] });
  return made;
}

function plan(options: Parameters<typeof table>[0], more: Partial<PlanOptions> = {}): MeshPlan {
  const made = planMesh(table(options), new Set(), { ...OPTIONS, ...more });
  if (!made) throw new Error("no plan");
  return made;
}

const routeTo = (made: MeshPlan, destination: string) =>
  made.routes.filter((route) => route.destination === destination);

describe("the plan of a node with an encrypted network", () => {
  test("routes its tasks over the encrypted device, and all others over the other one", () => {
    const made = plan({});
    expect(routeTo(made, "10.101.0.23/32").map(({ device }) => device)).toEqual(["shmeshe"]);
    expect(routeTo(made, "10.102.0.13/32").map(({ device }) => device)).toEqual([undefined]);
    // One task with a leg on each.
    expect(routeTo(made, "10.101.0.33/32")[0]?.device).toBe("shmeshe");
    expect(routeTo(made, "10.102.0.33/32")[0]?.device).toBeUndefined();
  });

  test("sends what comes from its bridge back over the encrypted device: to nodes and to outside clients", () => {
    const made = plan({});
    const bridge = bridgeName(networkId("netA"));
    const lines = made.rules.map(ruleLine);
    expect(lines).toContain(`pref 19998 iif ${bridge} lookup 15000`);
    expect(lines).toContain(`pref 20000 iif ${bridge} goto 25000`);
    expect(lines).toContain("pref 25002 fwmark 0x20000/0xfff0000 lookup 15002");
    expect(made.routes).toContainEqual({
      destination: "10.255.255.2/32",
      table: "15000",
      via: UNDERLAY(2),
      source: "10.255.255.1",
      device: "shmeshe",
    });
    const back = made.routes.filter(({ destination }) => destination === "default");
    expect(back.map(({ table: number, device }) => [number, device])).toEqual([
      ["10002", undefined],
      ["10003", undefined],
      ["15002", "shmeshe"],
      ["15003", "shmeshe"],
    ]);
  });

  test("rules of devices come back from the tool as planned", () => {
    const bridge = bridgeName(networkId("netA"));
    const shown = JSON.stringify([
      { priority: 19_998, src: "all", iif: bridge, table: "15000" },
      { priority: 20_000, src: "all", iif: bridge, iif_detached: null, goto: 25_000 },
      { priority: 25_002, src: "all", fwmark: "0x20000", fwmask: "0xfff0000", table: "15002" },
      { priority: 29_999, src: "all", iif: "eth0", table: "7" },
    ]);
    const lines = plan({}).rules.map(ruleLine);
    const found = [...parseRules(shown).keys()];
    expect(found).toHaveLength(3);
    expect(found.filter((line) => !lines.includes(line))).toEqual([]);
  });

  test("knows a peer by either address, and lets nothing of it by in clear", () => {
    const { filter } = plan({});
    expect(filter.encryptedPort).toBe(4_790);
    const bridge = bridgeName(networkId("netA"));
    const nft = renderNftTable(filter);
    const nodes = nft.sets.find(({ name }) => name === "mac2node")?.elements;
    expect(nodes?.get("02:55:c0:a8:4d:02")).toBe(nodes?.get("02:53:c0:a8:4d:02"));
    expect(nft.fixed).toContain("udp dport 4790 rt ipsec missing drop");
    expect(nft.fixed).toContain("udp dport 4790 meta ipsec missing drop");
    expect(nft.fixed).toContain(`iifname "shmesh" oifname { "${bridge}" } drop`);
    const { chains } = renderIptables(filter, IPTABLES);
    expect(chains.raw.get("SH-OUT")?.[0]).toBe(
      "-p udp -m udp --dport 4790 -m policy --dir out --pol none -j DROP",
    );
    expect(chains.mangle.get("SH-FORWARD")?.slice(1, 3)).toEqual([
      `-i shmesh -o ${bridge} -j DROP`,
      `-i ${bridge} -o shmesh -j DROP`,
    ]);
  });

  test("lets nothing for it leave by another way, even where this node cannot encrypt", () => {
    for (const canEncrypt of [true, false]) {
      const { filter } = plan({}, { canEncrypt });
      const own = canEncrypt ? [bridgeName(networkId("netA"))] : [];
      const devices = ["lo", "shmeshe", ...own];
      const names = devices.map((device) => `"${device}"`).join(", ");
      const nft = renderNftTable(filter).fixed;
      expect(nft).toContain(`ip daddr { 10.101.0.0/24 } oifname != { ${names} } drop`);
      const { mangle } = renderIptables(filter, IPTABLES).chains;
      expect(mangle.get("SH-POST")?.[0]).toBe("-d 10.101.0.0/24 -j SH-SECRET");
      expect(mangle.get("SH-SECRET")).toEqual([
        ...devices.map((device) => `-o ${device} -j RETURN`),
        "-j DROP",
      ]);
    }
  });

  test("has nothing of it on a node that cannot encrypt: no route, no target, no bridge", () => {
    const made = plan({ encrypted: ["netA", "netC"] }, { canEncrypt: false });
    expect(made.encryption).toBeUndefined();
    expect(made.routes.filter(({ destination }) => destination.startsWith("10.101."))).toEqual([]);
    expect(made.filter.networks.map(({ bridge }) => bridge)).not.toContain(
      bridgeName(networkId("netA")),
    );
    // Published by a task on network C of another node.
    const port = made.filter.ports.find(({ publishedPort }) => publishedPort === 8_082);
    expect(port?.targets).toEqual([]);
    const web = made.filter.ports.find(({ publishedPort }) => publishedPort === 8_080);
    expect(web?.targets).toEqual([]);
  });

  test("is as ever without one", () => {
    const without = plan({ encrypted: [] });
    expect(without).toEqual(plan({ encrypted: [] }, { canEncrypt: false }));
    expect(JSON.stringify(without)).not.toContain("shmeshe");
  });
});

describe("an encrypted network with IPv6", () => {
  const bridge = bridgeName(networkId("netA"));
  const made = plan({ hasIpv6: true });
  const { ipv6, filter6 } = made;
  const far = six("10.101.0.33");

  test("is planned in IPv4 as one without, and the other networks in IPv6 as without it", () => {
    const four = plan({});
    expect([made.routes, made.rules, made.filter, made.encryption]).toEqual([
      four.routes,
      four.rules,
      four.filter,
      four.encryption,
    ]);
    const clear = plan({ encrypted: [], hasIpv6: true });
    const ofB = (one: MeshPlan) =>
      one.ipv6?.routes.filter(({ destination }) => destination.startsWith("fd00:102:"));
    expect(ofB(made)?.length).toBeGreaterThan(0);
    expect(ofB(made)).toEqual(ofB(clear));
    expect(clear.filter6?.encryptedSubnets).toBeUndefined();
    expect(JSON.stringify(clear)).not.toContain("shmeshe");
  });

  test("has its routes over the encrypted device, by next hops of its own", () => {
    const lines = [...(wantedRouting(made).six?.routes.values() ?? [])];
    const way = "via fe80::736f:aff:ff03 dev shmeshe onlink";
    const source = "src fd73:686f:616c::aff:ff01";
    expect(lines).toContain(`${far}/128 ${way} ${source} table main proto 117`);
    expect(lines).toContain(`fd73:686f:616c::aff:ff03/128 ${way} ${source} table 15000 proto 117`);
    expect(lines).toContain(`default ${way} table 15003 proto 117`);
    expect(
      lines.filter((line) => / dev shmesh /.test(line) && line.includes("fd00:101::")),
    ).toEqual(
      // Service addresses lead nowhere.
      ["fd00:101::2", "fd00:101::3", "fd00:101::4"].map(
        (address) => `${address}/128 dev shmesh table main proto 117`,
      ),
    );
    expect(ipv6?.neighbours).toContainEqual({
      device: "shmeshe",
      address: "fe80::736f:aff:ff03",
      mac: "02:55:c0:a8:4d:03",
    });
    const own = "fd73:686f:616c::aff:ff01";
    expect(ipv6?.addresses.filter(({ address }) => address === own)).toHaveLength(2);
    expect(ipv6?.proxies).toContainEqual({ bridge, address: far });
  });

  test("has the rules of IPv4 for what comes from its bridge, and settings for the device", () => {
    expect(ipv6?.rules).toEqual(made.rules);
    const keys = made.sysctls.map(({ key }) => key);
    expect(keys).toContain("net.ipv6.conf.shmeshe.accept_ra");
    expect(keys).toContain("net.ipv6.conf.shmeshe.forwarding");
  });

  test("comes back from the tools as planned", () => {
    const wanted = wantedRouting(made).six;
    const shown = [{ dst: far }, { dst: "fd73:686f:616c::aff:ff03", table: "15000" }].map(
      (one) => ({
        ...one,
        gateway: "fe80::736f:aff:ff03",
        dev: "shmeshe",
        prefsrc: "fd73:686f:616c::aff:ff01",
        flags: ["onlink"],
      }),
    );
    const routes = parseRoutes6(JSON.stringify(shown));
    expect(routes.size).toBe(2);
    for (const [key, line] of routes) expect(wanted?.routes.get(key)).toBe(line);
    const neighbours = parseNeighbours6(
      '[{"dst":"fe80::736f:aff:ff03","dev":"shmeshe","lladdr":"02:55:c0:a8:4d:03","state":["PERMANENT"]},' +
        '{"dst":"fd73:686f:616c::aff:ff03","dev":"shmesh","lladdr":"02:53:c0:a8:4d:03","state":["PERMANENT"]},' +
        '{"dst":"fd00::1","dev":"eth0","lladdr":"02:53:c0:a8:4d:03","state":["PERMANENT"]}]',
    );
    expect(neighbours.size).toBe(2);
    for (const [key, line] of neighbours) expect(wanted?.neighbours.get(key)).toBe(line);
    const addresses6 = [
      { address: "fe80::1", prefixLength: 64, isAdvertised: false },
      { address: "fd73:686f:616c::aff:ff01", prefixLength: 128, isAdvertised: false },
    ];
    const device = { name: "shmeshe", index: 5, mac: "", mtu: 1416, isUp: true, addresses: [] };
    const found = foundAddresses6([{ ...device, addresses6 }]);
    expect([...found.keys()]).toEqual(["fd73:686f:616c::aff:ff01/128 dev shmeshe"]);
    expect(wanted?.addresses.has([...found.keys()][0] ?? "")).toBe(true);
  });

  test("leaves nothing of the device in IPv6 when it goes", () => {
    const after = plan({ encrypted: [], hasIpv6: true });
    const { ip6, ip6Last } = diffRouting(after, wantedRouting(made));
    expect(ip6Last).toContain("neigh del fe80::736f:aff:ff03 dev shmeshe");
    expect(ip6Last).toContain("addr del fd73:686f:616c::aff:ff01/128 dev shmeshe");
    expect(ip6Last).toContain("route del default table 15003 proto 117");
    // Its tasks are reached in clear now.
    expect(ip6).toContain(
      `route replace ${far}/128 via fd73:686f:616c::aff:ff03 dev shmesh onlink src fd73:686f:616c::aff:ff01 table main proto 117`,
    );
  });

  test("lets nothing of it by in clear, and knows peers by either address", () => {
    if (!filter6) throw new Error("no IPv6");
    const nft = renderNftTable(filter6);
    const nodes = nft.sets.find(({ name }) => name === "mac2node")?.elements;
    expect(nodes?.get("02:55:c0:a8:4d:02")).toBe(nodes?.get("02:53:c0:a8:4d:02"));
    expect(nft.fixed).toContain(`iifname "shmesh" oifname { "${bridge}" } drop`);
    expect(nft.fixed).toContain(`iifname { "${bridge}" } oifname "shmesh" drop`);
    const { mangle } = renderIptables(filter6, IPTABLES).chains;
    expect(mangle.get("SH-FORWARD")?.slice(1, 3)).toEqual([
      `-i shmesh -o ${bridge} -j DROP`,
      `-i ${bridge} -o shmesh -j DROP`,
    ]);
  });

  test("lets nothing for it leave by another way, even where this node cannot encrypt", () => {
    for (const canEncrypt of [true, false]) {
      const { filter6: filter, ipv6: six6 } = plan({ hasIpv6: true }, { canEncrypt });
      if (!filter) throw new Error("no IPv6");
      const devices = ["lo", "shmeshe", ...(canEncrypt ? [bridge] : [])];
      const names = devices.map((device) => `"${device}"`).join(", ");
      const nft = renderNftTable(filter).fixed;
      expect(nft).toContain(`ip6 daddr { fd00:101::/64 } oifname != { ${names} } drop`);
      const { mangle } = renderIptables(filter, IPTABLES).chains;
      expect(mangle.get("SH-POST")?.[0]).toBe("-d fd00:101::/64 -j SH-SECRET");
      if (canEncrypt) continue;
      expect(filter.networks.map((network) => network.bridge)).not.toContain(bridge);
      expect(JSON.stringify(six6)).not.toContain("shmeshe");
      expect(six6?.routes.filter(({ destination }) => destination === `${far}/128`)).toEqual([]);
      expect(six6?.proxies.filter((proxy) => proxy.bridge === bridge)).toEqual([]);
    }
  });
});

describe("associations", () => {
  const says = (more: Partial<NodeEncryption> = {}): NodeEncryption => ({
    generations: ["g"],
    keyIds: ["k1"],
    ...more,
  });

  test("a node receives by every key and generation, and sends by the newest key that the other has", () => {
    const { encryption } = plan({
      keys: KEYS,
      says: { 1: says(), 2: says({ generations: ["g1", "g2"], keyIds: ["k1", "k2"] }), 3: says() },
    });
    const from = (node: number) =>
      encryption?.keyed?.inbound.filter(({ source }) => source === UNDERLAY(node)).length;
    expect([from(2), from(3)]).toEqual([4, 2]);
    expect(encryption?.keyed?.outbound.map(({ peerId, keyId }) => `${peerId} ${keyId}`)).toEqual([
      "node2 k2",
      "node3 k1",
    ]);
  });

  test("a peer that cannot, or has said nothing, is neither sent to nor heard", () => {
    const { encryption } = plan({ keys: KEYS, says: { 1: says(), 2: says({ lack: "no ESP" }) } });
    expect(encryption?.keyed).toEqual({
      keyIds: ["k1", "k2"],
      inbound: [],
      outbound: [],
      allowed: [],
    });
    // Its packets are dropped, not sent in clear.
    expect(encryption?.policies.map(({ between }) => between?.target)).toContain(UNDERLAY(2));
  });

  test("two nodes derive the same for each direction", () => {
    const all = { 1: says(), 2: says({ generations: ["h"] }), 3: says() };
    const one = plan({ keys: KEYS, says: all });
    const two = (() => {
      const made = table({ keys: KEYS, says: all });
      if (made.settings) made.settings = { ...made.settings, nodeId: "node2" };
      return planMesh(made, new Set(), OPTIONS);
    })();
    const sent = one.encryption?.keyed?.outbound.find(({ peerId }) => peerId === "node2");
    expect(sent?.byGeneration).toHaveLength(1);
    expect(two?.encryption?.keyed?.inbound).toContainEqual(
      // It is there.
      sent?.byGeneration[0]?.association ?? { source: "", target: "", spi: 0, key: "" },
    );
  });

  test("are left alone while the keys are not known", () => {
    expect(plan({ says: { 1: says() } }).encryption?.keyed).toBeUndefined();
  });
});

test("keys are not in the copy on disk", async () => {
  const dir = mkdtempSync(join(tmpdir(), "shoal-keys-"));
  try {
    await saveTable(dir, table({ keys: KEYS }));
    const text = readFileSync(join(dir, "mesh-table.json"), "utf8");
    for (const { secret } of KEYS) expect(text).not.toContain(secret);
    expect((await loadTable(dir)).keys).toBeUndefined();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
