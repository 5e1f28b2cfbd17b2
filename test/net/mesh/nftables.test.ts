import { describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import type { CommandResult, RunCommand } from "../../../net/mesh/backend.ts";
import { NO_NFT_CHANGE, nftChangesText, nftPlanChange } from "../../../net/mesh/nft-change.ts";
import type { NftElementChange } from "../../../net/mesh/nft-elements.ts";
import { nftablesBackend } from "../../../net/mesh/nftables.ts";
import { type FilterPlan, planMesh } from "../../../net/mesh/plan.ts";
import { renderNftTable } from "../../../net/mesh/render.ts";
import { labEndpoint, labTable } from "./lab-state.ts";
import { randomPlan } from "./random-plan.ts";

const OK: CommandResult = { code: 0, stdout: "", stderr: "" };

function filterOf(prepare?: (table: ReturnType<typeof labTable>) => void): FilterPlan {
  const table = labTable(1);
  prepare?.(table);
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan) throw new Error("no plan");
  return plan.filter;
}
const drained = () =>
  filterOf((table) => {
    const web2 = { name: "web2", service: "web", node: 2, legs: { netA: "10.101.0.22" } };
    table.endpoints.set("endpoint/task-web2", labEndpoint(web2, false));
  });

/** An nft that remembers transactions; `listed` is what it prints as the table. */
function fakeNft() {
  const state = {
    transactions: [] as string[],
    /** Changes by netlink, in the tool's words; an error is what netlink throws. */
    batches: [] as string[],
    netlinkAnswer: false as boolean | Error,
    failures: 0,
    /** Text that the kernel does not take. */
    refused: undefined as string | undefined,
    /** The table that agents before this one made for both families. */
    hasOld: false,
    hasIpv6: false,
    listed: "a",
    isGone: false,
    generation: 1,
    reads: 0,
  };
  const run: RunCommand = async (argv, stdin) => {
    const line = argv.join(" ");
    if (line === "nft -f -") {
      if (state.failures > 0) {
        state.failures -= 1;
        return { ...OK, code: 1, stderr: "Error: busy" };
      }
      if (state.refused !== undefined && stdin?.includes(state.refused)) {
        return { ...OK, code: 1, stderr: "Error: no such family" };
      }
      state.transactions.push(stdin ?? "");
      state.generation += 1;
      state.isGone = false;
      return OK;
    }
    state.reads += 1;
    if (line === "nft -c -f -") {
      const isOld = stdin === "create table inet shoal\n" && state.hasOld;
      const isSix = stdin === "create table ip6 shoal\n" && state.hasIpv6;
      return (state.isGone || stdin !== "create table ip shoal\n") && !isOld && !isSix
        ? OK
        : { ...OK, code: 1, stderr: "Error: Could not process rule: File exists" };
    }
    if (state.isGone) return { ...OK, code: 1 };
    // A listing that costs time is not done again soon.
    await Bun.sleep(5);
    return { ...OK, stdout: line.includes("list table") ? state.listed : "" };
  };
  const netlink = {
    change: (elements: readonly NftElementChange[]) => {
      if (state.netlinkAnswer !== true) {
        if (state.netlinkAnswer !== false) throw state.netlinkAnswer;
        return false;
      }
      state.batches.push(nftChangesText([{ ...NO_NFT_CHANGE, elements }]));
      state.generation += 1;
      return true;
    },
    readGeneration: () => state.generation,
  };
  return { state, backend: nftablesBackend(run, netlink) };
}
const isWhole = (text: string | undefined) => text?.startsWith("table ip shoal\ndelete table");

