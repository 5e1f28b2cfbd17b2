/**
 * Run inside of User-Mode Linux by test/lab/mesh-encryption.test.ts: encrypted networks on a kernel with
 * ESP. Three meshes in one process program three host namespaces; a stand-in for the managers tells each what
 * the others say of themselves. All networks have both families.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { AssignmentItem, MeshKeys } from "../../core/dispatcher/assignment.ts";
import type { NodeEncryption } from "../../core/objects/node.ts";
import { parseAssociations } from "../../net/mesh/encryption-state.ts";
import { encryptedMtu } from "../../net/mesh/esp.ts";
import {
  bridgeName,
  encryptedGateway6,
  encryptedProbeAddress,
  meshAddress6,
} from "../../net/mesh/names.ts";
import { addIpv6, CLIENT6, labItems6, six, UNDERLAY6 } from "../net/mesh/ipv6-lab.ts";
import { eventually, type Lab, labUp, namespaceOf, NODES } from "../net/mesh/lab.ts";
import { CLIENT, networkId, UNDERLAY } from "../net/mesh/lab-state.ts";
import type { WireCounts } from "./sniff.ts";

/** All networks but B are encrypted. */
const CLEAR = networkId("netB");
const WEB_VIP = "10.101.0.2";
/** What tasks answer, and how IPv6 addresses of networks A and C begin in a packet. */
const SECRETS = [
  ...["far3 10.10", "far3 fd00:10"].map((text) => Buffer.from(text).toString("hex")),
  "fd00010100000000",
  "fd00010300000000",
];

/** One emulated processor of a machine that may be busy with other tests: a few seconds, usually. */
const PATIENCE_MS = 60_000;
const ROW_TIMEOUT_MS = 120_000;

const keyOf = (id: string) => ({ id, secret: randomBytes(32).toString("base64") });

/** The part of the managers: keys, and what nodes say of themselves. */
const told = new Map<number, NodeEncryption>();
let keys: MeshKeys["keys"] = [keyOf("k1")];
let isEncrypting = true;
let lab: Lab;
let outside: { end(): Promise<void> } | undefined;

function itemsFor(node: number): AssignmentItem[] {
  const items = labItems6(node).map((item): AssignmentItem => {
    if (item.kind === "peer") {
      const encryption = told.get(item.body.index);
      return encryption ? { ...item, body: { ...item.body, encryption } } : item;
    }
    if (item.kind !== "network" || item.body.id === CLEAR || !isEncrypting) return item;
    const spec = { ...item.body.spec, Options: { encrypted: "" } };
    return { ...item, body: { ...item.body, spec } };
  });
  if (keys.length > 0) items.push({ key: "mesh-keys/cluster", kind: "mesh-keys", body: { keys } });
  return items;
}

function tell(): void {
  for (const [node, mesh] of lab.meshes) {
    mesh.assignments({ isComplete: true, put: itemsFor(node), removed: [] });
  }
}

const settled = async () => {
  for (const mesh of lab.meshes.values()) await mesh.settled();
};

async function associations(node: number) {
  const list = await lab.inside(`h${node}`, ["ip", "xfrm", "state", "list"]);
  return [...parseAssociations(list.stdout).values()];
}
const outbound = async (node: number) =>
  (await associations(node)).filter(({ source }) => source === UNDERLAY(node));

/** Every key by which a node has ever sent, and the association that it was of. */
const everSent = new Map<string, string>();
async function noteSent(): Promise<void> {
  for (const node of NODES) {
    for (const { key, source, target, spi } of await outbound(node)) {
      everSent.set(key, `${source} ${target} ${spi}`);
    }
  }
}

const both = () =>
  Promise.all([
    lab.tcp("cA1", "10.101.0.23", 80),
    lab.tcp("cAB2", "10.101.0.23", 80),
    lab.tcp("cAB2", six("10.101.0.23"), 80),
  ]).then((answers) => answers.join(", "));
