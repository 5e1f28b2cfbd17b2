import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import dnsPacket from "dns-packet";
import { nameTable } from "../../../net/dns/name-table.ts";
import { type DnsServer, startDnsServer } from "../../../net/dns/server.ts";
import {
  hostResolvers,
  parseResolvers,
  type Resolver,
  startUpstream,
} from "../../../net/dns/upstream.ts";
import type { MeshTable } from "../../../net/mesh/table.ts";
import { labEndpoint, labTable, networkId } from "../mesh/lab-state.ts";

const HOME = "127.0.0.1";
const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

async function until<T>(what: string, probe: () => T | undefined | false): Promise<T> {
  const endMs = performance.now() + 4_000;
  while (performance.now() < endMs) {
    const found = probe();
    if (found) return found;
    await Bun.sleep(5);
  }
  throw new Error(`Not in time: ${what}`);
}

/** A server for a task that has our own address on network A, with 40 tasks in service web. */
async function serve(
  resolvers: Resolver[] | (() => Resolver[]) = [],
  change: (table: MeshTable) => void = () => {},
): Promise<{ dns: DnsServer; udp: number; tcp: number }> {
  const table = labTable(1);
  change(table);
  table.endpoints.set(
    "endpoint/self",
    labEndpoint({ name: "self", service: "cli", node: 1, legs: { netA: HOME } }),
  );
  for (let place = 1; place <= 40; place += 1) {
    const name = `many${place}`;
    table.endpoints.set(
      `endpoint/${name}`,
      labEndpoint({ name, service: "web", node: 2, legs: { netA: `10.101.0.${100 + place}` } }),
    );
  }
  const dns = startDnsServer({
    port: 0,
    names: nameTable(table),
    resolvers: async () => (typeof resolvers === "function" ? resolvers() : resolvers),
  });
  closers.push(() => dns.stop());
  dns.setAddresses([HOME]);
  const [bound] = await until("bound", () => dns.bound().length > 0 && dns.bound());
  if (!bound) throw new Error("not bound");
  return { dns, udp: bound.udpPort, tcp: bound.tcpPort };
}

function query(name: string, options: { type?: "A" | "AAAA"; size?: number } = {}): Buffer {
  return dnsPacket.encode({
    type: "query",
    id: 4711,
    flags: dnsPacket.RECURSION_DESIRED,
    questions: [{ name, type: options.type ?? "A" }],
    ...(options.size === undefined
      ? {}
      : {
          additionals: [
            {
              type: "OPT",
              name: ".",
              udpPayloadSize: options.size,
              extendedRcode: 0,
              ednsVersion: 0,
              flags: 0,
              flag_do: false,
              options: [],
            },
          ],
        }),
  });
}

async function askUdp(port: number, bytes: Uint8Array): Promise<dnsPacket.DecodedPacket> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const socket = await Bun.udpSocket({
    connect: { hostname: HOME, port },
    socket: { data: (_socket, answer) => resolve(Buffer.from(answer)) },
  });
  try {
    socket.send(bytes);
    const answer = await Promise.race([promise, Bun.sleep(4_000)]);
    if (!answer) throw new Error("No answer");
    return dnsPacket.decode(answer);
  } finally {
    socket.close();
  }
}

function askTcp(port: number, questions: Buffer[]): Promise<dnsPacket.DecodedPacket[]> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: HOME, port });
    const answers: dnsPacket.DecodedPacket[] = [];
    let received = Buffer.alloc(0);
    socket.on("error", reject);
    socket.on("connect", () => {
      for (const question of questions) socket.write(dnsPacket.streamEncode(encoded(question)));
    });
    socket.on("data", (bytes: Buffer) => {
      received = Buffer.concat([received, bytes]);
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const end = 2 + received.readUInt16BE(0);
        answers.push(dnsPacket.decode(received.subarray(2, end)));
        received = received.subarray(end);
      }
      if (answers.length < questions.length) return;
      socket.destroy();
      resolve(answers);
    });
  });
}
const encoded = (bytes: Buffer) => dnsPacket.decode(bytes);

const code = (packet: dnsPacket.DecodedPacket) => (packet.flags ?? 0) & 15;
const isAuthority = (packet: dnsPacket.DecodedPacket) =>
  ((packet.flags ?? 0) & dnsPacket.AUTHORITATIVE_ANSWER) !== 0;
