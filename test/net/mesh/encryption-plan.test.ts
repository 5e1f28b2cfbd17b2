import { describe, expect, test } from "bun:test";
import type { AssignmentItem, Peer } from "../../../core/dispatcher/assignment.ts";
import type { NodeEncryption } from "../../../core/objects/node.ts";
import { renderIptables } from "../../../net/mesh/iptables-rules.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { parseRules } from "../../../net/mesh/observe.ts";
import { type MeshPlan, planMesh, type PlanOptions } from "../../../net/mesh/plan.ts";
import { renderNftTable, ruleLine } from "../../../net/mesh/render.ts";
import { applyAssignments, emptyTable, saveTable, loadTable } from "../../../net/mesh/table.ts";
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
}) {
  const ids = (options.encrypted ?? ["netA"]).map(networkId);
  const items = labItems(1).map((item): AssignmentItem => {
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
