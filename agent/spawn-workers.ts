/**
 * Starts the worker threads. All code is bundled into the binary's main entry, so there a relative
 * URL resolves against the binary's root and not against the source file it was written in: this
 * file, the worker entries and main.ts stand in one folder, and each entry is listed in
 * scripts/build.ts.
 */
import { Worker } from "node:worker_threads";

export type WorkerName = "consensus" | "state" | "reconciler" | "mesh" | "dns";

/** A new thread of that kind. Any end of it that was not asked for is a crash, whatever the code. */
export function spawnWorker(name: WorkerName): Worker {
  return new Worker(ENTRIES[name]);
}

// Each URL is a literal, so that a renamed file is found by a search.
const ENTRIES: Record<WorkerName, URL> = {
  consensus: new URL("./consensus-worker.ts", import.meta.url),
  state: new URL("./state-worker.ts", import.meta.url),
  reconciler: new URL("./reconciler-worker.ts", import.meta.url),
  mesh: new URL("./mesh-worker.ts", import.meta.url),
  dns: new URL("./dns-worker.ts", import.meta.url),
};
