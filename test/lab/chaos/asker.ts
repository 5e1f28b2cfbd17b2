/**
 * Asks steadily, and writes down every answer: in the outside client's namespace, and as a service in a
 * container on every host. It forgives nothing: a request that is not answered in time is written as
 * failed; the next one follows after a pause.
 *
 * Arguments: the file of its streams (`{ [place or "containers"]: Stream[] }`, looked at again and again,
 * replaced as a whole), the directory of its records, its place (or the environment: PLACE). Ends by SIGTERM.
 */
import { appendFileSync, readFileSync } from "node:fs";
import { Resolver } from "node:dns/promises";
import { join } from "node:path";
import { connect, type Connection } from "../traffic/load.ts";
import { formatRecord, type RequestRecord, type Stream } from "./record.ts";

/** A request has this long: a packet that was lost once is sent again by the kernel after 1 s. */
const TIMEOUT_MS = 3_000;
/** A datagram is sent up to three times, as programs do that speak UDP. */
const UDP_TRIES = 3;
const UDP_TIMEOUT_MS = 400;
const PAUSE_MS = 180;
const STREAMS_PERIOD_MS = 200;
const WRITE_PERIOD_MS = 250;
/** A look-up is believed for this long; and for the second figure while no new one can be had. */
const LOOKUP_MS = 1_000;
const LOOKUP_LAST_MS = 15_000;
/** A kept connection is made anew after so many requests, so that each sees new ones too. */
const REQUESTS_PER_CONNECTION = 25;

const [streamsPath = "", recordsDir = "", place = process.env["PLACE"] ?? ""] =
  process.argv.slice(2);
const recordsPath = join(recordsDir, `${place}-${Date.now()}-${process.pid}.tsv`);
let pending: string[] = [];
const write = () => {
  if (pending.length === 0) return;
  appendFileSync(recordsPath, `${pending.join("\n")}\n`);
  pending = [];
};
const note = (record: Omit<RequestRecord, "place">) => {
  pending.push(formatRecord({ place, ...record }));
};

const resolver = new Resolver({ timeout: 2_000, tries: 2 });
const known = new Map<string, { address: string; atMs: number }>();
async function lookUp(stream: Stream): Promise<string> {
  if (/^[\d.]+$/.test(stream.host)) return stream.host;
  const last = known.get(stream.host);
  const startMs = Date.now();
  if (last && startMs - last.atMs < LOOKUP_MS) return last.address;
  try {
    const found = await resolver.resolve4(stream.host);
    const address = found[Math.floor(Math.random() * found.length)];
    if (address === undefined) throw new Error("no address");
    known.set(stream.host, { address, atMs: Date.now() });
    return address;
  } catch (error) {
    const text = `no look-up of ${stream.host}: ${error instanceof Error ? error.message : String(error)}`;
    const base = { streamId: stream.id, startMs, endMs: Date.now(), openMs: startMs };
    note({ ...base, kind: "lookup", text });
    // The address of a service changes only with the service.
    if (last && Date.now() - last.atMs < LOOKUP_LAST_MS) return last.address;
    throw new NoAddress(text);
  }
}
class NoAddress extends Error {}

/** Runs until `isWanted` says no. */
async function runStream(stream: Stream, isWanted: () => boolean): Promise<void> {
  while (isWanted()) {
    let startMs = Date.now();
    const openMs = startMs;
    const base = () => ({ streamId: stream.id, startMs, endMs: Date.now(), openMs });
    let connection: Connection | undefined;
    let host = "";
    try {
      host = await lookUp(stream);
      startMs = Date.now();
      connection = await open(stream, host);
      for (let count = 0; count < REQUESTS_PER_CONNECTION && isWanted(); count++) {
        if (count > 0) startMs = Date.now();
        const { text, isLast } = await connection.ask(stream.isKept);
        note({ ...base(), kind: "ok", text });
        if (isLast || !stream.isKept) break;
        await Bun.sleep(PAUSE_MS);
      }
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      // Counted as a look-up already.
      if (!(error instanceof NoAddress))
        note({ ...base(), kind: "fail", text: `${text} (${host})` });
    }
    connection?.close();
    await Bun.sleep(PAUSE_MS);
  }
}

const open = (stream: Stream, host: string) =>
  stream.protocol === "tcp"
    ? connect({ host, port: stream.port }, TIMEOUT_MS)
    : openUdp(host, stream.port);

/** As `connect`, by datagrams: each carries a number, so that a late answer is not taken for another. */
async function openUdp(host: string, port: number): Promise<Connection> {
  let waiting: { prefix: string; resolve(text: string): void } | undefined;
  const socket = await Bun.udpSocket({
    socket: {
      data: (_, bytes) => {
        const text = bytes.toString("latin1");
        if (waiting && text.startsWith(waiting.prefix)) {
          waiting.resolve(text.slice(waiting.prefix.length));
        }
      },
      // "Refused" of an earlier datagram: the next one is sent all the same.
      error: () => undefined,
    },
  });
  return {
    port: socket.port,
    ask: async () => {
      const prefix = `${crypto.randomUUID().slice(0, 8)} `;
      const { promise, resolve } = Promise.withResolvers<string>();
      waiting = { prefix, resolve };
      for (let turn = 0; turn < UDP_TRIES; turn++) {
        try {
          socket.send(prefix.trim(), port, host);
        } catch {
          // as above: the kernel tells an earlier refusal now
        }
        const late = Bun.sleep(UDP_TIMEOUT_MS).then(() => undefined);
        const text = await Promise.race([promise, late]);
        if (text !== undefined) return { text, isLast: false };
      }
      throw new Error(`no answer to ${UDP_TRIES} datagrams`);
    },
    close: () => socket.close(),
  };
}

const running = new Map<string, string>();
function follow(): void {
  let wanted: Stream[];
  try {
    // Written by streams.ts.
    const all = JSON.parse(readFileSync(streamsPath, "utf8")) as Record<string, Stream[]>;
    wanted = all[place] ?? all["containers"] ?? [];
  } catch {
    return; // not there yet
  }
  const byId = new Map(wanted.map((stream) => [stream.id, stream]));
  for (const id of running.keys()) if (!byId.has(id)) running.delete(id);
  for (const [id, stream] of byId) {
    const text = JSON.stringify(stream);
    if (running.get(id) === text) continue;
    running.set(id, text);
    void runStream(stream, () => running.get(id) === text);
  }
}

// Bun tells a refused datagram so, whoever listens.
process.on("uncaughtException", (error) => {
  if (!/ECONNREFUSED|EHOSTUNREACH|ENETUNREACH/.test(String(error))) throw error;
});
follow();
setInterval(follow, STREAMS_PERIOD_MS);
setInterval(write, WRITE_PERIOD_MS);
process.on("SIGTERM", () => {
  write();
  process.exit(0);
});
