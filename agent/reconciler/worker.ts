/** The reconciler's thread: wires its ports to the engine, the clock and the disk. */
import { dirname, join } from "node:path";
import { assert, unreachable } from "../../core/assert.ts";
import { serveWorker } from "../../core/worker-server.ts";
import { createDocker } from "./docker.ts";
import { createPlugins } from "./engine-plugins.ts";
import { createImages } from "./image.ts";
import { openJournal } from "./journal.ts";
import { createDockerNetworks } from "./networks.ts";
import type { ReconcilerAnswer, ReconcilerInput, ReconcilerOutput } from "./protocol.ts";
import { type Reconciler, startReconciler } from "./reconciler.ts";
import { createTaskFiles } from "./task-files.ts";

/** Files of tasks live in memory below this; task ids are unique, so agents in a lab may share it. */
const TASK_FILES_DIR = "/run/shoal/tasks";
/** As Ethernet. Not measured yet: an underlay with a smaller MTU needs it lower. */
const UNDERLAY_MTU = 1_500;

/** Serves the reconciler protocol (protocol.ts) in this worker thread. */
export function startReconcilerWorker(): void {
  let reconciler: Reconciler | undefined;
  const running = (): Reconciler => {
    assert(reconciler, "init is the reconciler's first message");
    return reconciler;
  };
  const server = serveWorker<ReconcilerInput, ReconcilerAnswer, ReconcilerOutput>(async (input) => {
    switch (input.type) {
      case "init": {
        assert(!reconciler, "init comes once");
        const docker = createDocker(input.engineSocket);
        reconciler = startReconciler({
          docker,
          images: createImages(docker),
          plugins: createPlugins(input.engineSocket),
          networks: createDockerNetworks(docker, UNDERLAY_MTU),
          files: createTaskFiles(TASK_FILES_DIR),
          journal: openJournal(input.dir, join(dirname(input.dir), "pki", "journal.key")),
          nowMs: () => Date.now(),
          output: (output) => server.notify(output),
        });
        return { type: "ready" };
      }
      case "assignments":
        running().assignments(input);
        return undefined;
      case "describe":
        return { type: "description", description: await running().describe() };
      case "report-all":
        running().reportAll();
        return undefined;
      case "wipe":
        await running().wipe();
        return { type: "done" };
      case "stop":
        await reconciler?.stop();
        reconciler = undefined;
        setTimeout(() => server.exit(), 0);
        return { type: "done" };
      default:
        return unreachable(input);
    }
  });
}
