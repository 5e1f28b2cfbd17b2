/**
 * One node's names for `bench.ts dns`: the DNS thread, and the mesh thread that tells it what changes,
 * as in the agent. Arguments: directory with the table, changes a second, and who makes them: `none`,
 * `names` (told to the DNS thread as the mesh would, without one) or `mesh`.
 * Prints a line once it serves, ends with its input, then prints what it did as JSON.
 */
import { MessageChannel, Worker } from "node:worker_threads";
import { workerClient } from "../../agent/worker-client.ts";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { linkNameService } from "../../net/dns/link.ts";
import { changeTable } from "../../net/dns/name-change.ts";
import type { DnsAnswer, DnsInput } from "../../net/dns/protocol.ts";
import type { MeshAnswer, MeshInput, MeshOutput } from "../../net/mesh/protocol.ts";
import { loadTable } from "../../net/mesh/table.ts";

const TICK_MS = 10;

const [dir = "", rate = "0", mode = "none"] = process.argv.slice(2);
const dns = workerClient<DnsInput, DnsAnswer, never>(
  new Worker(new URL("../../agent/dns-worker.ts", import.meta.url)),
  "dns",
);
await dns.request({ type: "init", dir });
let sent = 0;
const line = new MessageChannel();
await dns.request({ type: "link" }, { port: line.port1 });

/** Gives who is told of a change. */
async function startMesh(): Promise<(item: AssignmentItem) => void> {
  const mesh = workerClient<MeshInput, MeshAnswer, MeshOutput>(
    new Worker(new URL("../../agent/mesh-worker.ts", import.meta.url)),
    "mesh",
  );
  const applied = Promise.withResolvers<void>();
  mesh.onOutput((output) => {
    if (output.type === "apply-failed") console.error(output.message);
    if (output.type === "applied") applied.resolve();
  });
  await mesh.request(
    { type: "init", dir, backend: "nftables", engineSocket: "" },
    { port: line.port2 },
  );
  mesh.notify({ type: "assignments", isComplete: false, put: [], removed: [], mark: 1 });
  await applied.promise;
  return (item) =>
    mesh.notify({ type: "assignments", isComplete: false, put: [item], removed: [] });
}

async function startNames(): Promise<(item: AssignmentItem) => void> {
  const names = linkNameService(line.port2);
  const table = await loadTable(dir);
  return (item) =>
    names.change(changeTable(table, { isComplete: false, put: [item], removed: [] }).names);
}

if (mode !== "none") {
  const tell = await (mode === "mesh" ? startMesh() : startNames());
  const { endpoints } = await loadTable(dir);
  const known = [...endpoints];
  const startMs = performance.now();
  setInterval(() => {
    const due = Math.floor(((performance.now() - startMs) * Number(rate)) / 1_000);
    for (; sent < due; sent += 1) {
      const [key, body] = known[(sent * 7) % known.length] ?? [];
      if (key === undefined || !body) continue;
      // Every endpoint goes out at one turn and comes back at the next.
      const isReady = Math.floor((sent * 7) / known.length) % 2 === 1;
      const item: AssignmentItem = { key, kind: "endpoint", body: { ...body, isReady } };
      tell(item);
    }
  }, TICK_MS);
}
console.log("serves");
for await (const _ of Bun.stdin.stream()) {
  // Until its end.
}
const status = await dns.request({ type: "status" });
console.log(JSON.stringify({ sent, status }));
process.exit(0);
