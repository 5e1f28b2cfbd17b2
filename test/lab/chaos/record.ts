/** What the asking programs write down: one line a request, in the order of their ends. */

/** One stream of requests, each sent when the answer to the one before is there. */
export type Stream = {
  id: string;
  /** Names that may answer: the service's identity is the part of an answer before the "/". */
  service: string;
  protocol: "tcp" | "udp";
  /** An address, or a name that is looked up for each connection. */
  host: string;
  port: number;
  /** Requests follow each other on one connection (one socket), else each has its own. */
  isKept: boolean;
  /** Where it enters the mesh: a host's name; absent: at the asker's own host. */
  via?: string;
};

export type RequestRecord = {
  /** The asker: "client", or the name of the host of its container. */
  place: string;
  streamId: string;
  /** Milliseconds of the machine's clock. */
  startMs: number;
  endMs: number;
  /** When its connection was opened. */
  openMs: number;
  kind: "ok" | "fail" | "lookup";
  /** The answer; or what went wrong. */
  text: string;
};

export function formatRecord(record: RequestRecord): string {
  const { place, streamId, startMs, endMs, openMs, kind, text } = record;
  return `${place}\t${streamId}\t${startMs}\t${endMs}\t${openMs}\t${kind}\t${text.replaceAll(/\s+/g, " ")}`;
}

/** undefined for a line that was cut off. */
export function parseRecord(line: string): RequestRecord | undefined {
  const [place, streamId, startMs, endMs, openMs, kind, text] = line.split("\t");
  if (place === undefined || streamId === undefined || text === undefined) return undefined;
  if (kind !== "ok" && kind !== "fail" && kind !== "lookup") return undefined;
  return {
    place,
    streamId,
    startMs: Number(startMs),
    endMs: Number(endMs),
    openMs: Number(openMs),
    kind,
    text,
  };
}
