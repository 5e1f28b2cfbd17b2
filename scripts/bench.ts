/**
 * Benchmarks by name: `bun scripts/bench.ts NAME [--json]`. Speed and memory live here, not in
 * tests. With --json one object `{ bench, machine, rows }` is printed; else a table.
 */
import { cpus, totalmem } from "node:os";
import { measureDns } from "./bench/dns.ts";
import { measureFootprint } from "./bench/footprint.ts";
import { measureOrchestrate } from "./bench/orchestrate.ts";
import { measureMesh } from "./bench/mesh.ts";
import { measureRaft } from "./bench/raft.ts";

export type BenchRow = { name: string; unit: string; ours: number; peer?: number; ratio?: number };

const BENCHES: Record<string, (flags: readonly string[]) => Promise<BenchRow[]>> = {
  dns: measureDns,
  footprint: measureFootprint,
  orchestrate: measureOrchestrate,
  mesh: measureMesh,
  raft: measureRaft,
};

const [name = "", ...flags] = process.argv.slice(2);
const bench = BENCHES[name];
if (!bench) {
  console.error(`Unknown benchmark "${name}": choose one of ${Object.keys(BENCHES).join(", ")}`);
  process.exit(2);
}
const rows = await bench(flags);
const machine = {
  cpu: cpus()[0]?.model ?? "unknown",
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  bun: Bun.version,
};
if (flags.includes("--json")) {
  console.log(JSON.stringify({ bench: name, machine, rows }));
} else {
  for (const row of rows) {
    const peer = row.peer === undefined ? "" : `   peer ${row.peer}   ratio ${row.ratio ?? ""}`;
    console.log(`${row.name.padEnd(44)} ${String(row.ours).padStart(10)} ${row.unit}${peer}`);
  }
}