const ALL_ANSWER = `web3 10.101.0.11, web3 10.101.0.12, web3 ${six("10.101.0.12")}`;

async function ping(from: string, address: string): Promise<string> {
  const { code } = await lab.inside(from, ["ping", "-c1", "-W1", address]);
  return code === 0 ? "answered" : "no answer";
}

/** Each of the rows is answered as it says. */
async function expectAnswers(rows: [string, Promise<string>, string][]): Promise<void> {
  const seen = await Promise.all(rows.map(([, probe]) => probe));
  const wrong = rows.flatMap(([name, , wanted], place) =>
    seen[place] === wanted ? [] : [`${name}: got "${seen[place]}", want "${wanted}"`],
  );
  expect(wrong).toEqual([]);
}

/** Frames on the wire to and from node 3 while `act` runs. */
async function onWire(act: () => Promise<unknown>): Promise<WireCounts> {
  const tool = join(import.meta.dir, "sniff.ts");
  const enter = ["nsenter", `--net=/run/netns/${namespaceOf("fab")}`];
  const child = Bun.spawn([...enter, process.execPath, tool, "p3", ...SECRETS], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = child.stdout.getReader();
  await reader.read();
  await act();
  await child.stdin.end();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += Buffer.from(value).toString();
  }
  await child.exited;
  return JSON.parse(text) as WireCounts;
}

