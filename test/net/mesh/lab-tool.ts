/**
 * Processes of the kernel lab, started by `lab.ts`:
 *   serve FILE    TCP 80, TCP 9000 and UDP 9000 in many network namespaces, answering "<name> <peer>";
 *                 TCP 7000 is an echo
 *   collide       one UDP source port towards several nodes, in the caller's namespace
 *   ask ADDRESS PORT SOURCE…    a line from a TCP server, by each of the caller's addresses
 *   agent FILE    the mesh worker as main runs it, in the caller's namespace, until stdin ends
 */
import { closeSync, openSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { dlopen, FFIType } from "bun:ffi";
import { MessageChannel, Worker } from "node:worker_threads";
import { workerClient } from "../../../agent/worker-client.ts";
import type { BackendName } from "../../../net/mesh/backend.ts";
import type { DnsAnswer, DnsInput } from "../../../net/dns/protocol.ts";
import type { MeshAnswer, MeshInput, MeshOutput } from "../../../net/mesh/protocol.ts";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";

export type ServeList = {
  name: string;
  namespace: string;
  addresses: string[];
  /** TCP, too, on these addresses only: those of IPv6, beside the servers of IPv4. */
  isBound?: boolean;
}[];

/** Connections to it stay open. */
const ECHO_PORT = 7_000;
const COUNT_TURNS = 25;
const CLONE_NEWNET = 0x40000000;

async function serve(list: ServeList): Promise<void> {
  const { setns } = dlopen("libc.so.6", {
    setns: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  }).symbols;
  const home = openSync("/proc/thread-self/ns/net", "r");
  /** Sockets stay in the namespace they were made in; `make` must not wait for anything. */
  const inNamespace = <T>(name: string, make: () => T): T => {
    const file = openSync(`/run/netns/${name}`, "r");
    if (setns(file, CLONE_NEWNET) !== 0) throw new Error(`setns ${name}`);
    try {
      return make();
    } finally {
      setns(home, CLONE_NEWNET);
      closeSync(file);
    }
  };
  const opening: Promise<unknown>[] = [];
  for (const { name, namespace, addresses, isBound } of list) {
    const hostnames = isBound ? addresses : ["0.0.0.0"];
    inNamespace(namespace, () => {
      for (const [hostname, port] of hostnames.flatMap((one) => [
        [one, 80] as const,
        [one, 9000] as const,
      ])) {
        Bun.listen({
          hostname,
          port,
          socket: {
            open: (socket) => {
              socket.end(`${name} ${socket.remoteAddress.replace(/^::ffff:/, "")}\n`);
            },
            data: () => undefined,
          },
        });
      }
      for (const hostname of hostnames) {
        Bun.listen({
          hostname,
          port: ECHO_PORT,
          socket: { data: (socket, bytes) => void socket.write(bytes) },
        });
      }
      // One socket per address: the answer must come from the address asked.
      for (const hostname of addresses) {
        opening.push(
          Bun.udpSocket({
            hostname,
            port: 9000,
            socket: {
              data: (socket, _bytes, port, peer) => {
                socket.send(`${name} ${peer}\n`, port, peer);
              },
            },
          }),
        );
      }
    });
  }
  await Promise.all(opening);
  console.log("ready");
}

async function collide(targets: string[]): Promise<void> {
  const answers = new Map<string, string>();
  let done = () => {};
  const complete = new Promise<void>((resolve) => {
    done = resolve;
  });
  const socket = await Bun.udpSocket({
    port: 45_678,
    socket: {
      data: (_socket, bytes, _port, peer) => {
        answers.set(peer, bytes.toString().trim());
        if (answers.size === targets.length) done();
      },
    },
  });
  for (const target of targets) socket.send("x", 9001, target);
  await Promise.race([complete, Bun.sleep(2_000)]);
  socket.close();
  for (const target of targets) console.log(`${target}: ${answers.get(target) ?? "no answer"}`);
  process.exit(0);
}

async function ask(address: string, port: number, sources: string[]): Promise<void> {
  const answerTo = (localAddress: string) =>
    new Promise<string>((resolve) => {
      const socket = connect({ host: address, port, localAddress });
      socket.setTimeout(3_000, () => socket.destroy(new Error("no answer")));
      socket.on("data", (bytes) => {
        resolve(bytes.toString().trim());
        socket.destroy();
      });
      socket.on("error", (error) => resolve(error.message));
      socket.on("close", () => resolve("no answer"));
    });
  for (const answer of await Promise.all(sources.map(answerTo))) console.log(answer);
  process.exit(0);
}

async function agent(path: string): Promise<void> {
  const setup = JSON.parse(readFileSync(path, "utf8")) as {
    dir: string;
    items: AssignmentItem[];
    backend: BackendName;
  };
  const worker = new Worker(new URL("./lab-worker.ts", import.meta.url));
  const client = workerClient<MeshInput, MeshAnswer, MeshOutput>(worker, "mesh");
  client.onOutput((output) => console.log(JSON.stringify(output)));
  const { dir } = setup;
  const dnsWorker = new Worker(new URL("./lab-dns-worker.ts", import.meta.url));
  const dns = workerClient<DnsInput, DnsAnswer, never>(dnsWorker, "dns");
  const line = new MessageChannel();
  await dns.request({ type: "init", dir });
  await dns.request({ type: "link" }, { port: line.port1 });
  const ready = await client.request(
    { type: "init", dir, backend: setup.backend, engineSocket: "/run/docker.sock" },
    { port: line.port2 },
  );
  console.log(JSON.stringify(ready));
  if (setup.items.length > 0) {
    client.notify({ type: "assignments", isComplete: true, put: setup.items, removed: [] });
  }
  await Bun.stdin.text();
  // The first round may not be through yet.
  let faces = 0;
  for (let turn = 0; turn < COUNT_TURNS && faces === 0; turn += 1) {
    if (turn > 0) await Bun.sleep(200);
    const counted = await client.request({ type: "connections" });
    if (counted.type === "connections") faces = counted.counts.length;
  }
  console.log(JSON.stringify({ type: "connections", faces }));
  console.log(JSON.stringify(await client.request({ type: "status" })));
  await client.stop({ type: "stop" });
  process.exit(0);
}

const [mode, ...rest] = process.argv.slice(2);
if (mode === "serve") await serve(JSON.parse(readFileSync(rest[0] ?? "", "utf8")) as ServeList);
else if (mode === "collide") await collide(rest);
else if (mode === "ask") await ask(rest[0] ?? "", Number(rest[1]), rest.slice(2));
else if (mode === "agent") await agent(rest[0] ?? "");
