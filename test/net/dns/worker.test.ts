import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel, Worker } from "node:worker_threads";
import dnsPacket from "dns-packet";
import { workerClient } from "../../../agent/worker-client.ts";
import { linkNameService, type NameService } from "../../../net/dns/link.ts";
import type { NameItem } from "../../../net/dns/name-table.ts";
import type { DnsAnswer, DnsInput, DnsLinkInput } from "../../../net/dns/protocol.ts";
import { saveTable } from "../../../net/mesh/table.ts";
import { labEndpoint, labTable, networkId } from "../mesh/lab-state.ts";

const HOME = "127.0.0.1";
const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

type Served = {
  names: NameService;
  post(message: DnsLinkInput): void;
  port(): Promise<number>;
  ask(name: string): Promise<string[]>;
};

/** A thread that found a table on disk: this process is a task on network A, whose gateway is here. */
async function serve(): Promise<Served> {
  const dir = mkdtempSync(join(tmpdir(), "shoal-dns-"));
  const table = labTable(1);
  for (const network of table.networks.values()) {
    if (network.id === networkId("netA")) network.gateway = HOME;
  }
  const self = { name: "self", service: "cli", node: 1, legs: { netA: HOME } };
  table.endpoints.set("endpoint/self", labEndpoint(self));
  await saveTable(dir, table);
  const entry = new URL("../../../agent/dns-worker.ts", import.meta.url);
  const client = workerClient<DnsInput, DnsAnswer, never>(new Worker(entry), "dns");
  const line = new MessageChannel();
  await client.request({ type: "link" }, { port: line.port1 });
  const names = linkNameService(line.port2);
  closers.push(async () => {
    names.close();
    await client.stop({ type: "stop" });
    rmSync(dir, { recursive: true });
  });
  await client.request({ type: "init", dir, port: 0 });
  const port = () => portOf(client);
  const ask = async (name: string) => {
    const socket = await openSocket(await port());
    const found = await socket.ask(name);
    socket.close();
    return found;
  };
  return { names, post: (message) => line.port2.postMessage(message), port, ask };
}

/** Its listeners are open a moment after it is ready. */
async function portOf(client: ReturnType<typeof workerClient<DnsInput, DnsAnswer, never>>) {
  for (let tries = 0; tries < 400; tries += 1) {
    const status = await client.request({ type: "status" });
    const port = status.type === "status" ? status.bound[0]?.udpPort : undefined;
    if (port !== undefined) return port;
    await Bun.sleep(5);
  }
  throw new Error("The DNS thread serves nowhere");
}

async function openSocket(port: number) {
  let answered = Promise.withResolvers<Buffer>();
  const socket = await Bun.udpSocket({
    connect: { hostname: HOME, port },
    socket: { data: (_socket, answer) => answered.resolve(Buffer.from(answer)) },
  });
  return {
    close: () => socket.close(),
    ask: async (name: string): Promise<string[]> => {
      answered = Promise.withResolvers();
      socket.send(dnsPacket.encode({ type: "query", id: 1, questions: [{ name, type: "A" }] }));
      const answer = await Promise.race([answered.promise, Bun.sleep(4_000)]);
      if (!answer) throw new Error(`No answer for ${name}`);
      const { answers = [] } = dnsPacket.decode(answer);
      return answers.flatMap((record) => (record.type === "A" ? [record.data] : []));
    },
  };
}

function taskItems(count: number, from = 0): NameItem[] {
  return Array.from({ length: count }, (_, index) => {
    const place = from + index;
    const address = `10.${9 + (place >> 16)}.${(place >> 8) & 255}.${place & 255}`;
    return {
      key: `endpoint/flood${place}`,
      kind: "endpoint",
      body: {
        serviceId: "service-flood",
        name: `flood.${place}`,
        addresses: [{ networkId: networkId("netA"), address }],
        isReady: true,
      },
    };
  });
}

describe("DNS thread", () => {
  test("names of the table on disk are served before anybody tells it any", async () => {
    const { ask } = await serve();
    expect(await ask("web")).toEqual(["10.101.0.2"]);
  });

  test("a change is answered by once it is settled", async () => {
    const { names, ask } = await serve();
    names.change({ put: taskItems(60), removed: ["service/service-web"] });
    await names.settled();
    expect(await ask("flood.59")).toEqual(["10.9.0.59"]);
    expect(await ask("web")).toEqual([]);
    names.change({ put: [], removed: ["endpoint/flood59"] });
    await names.settled();
    expect(await ask("flood.59")).toEqual([]);
  });

  test("questions are answered while a large change is being taken", async () => {
    const { names, post, ask, port } = await serve();
    const socket = await openSocket(await port());
    const texts: string[] = [];
    for (let piece = 0; piece < 2_000; piece += 1) {
      const put = taskItems(50, piece * 50);
      texts.push(JSON.stringify({ put, removed: [] }));
    }
    for (const text of texts) post({ type: "names", text });
    // It has come before the last of the changes is taken, and is answered before that as well.
    expect(await socket.ask("flood.99999")).toEqual([]);
    await names.settled();
    expect(await ask("flood.99999")).toHaveLength(1);
    socket.close();
  });
});
