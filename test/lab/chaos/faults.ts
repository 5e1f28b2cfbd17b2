/**
 * The faults of a chaos run. Each breaks something real, brings back what a human or an init system
 * brings back (a process started again, a cable plugged), never what the mesh has to mend by itself, and
 * says within which window requests may fail (verdict.ts).
 */
import type { Host } from "../../../scripts/lab/host.ts";
import type { Lab } from "../../../scripts/lab/lab.ts";
import { type ClusterState, isLive, readCluster, type TaskState } from "./cluster-state.ts";
import { createTurn, SERVICES, TURN } from "./services.ts";
import type { Ownership, Window } from "./verdict.ts";

/** After these, requests have to succeed again. */
const AFTER_CONTAINER_MS = 2_000;
const AFTER_HOST_MS = 10_000;
/** Rules and settings are looked at every 5 s; then a round. */
const AFTER_RULES_MS = 7_000;
const AFTER_DEVICE_MS = 2_000;
const AFTER_START_MS = 2_000;
/** A service of one task is away until it runs again: at most so long. */
const ALONE_MS_MAX = 30_000;
const POLL_MS = 100;
/** Heartbeats are missed after 2 s at the earliest; starting takes one more. */
const NODE_DOWN_MS = 1_000;
/** What a change sets going is over by then, if nothing else happens. */
const CHANGE_MS = 12_000;

export type Chaos = {
  lab: Lab;
  /** Shared with all containers. */
  workDir: string;
  random: () => number;
  windows: Window[];
  owners: Map<string, Ownership[]>;
  /** The name that `turn` has now. */
  turnName: () => string;
  /** What is asked by this name too; undefined: nothing for now. */
  askTurn(name: string | undefined): Promise<void>;
  note(line: string): void;
  violate(text: string): void;
  /** Hosts that are off, cut off, or without agent. */
  away: Set<Host>;
  agentFlags: string[];
  /** The daemon.json of this host's engine, beside the lab's. */
  engineConfig(host: Host): Record<string, unknown>;
  /** Waits for what goes on beside the faults, at the end. */
  watches: Set<Promise<void>>;
};

export type Fault = (chaos: Chaos) => Promise<string>;

function pick<T>(list: readonly T[], random: () => number): T {
  const found = list[Math.floor(random() * list.length)];
  if (found === undefined) throw new Error("Cannot pick from an empty list");
  return found;
}
const between = (chaos: Chaos, fromMs: number, toMs: number) =>
  Math.round(fromMs + chaos.random() * (toMs - fromMs));

/** Of a manager that is up. */
export async function cluster(chaos: Pick<Chaos, "lab" | "away">): Promise<ClusterState> {
  let last: unknown;
  for (let turn = 0; turn < 20; turn++) {
    for (const host of chaos.lab.hosts.slice(0, 3)) {
      if (chaos.away.has(host)) continue;
      try {
        return await readCluster(host);
      } catch (error) {
        last = error;
      }
    }
    await Bun.sleep(500);
  }
  throw new Error("No manager answers", { cause: last });
}

/** The CLI on a manager that is up; tried again for a while, since leaders change. */
async function docker(chaos: Chaos, line: string): Promise<void> {
  let last: unknown;
  for (let turn = 0; turn < 20; turn++) {
    const host = chaos.lab.hosts.slice(0, 3).find((candidate) => !chaos.away.has(candidate));
    try {
      await host?.docker(...line.split(" "));
      return;
    } catch (error) {
      // The try before may have been done although it was not answered.
      if (turn > 0 && /not found|already exists|in use by/.test(String(error))) return;
      last = error;
      await Bun.sleep(500);
    }
  }
  throw new Error(`Cannot "${line}"`, { cause: last });
}

function open(
  chaos: Chaos,
  fault: string,
  reach: Partial<Pick<Window, "hosts" | "services" | "lookupHosts" | "isChange">>,
): { closeIn(ms: number): void } {
  const window: Window = {
    fault,
    fromMs: Date.now(),
    toMs: Number.POSITIVE_INFINITY,
    hosts: [],
    services: [],
    lookupHosts: [],
    ...reach,
  };
  chaos.windows.push(window);
  return { closeIn: (ms) => void (window.toMs = Date.now() + ms) };
}

