/** In which order the cases run, and what both clusters are told before each part. */
import { waitFor } from "../../scripts/lab/command.ts";
import { startRegistry } from "../../scripts/lab/registry.ts";
import type { Case } from "./case.ts";
import { API_CASES } from "./cases/api.ts";
import { API_RARE_CASES } from "./cases/api-rare.ts";
import { API_SERVICE_CASES } from "./cases/api-service.ts";
import { BESIDE_CASES } from "./cases/beside.ts";
import { CLIENT_CASES } from "./cases/clients.ts";
import { DATA_CASES } from "./cases/data.ts";
import { INACTIVE_CASES } from "./cases/inactive.ts";
import { INSIDE_CASES } from "./cases/inside.ts";
import { LEAVE_CASES } from "./cases/leave.ts";
import { LOCKED_CASES } from "./cases/locked.ts";
import { MANAGER_CASES } from "./cases/managers.ts";
import { NETWORK_CASES } from "./cases/network.ts";
import { NODE_CASES } from "./cases/node.ts";
import { PAIR_CASES } from "./cases/pair.ts";
import { REGISTRY_CASES } from "./cases/registry.ts";
import { SERVICE_CASES } from "./cases/service.ts";
import { SERVICE_RARE_CASES } from "./cases/service-rare.ts";
import { SERVICE_UPDATE_CASES } from "./cases/service-update.ts";
import { STACK_RARE_CASES } from "./cases/stack-rare.ts";
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

const INIT = "docker swarm init --advertise-addr 192.168.77.1";

/** Out of any swarm, also where the phases before were left out. */
async function leaveAll(side: Side): Promise<void> {
  for (const host of [2, 1]) {
    // In none it is refused.
    await side.shell("docker swarm leave --force", "/", host, 30_000);
    await waitFor(`${side.name}: host ${host} to be in no swarm`, async () => {
      const state = await must(side, "docker info --format '{{.Swarm.LocalNodeState}}'", host);
      return state === "inactive";
    });
  }
}

/** A worker on host 2, `$worker`. */
async function addWorker(side: Side): Promise<void> {
  const token = await must(side, "docker swarm join-token -q worker");
  await must(side, `docker swarm join --token ${token} 192.168.77.1:2377`, 2);
  await untilNodes(side, 2);
  side.saved.set("worker", await must(side, "docker info --format '{{.Swarm.NodeID}}'", 2));
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
      ...STACK_RARE_CASES,
      ...SERVICE_RARE_CASES,
      ...API_RARE_CASES,
      ...CLIENT_CASES,
      ...BESIDE_CASES,
      ...INSIDE_CASES,
      ...JOB_CASES,
      ...CA_CASES,
    ],
    before: async (side) => {
      await must(side, INIT);
      await untilNodes(side, 1);
      side.saved.set("node", await must(side, "docker info --format '{{.Swarm.NodeID}}'"));
    },
    sweeps: true,
  },
  {
    name: "a manager and a worker",
    cases: PAIR_CASES,
    before: addWorker,
    sweeps: true,
  },
  { name: "leaving", cases: LEAVE_CASES, before: () => Promise.resolve(), sweeps: false },
  {
    name: "a registry",
    cases: REGISTRY_CASES,
    before: async (side) => {
      await leaveAll(side);
      await must(side, INIT);
      const { address, user, password } = await startRegistry(side.lab);
      side.saved.set("reg", address);
      await must(side, `docker login --username ${user} --password ${password} ${address}`);
      const image = `${address}/app:1`;
      await must(side, `docker tag lab:latest ${image} && docker push -q ${image}`);
      await must(side, `docker rmi ${image}`);
    },
    sweeps: true,
  },
  {
    name: "two managers",
    cases: MANAGER_CASES,
    before: async (side) => {
      await leaveAll(side);
      await must(side, INIT);
      await addWorker(side);
    },
    sweeps: true,
  },
  {
    name: "a locked manager",
    cases: LOCKED_CASES,
    before: async (side) => {
      await leaveAll(side);
      await must(side, `${INIT} --autolock`);
      side.saved.set("key", await must(side, "docker swarm unlock-key -q"));
      await side.restart(1);
    },
    sweeps: false,
  },
];