const isTruncated = (packet: dnsPacket.DecodedPacket) =>
  ((packet.flags ?? 0) & dnsPacket.TRUNCATED_RESPONSE) !== 0;

describe("DNS server", () => {
  test("our names are answered with authority over UDP and TCP", async () => {
    const { udp, tcp } = await serve();
    const [overTcp] = await askTcp(tcp, [query("tasks.web")]);
    const overUdp = await askUdp(udp, query("web"));
    expect(overUdp.id).toBe(4711);
    expect(overUdp.answers).toMatchObject([{ name: "web", type: "A", data: "10.101.0.2" }]);
    expect(isAuthority(overUdp)).toBeTrue();
    expect(overTcp?.answers).toHaveLength(43);
    const unknown = await askUdp(udp, query("nothing"));
    expect([code(unknown), isAuthority(unknown)]).toEqual([3, true]);
    const other = await askUdp(udp, query("web", { type: "AAAA" }));
    expect([code(other), other.answers]).toEqual([0, []]);
  });

  test("an answer over the asker's size is truncated, EDNS makes room", async () => {
    const { udp } = await serve();
    const small = await askUdp(udp, query("tasks.web"));
    // As many as fit: resolvers that cannot ask over TCP have at least these.
    expect([isTruncated(small), small.answers?.length]).toEqual([true, 30]);
    const large = await askUdp(udp, query("tasks.web", { size: 1232 }));
    expect([isTruncated(large), large.answers?.length]).toEqual([false, 43]);
    expect(large.additionals?.[0]?.type).toBe("OPT");
  });

  test("several questions on one connection are all answered", async () => {
    const { tcp } = await serve();
    const answers = await askTcp(tcp, [query("web"), query("far"), query("nothing")]);
    expect(answers.map(code)).toEqual([0, 0, 3]);
  });

  test("malformed messages are dropped and counted", async () => {
    const { dns, udp } = await serve();
    const socket = await Bun.udpSocket({ connect: { hostname: HOME, port: udp } });
    const good = query("web");
    const response = Buffer.from(good);
    response[2] = 0x80;
    const bad = [Buffer.alloc(0), Buffer.from("hello"), good.subarray(0, 14), response];
    bad.push(Buffer.alloc(600, 0xff));
    for (const bytes of bad) socket.send(bytes);
    // An empty datagram may not be handed over at all.
    await until("counted", () => dns.counts().malformed >= 4);
    expect(dns.counts().asked).toBe(0);
    socket.close();
    expect((await askUdp(udp, good)).answers).toHaveLength(1);
  });

  test("other names go to the next resolver when the first is silent, without any to SERVFAIL", async () => {
    const alone = await serve();
    expect(code(await askUdp(alone.udp, query("example.com")))).toBe(2);
    expect(alone.dns.counts()).toMatchObject({ forwarded: 1, failed: 1 });

    const ids: number[] = [];
    const answerer = await Bun.udpSocket({
      hostname: HOME,
      socket: {
        data: (socket, bytes, port, peer) => {
          const asked = dnsPacket.decode(Buffer.from(bytes));
          ids.push(asked.id ?? 0);
          const { questions = [] } = asked;
          const forged = [{ name: "other.example", type: "A" as const }];
          // An answer to another question first: it must not be taken.
          for (const question of [forged, questions]) {
            const answers = [
              {
                name: question[0]?.name ?? "",
                type: "A" as const,
                ttl: 60,
                data: question === forged ? "192.0.2.66" : "192.0.2.53",
              },
            ];
            socket.send(
              dnsPacket.encode({
                type: "response",
                id: asked.id ?? 0,
                questions: question,
                answers,
              }),
              port,
              peer,
            );
          }
        },
      },
    });
    closers.push(() => answerer.close());
    // Nobody listens on the first one's port any more: refused, then the next.
    const gone = await Bun.udpSocket({ hostname: HOME });
    const gonePort = gone.port;
    gone.close();
    const { udp } = await serve([
      { address: HOME, port: gonePort },
      { address: HOME, port: answerer.port },
    ]);
    const answers = await Promise.all([
      askUdp(udp, query("example.com")),
      askUdp(udp, query("www.example.com")),
    ]);
    for (const answer of answers) {
      expect(answer.id).toBe(4711);
      expect(answer.answers).toMatchObject([{ data: "192.0.2.53" }]);
    }
    expect(new Set(ids).size).toBe(2);
  });

  test("a task's own name servers are asked in place of the host's", async () => {
    const asked: string[] = [];
    const { udp } = await serve([], (table) => {
      table.resolvers.set("task/self", {
        addresses: [HOME],
        // Nobody is on the container's own loopback, and the host's is not meant.
        nameservers: ["127.0.0.53", "::1"],
      });
    });
    expect(code(await askUdp(udp, query("example.com")))).toBe(2);
    const upstream = startUpstream(() => {
      asked.push("host");
      return Promise.resolve([]);
    });
    closers.push(() => upstream.stop());
    const answerer = await Bun.udpSocket({
      hostname: HOME,
      socket: {
        data: (socket, bytes, port, peer) => {
          const answer = Buffer.from(bytes);
          answer[2] = 0x80;
          socket.send(answer, port, peer);
        },
      },
    });
    closers.push(() => answerer.close());
    const chosen = [{ address: HOME, port: answerer.port }];
    expect(await upstream.ask(query("example.com"), "udp", chosen)).toBeDefined();
    expect(asked).toEqual([]);
  });

  test("questions from internal networks are not sent on", async () => {
    let count = 0;
    const { dns, udp } = await serve(
      () => {
        count += 1;
        return [];
      },
      (table) => {
        const network = table.networks.get(`network/${networkId("netA")}`);
        if (network) network.spec.Internal = true;
      },
    );
    expect(code(await askUdp(udp, query("example.com")))).toBe(2);
    expect((await askUdp(udp, query("web"))).answers).toHaveLength(1);
    expect([count, dns.counts().failed]).toEqual([0, 1]);
  });

  test("a question over TCP is sent on over TCP", async () => {
    const upstream = createServer((socket) => {
      socket.on("data", (bytes: Buffer) => {
        const asked = dnsPacket.streamDecode(bytes);
        socket.write(
          dnsPacket.streamEncode({
            type: "response",
            id: asked.id ?? 0,
            questions: asked.questions ?? [],
            answers: [{ name: "example.com", type: "A", ttl: 60, data: "192.0.2.53" }],
          }),
        );
      });
    });
    const port = await new Promise<number>((resolve) => {
      upstream.listen(0, HOME, () => {
        const address = upstream.address();
        resolve(typeof address === "object" && address ? address.port : 0);
      });
    });
    closers.push(() => upstream.close());
    const { tcp } = await serve([{ address: HOME, port }]);
    const [answer] = await askTcp(tcp, [query("example.com")]);
    expect(answer?.answers).toMatchObject([{ data: "192.0.2.53" }]);
  });

  test("an address that cannot be bound yet is tried again, one that is not wanted is closed", async () => {
    const { dns } = await serve();
    dns.setAddresses(["192.0.2.77", "127.0.0.2"]);
    await until(
      "rebound",
      () =>
        dns
          .bound()
          .map((each) => each.address)
          .join() === "127.0.0.2",
    );
    dns.setAddresses([]);
    expect(dns.bound()).toEqual([]);
  });
});

describe("the host's resolvers", () => {
  test("resolv.conf's name servers are read, loopback ones apart", () => {
    const text =
      "# x\nnameserver 127.0.0.53\nsearch lan\nnameserver 192.0.2.1 # y\nnameserver $(x)\n";
    expect(parseResolvers(text)).toEqual({ remote: ["192.0.2.1"], loopback: ["127.0.0.53"] });
  });

  test("local stubs are asked only when nothing else is known", async () => {
    const dir = mkdtempSync(join(tmpdir(), "shoal-dns-"));
    closers.push(() => rmSync(dir, { recursive: true }));
    const [stub, real] = [join(dir, "stub"), join(dir, "real")];
    writeFileSync(stub, "nameserver 127.0.0.53\n");
    writeFileSync(real, "nameserver 192.0.2.1\n");
    expect(await hostResolvers([stub, real])()).toEqual([{ address: "192.0.2.1", port: 53 }]);
    expect(await hostResolvers([stub])()).toEqual([{ address: "127.0.0.53", port: 53 }]);
    expect(await hostResolvers([join(dir, "none")])()).toEqual([]);
  });
});