/** Every name under which a service is asked. */
const namesOf = (service: string) => (/^turn\d+$/.test(service) ? [TURN, service] : [service]);
const servicesOn = (state: ClusterState, host: Host) => [
  ...new Set(
    state.tasks
      .filter((task) => task.host === host.name && isLive(task))
      .flatMap(({ service }) => namesOf(service)),
  ),
];
const isUp = (task: TaskState) => task.state === "running" && task.desired === "running";

/** `solo` has one task: while that one is away there is none; the window ends when another runs. */
function watchSolo(
  chaos: Chaos,
  fault: string,
  knownIds: string[],
  afterMs = AFTER_START_MS,
): void {
  const window = open(chaos, fault, { services: ["solo"] });
  const watch = (async () => {
    const beganMs = Date.now();
    for (;;) {
      const state = await cluster(chaos);
      const fresh = state.tasks.some(
        (task) =>
          task.service === "solo" &&
          isUp(task) &&
          !knownIds.includes(task.id) &&
          ![...chaos.away].some((host) => host.name === task.host),
      );
      if (fresh) break;
      if (Date.now() - beganMs > ALONE_MS_MAX) {
        const seen = state.tasks.filter(({ service }) => service === "solo");
        chaos.violate(
          `${fault}: solo does not run ${ALONE_MS_MAX} ms later: ${seen.map((task) => `${task.id} ${task.host} ${task.state}/${task.desired}`).join(", ")}`,
        );
        break;
      }
      await Bun.sleep(POLL_MS);
    }
    window.closeIn(afterMs);
  })().catch((error: unknown) => chaos.violate(`${fault}: ${String(error)}`));
  chaos.watches.add(watch);
  void watch.finally(() => chaos.watches.delete(watch));
}
const hasSolo = (state: ClusterState, host: Host) =>
  state.tasks.some((task) => task.service === "solo" && task.host === host.name && isUp(task));
const soloIds = (state: ClusterState) =>
  state.tasks.filter(({ service }) => service === "solo").map(({ id }) => id);

// ---- processes ------------------------------------------------------------------------------------

export const killContainer: Fault = async (chaos) => {
  const state = await cluster(chaos);
  const names = SERVICES.map((name) => (name === TURN ? chaos.turnName() : name));
  const candidates = state.tasks.filter(
    (task) => names.includes(task.service) && isUp(task) && task.containerId !== "",
  );
  const task = pick(candidates, chaos.random);
  const host = chaos.lab.hosts.find(({ name }) => name === task.host);
  if (!host) throw new Error(`No host ${task.host}`);
  const isByEngine = chaos.random() < 0.5;
  if (task.service === "solo") watchSolo(chaos, "container", soloIds(state));
  const window = open(chaos, "container", { services: namesOf(task.service) });
  if (isByEngine) await host.engine("kill", task.containerId);
  else {
    const pid = await host.engine("inspect", "-f", "{{.State.Pid}}", task.containerId);
    process.kill(Number(pid), "SIGKILL");
  }
  window.closeIn(AFTER_CONTAINER_MS);
  return `${isByEngine ? "docker kill" : "kill -9"} of a task of ${task.service} on ${host.name}`;
};

export const killAgent: Fault = async (chaos) => {
  const host = pick(chaos.lab.hosts, chaos.random);
  const downMs = between(chaos, 300, 4_000);
  const state = await cluster(chaos);
  // Packets go on; names are answered by the agent.
  const window = open(chaos, "agent", { lookupHosts: [host.name] });
  // Away so long that the managers take the node for dead, and move its tasks.
  if (downMs > NODE_DOWN_MS) {
    const reach = { services: servicesOn(state, host), hosts: [host.name] };
    open(chaos, "agent, for long", reach).closeIn(downMs + AFTER_HOST_MS);
    if (hasSolo(state, host)) watchSolo(chaos, "agent, for long", [], AFTER_HOST_MS);
  }
  chaos.away.add(host);
  await host.killAgent("SIGKILL");
  await Bun.sleep(downMs);
  await host.startAgent(chaos.agentFlags);
  chaos.away.delete(host);
  window.closeIn(AFTER_START_MS);
  return `agent of ${host.name} killed, started ${downMs} ms later`;
};

