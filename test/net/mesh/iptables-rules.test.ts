import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  countHooks,
  hookChangeText,
  hookRemovalText,
  IPTABLES_TABLES,
  type IptablesFeatures,
  type IptablesRules,
  iptablesChangeText,
  leafChains,
  parseLeftovers,
  renderIptables,
} from "../../../net/mesh/iptables-rules.ts";
import { parseIpv4 } from "../../../net/mesh/ipv4.ts";
import { type FilterPlan, planMesh } from "../../../net/mesh/plan.ts";
import { changedParts, membershipOf } from "../../../net/mesh/plan-change.ts";
import { applyAssignments, emptyTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "./ipv6-lab.ts";
import { labTable } from "./lab-state.ts";
import { randomPlan } from "./random-plan.ts";

const FEATURES: IptablesFeatures = { balancer: "nat", hasZones: true, hasCluster: true };
const SEEDS = Array.from({ length: 120 }, (_, seed) => seed);

function planOf(node: number) {
  const plan = planMesh(labTable(node), new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("The table makes no plan");
  return plan.filter;
}

function plan6Of(node: number): FilterPlan {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems6(node), removed: [] });
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan?.filter6) throw new Error("no IPv6");
  return plan.filter6;
}

type Kernel = Map<string, Map<string, string[]>>;

/** What iptables-restore --noflush does with the text; throws where the tool would refuse. */
function restore(kernel: Kernel, text: string): void {
  let chains = new Map<string, string[]>();
  let draft = new Map<string, string[]>();
  let table = "";
  const chain = (name: string) => {
    const rules = draft.get(name);
    if (!rules) throw new Error(`${table}: no chain ${name}`);
    return rules;
  };
  for (const line of text.split("\n")) {
    const [word = "", name = "", ...rest] = line.split(" ");
    if (word.startsWith("*")) {
      table = word.slice(1);
      chains = kernel.get(table) ?? new Map<string, string[]>();
      draft = new Map([...chains].map(([key, rules]) => [key, [...rules]]));
    } else if (word.startsWith(":")) draft.set(word.slice(1), []);
    else if (word === "-A") chain(name).push(rest.join(" "));
    else if (word === "-F") draft.set(name, chain(name).slice(0, 0));
    else if (word === "-X") {
      if (chain(name).length > 0) throw new Error(`${name} is not empty`);
      const user = [...draft].find(([, rules]) => rules.some((rule) => targetOf(rule) === name));
      if (user) throw new Error(`${name} is used by ${user[0]}`);
      draft.delete(name);
    } else if (word === "COMMIT") {
      for (const [from, rules] of draft) {
        const missing = rules.map(targetOf).find((to) => to.startsWith("S") && !draft.has(to));
        if (missing !== undefined)
          throw new Error(`${from} leads to ${missing}, which is not there`);
      }
      kernel.set(table, draft);
    }
  }
}
const targetOf = (rule: string) => {
  const target = / -[jg] (\S+)/.exec(` ${rule}`)?.[1] ?? "";
  return /^S[HI]-/.test(target) ? target : "";
};
const kernelOf = (rules: IptablesRules): Kernel =>
  new Map(IPTABLES_TABLES.map((table) => [table, rules.chains[table]]));

/** What the kernel does with the matches of affinity; the hash is another one. */
function matchesClient(rule: string, client: number): boolean {
  const clusters = rule.matchAll(
    /--cluster-total-nodes (\d+) --cluster-local-nodemask (\S+) --cluster-hash-seed (\S+)/g,
  );
  for (const [, total, mask, seed] of clusters) {
    const place = Bun.hash.crc32(`${client} ${seed}`) % Number(total);
    if (((1 << place) & Number(mask)) === 0) return false;
  }
  const [, value, mask] = /-s (\S+)\/(\S+)/.exec(rule) ?? [];
  if (value === undefined || mask === undefined) return true;
  return (client & (parseIpv4(mask) ?? 0)) === parseIpv4(value);
}

