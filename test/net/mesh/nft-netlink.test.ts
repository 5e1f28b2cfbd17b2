/** nf_tables by netlink: the messages themselves, and what a real kernel makes of them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import { commandRunner, type RunCommand } from "../../../net/mesh/backend.ts";
import {
  netlinkMessage,
  type NetlinkSocket,
  NLMSG_ERROR,
  parseMessages,
} from "../../../net/mesh/netlink.ts";
import { nftPlanChange } from "../../../net/mesh/nft-change.ts";
import { nftDeclaration, type NftElementChange } from "../../../net/mesh/nft-elements.ts";
import { encodeNftChange, type Nft, openNft } from "../../../net/mesh/nft-netlink.ts";
import { nftablesBackend } from "../../../net/mesh/nftables.ts";
import { type FilterPlan, planMesh } from "../../../net/mesh/plan.ts";
import { nftTableText, renderNftTable } from "../../../net/mesh/render.ts";
import { randomTable, seededRandom } from "./random-plan.ts";

const slots = (count: number): NftElementChange => ({
  kind: "add",
  family: "ipv4",
  set: "slots",
  shape: { key: ["address", "turn"], value: ["address"] },
  elements: Array.from(
    { length: count },
    (_, place) => [`10.0.${place >> 8}.${place & 255} . 0`, "10.9.9.9"] as const,
  ),
});

describe("messages of element changes", () => {
  const shapes = {
    mac2zone: { key: ["mac"], value: ["zone"] },
    mac2node: { key: ["mac"], value: ["mark"] },
    bridges: { key: ["device"] },
    pubtasks: { key: ["address", "protocol", "port"] },
    portslots: { key: ["protocol", "port", "turn"], value: ["address", "port"] },
    vips: { key: ["address"], value: ["verdict"] },
    porthits: { key: ["protocol", "port"], hasCounter: true },
  } as const;
  // What nft 1.0.6 sends for the same element.
  test.each([
    [
      "mac2zone",
      "02:53:c0:00:02:02",
      "258",
      "2000018010000180 0a0001000253c00002020000 0c00028006000100 02010000",
    ],
    [
      "mac2node",
      "02:53:c0:00:02:02",
      "0x20000",
      "2000018010000180 0a0001000253c00002020000 0c00028008000100 00000200",
    ],
    [
      "bridges",
      '"sh00000000"',
      undefined,
      "1c00018018000180 14000100 73683030303030303030000000000000",
    ],
    [
      "pubtasks",
      "10.0.0.1 . tcp . 80",
      undefined,
      "1800018014000180 10000100 0a000001 06000000 00500000",
    ],
    [
      "portslots",
      "tcp . 8080 . 258",
      "10.0.0.3 . 80",
      "2800018014000180 10000100 06000000 1f900000 02010000 10000280 0c000100 0a000003 00500000",
    ],
    [
      "vips",
      "10.0.0.1",
      "goto vip_1",
      "2c0001800c000180 08000100 0a000001 1c000280 18000280 08000100 fffffffc 0a000200 7669705f31000000",
    ],
    ["porthits", "tcp . 80", undefined, "1400018010000180 0c000100 06000000 00500000"],
  ] as const)("an element of %s is as the tool sends it", (set, key, value, digits) => {
    const shape = shapes[set];
    const change = { kind: "add", family: "ipv4", set, shape, elements: [[key, value]] } as const;
    const [message] = encodeNftChange(change);
    const list = digits.replaceAll(" ", "");
    const length = Buffer.from([4 + list.length / 2, 0]).toString("hex");
    expect(message?.body.toString("hex")).toEndWith(`${length}0380${list}`);
    expect(message).toMatchObject({ type: (10 << 8) | 12, flags: 0x405 });
  });

  test("an address of IPv6 has 16 bytes, and the message its family", () => {
    const shape = { key: ["address"] } as const;
    const elements = [["fd00::1", undefined]] as const;
    const [message] = encodeNftChange({
      kind: "delete",
      family: "ipv6",
      set: "dead",
      shape,
      elements,
    });
    expect(message?.body[0]).toBe(10);
    expect(message?.body.toString("hex")).toEndWith(`14000100fd00${"00".repeat(13)}01`);
    expect(message).toMatchObject({ type: (10 << 8) | 14, flags: 5 });
    expect(nftDeclaration("ipv6", shape)).toBe("type ipv6_addr");
  });

  test("many elements are several messages, each short enough for the length of an attribute", () => {
    const messages = encodeNftChange(slots(2_000));
    expect(messages.length).toBeGreaterThan(1);
    for (const { body } of messages) expect(body.length).toBeLessThan(40_000);
    const whole = messages.reduce((sum, { body }) => sum + body.length, 0);
    expect(whole).toBeGreaterThan(2_000 * 32);
  });
});

/** A kernel that answers each batch by `answer`: error numbers by place in it; the rest are acknowledged. */
function fakeKernel(answer: (place: number) => number | "none") {
  const sent: number[][] = [];
  const queue: { sequence: number; error: number }[] = [];
  let isOpen = true;
  const socket: NetlinkSocket = {
    send: (bytes) => {
      const messages = parseMessages(bytes);
      sent.push(messages.map(({ type }) => type));
      for (const [place, { sequence }] of messages.entries()) {
        const error = answer(place);
        const isEdge = place === 0 || place === messages.length - 1;
        if (error !== "none" && (error !== 0 || !isEdge)) queue.push({ sequence, error });
      }
    },
    receive: () => {
      const next = queue.shift();
      if (!next) throw new ClusterError("unavailable", "none within 5 s");
      const body = Buffer.alloc(20);
      body.writeInt32LE(-next.error);
      return parseMessages(
        netlinkMessage({ type: NLMSG_ERROR, flags: 0, sequence: next.sequence, body }),
      );
    },
    close: () => {
      isOpen = false;
    },
  };
  return { sent, nft: openNft(undefined, () => socket), isOpen: () => isOpen };
}
const refusalOf = (nft: Nft, changes: readonly NftElementChange[]) => {
  try {
    return String(nft.change(changes));
  } catch (error) {
    return error instanceof ClusterError ? error.message : "no ClusterError";
  }
};

