/** What one task costs each back-end: the number of elements, rules and messages, not their text. */
import { describe, expect, test } from "bun:test";
import type { ServiceEntry } from "../../../core/dispatcher/assignment.ts";
import { PUBLISH_POLICIES } from "../../../core/objects/balancing.ts";
import { iptablesChangeText, renderIptables } from "../../../net/mesh/iptables-rules.ts";
import { diffIpvs, ipvsMarks, renderIpvs } from "../../../net/mesh/ipvs-services.ts";
import { NO_NFT_CHANGE, nftPlanChange } from "../../../net/mesh/nft-change.ts";
import { type FilterPlan, planMesh } from "../../../net/mesh/plan.ts";
import { applyAssignments, emptyTable } from "../../../net/mesh/table.ts";
import { labItems6 } from "./ipv6-lab.ts";

const FEATURES = { hasZones: true, hasCluster: true };
/** Of service web: one in each network of the family, and three published ports. */
const FACES = { ipv4: 4, ipv6: 4 };
const TASKS = 3;

/** Both families' plans of node 1 with such a service web; `gone`: tasks that are not ready. */
function plansOf(web: Partial<ServiceEntry>, gone: readonly string[] = []) {
  const table = emptyTable();
  const put = labItems6(1).map((item) => {
    if (item.key === "service/service-web" && item.kind === "service") {
      return { ...item, body: { ...item.body, ...web } };
    }
    const isGone =
      item.kind === "endpoint" && gone.includes(item.key.replace("endpoint/task-", ""));
    return isGone ? { ...item, body: { ...item.body, isReady: false } } : item;
  });
  applyAssignments(table, { isComplete: true, put, removed: [] });
  const plan = planMesh(table, new Set(), {
    underlayMtu: 1_500,
    balance: "random",
    hasBrNetfilter: true,
  });
  if (!plan?.filter6) throw new Error("no plan of both families");
  return { ipv4: plan.filter, ipv6: plan.filter6 };
}

const ways: [string, Partial<ServiceEntry>][] = PUBLISH_POLICIES.flatMap((publish) =>
  [true, false].flatMap((hasAffinity) =>
    [true, false].map((isLocalFirst) => {
      const ports: ServiceEntry["ports"] = [
        { protocol: "tcp", publishedPort: 8080, targetPort: 80, publish },
        { protocol: "tcp", publishedPort: 9000, targetPort: 9000, publish },
        { protocol: "udp", publishedPort: 9000, targetPort: 9000, publish },
      ];
      const balancing = {
        ...(hasAffinity ? { hasAffinity: true as const } : {}),
        ...(isLocalFirst ? { isLocalFirst: true as const } : {}),
      };
      const title = `${publish}${hasAffinity ? ", affinity" : ""}${isLocalFirst ? ", local first" : ""}`;
      return [title, { ports, balancing }] satisfies [string, Partial<ServiceEntry>];
    }),
  ),
);

describe("a task that leaves and comes back", () => {
  test.each(ways)("costs little: %s", (_title, web) => {
    const whole = plansOf(web);
    const without = plansOf(web, ["web2"]);
    const marks = ipvsMarks(whole.ipv4);
    for (const family of ["ipv4", "ipv6"] as const) {
      for (const [before, after] of [
        [whole[family], without[family]],
        [without[family], whole[family]],
      ] as const) {
        const nft = nftPlanChange(before, after, 1_000);
        // Elements only, so that no process is needed; those of this service only.
        expect([nft?.before, nft?.after]).toEqual([[], []]);
        const elements = nft?.elements.flatMap((one) => one.elements) ?? [];
        expect(elements.length).toBeLessThanOrEqual(FACES[family] * 2 * (TASKS + 1));

        const change = iptablesChangeText(
          renderIptables(before, { balancer: "nat", ...FEATURES }),
          renderIptables(after, { balancer: "nat", ...FEATURES }),
        );
        const chains = change.match(/^:\S+/gm) ?? [];
        expect(chains.filter((chain) => !/^:SH-[VP]-/.test(chain))).toEqual([]);
        expect(chains.length).toBeLessThanOrEqual(FACES[family]);

        const { commands, removals } = diffIpvs(
          family,
          renderIpvs(before, marks),
          renderIpvs(after, marks),
        );
        expect([...new Set(commands.map(({ kind }) => kind))].join(" ")).toMatch(/^(set-target)?$/);
        expect(commands.length).toBeLessThanOrEqual(FACES[family]);
        expect(removals).toEqual([]);
      }
    }
  });

  test("of another node is nothing to a port that only local tasks answer", () => {
    const { ports } = ways.find(([title]) => title === "local")?.[1] ?? {};
    const web = { ports: ports ?? [], virtualIps: [] };
    const before = plansOf(web).ipv4;
    const after = plansOf(web, ["web2"]).ipv4;
    expect(nftPlanChange(before, after, 100)).toEqual(NO_NFT_CHANGE);
  });

  test("of many is elements only, until the next block of numbers of targets begins", () => {
    const plan = plansOf({}).ipv4;
    const withTasks = (count: number): FilterPlan => {
      const targets = Array.from({ length: count }, (_, place) => `10.9.0.${place}`);
      return {
        ...plan,
        virtualIps: plan.virtualIps.map((vip) => ({ ...vip, targets })),
        ports: plan.ports.map((port) => ({ ...port, targets })),
      };
    };
    const chainsOf = (before: number, after: number) => {
      const change = nftPlanChange(withTasks(before), withTasks(after), 1_000);
      return [change?.before.length, change?.after.length];
    };
    for (const count of [1, 7, 9, 15, 17]) {
      expect(chainsOf(count, count + 1)).toEqual([0, 0]);
      expect(chainsOf(count + 1, count)).toEqual([0, 0]);
    }
    expect(chainsOf(8, 9)[0]).toBeGreaterThan(0);
    expect(chainsOf(9, 8)[1]).toBeGreaterThan(0);
    // Others that still have so many keep the chains.
    const one = { ...withTasks(9), virtualIps: withTasks(9).virtualIps.slice(0, 1) };
    const some = { ...one, virtualIps: withTasks(9).virtualIps.slice(0, 2) };
    expect(nftPlanChange(some, one, 1_000)).toMatchObject({ before: [], after: [] });
  });

  test("a service address of IPv6 has the mark of its IPv4 address", () => {
    const plans = plansOf({});
    const marks = ipvsMarks(plans.ipv4);
    const markOf = (plan: FilterPlan) =>
      new Map(plan.virtualIps.map((one) => [`${one.serviceId} ${one.bridge}`, marks(one)]));
    const four = markOf(plans.ipv4);
    expect(plans.ipv6.virtualIps.length).toBeGreaterThan(3);
    for (const [key, mark] of markOf(plans.ipv6)) expect(mark).toBe(four.get(key) ?? -1);
  });
});