describe("iptables rules", () => {
  test.each([
    ["nat", 1],
    ["nat", 3],
    ["ipvs", 1],
    ["nat", "1 in IPv6"],
    ["ipvs", "1 in IPv6"],
  ] as const)("of back-end %s on node %s are as in the golden file", (balancer, node) => {
    const plan = typeof node === "number" ? planOf(node) : plan6Of(1);
    const rules = renderIptables(plan, { balancer, hasZones: true, hasCluster: true });
    const hooks = rules.hooks.map(({ table, chain, rule }) => `${table} ${chain} ${rule}`);
    const text = `${iptablesChangeText(parseLeftovers("", ""), rules)}${hooks.join("\n")}\n`;
    const path = join(
      import.meta.dir,
      `node${node}.iptables-${balancer}.golden`.replace("1 in IPv6", "1-six"),
    );
    if (process.env["UPDATE_GOLDEN"] === "1" || !existsSync(path)) writeFileSync(path, text);
    expect(text).toBe(readFileSync(path, "utf8"));
  });

  test("names fit the kernel's 28 characters, whatever the addresses and ports", () => {
    for (const seed of SEEDS) {
      const rules = renderIptables(randomPlan(seed, 0), FEATURES);
      for (const table of IPTABLES_TABLES) {
        for (const name of rules.chains[table].keys()) expect(name.length).toBeLessThanOrEqual(28);
      }
    }
  });

  test.each(["nat", "ipvs"] as const)(
    "the change from any plan to any other gives what writing it anew gives (%s)",
    (balancer) => {
      const features = { balancer, hasZones: true, hasCluster: true };
      for (const seed of SEEDS) {
        const before = renderIptables(randomPlan(seed, 0), features);
        const after = renderIptables(randomPlan(seed, 1), features);
        const kernel: Kernel = new Map();
        restore(kernel, iptablesChangeText(parseLeftovers("", ""), before));
        expect(kernel).toEqual(kernelOf(before));
        restore(kernel, iptablesChangeText(before, after));
        expect(kernel).toEqual(kernelOf(after));
        expect(iptablesChangeText(after, after)).toBe("");
      }
    },
  );

  test("of a thousand IPv6 addresses names fit, no two chains have one name, and each address is found", () => {
    const base = plan6Of(1);
    const address = (place: number) =>
      `fd00:${101 + (place % 3)}::${(2 + Math.floor(place / 3)).toString(16)}`;
    const virtualIps = Array.from({ length: 1_000 }, (_, place) => ({
      serviceId: `s${place}`,
      bridge: "sh00000000",
      address: address(place),
      hasAffinity: place % 2 === 0,
      chain: `x${place}`,
      targets: ["fd00:101::ffff", "fd00:101::fffe"],
      unready: [],
    }));
    const rules = renderIptables({ ...base, virtualIps }, FEATURES);
    const { nat } = rules.chains;
    const found = new Set<string>();
    const walk = (chain: string, depth: number) => {
      expect(depth).toBeLessThan(12);
      const list = nat.get(chain) ?? [];
      expect(list.length).toBeLessThanOrEqual(16);
      for (const rule of list) {
        const target = targetOf(rule);
        if (target.startsWith("SH-V-")) found.add(`${/-d (\S+)/.exec(rule)?.[1]} ${target}`);
        else walk(target, depth + 1);
      }
    };
    walk("SH-VIPS", 0);
    expect(found.size).toBe(1_000);
    expect(new Set([...found].map((entry) => entry.split(" ")[1])).size).toBe(1_000);
    for (const name of nat.keys()) expect(name.length).toBeLessThanOrEqual(28);
  });

  test.each([
    ["two", 2, true],
    ["more than one match tells apart", 70, true],
    ["two, without the kernel's match", 2, false],
    ["seventy, without the kernel's match", 70, false],
  ] as const)(
    "affinity to %s gives each client one target, and each target clients",
    (_title, count, hasCluster) => {
      const targets = Array.from({ length: count }, (_, place) => `10.101.1.${place + 1}`);
      const plan = planOf(1);
      const [first] = plan.virtualIps;
      if (!first) throw new Error("no service");
      const rules = renderIptables(
        { ...plan, virtualIps: [{ ...first, targets, hasAffinity: true }] },
        { ...FEATURES, hasCluster },
      );
      const chain = [...rules.chains.nat].find(([name]) => name.startsWith("SH-V-"))?.[1] ?? [];
      const hits = new Map<string, number>();
      for (let client = 0; client < 4_096; client += 1) {
        const rule = chain.find((one) => matchesClient(one, client));
        const target = / --to-destination (\S+)/.exec(rule ?? "")?.[1] ?? "none";
        hits.set(target, (hits.get(target) ?? 0) + 1);
      }
      expect([...hits.keys()].sort()).toEqual([...targets].sort());
      // Nobody has twice as much as the fewest have, but for the seeds of a hash.
      expect(Math.max(...hits.values())).toBeLessThan(3 * Math.min(...hits.values()));
    },
  );

  test("chains of an earlier run are replaced, and what is not wanted goes", () => {
    const before = renderIptables(randomPlan(3, 0), FEATURES);
    const after = renderIptables(randomPlan(4, 0), FEATURES);
    const kernel: Kernel = new Map();
    restore(kernel, iptablesChangeText(parseLeftovers("", ""), before));
    const saved = [...kernel]
      .map(([table, chains]) =>
        [`*${table}`, ...[...chains.keys()].map((name) => `:${name} - [0:0]`), "COMMIT"].join("\n"),
      )
      .join("\n");
    restore(kernel, iptablesChangeText(parseLeftovers(saved, "SH-"), after));
    expect(kernel).toEqual(kernelOf(after));
  });

  test("where the same addresses have tasks, the spreading chains alone make the change", () => {
    let count = 0;
    for (const seed of SEEDS) {
      const before = randomPlan(seed, 0);
      // The same plan with other tasks behind what has tasks.
      const shift = <Item extends { targets: string[] }>(item: Item) => ({
        ...item,
        targets: item.targets.slice(0, 1 + (seed % 2)),
      });
      const after = {
        ...before,
        virtualIps: before.virtualIps.map(shift),
        ports: before.ports.map(shift),
      };
      const parts = changedParts(before, after);
      expect(membershipOf(parts.before)).toEqual(membershipOf(parts.after));
      const short = iptablesChangeText(
        leafChains(renderIptables(parts.before, FEATURES), "SH-"),
        leafChains(renderIptables(parts.after, FEATURES), "SH-"),
      );
      const whole = iptablesChangeText(
        renderIptables(before, FEATURES),
        renderIptables(after, FEATURES),
      );
      expect(short).toBe(whole);
      if (short !== "") count += 1;
    }
    expect(count).toBeGreaterThan(20);
  });

  test("a change of one task names the chains of its service only", () => {
    const plan = planOf(1);
    const virtualIps = plan.virtualIps.map((vip) =>
      vip.address === "10.101.0.2" ? { ...vip, targets: vip.targets.slice(1) } : vip,
    );
    const text = iptablesChangeText(
      renderIptables(plan, FEATURES),
      renderIptables({ ...plan, virtualIps }, FEATURES),
    );
    expect(text.match(/^:.*$/gm)).toEqual([":SH-V-a650002 - [0:0]"]);
  });
});

