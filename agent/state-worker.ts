/** Entry of the state worker thread; its code is in core/store, and spawn-workers.ts says why it is here. */
import { startStateWorker } from "../core/store/worker.ts";

startStateWorker();
