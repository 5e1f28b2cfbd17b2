/**
 * Answers over UDP beside dnsmasq with the same names, in one network namespace, client and server on
 * a processor each. dnsmasq and not Docker's own resolver: that one cannot be given 10,000 services,
 * and answers inside of containers only. Answers/s with 64 questions under way; p99 at 1,000
 * questions a second, which is what a quiet node sees, and again while the DNS thread is told of 1,000
 * endpoint changes a second, alone and by a mesh that programs nftables as well.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BenchRow } from "../bench.ts";
import { commandRunner } from "../../net/mesh/backend.ts";
import { preferThisThread } from "../../net/dns/priority.ts";
import { bridgeName } from "../../net/mesh/names.ts";
import { formatIpv4, parseIpv4 } from "../../net/mesh/ipv4.ts";

const SIZES = [100, 10_000];
const TASKS = 5;
const MANY_TASKS = 50;
const UNDER_WAY = 64;
const PACE_PER_S = 1_000;
const ROUNDS = 3;
const MEASURE_MS = 800;
const WARM_UP_MS = 200;
const CHANGES_PER_S = 1_000;
const SERVER_TIMEOUT_MS = 20_000;

const NETWORK = "benchnetwork";
const GATEWAY = "10.0.0.1";
const ASKER = "10.0.0.2";
const UNDERLAY = "192.0.2.1";
const FIRST = parseIpv4("10.1.0.0") ?? 0;

type Service = { name: string; virtualIp: string; tasks: string[] };

function servicesOf(size: number): Service[] {
  let next = FIRST;
  const address = () => formatIpv4(next++);
  return Array.from({ length: size }, (_, place) => ({
    name: `service${place}`,
    virtualIp: address(),
    tasks: Array.from({ length: place === 0 ? MANY_TASKS : TASKS }, address),
  }));
}

/** The mesh's file, as the agent writes it. */
function tableText(services: Service[]): string {
  const meta = { version: 1, createdAtMs: 0, updatedAtMs: 0 };
  const spec = {
    Name: "shop",
    Labels: {},
    Driver: "overlay",
    Options: {},
    Internal: false,
    Attachable: false,
    Ingress: false,
    EnableIPv6: false,
    IPAM: { Driver: "default", Config: [] },
  };
  const settings = {
    nodeId: "node1",
    clusterId: "bench",
    role: "worker",
    managers: [],
    caCertificatePem: "",
    heartbeatPeriodMs: 1_000,
    dataPathPort: 4_789,
    hostname: "h1",
  };
  const peers = [1, 2].map((index) => ({
    nodeId: `node${index}`,
    hostname: `h${index}`,
    index,
    dataPathAddr: `192.0.2.${index}`,
    meshAddress: `10.255.255.${index}`,
  }));
  const legs = (address: string) => [{ networkId: NETWORK, address }];
  const items = [
    { key: "settings/node1", kind: "settings", body: settings },
    ...peers.map((body) => ({ key: `peer/${body.nodeId}`, kind: "peer", body })),
    {
      key: `network/${NETWORK}`,
      kind: "network",
      body: { ...meta, id: NETWORK, spec, subnet: "10.0.0.0/12", gateway: GATEWAY },
    },
    ...services.map(({ name, virtualIp }) => {
      const virtualIps = legs(virtualIp);
      const body = { serviceId: name, name, mode: "vip", virtualIps, ports: [], aliases: [] };
      return { key: `service/${name}`, kind: "service", body };
    }),
    ...services.flatMap(({ name, tasks }) =>
      tasks.map((address, place) => {
        const taskId = `${name}x${place}`;
        const body = {
          taskId,
          serviceId: name,
          name: `${name}.${place + 1}.${taskId}`,
          nodeId: "node2",
          addresses: legs(address),
          isReady: true,
        };
        return { key: `endpoint/${taskId}`, kind: "endpoint", body };
      }),
    ),
  ];
  return JSON.stringify({ format: 1, items });
}

function hostsText(services: Service[]): string {
  const lines = services.flatMap(({ name, virtualIp, tasks }) => [
    `${virtualIp} ${name}`,
    ...tasks.map((task) => `${task} tasks.${name}`),
  ]);
  return `${lines.join("\n")}\n`;
}

type Question = { type: "A" | "PTR"; name(turn: number): string };

function questionsOf(services: Service[]): Record<string, Question> {
  const some = (turn: number) => services[1 + (turn % (services.length - 1))];
  const reversed = (address = "") => address.split(".").reverse().join(".");
  return {
    "service address": { type: "A", name: (turn) => some(turn)?.name ?? "" },
    "5 tasks": { type: "A", name: (turn) => `tasks.${some(turn)?.name}` },
    "50 tasks": { type: "A", name: () => "tasks.service0" },
    "unknown name": { type: "A", name: (turn) => `nothing${turn % 1_000}` },
    PTR: { type: "PTR", name: (turn) => `${reversed(some(turn)?.virtualIp)}.in-addr.arpa` },
  };
}

