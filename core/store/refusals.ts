/**
 * The rules that an object must keep to be written or removed, each as a value with Docker's words.
 * Pure reads over a row store; apply.ts decides what a refusal means for the proposal.
 * Source of the texts: SwarmKit manager/controlapi, manager/state/store; moby libnetwork ipams.
 */
import { unreachable } from "../assert.ts";
import type { ErrorCode } from "../errors.ts";
import { isTaskDead, TASK_STATE_ORDER, type Task, type TaskStatus } from "../objects/task.ts";
import type { TableName, Tables } from "./action.ts";
import { cidrsOverlap } from "./cidr.ts";
import { cidrs6Overlap } from "./cidr6.ts";
import { claimsOf, referencesOf } from "./claims.ts";
import type { ObjectKey, RowStore } from "./rows.ts";

export type Refusal = { code: ErrorCode; message: string; details?: Record<string, unknown> };

export function notFound(table: TableName, id: string): Refusal {
  return { code: "not-found", message: `${table} ${id} not found` };
}

/**
 * The rule for a write that names the version it was made from (`version` is the stored one);
 * without such a name every version is right. The text is what the CLI looks for.
 */
export function refuseVersion(version: number, ifVersion: number | undefined): Refusal | undefined {
  if (ifVersion === undefined || ifVersion === version) return undefined;
  return {
    code: "version-conflict",
    message: "update out of sequence",
    details: { version, ifVersion },
  };
}

/** Rules for writing `next` in place of `before` (absent: a creation). */
export function refuseWrite<T extends TableName>(
  rows: RowStore,
  table: T,
  next: Tables[T],
  before: Tables[T] | undefined,
): Refusal | undefined {
  return (
    // The table names the type, which TypeScript does not follow through a generic parameter.
    (table === "task" ? refuseTask(rows, next as Task, before as Task | undefined) : undefined) ??
    refuseMissingReferences(rows, table, next, before) ??
    refuseClaims(rows, table, next) ??
    refuseSubnets(rows, table, next)
  );
}

/** A status moves forward only, and not beyond an end; within one state the newer report is taken. */
export function refuseStatus(task: Task, status: TaskStatus): Refusal | undefined {
  const from = TASK_STATE_ORDER[task.status.state];
  const to = TASK_STATE_ORDER[status.state];
  if (!Object.hasOwn(TASK_STATE_ORDER, status.state)) {
    return invalid(`Unknown task state "${status.state}"`);
  }
  const isEnded = isTaskDead(task.status.state);
  if ((to > from && !isEnded) || (to === from && status.atMs >= task.status.atMs)) return undefined;
  const message =
    to === from
      ? `Cannot update task ${task.id}: a newer report of "${status.state}" is known`
      : `Cannot move task ${task.id} from "${task.status.state}" ${to > from ? "on" : "back"} to "${status.state}"`;
  return { code: "failed-precondition", message };
}

function refuseTask(rows: RowStore, next: Task, before: Task | undefined): Refusal | undefined {
  if (!Object.hasOwn(TASK_STATE_ORDER, next.status.state)) {
    return invalid(`Unknown task state "${next.status.state}"`);
  }
  if (!DESIRED_STATES.has(next.desiredState)) {
    return invalid(`Unknown desired state "${next.desiredState}" of task ${next.id}`);
  }
  // Becomes a column of state.db, which refuses to bind anything else.
  if (next.nodeId !== undefined && typeof next.nodeId !== "string") {
    return invalid(`Node of task ${next.id} is not a text`);
  }
  if (!before) {
    if (rows.get("service", next.serviceId)) return undefined;
    return { code: "not-found", message: `service ${next.serviceId} not found` };
  }
  // Equal states are allowed here whatever their time: a manager writes why a task still waits, by
  // its own clock.
  if (TASK_STATE_ORDER[next.status.state] < TASK_STATE_ORDER[before.status.state]) {
    return refuseStatus(before, next.status);
  }
  if (TASK_STATE_ORDER[next.desiredState] < TASK_STATE_ORDER[before.desiredState]) {
    return {
      code: "failed-precondition",
      message: `Cannot move desired state of task ${next.id} back from "${before.desiredState}" to "${next.desiredState}"`,
    };
  }
  if (before.nodeId !== undefined && before.nodeId !== next.nodeId) {
    return {
      code: "failed-precondition",
      message: `Cannot move task ${next.id} from node ${before.nodeId}: a task keeps its node`,
    };
  }
  if (before.serviceId !== next.serviceId) {
    return { code: "failed-precondition", message: `Cannot change the service of task ${next.id}` };
  }
  return undefined;
}

