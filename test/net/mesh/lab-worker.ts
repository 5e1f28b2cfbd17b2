import { startMeshWorker } from "../../../net/mesh/worker.ts";

startMeshWorker();
