/** Entry of the mesh worker thread; its code is in net/mesh, and spawn-workers.ts says why it is here. */
import { startMeshWorker } from "../net/mesh/worker.ts";

startMeshWorker();
