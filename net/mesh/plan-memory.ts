/**
 * What a plan was made from, and in which services and endpoints the table differs from that now. Pure.
 *
 * Entries are compared by identity: the table replaces them and never changes one. So it need not keep a
 * record of changes, which would have to be right after every way to change a map; walking through fifty
 * thousand entries that are the same costs about a millisecond.
 */
import { isDeepStrictEqual } from "node:util";
import type { NetworkId } from "../../core/ids.ts";
import type { PlanOptions } from "./plan.ts";
import type { MeshTable } from "./table.ts";

/** All that a plan depends on but services and endpoints. */
export type Ground = Pick<MeshTable, "settings" | "keys"> & {
  /** Peers and networks. */
  entries: unknown[];
  presentNetworkIds: ReadonlySet<NetworkId>;
  options: PlanOptions;
};

function groundEntries({ peers, networks }: MeshTable): unknown[] {
  return [...peers.values(), ...networks.values()];
}

/** A copy, for `isSameGround`. */
export function groundOf(
  table: MeshTable,
  presentNetworkIds: ReadonlySet<NetworkId>,
  options: PlanOptions,
): Ground {
  return {
    settings: table.settings,
    keys: table.keys,
    entries: groundEntries(table),
    presentNetworkIds: new Set(presentNetworkIds),
    options: structuredClone(options),
  };
}

/** True where only services and endpoints can have changed since. */
export function isSameGround(
  ground: Ground,
  table: MeshTable,
  presentNetworkIds: ReadonlySet<NetworkId>,
  options: PlanOptions,
): boolean {
  const entries = groundEntries(table);
  return (
    ground.settings === table.settings &&
    ground.keys === table.keys &&
    ground.entries.length === entries.length &&
    entries.every((entry, place) => entry === ground.entries[place]) &&
    isDeepStrictEqual(ground.presentNetworkIds, presentNetworkIds) &&
    isDeepStrictEqual(ground.options, options)
  );
}

/** Entries of the table in the order of their map. */
export type SeenEntries<Entry> = { keys: string[]; entries: Entry[] };

/** A copy, for `changedEntries`. */
export function seenEntries<Entry>(map: ReadonlyMap<string, Entry>): SeenEntries<Entry> {
  return { keys: [...map.keys()], entries: [...map.values()] };
}

export type EntryChange<Entry> = {
  key: string;
  before: Entry | undefined;
  after: Entry | undefined;
};

/** Those that came, went or were replaced. Any map will do; it is fast for a map that has changed in place. */
export function changedEntries<Entry>(
  { keys, entries }: SeenEntries<Entry>,
  map: ReadonlyMap<string, Entry>,
): EntryChange<Entry>[] {
  const changes = new Map<string, EntryChange<Entry>>();
  let place = 0;
  const skip = (key: string) => {
    changes.set(key, { key, before: entries[place], after: undefined });
    place += 1;
  };
  // A map keeps its order: what is missing at a place has gone, and what comes is at the end.
  map.forEach((after, key) => {
    for (let seen = keys[place]; seen !== undefined && seen !== key; seen = keys[place]) skip(seen);
    const before = place < keys.length ? entries[place] : changes.get(key)?.before;
    if (before !== after) changes.set(key, { key, before, after });
    else changes.delete(key);
    place += 1;
  });
  for (let seen = keys[place]; seen !== undefined; seen = keys[place]) skip(seen);
  return [...changes.values()];
}
