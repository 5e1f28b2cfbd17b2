/**
 * Two filter plans → the parts in which they differ. Pure. With ten thousand services a change of one
 * task must not cost the rendering of all: most rules of a back-end come from one entry of one list,
 * so rendering and comparing the entries that differ gives the same commands as rendering all.
 */
import type { FilterPlan } from "./plan.ts";
import { differenceOf } from "./plan-lists.ts";

type ListName = "localAddresses" | "selfLoops" | "publishedTasks" | "virtualIps" | "ports";
type Entry<Name extends ListName> = FilterPlan[Name][number];

/**
 * Both plans without the entries of the long lists that are in both and equal. The short lists
 * (networks, peers, addresses of nodes) are left whole.
 */
export function changedParts(
  before: FilterPlan,
  after: FilterPlan,
): { before: FilterPlan; after: FilterPlan } {
  // It is in the rules of every entry.
  if (before.balance !== after.balance) return { before, after };
  const left = { ...before };
  const right = { ...after };
  const reduce = <Name extends ListName>(
    name: Name,
    key: (entry: Entry<Name>) => string,
    isSame: (a: Entry<Name>, b: Entry<Name>) => boolean,
  ) => {
    const [old, now] = differing<Entry<Name>>(before[name], after[name], key, isSame);
    Object.assign(left, { [name]: old });
    Object.assign(right, { [name]: now });
  };
  const isEqual = () => true;
  reduce("localAddresses", (address) => address, isEqual);
  reduce("selfLoops", (loop) => `${loop.node} ${loop.task}`, isEqual);
  reduce("publishedTasks", (task) => `${task.address} ${task.protocol} ${task.port}`, isEqual);
  reduce("virtualIps", (vip) => vip.address, isSameVirtualIp);
  reduce("ports", (port) => `${port.protocol} ${port.publishedPort}`, isSamePort);
  return { before: left, after: right };
}

function differing<Item>(
  before: readonly Item[],
  after: readonly Item[],
  key: (entry: Item) => string,
  isSame: (a: Item, b: Item) => boolean,
): [Item[], Item[]] {
  const [old, now] = differenceOf(before, after, (a, b) => key(a) === key(b) && isSame(a, b));
  const known = new Map(old.map((entry) => [key(entry), entry]));
  const same = new Set<string>();
  const changed = now.filter((entry) => {
    const former = known.get(key(entry));
    if (former === undefined || !isSame(former, entry)) return true;
    same.add(key(entry));
    return false;
  });
  return [old.filter((entry) => !same.has(key(entry))), changed];
}

function isSameList(a: string[], b: string[]): boolean {
  return a === b || (a.length === b.length && a.every((item, place) => item === b[place]));
}

function isSameVirtualIp(a: Entry<"virtualIps">, b: Entry<"virtualIps">): boolean {
  return (
    a.serviceId === b.serviceId &&
    a.bridge === b.bridge &&
    a.hasAffinity === b.hasAffinity &&
    isSameList(a.targets, b.targets) &&
    isSameList(a.unready, b.unready)
  );
}

function isSamePort(a: Entry<"ports">, b: Entry<"ports">): boolean {
  return (
    a.serviceId === b.serviceId &&
    a.targetPort === b.targetPort &&
    a.hasAffinity === b.hasAffinity &&
    a.isSnat === b.isSnat &&
    isSameList(a.targets, b.targets) &&
    isSameList(a.unready, b.unready)
  );
}

/** The plan as a back-end's chains see it that only ask which addresses and ports have targets. */
export function membershipOf(plan: FilterPlan): object {
  const member = <Item extends { targets: string[]; unready: string[] }>(item: Item) => ({
    ...item,
    targets: item.targets.length > 0,
    unready: false,
  });
  return { ...plan, virtualIps: plan.virtualIps.map(member), ports: plan.ports.map(member) };
}
