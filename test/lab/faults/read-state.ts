/**
 * Prints a manager's applied index and a digest of each table, from its state.db, as JSON; the manager is not
 * locked. Run inside of the host: SQLite resolves links itself, and /proc/PID/root is one that only the kernel can
 * follow.
 *
 *     nsenter … bun test/lab/faults/read-state.ts /var/lib/shoal
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { openLock } from "../../../agent/lock.ts";
import { loadStorageKey } from "../../../agent/storage-key.ts";
import { createRowSealer } from "../../../core/sqlite-seal.ts";
import { sealedRows } from "../../../core/store/sqlite-row-form.ts";
import { bodiesOf } from "../../../core/store/sqlite-snapshot.ts";
import { openStateReader } from "../../../core/store/sqlite-store.ts";

export type StateDigest = { appliedIndex: number; digests: Record<string, string> };

function digestState(dataDir: string): StateDigest {
  const key = loadStorageKey(dataDir, openLock(dataDir).files);
  const form = sealedRows(createRowSealer(key));
  const reader = openStateReader(join(dataDir, "state/state.db"), undefined, form);
  try {
    // One transaction: index and rows of one moment.
    return reader.read((view) => {
      const hashes = new Map<string, ReturnType<typeof createHash>>();
      for (const { table, body } of bodiesOf(view)) {
        const hash = hashes.get(table) ?? createHash("sha256");
        hashes.set(table, hash.update(body));
      }
      const digests = [...hashes].map(([table, hash]) => [table, hash.digest("hex")]);
      return { appliedIndex: view.index, digests: Object.fromEntries(digests) };
    });
  } finally {
    reader.close();
  }
}

if (import.meta.main) {
  const [dataDir] = process.argv.slice(2);
  if (dataDir === undefined) throw new Error("Cannot read a state: give the data directory");
  process.stdout.write(JSON.stringify(digestState(dataDir)));
}