describe("jumps to our chains", () => {
  const hook = { table: "nat", chain: "PREROUTING", rule: "-j SH-PRE" } as const;
  const user = { table: "filter", chain: "DOCKER-USER", rule: "-j SH-REFUSE" } as const;
  const saved = (table: string, chain: string, ...rules: string[]) =>
    [
      `*${table}`,
      `:${chain} - [0:0]`,
      ...rules.map((rule) => `-A ${chain} ${rule}`),
      "COMMIT",
    ].join("\n");
  const text = (...lines: string[]) => ["*nat", ...lines, "COMMIT", ""].join("\n");

  test("one that is first is left alone", () => {
    expect(hookChangeText([hook], saved("nat", "PREROUTING", "-j SH-PRE", "-j DOCKER"))).toBe("");
  });

  test("a missing one is made, a later or doubled one is moved, new before old", () => {
    const change = (...rules: string[]) =>
      hookChangeText([hook], saved("nat", "PREROUTING", ...rules));
    const insert = "-I PREROUTING 1 -j SH-PRE";
    expect(change("-j DOCKER")).toBe(text(insert));
    expect(change("-j DOCKER", "-j SH-PRE")).toBe(text(insert, "-D PREROUTING 3"));
    expect(change("-j SH-PRE", "-j DOCKER", "-j SH-PRE")).toBe(
      text(insert, "-D PREROUTING 4", "-D PREROUTING 2"),
    );
    expect(countHooks(change("-j DOCKER"))).toBe(1);
  });

  test("the engine's chain is made where it is missing, and never emptied", () => {
    expect(hookChangeText([user], saved("filter", "FORWARD"))).toContain(":DOCKER-USER - [0:0]");
    const found = hookChangeText([user], saved("filter", "DOCKER-USER", "-j RETURN"));
    expect(found).not.toContain(":DOCKER-USER");
    expect(found).toContain("-I DOCKER-USER 1 -j SH-REFUSE");
  });

  test("all of ours are found for removal, nobody else's", () => {
    const all = ["-j SH-PRE", "-j SI-PRE", "-j DOCKER"];
    expect(hookRemovalText(saved("nat", "PREROUTING", ...all), "SH-")).toBe(
      text("-D PREROUTING -j SH-PRE"),
    );
    expect(hookRemovalText(saved("nat", "SH-PRE", "-j SH-VIPS"), "SH-")).toBe("");
  });
});
