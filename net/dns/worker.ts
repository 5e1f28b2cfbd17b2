/**
 * The DNS thread: answers names while the mesh plans, waits for the kernel, or hangs.
 *
 * It begins with the table on disk, before any other part of the agent runs, and is told what
 * changes by the mesh (`link.ts`). Between two pieces of a change it looks for questions.
 */
import { networkInterfaces } from "node:os";
import type { MessagePort } from "node:worker_threads";
import { unreachable } from "../../core/assert.ts";
import { serveWorker } from "../../core/worker-server.ts";
import { loadTable, type MeshTable } from "../mesh/table.ts";
import { changeNames, createNameTable, type NameChange } from "./name-table.ts";
import { nameItems } from "./name-change.ts";
import { preferThisThread } from "./priority.ts";
import type { DnsAnswer, DnsInput, DnsLinkInput, DnsLinkOutput } from "./protocol.ts";
import { startDnsServer } from "./server.ts";

const DNS_PORT = 53;
/** Time for changes before questions are looked for again. */
const TURN_MS = 1;
/** An answer takes microseconds, and a busy machine's turn comes after tens of milliseconds. */
const NICE = -15;

/** Serves the thread it is called in; call it once, from the worker's entry file. */
export function startDnsWorker(): void {
  preferThisThread(NICE);
  const names = createNameTable();
  let server: ReturnType<typeof startDnsServer> | undefined;
  let link: MessagePort | undefined;

  // --- changes, in order, a little at a time
  const waiting: DnsLinkInput[] = [];
  let isTurnDue = false;
  const soon = () => {
    if (isTurnDue || !server) return;
    isTurnDue = true;
    setImmediate(takeTurn);
  };
  const takeTurn = () => {
    isTurnDue = false;
    const endMs = performance.now() + TURN_MS;
    let taken = 0;
    while (taken < waiting.length && performance.now() < endMs) {
      const message = waiting[taken];
      taken += 1;
      if (message) take(message);
    }
    waiting.splice(0, taken);
    if (waiting.length > 0) soon();
  };
  const take = (message: DnsLinkInput) => {
    switch (message.type) {
      case "names":
        // Made by link.ts.
        changeNames(names, JSON.parse(message.text) as NameChange);
        return;
      case "listen":
        server?.setAddresses(message.addresses);
        return;
      case "sync": {
        const output: DnsLinkOutput = { type: "synced", id: message.id };
        link?.postMessage(output);
        return;
      }
      default:
        unreachable(message);
    }
  };

  const init = async (dir: string, port: number): Promise<DnsAnswer> => {
    const table = await loadTable(dir);
    changeNames(names, { put: nameItems(table), removed: [] });
    server = startDnsServer({ port, names });
    server.setAddresses(gatewaysHere(table));
    if (waiting.length > 0) soon();
    return { type: "ready", nameCount: names.services.size + names.endpoints.size };
  };

  const worker = serveWorker<DnsInput, DnsAnswer, never>((input, port) => {
    switch (input.type) {
      case "init":
        return init(input.dir, input.port ?? DNS_PORT);
      case "link":
        link = port;
        port?.on("message", (message: DnsLinkInput) => {
          waiting.push(message);
          soon();
        });
        return { type: "done" };
      case "status":
        return {
          type: "status",
          counts: server?.counts() ?? { asked: 0, forwarded: 0, malformed: 0, failed: 0 },
          bound: server?.bound() ?? [],
        };
      case "stop":
        server?.stop();
        link?.close();
        // After this answer has been written.
        setImmediate(() => worker.exit());
        return { type: "done" };
      default:
        return unreachable(input);
    }
  });
}

/** Gateways whose bridges stand since the run before this one; the mesh says later what else is here. */
function gatewaysHere(table: MeshTable): string[] {
  const here = new Set(
    Object.values(networkInterfaces()).flatMap((device) => device?.map((one) => one.address) ?? []),
  );
  return [...table.networks.values()].flatMap(({ gateway }) =>
    gateway !== undefined && here.has(gateway) ? [gateway] : [],
  );
}
