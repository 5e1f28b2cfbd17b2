/**
 * What this node knows of the cluster's network: its settings, the peers, networks, services and
 * endpoints, as the dispatcher sent them. A copy on disk lets a node that starts without any manager
 * program its kernel and answer names again. The copy may be seconds old: the next complete set
 * replaces it, so it is never merged with anything.
 */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { unreachable } from "../../core/assert.ts";
import {
  type AssignmentItem,
  type EndpointEntry,
  MESH_KEYS_KEY,
  type MeshKeys,
  type NodeSettings,
  type Peer,
  type ServiceEntry,
} from "../../core/dispatcher/assignment.ts";
import type { Network } from "../../core/objects/network.ts";
import type { Task } from "../../core/objects/task.ts";
import type { ResolverEntry } from "../dns/name-table.ts";

/** By assignment key. Kinds that are not the mesh's are not kept. */
export type MeshTable = {
  settings: NodeSettings | undefined;
  peers: Map<string, Peer>;
  networks: Map<string, Network>;
  services: Map<string, ServiceEntry>;
  endpoints: Map<string, EndpointEntry>;
  /** Of this node's tasks whose user chose name servers; nothing else of a task is kept. */
  resolvers: Map<string, ResolverEntry>;
  /** Of encrypted networks. Not in the copy on disk: secrets, and of no use without the managers. */
  keys: MeshKeys | undefined;
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
    resolvers: new Map(),
    keys: undefined,
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
    const { peers, networks, services, endpoints, resolvers } = table;
    for (const map of [peers, networks, services, endpoints, resolvers]) {
      if (map.delete(key)) isChanged = true;
    }
    if (key === MESH_KEYS_KEY) {
      table.keys = undefined;
      isChanged = true;
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
    case "task": {
      const wanted = resolverOf(item.body);
      if (!wanted) return table.resolvers.delete(item.key);
      const isSame = isDeepStrictEqual(table.resolvers.get(item.key), wanted);
      table.resolvers.set(item.key, wanted);
      return !isSame;
    }
    case "mesh-keys":
      table.keys = item.body;
      return true;
    case "secret":
    case "config":
      return false;
  }
  return unreachable(item);
}

function resolverOf(task: Task): ResolverEntry | undefined {
  const nameservers = task.spec.ContainerSpec.DNSConfig?.Nameservers ?? [];
  if (nameservers.length === 0) return undefined;
  const addresses = (task.networks ?? []).flatMap(({ address, address6 }) =>
    [address, address6].filter((text) => text !== undefined),
  );
  return { addresses, nameservers };
}

/** The table as the items it was made of, but for the resolvers and the keys. */
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
      resolvers?: [string, ResolverEntry][];
    };
    if (saved.format === FORMAT) {
      applyAssignments(table, { isComplete: true, put: saved.items, removed: [] });
      table.resolvers = new Map(saved.resolvers);
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
    const saved = { format: FORMAT, items: tableItems(table), resolvers: [...table.resolvers] };
    await file.writeFile(JSON.stringify(saved));
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
}

export async function removeTable(dir: string): Promise<void> {
  await rm(join(dir, FILE_NAME), { force: true });
}