export const killEngine: Fault = async (chaos) => {
  const host = pick(chaos.lab.hosts, chaos.random);
  const isLiveRestore = chaos.engineConfig(host)["live-restore"] !== false;
  const state = await cluster(chaos);
  const downMs = between(chaos, 300, 4_000);
  const kind = isLiveRestore ? "engine" : "engine, no live-restore";
  const names = open(chaos, kind, { lookupHosts: [host.name] });
  // Without live-restore its containers go with it.
  const services = servicesOn(state, host);
  const window = isLiveRestore ? undefined : open(chaos, kind, { services, hosts: [host.name] });
  if (!isLiveRestore && hasSolo(state, host)) watchSolo(chaos, kind, soloIds(state));
  await host.killDockerd();
  await Bun.sleep(downMs);
  await host.startDockerd(chaos.engineConfig(host));
  names.closeIn(AFTER_START_MS);
  window?.closeIn(AFTER_HOST_MS);
  return `engine of ${host.name} killed${isLiveRestore ? "" : " with its containers"}, started ${downMs} ms later`;
};

// ---- hosts ----------------------------------------------------------------------------------------

export const cutPower: Fault = async (chaos) => {
  const host = pick(chaos.lab.hosts, chaos.random);
  const state = await cluster(chaos);
  const downMs = between(chaos, 1_000, 15_000);
  const through = open(chaos, "power", { hosts: [host.name], lookupHosts: [host.name] });
  const others = open(chaos, "power", { services: servicesOn(state, host) });
  if (hasSolo(state, host)) watchSolo(chaos, "power", soloIds(state));
  chaos.away.add(host);
  await host.powerOff();
  others.closeIn(AFTER_HOST_MS);
  await Bun.sleep(downMs);
  await host.powerOn();
  await host.startDockerd(chaos.engineConfig(host));
  await host.startAgent(chaos.agentFlags);
  chaos.away.delete(host);
  through.closeIn(AFTER_HOST_MS);
  return `power of ${host.name} cut, back ${downMs} ms later`;
};

export const cutNetwork: Fault = async (chaos) => {
  const host = pick(chaos.lab.hosts, chaos.random);
  const state = await cluster(chaos);
  const downMs = between(chaos, 1_000, 20_000);
  const through = open(chaos, "network", { hosts: [host.name], lookupHosts: [host.name] });
  const others = open(chaos, "network", { services: servicesOn(state, host) });
  chaos.away.add(host);
  await host.cutOff();
  // The task may come back as it was.
  if (hasSolo(state, host)) watchSolo(chaos, "network", [], AFTER_HOST_MS);
  others.closeIn(AFTER_HOST_MS);
  await Bun.sleep(downMs);
  await host.reconnect();
  chaos.away.delete(host);
  through.closeIn(AFTER_HOST_MS);
  // Its own tasks may be there twice for a moment, or be the ones that stay.
  open(chaos, "network", { services: servicesOn(state, host) }).closeIn(AFTER_CONTAINER_MS);
  return `network of ${host.name} cut for ${downMs} ms`;
};

// ---- the kernel's state -----------------------------------------------------------------------------

const breakKernel =
  (
    fault: string,
    afterMs: number,
    commands: (chaos: Chaos, host: Host) => Promise<string[]>,
  ): Fault =>
  async (chaos) => {
    const host = pick(chaos.lab.hosts, chaos.random);
    const state = await cluster(chaos);
    const command = await commands(chaos, host);
    const window = open(chaos, fault, {
      hosts: [host.name],
      services: servicesOn(state, host),
      lookupHosts: [host.name],
    });
    await host.run(command);
    window.closeIn(afterMs);
    return `"${command.join(" ")}" on ${host.name}`;
  };

export const flushNft = breakKernel("nft flush", AFTER_RULES_MS, async () => [
  "nft",
  "flush",
  "ruleset",
]);
export const flushIptables = breakKernel("iptables -F", AFTER_RULES_MS, async (chaos) => {
  const table = pick(["filter", "nat"], chaos.random);
  return ["iptables", "-w", "-t", table, "-F"];
});
export const deleteDevice = breakKernel("vxlan deleted", AFTER_DEVICE_MS, async () => [
  "ip",
  "link",
  "del",
  "shmesh",
]);
export const changeSysctl = breakKernel("sysctl", AFTER_RULES_MS, async (chaos, host) => {
  const devices = await host.run(["sh", "-c", "ls /proc/sys/net/ipv4/conf"]);
  const bridges = devices.split("\n").filter((name) => /^sh[0-9a-f]{8}$|^shmesh$/.test(name));
  if (bridges.length === 0) return ["true"];
  const bridge = pick(bridges, chaos.random);
  const change = pick(
    [
      `net.ipv4.conf.${bridge}.proxy_arp=0`,
      `net.ipv4.conf.${bridge}.rp_filter=1`,
      `net.ipv4.conf.${bridge}.route_localnet=0`,
      `net.ipv4.conf.${bridge}.forwarding=0`,
      "net.bridge.bridge-nf-call-iptables=0",
    ],
    chaos.random,
  );
  return ["sysctl", "-q", "-w", change];
});

