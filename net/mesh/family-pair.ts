/**
 * One back-end out of its two families, where each is programmed on its own: IPv4 is always there and
 * its failures are the back-end's; IPv6 is there while it is planned, and what the kernel refuses of
 * it is told and tried again, but holds up nothing.
 */
import { ClusterError } from "../../core/errors.ts";
import type { MeshBackend } from "./backend.ts";
import type { Counts } from "./diff.ts";
import type { FilterPlan } from "./plan.ts";

export type OneFamily = {
  /**
   * `ipv4`: the plan of IPv4, whichever family this is.
   * @throws {ClusterError} unavailable with the tool's words.
   */
  apply(plan: FilterPlan, ipv4: FilterPlan): Promise<void>;
  /** Compares the kernel with the last applied plan; what had to be mended, by kind. */
  mend(): Promise<Counts>;
  isPresent(): Promise<boolean>;
  wipe(): Promise<void>;
};

export type FamilyPair = Pick<MeshBackend, "apply" | "problem" | "mend" | "isPresent" | "wipe">;

/** The parts of a back-end that both families have; IPv6 begins as what an earlier run may have left. */
export function familyPair(ipv4: OneFamily, ipv6: OneFamily): FamilyPair {
  /** Of IPv6; "unknown": an earlier run may have left something. */
  let state: "unknown" | "wanted" | "absent" = "unknown";
  let wanted: { plan: FilterPlan; ipv4: FilterPlan } | undefined;
  let problem: string | undefined;

  const applyIpv6 = async () => {
    try {
      if (wanted) {
        state = "wanted";
        await ipv6.apply(wanted.plan, wanted.ipv4);
      } else if (state === "wanted" || (state === "unknown" && (await ipv6.isPresent()))) {
        await ipv6.wipe();
        state = "absent";
      } else state = "absent";
      problem = undefined;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      problem = wanted
        ? `IPv6 does not work on this node, IPv4 does: ${error.message}`
        : `What is left of IPv6 on this node is not removed: ${error.message}`;
    }
  };

  return {
    apply: async (plan, plan6) => {
      wanted = plan6 ? { plan: plan6, ipv4: plan } : undefined;
      await ipv4.apply(plan, plan);
      await applyIpv6();
    },
    problem: () => problem,
    mend: async () => {
      const counts = await ipv4.mend();
      if (problem === undefined) return wanted ? sum(counts, await ipv6.mend()) : counts;
      await applyIpv6();
      return counts;
    },
    isPresent: async () => (await ipv4.isPresent()) || (await ipv6.isPresent()),
    wipe: async () => {
      await ipv4.wipe();
      if (state === "wanted" || (await ipv6.isPresent())) await ipv6.wipe();
      wanted = undefined;
      problem = undefined;
      state = "absent";
    },
  };
}

function sum(a: Counts, b: Counts): Counts {
  const total: Counts = { ...a };
  // The keys of Counts, which the type of Object.keys has forgotten.
  for (const kind of Object.keys(b) as (keyof Counts)[])
    total[kind] = (a[kind] ?? 0) + (b[kind] ?? 0);
  return total;
}
