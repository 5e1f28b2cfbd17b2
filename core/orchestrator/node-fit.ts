import type { NodeObject } from "../objects/node.ts";
import type { Service } from "../objects/service.ts";
import { matchesConstraints } from "../scheduler/constraint.ts";
import { supportsPlatform } from "../scheduler/filters.ts";

/** What the node is to a global service or job; see global.ts. */
export function nodeFit(service: Service, node: NodeObject): "open" | "closed" | "barred" {
  const placement = service.spec.TaskTemplate.Placement;
  const isFitting =
    matchesConstraints(placement?.Constraints ?? [], node) &&
    supportsPlatform(placement?.Platforms ?? [], node);
  if (!isFitting || node.status.state === "down" || node.spec.Availability === "drain") {
    return "barred";
  }
  const isOpen = node.status.state === "ready" && node.spec.Availability === "active";
  return isOpen ? "open" : "closed";
}
