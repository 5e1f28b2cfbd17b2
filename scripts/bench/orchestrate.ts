/**
 * Services beside stock swarm, on one machine in one run: two labs of one host, one with stock swarm,
 * one with shoal, measured in turn. The same API calls, the same image, the same polling; a round of
 * one waits until the other has cleaned up. The bare engine's rate is that of its own API with as many
 * starts under way as there are processors.
 */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import type { BenchRow } from "../bench.ts";
import { waitFor } from "../lab/command.ts";
import { createLab, type Lab } from "../lab/lab.ts";
import { allowSwarm } from "../lab/stock-swarm.ts";

const ROUNDS = 3;
const SERVICES = 1_000;
const LISTINGS = 20;
const CREATES_UNDER_WAY = 8;
const WAIT = { timeoutMs: 180_000, intervalMs: 20 } as const;

type Side = {
  call<T = unknown>(method: string, path: string, body?: unknown): Promise<T>;
  /** Milliseconds of `docker …` against this side. */
  timeCli(...args: string[]): Promise<number>;
};
type ApiTask = {
  Status: { State: string };
  DesiredState: string;
  Spec: { ContainerSpec: { Env?: string[] } };
};
type ApiService = { ID: string; Version: { Index: number }; UpdateStatus?: { State: string } };

/** Flags: `--rounds N` (default 3), `--only TEXT` (comparisons with that in their name). */
export async function measureOrchestrate(flags: readonly string[]): Promise<BenchRow[]> {
  const { values } = parseArgs({
    args: flags.filter((flag) => flag !== "--json"),
    options: {
      rounds: { type: "string", default: String(ROUNDS) },
      only: { type: "string", default: "" },
    },
  });
  const rounds = Number(values.rounds);
  const labs: Lab[] = [];
  try {
    const [stockLab, ourLab] = [
      await createLab({ hosts: 1 }),
      await createLab({ hosts: 1, agents: true }),
    ];
    labs.push(stockLab, ourLab);
    await allowSwarm(stockLab);
    const [stockHost, ourHost] = [stockLab.host(1), ourLab.host(1)];
    await stockHost.engine("swarm", "init", "--advertise-addr", stockHost.address);
    await ourHost.docker("swarm", "init", "--advertise-addr", ourHost.address);
    const stock = sideOf(stockHost.engineSocket());
    const ours = sideOf(ourHost.agentSocket());
    const bare = sideOf(ourHost.engineSocket());
    const rows: BenchRow[] = [];
    const compare = async (
      name: string,
      unit: string,
      measure: (side: Side) => Promise<number>,
    ) => {
      if (!name.includes(values.only)) return;
      const [mine, theirs]: [number[], number[]] = [[], []];
      for (let round = 0; round < rounds; round++) {
        theirs.push(await measure(stock));
        mine.push(await measure(ours));
      }
      rows.push(row(name, unit, median(mine), median(theirs)));
    };
    await compare("create 50 replicas to all running", "ms", (side) =>
      withService(side, 50, (_, createMs) => Promise.resolve(createMs)),
    );
    await compare("scale 10 to 60", "ms", (side) =>
      withService(side, 10, (name) => timed(() => scaleTo(side, name, 60))),
    );
    await compare("rolling update of 30, 5 at a time", "ms", (side) =>
      withService(side, 30, (name) => timed(() => updateAll(side, name, 30))),
    );
    if (values.only !== "") return rows;
    // The same number of containers with and without orchestration, on the same engine.
    const starts: number[] = [];
    const services: number[] = [];
    for (let round = 0; round < rounds; round++) {
      starts.push(await startBare(bare, 50));
      services.push(await withService(ours, 50, (_, createMs) => Promise.resolve(createMs)));
    }
    rows.push(row("50 containers, peer: the bare engine", "ms", median(services), median(starts)));
    for (const side of [stock, ours]) await createMany(side, SERVICES);
    await compare(`service ls of ${SERVICES}, API`, "ms", (side) =>
      repeated(() => timed(() => side.call("GET", "/services?status=true"))),
    );
    await compare(`service ls of ${SERVICES}, CLI`, "ms", (side) => side.timeCli("service", "ls"));
    await compare(`node ls beside ${SERVICES} services, API`, "ms", (side) =>
      repeated(() => timed(() => side.call("GET", "/nodes"))),
    );
    return rows;
  } finally {
    for (const lab of labs) await lab.down();
  }
}

/** `ratio`: how many times faster ours is. */
function row(name: string, unit: string, ours: number, peer: number): BenchRow {
  const round = (value: number) => Math.round(value * 10) / 10;
  return {
    name,
    unit,
    ours: round(ours),
    peer: round(peer),
    ratio: Math.round((100 * peer) / ours) / 100,
  };
}

