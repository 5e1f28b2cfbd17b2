/**
 * Encrypted networks of several nodes over kernels that are maps: what each makes, in which order, by which
 * keys. The real kernel is in test/uml/encryption-rows.ts.
 */
import { describe, expect, test } from "bun:test";
import { planMeshKeys } from "../../../core/encryption/mesh-keys.ts";
import type { MeshKeys, Peer } from "../../../core/dispatcher/assignment.ts";
import { seededRandom } from "../../../core/random.ts";
import type { NodeEncryption } from "../../../core/objects/node.ts";
import type { CommandResult } from "../../../net/mesh/backend.ts";
import { type Encryption, startEncryption } from "../../../net/mesh/encryption.ts";
import { planEncryption } from "../../../net/mesh/encryption-plan.ts";
import {
  diffEncryption,
  type EncryptionState,
  parseAssociations,
  parsePolicies,
  policyKey,
  policyLine,
} from "../../../net/mesh/encryption-state.ts";

const OK: CommandResult = { code: 0, stdout: "", stderr: "" };
const address = (node: number) => `10.0.0.${node}`;

type Sa = { source: string; target: string; spi: string; key: string };

/** IPsec of one kernel; everything else succeeds and does nothing. */
function fakeKernel(node: number) {
  /** In the order in which they were made. */
  const states = new Map<string, Sa>();
  const policies = new Map<string, string>();
  /** All keys by which it has ever been able to send. */
  const sent: string[] = [];
  const line = (text: string) => {
    const sa = /src (\S+) dst (\S+) proto esp spi (\S+)/.exec(text);
    const [, source = "", target = "", spi = ""] = sa ?? [];
    const name = `${source} ${target} ${spi}`;
    if (text.startsWith("xfrm state add")) {
      const key = / rfc4106\(gcm\(aes\)\) (\S+) 128/.exec(text)?.[1] ?? "";
      if (states.has(name)) throw new Error(`${name} is there`);
      states.set(name, { source, target, spi, key });
      if (source === address(node)) sent.push(key);
    } else if (text.startsWith("xfrm state delete")) states.delete(name);
    else if (text.startsWith("xfrm policy update ")) {
      const body = text.slice("xfrm policy update ".length);
      policies.set(body.split(/ (?:action|priority) /)[0] ?? "", body);
    } else if (text.startsWith("xfrm policy delete ")) {
      policies.delete(text.slice("xfrm policy delete ".length));
    }
  };
  const run = async (argv: string[], stdin?: string): Promise<CommandResult> => {
    const command = argv.join(" ");
    // The probe.
    if (command === "ip -batch -") return OK;
    if (command === "ip -force -batch -") for (const one of (stdin ?? "").split("\n")) line(one);
    if (command.startsWith("ip xfrm state list")) {
      const blocks = [...states.values()].map(
        ({ source, target, spi, key }) =>
          `src ${source} dst ${target}\n\tproto esp spi ${spi} reqid 7563373 mode transport\n` +
          `\treplay-window 0 flag esn\n\taead rfc4106(gcm(aes)) ${key} 128\n`,
      );
      return { ...OK, stdout: blocks.join("") };
    }
    if (command === "ip xfrm policy list") {
      const blocks = [...policies.values()].map((text) =>
        text.replace(" dir ", " \n\tdir ").replace(" tmpl ", " ptype main \n\ttmpl "),
      );
      return { ...OK, stdout: `${blocks.join("\n")}\n` };
    }
    return OK;
  };
  return { states, policies, sent, run };
}

type FakeNode = {
  kernel: ReturnType<typeof fakeKernel>;
  encryption: Encryption;
  /** The newest that it was told. */
  peers: Peer[];
  keys: MeshKeys | undefined;
};

