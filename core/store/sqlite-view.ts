/** A `ClusterView` over state.db: each read is one indexed query, parsed when asked for. */
import type { Database } from "bun:sqlite";
import type { RaftIndex } from "../ids.ts";
import type { TableName, Tables } from "./action.ts";
import type { ClusterView } from "./view.ts";

/**
 * `at(index)` gives the view for one read transaction, which the caller holds; `index` is the applied
 * index read inside it. Statements are prepared once per connection.
 */
export function createSqliteView(database: Database): { at(index: RaftIndex): ClusterView } {
  type Body = { body: string };
  // Every body was written by sqlite-store.ts from an object of its table: hence the casts.
  const one = <T extends TableName>(table: T, where: string) => {
    const query = database.query<Body, [string]>(`SELECT body FROM ${table} WHERE ${where}`);
    return (value: string): Tables[T] | undefined => {
      const row = query.get(value);
      return row ? (JSON.parse(row.body) as Tables[T]) : undefined;
    };
  };
  const list = <T extends TableName>(table: T, where?: string) => {
    const condition = where ? `WHERE ${where}` : "";
    const query = database.query<Body, string[]>(
      `SELECT body FROM ${table} ${condition} ORDER BY id`,
    );
    return (...values: string[]): Tables[T][] =>
      query.all(...values).map((row) => JSON.parse(row.body) as Tables[T]);
  };
  const clusters = list("cluster");
  const reads: Omit<ClusterView, "index"> = {
    cluster: () => clusters()[0],
    node: one("node", "id = ?"),
    nodes: list("node"),
    network: one("network", "id = ?"),
    networkByName: one("network", "name = ?"),
    networks: list("network"),
    service: one("service", "id = ?"),
    serviceByName: one("service", "name = ?"),
    services: list("service"),
    task: one("task", "id = ?"),
    tasks: list("task"),
    tasksByService: list("task", "service_id = ?"),
    tasksByNode: list("task", "node_id = ?"),
    secret: one("secret", "id = ?"),
    secretByName: one("secret", "name = ?"),
    secrets: list("secret"),
    config: one("config", "id = ?"),
    configByName: one("config", "name = ?"),
    configs: list("config"),
    attachment: one("attachment", "id = ?"),
    attachments: list("attachment"),
  };
  return { at: (index) => ({ ...reads, index }) };
}
