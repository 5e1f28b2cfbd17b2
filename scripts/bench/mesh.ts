/**
 * What programming the mesh costs per back-end: everything at once (cold), one endpoint that stops
 * being ready (change), and one reading of all connection counters (counted), at 100, 1,000 and 10,000
 * services of 5 tasks each. In a network namespace of its own; IPVS in User-Mode Linux where this
 * kernel has none (slower by several times: the row says so). Times are of the back-end's `apply`,
 * rendering and comparing included; what is paid before, whatever the back-end, is in the rows `plan`:
 * planning from nothing (cold), one task that leaves or comes back, with the routes compared (change), and
 * the same up to the filter's change as nftables would be told it (to nft).
 */
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import type { BenchRow } from "../bench.ts";
import { type BackendName, commandRunner, type RunCommand } from "../../net/mesh/backend.ts";
import { changedRouting, diffRouting } from "../../net/mesh/diff.ts";
import { formatIpv4, parseIpv4 } from "../../net/mesh/ipv4.ts";
import { nftPlanChange } from "../../net/mesh/nft-change.ts";
import { createPlanMemory, type MeshPlan, type PlanMemory, planMesh } from "../../net/mesh/plan.ts";
import { chooseBackend, makeBackend } from "../../net/mesh/probe.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../net/mesh/table.ts";
import { measureMeshTraffic } from "./mesh-traffic.ts";
import { runInUml, umlObstacle } from "../uml.ts";

const SIZES = [100, 1_000, 10_000];
const TASKS = 5;
const CHANGES = 11;
const COMMANDS_MAX = 1_000;
const SERVICES_PER_NETWORK = 40;
const UML_TIMEOUT_MS = 400_000;
const BASE = parseIpv4("10.0.0.0") ?? 0;

const META = { version: 1, createdAtMs: 0, updatedAtMs: 0 };
const NODES = [1, 2, 3];

/** A cluster of three nodes; all services have a service address, one in ten a published port. */
function benchTable(services: number): MeshTable {
  const table = emptyTable();
  const nodeId = (index: number) => `node${index}`;
  const put: AssignmentItem[] = [];
  put.push({
    key: "settings/node1",
    kind: "settings",
    body: {
      nodeId: nodeId(1),
      clusterId: "bench",
      role: "worker",
      managers: [],
      caCertificatePem: "",
      heartbeatPeriodMs: 1_000,
      dataPathPort: 4_789,
      hostname: "h1",
    },
  });
  for (const index of NODES) {
    put.push({
      key: `peer/${nodeId(index)}`,
      kind: "peer",
      body: {
        nodeId: nodeId(index),
        hostname: `h${index}`,
        index,
        dataPathAddr: `192.0.2.${index}`,
        meshAddress: `10.255.255.${index}`,
      },
    });
  }
  for (let network = 0; network * SERVICES_PER_NETWORK < services; network += 1) {
    const first = BASE + network * 256;
    const id = `network${network}`;
    put.push({
      key: `network/${id}`,
      kind: "network",
      body: {
        ...META,
        id,
        subnet: `${formatIpv4(first)}/24`,
        gateway: formatIpv4(first + 1),
        spec: {
          Name: id,
          Labels: {},
          Driver: "overlay",
          Options: {},
          Internal: false,
          Attachable: false,
          Ingress: false,
          EnableIPv6: false,
          IPAM: { Driver: "default", Config: [] },
        },
      },
    });
  }
  for (let service = 0; service < services; service += 1) {
    const network = Math.floor(service / SERVICES_PER_NETWORK);
    const place = service % SERVICES_PER_NETWORK;
    const address = (offset: number) => formatIpv4(BASE + network * 256 + offset);
    const serviceId = `service${service}`;
    const networkId = `network${network}`;
    put.push({
      key: `service/${serviceId}`,
      kind: "service",
      body: {
        serviceId,
        name: serviceId,
        mode: "vip",
        virtualIps: [{ networkId, address: address(2 + place) }],
        ports:
          service % 10 === 9
            ? [
                {
                  protocol: "tcp",
                  publishedPort: 30_000 + Math.floor(service / 10),
                  targetPort: 80,
                },
              ]
            : [],
        aliases: [],
      },
    });
    for (let task = 0; task < TASKS; task += 1) {
      const taskId = `task${service}x${task}`;
      put.push({
        key: `endpoint/${taskId}`,
        kind: "endpoint",
        body: {
          taskId,
          serviceId,
          name: taskId,
          nodeId: nodeId(1 + ((service + task) % NODES.length)),
          addresses: [
            { networkId, address: address(2 + SERVICES_PER_NETWORK + place * TASKS + task) },
          ],
          isReady: true,
        },
      });
    }
  }
  applyAssignments(table, { isComplete: true, put, removed: [] });
  return table;
}

function planOf(table: MeshTable, memory: PlanMemory): MeshPlan {
  const options = { underlayMtu: 1_500, balance: "random", hasBrNetfilter: true } as const;
  const plan = planMesh(table, new Set(), options, memory);
  if (!plan) throw new Error("The table makes no plan");
  return plan;
}

/** One task of an unpublished service leaves the balance, or comes back. */
function turnTask(table: MeshTable, turn: number): void {
  const place = ((turn >> 1) * 370 + 10) % table.services.size;
  const service = place - (place % 10);
  const key = `endpoint/task${service}x0`;
  const endpoint = table.endpoints.get(key);
  if (endpoint) table.endpoints.set(key, { ...endpoint, isReady: !endpoint.isReady });
}