/** Nodes and their managers; messages arrive when `deliver` is called. */
async function cluster(count: number, holdMs = 0) {
  const numbers = Array.from({ length: count }, (_, place) => place + 1);
  const told = new Map<number, NodeEncryption>();
  const managers: { keys: { id: string; secret: string; createdAtMs: number }[]; nowMs: number } = {
    keys: [],
    nowMs: 0,
  };
  const entries = (): Peer[] =>
    numbers.map((index) => {
      const encryption = told.get(index);
      return {
        nodeId: `n${index}`,
        hostname: "",
        index,
        dataPathAddr: address(index),
        meshAddress: `10.255.0.${index}`,
        ...(encryption ? { encryption } : {}),
      };
    });
  const options = { holdMs, drawPeriodMs: 0 };
  const nodes = new Map<number, FakeNode>();
  const start = async (index: number, kernel = fakeKernel(index)) => {
    const known = entries().find((peer) => peer.index === index);
    const peers = new Map(known ? [[`peer/n${index}`, known]] : []);
    // Of the settings only this is read.
    const table = { peers, settings: { nodeId: `n${index}` } } as unknown as Parameters<
      typeof startEncryption
    >[1];
    const encryption = await startEncryption(kernel.run, table, () => "iptables", options);
    nodes.set(index, { kernel, encryption, peers: [], keys: undefined });
  };
  for (const index of numbers) await start(index);
  const get = (index: number) => {
    const found = nodes.get(index);
    if (!found) throw new Error(`no node ${index}`);
    return found;
  };
  const world = {
    numbers,
    told,
    managers,
    get,
    start,
    /** The managers' newest reaches one node. */
    deliver: (index: number) => {
      const node = get(index);
      node.peers = entries();
      node.keys = managers.keys.length > 0 ? { keys: managers.keys } : undefined;
    },
    /** One round of a node; what it says reaches the managers. */
    round: async (index: number, isCheck = false) => {
      const node = get(index);
      const self = node.peers.find((peer) => peer.index === index);
      if (!self) return;
      const plan = planEncryption({
        networks: [
          // Of a network only this is read.
          { spec: { Driver: "overlay", Options: { encrypted: "" } } } as unknown as Parameters<
            typeof planEncryption
          >[0]["networks"][number],
        ],
        self,
        peers: node.peers.filter((peer) => peer.index !== index),
        keys: node.keys,
        dataPathPort: 4_789,
        underlayMtu: 1_500,
      });
      await node.encryption.begin(plan, [], isCheck);
      await node.encryption.end(plan);
    },
    report: (index: number) => {
      told.set(index, get(index).encryption.told());
    },
    /** Rounds of all nodes until nothing changes. */
    settle: async () => {
      for (let turn = 0; turn < 8; turn += 1) {
        for (const index of numbers) {
          world.deliver(index);
          await world.round(index, true);
          world.report(index);
        }
      }
    },
    /** By which a node sends to another now: the one made last. */
    sending: (from: number, to: number) =>
      [...get(from).kernel.states.values()].findLast(
        (sa) => sa.source === address(from) && sa.target === address(to),
      ),
    canReceive: (to: number, sa: Sa) =>
      [...get(to).kernel.states.values()].some(
        (one) => one.source === sa.source && one.spi === sa.spi && one.key === sa.key,
      ),
    /** Pairs that do not reach each other. */
    broken: () =>
      numbers.flatMap((from) =>
        numbers.flatMap((to) => {
          if (from === to) return [];
          const sa = world.sending(from, to);
          return sa && world.canReceive(to, sa) ? [] : [`${from}>${to}`];
        }),
      ),
    rotate: () => {
      const nodesNow = numbers.map((index) => ({
        encryption: told.get(index),
        status: { state: "ready", message: "", addr: "" },
      }));
      // Only these fields are read.
      const view = {
        cluster: () => ({ meshKeys: managers.keys }),
        networks: () => [{ spec: { Driver: "overlay", Options: { encrypted: "" } } }],
        nodes: () => nodesNow,
      } as unknown as Parameters<typeof planMeshKeys>[0];
      const { kept, isNewWanted } = planMeshKeys(view, managers.nowMs);
      managers.keys = kept;
      if (isNewWanted) {
        const id = `k${managers.nowMs}`;
        const secret = Buffer.from(id.padEnd(32, "x")).toString("base64");
        managers.keys = [...kept, { id, secret, createdAtMs: managers.nowMs }];
      }
    },
  };
  return world;
}

/** Every key by which anybody has ever sent was made once. */
function expectNoReuse(kernels: ReturnType<typeof fakeKernel>[]): void {
  const all = kernels.flatMap(({ sent }) => sent);
  expect(new Set(all).size).toBe(all.length);
}

