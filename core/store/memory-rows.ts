/**
 * The replicated state as maps: the state worker's cache, the simulator's and the tests' store.
 *
 * 1. Every list is ordered by id, whatever the order of the writes: a replica that was restored from
 *    a snapshot lists as one that replayed the log.
 * 2. A list handed out is never changed afterwards (it is copied before the next write); the view
 *    itself is live.
 * 3. Objects are never changed, only replaced, so identity means "unchanged since".
 *
 * It checks nothing and keeps nothing on disk; see apply.ts and sqlite-store.ts.
 */
import { assert } from "../assert.ts";
import type { RaftIndex } from "../ids.ts";
import type { Task } from "../objects/task.ts";
import type { TableName, Tables } from "./action.ts";
import { type Claims, claimsOf, nameClaim, referencesOf } from "./claims.ts";
import type { ObjectKey, RowStore } from "./rows.ts";

/** Ordered as tables are exported and restored: what is referenced comes first. */
export const TABLE_NAMES = [
  "cluster",
  "node",
  "network",
  "secret",
  "config",
  "service",
  "task",
  "attachment",
  "stack",
] as const satisfies readonly TableName[];

/** One object with the name of its table. */
export type Row = { [T in TableName]: { table: T; object: Tables[T] } }[TableName];

export type MemoryRows = RowStore & {
  /** Replaces everything. Order does not matter. */
  replaceAll(rows: Iterable<Row>, index: RaftIndex): void;
};

/** Empty rows at index 0. Writes assert what `apply` has checked: claims are free, deletes hit. */
export function createMemoryRows(): MemoryRows {
  let index: RaftIndex = 0;
  let tables = emptyTables();
  let tasksByService = new Map<string, SortedObjects<Task>>();
  let tasksByNode = new Map<string, SortedObjects<Task>>();
  let exclusive = new Map<string, ObjectKey>();
  let shared = new Map<string, Set<ObjectKey>>();
  let references = new Map<ObjectKey, Set<ObjectKey>>();

  const table = <T extends TableName>(name: T): Table<T> => tables[name];
  const byName = <T extends "network" | "service" | "secret" | "config" | "stack">(
    name: T,
    text: string,
  ) => {
    const holder = exclusive.get(nameClaim(name, text));
    if (holder === undefined) return undefined;
    const object = table(name).byId.get(holder.slice(name.length + 1));
    return object?.spec.Name === text ? object : undefined;
  };

  const unindex = (key: ObjectKey, before: { claims: Claims; targets: ObjectKey[] }) => {
    for (const claim of before.claims.exclusive) {
      if (exclusive.get(claim) === key) exclusive.delete(claim);
    }
    for (const claim of before.claims.shared) dropFrom(shared, claim, key);
    for (const target of before.targets) dropFrom(references, target, key);
  };

  const put = <T extends TableName>(name: T, object: Tables[T]) => {
    // Everything that can throw on a malformed object comes before the first change.
    const key = `${name}/${object.id}`;
    const claims = claimsOf(name, object);
    const targets = referencesOf(name, object);
    const before = table(name).byId.get(object.id);
    if (before) {
      unindex(key, { claims: claimsOf(name, before), targets: referencesOf(name, before) });
    }
    for (const claim of claims.exclusive) {
      const holder = exclusive.get(claim);
      assert(holder === undefined || holder === key, `${key} takes ${claim} from ${holder}`);
      exclusive.set(claim, key);
    }
    for (const claim of claims.shared) addTo(shared, claim, key);
    for (const target of targets) addTo(references, target, key);
    table(name).byId.set(object.id, object);
    insert(table(name).sorted, object);
    if (name === "task") {
      // The table names the type, which TypeScript does not follow through a generic parameter.
      indexTask(object as Task, before as Task | undefined);
    }
  };
  const indexTask = (task: Task, before: Task | undefined) => {
    if (before && before.serviceId !== task.serviceId) drop(tasksByService, before.serviceId, task);
    if (before?.nodeId !== undefined && before.nodeId !== task.nodeId) {
      drop(tasksByNode, before.nodeId, task);
    }
    insert(entry(tasksByService, task.serviceId), task);
    if (task.nodeId !== undefined) insert(entry(tasksByNode, task.nodeId), task);
  };

  return {
    get index() {
      return index;
    },
    cluster: () => table("cluster").sorted.list[0],
    node: (id) => table("node").byId.get(id),
    nodes: () => handOut(table("node").sorted),
    network: (id) => table("network").byId.get(id),
    networkByName: (name) => byName("network", name),
    networks: () => handOut(table("network").sorted),
    service: (id) => table("service").byId.get(id),
    serviceByName: (name) => byName("service", name),
    services: () => handOut(table("service").sorted),
    task: (id) => table("task").byId.get(id),
    tasks: () => handOut(table("task").sorted),
    tasksByService: (id) => handOut(tasksByService.get(id)),
    tasksByNode: (id) => handOut(tasksByNode.get(id)),
    secret: (id) => table("secret").byId.get(id),
    secretByName: (name) => byName("secret", name),
    secrets: () => handOut(table("secret").sorted),
    config: (id) => table("config").byId.get(id),
    configByName: (name) => byName("config", name),
    configs: () => handOut(table("config").sorted),
    attachment: (id) => table("attachment").byId.get(id),
    attachments: () => handOut(table("attachment").sorted),
    stack: (id) => table("stack").byId.get(id),
    stackByName: (name) => byName("stack", name),
    stacks: () => handOut(table("stack").sorted),

    get: (name, id) => table(name).byId.get(id),
    put,
    delete: (name, id) => {
      const before = table(name).byId.get(id);
      assert(before, `Delete of a missing object ${name}/${id}`);
      unindex(`${name}/${id}`, {
        claims: claimsOf(name, before),
        targets: referencesOf(name, before),
      });
      table(name).byId.delete(id);
      remove(table(name).sorted, id);
      if (name === "task") {
        // As in put: the table names the type.
        const task = before as Task;
        drop(tasksByService, task.serviceId, task);
        if (task.nodeId !== undefined) drop(tasksByNode, task.nodeId, task);
      }
    },
    exclusiveHolder: (claim) => exclusive.get(claim),
    // Sets keep the order of insertion, which differs between a replayed and a restored replica.
    sharedHolders: (claim) => [...(shared.get(claim) ?? [])].sort(),
    referrers: (target) => [...(references.get(target) ?? [])].sort(),
    setIndex: (next) => {
      assert(next >= index, `Applied index goes back from ${index} to ${next}`);
      index = next;
    },
    replaceAll: (rows, nextIndex) => {
      tables = emptyTables();
      tasksByService = new Map();
      tasksByNode = new Map();
      exclusive = new Map();
      shared = new Map();
      references = new Map();
      for (const row of rows) put(row.table, row.object);
      index = nextIndex;
    },
  };
}

