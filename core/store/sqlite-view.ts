/** A `ClusterView` over state.db: each read is one indexed query, parsed when asked for. */
import type { Database } from "bun:sqlite";
import type { RaftIndex } from "../ids.ts";
import type { TableName, Tables } from "./action.ts";
import { CLEAR_ROWS, type RowForm } from "./sqlite-row-form.ts";
import type { ClusterView } from "./view.ts";

/**
 * `at(index)` gives the view for one read transaction, which the caller holds; `index` is the applied
 * index read inside it. Statements are prepared once per connection.
 */
export function createSqliteView(
  database: Database,
  form: RowForm = CLEAR_ROWS,
): { at(index: RaftIndex): ClusterView } {
  type Body = { id: string; version: number; body: string };
  const parse = <T extends TableName>(table: T, row: Body) =>
    JSON.parse(form.open(table, row)) as Tables[T];
  // Every body was written by sqlite-store.ts from an object of its table: hence the casts.
  const one = <T extends TableName>(table: T, where: string) => {
    const query = database.query<Body, [string]>(
      `SELECT id, version, body FROM ${table} WHERE ${where}`,
    );
    return (value: string): Tables[T] | undefined => {
      const row = query.get(value);
      return row ? parse(table, row) : undefined;
    };
  };
  const list = <T extends TableName>(table: T, where?: string) => {
    const condition = where ? `WHERE ${where}` : "";
    const query = database.query<Body, string[]>(
      `SELECT id, version, body FROM ${table} ${condition} ORDER BY id`,
    );
    return (...values: string[]): Tables[T][] =>
      query.all(...values).map((row) => parse(table, row));
  };
  const byName = <T extends TableName>(table: T) => {
    const find = one(table, "name = ?");
    return (name: string) => find(form.nameOf(name));
  };
  const clusters = list("cluster");
  const reads: Omit<ClusterView, "index"> = {
    cluster: () => clusters()[0],
    node: one("node", "id = ?"),
    nodes: list("node"),
    network: one("network", "id = ?"),
    networkByName: byName("network"),
    networks: list("network"),
    service: one("service", "id = ?"),
    serviceByName: byName("service"),
    services: list("service"),
    task: one("task", "id = ?"),
    tasks: list("task"),
    tasksByService: list("task", "service_id = ?"),
    tasksByNode: list("task", "node_id = ?"),
    secret: one("secret", "id = ?"),
    secretByName: byName("secret"),
    secrets: list("secret"),
    config: one("config", "id = ?"),
    configByName: byName("config"),
    configs: list("config"),
    attachment: one("attachment", "id = ?"),
    attachments: list("attachment"),
    stack: one("stack", "id = ?"),
    stackByName: byName("stack"),
    stacks: list("stack"),
  };
  return { at: (index) => ({ ...reads, index }) };
}