describe("nodes of a cluster", () => {
  test("reach each other once each has told the others", async () => {
    const world = await cluster(3);
    world.rotate();
    await world.settle();
    expect(world.broken()).toEqual([]);
    for (const index of world.numbers) {
      expect(world.get(index).kernel.states.size).toBe(4);
      expect(world.told.get(index)?.generations).toHaveLength(1);
    }
  });

  test("a key takes over in any order of messages without a moment in which a pair does not understand", async () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const random = seededRandom(seed);
      const world = await cluster(3);
      const kernels = world.numbers.map((index) => world.get(index).kernel);
      world.rotate();
      await world.settle();
      for (let period = 0; period < 3; period += 1) {
        for (const hours of [11, 1, 1]) {
          world.managers.nowMs += hours * 3_600_000;
          world.rotate();
          for (let step = 0; step < 40; step += 1) {
            const index = 1 + Math.floor(random.next() * 3);
            const what = random.next();
            if (what < 0.4) world.deliver(index);
            else if (what < 0.8) await world.round(index, what < 0.5);
            else world.report(index);
            expect(world.broken()).toEqual([]);
          }
          await world.settle();
          expect(world.broken()).toEqual([]);
        }
      }
      expect(world.managers.keys).toHaveLength(1);
      // The first key, and three more.
      for (const { sent } of kernels) expect(sent.length).toBe(8);
      expectNoReuse(kernels);
    }
  });

  test("whatever is lost, and in whichever order: no key sends twice, and all reach each other again", async () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      const random = seededRandom(seed);
      const world = await cluster(3);
      const kernels = new Set(world.numbers.map((index) => world.get(index).kernel));
      const sentBefore: string[] = [];
      for (let step = 0; step < 150; step += 1) {
        const index = 1 + Math.floor(random.next() * 3);
        const { kernel } = world.get(index);
        const what = random.next();
        if (what < 0.3) world.deliver(index);
        else if (what < 0.6) await world.round(index, random.next() < 0.5);
        else if (what < 0.8) world.report(index);
        else if (what < 0.85) {
          // Somebody's hand.
          const names = [...kernel.states.keys()];
          kernel.states.delete(names[Math.floor(random.next() * names.length)] ?? "");
        } else if (what < 0.9) await world.start(index, kernel);
        else if (what < 0.94) {
          await world.start(index);
          kernels.add(world.get(index).kernel);
        } else {
          world.managers.nowMs += 7 * 3_600_000;
          world.rotate();
        }
      }
      if (world.managers.keys.length === 0) world.rotate();
      await world.settle();
      expect([seed, world.broken()]).toEqual([seed, []]);
      expectNoReuse([...kernels]);
      expect(sentBefore).toEqual([]);
      for (const index of world.numbers) {
        expect(world.told.get(index)?.generations.length).toBeLessThanOrEqual(2);
      }
    }
  });

  test("a new generation waits for the others to have heard of it, where an older one works", async () => {
    const world = await cluster(2, 60_000);
    world.rotate();
    await world.settle();
    // The first had nothing to wait for.
    expect(world.broken()).toEqual([]);
    const before = world.sending(1, 2);
    await world.start(1, world.get(1).kernel);
    world.managers.nowMs += 12 * 3_600_000;
    world.rotate();
    await world.settle();
    expect(world.told.get(1)?.generations).toHaveLength(2);
    expect(world.sending(1, 2)).toEqual(before);
    expect(world.broken()).toEqual([]);
    expect(world.get(1).encryption.againInMs()).toBeGreaterThan(50_000);
  });

  test("nothing of it stays without an encrypted network, and after wiping", async () => {
    const world = await cluster(2);
    world.rotate();
    await world.settle();
    const [one, two] = [world.get(1), world.get(2)];
    await one.encryption.begin(undefined, [], false);
    await one.encryption.end(undefined);
    expect([one.kernel.states.size, one.kernel.policies.size]).toEqual([0, 0]);
    expect(one.encryption.told()).toEqual({ generations: [], keyIds: [] });
    await two.encryption.wipe();
    expect([two.kernel.states.size, two.kernel.policies.size]).toEqual([0, 0]);
  });

  test("an agent without the managers' keys leaves associations as they are", async () => {
    const world = await cluster(2);
    world.rotate();
    await world.settle();
    const { kernel } = world.get(1);
    const before = [...kernel.states.keys()];
    const said = world.told.get(1);
    await world.start(1, kernel);
    world.deliver(1);
    world.get(1).keys = undefined;
    await world.round(1, true);
    expect([...kernel.states.keys()]).toEqual(before);
    expect(world.get(1).encryption.told()).toEqual(said ?? { generations: [], keyIds: [] });
  });
});

