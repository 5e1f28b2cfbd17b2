/**
 * The nftables back-end: one table a family, changed in one transaction at a time. A change that is
 * elements only goes to the kernel by netlink, any other by the tool; so does one that netlink refuses.
 *
 * Invariants: the kernel's table is always a complete one (replaced or changed atomically, never
 * deleted and made again in two steps); `applied` of a family is what the last successful transaction
 * left, and undefined when that is not known, in which case the next apply replaces the whole table.
 * The table of IPv6 is there while there is a plan for it; without one no command names it, but for
 * one look at the start for what an earlier run left. Both change in one transaction; where the
 * kernel refuses that, each on its own, so that a refused IPv6 does not hold up IPv4.
 *
 * Drift: the kernel counts every change of its tables; while that number is the one after our own
 * last change, nothing is read. When others have changed something, it is first asked whether the
 * table is there (gone after `nft flush ruleset`), then a digest of the listed table is compared with
 * the one taken after the last apply, so that any foreign change is seen; listing costs time in
 * proportion to the table, so it is done so seldom that it takes at most 1 % of the time.
 */
import { createHash } from "node:crypto";
import { ClusterError } from "../../core/errors.ts";
import { complaint, type ConnectionCount, type MeshBackend, type RunCommand } from "./backend.ts";
import { countsOf } from "./connections.ts";
import { NFT_TABLE } from "./names.ts";
import {
  isNftChangeEmpty,
  NO_NFT_CHANGE,
  type NftChange,
  nftChangesText,
  nftPlanChange,
  textNftChange,
} from "./nft-change.ts";
import type { Nft } from "./nft-netlink.ts";
import type { Family, FilterPlan } from "./plan.ts";
import {
  ADDRESS_COUNTERS,
  type NftFeatures,
  nftDeleteText,
  nftTableName,
  nftTableText,
  PORT_COUNTERS,
  renderNftTable,
} from "./render.ts";

/** A change of more commands or elements is told as the whole table. */
const CHANGE_COMMANDS_MAX = 2_000;
/** The full check takes at most one part in this many of the time. */
const FULL_CHECK_SHARE = 100;
/** What agents before the tables of IPv6 made, for both families. */
const OLD_TABLE = `inet ${NFT_TABLE}`;

type Table = {
  family: Family;
  /** The last plan that was asked for; none: the table is not to be. */
  wanted?: FilterPlan;
  applied?: FilterPlan;
  /** It may be in the kernel without being wanted. */
  mayBeLeft: boolean;
  digest?: string;
};

/**
 * The back-end over `run`, which executes the nft tool, and `netlink`, which does what it can without
 * a process; nothing is run until it is asked to.
 */