const DESIRED_STATES: ReadonlySet<string> = new Set([
  "ready",
  "running",
  "complete",
  "shutdown",
  "remove",
] satisfies Task["desiredState"][]);

function refuseMissingReferences<T extends TableName>(
  rows: RowStore,
  table: T,
  next: Tables[T],
  before: Tables[T] | undefined,
): Refusal | undefined {
  if (table !== "service" && table !== "task") return undefined;
  // What was referenced before exists (claims.ts, rule 2), so only new references are looked up.
  const known = before ? new Set(referencesOf(table, before)) : undefined;
  for (const target of referencesOf(table, next)) {
    if (known?.has(target)) continue;
    const [kind, id] = splitKey(target);
    if (rows.get(kind, id)) continue;
    if (kind === "network") return { code: "not-found", message: `network ${id} not found` };
    return { code: "invalid-argument", message: `${kind} not found: ${id}` };
  }
  return undefined;
}

function refuseClaims<T extends TableName>(
  rows: RowStore,
  table: T,
  next: Tables[T],
): Refusal | undefined {
  const self = `${table}/${next.id}`;
  const claims = claimsOf(table, next);
  for (const claim of claims.exclusive) {
    const holder = rows.exclusiveHolder(claim);
    if (holder !== undefined && holder !== self) return claimRefusal(rows, claim, holder, next);
    const sharer = rows.sharedHolders(claim).find((key) => key !== self);
    if (sharer !== undefined) return claimRefusal(rows, claim, sharer, next, "shared");
  }
  for (const claim of claims.shared) {
    const holder = rows.exclusiveHolder(claim);
    if (holder !== undefined && holder !== self) return claimRefusal(rows, claim, holder, next);
  }
  return undefined;
}

function claimRefusal(
  rows: RowStore,
  claim: string,
  holder: ObjectKey,
  next: Tables[TableName],
  mode: "exclusive" | "shared" = "exclusive",
): Refusal {
  const [holderTable, holderId] = splitKey(holder);
  const [kind = "", first = "", second = ""] = claim.split("/");
  const details = { holder: holderId };
  switch (kind) {
    case "name": {
      // The claim is in lower case; the message names what was asked for.
      const name = "spec" in next && "Name" in next.spec ? next.spec.Name : second;
      const message =
        first === "network"
          ? `network with name ${name} already exists`
          : `name conflicts with an existing object: ${first} ${name} already exists`;
      return { code: "name-conflict", message, details };
    }
    case "port": {
      const name = rows.service(holderId)?.spec.Name ?? holderId;
      const how = mode === "shared" ? "a host-published port" : "an ingress port";
      return {
        code: "invalid-argument",
        message: `port '${second}' is already in use by service '${name}' (${holderId}) as ${how}`,
        details,
      };
    }
    case "ingress":
      return {
        code: "name-conflict",
        message: `ingress network (${holderId}) is already present`,
        details,
      };
    case "address":
      return {
        code: "failed-precondition",
        message: `Cannot use address ${second} of network ${first}: ${holderTable} ${holderId} holds it`,
        details,
      };
    default:
      return {
        code: "failed-precondition",
        message: `Cannot use ${claim}: ${holderTable} ${holderId} holds it`,
        details,
      };
  }
}

