/**
 * The state machine: what a committed proposal does to the state.
 *
 * 1. Total: whatever the bytes are, there is an outcome and no exception. An exception here would
 *    stop every replica at the same entry for ever.
 * 2. Deterministic: reads the rows, the proposal and the index, nothing else.
 * 3. Mode `all` changes everything or nothing; mode `each` drops refused actions one by one.
 * 4. An object's version is the index of its last change, its times are the proposer's.
 *
 * The rules are in refusals.ts, uniqueness and use in claims.ts. Persisting is sqlite-store.ts.
 */
import { AssertionError, unreachable } from "../assert.ts";
import type { RaftIndex } from "../ids.ts";
import type { Task, TaskStatus } from "../objects/task.ts";
import { decodeProposal } from "../protocol.ts";
import type {
  Change,
  CreateAction,
  Outcome,
  Proposal,
  RemoveAction,
  StoreAction,
  TableName,
  Tables,
  TaskStatusAction,
  UpdateAction,
} from "./action.ts";
import {
  invalid,
  notFound,
  type Refusal,
  refuseRemoval,
  refuseStatus,
  refuseVersion,
  refuseWrite,
} from "./refusals.ts";
import type { RowStore } from "./rows.ts";

/** Top-level fields that every object of a table has: an update may set but not unset them. */
const REQUIRED_FIELDS: { [T in TableName]: readonly string[] } = {
  cluster: [
    "spec",
    "rootCa",
    "joinTokens",
    "addressPools",
    "subnetSize",
    "meshPool",
    "dataPathPort",
  ],
  node: ["spec", "status", "role", "index", "meshAddress", "dataPathAddr"],
  network: ["spec"],
  service: ["spec", "specVersion"],
  task: [
    "serviceId",
    "serviceName",
    "serviceLabels",
    "slot",
    "nodeId",
    "spec",
    "specVersion",
    "desiredState",
    "status",
  ],
  secret: ["spec"],
  config: ["spec"],
  attachment: ["nodeId", "networkId", "address", "name", "aliases"],
  stack: ["spec", "revisions"],
};
const OWN_FIELDS: ReadonlySet<string> = new Set(["id", "version", "createdAtMs", "updatedAtMs"]);

export type ApplyResult = { outcome: Outcome; changes: Change[] };

/** One committed entry: advances the index; an empty one does nothing else. */
export function applyEntry(
  rows: RowStore,
  entry: { index: RaftIndex; data: Uint8Array },
): { proposalId?: string; outcome?: Outcome; changes: Change[] } {
  rows.setIndex(entry.index);
  if (entry.data.length === 0) return { changes: [] };
  let proposal: Proposal;
  try {
    proposal = decodeProposal(entry.data);
  } catch {
    // Not JSON (SyntaxError). Every replica has the same bytes, so all of them refuse it.
    return {
      outcome: refused(entry.index, invalid("Cannot decode the proposal: not JSON")),
      changes: [],
    };
  }
  const problem = proposalProblem(proposal);
  if (problem) {
    return { outcome: refused(entry.index, invalid(problem)), changes: [] };
  }
  return { proposalId: proposal.id, ...apply(rows, proposal, entry.index) };
}

/** Applies one well-formed proposal as the entry at `index`; see the file's head. */
export function apply(rows: RowStore, proposal: Proposal, index: RaftIndex): ApplyResult {
  const changes: Change[] = [];
  const undo: (() => void)[] = [];
  let droppedCount = 0;
  for (const action of proposal.actions) {
    const refusal = applyAction(rows, action, { index, atMs: proposal.atMs, changes, undo });
    if (!refusal) continue;
    if (proposal.mode === "all") {
      for (const step of undo.reverse()) step();
      return { outcome: refused(index, refusal), changes: [] };
    }
    droppedCount += 1;
  }
  return { outcome: { type: "applied", index, droppedCount }, changes };
}

/** What is wrong with the form of a decoded proposal; `undefined` when it can be applied. */
function proposalProblem(proposal: Partial<Proposal> | null): string | undefined {
  if (typeof proposal !== "object" || proposal === null) return "A proposal is an object";
  if (typeof proposal.id !== "string") return "A proposal has a text as id";
  if (!Number.isFinite(proposal.atMs)) return "A proposal has a time";
  if (proposal.mode !== "all" && proposal.mode !== "each")
    return "A proposal's mode is all or each";
  if (!Array.isArray(proposal.actions)) return "A proposal has a list of actions";
  return undefined;
}

type Context = { index: RaftIndex; atMs: number; changes: Change[]; undo: (() => void)[] };

function applyAction(rows: RowStore, action: StoreAction, context: Context): Refusal | undefined {
  try {
    const problem = actionProblem(action);
    if (problem) return invalid(problem);
    switch (action.type) {
      case "create":
        return applyCreate(rows, action, context);
      case "update":
        return applyUpdate(rows, action, context);
      case "remove":
        return applyRemove(rows, action, context);
      case "task-status":
        return applyTaskStatus(rows, action, context);
      default:
        return unreachable(action);
    }
  } catch (error) {
    // A broken invariant of ours is a crash. All else is a TypeError from reading a field that a
    // malformed object lacks; it comes before the first write (see RowStore.put), on every replica.
    if (error instanceof AssertionError) throw error;
    return invalid(`Cannot read the action's object: ${String(error)}`);
  }
}

