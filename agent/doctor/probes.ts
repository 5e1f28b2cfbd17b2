/** The thin ends that touch this host: connect, ask, ping, read. None changes anything; each has a time limit. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { connect } from "node:net";
import dnsPacket from "dns-packet";
import { commandRunner } from "../../net/mesh/backend.ts";
import { type Interface, parseInterfaces } from "../../net/mesh/observe.ts";
import type { DnsOutcome, PingOutcome, TcpOutcome } from "./facts.ts";
import { parseAsked, parseListeners, parseNumber, parseRules, readPing } from "./parse.ts";

export type DnsQuestion = { type: "A" | "PTR"; name: string };

export type Probes = {
  tcp(address: string, port: number, timeoutMs: number): Promise<TcpOutcome>;
  /** One packet of this size, headers included, that must not be cut. */
  ping(address: string, sizeBytes: number, timeoutMs: number): Promise<PingOutcome>;
  /** One question over UDP, asked twice if need be. */
  dns(server: string, question: DnsQuestion, timeoutMs: number): Promise<DnsOutcome>;
  /** A question of a task, in the network namespace of its container; undefined when it cannot be asked. */
  dnsOf(
    target: { gateway: string },
    task: { container: string; name: string },
    timeoutMs: number,
  ): Promise<DnsOutcome | undefined>;
  interfaces(): Promise<Interface[]>;
  /** A kernel setting by its key; undefined where the kernel has none. */
  setting(path: string): Promise<number | undefined>;
  firewall(): Promise<{ forward: string[]; user: string[] } | undefined>;
  /** Listening TCP ports of this host with the socket's inode. */
  listeners(): Promise<{ port: number; inode: string }[]>;
  /** The programs that hold these sockets, by inode. */
  processes(inodes: readonly string[]): Promise<Map<string, string>>;
};

/** Of an IPv4 echo request. */
const PING_HEADER_BYTES = 28;
const DNS_TRIES = 2;
/** Looked through for the owner of a socket. */
const PROCESSES_MAX = 4_096;
const FILES_MAX = 4_096;
const SYS = "/proc/sys/";

/** `askCommand` begins a command line that asks a DNS server: `shoal net ask`. */
export function hostProbes(options: { engineSocket: string; askCommand: string[] }): Probes {
  const run = commandRunner();
  return {
    tcp: tryTcp,
    ping: async (address, sizeBytes, timeoutMs) => {
      const seconds = String(Math.max(1, Math.ceil(timeoutMs / 1_000)));
      const size = String(sizeBytes - PING_HEADER_BYTES);
      const options = ["-n", "-M", "do", "-c", "1", "-W", seconds, "-w", seconds, "-s", size];
      return readPing(await run(["ping", ...options, address]));
    },
    dns: askDns,
    dnsOf: async ({ gateway }, { container, name }, timeoutMs) => {
      const pid = await pidOf(options.engineSocket, container, timeoutMs);
      if (pid === undefined) return undefined;
      const ask = [...options.askCommand, gateway, name, String(timeoutMs)];
      const result = await run(["nsenter", "-t", String(pid), "-n", "--", ...ask]);
      return result.code === 0 ? parseAsked(result.stdout) : undefined;
    },
    interfaces: async () => {
      const result = await run(["ip", "-j", "-d", "addr", "show"]);
      return result.code === 0 ? parseInterfaces(result.stdout) : [];
    },
    setting: async (path) => {
      const text = await readFile(`${SYS}${path}`, "utf8").catch(() => "");
      return parseNumber(text);
    },
    firewall: async () => {
      const [forward, user] = await Promise.all(
        ["FORWARD", "DOCKER-USER"].map((chain) => run(["iptables", "-w", "2", "-S", chain])),
      );
      if (forward?.code !== 0) return undefined;
      return {
        forward: parseRules(forward.stdout, "FORWARD"),
        user: parseRules(user?.stdout ?? "", "DOCKER-USER"),
      };
    },
    listeners: async () => {
      const texts = await Promise.all(
        ["/proc/net/tcp", "/proc/net/tcp6"].map((path) => readFile(path, "utf8").catch(() => "")),
      );
      return texts.flatMap(parseListeners);
    },
    processes: findProcesses,
  };
}

/** How this program is started with other arguments: a compiled one is its own runtime. */
export function ownCommand(...args: string[]): string[] {
  const isCompiled = Bun.main.startsWith("/$bunfs/");
  return isCompiled ? [process.execPath, ...args] : [process.execPath, Bun.main, ...args];
}

