/**
 * The demonstration behind scripts/quickstart.sh: builds the agent, makes a lab, forms a cluster with
 * the stock docker CLI, starts a service and asks for it through every host, one without a task among
 * them. Each step has a bound; at the end, and on any failure or ^C, the lab is removed (not with
 * --keep).
 */
import { parseArgs } from "node:util";
import { build } from "./build.ts";
import { tryRun, waitFor } from "./lab/command.ts";
import { CLIENT_ADDRESS, ROUTER_ADDRESS } from "./lab/fabric.ts";
import { createLab, DEFAULT_BINARY, findTraces, type Lab, removeLab } from "./lab/lab.ts";

const NODES_TIMEOUT_MS = 60_000;
const ANSWERS_TIMEOUT_MS = 120_000;
const PORT = 8080;

const { values: flags } = parseArgs({
  options: {
    keep: { type: "boolean", default: false },
    down: { type: "boolean", default: false },
    name: { type: "string", default: "shoal" },
  },
});

const startedMs = performance.now();
const since = (fromMs: number) => ((performance.now() - fromMs) / 1000).toFixed(1);
function step(line: string): void {
  console.log(`${since(startedMs).padStart(6)} s  ${line}`);
}

type Answer = { task: string; client: string };

/** One request of the client; undefined when nobody answered. */
async function ask(lab: Lab, address: string): Promise<Answer | undefined> {
  const url = `http://${address}:${PORT}/`;
  const result = await lab.client.tryRun(["curl", "-sf", "--max-time", "2", url]);
  const match = /client=(\S+) task=(\S+)/.exec(result.stdout);
  return result.code === 0 && match ? { client: match[1] ?? "", task: match[2] ?? "" } : undefined;
}

/** Asks through each host until `taskCount` different tasks have answered there, and prints them. */
async function untilAllAnswer(lab: Lab, taskCount: number): Promise<void> {
  for (const host of lab.hosts) {
    const tasks = new Set<string>();
    const clients = new Set<string>();
    let requests = 0;
    await waitFor(
      `answers of ${taskCount} tasks through ${host.name}`,
      async () => {
        requests += 1;
        const answer = await ask(lab, host.address);
        if (!answer) return false;
        tasks.add(answer.task);
        clients.add(answer.client);
        return tasks.size >= taskCount;
      },
      { timeoutMs: ANSWERS_TIMEOUT_MS, intervalMs: 20 },
    );
    const names = [...tasks].map((task) => task.split(".").slice(0, 2).join(".")).toSorted();
    const seen = [...clients].join(", ");
    step(
      `  http://${host.address}:${PORT}/  →  ${names.join(", ")}  (${requests} requests; the tasks see ${seen})`,
    );
  }
}

async function demonstrate(lab: Lab): Promise<void> {
  const [first, ...others] = lab.hosts;
  if (!first) throw new Error("The lab has no hosts");
  step("docker swarm init (h1)");
  await first.docker("swarm", "init", "--advertise-addr", first.address);
  const token = await first.docker("swarm", "join-token", "-q", "manager");
  for (const host of others) {
    step(`docker swarm join (${host.name}, as a manager)`);
    const address = ["--advertise-addr", host.address];
    await host.docker("swarm", "join", ...address, "--token", token, `${first.address}:2377`);
  }
  await waitFor(
    "all nodes to be ready managers",
    async () => {
      const format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
      const lines = (await first.docker("node", "ls", "--format", format)).split("\n");
      const ready = lines.filter((line) => /^\S+ Ready (?:Leader|Reachable)$/.test(line));
      return ready.length === lab.hosts.length;
    },
    { timeoutMs: NODES_TIMEOUT_MS },
  );
  step(`${lab.hosts.length} managers are ready`);

  await first.docker("network", "create", "-d", "overlay", "net1");
  step("docker service create --name web --replicas 3 --network net1 -p 8080:80 lab:latest");
  const createdMs = performance.now();
  const service = ["--name", "web", "--replicas", "3", "--network", "net1", "-p", `${PORT}:80`];
  // Templates are filled in per task; the image's web server shows it in its answer.
  const environment = ["-e", "TASK={{.Task.Name}}"];
  await first.docker("service", "create", "-d", ...service, ...environment, "lab:latest");
  await waitFor("the first answer", async () => (await ask(lab, first.address)) !== undefined, {
    timeoutMs: ANSWERS_TIMEOUT_MS,
    intervalMs: 20,
  });
  step(`first answer ${since(createdMs)} s after the service was asked for`);
  await untilAllAnswer(lab, 3);
  step(
    `all 3 tasks answer through every host, ${since(createdMs)} s after the service was asked for`,
  );

  step("docker service scale web=2: one host has no task now, and answers all the same");
  await first.docker("service", "scale", "web=2");
  await untilAllAnswer(lab, 2);
  console.log(
    `\n${await first.docker("node", "ls")}\n\n${await first.docker("service", "ps", "web")}\n`,
  );
}

