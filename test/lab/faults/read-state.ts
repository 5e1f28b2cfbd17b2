/**
 * Prints a manager's applied index and a digest of each table, from its state.db, as JSON. Run inside
 * of the host: SQLite resolves links itself, and /proc/PID/root is one that only the kernel can follow.
 *
 *     nsenter … bun test/lab/faults/read-state.ts /var/lib/shoal/state/state.db
 */
import { Database } from "bun:sqlite";
import { createHash } from "node:crypto";

const TABLES = ["cluster", "node", "network", "service", "secret", "config", "task"] as const;

export type StateDigest = { appliedIndex: number; digests: Record<string, string> };

function digestState(path: string): StateDigest {
  const database = new Database(path, { readonly: true });
  try {
    database.run("PRAGMA busy_timeout = 2000");
    // One transaction: index and rows of one moment.
    return database.transaction(() => {
      const meta = database.prepare<{ applied_index: number }, []>("SELECT * FROM meta").get();
      const digests = Object.fromEntries(
        TABLES.map((table) => {
          const rows = database.prepare(`SELECT * FROM ${table} ORDER BY id`).all();
          return [table, createHash("sha256").update(JSON.stringify(rows)).digest("hex")];
        }),
      );
      return { appliedIndex: meta?.applied_index ?? 0, digests };
    })();
  } finally {
    database.close();
  }
}

if (import.meta.main) {
  const [path] = process.argv.slice(2);
  if (path === undefined) throw new Error("Cannot read a state: give the path of state.db");
  process.stdout.write(JSON.stringify(digestState(path)));
}
