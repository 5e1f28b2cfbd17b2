/** Entry of the reconciler worker thread; its code is in agent/reconciler, and spawn-workers.ts says why it is here. */
import { startReconcilerWorker } from "./reconciler/worker.ts";

startReconcilerWorker();