/** What a reader of the failure needs. */
async function showState(lab: Lab): Promise<void> {
  for (const host of lab.hosts) {
    const tail = host.agentLog().trimEnd().split("\n").slice(-30).join("\n");
    console.error(
      `\n── agent's log of ${host.name}${host.isAgentAlive() ? "" : " (not running)"}\n${tail}`,
    );
  }
  for (const command of [
    ["node", "ls"],
    ["service", "ps", "--no-trunc", "web"],
  ]) {
    const result = await lab.host(1).tryRun(["docker", ...command], { timeoutMs: 10_000 });
    console.error(`\n── docker ${command.join(" ")}\n${result.stdout}${result.stderr}`);
  }
}

async function remove(): Promise<void> {
  const left = await removeLab(flags.name);
  left.push(...(await findTraces(flags.name)));
  if (left.length > 0) throw new Error(`Cannot remove all: ${left.join(", ")}`);
}

async function main(): Promise<void> {
  if (flags.down) {
    await remove();
    console.log("The lab is removed; nothing of it is left.");
    return;
  }
  let wasStopped = false;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      if (wasStopped) return;
      wasStopped = true;
      console.error(`\nStopped by ${name}; removing the lab`);
      void remove().finally(() => process.exit(130));
    });
  }
  let lab: Lab | undefined;
  try {
    const { sizeBytes } = await build({ outfile: DEFAULT_BINARY });
    step(`built dist/shoal (${(sizeBytes / 1e6).toFixed(0)} MB)`);
    await remove(); // of an earlier run
    const host = await tryRun(["docker", "--version"]);
    step(`making 3 hosts, each with an engine and an agent; ${host.stdout.trim()}`);
    lab = await createLab({ name: flags.name, hosts: 3, agents: true });
    step("hosts are up");
    await demonstrate(lab);
    step("done");
  } catch (error) {
    if (wasStopped) return; // the signal's handler is at work
    if (lab) await showState(lab).catch(() => {});
    if (flags.keep) console.error(`\nThe lab is left as it is; remove it with --down`);
    else await remove();
    throw error;
  }
  if (flags.keep) console.log(usage());
  else {
    await remove();
    step("the lab is removed; nothing of it is left");
  }
}

function usage(): string {
  const name = flags.name === "shoal" ? "" : ` --name ${flags.name}`;
  const lab = (command: string, rest = "") =>
    `  node_modules/.bin/bun scripts/lab.ts ${command}${name}${rest}`;
  const lines = [
    "The lab stays up: h1 192.168.77.1, h2 192.168.77.2, h3 192.168.77.3, and a client,",
    `${CLIENT_ADDRESS}, behind the router ${ROUTER_ADDRESS}. Try:`,
    lab("status"),
    lab("exec", " h2 -- docker service ps web"),
    lab("exec", ` client -- curl -s http://192.168.77.3:${PORT}/`),
    lab("stop", " h1 agent --kill"),
    lab("exec", " h2 -- docker node ls"),
    lab("start", " h1 agent"),
    `Remove it: scripts/quickstart.sh --down${name}`,
  ];
  return `\n${lines.join("\n")}`;
}

try {
  await main();
} catch (error) {
  let cause: unknown = error;
  while (cause instanceof Error) {
    console.error(`${cause === error ? "\nquickstart failed: " : "  because: "}${cause.message}`);
    cause = cause.cause;
  }
  process.exitCode = 1;
}