/** Of a running container. */
async function pidOf(
  engineSocket: string,
  container: string,
  timeoutMs: number,
): Promise<number | undefined> {
  try {
    const path = `/containers/${encodeURIComponent(container)}/json`;
    const response = await fetch(`http://engine${path}`, {
      unix: engineSocket,
      signal: AbortSignal.timeout(timeoutMs),
    });
    // Docker's answer, as far as it is read: every field may be missing.
    const body = (await response.json()) as { State?: { Running?: boolean; Pid?: number } };
    const pid = body.State?.Pid;
    return body.State?.Running === true && typeof pid === "number" && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Never throws. */
function tryTcp(address: string, port: number, timeoutMs: number): Promise<TcpOutcome> {
  return new Promise((resolve) => {
    const startedMs = performance.now();
    const socket = connect({ host: address, port });
    const end = (outcome: TcpOutcome) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome);
    };
    const ms = () => Math.round((performance.now() - startedMs) * 10) / 10;
    const timer = setTimeout(() => end({ type: "silent", ms: timeoutMs }), timeoutMs);
    socket.on("connect", () => end({ type: "connected", ms: ms() }));
    socket.on("error", (failure: Error & { code?: string }) => {
      const { code = "", message } = failure;
      if (code === "ECONNREFUSED" || code === "ECONNRESET") end({ type: "refused", ms: ms() });
      else if (code === "ETIMEDOUT") end({ type: "silent", ms: ms() });
      else end({ type: "failed", message: code || message });
    });
  });
}

/** One question over UDP, asked twice if need be. Never throws. */
export async function askDns(
  server: string,
  question: DnsQuestion,
  timeoutMs: number,
): Promise<DnsOutcome> {
  for (let attempt = 1; attempt <= DNS_TRIES; attempt++) {
    const outcome = await askDnsOnce(server, question, timeoutMs / DNS_TRIES);
    if (outcome.type === "answered" || attempt === DNS_TRIES) return outcome;
  }
  return { type: "silent" };
}

async function askDnsOnce(
  server: string,
  question: DnsQuestion,
  timeoutMs: number,
): Promise<DnsOutcome> {
  const startedMs = performance.now();
  const id = Math.floor(Math.random() * 0x1_0000);
  const asked = Promise.withResolvers<DnsOutcome>();
  const socket = await Bun.udpSocket({
    connect: { hostname: server, port: 53 },
    socket: {
      data: (_socket, bytes) => {
        const outcome = readDns(bytes, id, performance.now() - startedMs);
        if (outcome) asked.resolve(outcome);
      },
      // Nobody listens there: as no answer.
      error: () => undefined,
    },
  }).catch(() => undefined);
  if (!socket) return { type: "silent" };
  const timer = setTimeout(() => asked.resolve({ type: "silent" }), timeoutMs);
  try {
    socket.send(
      dnsPacket.encode({
        type: "query",
        id,
        flags: dnsPacket.RECURSION_DESIRED,
        questions: [question],
      }),
    );
    return await asked.promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}

function readDns(bytes: Buffer, id: number, ms: number): DnsOutcome | undefined {
  try {
    const answer = dnsPacket.decode(bytes);
    if (answer.type !== "response" || answer.id !== id) return undefined;
    const flags = answer.flags ?? 0;
    const code = flags & 0xf;
    return {
      type: "answered",
      code: code === 0 ? "NOERROR" : code === 3 ? "NXDOMAIN" : "other",
      isAuthority: (flags & dnsPacket.AUTHORITATIVE_ANSWER) !== 0,
      ms: Math.round(ms * 10) / 10,
    };
  } catch {
    return undefined;
  }
}

async function findProcesses(inodes: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const wanted = new Map(inodes.map((inode) => [`socket:[${inode}]`, inode]));
  if (wanted.size === 0) return found;
  const pids = (await readdir("/proc").catch(() => [])).filter((name) => /^\d+$/.test(name));
  for (const pid of pids.slice(0, PROCESSES_MAX)) {
    const files = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const file of files.slice(0, FILES_MAX)) {
      const link = await readlink(`/proc/${pid}/fd/${file}`).catch(() => "");
      const inode = wanted.get(link);
      if (inode === undefined || found.has(inode)) continue;
      const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
      found.set(inode, `${name.trim() || "a process"} (pid ${pid})`);
    }
    if (found.size === wanted.size) break;
  }
  return found;
}