describe("what the tool prints", () => {
  const POLICIES = `src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4790 
	dir out action block priority 1171 ptype main 
src 192.168.77.1/32 dst 192.168.77.3/32 proto udp dport 4790 
	dir out priority 1170 ptype main 
	tmpl src 192.168.77.1 dst 192.168.77.3
		proto esp reqid 7563373 mode transport
src 10.0.0.0/8 dst 10.1.0.0/16 
	dir fwd priority 1170 ptype main 
	tmpl src 1.2.3.4 dst 5.6.7.8
		proto esp reqid 1 mode tunnel
src 0.0.0.0/0 dst 0.0.0.0/0 
	socket in priority 0 ptype main 
`;
  const STATES = `src 192.168.77.1 dst 192.168.77.3
	proto esp spi 0x00100001(1048577) reqid 7563373(0x0073686d) mode transport
	replay-window 0 seq 0x00000000 flag esn (0x10000000)
	aead rfc4106(gcm(aes)) 0x${"ab".repeat(36)} (288 bits) 128
	anti-replay esn context:
	 seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x0
src 192.168.77.1 dst 192.168.77.3
	proto esp spi 0x00000000 reqid 7563373 mode transport
	sel src 192.168.77.1/32 dst 192.168.77.3/32 proto udp 
src 1.2.3.4 dst 5.6.7.8
	proto esp spi 0xc0ffee01 reqid 1 mode tunnel
`;

  test("policies come back as they are made, other people's do not", () => {
    const between = { source: "192.168.77.1", target: "192.168.77.3" };
    const ours = [
      { direction: "out", port: 4_790 },
      { direction: "out", port: 4_790, between },
    ] as const;
    expect([...parsePolicies(POLICIES)]).toEqual(
      ours.map((policy) => [policyKey(policy), policyLine(policy)]),
    );
  });

  test("a policy of another port, or one that does not ask for encryption, is not taken for ours as made", () => {
    const policy = {
      direction: "out",
      port: 4_790,
      between: { source: "192.168.77.1", target: "192.168.77.3" },
    } as const;
    const found = parsePolicies(POLICIES.replaceAll("transport", "transport level use"));
    expect(found.get(policyKey(policy))).not.toBe(policyLine(policy));
    const moved = parsePolicies(POLICIES.replaceAll("4790", "4795"));
    expect(moved.get(policyKey(policy))).not.toBe(policyLine(policy));
  });

  test("associations come back with their keys, what waits for a key does not", () => {
    expect([...parseAssociations(STATES).values()]).toEqual([
      {
        source: "192.168.77.1",
        target: "192.168.77.3",
        spi: 0x100001,
        key: `0x${"ab".repeat(36)}`,
      },
    ]);
  });

  test("a missing policy is made before the device, and what is not wanted goes after it", () => {
    const plan = planEncryption({
      networks: [
        // Of a network only this is read.
        { spec: { Driver: "overlay", Options: { encrypted: "" } } } as never,
      ],
      self: {
        nodeId: "a",
        hostname: "",
        index: 1,
        dataPathAddr: "10.0.0.1",
        meshAddress: "10.9.0.1",
      },
      peers: [],
      keys: undefined,
      dataPathPort: 4_789,
      underlayMtu: 1_500,
    });
    if (!plan) throw new Error("no plan");
    const found: EncryptionState = {
      link: undefined,
      mtu: 0,
      addresses: new Map(),
      neighbours: new Map(),
      forwarding: new Map(),
      policies: parsePolicies(POLICIES),
      associations: parseAssociations(STATES),
    };
    const steps = diffEncryption(plan, found);
    expect(steps.ip.slice(0, 3)).toEqual([
      "xfrm policy update src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4790 dir in action block priority 1171",
      "link del shmeshe",
      expect.stringContaining("link add shmeshe mtu 1416"),
    ]);
    // The keys are not known: associations stay.
    expect(steps.ipLast).toEqual([
      "xfrm policy delete src 192.168.77.1/32 dst 192.168.77.3/32 proto udp dport 4790 dir out",
    ]);
    expect(steps.counts).toEqual({ link: 1, ipsec: 2 });
  });
});