describe("nftables back-end", () => {
  test("the first apply replaces the table, later ones change it, none does nothing", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    await backend.apply(drained());
    await backend.apply(drained());
    expect(state.transactions).toHaveLength(2);
    expect(isWhole(state.transactions[0])).toBeTrue();
    expect(state.transactions[1]).toStartWith("delete element ip shoal slots ");
  });

  test("a change that the kernel refuses becomes a replacement", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    state.failures = 1;
    await backend.apply(drained());
    expect(state.transactions).toHaveLength(2);
    expect(isWhole(state.transactions[1])).toBeTrue();
  });

  test("a change of elements goes by netlink, both families at once", async () => {
    const { state, backend } = fakeNft();
    state.netlinkAnswer = true;
    state.hasIpv6 = true;
    await backend.apply(filterOf(), { ...filterOf(), family: "ipv6" });
    await backend.mend();
    await backend.apply(drained(), { ...drained(), family: "ipv6" });
    expect(state.transactions).toHaveLength(1);
    expect(state.batches).toHaveLength(1);
    expect(state.batches[0]).toContain("delete element ip shoal slots ");
    expect(state.batches[0]).toContain("delete element ip6 shoal slots ");
    // Our own: no drift, and the next change begins from it.
    expect(await backend.mend()).toEqual({});
    await backend.apply(drained(), { ...drained(), family: "ipv6" });
    expect(state.batches).toHaveLength(1);
    expect(backend.notes()).toEqual([]);
  });

  test("what is more than elements goes by the tool", async () => {
    const { state, backend } = fakeNft();
    state.netlinkAnswer = true;
    await backend.apply(filterOf());
    await backend.apply({ ...filterOf(), balance: "increment" });
    expect(state.batches).toEqual([]);
    expect(state.transactions[1]).toStartWith("flush chain ip shoal ");
  });

  test("what netlink refuses goes by the tool, and is told if that can do it", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    state.netlinkAnswer = new ClusterError("unavailable", "error 22");
    await backend.apply(drained());
    expect(state.transactions[1]).toStartWith("delete element ip shoal slots ");
    expect(backend.notes()).toEqual(["nftables: each change takes a process: error 22"]);
    state.netlinkAnswer = true;
    await backend.apply(filterOf());
    expect(backend.notes()).toEqual([]);
    // The tool cannot either: the table is not what it was, and netlink is not to blame.
    state.netlinkAnswer = new ClusterError("unavailable", "error 2");
    state.failures = 1;
    await backend.apply(drained());
    expect(isWhole(state.transactions.at(-1))).toBeTrue();
    expect(backend.notes()).toEqual([]);
  });

  test("a failure is told, and the next apply says everything again", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    state.failures = 2;
    expect(await backend.apply(drained()).catch(String)).toContain(
      "Cannot program nftables: Error: busy",
    );
    await backend.apply(drained());
    expect(isWhole(state.transactions[1])).toBeTrue();
  });

  test("a table that is gone is replaced, an own change is not drift", async () => {
    const { state, backend } = fakeNft();
    expect(await backend.mend()).toEqual({});
    await backend.apply(filterOf());
    expect(await backend.mend()).toEqual({});
    await backend.apply(drained());
    state.listed = "b";
    expect(await backend.mend()).toEqual({});
    state.isGone = true;
    state.generation += 1;
    expect(await backend.mend()).toEqual({ "nft-table": 1 });
    expect(isWhole(state.transactions.at(-1))).toBeTrue();
    expect(await backend.mend()).toEqual({});
  });

  test("while the kernel's count of changes is ours, nothing is read", async () => {
    const { state, backend } = fakeNft();
    await backend.apply(filterOf());
    await backend.mend();
    state.reads = 0;
    for (let turn = 0; turn < 5; turn += 1) await backend.mend();
    expect(state.reads).toBe(0);
    state.generation += 1;
    await backend.mend();
    expect(state.reads).toBe(1);
  });

  test("the table of an agent before this one goes in the transaction that makes ours", async () => {
    const { state, backend } = fakeNft();
    state.hasOld = true;
    await backend.apply(filterOf());
    expect(state.transactions).toHaveLength(1);
    expect(state.transactions[0]).toStartWith("delete table inet shoal\ntable ip shoal\n");
    state.hasOld = false;
    await backend.apply(drained());
    expect(state.transactions[1]).not.toContain("inet");
  });

  test("IPv6 comes in the same transaction, and goes with its last network", async () => {
    const { state, backend } = fakeNft();
    const plan6 = { ...filterOf(), family: "ipv6" as const };
    await backend.apply(filterOf(), plan6);
    expect(state.transactions).toHaveLength(1);
    expect(state.transactions[0]).toContain("table ip6 shoal {");
    expect(isWhole(state.transactions[0])).toBeTrue();
    await backend.apply(drained(), { ...drained(), family: "ipv6" });
    expect(state.transactions).toHaveLength(2);
    expect(state.transactions[1]).toContain("delete element ip shoal slots ");
    expect(state.transactions[1]).toContain("delete element ip6 shoal slots ");
    await backend.apply(drained());
    expect(state.transactions[2]).toBe("table ip6 shoal\ndelete table ip6 shoal\n");
    state.reads = 0;
    await backend.apply(filterOf());
    expect(state.transactions[3]).not.toContain("ip6");
    expect(state.reads).toBe(0);
  });

  test("a kernel that refuses IPv6 has IPv4, in elements as before, and is asked again", async () => {
    const { state, backend } = fakeNft();
    const plan6 = { ...filterOf(), family: "ipv6" as const };
    await backend.apply(filterOf());
    state.refused = "table ip6";
    await backend.apply(drained(), plan6);
    expect(backend.problem()).toContain(
      "IPv6 does not work on this node, IPv4 does: Cannot program",
    );
    expect(state.transactions.at(-1)).toStartWith("delete element ip shoal slots ");
    await backend.apply(filterOf(), plan6);
    expect(state.transactions.at(-1)).toStartWith("delete element ip shoal slots ");
    const count = state.transactions.length;
    await backend.mend();
    expect(state.transactions).toHaveLength(count);
    state.refused = undefined;
    await backend.mend();
    expect(state.transactions.at(-1)).toContain("table ip6 shoal {");
    // What a refused change leaves goes as well.
    state.hasIpv6 = true;
    state.refused = "ip6";
    await backend.apply(drained(), { ...drained(), family: "ipv6" });
    state.refused = undefined;
    await backend.apply(drained());
    expect(state.transactions.at(-1)).toBe("table ip6 shoal\ndelete table ip6 shoal\n");
    await backend.apply(drained(), plan6);
    expect(state.transactions.at(-1)).toContain("table ip6 shoal {");
    expect(backend.problem()).toBeUndefined();
  });

  test("the change between any two plans, on the first one's table, gives the second one's", () => {
    for (let seed = 0; seed < 100; seed += 1) {
      const before = randomPlan(seed, 0);
      const after = randomPlan(seed, 1);
      const change = nftPlanChange(before, after, 1_000_000);
      const kernel = modelOf(before);
      const wanted = modelOf(after);
      // Networks or peers differ: the whole table is sent.
      if (change === undefined) continue;
      applyNft(kernel, nftChangesText([change]));
      expect(kernel).toEqual(wanted);
    }
  });
});

