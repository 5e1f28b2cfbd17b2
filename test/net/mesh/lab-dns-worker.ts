import { startDnsWorker } from "../../../net/dns/worker.ts";

startDnsWorker();