function actionProblem(action: Partial<StoreAction> | null): string | undefined {
  if (typeof action !== "object" || action === null) return "An action is an object";
  const { type } = action;
  if (type !== "create" && type !== "update" && type !== "remove" && type !== "task-status") {
    return `Unknown action "${String(type)}"`;
  }
  const hasTable = "table" in action && Object.hasOwn(REQUIRED_FIELDS, action.table ?? "");
  if (type !== "task-status" && !hasTable) return `Action "${type}" names no table`;
  const target: unknown =
    action.type === "create" ? action.object : "id" in action ? action : undefined;
  if (typeof target !== "object" || target === null || !("id" in target)) {
    return `Action "${type}" names no object`;
  }
  if (typeof target.id !== "string" || target.id === "") return `Action "${type}" has no id`;
  return undefined;
}

function applyCreate(rows: RowStore, action: CreateAction, context: Context): Refusal | undefined {
  const { table, object } = action;
  if (rows.get(table, object.id)) {
    return { code: "name-conflict", message: `${table} ${object.id} already exists` };
  }
  const filled = {
    ...object,
    version: context.index,
    createdAtMs: context.atMs,
    updatedAtMs: context.atMs,
    ...(table === "service" ? { specVersion: context.index } : {}),
  };
  // Draft plus the fields that it leaves out is the object; TypeScript keeps unions apart.
  return write(rows, table, filled as Tables[TableName], "create", context);
}

function applyUpdate(rows: RowStore, action: UpdateAction, context: Context): Refusal | undefined {
  const { table, id, set } = action;
  const before = rows.get(table, id);
  if (!before) return notFound(table, id);
  const conflict = refuseVersion(before.version, action.ifVersion);
  if (conflict) return conflict;
  const foreign = Object.keys(set).find((field) => OWN_FIELDS.has(field));
  if (foreign !== undefined) return invalid(`Cannot set field "${foreign}" of ${table} ${id}`);
  const next: Record<string, unknown> = { ...before, ...set };
  for (const field of action.unset ?? []) {
    if (OWN_FIELDS.has(field) || REQUIRED_FIELDS[table].includes(field)) {
      return invalid(`Cannot unset field "${field}" of ${table} ${id}`);
    }
    delete next[field];
  }
  next["version"] = context.index;
  next["updatedAtMs"] = context.atMs;
  if (table === "service" && "specVersion" in before) {
    const isNewSpec = "spec" in set && action.isSameSpec !== true;
    next["specVersion"] = isNewSpec ? context.index : before.specVersion;
  }
  // The object before, of this table, with fields of this table's type set.
  return write(rows, table, next as Tables[TableName], "update", context);
}

function applyRemove(rows: RowStore, action: RemoveAction, context: Context): Refusal | undefined {
  const { table, id } = action;
  const before = rows.get(table, id);
  if (!before) return notFound(table, id);
  const refusal = refuseVersion(before.version, action.ifVersion) ?? refuseRemoval(rows, table, id);
  if (refusal) return refusal;
  rows.delete(table, id);
  context.undo.push(() => rows.put(table, before));
  context.changes.push(change("remove", table, before, context.index));
  return undefined;
}

function applyTaskStatus(
  rows: RowStore,
  action: TaskStatusAction,
  context: Context,
): Refusal | undefined {
  const task = rows.task(action.id);
  if (!task) return notFound("task", action.id);
  if (task.nodeId !== action.nodeId) {
    return { code: "forbidden", message: `Task ${task.id} is not on node ${action.nodeId}` };
  }
  const refusal = refuseStatus(task, action.status);
  if (refusal) return refusal;
  const next: Task = {
    ...task,
    status: mergeStatus(task.status, action.status),
    version: context.index,
    updatedAtMs: context.atMs,
  };
  return write(rows, "task", next, "update", context);
}

/**
 * A later report does not erase what history shows of the task: its container, which is gone by then,
 * and why a manager had it stopped, which its node was not told.
 */
export function mergeStatus(before: TaskStatus, next: TaskStatus): TaskStatus {
  const merged = { ...next };
  if (before.container && !next.container) merged.container = before.container;
  if (before.err && !next.err && next.state === "shutdown") merged.err = before.err;
  return merged;
}

function write<T extends TableName>(
  rows: RowStore,
  table: T,
  next: Tables[T],
  kind: "create" | "update",
  context: Context,
): Refusal | undefined {
  const before = rows.get(table, next.id);
  const refusal = refuseWrite(rows, table, next, before);
  if (refusal) return refusal;
  rows.put(table, next);
  context.undo.push(() => (before ? rows.put(table, before) : rows.delete(table, next.id)));
  context.changes.push(change(kind, table, next, context.index));
  return undefined;
}

function change(
  kind: Change["kind"],
  table: TableName,
  object: Tables[TableName],
  index: RaftIndex,
): Change {
  // `object` is of `table` in every call above.
  return { index, kind, table, id: object.id, object } as Change;
}

function refused(index: RaftIndex, refusal: Refusal): Outcome {
  return { type: "refused", index, ...refusal };
}
