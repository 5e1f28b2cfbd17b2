/**
 * One host of the lab: a set of namespaces that a holder process keeps, with an engine and an agent
 * in it.
 *
 * It has its own network (fabric.ts), mounts and host name, so that every default path is its own:
 * /run (docker.sock, shoal/docker.sock, xtables.lock), /var/lib (docker, shoal), /etc (an overlay:
 * what a host writes there stays in the lab) and /sys (which shows the host's links). It shares the
 * process ids and the control groups with the machine; the engine's containers live below the lab's
 * control group (processes.ts).
 *
 * No part needs the maker's process: a lab is a directory and the processes recorded in it.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type CommandOptions,
  type CommandResult,
  CommandError,
  tryRun,
  waitFor,
} from "./command.ts";
import {
  dropHost,
  hostAddress,
  LAB_SUBNET,
  namespacePath,
  remakeHost,
  setHostLink,
} from "./fabric.ts";
import {
  clearControlGroup,
  end,
  isAlive,
  launch,
  makeControlGroup,
  type ProcessId,
  readProcessId,
  signal,
} from "./processes.ts";

/** What a host needs to know of its lab. */
export type LabPlace = {
  /** Prefix of the namespaces' names and of the control group. */
  name: string;
  dir: string;
  hostCount: number;
};

export type HostOptions = CommandOptions & {
  /** The engine's own socket instead of the agent's. @default false */
  engine?: boolean;
};

export type Host = {
  index: number;
  /** Host name, h1 … hN. */
  name: string;
  address: string;
  /** The agent's socket and the engine's, as seen from outside of the host. */
  agentSocket(): string;
  engineSocket(): string;
  /** The command line that runs `command` inside of the host. */
  enter(command: readonly string[], options?: HostOptions): string[];
  /** Standard output, trimmed. @throws {CommandError} */
  run(command: readonly string[], options?: HostOptions): Promise<string>;
  tryRun(command: readonly string[], options?: HostOptions): Promise<CommandResult>;
  /** The docker CLI on the agent's socket. @throws {CommandError} */
  docker(...args: string[]): Promise<string>;
  /** The docker CLI on the engine's own socket. @throws {CommandError} */
  engine(...args: string[]): Promise<string>;
  startHolder(): Promise<void>;
  /** `config`: more of daemon.json, until the next start. */
  startDockerd(config?: Record<string, unknown>): Promise<void>;
  /** SIGTERM; containers live on. */
  stopDockerd(): Promise<void>;
  /** As a crash: SIGKILL. Its containerd, which is a child here, ends too. */
  killDockerd(): Promise<void>;
  /** Returns when the agent's socket answers. `extraArgs` go behind `agent`. */
  startAgent(extraArgs?: readonly string[]): Promise<void>;
  /** Returns when it is gone. */
  killAgent(signalName?: NodeJS.Signals): Promise<void>;
  isAgentAlive(): boolean;
  isDockerdAlive(): boolean;
  isHolderAlive(): boolean;
  pid(what: "holder" | "dockerd" | "agent"): number | undefined;
  agentLog(): string;
  engineLog(): string;
  /** Pulls the network cable, and plugs it in again. */
  cutOff(): Promise<void>;
  reconnect(): Promise<void>;
  /** As a power cut: every process and all that the kernel knew is gone; the disk stays. */
  powerOff(): Promise<void>;
  /** An empty host with its disk; the engine and the agent are the caller's to start. */
  powerOn(): Promise<void>;
};

const START_TIMEOUT_MS = 60_000;

// $1 host name, $2 the host's directory, $3 text of /etc/hosts. Runs in the new namespaces.
const HOLD = `
set -e
name=$1 dir=$2
# A copy of the machine's mounts holds on to other labs' network namespaces.
if [ -d /run/netns ]; then umount -R -l /run/netns 2>/dev/null || true; fi
hostname "$name"
mount -t tmpfs -o mode=755,size=64m shoal-lab /run
mkdir -p /run/lock /run/shm /run/netns
mount --bind "$dir/var-lib" /var/lib
if mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc-work" shoal-lab /etc 2>/dev/null; then
  # Among others key.json: the engine's identity.
  rm -rf /etc/docker
  mkdir -p /etc/docker
  rm -f /etc/hosts /etc/resolv.conf
  printf '%s' "$3" > /etc/hosts
  # Nothing answers there: a name that only the outside knows is refused at once.
  echo "nameserver 192.168.77.254" > /etc/resolv.conf
  echo "$name" > /etc/hostname
fi
# A sysfs mounted in here shows this host's links; the control groups under it stay the machine's.
if [ -d /sys/fs/cgroup ]; then
  mount --rbind /sys/fs/cgroup "$dir/cgroup"
  mount -t sysfs sysfs /sys
  mount --rbind "$dir/cgroup" /sys/fs/cgroup
  umount -R -l "$dir/cgroup"
fi
touch "$dir/holder.ready"
exec sleep infinity
`;

