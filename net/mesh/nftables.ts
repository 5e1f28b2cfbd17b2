/**
 * The nftables back-end: one table, changed in one transaction at a time.
 *
 * Invariants: the kernel's table is always a complete one (replaced or changed atomically, never
 * deleted and made again in two steps); `applied` is what the last successful transaction left, and
 * undefined when that is not known, in which case the next apply replaces the whole table.
 *
 * Drift: the kernel counts every change of its tables; while that number is the one after our own
 * last change, nothing is read. When others have changed something, it is first asked whether the
 * table is there (gone after `nft flush ruleset`), then a digest of the listed table is compared with
 * the one taken after the last apply, so that any foreign change is seen; listing costs time in
 * proportion to the table, so it is done so seldom that it takes at most 1 % of the time.
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import { complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import { NFT_TABLE } from "./names.ts";
import type { FilterPlan } from "./plan.ts";
import { nftDeleteText, nftPlanChangeText, nftTableText, renderNftTable } from "./render.ts";

/** A change of more commands or elements is told as the whole table. */
const CHANGE_COMMANDS_MAX = 2_000;
/** The full check takes at most one part in this many of the time. */
const FULL_CHECK_SHARE = 100;

/**
 * The back-end over `run`, which executes the nft tool; nothing is run until it is asked to.
 * `readGeneration`: a number that the kernel counts up with every change of any table by anybody;
 * undefined where it cannot be read.
 */
export function nftablesBackend(
  run: RunCommand,
  readGeneration: () => number | undefined = () => undefined,
): MeshBackend {
  let applied: FilterPlan | undefined;
  let digest: string | undefined;
  let fullCheckDueMs = 0;
  let seenGeneration: number | undefined;

  const transact = async (text: string) => {
    const result = await run(["nft", "-f", "-"], text);
    if (result.code !== 0) {
      applied = undefined;
      throw new ClusterError("unavailable", `Cannot program nftables: ${complaint(result)}`);
    }
  };
  const replace = async (plan: FilterPlan) => {
    digest = undefined;
    await transact(nftTableText(renderNftTable(plan)));
    noteApplied(plan);
  };
  const noteApplied = (plan: FilterPlan) => {
    applied = plan;
    seenGeneration = readGeneration();
  };
  // Looked at without the kernel making anything, and without the tool reading the table as a listing
  // of any part of it would: a table can only be created where there is none.
  const isPresent = async () => {
    const result = await run(["nft", "-c", "-f", "-"], `create table inet ${NFT_TABLE}\n`);
    return result.code !== 0 && /File exists/.test(result.stderr);
  };
  /** Undefined when the table cannot be listed: it is not there. */
  const listDigest = async () => {
    const startMs = performance.now();
    const result = await run(["nft", "-s", "list", "table", "inet", NFT_TABLE]);
    const costMs = performance.now() - startMs;
    fullCheckDueMs = performance.now() + costMs * FULL_CHECK_SHARE;
    if (result.code !== 0) return undefined;
    return createHash("sha256").update(result.stdout).digest("hex");
  };

  return {
    name: "nftables",
    hasLocalVirtualIps: false,
    sysctls: [],
    inputRules: [],
    probe: async (sample) => {
      const version = await run(["nft", "--version"]);
      if (version.code === 127) {
        throw new ClusterError(
          "unavailable",
          'Cannot use the nftables back-end: command "nft" not found; install package nftables',
        );
      }
      const [, major = "0", minor = "0", patch = "0"] =
        /v(\d+)\.(\d+)(?:\.(\d+))?/.exec(version.stdout) ?? [];
      const number = Number(major) * 1_000_000 + Number(minor) * 1_000 + Number(patch);
      // Sets that join keys and have intervals came with 0.9.3 (and kernel 5.6).
      if (number < 9_003) {
        throw new ClusterError(
          "unavailable",
          `Cannot use the nftables back-end: nft ${major}.${minor}.${patch} is older than 0.9.3; upgrade package nftables`,
        );
      }
      // Checked by the kernel and thrown away: the very table that will be needed.
      const text = nftTableText(renderNftTable(sample));
      const check = await run(["nft", "-c", "-f", "-"], text);
      if (check.code !== 0) {
        throw new ClusterError(
          "unavailable",
          `Cannot use the nftables back-end: the kernel refuses its rules (needs nf_tables with nat, fib, numgen and conntrack zones, Linux 5.6 or later): ${complaint(check)}`,
        );
      }
    },
    apply: async (plan: FilterPlan) => {
      if (!applied) return replace(plan);
      const change = nftPlanChangeText(applied, plan, CHANGE_COMMANDS_MAX);
      if (change === "") return undefined;
      if (change === undefined) return replace(plan);
      digest = undefined;
      try {
        await transact(change);
        noteApplied(plan);
      } catch {
        // The kernel's table was not what we thought: say it all.
        await replace(plan);
      }
      return undefined;
    },
    mend: async () => {
      const plan = applied;
      if (!plan) return {};
      const generation = readGeneration();
      const isUntouched = generation !== undefined && generation === seenGeneration;
      // Nobody has changed any table since we looked: that needs no listing, whatever the size.
      if (isUntouched && digest !== undefined) return {};
      const isThere = await isPresent();
      if (isThere && performance.now() < fullCheckDueMs) return {};
      const found = isThere ? await listDigest() : undefined;
      if (found !== undefined && (digest === undefined || digest === found)) {
        digest = found;
        seenGeneration = generation;
        return {};
      }
      await replace(plan);
      return { "nft-table": 1 };
    },
    isPresent,
    wipe: async () => {
      await transact(nftDeleteText());
      applied = undefined;
      digest = undefined;
    },
  };
}
