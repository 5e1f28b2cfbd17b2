/**
 * What the mesh costs a request, in a lab with real engines: by a service's address and by a published
 * port, with the task on the same host and on another one, beside the task's own address from the same
 * place (direct), and beside a port that the bare engine publishes (`docker run -p`). All in one run,
 * the ways in turn, medians of the rounds: the machine's other work hits all alike.
 */
import { join } from "node:path";
import type { BenchRow } from "../bench.ts";
import { bunMounts } from "../../test/lab/traffic/bun-container.ts";
import { waitFor } from "../lab/command.ts";
import { createLab, type Lab } from "../lab/lab.ts";
import type { TrafficLoad, TrafficResult } from "./traffic-client.ts";

/** Many short ones: whatever else the machine does hits all ways alike. */
const ROUNDS = 15;
const USERS = 8;
const DURATION_MS = 400;
const REQUESTS_MAX = 100_000;
const BARE_PORT = 8_090;
const HERE_PORT = 8_091;
const THERE_PORT = 8_092;

type Way = {
  name: string;
  /** The way that it is compared with. */
  peer?: string;
  host: string;
  port: number;
  enter(command: readonly string[]): string[];
};

/** Flags: `--rounds=N` (default 15). */
export async function measureMeshTraffic(flags: readonly string[]): Promise<BenchRow[]> {
  const given = flags.find((flag) => flag.startsWith("--rounds="))?.slice("--rounds=".length);
  const lab = await createLab({ hosts: 2, agents: true });
  try {
    const ways = await prepare(lab);
    return await compare(ways, Number(given ?? ROUNDS));
  } finally {
    await lab.down();
  }
}

async function prepare(lab: Lab): Promise<Way[]> {
  const [first, second] = [lab.host(1), lab.host(2)];
  await first.docker("swarm", "init");
  const token = await first.docker("swarm", "join-token", "-q", "worker");
  await second.docker("swarm", "join", "--token", token, `${first.address}:2377`);
  await first.docker("network", "create", "-d", "overlay", "bench");
  const server = [...bunMounts(), ..."lab:latest /bin/bun /traffic/server.ts".split(" ")];
  const create = async (name: string, host: string, ...more: string[]) =>
    first.docker(
      ..."service create -d --no-resolve-image --network bench".split(" "),
      "--name",
      name,
      "--constraint",
      `node.hostname==${host}`,
      ...more,
    );
  await create("here", "h1", "-p", `${HERE_PORT}:80`, "--env", "VERSION=1", ...server);
  await create("there", "h2", "-p", `${THERE_PORT}:80`, "--env", "VERSION=1", ...server);
  await create("asks", "h1", "lab:latest");
  await first.engine("run", "-d", "-p", `${BARE_PORT}:80`, "--env", "VERSION=1", ...server);
  for (const port of [BARE_PORT, HERE_PORT, THERE_PORT]) {
    await waitFor(`port ${port}`, () => lab.client.curl(`http://${first.address}:${port}/`));
  }

  const inspectContainer = async (service: string, host: typeof first, format: string) => {
    const label = `label=com.docker.swarm.service.name=${service}`;
    const id = await waitFor(`the container of ${service}`, async () => {
      const found = await host.engine("ps", "-q", "--filter", label);
      return found === "" ? undefined : found;
    });
    return host.engine("inspect", "-f", format, id);
  };
  const address = "{{.NetworkSettings.Networks.bench.IPAddress}}";
  const addressHere = await inspectContainer("here", first, address);
  const addressThere = await inspectContainer("there", second, address);
  const pid = await inspectContainer("asks", first, "{{.State.Pid}}");
  const virtualIp = async (service: string) => {
    const format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    const listed = await first.docker("service", "inspect", "-f", format, service);
    return listed.split("/")[0] ?? "";
  };
  const container = (command: readonly string[]) => [
    "nsenter",
    `--net=/proc/${pid}/ns/net`,
    ...command,
  ];
  const outside = (command: readonly string[]) => lab.client.enter(command);
  // A connection for each request uses up the local ports otherwise.
  for (const enter of [container, outside]) {
    const settings = ["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"];
    await runChecked(enter(["sysctl", "-qw", ...settings]));
  }
  return [
    { name: "direct, here", host: addressHere, port: 80, enter: container },
    {
      name: "service address, task here",
      peer: "direct, here",
      host: await virtualIp("here"),
      port: 80,
      enter: container,
    },
    { name: "direct, there", host: addressThere, port: 80, enter: container },
    {
      name: "service address, task on another host",
      peer: "direct, there",
      host: await virtualIp("there"),
      port: 80,
      enter: container,
    },
    { name: "bare engine's port", host: first.address, port: BARE_PORT, enter: outside },
    {
      name: "mesh port, task here",
      peer: "bare engine's port",
      host: first.address,
      port: HERE_PORT,
      enter: outside,
    },
    {
      name: "mesh port, task on another host",
      peer: "bare engine's port",
      host: first.address,
      port: THERE_PORT,
      enter: outside,
    },
    // From the same host to the same container: what the port costs beside the address.
    {
      name: "direct from the host, there",
      host: addressThere,
      port: 80,
      enter: (command) => first.enter(command),
    },
    {
      name: "mesh port from the host, task there",
      peer: "direct from the host, there",
      host: first.address,
      port: THERE_PORT,
      enter: (command) => first.enter(command),
    },
  ];
}

async function compare(ways: Way[], rounds: number): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const isKept of [true, false]) {
    const results = new Map<string, TrafficResult[]>(ways.map(({ name }) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      // Each round begins with another: what comes first is not always the same.
      for (const place of ways.keys()) {
        const way = ways[(place + round) % ways.length];
        if (way) results.get(way.name)?.push(await measure(way, isKept));
      }
    }
    const medianOf = (name: string, field: "perSecond" | "p99Ms") => {
      const values = (results.get(name) ?? []).map((result) => result[field]);
      return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
    };
    const kind = isKept ? "keep-alive" : "connection each";
    for (const [name, list] of results) {
      const errors = list.reduce((sum, result) => sum + result.errors, 0);
      if (errors > 0) console.error(`${name}, ${kind}: ${errors} requests failed`);
    }
    for (const { name, peer } of ways) {
      if (peer === undefined) continue;
      for (const [field, unit] of [
        ["perSecond", "req/s"],
        ["p99Ms", "ms p99"],
      ] as const) {
        const digits = field === "p99Ms" ? 100 : 1;
        const [ours, theirs] = [medianOf(name, field), medianOf(peer, field)];
        rows.push({
          name: `${name}, ${kind} (peer: ${peer})`,
          unit,
          ours: Math.round(ours * digits) / digits,
          peer: Math.round(theirs * digits) / digits,
          // How many times better ours is, as in the other benchmarks.
          ratio: Math.round((field === "p99Ms" ? theirs / ours : ours / theirs) * 100) / 100,
        });
      }
    }
  }
  return rows;
}

async function measure(way: Way, isKept: boolean): Promise<TrafficResult> {
  const load: TrafficLoad = {
    host: way.host,
    port: way.port,
    isKept,
    users: USERS,
    durationMs: DURATION_MS,
    requestsMax: REQUESTS_MAX,
  };
  const client = join(import.meta.dir, "traffic-client.ts");
  const output = await runChecked(way.enter([process.execPath, client, JSON.stringify(load)]));
  // Printed by traffic-client.ts.
  return JSON.parse(output) as TrafficResult;
}

async function runChecked(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const output = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`Cannot run "${command.join(" ")}"`);
  return output;
}
