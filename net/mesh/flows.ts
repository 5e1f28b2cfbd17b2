/**
 * Flows that an earlier run of this agent has left: translated to a task that is gone, by an agent that
 * died between programming the kernel and forgetting. UDP would follow them to whoever has the address
 * next. Pure.
 */
import { isInBlock, parseIpv4, parseIpv4Block } from "./ipv4.ts";
import type { MeshPlan } from "./plan.ts";

/** Where the answers of each flow come from, by `conntrack -L`: two tuples a line, the second is the answers'. */
export function parseFlowSources(text: string): Set<string> {
  const sources = new Set<string>();
  for (const line of text.split("\n")) {
    const answer = line.lastIndexOf("src=");
    if (answer < 0 || line.indexOf("src=") === answer) continue;
    sources.add(line.slice(answer + 4, line.indexOf(" ", answer)));
  }
  return sources;
}

/** Those of the cluster's networks that no task has. IPv4 only. */
export function strayFlowSources(plan: MeshPlan, sources: Iterable<string>): string[] {
  const blocks = plan.filter.subnets.flatMap((subnet) => parseIpv4Block(subnet) ?? []);
  const live = new Set([
    ...plan.legs.map((leg) => leg.split("@")[0] ?? ""),
    ...plan.filter.gateways,
    ...plan.filter.virtualIps.map(({ address }) => address),
  ]);
  return [...sources].filter((source) => {
    const value = parseIpv4(source);
    if (value === undefined || live.has(source)) return false;
    return blocks.some((block) => isInBlock(block, value));
  });
}