/** Nothing of the caller's: not BUN_*, which would turn the agent's binary into something else. */
function cleanEnvironment(dir: string): string[] {
  const path = `${join(dir, "bin")}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
  return ["env", "-i", `PATH=${path}`, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"];
}

export function makeHost(lab: LabPlace, index: number): Host {
  const name = `h${index}`;
  const dir = join(lab.dir, name);
  const pathOf = (what: string) => join(dir, `${what}.pid`);
  const process_ = (what: string): ProcessId | undefined => readProcessId(pathOf(what));
  const groupName = `${lab.name}-lab/${name}`;

  const holder = (): ProcessId => {
    const id = process_("holder");
    if (!isAlive(id)) throw new Error(`Host ${name} of lab "${lab.name}" is not up`);
    return id;
  };
  const rootPath = (path: string) => `/proc/${holder().pid}/root${path}`;
  const enterPlain = (command: readonly string[]) => [
    "nsenter",
    "-t",
    String(holder().pid),
    "-m",
    "-u",
    "-n",
    "--",
    ...command,
  ];
  const enter = (command: readonly string[], options: HostOptions = {}) => {
    const socket = options.engine === true ? "/run/docker.sock" : "/run/shoal/docker.sock";
    return enterPlain([
      "env",
      "-u",
      "BUN_OPTIONS",
      "-u",
      "BUN_BE_BUN",
      "-u",
      "DOCKER_CONTEXT",
      `DOCKER_HOST=unix://${socket}`,
      `DOCKER_CONFIG=${join(dir, "docker-config")}`,
      "DOCKER_CLI_HINTS=false",
      `PATH=${join(lab.dir, "bin")}:${process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"}`,
      // nsenter leaves us in "/"; relative paths are meant from where the caller is.
      "sh",
      "-c",
      'cd "$0" 2>/dev/null; exec "$@"',
      process.cwd(),
      ...command,
    ]);
  };
  const host: Host = {
    index,
    name,
    address: hostAddress(index),
    agentSocket: () => rootPath("/run/shoal/docker.sock"),
    engineSocket: () => rootPath("/run/docker.sock"),
    enter,
    tryRun: (command, options = {}) => tryRun(enter(command, options), options),
    run: async (command, options = {}) => {
      const result = await tryRun(enter(command, options), options);
      if (result.code !== 0) throw new CommandError([`${name}:`, ...command], result);
      return result.stdout.trim();
    },
    docker: (...args) => host.run(["docker", ...args]),
    engine: (...args) => host.run(["docker", ...args], { engine: true }),

    startHolder: async () => {
      for (const part of [
        "var-lib/docker",
        "var-lib/shoal",
        "etc",
        "etc-work",
        "cgroup",
        "docker-config",
      ]) {
        mkdirSync(join(dir, part), { recursive: true });
      }
      const names = Array.from(
        { length: lab.hostCount },
        (_, i) => `${hostAddress(i + 1)} h${i + 1}\n`,
      );
      const hostsText = `127.0.0.1 localhost\n${names.join("")}`;
      const logPath = join(dir, "holder.log");
      const id = await launch({
        command: [
          "nsenter",
          `--net=${namespacePath(lab.name, name)}`,
          "unshare",
          "--mount",
          "--uts",
          "--propagation",
          "private",
          "sh",
          "-c",
          HOLD,
          "lab-holder",
          name,
          dir,
          hostsText,
        ],
        pidPath: pathOf("holder"),
        logPath,
        controlGroup: await makeControlGroup(`${groupName}/daemons`),
      });
      await waitFor(
        `the namespaces of ${name}`,
        () => {
          if (existsSync(join(dir, "holder.ready"))) return true;
          if (!isAlive(id))
            throw new Error(`The holder has ended: ${readFileSync(logPath, "utf8")}`);
          return false;
        },
        { timeoutMs: 10_000, intervalMs: 20 },
      );
    },

    startDockerd: async (config = {}) => {
      if (host.isDockerdAlive()) return;
      // Left over from an engine that was killed: a pid that some other process may have by now.
      rmSync(rootPath("/run/docker.pid"), { force: true });
      rmSync(rootPath("/run/docker/containerd/containerd.pid"), { force: true });
      const configPath = join(dir, "daemon.json");
      writeFileSync(
        configPath,
        JSON.stringify({
          "live-restore": true,
          "exec-opts": ["native.cgroupdriver=cgroupfs"],
          "cgroup-parent": `/${groupName}/containers`,
          "storage-driver": await storageDriver(lab.dir),
          // The lab's registry (registry.ts) has no certificate.
          "insecure-registries": [LAB_SUBNET],
          ...config,
        }),
      );
      const id = await launch({
        command: enterPlain([
          ...cleanEnvironment(lab.dir),
          "dockerd",
          "--config-file",
          configPath,
          "-H",
          "unix:///run/docker.sock",
        ]),
        pidPath: pathOf("dockerd"),
        logPath: join(dir, "dockerd.log"),
        controlGroup: await makeControlGroup(`${groupName}/daemons`),
      });
      await untilAnswers("dockerd", id, host.engineSocket(), () => host.engineLog());
    },
    stopDockerd: async () => end(process_("dockerd"), 20_000),
    killDockerd: async () => {
      const id = process_("dockerd");
      signal(id, "SIGKILL");
      await waitFor("the end of dockerd", () => !isAlive(id), { timeoutMs: 10_000 });
    },

    startAgent: async (extraArgs = []) => {
      if (host.isAgentAlive()) return;
      const id = await launch({
        command: enterPlain([
          ...cleanEnvironment(lab.dir),
          join(lab.dir, "bin", "shoal"),
          "agent",
          ...extraArgs,
        ]),
        pidPath: pathOf("agent"),
        logPath: join(dir, "agent.log"),
        controlGroup: await makeControlGroup(`${groupName}/daemons`),
      });
      await untilAnswers("the agent", id, host.agentSocket(), () => host.agentLog());
    },
    killAgent: async (signalName = "SIGTERM") => {
      const id = process_("agent");
      signal(id, signalName);
      await waitFor("the end of the agent", () => !isAlive(id), {
        timeoutMs: 20_000,
        intervalMs: 20,
      });
    },
    isAgentAlive: () => isAlive(process_("agent")),
    isDockerdAlive: () => isAlive(process_("dockerd")),
    isHolderAlive: () => isAlive(process_("holder")),
    pid: (what) => {
      const id = process_(what);
      return isAlive(id) ? id.pid : undefined;
    },
    agentLog: () => readLog(join(dir, "agent.log")),
    engineLog: () => readLog(join(dir, "dockerd.log")),
    cutOff: () => setHostLink(lab.name, index, "down"),
    reconnect: () => setHostLink(lab.name, index, "up"),
    powerOff: async () => {
      const left = await clearControlGroup(groupName);
      if (left.length > 0) throw new Error(`Cannot end all of host ${name}: ${left.join(", ")}`);
      rmSync(join(dir, "holder.ready"), { force: true });
      await dropHost(lab.name, index);
    },
    powerOn: async () => {
      await remakeHost(lab.name, index);
      await host.startHolder();
    },
  };
  return host;

  async function untilAnswers(
    what: string,
    id: ProcessId,
    socket: string,
    log: () => string,
  ): Promise<void> {
    const tail = () => log().split("\n").slice(-20).join("\n");
    try {
      await waitFor(
        `${what} of ${name}`,
        async () => {
          if (!isAlive(id)) return "ended" as const;
          const response = await fetch("http://localhost/_ping", { unix: socket }).catch(
            () => undefined,
          );
          return response?.ok === true ? ("answers" as const) : undefined;
        },
        { timeoutMs: START_TIMEOUT_MS },
      );
    } catch (error) {
      throw new Error(`${what} of ${name} does not answer; the end of its log:\n${tail()}`, {
        cause: error,
      });
    }
    if (!isAlive(id))
      throw new Error(`${what} of ${name} has ended; the end of its log:\n${tail()}`);
  }
}

function readLog(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/**
 * overlay2 where the file system of `dir` can carry it (not on top of another overlay), else vfs.
 * Probed once and kept in `dir`; called first when no host does it yet.
 */
export async function storageDriver(dir: string): Promise<"overlay2" | "vfs"> {
  const chosenPath = join(dir, "storage-driver");
  if (!existsSync(chosenPath)) {
    const probe = join(dir, "probe");
    for (const part of ["lower", "upper", "work", "merged"]) {
      mkdirSync(join(probe, part), { recursive: true });
    }
    const options = `lowerdir=${probe}/lower,upperdir=${probe}/upper,workdir=${probe}/work`;
    // In a mount namespace of its own, so that a probe cut short leaves no mount.
    const script = `mount -t overlay -o ${options} probe ${probe}/merged && touch ${probe}/merged/x`;
    const command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    const result = await tryRun(command);
    rmSync(probe, { recursive: true, force: true });
    writeFileSync(chosenPath, result.code === 0 ? "overlay2" : "vfs");
  }
  return readFileSync(chosenPath, "utf8") === "overlay2" ? "overlay2" : "vfs";
}