describe("a batch", () => {
  test("has a begin and an end around its messages, and is done when all are acknowledged", () => {
    const { sent, nft } = fakeKernel(() => 0);
    expect(nft.change([slots(1), { ...slots(1), kind: "delete" }])).toBeTrue();
    expect(sent).toEqual([[0x10, 2572, 2574, 0x11]]);
  });

  test("that is refused tells the first error and what it was for", () => {
    const { nft } = fakeKernel((place) => (place >= 2 ? 2 : 0));
    expect(refusalOf(nft, [slots(1), { ...slots(1), kind: "delete", set: "vips" }])).toBe(
      "Cannot change nftables by netlink: error 2 to delete element of vips",
    );
  });

  test("that is refused as a whole waits for no other answer, nor takes them for the next batch's", () => {
    let isRefused = true;
    const { nft } = fakeKernel((place) => (isRefused && place === 0 ? 1 : 0));
    expect(refusalOf(nft, [slots(1), slots(1)])).toContain("error 1 to all of it");
    isRefused = false;
    expect(nft.change([slots(1)])).toBeTrue();
  });

  test("of too many bytes or messages is not sent", () => {
    const { sent, nft } = fakeKernel(() => 0);
    expect(nft.change([slots(5_000)])).toBeFalse();
    expect(nft.change(Array.from({ length: 129 }, () => slots(1)))).toBeFalse();
    expect(sent).toEqual([]);
  });

  test("whose answers are lost is the last one: nobody waits twice", () => {
    const { sent, nft, isOpen } = fakeKernel(() => "none");
    expect(refusalOf(nft, [slots(1)])).toContain("none within");
    expect(isOpen()).toBeFalse();
    expect(refusalOf(nft, [slots(1)])).toContain("its answers were lost");
    expect(nft.readGeneration()).toBeUndefined();
    expect(sent).toHaveLength(1);
  });

  test("in a namespace that is not there is refused, and no changes are counted", () => {
    const nft = openNft("/run/netns/shoal-none");
    expect(nft.readGeneration()).toBeUndefined();
    expect(() => nft.change([slots(1)])).toThrow();
  });
});

const NAMESPACES = ["changed", "whole"].map((name) => `sn${process.pid}${name}`);
const [CHANGED = "", WHOLE = ""] = NAMESPACES;
const root = commandRunner();
const isPossible =
  process.getuid?.() === 0 &&
  Bun.which("nsenter") !== null &&
  Bun.which("nft") !== null &&
  Bun.spawnSync(["unshare", "-n", "nft", "add table ip shoal"], { stderr: "ignore" }).success;

