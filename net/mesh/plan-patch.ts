/**
 * The plan after a change of some services and tasks, made from the plan before. Pure.
 *
 * Owns: what has to be known of the last plan for that, and which changes it will do for. Where it will not,
 * nothing is lost: then everything is planned (`plan.ts`), from which the patched plan must not differ.
 */
import type { EndpointEntry, ServiceEntry } from "../../core/dispatcher/assignment.ts";
import type { NetworkId } from "../../core/ids.ts";
import type { FilterPlan, Ipv6Plan, MeshPlan, MeshRoute } from "./plan.ts";
import { choosePorts, portKey } from "./plan-choices.ts";
import {
  type FamilyContext,
  type FamilyState,
  patchFamily,
  type PlannedTask,
  type TaskChange,
} from "./plan-family.ts";
import { servicesInIpv6 } from "./plan-ipv6.ts";
import {
  changedEntries,
  type EntryChange,
  type Ground,
  type SeenEntries,
  seenEntries,
} from "./plan-memory.ts";
import type { MeshTable } from "./table.ts";

/** A plan, and all that it takes to patch it. */
export type PlanState = {
  ground: Ground;
  services: SeenEntries<ServiceEntry>;
  endpoints: SeenEntries<EndpointEntry>;
  /** Published ports of all services. */
  portsTaken: Set<string>;
  fixed: FixedPlan;
  ipv4: FamilyState;
  ipv6?: FamilyState;
  /** An endpoint as each family plans it; undefined: it has none of it. */
  inIpv4(key: string, endpoint: EndpointEntry): PlannedTask | undefined;
  inIpv6(task: PlannedTask): PlannedTask | undefined;
  /** How many legs of this node's tasks are on each network. */
  legsHere: Map<NetworkId, number>;
  plan: MeshPlan;
};

type ListName = "localAddresses" | "selfLoops" | "publishedTasks" | "virtualIps" | "ports";
type FixedFilter = Omit<FilterPlan, ListName>;
/** Of a plan what does not depend on which tasks and services there are. */
export type FixedPlan = Omit<
  MeshPlan,
  "routes" | "filter" | "filter6" | "ipv6" | "legs" | "ready"
> & {
  /** To nodes; they come first, since other routes lead over them. */
  routes: MeshRoute[];
  filter: FixedFilter;
  six?: { filter: FixedFilter; routing: Omit<Ipv6Plan, "proxies"> };
};

/** Of one round; for more, planning everything costs less. */
const CHANGES_MAX = 1_000;

/**
 * The plan from what differs in services and endpoints; undefined where that does not tell it. Uses up the
 * last one, also then.
 */
export function patchPlan(last: PlanState, table: MeshTable): PlanState | undefined {
  const services = changedEntries(last.services, table.services);
  const endpoints = changedEntries(last.endpoints, table.endpoints);
  if (services.length + endpoints.length === 0) return last;
  const context = contextAfter(last, services);
  if (!context) return undefined;
  const tasks: TaskChange[] = endpoints.map(({ key, before, after }) => ({
    key,
    before: before && last.inIpv4(key, before),
    after: after && last.inIpv4(key, after),
  }));
  const ids = new Set(services.flatMap(({ before, after }) => idsOf(before, after)));
  const keys = new Set(endpoints.map(({ key }) => key));
  // What a task gives depends on the ports of its service.
  for (const task of [...ids].flatMap((id) => last.ipv4.tasksOf.get(id) ?? [])) {
    if (!keys.has(task.key)) tasks.push({ key: task.key, before: task, after: task });
  }
  if (tasks.length + services.length > CHANGES_MAX || !moveLegsHere(last, tasks)) return undefined;
  const ipv4 = patchFamily(last.ipv4, { services: ids, tasks, context });
  const ipv6 =
    last.ipv6 &&
    patchFamily(last.ipv6, {
      services: ids,
      tasks: tasks.map(({ key, before, after }) => ({
        key,
        before: before && last.inIpv6(before),
        after: after && last.inIpv6(after),
      })),
      context:
        services.length === 0 ? last.ipv6.context : contextInIpv6(last.ipv6.context, context),
    });
  if (!ipv4 || (last.ipv6 && !ipv6)) return undefined;
  return {
    ...last,
    services: services.length === 0 ? last.services : seenEntries(table.services),
    endpoints: endpoints.length === 0 ? last.endpoints : seenEntries(table.endpoints),
    ipv4,
    ...(ipv6 ? { ipv6 } : {}),
    plan: withLists(last.fixed, ipv4, ipv6),
  };
}