/** With EDNS, so that fifty addresses fit. */
function encodeQuestion(id: number, { type, name }: Question): Buffer {
  const labels = name(id)
    .split(".")
    .flatMap((label) => [Buffer.from([label.length]), Buffer.from(label)]);
  const head = Buffer.alloc(12);
  head.writeUInt16BE(id, 0);
  head.writeUInt16BE(0x0100, 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(1, 10);
  const tail = Buffer.from([0, 0, type === "A" ? 1 : 12, 0, 1]);
  const edns = Buffer.from([0, 0, 41, 1_232 >> 8, 1_232 & 0xff, 0, 0, 0, 0, 0, 0]);
  return Buffer.concat([head, ...labels, tail, edns]);
}

type Load = { answersPerS: number; p99Ms: number; maxMs: number };

/** Keeps so many questions under way, or asks so many a second. */
async function load(question: Question, pacePerS?: number): Promise<Load> {
  const bytes = Array.from({ length: 1_024 }, (_, id) => encodeQuestion(id, question));
  const sentAtMs = new Float64Array(bytes.length);
  let next = 0;
  let answers = 0;
  let isMeasuring = false;
  const times: number[] = [];
  const socket = await Bun.udpSocket({
    hostname: ASKER,
    connect: { hostname: GATEWAY, port: 53 },
    socket: {
      data: (_socket, answer) => {
        const id = answer.readUInt16BE(0);
        if (isMeasuring) {
          answers += 1;
          times.push(performance.now() - (sentAtMs[id] ?? 0));
        }
        if (pacePerS === undefined) ask();
      },
    },
  });
  const ask = () => {
    const id = next++ % bytes.length;
    sentAtMs[id] = performance.now();
    socket.send(bytes[id] ?? Buffer.alloc(0));
  };
  const startMs = performance.now();
  // A lost question is made up for, or the window would shrink.
  const timer = setInterval(
    () => {
      if (pacePerS === undefined) {
        if (performance.now() - startMs > WARM_UP_MS + MEASURE_MS) return;
        if (times.length === 0) ask();
        return;
      }
      while (next < ((performance.now() - startMs) * pacePerS) / 1_000) ask();
    },
    pacePerS === undefined ? 100 : 1,
  );
  if (pacePerS === undefined) for (let turn = 0; turn < UNDER_WAY; turn += 1) ask();
  await Bun.sleep(WARM_UP_MS);
  isMeasuring = true;
  const fromMs = performance.now();
  await Bun.sleep(MEASURE_MS);
  isMeasuring = false;
  const seconds = (performance.now() - fromMs) / 1_000;
  clearInterval(timer);
  socket.close();
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.floor(times.length * share)] ?? Number.NaN;
  return {
    answersPerS: Math.round(answers / seconds),
    p99Ms: Math.round(at(0.99) * 100) / 100,
    maxMs: Math.round((times.at(-1) ?? Number.NaN) * 100) / 100,
  };
}

type Server = { stop(): Promise<string> };

type Mode = "none" | "names" | "mesh";

async function startOurs(dir: string, mode: Mode): Promise<Server> {
  const program = join(import.meta.dir, "dns-node.ts");
  const child = Bun.spawn([process.execPath, program, dir, String(CHANGES_PER_S), mode], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  if (!new TextDecoder().decode(value).startsWith("serves")) throw new Error("No DNS thread");
  return {
    stop: async () => {
      await child.stdin.end();
      const last = await reader.read();
      await child.exited;
      return new TextDecoder().decode(last.value);
    },
  };
}

async function startPeer(dir: string): Promise<Server> {
  const child = Bun.spawn(
    [
      "dnsmasq",
      "--keep-in-foreground",
      "--conf-file=/dev/null",
      "--no-resolv",
      "--no-hosts",
      `--addn-hosts=${join(dir, "hosts")}`,
      "--local=//",
      "--local=/in-addr.arpa/",
      `--listen-address=${GATEWAY}`,
      "--bind-interfaces",
      "--user=root",
      "--pid-file=",
      "--log-facility=-",
      "--local-ttl=3",
    ],
    { stdin: "ignore", stdout: "ignore", stderr: "ignore" },
  );
  const deadlineMs = performance.now() + SERVER_TIMEOUT_MS;
  const question: Question = { type: "A", name: () => "service1" };
  for (;;) {
    if (await isAnswered(question)) break;
    if (performance.now() > deadlineMs) throw new Error("dnsmasq does not answer");
  }
  return {
    stop: async () => {
      child.kill();
      await child.exited;
      return "";
    },
  };
}

async function isAnswered(question: Question): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<true>();
  const socket = await Bun.udpSocket({
    hostname: ASKER,
    connect: { hostname: GATEWAY, port: 53 },
    socket: { data: () => resolve(true), error: () => undefined },
  });
  socket.send(encodeQuestion(1, question));
  const isHere = await Promise.race([promise, Bun.sleep(100)]);
  socket.close();
  return isHere === true;
}

