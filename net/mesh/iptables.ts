/**
 * The iptables back-end, for kernels without nf_tables, in either variant of the tool (whichever
 * `iptables` is, so that it is the engine's).
 *
 * Invariants: only chains named `SH-…` (`SI-…` around IPVS) and the jumps to them are touched; a change names only the
 * chains that differ, so nothing is listed for it (the legacy variant still sends the whole table to
 * the kernel, which is how that kernel interface works); `applied` is what the last success left, and
 * undefined when that is not known: then our chains are listed once, written anew and the rest of
 * them removed, without a moment in which a chain is missing.
 *
 * Each table is a transaction of its own, in the order raw, mangle, nat, filter; a jump is made once
 * its chain is whole.
 *
 * Drift: `iptables-save` shows everything; it is read as often as takes at most 1 % of the time. In
 * between, one small chain is looked at (gone after `iptables -t nat -F`).
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import { complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import {
  chainPrefix,
  countHooks,
  hookChangeText,
  hookRemovalText,
  type IptablesFeatures,
  type IptablesRules,
  iptablesChangeText,
  iptablesHooks,
  leafChains,
  ownIptablesLines,
  parseLeftovers,
  renderIptables,
} from "./iptables-rules.ts";
import type { FilterPlan } from "./plan.ts";
import { changedParts, membershipOf } from "./plan-change.ts";

/** The full check takes at most one part in this many of the time. */
const FULL_CHECK_SHARE = 100;
/** The tool waits this long for others that hold its lock. */
const LOCK_WAIT_S = "10";
const PROBE_PREFIX = "SHPROBE-";

/** Our chains and jumps in iptables: all of the iptables back-end, and what IPVS needs around it. */
export type IptablesFilter = {
  /** @throws {ClusterError} unavailable, naming what the kernel or host lacks. */
  probe(sample: FilterPlan): Promise<void>;
  /** @throws {ClusterError} unavailable with the tool's words. */
  apply(plan: FilterPlan): Promise<void>;
  /** The number of things mended: the chains count as one, each jump as one. */
  mend(): Promise<number>;
  /** True when our chains are there, whoever made them. */
  isPresent(): Promise<boolean>;
  wipe(): Promise<void>;
};

