/** Thin worker entry for worker.test.ts. */
import { startConsensusWorker } from "../../../core/raft/worker.ts";

startConsensusWorker();