describe("encrypted networks in the kernel", () => {
  beforeAll(async () => {
    lab = await labUp({
      backend: "iptables",
      patienceS: 5,
      onEncryption: (node, encryption) => {
        told.set(node, encryption);
        // As the managers would: a moment later, to all.
        setTimeout(tell, 20);
      },
    });
    outside = await addIpv6(lab);
    await Promise.all(NODES.map((node) => lab.startNode(node, false)));
    tell();
    await eventually(ALL_ANSWER, both, PATIENCE_MS);
    await settled();
  }, 120_000);
  afterAll(async () => {
    await outside?.end();
    await lab?.down();
  }, ROW_TIMEOUT_MS);

  test("nodes say that they can, and what they receive by", () => {
    expect(lab.outputs).toEqual([]);
    for (const node of NODES) {
      const encryption = told.get(node);
      expect(encryption).toEqual({ generations: [expect.any(String)], keyIds: ["k1"] });
    }
  });

  test("a check right after finds nothing to mend", async () => {
    await lab.meshes.get(1)?.check();
    expect(lab.meshes.get(1)?.status()).toMatchObject({ backend: "iptables", repairs: {} });
    await noteSent();
    expect(everSent.size).toBe(6);
  });

  test("tasks, service addresses, hosts and outside clients reach tasks, and keep their addresses", async () => {
    await expectAnswers([
      ["task", lab.tcp("cA1", "10.101.0.23", 80), "web3 10.101.0.11"],
      ["udp", lab.udp("cA1", "10.101.0.23", 9000), "web3 10.101.0.11"],
      ["service address", lab.spread(6, () => lab.tcp("cA1", WEB_VIP, 80)), "web1:2 web2:2 web3:2"],
      ["host", lab.tcp("h1", "10.101.0.33", 80), "far3 10.255.255.1"],
      ["outside, another node", lab.tcp("cli", UNDERLAY(1), 8081), `far3 ${CLIENT}`],
      ["outside, the task's node", lab.tcp("cli", UNDERLAY(3), 8081), `far3 ${CLIENT}`],
      ["node without the network", lab.tcp("cli", UNDERLAY(1), 8082), `solo3 ${CLIENT}`],
      ["ingress network", lab.udp("cli", UNDERLAY(1), 9001), `far3 ${CLIENT}`],
      ["another node", lab.tcp("h2", UNDERLAY(1), 8081), "far3 192.168.77.2"],
      ["clear network", lab.tcp("cB1", "10.102.0.33", 80), "far3 10.102.0.11"],
      ["isolation", ping("cB1", "10.103.0.33"), "no answer"],
    ]);
  });

  test("in IPv6, too, tasks, service addresses, hosts and outside clients reach tasks, and keep their addresses", async () => {
    const [A1, FAR] = [six("10.101.0.11"), six("10.101.0.33")];
    const vip = () => lab.tcp("cA1", six(WEB_VIP), 80);
    await expectAnswers([
      ["task", lab.tcp("cA1", six("10.101.0.23"), 80), `web3 ${A1}`],
      ["udp", lab.udp("cA1", six("10.101.0.23"), 9000), `web3 ${A1}`],
      ["service address", lab.spread(6, vip), "web1:2 web2:2 web3:2"],
      ["host", lab.tcp("h1", FAR, 80), `far3 ${meshAddress6("10.255.255.1")}`],
      ["outside, another node", lab.tcp("cli", UNDERLAY6(1), 8081), `far3 ${CLIENT6}`],
      ["outside, the task's node", lab.tcp("cli", UNDERLAY6(3), 8081), `far3 ${CLIENT6}`],
      ["outside, udp", lab.udp("cli", UNDERLAY6(1), 9001), `far3 ${CLIENT6}`],
      ["node without the network", lab.tcp("cli", UNDERLAY6(1), 8082), `solo3 ${CLIENT6}`],
      ["another node", lab.tcp("h2", UNDERLAY6(1), 8081), `far3 ${UNDERLAY6(2)}`],
      // In the asked node's name, since its own would not come back.
      [
        "the task by another node",
        lab.tcp("far3", UNDERLAY6(1), 8081),
        `far3 ${meshAddress6("10.255.255.1")}`,
      ],
      ["clear network", lab.tcp("cB1", six("10.102.0.33"), 80), `far3 ${six("10.102.0.11")}`],
      ["isolation", ping("cB1", six("10.103.0.33")), "no answer"],
    ]);
  });

  test("the largest packet fits, a larger one does not", async () => {
    const mtu = encryptedMtu(1_500);
    const fits = async (bytes: number) => {
      const size = String(bytes - 28);
      const argv = ["ping", "-c1", "-W3", "-Mdo", "-s", size, encryptedProbeAddress(3)];
      const { code } = await lab.inside("h1", argv);
      return code === 0;
    };
    const counts = await onWire(async () => {
      expect([await fits(mtu), await fits(mtu + 1)]).toEqual([true, false]);
    });
    // One packet there and one back: not cut into pieces.
    expect(counts.esp).toBe(2);
    // A container is told by its gateway: its own device takes more.
    const ping6 = (bytes: number, count: number) => {
      const argv = ["ping", "-Mdo", "-i0.2", "-W3", `-c${count}`, `-s${bytes - 48}`];
      return lab.inside("cA1", [...argv, six("10.101.0.23")]);
    };
    const told = await ping6(mtu + 1, 2);
    expect(told.stdout + told.stderr).toContain(`mtu=${mtu}`);
    expect((await ping6(mtu, 1)).code).toBe(0);
  });

  test("on the wire there is ESP and nothing to read", async () => {
    const counts = await onWire(async () => {
      await Promise.all([
        lab.tcp("cA1", "10.101.0.33", 80),
        lab.tcp("cli", UNDERLAY(1), 8082),
        lab.udp("cA1", "10.101.0.33", 9000),
        lab.tcp("h1", "10.101.0.33", 80),
        lab.inside("cA1", ["busybox", "ping", "-c2", "10.101.0.23"]),
        lab.tcp("cA1", six("10.101.0.33"), 80),
        lab.tcp("cA1", six("10.101.0.3"), 80),
        lab.tcp("cli", UNDERLAY6(1), 8081),
        lab.tcp("cli", UNDERLAY6(1), 8082),
        lab.udp("cA1", six("10.101.0.33"), 9000),
        lab.tcp("h1", six("10.101.0.33"), 80),
      ]);
    });
    expect(counts.esp).toBeGreaterThan(20);
    expect({ udp: counts.udp, readable: counts.readable }).toEqual({ udp: {}, readable: 0 });
    // What is not encrypted can be read, so the tool sees.
    for (const address of ["10.102.0.33", six("10.102.0.33")]) {
      const clear = await onWire(() => lab.tcp("cB1", address, 80));
      expect(clear.readable).toBeGreaterThan(0);
      expect(Object.keys(clear.udp)).toEqual(["4789"]);
    }
  });

  test(
    "a packet in clear is refused by an encrypted network, whichever port it comes to",
    async () => {
      const received = async (task: string) => {
        const list = await lab.inside(task, ["cat", "/proc/net/snmp", "/proc/net/snmp6"]);
        const lines = list.stdout.split("\n");
        const four = lines.findLast((text) => text.startsWith("Icmp:"))?.split(" ")[1];
        const echoes = lines.find((text) => text.startsWith("Icmp6InEchos"))?.split(/\s+/)[1];
        return [Number(four), Number(echoes)];
      };
      /** Pings a task of node 3 in node 2's name, by a tunnel of the attacker's own. */
      const attack = async (port: number, vni: number, source: string, task: string) => {
        const prefix = port === 4789 ? "02:53" : "02:55";
        const [source6, gateway6] = [six(source), "fe80::2"];
        const lines = [
          `addr add ${UNDERLAY(2)}/32 dev lo`,
          `addr add ${source}/32 dev lo`,
          `addr add ${source6}/128 dev lo nodad`,
          `link add evil type vxlan id ${vni} local ${UNDERLAY(2)} remote ${UNDERLAY(3)} dstport ${port} nolearning`,
          `link set evil address ${prefix}:c0:a8:4d:02 up`,
          `neigh replace ${UNDERLAY(3)} lladdr ${prefix}:c0:a8:4d:03 dev evil nud permanent`,
          `route replace ${task} via ${UNDERLAY(3)} dev evil onlink src ${source}`,
          `neigh replace ${gateway6} lladdr ${prefix}:c0:a8:4d:03 dev evil nud permanent`,
          `route replace ${six(task)}/128 via ${gateway6} dev evil onlink src ${source6}`,
        ];
        await lab.inside("rtr", ["ip", "-batch", "-"], lines.join("\n"));
        const ping = ["ping", "-c2", "-i0.2", "-W1", "-I"];
        await Promise.all([
          lab.inside("rtr", [...ping, source, task]),
          lab.inside("rtr", [...ping, source6, six(task)]),
        ]);
        const undo = ["link del evil", `addr del ${UNDERLAY(2)}/32 dev lo`];
        undo.push(`addr del ${source}/32 dev lo`, `addr del ${source6}/128 dev lo`);
        await lab.inside("rtr", ["ip", "-batch", "-"], undo.join("\n"));
      };
      const [web3, cB3] = [await received("web3"), await received("cB3")];
      const counts = await onWire(async () => {
        await attack(4789, 4096, "10.101.0.12", "10.101.0.23");
        await attack(4790, 4097, "10.101.0.12", "10.101.0.23");
        // The attack itself works: a network that is not encrypted takes it.
        await attack(4789, 4096, "10.102.0.12", "10.102.0.13");
      });
      expect(counts.udp[4789]).toBeGreaterThanOrEqual(8);
      expect(counts.udp[4790]).toBeGreaterThanOrEqual(4);
      expect(await received("web3")).toEqual(web3);
      expect(await received("cB3")).toEqual(cB3.map((count) => count + 2));
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "without a policy, without all, without associations: nothing goes out, and the check mends it",
    async () => {
      const damages = [
        `ip xfrm policy delete src ${UNDERLAY(2)}/32 dst ${UNDERLAY(3)}/32 proto udp dport 4790 dir out`,
        "ip xfrm policy flush",
        "ip xfrm state flush",
      ];
      const repairs = () => lab.meshes.get(2)?.status().repairs["ipsec"] ?? 0;
      await noteSent();
      const counts = await onWire(async () => {
        for (const damage of damages) {
          const before = repairs();
          await lab.inside("h2", damage.split(" "));
          const pings = ["10.101.0.33", six("10.101.0.33")].map((address) =>
            lab.inside("cAB2", ["ping", "-c3", "-i0.2", "-W1", address]),
          );
          for (const { stdout } of await Promise.all(pings)) {
            expect([damage, stdout]).toEqual([damage, expect.stringContaining(" 0 received")]);
          }
          await lab.meshes.get(2)?.check();
          expect(await eventually(ALL_ANSWER, both, PATIENCE_MS)).toBe(ALL_ANSWER);
          expect([damage, repairs() > before]).toEqual([damage, true]);
        }
      });
      // All the time, also while it was mended.
      expect({ udp: counts.udp, readable: counts.readable }).toEqual({ udp: {}, readable: 0 });
      // Sending goes on by another key: the lost one is not made again.
      const now = await outbound(2);
      expect(now).toHaveLength(2);
      expect(now.filter(({ key }) => everSent.has(key))).toEqual([]);
      expect(told.get(2)?.generations).toHaveLength(2);
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "with a wrong route, without a rule, neighbour or address of IPv6 nothing goes out in clear, and the check mends it",
    async () => {
      const mesh = lab.meshes.get(1);
      const far = six("10.101.0.33");
      const counts = await onWire(async () => {
        for (const damage of [
          // As if the outside had it.
          `route replace ${far} via ${UNDERLAY6(3)}`,
          `neigh del ${encryptedGateway6("10.255.255.3")} dev shmeshe`,
          `addr del ${meshAddress6("10.255.255.1")}/128 dev shmeshe`,
          "route del default table 15003",
          "rule del pref 25003",
          `rule del pref 19998 iif ${bridgeName(networkId("netA"))}`,
        ]) {
          expect((await lab.inside("h1", ["ip", "-6", ...damage.split(" ")])).code).toBe(0);
        }
        const tries = [ping("cA1", far), ping("h1", far)];
        expect(await Promise.all(tries)).toEqual(["no answer", "no answer"]);
        await mesh?.check();
      });
      expect({ udp: counts.udp, readable: counts.readable }).toEqual({ udp: {}, readable: 0 });
      const { route, neighbour, address, rule } = mesh?.status().repairs ?? {};
      expect({ address, neighbour }).toEqual({ address: 1, neighbour: 1 });
      expect(rule).toBe(2);
      // With an address go the sources of all routes that have it.
      expect(route).toBeGreaterThanOrEqual(2);
      await expectAnswers([
        ["task", lab.tcp("cA1", far, 80), `far3 ${six("10.101.0.11")}`],
        ["outside", lab.tcp("cli", UNDERLAY6(1), 8081), `far3 ${CLIENT6}`],
        ["host", lab.tcp("h1", far, 80), `far3 ${meshAddress6("10.255.255.1")}`],
      ]);
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "another key takes over under traffic without a lost packet",
    async () => {
      const stream = lab.stream("cA1", "10.101.0.23", 7000, 4);
      expect(await stream.echo()).toBe("line 1");
      const over = join(lab.dir, "over");
      const pings = `ping -q -i 0.05 10.101.0.23 & until [ -e ${over} ]; do sleep 0.1; done; kill -INT $!; wait $!`;
      const running = lab.inside("cA1", ["timeout", "110", "bash", "-c", pings]);
      const [old] = keys;
      const next = keyOf("k2");
      if (!old) throw new Error("no key");
      keys = [old, next];
      tell();
      const ids = () =>
        Promise.resolve(NODES.map((node) => told.get(node)?.keyIds.join()).join(" "));
      expect(await eventually("k1,k2 k1,k2 k1,k2", ids, PATIENCE_MS)).toBe("k1,k2 k1,k2 k1,k2");
      await settled();
      expect(await stream.echo()).toBe("line 2");
      keys = [next];
      tell();
      expect(await eventually("k2 k2 k2", ids, PATIENCE_MS)).toBe("k2 k2 k2");
      expect(await stream.echo()).toBe("line 3");
      expect(await stream.echo()).toBe("line 4");
      await settled();
      writeFileSync(over, "");
      const { stdout } = await running;
      const [, sent = "0", received = "0"] =
        /(\d+) packets transmitted, (\d+) received/.exec(stdout) ?? [];
      expect(Number(sent)).toBeGreaterThan(50);
      // The last one may be on its way.
      expect(Number(sent) - Number(received)).toBeLessThanOrEqual(1);
      const used = await outbound(1);
      expect(used).toHaveLength(2);
      expect(used.filter(({ key }) => everSent.has(key))).toEqual([]);
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "an agent that starts again goes on with the associations that are there, also without managers",
    async () => {
      await lab.meshes.get(1)?.stop();
      const before = await associations(1);
      const generations = told.get(1)?.generations;
      const mesh = await lab.startNode(1, false);
      await mesh.settled();
      expect(await both()).toBe(ALL_ANSWER);
      expect(await associations(1)).toEqual(before);
      tell();
      await settled();
      expect(await associations(1)).toEqual(before);
      expect(told.get(1)?.generations).toEqual(generations);
      expect(mesh.status().repairs).toEqual({});
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "a node that was started again sends by keys that were never used",
    async () => {
      await noteSent();
      await lab.meshes.get(1)?.stop();
      await lab.inside("h1", ["ip", "xfrm", "state", "flush"]);
      await lab.inside("h1", ["ip", "xfrm", "policy", "flush"]);
      await lab.inside("h1", ["ip", "link", "del", "shmeshe"]);
      await lab.startNode(1, false);
      tell();
      expect(await eventually(ALL_ANSWER, both, PATIENCE_MS)).toBe(ALL_ANSWER);
      const sent = await outbound(1);
      expect(sent).toHaveLength(2);
      expect(sent.filter(({ key }) => everSent.has(key))).toEqual([]);
    },
    ROW_TIMEOUT_MS,
  );

  test(
    "without encrypted networks nothing of it stays",
    async () => {
      isEncrypting = false;
      keys = [];
      await lab.inside("h1", ["ip", "xfrm", "policy", "add", ...FOREIGN_POLICY.split(" ")]);
      tell();
      const policiesLeft = async () => {
        const listed = NODES.map((node) =>
          lab.inside(`h${node}`, ["ip", "xfrm", "policy", "list"]),
        );
        const texts = await Promise.all(listed);
        return String(texts.filter(({ stdout }) => stdout.includes("4790")).length);
      };
      expect(await eventually("0", policiesLeft, PATIENCE_MS)).toBe("0");
      await settled();
      expect(lab.outputs.filter(({ type }) => type === "apply-failed")).toEqual([]);
      for (const node of NODES) {
        const policies = await lab.inside(`h${node}`, ["ip", "xfrm", "policy", "list"]);
        const states = await lab.inside(`h${node}`, ["ip", "xfrm", "state", "list"]);
        const device = await lab.inside(`h${node}`, ["ip", "link", "show", "dev", "shmeshe"]);
        const rules = await lab.inside(`h${node}`, ["ip", "rule", "list"]);
        const rules6 = await lab.inside(`h${node}`, ["ip", "-6", "rule", "list"]);
        // Somebody else's is not touched.
        expect(policies.stdout.includes("dport 4790")).toBe(false);
        expect(policies.stdout.includes("dport 99")).toBe(node === 1);
        expect(states.stdout).toBe("");
        expect(device.code).not.toBe(0);
        expect(rules.stdout + rules6.stdout).not.toContain(bridgeName(networkId("netA")));
        expect(told.get(node)).toEqual({ generations: [], keyIds: [] });
      }
      expect(await both()).toBe(ALL_ANSWER);
    },
    ROW_TIMEOUT_MS,
  );
});

const FOREIGN_POLICY = "src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 99 dir out action block";