export function nftablesBackend(run: RunCommand, netlink: Nft): MeshBackend {
  const ipv4: Table = { family: "ipv4", mayBeLeft: true };
  const ipv6: Table = { family: "ipv6", mayBeLeft: true };
  let features: NftFeatures = { hasCounters: true };
  let mayOldBeLeft = true;
  let problem: string | undefined;
  /** Why the last change of elements, which the tool could make, could not be made by netlink. */
  let netlinkProblem: string | undefined;
  let fullCheckDueMs = 0;
  let seenGeneration: number | undefined;

  /** What netlink is to be told, if these changes are nothing else. */
  const elementsOf = (changes: readonly NftChange[]) =>
    changes.every(({ before, after }) => before.length + after.length === 0)
      ? changes.flatMap(({ elements }) => elements)
      : undefined;
  /** @throws {ClusterError} unavailable; whether it was made is not known then. */
  const execute = async (changes: readonly NftChange[]) => {
    const elements = elementsOf(changes);
    let refusal: string | undefined;
    if (elements) {
      try {
        if (netlink.change(elements)) {
          netlinkProblem = undefined;
          return;
        }
      } catch (error) {
        if (!(error instanceof ClusterError)) throw error;
        refusal = error.message;
      }
    }
    const result = await run(["nft", "-f", "-"], nftChangesText(changes));
    if (result.code !== 0) {
      throw new ClusterError("unavailable", `Cannot program nftables: ${complaint(result)}`);
    }
    if (elements) netlinkProblem = refusal;
  };
  /** A transaction that changes some tables; of a failed one nothing is known. */
  const transact = async (changes: readonly NftChange[], tables: Table[]) => {
    let isDone = false;
    try {
      await execute(changes);
      isDone = true;
    } finally {
      for (const table of tables) {
        delete table.digest;
        if (!isDone || !table.wanted) delete table.applied;
        else table.applied = table.wanted;
        table.mayBeLeft = !isDone;
      }
      seenGeneration = netlink.readGeneration();
    }
  };
  // Looked at without the kernel making anything, and without the tool reading the table as a listing
  // of any part of it would: a table can only be created where there is none.
  const isThere = async (name: string) => {
    const result = await run(["nft", "-c", "-f", "-"], `create table ${name}\n`);
    return result.code !== 0 && /File exists/.test(result.stderr);
  };
  const oldChange = async () =>
    (await isThere(OLD_TABLE)) ? textNftChange(`delete table ${OLD_TABLE}`) : NO_NFT_CHANGE;
  const wholeChange = (table: Table) =>
    textNftChange(
      table.wanted
        ? nftTableText(renderNftTable(table.wanted, features))
        : nftDeleteText(table.family),
    );
  /** What makes the kernel as wanted; empty when it is. */
  const changeOf = async (table: Table) => {
    const { applied, wanted } = table;
    if (!wanted) {
      if (applied) return wholeChange(table);
      if (table.mayBeLeft) {
        if (await isThere(nftTableName(table.family))) return wholeChange(table);
        table.mayBeLeft = false;
      }
      return NO_NFT_CHANGE;
    }
    if (!applied) return wholeChange(table);
    return nftPlanChange(applied, wanted, CHANGE_COMMANDS_MAX, features) ?? wholeChange(table);
  };
  const applyOne = async (table: Table, changes: NftChange[]) => {
    if (changes.every(isNftChangeEmpty)) {
      noteSame(table);
      return;
    }
    try {
      await transact(changes, [table]);
    } catch {
      // The kernel's table was not what we thought: say it all.
      await transact([wholeChange(table)], [table]);
    }
  };
  const noteSame = (table: Table) => {
    if (table.applied && table.wanted) table.applied = table.wanted;
  };
  const applyIpv6 = async (change: NftChange) => {
    try {
      await applyOne(ipv6, [change]);
      problem = undefined;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      problem = `IPv6 does not work on this node, IPv4 does: ${error.message}`;
    }
  };
  const listDigest = async (table: Table) => {
    const result = await run([
      "nft",
      "-s",
      "list",
      "table",
      ...nftTableName(table.family).split(" "),
    ]);
    if (result.code !== 0) return undefined;
    return createHash("sha256").update(result.stdout).digest("hex");
  };
  /** The elements of one of the sets that count. */
  const readCounters = async (table: Table, set: string) => {
    const name = nftTableName(table.family).split(" ");
    const result = await run(["nft", "-j", "list", "set", ...name, set]);
    if (result.code !== 0) {
      throw new ClusterError("unavailable", `Cannot read nftables' counters: ${complaint(result)}`);
    }
    return parseNftCounters(result.stdout);
  };

  return {
    name: "nftables",
    hasLocalVirtualIps: false,
    sysctls: [],
    inputRules: [],
    problem: () => problem,
    notes: () => [
      ...(features.hasCounters
        ? []
        : [
            "nftables: connections per service are not counted: this nft or kernel has no counters in sets; a newer one has",
          ]),
      ...(netlinkProblem === undefined
        ? []
        : [`nftables: each change takes a process: ${netlinkProblem}`]),
    ],
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
      for (const hasCounters of [true, false]) {
        features = { hasCounters };
        // Checked by the kernel and thrown away: the very table that will be needed.
        const text = nftTableText(renderNftTable(sample, features));
        const check = await run(["nft", "-c", "-f", "-"], text);
        if (check.code === 0) return;
        if (!hasCounters) {
          throw new ClusterError(
            "unavailable",
            `Cannot use the nftables back-end: the kernel refuses its rules (needs nf_tables with nat, fib, numgen, hash and conntrack zones, Linux 5.6 or later): ${complaint(check)}`,
          );
        }
      }
    },
    apply: async (plan, plan6) => {
      ipv4.wanted = plan;
      if (plan6) ipv6.wanted = plan6;
      else delete ipv6.wanted;
      const [change, change6, old] = await Promise.all([
        changeOf(ipv4),
        changeOf(ipv6),
        mayOldBeLeft ? oldChange() : NO_NFT_CHANGE,
      ]);
      mayOldBeLeft = false;
      if (problem === undefined && !isNftChangeEmpty(change6)) {
        try {
          await transact([old, change, change6], isNftChangeEmpty(change) ? [ipv6] : [ipv4, ipv6]);
          noteSame(ipv4);
          return;
        } catch {
          // Each on its own: which of them was it?
        }
      }
      await applyOne(ipv4, [old, change]);
      await applyIpv6(change6);
    },
    mend: async () => {
      if (!ipv4.applied) return {};
      const tables = [ipv4, ipv6].filter(({ applied }) => applied !== undefined);
      if (problem !== undefined) await applyIpv6(await changeOf(ipv6));
      const generation = netlink.readGeneration();
      const isUntouched = generation !== undefined && generation === seenGeneration;
      // Nobody has changed any table since we looked: that needs no listing, whatever the size.
      if (isUntouched && tables.every(({ digest }) => digest !== undefined)) return {};
      const startMs = performance.now();
      const isListing = startMs >= fullCheckDueMs;
      const drifted: Table[] = [];
      for (const table of tables) {
        const isPresent = await isThere(nftTableName(table.family));
        if (isPresent && !isListing) continue;
        const found = isPresent ? await listDigest(table) : undefined;
        if (found === undefined || (table.digest !== undefined && table.digest !== found)) {
          drifted.push(table);
        } else table.digest = found;
      }
      if (isListing) {
        const costMs = performance.now() - startMs;
        fullCheckDueMs = performance.now() + costMs * FULL_CHECK_SHARE;
        seenGeneration = generation;
      }
      if (drifted.length === 0) return {};
      await transact(drifted.map(wholeChange), drifted);
      return { "nft-table": drifted.length };
    },
    readConnections: async () => {
      if (!features.hasCounters) return [];
      const counts: ConnectionCount[] = [];
      for (const table of [ipv4, ipv6]) {
        const plan = table.applied;
        if (!plan) continue;
        const [byAddress, byPort] = await Promise.all([
          readCounters(table, ADDRESS_COUNTERS),
          readCounters(table, PORT_COUNTERS),
        ]);
        counts.push(...countsOf(plan, { byAddress, byPort }));
      }
      return counts;
    },
    isPresent: async () => {
      for (const name of [nftTableName("ipv4"), OLD_TABLE, nftTableName("ipv6")]) {
        if (await isThere(name)) return true;
      }
      return false;
    },
    wipe: async () => {
      delete ipv4.wanted;
      delete ipv6.wanted;
      ipv6.mayBeLeft = true;
      const changes = [await oldChange(), wholeChange(ipv4), await changeOf(ipv6)];
      await transact(changes, [ipv4, ipv6]);
      problem = undefined;
    },
  };
}

/**
 * The counters that `nft -j list set` prints: by address, or by `<port>/<protocol>` of a set that
 * joins the two. What it does not know is left out.
 */
export function parseNftCounters(output: string): Map<string, number> {
  const found = new Map<string, number>();
  // What the tool prints; every part is looked at before it is used.
  const listed = JSON.parse(output) as {
    nftables?: {
      set?: { elem?: { elem?: { val?: unknown; counter?: { packets?: number } } }[] };
    }[];
  };
  for (const { set } of listed.nftables ?? []) {
    for (const { elem } of set?.elem ?? []) {
      const face = faceOf(elem?.val);
      const packets = elem?.counter?.packets;
      if (face !== undefined && packets !== undefined) found.set(face, packets);
    }
  }
  return found;
}

function faceOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null || !("concat" in value)) return undefined;
  if (!Array.isArray(value.concat)) return undefined;
  const [protocol, port]: unknown[] = value.concat;
  return typeof protocol === "string" && typeof port === "number"
    ? `${port}/${protocol}`
    : undefined;
}