/** Plans of both families at one moment of a life; those of IPv6 have the same numbers in longer addresses. */
function plansAt(
  shape: number,
  moment: number,
  home?: FilterPlan,
): { plan: FilterPlan; plan6: FilterPlan } {
  const { table, options } = randomTable(shape, moment);
  const made = planMesh(table, new Set(), { ...options, balance: "random" });
  if (!made) throw new Error("The table makes no plan");
  const random = seededRandom(shape * 1_000 + moment);
  // For a moment more targets than there are standing chains for.
  const grow = <Item extends { targets: string[] }>(item: Item): Item =>
    moment === 3 && random() < 0.1
      ? {
          ...item,
          targets: Array.from(
            { length: 9 + Math.floor(random() * 3) },
            (_, place) => `10.9.0.${place}`,
          ),
        }
      : item;
  const plan = {
    ...made.filter,
    // What has interval sets stays for some time.
    ...(home && moment !== 6 ? { networks: home.networks, subnets: home.subnets } : {}),
    virtualIps: made.filter.virtualIps.map(grow),
    ports: made.filter.ports.map(grow),
  };
  const text = JSON.stringify(plan).replace(
    /"(\d+\.\d+\.\d+\.\d+)(?:\/(\d+))?"/g,
    (_, address: string, length?: string) =>
      `"fd00::${address
        .split(".")
        .map((part) => Number(part).toString(16))
        .join(":")}${length === undefined ? "" : `/${64 + Number(length) * 2}`}"`,
  );
  return { plan, plan6: { ...(JSON.parse(text) as FilterPlan), family: "ipv6" } };
}

/** Tables as sorted lists: the order in which parts were made is of no meaning. */
function parts(listing: string): string[] {
  return listing
    .split(/\n(?=\t?[\w}])/)
    .map((part) =>
      part.trim().replace(/elements = \{([^}]*)\}/, (_, list: string) =>
        list
          .split(",")
          .map((element) => element.trim())
          .sort()
          .join("\n"),
      ),
    )
    .sort();
}