type Table<T extends TableName> = {
  byId: Map<string, Tables[T]>;
  sorted: SortedObjects<Tables[T]>;
};

function emptyTables(): { [T in TableName]: Table<T> } {
  const empty = <T extends TableName>(): Table<T> => ({
    byId: new Map(),
    sorted: { list: [], isHandedOut: false },
  });
  return {
    cluster: empty<"cluster">(),
    node: empty<"node">(),
    network: empty<"network">(),
    secret: empty<"secret">(),
    config: empty<"config">(),
    service: empty<"service">(),
    task: empty<"task">(),
    attachment: empty<"attachment">(),
    stack: empty<"stack">(),
  };
}

/** Objects by ascending id; copied before a write once a reader has it. */
type SortedObjects<O extends { id: string }> = { list: O[]; isHandedOut: boolean };

const NOTHING: readonly never[] = Object.freeze([]);

function handOut<O extends { id: string }>(sorted: SortedObjects<O> | undefined): readonly O[] {
  if (!sorted) return NOTHING;
  sorted.isHandedOut = true;
  return sorted.list;
}

function writable<O extends { id: string }>(sorted: SortedObjects<O>): O[] {
  if (sorted.isHandedOut) {
    sorted.list = sorted.list.slice();
    sorted.isHandedOut = false;
  }
  return sorted.list;
}

/** Position of the first object whose id is not below `id`. */
function positionOf(list: readonly { id: string }[], id: string): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const object = list[middle];
    assert(object, "A sorted list has no holes");
    if (object.id < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

function insert<O extends { id: string }>(sorted: SortedObjects<O>, object: O): void {
  const list = writable(sorted);
  const position = positionOf(list, object.id);
  if (list[position]?.id === object.id) list[position] = object;
  else if (position === list.length) list.push(object);
  else list.splice(position, 0, object);
}

function remove<O extends { id: string }>(sorted: SortedObjects<O>, id: string): void {
  const list = writable(sorted);
  const position = positionOf(list, id);
  assert(list[position]?.id === id, `Sorted list lacks ${id}`);
  list.splice(position, 1);
}

function entry(map: Map<string, SortedObjects<Task>>, key: string): SortedObjects<Task> {
  let sorted = map.get(key);
  if (!sorted) {
    sorted = { list: [], isHandedOut: false };
    map.set(key, sorted);
  }
  return sorted;
}

function drop(map: Map<string, SortedObjects<Task>>, key: string, task: Task): void {
  const sorted = map.get(key);
  assert(sorted, `Task index lacks ${key}`);
  remove(sorted, task.id);
  if (sorted.list.length === 0) map.delete(key);
}

function addTo(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key);
  if (set) set.add(value);
  else map.set(key, new Set([value]));
}

function dropFrom(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key);
  set?.delete(value);
  if (set?.size === 0) map.delete(key);
}