/** What every back-end pays before it is asked: the plan, and the routes compared. */
function measurePlan(sizes: number[]): BenchRow[] {
  return sizes.flatMap((size) => {
    const table = benchTable(size);
    const memory = createPlanMemory();
    const coldMs = performance.now();
    let plan = planOf(table, memory);
    const cold = performance.now() - coldMs;
    const times: number[] = [];
    const wholeTimes: number[] = [];
    for (let turn = 0; turn < CHANGES; turn += 1) {
      turnTask(table, turn);
      const startMs = performance.now();
      const next = planOf(table, memory);
      const step = changedRouting(plan, next);
      diffRouting(step.plan, step.found);
      times.push(performance.now() - startMs);
      nftPlanChange(plan.filter, next.filter, COMMANDS_MAX);
      wholeTimes.push(performance.now() - startMs);
      plan = next;
    }
    return [
      { name: `plan ${size} services cold`, unit: "ms", ours: Math.round(cold) },
      { name: `plan ${size} services change`, unit: "ms", ours: median(times) },
      { name: `plan ${size} services change to nft`, unit: "ms", ours: median(wholeTimes) },
    ];
  });
}

function median(times: number[]): number {
  const middle = times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0;
  return Math.round(middle * 10) / 10;
}

/** Cold and change of one back-end, programmed by `run` in an empty namespace. */
async function measureBackend(
  label: string,
  name: BackendName,
  run: RunCommand,
  namespacePath: string,
  sizes: number[],
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const make = () => makeBackend(name, run, namespacePath);
  for (const size of sizes) {
    const backend = await chooseBackend(name, make, { hasBrNetfilter: true });
    const table = benchTable(size);
    const memory = createPlanMemory();
    const plan = planOf(table, memory);
    const cold = await timed(() => backend.apply(plan.filter));
    const times: number[] = [];
    for (let turn = 0; turn < CHANGES; turn += 1) {
      turnTask(table, turn);
      const next = planOf(table, memory);
      times.push(await timed(() => backend.apply(next.filter)));
    }
    const reading = await timed(() => backend.readConnections());
    await backend.wipe();
    rows.push(
      { name: `${label} ${size} services cold`, unit: "ms", ours: Math.round(cold) },
      { name: `${label} ${size} services change`, unit: "ms", ours: median(times) },
      { name: `${label} ${size} services counted`, unit: "ms", ours: Math.round(reading) },
    );
  }
  return rows;
}

async function timed(act: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await act();
  return performance.now() - startMs;
}

async function inNamespace(
  measure: (run: (variant?: "legacy" | "nft") => RunCommand, path: string) => Promise<BenchRow[]>,
): Promise<BenchRow[]> {
  const name = `shbench${process.pid}`;
  const root = commandRunner();
  await root(["ip", "netns", "add", name]);
  const path = `/run/netns/${name}`;
  const plain = commandRunner(["nsenter", `--net=${path}`]);
  try {
    await plain(["ip", "link", "set", "lo", "up"]);
    return await measure(
      (variant) => (argv, stdin) => {
        const [tool = "", ...rest] = argv;
        const isVariant = variant !== undefined && tool.startsWith("iptables");
        return plain(
          [isVariant ? tool.replace("iptables", `iptables-${variant}`) : tool, ...rest],
          stdin,
        );
      },
      path,
    );
  } finally {
    await root(["ip", "netns", "del", name]);
  }
}

/** IPVS alone, on this kernel; `bench.ts mesh --ipvs-only` runs it inside of User-Mode Linux. */
const measureIpvs = (label: string, sizes: number[]) =>
  inNamespace((run, path) => measureBackend(label, "ipvs", run("legacy"), path, sizes));

async function measureIpvsInUml(sizes: number[]): Promise<BenchRow[]> {
  const obstacle = umlObstacle();
  if (obstacle !== undefined) {
    console.error(`No rows of IPVS: this kernel has none, and User-Mode Linux ${obstacle}`);
    return [];
  }
  const uml = await runInUml({
    argv: [
      "bash",
      "-c",
      `"$0" scripts/bench.ts mesh --ipvs-only --sizes=${sizes.join(",")} --json > "$UML_OUT/rows.json"`,
      process.execPath,
    ],
    timeoutMs: UML_TIMEOUT_MS,
  });
  const text = uml.read("rows.json");
  uml.remove();
  if (uml.code !== 0 || text === undefined) {
    console.error(`No rows of IPVS: ${uml.output.slice(-2_000)}`);
    return [];
  }
  // Printed by this very script.
  return (JSON.parse(text) as { rows: BenchRow[] }).rows;
}

export async function measureMesh(flags: readonly string[]): Promise<BenchRow[]> {
  const given = flags.find((flag) => flag.startsWith("--sizes="))?.slice("--sizes=".length);
  const sizes = given === undefined ? SIZES : given.split(",").map(Number);
  if (flags.includes("--ipvs-only")) return measureIpvs("ipvs in User-Mode Linux", sizes);
  if (flags.includes("--plan-only")) return measurePlan(sizes);
  if (flags.includes("--traffic-only")) return measureMeshTraffic(flags);
  const rows = await inNamespace(async (run, path) => [
    ...(await measureBackend("nft", "nftables", run(), path, sizes)),
    ...(await measureBackend("iptables (nft)", "iptables", run("nft"), path, sizes)),
    ...(await measureBackend("iptables (legacy)", "iptables", run("legacy"), path, sizes)),
  ]);
  const ipvs = await measureIpvs("ipvs", sizes).catch(() => measureIpvsInUml(sizes));
  return [...measurePlan(sizes), ...rows, ...ipvs, ...(await measureMeshTraffic(flags))];
}
