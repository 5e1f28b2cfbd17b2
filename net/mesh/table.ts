/**
 * What this node knows of the cluster's network: its settings, the peers, networks, services and
 * endpoints, as the dispatcher sent them. A copy on disk lets a node that starts without any manager
 * program its kernel and answer names again. The copy may be seconds old: the next complete set
 * replaces it, so it is never merged with anything.
 */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { unreachable } from "../../core/assert.ts";
import type {
  AssignmentItem,
  EndpointEntry,
  NodeSettings,
  Peer,
  ServiceEntry,
} from "../../core/dispatcher/assignment.ts";
import type { Network } from "../../core/objects/network.ts";

/** By assignment key. Kinds that are not the mesh's are not kept. */
export type MeshTable = {
  settings: NodeSettings | undefined;
  peers: Map<string, Peer>;
  networks: Map<string, Network>;
  services: Map<string, ServiceEntry>;
  endpoints: Map<string, EndpointEntry>;
};

export type AssignmentsChange = { isComplete: boolean; put: AssignmentItem[]; removed: string[] };

/** A table of a node that was told nothing yet. */
export function emptyTable(): MeshTable {
  return {
    settings: undefined,
    peers: new Map(),
    networks: new Map(),
    services: new Map(),
    endpoints: new Map(),
  };
}

/** Changes the table in place; false when the message held nothing for the mesh. */
export function applyAssignments(table: MeshTable, change: AssignmentsChange): boolean {
  let isChanged = change.isComplete;
  if (change.isComplete) Object.assign(table, emptyTable());
  for (const item of change.put) {
    if (putItem(table, item)) isChanged = true;
  }
  for (const key of change.removed) {
    for (const map of [table.peers, table.networks, table.services, table.endpoints]) {
      if (map.delete(key)) isChanged = true;
    }
  }
  return isChanged;
}

function putItem(table: MeshTable, item: AssignmentItem): boolean {
  switch (item.kind) {
    case "settings":
      table.settings = item.body;
      return true;
    case "peer":
      table.peers.set(item.key, item.body);
      return true;
    case "network":
      table.networks.set(item.key, item.body);
      return true;
    case "service":
      table.services.set(item.key, item.body);
      return true;
    case "endpoint":
      table.endpoints.set(item.key, item.body);
      return true;
    case "task":
    case "secret":
    case "config":
      return false;
  }
  return unreachable(item);
}

/** The table as the items it was made of. */
export function tableItems(table: MeshTable): AssignmentItem[] {
  const items: AssignmentItem[] = [];
  if (table.settings) {
    items.push({
      key: `settings/${table.settings.nodeId}`,
      kind: "settings",
      body: table.settings,
    });
  }
  for (const [key, body] of table.peers) items.push({ key, kind: "peer", body });
  for (const [key, body] of table.networks) items.push({ key, kind: "network", body });
  for (const [key, body] of table.services) items.push({ key, kind: "service", body });
  for (const [key, body] of table.endpoints) items.push({ key, kind: "endpoint", body });
  return items;
}

const FILE_NAME = "mesh-table.json";
const FORMAT = 1;

/** The last saved table, or an empty one when there is none or it cannot be read. */
export async function loadTable(dir: string): Promise<MeshTable> {
  const table = emptyTable();
  try {
    // Our own file, written by saveTable; the format number guards against another version's.
    const saved = JSON.parse(await readFile(join(dir, FILE_NAME), "utf8")) as {
      format: number;
      items: AssignmentItem[];
    };
    if (saved.format === FORMAT) {
      applyAssignments(table, { isComplete: true, put: saved.items, removed: [] });
    }
  } catch {
    return emptyTable();
  }
  return table;
}

/** Replaces the file in one step: a crash leaves the old one or the new one. */
export async function saveTable(dir: string, table: MeshTable): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, FILE_NAME);
  const draft = `${path}.new`;
  const file = await open(draft, "w", 0o600);
  try {
    await file.writeFile(JSON.stringify({ format: FORMAT, items: tableItems(table) }));
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
}

export async function removeTable(dir: string): Promise<void> {
  await rm(join(dir, FILE_NAME), { force: true });
}