function idsOf(...services: (ServiceEntry | undefined)[]): string[] {
  return services.flatMap((service) => service?.serviceId ?? []);
}

/**
 * With the changed services and their ports; undefined where contradictions are, or were: who gets what is
 * decided among all services.
 */
function contextAfter(
  last: PlanState,
  changes: readonly EntryChange<ServiceEntry>[],
): FamilyContext | undefined {
  const { context } = last.ipv4;
  if (changes.length === 0) return context;
  if (last.plan.conflicts.length > 0) return undefined;
  const services = new Map(context.services);
  const publishedOf = new Map(context.publishedOf);
  for (const { before } of changes) {
    if (!before) continue;
    if (services.get(before.serviceId) !== before) return undefined;
    services.delete(before.serviceId);
    publishedOf.delete(before.serviceId);
    for (const port of before.ports) last.portsTaken.delete(portKey(port));
  }
  const come = changes.flatMap(({ after }) => after ?? []);
  for (const service of come) {
    if (services.has(service.serviceId)) return undefined;
    services.set(service.serviceId, service);
  }
  const conflicts: string[] = [];
  for (const [id, ports] of choosePorts(come, last.portsTaken, conflicts))
    publishedOf.set(id, ports);
  return conflicts.length > 0 ? undefined : { ...context, services, publishedOf };
}

/** The services and ports of `context` in IPv6. */
function contextInIpv6(
  context6: FamilyContext,
  { services, publishedOf }: Pick<FamilyContext, "services" | "publishedOf">,
): FamilyContext {
  return { ...context6, services: servicesInIpv6(services), publishedOf };
}

/** False where a network comes to this node or goes with its tasks: that changes what all others plan. */
function moveLegsHere(last: PlanState, changes: readonly TaskChange[]): boolean {
  const { legsHere } = last;
  const before = new Map<NetworkId, number>();
  const move = (task: PlannedTask | undefined, by: number) => {
    if (task?.endpoint.nodeId !== last.ipv4.context.selfId) return;
    for (const { networkId } of task.endpoint.addresses) {
      const count = legsHere.get(networkId) ?? 0;
      if (!before.has(networkId)) before.set(networkId, count);
      legsHere.set(networkId, count + by);
    }
  };
  for (const change of changes) {
    move(change.before, -1);
    move(change.after, 1);
  }
  return [...before].every(
    ([id, count]) =>
      last.ground.presentNetworkIds.has(id) || count > 0 === (legsHere.get(id) ?? 0) > 0,
  );
}

/** The whole plan. */
export function withLists(
  fixed: FixedPlan,
  ipv4: FamilyState,
  ipv6: FamilyState | undefined,
): MeshPlan {
  const { six, ...rest } = fixed;
  return {
    ...rest,
    routes: joinRoutes(fixed.routes, ipv4),
    filter: withFilterLists(fixed.filter, ipv4),
    ...(six && ipv6
      ? {
          filter6: withFilterLists(six.filter, ipv6),
          ipv6: {
            ...six.routing,
            routes: joinRoutes(six.routing.routes, ipv6),
            proxies: ipv6.proxies,
          },
        }
      : {}),
    legs: ipv6 ? ipv4.legs.items.concat(ipv6.legs.items) : ipv4.legs.items,
    ready: ipv6 ? ipv4.ready.items.concat(ipv6.ready.items) : ipv4.ready.items,
  };
}

function joinRoutes(toNodes: MeshRoute[], state: FamilyState): MeshRoute[] {
  return toNodes.concat(state.routes.items, state.contestedRoutes, state.serviceRoutes);
}

function withFilterLists(filter: FixedFilter, state: FamilyState): FilterPlan {
  const { localAddresses, selfLoops, virtualIps, publishedTasks, ports } = state;
  return {
    ...filter,
    localAddresses,
    selfLoops,
    publishedTasks,
    virtualIps,
    ports: ports.items,
  };
}