describe.skipIf(!isPossible)("a kernel that is told changes by netlink", () => {
  beforeAll(async () => {
    for (const name of NAMESPACES) await root(["ip", "netns", "add", name]);
  });
  afterAll(async () => {
    for (const name of NAMESPACES) await root(["ip", "netns", "del", name]);
  });

  const inside = (name: string) => commandRunner(["nsenter", `--net=/run/netns/${name}`]);
  const must = async (run: RunCommand, argv: string[], stdin?: string) => {
    const result = await run(argv, stdin);
    if (result.code !== 0) throw new Error(`${argv.join(" ")}: ${result.stderr.slice(0, 500)}`);
    return result.stdout;
  };
  const listing = async (name: string) =>
    parts(await must(inside(name), ["nft", "-s", "list", "ruleset"]));
  /** What the tool makes of these plans. */
  const wanted = async (plans: FilterPlan[]) => {
    const text = plans.map((plan) => nftTableText(renderNftTable(plan))).join("");
    await must(inside(WHOLE), ["nft", "-f", "-"], `flush ruleset\n${text}`);
    return listing(WHOLE);
  };
  /** A back-end in a fresh namespace's place, with what it did by the tool and by netlink. */
  const start = async () => {
    await must(inside(CHANGED), ["nft", "flush", "ruleset"]);
    const done = { texts: [] as string[], batches: 0 };
    const nft = openNft(`/run/netns/${CHANGED}`);
    const run: RunCommand = (argv, stdin) => {
      if (argv.join(" ") === "nft -f -") done.texts.push(stdin ?? "");
      return inside(CHANGED)(argv, stdin);
    };
    const backend = nftablesBackend(run, {
      ...nft,
      change: (changes) => {
        const isDone = nft.change(changes);
        if (isDone) done.batches += 1;
        return isDone;
      },
    });
    return { done, nft, backend };
  };

  test.each([5, 7, 23])(
    "has after each change what the tool makes of the plan, seed %d",
    async (seed) => {
      const { done, backend } = await start();
      const home = plansAt(seed, 0).plan;
      for (let moment = 0; moment < 12; moment += 1) {
        const { plan, plan6 } = plansAt(seed, moment, home);
        await backend.apply(plan, plan6);
        expect(await listing(CHANGED)).toEqual(await wanted([plan, plan6]));
      }
      // The others are of a network or a chain more or less.
      expect(done.batches).toBeGreaterThanOrEqual(5);
      expect(backend.notes()).toEqual([]);
    },
    60_000,
  );

  test.each([
    ["the table", "delete table ip shoal"],
    ["the other family's table", "delete table ip6 shoal"],
    ["what is to be deleted", "flush map ip shoal slots"],
    ["a chain's elements", "flush map ip6 shoal vips"],
  ])(
    "and that has lost %s by another's hand is right again",
    async (_, command) => {
      const { done, backend } = await start();
      const before = plansAt(7, 0);
      // Tasks of all services leave: elements only.
      const less = (plan: FilterPlan): FilterPlan => ({
        ...plan,
        virtualIps: plan.virtualIps.map((vip) => ({ ...vip, targets: vip.targets.slice(1) })),
      });
      const after = { plan: less(before.plan), plan6: less(before.plan6) };
      expect(nftPlanChange(before.plan, after.plan, 1_000)).toMatchObject({ before: [] });
      await backend.apply(before.plan, before.plan6);
      await must(inside(CHANGED), ["nft", command]);
      await backend.apply(after.plan, after.plan6);
      expect(await listing(CHANGED)).toEqual(await wanted([after.plan, after.plan6]));
      expect(done.batches).toBeLessThanOrEqual(1);
      // The next change is elements again.
      const batches = done.batches;
      await backend.apply(before.plan, after.plan6);
      expect(done.batches).toBe(batches + 1);
      expect(await listing(CHANGED)).toEqual(await wanted([before.plan, after.plan6]));
    },
    30_000,
  );

  test("takes a large change in several messages at once, and a larger one from the tool", async () => {
    const { done, backend } = await start();
    const { plan } = plansAt(7, 0);
    const hosts = (count: number) =>
      Array.from({ length: count }, (_, place) => `10.8.${place >> 8}.${place & 255}`);
    await backend.apply(plan);
    const large = { ...plan, localAddresses: [...plan.localAddresses, ...hosts(1_900)] };
    await backend.apply(large);
    expect([done.batches, done.texts.length]).toEqual([1, 1]);
    expect(await listing(CHANGED)).toEqual(await wanted([large]));
    const larger = {
      ...plan,
      meshAddresses: hosts(1_900),
      gateways: hosts(1_900),
      selfLoops: hosts(1_900).map((address) => ({ node: "10.7.0.1", task: address })),
      publishedTasks: hosts(1_900).map((address) => ({ address, protocol: "udp", port: 53 })),
    };
    await backend.apply(larger);
    expect([done.batches, done.texts.length]).toEqual([1, 2]);
    expect(done.texts[1]).toStartWith("delete element ip shoal ");
    expect(await listing(CHANGED)).toEqual(await wanted([larger]));
  }, 30_000);

  test("counts a batch as one change of ours, and another's beside it is drift", async () => {
    const { done, nft, backend } = await start();
    const before = plansAt(7, 0);
    const after = plansAt(7, 0);
    after.plan.localAddresses.push("10.8.0.1");
    after.plan6.localAddresses.push("fd00::8");
    await backend.apply(before.plan, before.plan6);
    const generation = nft.readGeneration() ?? Number.NaN;
    await backend.apply(after.plan, after.plan6);
    expect(done.batches).toBe(1);
    expect(nft.readGeneration()).toBe(generation + 1);
    expect(await backend.mend()).toEqual({});
    await must(inside(CHANGED), ["nft", "delete table ip shoal"]);
    expect(await backend.mend()).toEqual({ "nft-table": 1 });
    expect(await listing(CHANGED)).toEqual(await wanted([after.plan, after.plan6]));
  }, 30_000);

  test("refuses a batch whole when one element of it is refused", async () => {
    const { nft, backend } = await start();
    const { plan } = plansAt(7, 0);
    await backend.apply(plan);
    const before = await listing(CHANGED);
    const generation = nft.readGeneration();
    const gone: NftElementChange = {
      ...slots(1),
      kind: "delete",
      elements: [["10.1.1.1 . 9", undefined]],
    };
    const nowhere: NftElementChange = {
      kind: "add",
      family: "ipv4",
      set: "vips",
      shape: { key: ["address"], value: ["verdict"] },
      elements: [["10.1.1.1", "goto nowhere"]],
    };
    expect(refusalOf(nft, [slots(3), gone])).toContain("error 2 to delete element of slots");
    expect(refusalOf(nft, [slots(3), nowhere, slots(3)])).toContain(
      "error 2 to add element of vips",
    );
    expect(nft.readGeneration()).toBe(generation);
    expect(await listing(CHANGED)).toEqual(before);
    expect(nft.change([slots(3)])).toBeTrue();
  });
});
