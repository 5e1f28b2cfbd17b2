/**
 * A cluster's worth of hosts on this machine: `bun scripts/lab.ts help`. Needs root, and what
 * scripts/setup.sh installs. How it is made: scripts/lab/DESIGN.md.
 */
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  createLab,
  DEFAULT_BINARY,
  findTraces,
  labNames,
  type Lab,
  openLab,
  removeLab,
} from "./lab/lab.ts";
import { namespacePath } from "./lab/fabric.ts";

const HELP = `Usage: bun scripts/lab.ts COMMAND [--name NAME]

  up [--hosts N] [--agents|--no-agents]   make the lab (3 hosts; agents when dist/shoal exists)
  down [--all]                            remove it (--all: every lab of this machine)
  status [--json]                         hosts, their engines and agents
  exec HOST [--engine] [--] COMMAND…      run in h1 … hN, client, router or fabric; docker talks to
                                          the agent, or with --engine to the engine itself
  start HOST [agent|engine]               start it (agent) when it is not running
  stop HOST [agent|engine] [--kill]       SIGTERM, or SIGKILL; containers live on
  logs HOST [agent|engine]

NAME is "shoal" when not given. Example:
  bun scripts/lab.ts up && bun scripts/lab.ts exec h1 -- docker swarm init
  bun scripts/lab.ts exec client -- curl -s http://192.168.77.1:8080/
`;

class UsageError extends Error {}

function existing(name: string): Lab & { isComplete: boolean } {
  const lab = openLab(name);
  if (!lab) throw new UsageError(`There is no lab "${name}"; make it with: bun scripts/lab.ts up`);
  return lab;
}

function hostNamed(lab: Lab, part: string | undefined) {
  const host = lab.hosts.find(({ name }) => name === part);
  if (!host) {
    const names = lab.hosts.map(({ name }) => name).join(", ");
    throw new UsageError(`Cannot find host "${part ?? ""}": the lab has ${names}`);
  }
  return host;
}

async function up(name: string, hostCount: number, agents: boolean): Promise<void> {
  const found = openLab(name);
  if (found?.isComplete && found.hosts.length === hostCount && isStanding(found)) {
    // Brings back what has died since, and adds agents to a lab made without.
    for (const host of found.hosts) {
      await host.startDockerd();
      if (agents) await host.startAgent();
    }
    console.log(`Lab "${name}" is up.`);
    return;
  }
  if (found || (await findTraces(name)).length > 0) {
    console.log(`Removing what is left of lab "${name}" first.`);
    await down(name);
  }
  const startedMs = performance.now();
  await createLab({
    name,
    hosts: hostCount,
    agents,
    onProgress: (line) => console.log(`  ${line}`),
  });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  console.log(`Lab "${name}": ${hostCount} hosts${agents ? " with agents" : ""} in ${seconds} s.`);
}

function isStanding(lab: Lab): boolean {
  return lab.hosts.every((host) => host.isHolderAlive());
}

async function down(name: string): Promise<void> {
  const left = await removeLab(name);
  for (const what of await findTraces(name)) if (!left.includes(what)) left.push(what);
  if (left.length > 0) {
    throw new Error(`Cannot remove all of lab "${name}": ${left.join(", ")}`);
  }
}

async function status(name: string, isJson: boolean): Promise<void> {
  const lab = existing(name);
  const hosts = await Promise.all(
    lab.hosts.map(async (host) => {
      const swarm = host.isAgentAlive()
        ? await host.tryRun(
            ["docker", "info", "-f", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"],
            { timeoutMs: 5_000 },
          )
        : undefined;
      const [state, control] = swarm?.code === 0 ? swarm.stdout.trim().split(" ") : [];
      return {
        name: host.name,
        address: host.address,
        isUp: host.isHolderAlive(),
        engine: { pid: host.pid("dockerd") ?? null },
        agent: { pid: host.pid("agent") ?? null },
        swarm: state ?? null,
        role: state === "active" ? (control === "true" ? "manager" : "worker") : null,
      };
    }),
  );
  if (isJson) {
    console.log(JSON.stringify({ name, dir: lab.dir, isComplete: lab.isComplete, hosts }, null, 2));
    return;
  }
  console.log(`Lab "${name}" in ${lab.dir}${lab.isComplete ? "" : " (not complete)"}`);
  for (const host of hosts) {
    const shown = [
      host.name.padEnd(4),
      host.address.padEnd(15),
      `engine ${host.engine.pid ?? "off"}`.padEnd(14),
      `agent ${host.agent.pid ?? "off"}`.padEnd(14),
      host.isUp ? (host.role ?? host.swarm ?? "") : "down",
    ];
    console.log(shown.join("   ").trimEnd());
  }
}

/** The caller's terminal goes to the command; its exit code becomes ours. */
async function execute(name: string, args: string[]): Promise<number> {
  const [part, ...rest] = args;
  const lab = existing(name);
  let useEngine = false;
  while (rest[0] === "--engine" || rest[0] === "--") {
    const flag = rest.shift();
    if (flag === "--") break;
    useEngine = true;
  }
  const wanted = rest.length > 0 ? rest : [process.env["SHELL"] ?? "sh"];
  const others: Record<string, string> = { client: "cli", router: "rtr", fabric: "fab" };
  const other = part === undefined ? undefined : others[part];
  const command =
    other === undefined
      ? hostNamed(lab, part).enter(wanted, { engine: useEngine })
      : ["nsenter", `--net=${namespacePath(name, other)}`, ...wanted];
  const child = Bun.spawn(command, { stdio: ["inherit", "inherit", "inherit"] });
  // ^C reaches the command by the terminal; we only wait for what it makes of it.
  process.on("SIGINT", () => {});
  return child.exited;
}

async function main(): Promise<number> {
  const argv = process.argv.slice(2);
  // exec's command may have options of its own, so it is not parsed with ours.
  if (argv[0] === "exec") {
    const at = argv[1] === "--name" ? 2 : -1;
    const name = at === -1 ? "shoal" : (argv[at] ?? "");
    return execute(name, argv.slice(at === -1 ? 1 : 3));
  }
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    allowNegative: true,
    options: {
      name: { type: "string", default: "shoal" },
      hosts: { type: "string", default: "3" },
      agents: { type: "boolean", default: existsSync(DEFAULT_BINARY) },
      all: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      kill: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const [command, part, what = "agent"] = positionals;
  const { name } = values;
  switch (values.help ? "help" : (command ?? "help")) {
    case "help":
      console.log(HELP);
      return 0;
    case "up":
      await up(name, Number(values.hosts), values.agents);
      return 0;
    case "down":
      for (const each of values.all ? labNames() : [name]) {
        await down(each);
        console.log(`Lab "${each}" is removed; nothing of it is left.`);
      }
      return 0;
    case "status":
      await status(name, values.json);
      return 0;
    case "start": {
      const host = hostNamed(existing(name), part);
      await (what === "engine" ? host.startDockerd() : host.startAgent());
      return 0;
    }
    case "stop": {
      const host = hostNamed(existing(name), part);
      if (what === "engine") await (values.kill ? host.killDockerd() : host.stopDockerd());
      else await host.killAgent(values.kill ? "SIGKILL" : "SIGTERM");
      return 0;
    }
    case "logs": {
      const host = hostNamed(existing(name), part);
      process.stdout.write(what === "engine" ? host.engineLog() : host.agentLog());
      return 0;
    }
    default:
      throw new UsageError(`Unknown command "${command ?? ""}"\n\n${HELP}`);
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  if (error instanceof UsageError) console.error(error.message);
  else console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
