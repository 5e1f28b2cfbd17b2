/** In which order the cases run, and what both clusters are told before each part. */
import { waitFor } from "../../scripts/lab/command.ts";
import type { Case } from "./case.ts";
import { API_CASES } from "./cases/api.ts";
import { API_SERVICE_CASES } from "./cases/api-service.ts";
import { DATA_CASES } from "./cases/data.ts";
import { INACTIVE_CASES } from "./cases/inactive.ts";
import { LEAVE_CASES } from "./cases/leave.ts";
import { NETWORK_CASES } from "./cases/network.ts";
import { NODE_CASES } from "./cases/node.ts";
import { PAIR_CASES } from "./cases/pair.ts";
import { SERVICE_CASES } from "./cases/service.ts";
import { SERVICE_UPDATE_CASES } from "./cases/service-update.ts";
import { STACK_CASES } from "./cases/stack.ts";
import { CA_CASES, SWARM_CASES } from "./cases/swarm.ts";
import { JOB_CASES, TASK_CASES } from "./cases/task.ts";
import type { Side } from "./sides.ts";

export type Phase = {
  name: string;
  cases: readonly Case[];
  /** On each side; what is compared of it is in the cases. */
  before(side: Side): Promise<void>;
  /** Whether what a case made is removed after it. */
  sweeps: boolean;
};

async function must(side: Side, line: string, host = 1): Promise<string> {
  const result = await side.shell(line, "/", host, 30_000);
  if (result.code !== 0) throw new Error(`${side.name}: "${line}": ${result.stderr}`);
  return result.stdout.trim();
}

async function untilNodes(side: Side, count: number): Promise<void> {
  await waitFor(`${side.name}: ${count} nodes ready`, async () => {
    const listed = await must(side, "docker node ls --format '{{.Status}}'");
    return listed.split("\n").filter((line) => line === "Ready").length === count;
  });
}

export const PHASES: readonly Phase[] = [
  {
    name: "hosts in no swarm",
    cases: INACTIVE_CASES,
    before: () => Promise.resolve(),
    sweeps: false,
  },
  {
    name: "one manager",
    // Lists of all tasks come before jobs, whose tasks stock never forgets.
    cases: [
      ...TASK_CASES,
      ...SWARM_CASES,
      ...NODE_CASES,
      ...API_CASES,
      ...API_SERVICE_CASES,
      ...DATA_CASES,
      ...NETWORK_CASES,
      ...SERVICE_CASES,
      ...SERVICE_UPDATE_CASES,
      ...STACK_CASES,
      ...JOB_CASES,
      ...CA_CASES,
    ],
    before: async (side) => {
      await must(side, "docker swarm init --advertise-addr 192.168.77.1");
      await untilNodes(side, 1);
      side.saved.set("node", await must(side, "docker info --format '{{.Swarm.NodeID}}'"));
    },
    sweeps: true,
  },
  {
    name: "a manager and a worker",
    cases: PAIR_CASES,
    before: async (side) => {
      const token = await must(side, "docker swarm join-token -q worker");
      await must(side, `docker swarm join --token ${token} 192.168.77.1:2377`, 2);
      await untilNodes(side, 2);
      side.saved.set("worker", await must(side, "docker info --format '{{.Swarm.NodeID}}'", 2));
    },
    sweeps: true,
  },
  { name: "leaving", cases: LEAVE_CASES, before: () => Promise.resolve(), sweeps: false },
];
