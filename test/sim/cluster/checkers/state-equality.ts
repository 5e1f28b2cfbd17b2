/** Replicas that have applied the same index have the same state, byte for byte. */
import type { Change } from "../../../../core/store/action.ts";
import type { MemoryRows } from "../../../../core/store/memory-rows.ts";
import { bodiesOf } from "../../../../core/store/sqlite-snapshot.ts";
import type { Report } from "../../checkers/report.ts";

/** Entries between full readings: what changes the rows without telling shows there. */
const FULL_STEP = 40;

export type Replica = { name: string; hashes: Map<string, bigint>; total: bigint };

export function stateEquality(report: Report): {
  /** A replica began, or took a snapshot. */
  replaced(name: string, rows: MemoryRows): Replica;
  applied(replica: Replica, rows: MemoryRows, changes: readonly Change[]): void;
} {
  const known = new Map<number, { total: bigint; name: string }>();

  const compare = (replica: Replica, index: number) => {
    const found = known.get(index);
    if (!found) known.set(index, { total: replica.total, name: replica.name });
    else if (found.total !== replica.total) {
      report(
        "state-equality",
        `${replica.name} and ${found.name} have different states at index ${index}`,
      );
    }
  };
  const fill = (replica: Replica, rows: MemoryRows) => {
    replica.hashes.clear();
    replica.total = 0n;
    for (const { table, body } of bodiesOf(rows)) {
      // The id is in the body, and so in the hash.
      const hash = hashOf(table, body);
      replica.hashes.set(`${table}/${idIn(body)}`, hash);
      replica.total ^= hash;
    }
  };

  return {
    replaced: (name, rows) => {
      const replica: Replica = { name, hashes: new Map(), total: 0n };
      fill(replica, rows);
      if (rows.index > 0) compare(replica, rows.index);
      return replica;
    },
    applied: (replica, rows, changes) => {
      for (const change of changes) {
        const key = `${change.table}/${change.id}`;
        replica.total ^= replica.hashes.get(key) ?? 0n;
        replica.hashes.delete(key);
        if (change.kind === "remove") continue;
        const hash = hashOf(change.table, JSON.stringify(change.object));
        replica.hashes.set(key, hash);
        replica.total ^= hash;
      }
      if (rows.index % FULL_STEP === 0) {
        const told = replica.total;
        fill(replica, rows);
        if (told !== replica.total) {
          report("state-equality", `${replica.name} changed more than it told by ${rows.index}`);
        }
      }
      compare(replica, rows.index);
    },
  };
}

function hashOf(table: string, body: string): bigint {
  return Bun.hash(`${table}\t${body}`);
}

function idIn(body: string): string {
  return (JSON.parse(body) as { id: string }).id;
}
