/**
 * Long lists of a plan that are patched and not made again. Pure; a patch gives another list and leaves
 * the one before as it was, since the plan before still has it.
 *
 * With ten thousand services these lists have tens of thousands of entries, of which a change touches a
 * few: copying a list costs microseconds, looking at each entry (sorting, keys in a map) milliseconds.
 */

/** A list made of runs: the entries of one owner stand together, and the runs in the order of their owners. */
export type Runs<Item> = {
  /** Sorted; only those that have entries. */
  owners: string[];
  runs: (readonly Item[])[];
  items: Item[];
};

/** A list without entries. */
export function emptyRuns<Item>(): Runs<Item> {
  return { owners: [], runs: [], items: [] };
}

/** Adds a run to a list that is being made; owners come in order. */
export function addRun<Item>(list: Runs<Item>, owner: string, run: readonly Item[]): void {
  if (run.length === 0) return;
  list.owners.push(owner);
  list.runs.push(run);
  for (const item of run) list.items.push(item);
}

/** The list with these runs in the places of the owners' old ones; the same list where none differs. */
export function patchRuns<Item>(
  list: Runs<Item>,
  changes: ReadonlyMap<string, readonly Item[]>,
): Runs<Item> {
  const owners: string[][] = [];
  const runs: (readonly Item[])[][] = [];
  const items: (readonly Item[])[] = [];
  let place = 0;
  let offset = 0;
  const keepUntil = (end: number) => {
    let length = 0;
    for (let kept = place; kept < end; kept += 1) length += list.runs[kept]?.length ?? 0;
    owners.push(list.owners.slice(place, end));
    runs.push(list.runs.slice(place, end));
    items.push(list.items.slice(offset, offset + length));
    place = end;
    offset += length;
  };
  for (const [owner, run] of [...changes].sort(([a], [b]) => compareText(a, b))) {
    const found = placeOf(list.owners, owner, compareText);
    const old = list.owners[found] === owner ? (list.runs[found] ?? []) : [];
    if (Bun.deepEquals(old, run)) continue;
    keepUntil(found);
    if (old.length > 0) place += 1;
    offset += old.length;
    if (run.length === 0) continue;
    owners.push([owner]);
    runs.push([run]);
    items.push(run);
  }
  if (owners.length === 0) return list;
  keepUntil(list.owners.length);
  return { owners: joined(owners), runs: joined(runs), items: joined(items) };
}

/** The items sorted, each once. */
export function uniqueSorted<Item>(
  items: readonly Item[],
  compare: (a: Item, b: Item) => number,
): Item[] {
  const sorted = items.toSorted(compare);
  return sorted.filter((item, place) => {
    const before = sorted[place - 1];
    return before === undefined || compare(before, item) !== 0;
  });
}

/** The sorted list without some entries and with others; each is in it at most once. */
export function patchSorted<Item>(
  list: Item[],
  removed: readonly Item[],
  added: readonly Item[],
  compare: (a: Item, b: Item) => number,
): Item[] {
  if (Bun.deepEquals(removed, added)) return list;
  const next = list.slice();
  const isAt = (place: number, item: Item) => {
    const there = next[place];
    return there !== undefined && compare(there, item) === 0;
  };
  for (const item of removed) {
    const place = placeOf(next, item, compare);
    if (isAt(place, item)) next.splice(place, 1);
  }
  for (const item of added) {
    const place = placeOf(next, item, compare);
    if (!isAt(place, item)) next.splice(place, 0, item);
  }
  return next;
}

/** Where the item is in the sorted list, or would be. */
export function placeOf<Item>(
  list: readonly Item[],
  item: Item,
  compare: (a: Item, b: Item) => number,
): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const there = list[middle];
    if (there !== undefined && compare(there, item) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * What only one of two lists has, and some more where equal objects in the middle are not the same ones.
 * Costs next to nothing for a list and its patched successor.
 */
export function differenceOf<Item>(
  before: readonly Item[],
  after: readonly Item[],
  isEqual: (a: Item, b: Item) => boolean = () => false,
): [gone: Item[], come: Item[]] {
  if (before === after) return [[], []];
  const isSame = (a: Item | undefined, b: Item | undefined) =>
    a === b || (a !== undefined && b !== undefined && isEqual(a, b));
  const shorter = Math.min(before.length, after.length);
  let start = 0;
  while (start < shorter && isSame(before[start], after[start])) start += 1;
  let oldEnd = before.length;
  let newEnd = after.length;
  while (Math.min(oldEnd, newEnd) > start && isSame(before[oldEnd - 1], after[newEnd - 1])) {
    oldEnd -= 1;
    newEnd -= 1;
  }
  const old = before.slice(start, oldEnd);
  const now = after.slice(start, newEnd);
  if (old.length === 0 || now.length === 0) return [old, now];
  const was = new Set(old);
  const is = new Set(now);
  return [old.filter((item) => !is.has(item)), now.filter((item) => !was.has(item))];
}

function joined<Item>(parts: readonly (readonly Item[])[]): Item[] {
  return new Array<Item>().concat(...parts);
}

export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