type Model = { sets: Map<string, Set<string>>; chains: Map<string, string[]> };

function modelOf(plan: FilterPlan): Model {
  const table = renderNftTable(plan);
  const lines = (set: (typeof table.sets)[number]) =>
    [...set.elements].map(([key, value]) => (value === undefined ? key : `${key} : ${value}`));
  return {
    sets: new Map(table.sets.map((set) => [set.name, new Set(lines(set).sort())])),
    chains: new Map([...table.chains].map(([name, rule]) => [name, rule.split("; ")])),
  };
}

/** What nft does with the text; throws where it would refuse. */
function applyNft(model: Model, text: string): void {
  for (const line of text.trim().split("\n")) {
    const chain = /^(add|flush|delete) chain ip shoal (\S+)$/.exec(line);
    const rule = /^add rule ip shoal (\S+) (.*)$/.exec(line);
    const element = /^(add|delete) element ip shoal (\S+) \{ (.*) \}$/.exec(line);
    if (chain?.[1] === "delete") {
      const verdict = `goto ${chain[2]}`;
      const isUsed = [...model.sets.values()].some((set) =>
        [...set].some((entry) => entry.endsWith(verdict)),
      );
      if (isUsed) throw new Error(`${chain[2]} is in use`);
      model.chains.delete(chain[2] ?? "");
    } else if (chain) model.chains.set(chain[2] ?? "", []);
    else if (rule) model.chains.get(rule[1] ?? "")?.push(rule[2] ?? "");
    else if (element) {
      const set = model.sets.get(element[2] ?? "");
      for (const entry of (element[3] ?? "").split(", ")) {
        if (element[1] === "add") set?.add(entry);
        else if (set?.delete(entry) !== true) throw new Error(`no ${entry} in ${element[2]}`);
      }
    } else throw new Error(line);
  }
  for (const [name, set] of model.sets) model.sets.set(name, new Set([...set].sort()));
}
