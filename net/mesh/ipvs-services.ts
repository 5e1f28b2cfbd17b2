/**
 * Filter plan → IPVS services, and the commands from one set to another. Pure.
 *
 * Every service address and every published port is one service by packet mark: all ports and
 * protocols of an address are one service, and a published port is one whichever of the host's
 * addresses was asked. IPVS maps ports for them as well (a target's port is not 0 then).
 *
 * A task that is no longer ready stays as a target of weight 0: it gets no new connection, and its
 * old ones go on; removing a target breaks its connections, which is what is wanted once it is gone.
 *
 * A service with affinity has the scheduler `mh`: a table of targets by the hash of the client's
 * address, the same on every node. It holds no state of a client, so nothing of it is idle and ends;
 * a change of the targets moves the clients of those that changed, and few others. Where the kernel
 * has no such scheduler, IPVS remembers each client's target instead (`persistence`), until the
 * client has had no connection for three hours; then each node chooses for itself.
 *
 * IPv6 has services of the same marks: IPVS tells families apart. An IPv6 address is too long to be
 * in a mark, so a service's has the mark of its IPv4 address on the same network.
 */
import { ipvsAddressMark, ipvsPortMark } from "./names.ts";
import type { Family, FilterPlan } from "./plan.ts";

/** How IPVS chooses among a service's targets. Numbers are of linux/ip_vs.h. */
export type IpvsScheduling = { scheduler: string; flags: number; timeoutS: number };
export type IpvsService = IpvsScheduling & {
  mark: number;
  /** `address port` to weight; port 0 keeps the port that was asked. */
  targets: ReadonlyMap<string, number>;
};
/** Of one family, by mark. */
export type IpvsServices = ReadonlyMap<number, IpvsService>;

export type IpvsCommand = { family: Family; mark: number } & (
  | ({ kind: "add-service" | "set-service" } & IpvsScheduling)
  | { kind: "delete-service" }
  | { kind: "add-target" | "set-target"; target: string; weight: number }
  | { kind: "delete-target"; target: string }
);

/** How a service with affinity is balanced: by a scheduler, or by IPVS's memory of clients. */
export type IpvsAffinity = "hash" | "persistence";

const FLAG_PERSISTENT = 0x1;
/** Of the scheduler mh: what would go to a target of weight 0 goes to another. */
const FLAG_HASH_FALLBACK = 0x8;
const PERSISTENCE_S = 10_800;

/** Least connections first, by weight. */
const BY_LOAD: IpvsScheduling = { scheduler: "wlc", flags: 0, timeoutS: 0 };
/** Exact turns, for tests. */
const IN_TURN: IpvsScheduling = { scheduler: "rr", flags: 0, timeoutS: 0 };
export const BY_CLIENT: Record<IpvsAffinity, IpvsScheduling> = {
  hash: { scheduler: "mh", flags: FLAG_HASH_FALLBACK, timeoutS: 0 },
  persistence: { scheduler: "wlc", flags: FLAG_PERSISTENT, timeoutS: PERSISTENCE_S },
};

export type VirtualIp = FilterPlan["virtualIps"][number];

/**
 * The mark of a service address; undefined for an IPv6 one whose service has no IPv4 address on the
 * same network, which no plan has. `ipv4`: the plan of IPv4 at the same time.
 */
export function ipvsMarks(ipv4: FilterPlan): (virtualIp: VirtualIp) => number | undefined {
  let marks: Map<string, number> | undefined;
  const key = ({ serviceId, bridge }: VirtualIp) => `${serviceId} ${bridge}`;
  return (virtualIp) => {
    if (!virtualIp.address.includes(":")) return ipvsAddressMark(virtualIp.address);
    marks ??= new Map(ipv4.virtualIps.map((one) => [key(one), ipvsAddressMark(one.address)]));
    return marks.get(key(virtualIp));
  };
}

/** The services of a plan, with the marks of `ipvsMarks`. */
export function renderIpvs(
  plan: FilterPlan,
  markOf: (virtualIp: VirtualIp) => number | undefined = ipvsMarks(plan),
  affinity: IpvsAffinity = "hash",
): Map<number, IpvsService> {
  const evenly = plan.balance === "increment" ? IN_TURN : BY_LOAD;
  const services = new Map<number, IpvsService>();
  const add = (
    mark: number,
    entry: { targets: string[]; unready: string[]; hasAffinity: boolean },
    port: number,
  ) => {
    const targets = new Map<string, number>();
    for (const address of entry.unready) targets.set(`${address} ${port}`, 0);
    for (const address of entry.targets) targets.set(`${address} ${port}`, 1);
    services.set(mark, { mark, ...(entry.hasAffinity ? BY_CLIENT[affinity] : evenly), targets });
  };
  for (const virtualIp of plan.virtualIps) {
    const mark = markOf(virtualIp);
    if (mark !== undefined) add(mark, virtualIp, 0);
  }
  for (const port of plan.ports) add(ipvsPortMark(port), port, port.targetPort);
  return services;
}

/**
 * What turns `before` into `after`; `removals` are to be run after the marks of what goes are gone.
 * Services that did not change cost one comparison.
 */
export function diffIpvs(
  family: Family,
  before: IpvsServices,
  after: IpvsServices,
): { commands: IpvsCommand[]; removals: IpvsCommand[] } {
  const commands: IpvsCommand[] = [];
  const removals: IpvsCommand[] = [];
  for (const [mark, service] of after) {
    const old = before.get(mark);
    if (old === service) continue;
    const { scheduler, flags, timeoutS, targets } = service;
    const isScheduledSo =
      old?.scheduler === scheduler && old.flags === flags && old.timeoutS === timeoutS;
    if (!isScheduledSo) {
      const kind = old ? "set-service" : "add-service";
      commands.push({ kind, family, mark, scheduler, flags, timeoutS });
    }
    for (const [target, weight] of targets) {
      const had = old?.targets.get(target);
      if (had === undefined) commands.push({ kind: "add-target", family, mark, target, weight });
      else if (had !== weight) {
        commands.push({ kind: "set-target", family, mark, target, weight });
      }
    }
    for (const target of old?.targets.keys() ?? []) {
      if (!targets.has(target)) commands.push({ kind: "delete-target", family, mark, target });
    }
  }
  for (const mark of before.keys()) {
    if (!after.has(mark)) removals.push({ kind: "delete-service", family, mark });
  }
  return { commands, removals };
}