async function measureSize(size: number, dir: string): Promise<BenchRow[]> {
  const services = servicesOf(size);
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "mesh-table.json"), tableText(services));
  writeFileSync(join(dir, "hosts"), hostsText(services));
  const hasPeer = Bun.which("dnsmasq") !== null;
  if (!hasPeer) console.error("No peer: dnsmasq is missing (apt-get install dnsmasq-base)");
  const kinds = Object.entries(questionsOf(services));
  const figures = new Map<string, number[]>();
  const note = (name: string, figure: number) => {
    figures.set(name, [...(figures.get(name) ?? []), figure]);
  };
  // In turn, so that what else the machine does meets all alike.
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const side of ["peer", "none", "names", "mesh"] as const) {
      if (side === "peer" && !hasPeer) continue;
      const server = await (side === "peer" ? startPeer(dir) : startOurs(dir, side));
      for (const [name, question] of kinds) {
        if (side === "peer" || side === "none")
          note(`${side} ${name}`, (await load(question)).answersPerS);
        note(`${side} ${name} p99`, (await load(question, PACE_PER_S)).p99Ms);
      }
      await server.stop();
    }
  }
  const of = (name: string) => median(figures.get(name));
  return [
    ...kinds.map(([name]) =>
      row(`${size} services, ${name}`, "answers/s", of(`none ${name}`), of(`peer ${name}`)),
    ),
    ...kinds.map(([name]) =>
      row(`${size} services, ${name}, p99`, "ms", of(`none ${name} p99`), of(`peer ${name} p99`)),
    ),
    ...kinds.flatMap(([name]) => [
      row(`${size} services, ${name}, p99 while changing`, "ms", of(`names ${name} p99`)),
      row(`${size} services, ${name}, p99 beside the mesh`, "ms", of(`mesh ${name} p99`)),
    ]),
  ];
}

function median(figures: number[] | undefined): number | undefined {
  return figures?.toSorted((a, b) => a - b)[figures.length >> 1];
}

/** `ratio`: how many times better ours is. */
function row(name: string, unit: string, ours = Number.NaN, peer?: number): BenchRow {
  if (peer === undefined || Number.isNaN(peer)) return { name, unit, ours };
  const ratio = unit === "ms" ? peer / ours : ours / peer;
  return { name, unit, ours, peer, ratio: Math.round(ratio * 100) / 100 };
}

/** Flags: `--sizes=100,10000`; `--inside` is given to itself. */
export async function measureDns(flags: readonly string[]): Promise<BenchRow[]> {
  const given = flags.find((flag) => flag.startsWith("--sizes="))?.slice("--sizes=".length);
  const sizes = given === undefined ? SIZES : given.split(",").map(Number);
  if (flags.includes("--inside")) {
    // What is measured is when the answer comes, not when a busy machine lets us look at it.
    preferThisThread(-20);
    const dir = mkdtempSync(join(tmpdir(), "shoal-bench-dns-"));
    const rows: BenchRow[] = [];
    for (const size of sizes) rows.push(...(await measureSize(size, join(dir, String(size)))));
    rmSync(dir, { recursive: true, force: true });
    return rows;
  }
  return inNamespace(async (path) => {
    const script = join(import.meta.dir, "../bench.ts");
    const inside = ["dns", "--inside", "--json", `--sizes=${sizes.join(",")}`];
    const child = Bun.spawn(["nsenter", `--net=${path}`, process.execPath, script, ...inside], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    const text = await new Response(child.stdout).text();
    if ((await child.exited) !== 0) throw new Error("The benchmark inside of the namespace failed");
    // Printed by this very script.
    return (JSON.parse(text) as { rows: BenchRow[] }).rows;
  });
}

/** A namespace with the network's bridge and its gateway, and a task's address to ask from. */
async function inNamespace(measure: (path: string) => Promise<BenchRow[]>): Promise<BenchRow[]> {
  const name = `shdns${process.pid}`;
  const root = commandRunner();
  await root(["ip", "netns", "add", name]);
  const path = `/run/netns/${name}`;
  const plain = commandRunner(["nsenter", `--net=${path}`]);
  const bridge = bridgeName(NETWORK);
  try {
    for (const command of [
      "ip link set lo up",
      "ip link add underlay0 type veth peer name underlay1",
      `ip addr add ${UNDERLAY}/24 dev underlay0`,
      "ip link set underlay0 up",
      "ip link set underlay1 up",
      `ip addr add ${ASKER}/32 dev lo`,
      `ip link add ${bridge} type bridge`,
      `ip addr add ${GATEWAY}/12 dev ${bridge}`,
      `ip link set ${bridge} up`,
    ]) {
      const result = await plain(command.split(" "));
      if (result.code !== 0) throw new Error(`${command}: ${result.stderr}`);
    }
    return await measure(path);
  } finally {
    await root(["ip", "netns", "del", name]);
  }
}
