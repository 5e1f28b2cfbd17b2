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
 * IPv6 has chains of the same names by `ip6tables`, while it is planned (`family-pair.ts`).
 *
 * Each table is a transaction of its own, in the order raw, mangle, nat, filter; a jump is made once
 * its chain is whole.
 *
 * Drift: `iptables-save` shows everything; it is read as often as takes at most 1 % of the time. In
 * between, one small chain is looked at (gone after `iptables -t nat -F`).
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import {
  type CommandResult,
  complaint,
  type ConnectionCount,
  type MeshBackend,
  type RunCommand,
} from "./backend.ts";
import { countsOf } from "./connections.ts";
import { wordsOf } from "./family.ts";
import { familyPair, type OneFamily } from "./family-pair.ts";
import {
  chainPrefix,
  connectionCounts,
  countHooks,
  countingTrees,
  facesOfChains,
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
import { readChainCounts } from "./iptables-netlink.ts";
import { NETLINK_NETFILTER, type NetlinkSocket, openNetlink } from "./netlink.ts";
import type { Family, FilterPlan } from "./plan.ts";
import { changedParts, membershipOf } from "./plan-change.ts";

/** The full check takes at most one part in this many of the time. */
const FULL_CHECK_SHARE = 100;
/** The tool waits this long for others that hold its lock. */
const LOCK_WAIT_S = "10";
const PROBE_PREFIX = "SHPROBE-";

/** What a probe finds: of the kernel, and so of both families. */
export type KernelFeatures = Omit<IptablesFeatures, "balancer">;
/** Mark by which IPVS knows a service address; undefined: it is not balanced. */
export type MarkOf = (virtualIp: FilterPlan["virtualIps"][number]) => number | undefined;

type Programmed = { plan: FilterPlan; markOf: MarkOf | undefined };

/** Our chains and jumps in iptables: all of the iptables back-end, and what IPVS needs around it. */
export type IptablesFilter = {
  /** @throws {ClusterError} unavailable with the tool's words. */
  apply(plan: FilterPlan, markOf?: MarkOf): Promise<void>;
  /** The number of things mended: the chains count as one, each jump as one. */
  mend(): Promise<number>;
  /** True when our chains are there, whoever made them. */
  isPresent(): Promise<boolean>;
  wipe(): Promise<void>;
  /** New connections by chain, of the chains to which trees of the table nat lead. */
  readCounts(): Promise<ReadonlyMap<string, number>>;
  applied(): FilterPlan | undefined;
};

/** The filter of a family over `run`; `kernel` is asked for whenever chains are written. */
export function iptablesFilter(
  run: RunCommand,
  balancer: IptablesFeatures["balancer"],
  family: Family,
  kernel: () => KernelFeatures,
): IptablesFilter {
  const { tool } = wordsOf(family).iptables;
  const prefix = chainPrefix(balancer);
  const smallChain = `${prefix}POST`;
  /** In every plan's small chain, and in no emptied one. */
  const smallRule = `-j ${prefix}HAIRPIN`;
  let applied: Programmed | undefined;
  let digest: string | undefined;
  let fullCheckDueMs = 0;

  const must = async (argv: string[], stdin?: string) => {
    const result = await run(argv, stdin);
    if (result.code === 0) return result.stdout;
    applied = undefined;
    throw new ClusterError(
      "unavailable",
      `Cannot program ${tool} with "${argv.slice(0, 6).join(" ")}": ${complaint(result)}`,
    );
  };
  const restore = (text: string) => must([`${tool}-restore`, "-w", LOCK_WAIT_S, "--noflush"], text);
  const save = () => must([`${tool}-save`]);
  const render = (plan: FilterPlan, marks: MarkOf | undefined) =>
    renderIptables(plan, { balancer, ...kernel() }, marks);
  const digestOf = (output: string) =>
    createHash("sha256").update(ownIptablesLines(output, prefix).join("\n")).digest("hex");

  const replace = async (next: Programmed) => {
    const rules = render(next.plan, next.markOf);
    applied = undefined;
    digest = undefined;
    const output = await save();
    const hookText = hookChangeText(rules.hooks, output);
    await restore(iptablesChangeText(parseLeftovers(output, prefix), rules) + hookText);
    applied = next;
    return countHooks(hookText);
  };
  const changeText = (before: Programmed, after: Programmed) => {
    const parts = changedParts(before.plan, after.plan);
    const isMembershipSame = Bun.deepEquals(membershipOf(parts.before), membershipOf(parts.after));
    // The same addresses and ports have targets: the trees that lead to them are as they were.
    return isMembershipSame
      ? iptablesChangeText(
          leafChains(render(parts.before, before.markOf), prefix),
          leafChains(render(parts.after, after.markOf), prefix),
        )
      : iptablesChangeText(render(before.plan, before.markOf), render(after.plan, after.markOf));
  };

  return {
    apply: async (plan, markOf) => {
      const next = { plan, markOf };
      if (!applied) {
        await replace(next);
        return;
      }
      const change = changeText(applied, next);
      if (change === "") {
        applied = next;
        return;
      }
      digest = undefined;
      try {
        await restore(change);
        applied = next;
      } catch {
        // The kernel's chains were not what we thought: say it all.
        await replace(next);
      }
    },
    mend: async () => {
      const known = applied;
      if (!known) return 0;
      const small = await run([tool, "-w", LOCK_WAIT_S, "-t", "nat", "-S", smallChain]);
      const isThere = small.code === 0 && small.stdout.includes(smallRule);
      if (isThere && digest !== undefined && performance.now() < fullCheckDueMs) return 0;
      const startMs = performance.now();
      const output = await save();
      const costMs = performance.now() - startMs;
      fullCheckDueMs = performance.now() + costMs * FULL_CHECK_SHARE;
      const found = digestOf(output);
      if (!isThere || (digest !== undefined && digest !== found)) {
        return 1 + (await replace(known));
      }
      digest = found;
      const hookText = hookChangeText(iptablesHooks(balancer, family), output);
      if (hookText !== "") await restore(hookText);
      return countHooks(hookText);
    },
    isPresent: async () => {
      const found = await run([tool, "-w", LOCK_WAIT_S, "-t", "nat", "-S", smallChain]);
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
    readCounts: async () => {
      const result = await run([`${tool}-save`, "-c", "-t", "nat"]);
      if (result.code !== 0) {
        throw new ClusterError(
          "unavailable",
          `Cannot read ${tool}'s counters: ${complaint(result)}`,
        );
      }
      return connectionCounts(result.stdout, prefix);
    },
    applied: () => applied?.plan,
  };
}

/**
 * What of our rules the kernel takes, by the sample's chains under other names, for real: what is only
 * parsed tells nothing of the kernel. `name` is for messages.
 * @throws {ClusterError} unavailable, naming what the kernel or host lacks.
 */
export async function probeIptables(
  run: RunCommand,
  balancer: IptablesFeatures["balancer"],
  name: string,
  sample: FilterPlan,
): Promise<KernelFeatures> {
  const prefix = chainPrefix(balancer);
  const restore = (text: string) => run(["iptables-restore", "-w", LOCK_WAIT_S, "--noflush"], text);
  const tryRules = async (candidate: KernelFeatures) => {
    const rules = renderIptables(sample, { balancer, ...candidate });
    const text = iptablesChangeText(parseLeftovers("", prefix), rules);
    const made = await restore(text.replaceAll(prefix, PROBE_PREFIX));
    const lines: string[] = [];
    for (const [table, chains] of Object.entries(rules.chains)) {
      const names = [...chains.keys()].map((chain) => chain.replace(prefix, PROBE_PREFIX));
      // Made first where the try did not come so far, so that the removal cannot fail.
      lines.push(`*${table}`, ...names.map((chain) => `:${chain} - [0:0]`));
      lines.push(...names.map((chain) => `-X ${chain}`), "COMMIT");
    }
    await restore(`${lines.join("\n")}\n`);
    return made;
  };
  let first: CommandResult | undefined;
  for (const [hasZones, hasCluster] of CANDIDATES) {
    const candidate = { hasZones, hasCluster };
    const made = await tryRules(candidate);
    if (made.code === 0) return candidate;
    if (made.code === 127) {
      throw new ClusterError(
        "unavailable",
        `Cannot use the ${name} back-end: command "iptables-restore" not found; install package iptables`,
      );
    }
    first = made;
  }
  throw new ClusterError(
    "unavailable",
    `Cannot use the ${name} back-end: the kernel refuses its rules (needs the iptables tables raw, mangle, nat and filter with addrtype, connmark, conntrack, CT, mac, mark, statistic, MASQUERADE, REJECT and TCPMSS): ${first ? complaint(first) : ""}`,
  );
}

/** What the kernel lacks changes how some things are done, in sentences for the status. */
export function kernelNotes({ hasCluster }: KernelFeatures): string[] {
  return hasCluster
    ? []
    : [
        "iptables: the kernel has no match by a client's hash (module xt_cluster): affinity goes by the last bits of its address, so that clients whose addresses end alike share a task",
      ];
}

/** Conntrack zones and the match by hash, what is best first. */
const CANDIDATES = [
  [true, true],
  [true, false],
  [false, true],
  [false, false],
] as const;

function emptyChains(): IptablesRules["chains"] {
  return { raw: new Map(), mangle: new Map(), nat: new Map(), filter: new Map() };
}

/** The back-end over `run`, which executes iptables; nothing is run until it is asked to. */
export function iptablesBackend(run: RunCommand, namespacePath?: string): MeshBackend {
  /** Which variant this is shows when chains are asked for; undefined: not yet, or not this one. */
  let socket: NetlinkSocket | undefined;
  const readCounts = async (filter: IptablesFilter, family: Family) => {
    socket ??= openNetlink(NETLINK_NETFILTER, namespacePath);
    const { roots, isLeaf } = countingTrees(chainPrefix("nat"));
    return (await readChainCounts(socket, family, roots, isLeaf)) ?? filter.readCounts();
  };
  let kernel: KernelFeatures = { hasZones: true, hasCluster: true };
  const ipv4 = iptablesFilter(run, "nat", "ipv4", () => kernel);
  const ipv6 = iptablesFilter(run, "nat", "ipv6", () => kernel);
  const oneFamily = (filter: IptablesFilter): OneFamily => ({
    apply: (plan) => filter.apply(plan),
    mend: async () => ({ "iptables-chains": await filter.mend() }),
    isPresent: filter.isPresent,
    wipe: filter.wipe,
  });
  return {
    name: "iptables",
    hasLocalVirtualIps: false,
    sysctls: [],
    inputRules: [],
    notes: () => kernelNotes(kernel),
    probe: async (sample) => {
      kernel = await probeIptables(run, "nat", "iptables", sample);
    },
    ...familyPair(oneFamily(ipv4), oneFamily(ipv6)),
    readConnections: async () => {
      const counts: ConnectionCount[] = [];
      for (const filter of [ipv4, ipv6]) {
        const plan = filter.applied();
        if (!plan) continue;
        counts.push(...countsOf(plan, facesOfChains(plan, await readCounts(filter, plan.family))));
      }
      return counts;
    },
  };
}
