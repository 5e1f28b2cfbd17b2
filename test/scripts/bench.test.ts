import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isEtcdInstalled } from "../../scripts/bench/etcd.ts";
import { run } from "../../scripts/lab/command.ts";

async function bench(...flags: string[]) {
  // Its own, so that another run beside it is not taken for what this one left.
  const tempDir = mkdtempSync(join(tmpdir(), "shoal-bench-test-"));
  const script = join(import.meta.dir, "../../scripts/bench.ts");
  const shown = await run([process.execPath, script, "raft", "--json", ...flags], {
    timeoutMs: 110_000,
    env: { TMPDIR: tempDir },
  });
  expect(readdirSync(tempDir)).toEqual([]);
  rmSync(tempDir, { recursive: true });
  const { rows } = JSON.parse(shown) as {
    rows: { name: string; unit: string; ours: number; peer?: number; ratio?: number }[];
  };
  return rows;
}

const SHORT = ["--quick", "--rounds", "1", "--duration", "500", "--workers", "1,16"];

test("the raft bench measures writes, reads and a leader's death, and leaves no files", async () => {
  const rows = await bench(...SHORT, "--kills", "1", "--writes", "500", "--no-peer");
  const found = (name: string) => rows.find((row) => row.name === name)?.ours ?? Number.NaN;
  expect(found("writes 1 writer")).toBeGreaterThan(0);
  expect(found("writes 16 writers")).toBeGreaterThan(0);
  expect(found("linearizable reads 16 readers")).toBeGreaterThan(0);
  expect(found("failover median, 1 kills")).toBeGreaterThan(0);
  expect(found("leader's memory after them")).toBeGreaterThan(10);
}, 120_000);

// etcd is Debian's etcd-server and etcd-client: apt-get install them to have the peer's side tested.
test.skipIf(!isEtcdInstalled())(
  `the raft bench measures etcd beside it${isEtcdInstalled() ? "" : " (skipped: etcd is not installed)"}`,
  async () => {
    const rows = await bench(...SHORT, "--only", "throughput");
    for (const name of ["writes 1 writer", "linearizable reads 16 readers"]) {
      const row = rows.find((candidate) => candidate.name === name);
      expect(row?.peer).toBeGreaterThan(0);
      expect(row?.ratio).toBeCloseTo((row?.ours ?? 0) / (row?.peer ?? 1), 1);
    }
  },
  120_000,
);
