/**
 * Filter plan → IPVS services, and the commands from one set to another. Pure.
 *
 * Every service address and every published port is one service by packet mark: all ports and
 * protocols of an address are one service, and a published port is one whichever of the host's
 * addresses was asked. IPVS maps ports for them as well (a target's port is not 0 then).
 *
 * A task that is no longer ready stays as a target of weight 0: it gets no new connection, and its
 * old ones go on; removing a target breaks its connections, which is what is wanted once it is gone.
 */
import { ipvsAddressMark, ipvsPortMark } from "./names.ts";
import type { FilterPlan } from "./plan.ts";

export type IpvsScheduler = "wlc" | "rr";
export type IpvsService = {
  mark: number;
  scheduler: string;
  /** `address:port` to weight; port 0 keeps the port that was asked. */
  targets: ReadonlyMap<string, number>;
};
/** By mark. */
export type IpvsServices = ReadonlyMap<number, IpvsService>;

export type IpvsCommand =
  | { kind: "add-service" | "set-service"; mark: number; scheduler: string }
  | { kind: "delete-service"; mark: number }
  | { kind: "add-target" | "set-target"; mark: number; target: string; weight: number }
  | { kind: "delete-target"; mark: number; target: string };

/** The services of a plan. */
export function renderIpvs(plan: FilterPlan): Map<number, IpvsService> {
  // `increment` is for tests: exact turns.
  const scheduler: IpvsScheduler = plan.balance === "increment" ? "rr" : "wlc";
  const services = new Map<number, IpvsService>();
  const add = (mark: number, entry: { targets: string[]; unready: string[] }, port: number) => {
    const targets = new Map<string, number>();
    for (const address of entry.unready) targets.set(`${address}:${port}`, 0);
    for (const address of entry.targets) targets.set(`${address}:${port}`, 1);
    services.set(mark, { mark, scheduler, targets });
  };
  for (const virtualIp of plan.virtualIps) add(ipvsAddressMark(virtualIp.address), virtualIp, 0);
  for (const port of plan.ports) add(ipvsPortMark(port), port, port.targetPort);
  return services;
}

/**
 * What turns `before` into `after`; `removals` are to be run after the marks of what goes are gone.
 * Services that did not change cost one comparison.
 */
export function diffIpvs(
  before: IpvsServices,
  after: IpvsServices,
): { commands: IpvsCommand[]; removals: IpvsCommand[] } {
  const commands: IpvsCommand[] = [];
  const removals: IpvsCommand[] = [];
  for (const [mark, service] of after) {
    const old = before.get(mark);
    if (old === service) continue;
    const { scheduler, targets } = service;
    if (!old) commands.push({ kind: "add-service", mark, scheduler });
    else if (old.scheduler !== scheduler) commands.push({ kind: "set-service", mark, scheduler });
    for (const [target, weight] of targets) {
      const had = old?.targets.get(target);
      if (had === undefined) commands.push({ kind: "add-target", mark, target, weight });
      else if (had !== weight) commands.push({ kind: "set-target", mark, target, weight });
    }
    for (const target of old?.targets.keys() ?? []) {
      if (!targets.has(target)) commands.push({ kind: "delete-target", mark, target });
    }
  }
  for (const mark of before.keys()) {
    if (!after.has(mark)) removals.push({ kind: "delete-service", mark });
  }
  return { commands, removals };
}
