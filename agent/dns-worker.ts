/** Entry of the DNS worker thread; its code is in net/dns, and spawn-workers.ts says why it is here. */
import { startDnsWorker } from "../net/dns/worker.ts";

startDnsWorker();
