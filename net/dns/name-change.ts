/**
 * What the DNS thread has to be told: the mesh's items cut down to what names are made of, and of a
 * change only what differs. A complete set after a lost session usually differs in nothing. Pure.
 */
import { isDeepStrictEqual } from "node:util";
import { unreachable } from "../../core/assert.ts";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import {
  applyAssignments,
  type AssignmentsChange,
  type MeshTable,
  tableItems,
} from "../mesh/table.ts";
import type { NameChange, NameItem } from "./name-table.ts";

/** Undefined for what names do not depend on. */
function nameItem(item: AssignmentItem): NameItem | undefined {
  const { key } = item;
  switch (item.kind) {
    case "network": {
      const { id, spec, subnet, subnet6 } = item.body;
      const body = {
        id,
        name: spec.Name,
        isInternal: spec.Internal,
        ...(subnet === undefined ? {} : { subnet }),
        ...(subnet6 === undefined ? {} : { subnet6 }),
      };
      return { key, kind: "network", body };
    }
    case "service": {
      const { serviceId, name, mode, virtualIps, aliases } = item.body;
      return { key, kind: "service", body: { serviceId, name, mode, virtualIps, aliases } };
    }
    case "endpoint": {
      const { serviceId, name, addresses, aliases, isReady } = item.body;
      const body = { serviceId, name, addresses, isReady, ...(aliases ? { aliases } : {}) };
      return { key, kind: "endpoint", body };
    }
    case "settings":
    case "peer":
    case "task":
    case "secret":
    case "config":
    case "mesh-keys":
      return undefined;
    default:
      return unreachable(item);
  }
}

/** All of a table. */
export function nameItems(table: MeshTable): NameItem[] {
  const items = tableItems(table).flatMap((item) => nameItem(item) ?? []);
  for (const [key, body] of table.resolvers) items.push({ key, kind: "resolver", body });
  return items;
}

/**
 * Applies the change to the table, and gives what it was for the names: keys without a difference
 * are left out. `isChanged` as of `applyAssignments`.
 */
export function changeTable(
  table: MeshTable,
  change: AssignmentsChange,
): { isChanged: boolean; names: NameChange } {
  // A complete set replaces the maps and leaves the old ones whole.
  const was = { ...table };
  const keys = change.isComplete ? itemKeys(table) : new Set(change.removed);
  for (const item of change.put) keys.add(item.key);
  const before = new Map<string, NameItem>();
  if (!change.isComplete) {
    for (const key of keys) {
      const item = nameItemOf(was, key);
      if (item) before.set(key, item);
    }
  }
  const isChanged = applyAssignments(table, change);
  const names: NameChange = { put: [], removed: [] };
  for (const key of keys) {
    const old = change.isComplete ? nameItemOf(was, key) : before.get(key);
    const item = nameItemOf(table, key);
    if (item && !isDeepStrictEqual(old, item)) names.put.push(item);
    else if (old && !item) names.removed.push(key);
  }
  return { isChanged, names };
}

function itemKeys(table: MeshTable): Set<string> {
  const { networks, services, endpoints, resolvers } = table;
  return new Set([networks, services, endpoints, resolvers].flatMap((map) => [...map.keys()]));
}

function nameItemOf(table: MeshTable, key: string): NameItem | undefined {
  const network = table.networks.get(key);
  if (network) return nameItem({ key, kind: "network", body: network });
  const service = table.services.get(key);
  if (service) return nameItem({ key, kind: "service", body: service });
  const endpoint = table.endpoints.get(key);
  if (endpoint) return nameItem({ key, kind: "endpoint", body: endpoint });
  const resolver = table.resolvers.get(key);
  return resolver && { key, kind: "resolver", body: resolver };
}