function sideOf(socket: string): Side {
  return {
    call: async <T>(method: string, path: string, body?: unknown) => {
      const response = await fetch(`http://docker/v1.41${path}`, {
        unix: socket,
        method,
        ...(body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      });
      const text = await response.text();
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
      // What the Docker API answers there.
      return (text === "" ? undefined : JSON.parse(text)) as T;
    },
    timeCli: (...args) =>
      timed(async () => {
        const child = Bun.spawn(["docker", "-H", `unix://${socket}`, ...args], {
          stdout: "ignore",
        });
        if ((await child.exited) !== 0) throw new Error(`docker ${args.join(" ")} failed`);
      }),
  };
}

const specOf = (name: string, replicas: number, version = "1") => ({
  Name: name,
  Mode: { Replicated: { Replicas: replicas } },
  TaskTemplate: {
    ContainerSpec: {
      Image: "lab:latest",
      Command: ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
      Env: [`VERSION=${version}`],
    },
  },
  UpdateConfig: { Parallelism: 5, Delay: 0, Monitor: 5e8, Order: "stop-first" },
});

async function running(side: Side, name: string, version?: string): Promise<number> {
  const filters = encodeURIComponent(
    JSON.stringify({ service: [name], "desired-state": ["running"] }),
  );
  const tasks = await side.call<ApiTask[]>("GET", `/tasks?filters=${filters}`);
  return tasks.filter(
    ({ Status, Spec }) =>
      Status.State === "running" &&
      (version === undefined || Spec.ContainerSpec.Env?.includes(`VERSION=${version}`)),
  ).length;
}

/** Gives what `work` gives; it is told how long it took until all were running. */
async function withService(
  side: Side,
  replicas: number,
  work: (name: string, createMs: number) => Promise<number>,
): Promise<number> {
  const name = `bench${crypto.randomUUID().slice(0, 8)}`;
  const createMs = await timed(async () => {
    await side.call("POST", "/services/create", specOf(name, replicas));
    await waitFor("all running", async () => (await running(side, name)) === replicas, WAIT);
  });
  const result = await work(name, createMs);
  await side.call("DELETE", `/services/${name}`);
  // Both sides' engines are idle before the next round begins.
  await waitFor(
    "the containers to go",
    async () => {
      const filters = encodeURIComponent(
        JSON.stringify({ label: [`com.docker.swarm.service.name=${name}`] }),
      );
      return (
        (await side.call<unknown[]>("GET", `/containers/json?all=1&filters=${filters}`)).length ===
        0
      );
    },
    WAIT,
  );
  return result;
}

async function scaleTo(side: Side, name: string, replicas: number): Promise<void> {
  const service = await side.call<ApiService>("GET", `/services/${name}`);
  const path = `/services/${service.ID}/update?version=${service.Version.Index}`;
  await side.call("POST", path, specOf(name, replicas));
  await waitFor("all running", async () => (await running(side, name)) === replicas, WAIT);
}

async function updateAll(side: Side, name: string, replicas: number): Promise<void> {
  const service = await side.call<ApiService>("GET", `/services/${name}`);
  const path = `/services/${service.ID}/update?version=${service.Version.Index}`;
  await side.call("POST", path, specOf(name, replicas, "2"));
  await waitFor(
    "the update to be complete",
    async () => {
      const { UpdateStatus } = await side.call<ApiService>("GET", `/services/${name}`);
      if (UpdateStatus?.State !== "completed") return false;
      return (await running(side, name, "2")) === replicas;
    },
    WAIT,
  );
}

/** The engine alone: create and start, as many at once as it has processors. */
async function startBare(engine: Side, count: number): Promise<number> {
  const ids: string[] = [];
  const startMs = await timed(async () => {
    let left = count;
    const worker = async () => {
      while (left-- > 0) {
        const { Image, Command, Env } = specOf("bare", 1).TaskTemplate.ContainerSpec;
        const body = { Image, Entrypoint: Command, Env };
        const { Id } = await engine.call<{ Id: string }>("POST", "/containers/create", body);
        ids.push(Id);
        await engine.call("POST", `/containers/${Id}/start`);
      }
    };
    await Promise.all(Array.from({ length: cpus().length }, worker));
  });
  for (const id of ids) await engine.call("DELETE", `/containers/${id}?force=1`);
  return startMs;
}

async function createMany(side: Side, count: number): Promise<void> {
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < count; i = next++) {
      await side.call("POST", "/services/create", specOf(`many${i}`, 0));
    }
  };
  await Promise.all(Array.from({ length: CREATES_UNDER_WAY }, worker));
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}

async function repeated(measure: () => Promise<number>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < LISTINGS; i++) times.push(await measure());
  return median(times);
}

function median(list: readonly number[]): number {
  return list.toSorted((a, b) => a - b)[list.length >> 1] ?? Number.NaN;
}