function refuseSubnets<T extends TableName>(
  rows: RowStore,
  table: T,
  next: Tables[T],
): Refusal | undefined {
  if (table !== "network" && table !== "cluster") return undefined;
  const overlap = (subnet: string, other: string, what: string): Refusal | undefined =>
    cidrsOverlap(subnet, other) || cidrs6Overlap(subnet, other)
      ? {
          code: "failed-precondition",
          message: `invalid pool request: Pool overlaps with other one on this address space: ${subnet} and ${other} of ${what}`,
        }
      : undefined;
  if ("meshPool" in next) {
    for (const network of rows.networks()) {
      const refusal =
        network.subnet && overlap(next.meshPool, network.subnet, `network ${network.id}`);
      if (refusal) return refusal;
    }
    return undefined;
  }
  if (!("subnet" in next) || !next.subnet) return undefined;
  const { subnet6 } = next;
  const meshPool = rows.cluster()?.meshPool;
  const refusal = meshPool ? overlap(next.subnet, meshPool, "the mesh pool") : undefined;
  if (refusal) return refusal;
  for (const network of rows.networks()) {
    if (network.id === next.id || !network.subnet) continue;
    const what = `network ${network.id}`;
    const refusal =
      overlap(next.subnet, network.subnet, what) ??
      (subnet6 && network.subnet6 ? overlap(subnet6, network.subnet6, what) : undefined);
    if (refusal) return refusal;
  }
  return undefined;
}

/** Rules for removing an object: nothing may use it. */
export function refuseRemoval(rows: RowStore, table: TableName, id: string): Refusal | undefined {
  switch (table) {
    case "cluster":
      return { code: "failed-precondition", message: "Cannot remove the cluster object" };
    case "node":
    case "service":
    case "task":
    case "attachment":
    case "stack":
      // A removed service's tasks stay: the orchestrator stops and removes them.
      return undefined;
    case "network":
      return refuseNetworkRemoval(rows, id);
    case "secret":
    case "config": {
      const users = rows.referrers(`${table}/${id}`).map((key) => {
        const serviceId = splitKey(key)[1];
        return rows.service(serviceId)?.spec.Name ?? serviceId;
      });
      if (users.length === 0) return undefined;
      const name = rows.get(table, id)?.spec.Name ?? id;
      const services = users.length === 1 ? "service" : "services";
      return {
        code: "in-use",
        message: `${table} '${name}' is in use by the following ${services}: ${users.sort().join(", ")}`,
      };
    }
    default:
      return unreachable(table);
  }
}

function refuseNetworkRemoval(rows: RowStore, id: string): Refusal | undefined {
  if (rows.network(id)?.spec.Ingress) {
    const user = rows
      .services()
      .find((service) =>
        claimsOf("service", service).exclusive.some((claim) => claim.startsWith("port/")),
      );
    if (user) {
      return {
        code: "in-use",
        message: `ingress network cannot be removed because service ${user.id} depends on it`,
      };
    }
  }
  // A task whose service is gone is to be stopped, only its desired state does not say so yet:
  // `stack rm` removes services and networks in one go.
  const user = rows.referrers(`network/${id}`).find((key) => !isLeftBehind(rows, key));
  if (user === undefined) return undefined;
  // "service/…" sorts before "task/…", so that a service is named first, as in stock.
  const [table, userId] = splitKey(user);
  const attached = table === "attachment" ? rows.attachment(userId) : undefined;
  if (attached) {
    return {
      code: "in-use",
      message: `network ${id} is in use by container ${attached.name} of node ${attached.nodeId}`,
    };
  }
  return { code: "in-use", message: `network ${id} is in use by ${table} ${userId}` };
}

function isLeftBehind(rows: RowStore, key: ObjectKey): boolean {
  const [table, id] = splitKey(key);
  const task = table === "task" ? rows.task(id) : undefined;
  return task !== undefined && !rows.service(task.serviceId);
}

export function invalid(message: string): Refusal {
  return { code: "invalid-argument", message };
}

function splitKey(key: ObjectKey): [TableName, string] {
  const slash = key.indexOf("/");
  // Keys are made in claims.ts and memory-rows.ts from table names.
  return [key.slice(0, slash) as TableName, key.slice(slash + 1)];
}
