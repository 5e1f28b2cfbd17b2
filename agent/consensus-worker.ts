/** Entry of the consensus worker thread; its code is in core/raft, and spawn-workers.ts says why it is here. */
import { startConsensusWorker } from "../core/raft/worker.ts";
import { createPeerLines } from "./peer-lines.ts";

startConsensusWorker(createPeerLines);