// ---- what people do ---------------------------------------------------------------------------------

/** No window: nobody who asks may notice. */
export const scale: Fault = async (chaos) => {
  const name = pick(["web", "rr", "dgram"], chaos.random);
  const count = between(chaos, 2, 6);
  open(chaos, "scale", { services: [name], isChange: true }).closeIn(CHANGE_MS);
  await docker(chaos, `service scale -d ${name}=${count}`);
  return `${name} scaled to ${count}`;
};

let updateCount = 0;
export const update: Fault = async (chaos) => {
  const name = pick(["web", "rr", "dgram", "every", "solo"], chaos.random);
  // A global service has one task a node, and a service of one task is away in between.
  const order = name === "every" || chaos.random() < 0.5 ? "stop-first" : "start-first";
  if (name === "solo" && order === "stop-first") {
    watchSolo(chaos, "update of solo", soloIds(await cluster(chaos)));
  }
  updateCount += 1;
  open(chaos, "update", { services: [name], isChange: true }).closeIn(CHANGE_MS);
  await docker(
    chaos,
    `service update -d --update-order ${order} --env-add TURN=${updateCount} ${name}`,
  );
  return `${name} updated, ${order}`;
};

/** Removed and made again under another name: the same port, the same addresses. */
export const turnOver: Fault = async (chaos) => {
  const old = chaos.turnName();
  const next = `turn${Number(old.slice(TURN.length)) + 1}`;
  await chaos.askTurn(undefined);
  const window = open(chaos, "made again", { services: [TURN, next] });
  await docker(chaos, `service rm ${old}`);
  const owned = chaos.owners.get(TURN) ?? [];
  chaos.owners.set(TURN, owned);
  const last = owned.at(-1);
  if (last) last.toMs = Date.now();
  owned.push({ identity: next, fromMs: Date.now(), toMs: Number.POSITIVE_INFINITY });
  await createOn(chaos, next);
  const beganMs = Date.now();
  for (;;) {
    const state = await cluster(chaos);
    if (state.tasks.filter((task) => task.service === next && isUp(task)).length === 2) break;
    if (Date.now() - beganMs > ALONE_MS_MAX) {
      const seen = state.tasks.filter(({ service }) => service === next);
      chaos.violate(
        `${next} does not run ${ALONE_MS_MAX} ms after it was made: ${seen.map((task) => `${task.id} ${task.host} ${task.state}/${task.desired}`).join(", ")}`,
      );
      break;
    }
    await Bun.sleep(POLL_MS);
  }
  window.closeIn(AFTER_START_MS);
  await Bun.sleep(AFTER_START_MS);
  await chaos.askTurn(next);
  return `${old} removed, ${next} made after it, running in ${Date.now() - AFTER_START_MS - beganMs} ms`;
};

async function createOn(chaos: Chaos, name: string): Promise<void> {
  let last: unknown;
  for (let turn = 0; turn < 20; turn++) {
    const host = chaos.lab.hosts.slice(0, 3).find((candidate) => !chaos.away.has(candidate));
    try {
      if (host) await createTurn(host, name, chaos.workDir);
      return;
    } catch (error) {
      if (turn > 0 && /already exists/.test(String(error))) return;
      last = error;
      await Bun.sleep(500);
    }
  }
  throw new Error(`Cannot create ${name}`, { cause: last });
}

export const drain: Fault = async (chaos) => {
  const host = pick(chaos.lab.hosts, chaos.random);
  const state = await cluster(chaos);
  if (hasSolo(state, host)) watchSolo(chaos, "drain", soloIds(state));
  const services = servicesOn(state, host);
  open(chaos, "drain", { services, isChange: true }).closeIn(CHANGE_MS);
  await docker(chaos, `node update --availability drain ${host.name}`);
  await Bun.sleep(between(chaos, 2_000, 8_000));
  await docker(chaos, `node update --availability active ${host.name}`);
  return `${host.name} drained, and back`;
};