/** The filter over `run`; `name` is for messages. */
export function iptablesFilter(
  run: RunCommand,
  balancer: IptablesFeatures["balancer"],
  name: string,
): IptablesFilter {
  const prefix = chainPrefix(balancer);
  const smallChain = `${prefix}POST`;
  let features: IptablesFeatures = { balancer, hasZones: true };
  let applied: FilterPlan | undefined;
  let digest: string | undefined;
  let fullCheckDueMs = 0;

  const must = async (argv: string[], stdin?: string) => {
    const result = await run(argv, stdin);
    if (result.code === 0) return result.stdout;
    applied = undefined;
    throw new ClusterError(
      "unavailable",
      `Cannot program iptables with "${argv.slice(0, 6).join(" ")}": ${complaint(result)}`,
    );
  };
  const restore = (text: string) =>
    must(["iptables-restore", "-w", LOCK_WAIT_S, "--noflush"], text);
  const save = () => must(["iptables-save"]);
  const digestOf = (output: string) =>
    createHash("sha256").update(ownIptablesLines(output, prefix).join("\n")).digest("hex");

  const replace = async (plan: FilterPlan) => {
    const rules = renderIptables(plan, features);
    applied = undefined;
    digest = undefined;
    const output = await save();
    const hookText = hookChangeText(rules.hooks, output);
    await restore(iptablesChangeText(parseLeftovers(output, prefix), rules) + hookText);
    applied = plan;
    return countHooks(hookText);
  };
  const changeText = (before: FilterPlan, after: FilterPlan) => {
    const parts = changedParts(before, after);
    const isMembershipSame = Bun.deepEquals(membershipOf(parts.before), membershipOf(parts.after));
    // The same addresses and ports have targets: the trees that lead to them are as they were.
    return isMembershipSame
      ? iptablesChangeText(
          leafChains(renderIptables(parts.before, features), prefix),
          leafChains(renderIptables(parts.after, features), prefix),
        )
      : iptablesChangeText(renderIptables(before, features), renderIptables(after, features));
  };

  /** The sample's chains under other names, for real: what is only parsed tells nothing of the kernel. */
  const tryRules = async (sample: FilterPlan, candidate: IptablesFeatures) => {
    const rules = renderIptables(sample, candidate);
    const text = iptablesChangeText(parseLeftovers("", prefix), rules);
    const made = await run(
      ["iptables-restore", "-w", LOCK_WAIT_S, "--noflush"],
      text.replaceAll(prefix, PROBE_PREFIX),
    );
    const lines: string[] = [];
    for (const [table, chains] of Object.entries(rules.chains)) {
      const names = [...chains.keys()].map((chain) => chain.replace(prefix, PROBE_PREFIX));
      // Made first where the try did not come so far, so that the removal cannot fail.
      lines.push(`*${table}`, ...names.map((chain) => `:${chain} - [0:0]`));
      lines.push(...names.map((chain) => `-X ${chain}`), "COMMIT");
    }
    await run(["iptables-restore", "-w", LOCK_WAIT_S, "--noflush"], `${lines.join("\n")}\n`);
    return made;
  };

  return {
    probe: async (sample) => {
      for (const hasZones of [true, false]) {
        const candidate = { balancer, hasZones };
        const made = await tryRules(sample, candidate);
        if (made.code === 0) {
          features = candidate;
          return;
        }
        if (made.code === 127) {
          throw new ClusterError(
            "unavailable",
            `Cannot use the ${name} back-end: command "iptables-restore" not found; install package iptables`,
          );
        }
        if (!hasZones) {
          throw new ClusterError(
            "unavailable",
            `Cannot use the ${name} back-end: the kernel refuses its rules (needs the iptables tables raw, mangle, nat and filter with addrtype, connmark, conntrack, CT, mac, mark, statistic, MASQUERADE, REJECT and TCPMSS): ${complaint(made)}`,
          );
        }
      }
    },
    apply: async (plan) => {
      if (!applied) {
        await replace(plan);
        return;
      }
      const change = changeText(applied, plan);
      if (change === "") {
        applied = plan;
        return;
      }
      digest = undefined;
      try {
        await restore(change);
        applied = plan;
      } catch {
        // The kernel's chains were not what we thought: say it all.
        await replace(plan);
      }
    },
    mend: async () => {
      const plan = applied;
      if (!plan) return 0;
      const small = await run(["iptables", "-w", LOCK_WAIT_S, "-t", "nat", "-S", smallChain]);
      const isThere = small.code === 0 && small.stdout.includes("MASQUERADE");
      if (isThere && digest !== undefined && performance.now() < fullCheckDueMs) return 0;
      const startMs = performance.now();
      const output = await save();
      const costMs = performance.now() - startMs;
      fullCheckDueMs = performance.now() + costMs * FULL_CHECK_SHARE;
      const found = digestOf(output);
      if (!isThere || (digest !== undefined && digest !== found)) {
        return 1 + (await replace(plan));
      }
      digest = found;
      const hookText = hookChangeText(iptablesHooks(balancer), output);
      if (hookText !== "") await restore(hookText);
      return countHooks(hookText);
    },
    isPresent: async () => {
      const found = await run(["iptables", "-w", LOCK_WAIT_S, "-t", "nat", "-S", smallChain]);
      return found.code === 0;
    },
    wipe: async () => {
      const output = await save();
      const nothing = { chains: emptyChains(), hooks: [] };
      const text =
        hookRemovalText(output, prefix) +
        iptablesChangeText(parseLeftovers(output, prefix), nothing);
      if (text !== "") await restore(text);
      applied = undefined;
      digest = undefined;
    },
  };
}

function emptyChains(): IptablesRules["chains"] {
  return { raw: new Map(), mangle: new Map(), nat: new Map(), filter: new Map() };
}

/** The back-end over `run`, which executes iptables; nothing is run until it is asked to. */
export function iptablesBackend(run: RunCommand): MeshBackend {
  const filter = iptablesFilter(run, "nat", "iptables");
  return {
    name: "iptables",
    hasLocalVirtualIps: false,
    sysctls: [],
    inputRules: [],
    probe: filter.probe,
    apply: filter.apply,
    mend: async () => ({ "iptables-chains": await filter.mend() }),
    isPresent: filter.isPresent,
    wipe: filter.wipe,
  };
}
