/** Messages to the DNS thread: of main, and of the mesh over a port of their own. */
import type { DnsCounts, DnsServer } from "./server.ts";

/** From main. `link` may come before init is done: what it brings waits for that. */
export type DnsInput =
  /** First message. Serves the names of the table on disk before it answers ready. */
  | {
      type: "init" /** Of the mesh's table. */;
      dir: string;
      /** 0 lets the kernel choose, in tests. @default 53 */
      port?: number;
    }
  /** With the mesh's port, on which DnsLinkInput comes. Answer done. */
  | { type: "link" }
  /** Answer status. */
  | { type: "status" }
  /** Answer done; no question is answered after it. */
  | { type: "stop" };

export type DnsAnswer =
  | { type: "ready"; nameCount: number }
  | { type: "status"; counts: DnsCounts; bound: ReturnType<DnsServer["bound"]> }
  | { type: "done" };

/** From the mesh. They take effect in the order in which they come. */
export type DnsLinkInput =
  /** JSON of a `NameChange`: cheaper to hand over than what it stands for. */
  | { type: "names"; text: string }
  /** Where to serve, from now on. */
  | { type: "listen"; addresses: string[] }
  /** Answered once all before it has taken effect. */
  | { type: "sync"; id: number };

export type DnsLinkOutput = { type: "synced"; id: number };
