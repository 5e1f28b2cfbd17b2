/**
 * The nftables back-end: one table, changed in one transaction at a time.
 *
 * Invariants: the kernel's table is always a complete one (replaced or changed atomically, never
 * deleted and made again in two steps); `applied` is what the last successful transaction left, and
 * undefined when that is not known, in which case the next apply replaces the whole table.
 *
 * Drift: the cheap check asks for one small chain (the table is gone after `nft flush ruleset`). The
 * full check compares a digest of the listed table with the one taken after the last apply, so that
 * any foreign change is seen; listing costs time in proportion to the table, so it is done so seldom
 * that it takes at most 1 % of the time.
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import { complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import { NFT_TABLE } from "./names.ts";
import type { FilterPlan } from "./plan.ts";
import {
  nftChangeText,
  nftDeleteText,
  type NftTable,
  nftTableText,
  renderNftTable,
} from "./render.ts";

/** A change of more commands or elements is told as the whole table. */
const CHANGE_COMMANDS_MAX = 2_000;
/** The full check takes at most one part in this many of the time. */
const FULL_CHECK_SHARE = 100;

/** The back-end over `run`, which executes the nft tool; nothing is run until it is asked to. */
export function nftablesBackend(run: RunCommand): MeshBackend {
  let applied: NftTable | undefined;
  let digest: string | undefined;
  let fullCheckDueMs = 0;

  const transact = async (text: string) => {
    const result = await run(["nft", "-f", "-"], text);
    if (result.code !== 0) {
      applied = undefined;
      throw new ClusterError("unavailable", `Cannot program nftables: ${complaint(result)}`);
    }
  };
  const replace = async (table: NftTable) => {
    digest = undefined;
    await transact(nftTableText(table));
    applied = table;
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
      const table = renderNftTable(plan);
      if (!applied) return replace(table);
      const change = nftChangeText(applied, table, CHANGE_COMMANDS_MAX);
      if (change === "") return undefined;
      if (change === undefined) return replace(table);
      digest = undefined;
      try {
        await transact(change);
        applied = table;
      } catch {
        // The kernel's table was not what we thought: say it all.
        await replace(table);
      }
      return undefined;
    },
    mend: async () => {
      const table = applied;
      if (!table) return false;
      const probe = await run(["nft", "list", "chain", "inet", NFT_TABLE, "permit"]);
      if (probe.code === 0 && digest !== undefined && performance.now() < fullCheckDueMs) {
        return false;
      }
      const found = probe.code === 0 ? await listDigest() : undefined;
      if (found !== undefined && (digest === undefined || digest === found)) {
        digest = found;
        return false;
      }
      await replace(table);
      return true;
    },
    wipe: async () => {
      await transact(nftDeleteText());
      applied = undefined;
      digest = undefined;
    },
  };
}
