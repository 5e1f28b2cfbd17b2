/**
 * The mesh's end of the line to the DNS thread. Changes are cut into pieces, so that the other end
 * can answer questions between two of them.
 */
import type { MessagePort } from "node:worker_threads";
import type { NameChange } from "./name-table.ts";
import type { DnsLinkInput, DnsLinkOutput } from "./protocol.ts";

/** Some 0.2 ms of work for the other end. */
const PIECE_ITEMS_MAX = 50;

/** Who answers names, as the mesh sees it. */
export type NameService = {
  change(change: NameChange): void;
  /** The addresses to serve on; others are closed. */
  listen(addresses: string[]): void;
  /** Resolves once all that was said before has taken effect. */
  settled(): Promise<void>;
  close(): void;
};

/** Speaks over a port whose other end the DNS thread was given. */
export function linkNameService(port: MessagePort): NameService {
  const waiting = new Map<number, () => void>();
  let syncs = 0;
  let addresses: string[] = [];
  const post = (message: DnsLinkInput) => port.postMessage(message);
  port.on("message", (message: DnsLinkOutput) => {
    const resolve = waiting.get(message.id);
    waiting.delete(message.id);
    resolve?.();
  });
  return {
    change: ({ put, removed }) => {
      for (let from = 0; from < put.length; from += PIECE_ITEMS_MAX) {
        const piece: NameChange = { put: put.slice(from, from + PIECE_ITEMS_MAX), removed: [] };
        post({ type: "names", text: JSON.stringify(piece) });
      }
      for (let from = 0; from < removed.length; from += PIECE_ITEMS_MAX) {
        const piece: NameChange = { put: [], removed: removed.slice(from, from + PIECE_ITEMS_MAX) };
        post({ type: "names", text: JSON.stringify(piece) });
      }
    },
    listen: (next) => {
      if (next.join() === addresses.join()) return;
      addresses = next;
      post({ type: "listen", addresses });
    },
    settled: () =>
      new Promise((resolve) => {
        syncs += 1;
        waiting.set(syncs, resolve);
        post({ type: "sync", id: syncs });
      }),
    close: () => port.close(),
  };
}
