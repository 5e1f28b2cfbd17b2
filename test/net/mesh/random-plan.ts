/** Filter plans out of a seed: the lab's cluster with random services, tasks and networks in it. */
import { PUBLISH_POLICIES } from "../../../core/objects/balancing.ts";
import { type FilterPlan, planMesh, type PlanOptions } from "../../../net/mesh/plan.ts";
import type { MeshTable } from "../../../net/mesh/table.ts";
import { LAB_TASKS, labEndpoint, type LabTask, labTable, networkId, NODE_ID } from "./lab-state.ts";

/** A small generator of numbers in [0, 1). Source: mulberry32, public domain. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A table of node 1; those of one `shape` have much in common, as before and after a change. */
export function randomTable(
  shape: number,
  change: number,
): { table: MeshTable; options: PlanOptions } {
  const table = labTable(1);
  const stable = seededRandom(shape);
  const random = seededRandom(shape * 1_000 + change);
  /** Of what services ask for beside; the rest is as without. */
  const taste = seededRandom(shape * 1_000 + change + 500);
  const serviceCount = Math.floor(stable() * 60);
  for (let service = 0; service < serviceCount; service += 1) {
    const second = 101 + Math.floor(stable() * 3);
    const network = ["netA", "netB", "netC"][second - 101] ?? "netA";
    const isPublished = stable() < 0.5;
    if (random() < 0.1) continue;
    const serviceId = `service-r${service}`;
    table.services.set(`service/${serviceId}`, {
      serviceId,
      name: `r${service}`,
      mode: "vip",
      virtualIps: [
        {
          networkId: networkId(network),
          address: `10.${second}.0.${100 + service}`,
        },
      ],
      ports: isPublished
        ? [
            {
              protocol: random() < 0.8 ? "tcp" : "udp",
              publishedPort: 20_000 + service * 97,
              targetPort: random() < 0.9 ? 80 : 81,
              publish: PUBLISH_POLICIES[Math.floor(taste() * 5)] ?? "preserve",
            },
          ]
        : [],
      aliases: [],
      balancing: {
        ...(taste() < 0.3 ? { hasAffinity: true } : {}),
        ...(taste() < 0.3 ? { isLocalFirst: true } : {}),
      },
    });
    const taskCount = Math.floor(random() * 4);
    for (let place = 0; place < taskCount; place += 1) {
      const task: LabTask = {
        name: `r${service}x${place}`,
        service: `r${service}`,
        node: 1 + Math.floor(random() * 3),
        legs: { [network]: `10.${second}.0.${160 + ((service * 4 + place) % 90)}` },
      };
      const endpoint = labEndpoint(task, random() < 0.7);
      table.endpoints.set(`endpoint/${endpoint.taskId}`, endpoint);
    }
  }
  for (const task of LAB_TASKS) {
    const key = `endpoint/task-${task.name}`;
    const fate = random();
    if (fate < 0.2) table.endpoints.delete(key);
    else if (fate < 0.4) table.endpoints.set(key, labEndpoint(task, false));
  }
  if (random() < 0.1) table.peers.delete(`peer/${NODE_ID(2)}`);
  if (random() < 0.1) table.networks.delete(`network/${networkId("netC")}`);
  const balance = random() < 0.5 ? "random" : "increment";
  return { table, options: { underlayMtu: 1500, balance, hasBrNetfilter: true } };
}

/** The plan of such a table. */
export function randomPlan(shape: number, change: number): FilterPlan {
  const { table, options } = randomTable(shape, change);
  const plan = planMesh(table, new Set(), options);
  if (!plan) throw new Error("The table makes no plan");
  return plan.filter;
}
