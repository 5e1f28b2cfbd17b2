/**
 * Long-lived processes of a lab: how they are started, known and ended.
 *
 * Invariants:
 * 1. A process writes its own pid and start time into a file before it becomes what was asked for,
 *    so a lab whose maker was killed half way still knows it.
 * 2. It also puts itself into the lab's control group first; whatever it starts (containerd, shims,
 *    containers, daemons that fork twice) stays there. So "all of this lab" is a question that the
 *    kernel answers, and never a search by name.
 * 3. Nothing is signalled that is in neither: a pid counts only with its start time.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { run, waitFor } from "./command.ts";

export type ProcessId = {
  pid: number /** Clock ticks after boot, from /proc/PID/stat. */;
  startTicks: number;
};

/** undefined when it is gone, or only a zombie that nobody has reaped yet. */
function startTicksOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; state follows it, start time is the 20th from there.
    const fields = stat.slice(stat.lastIndexOf(") ") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : Number(fields[19]);
  } catch {
    return undefined; // gone between two looks
  }
}

export function isAlive(id: ProcessId | undefined): id is ProcessId {
  return id !== undefined && startTicksOf(id.pid) === id.startTicks;
}

/** What the process wrote about itself; undefined when the file is absent. */
export function readProcessId(path: string): ProcessId | undefined {
  if (!existsSync(path)) return undefined;
  const [pid, startTicks] = readFileSync(path, "utf8").trim().split(" ").map(Number);
  return pid !== undefined && startTicks !== undefined ? { pid, startTicks } : undefined;
}

export function ownProcessId(): ProcessId {
  return { pid: process.pid, startTicks: startTicksOf(process.pid) ?? 0 };
}

// $1 pid file, $2 log, $3 the control group's cgroup.procs, then the command.
const LAUNCH = `
pidfile=$1 log=$2 group=$3; shift 3
exec </dev/null >>"$log" 2>&1
echo $$ > "$group" || exit 120
read -r stat < /proc/$$/stat
start=$(set -- \${stat##*) }; echo "\${20}")
echo "$$ $start" > "$pidfile.new" && mv "$pidfile.new" "$pidfile" || exit 121
exec "$@"
`;

/** Starts a daemon that outlives the caller; its output is appended to `logPath`. */
export async function launch(options: {
  command: readonly string[];
  pidPath: string;
  logPath: string;
  /** Directory of a control group, from {@link makeControlGroup}. */
  controlGroup: string;
}): Promise<ProcessId> {
  const { pidPath, logPath, controlGroup } = options;
  await run(["rm", "-f", pidPath]);
  const group = join(controlGroup, "cgroup.procs");
  // setsid -f: a new session and no child of ours, so that a ^C in the terminal does not reach it.
  await run([
    "setsid",
    "-f",
    "sh",
    "-c",
    LAUNCH,
    "lab-launch",
    pidPath,
    logPath,
    group,
    ...options.command,
  ]);
  return waitFor(`the pid of ${options.command.join(" ")}`, () => readProcessId(pidPath), {
    timeoutMs: 10_000,
    intervalMs: 20,
  });
}

/** Sends the signal if it is still that process. */
export function signal(id: ProcessId | undefined, name: NodeJS.Signals): void {
  if (!isAlive(id)) return;
  try {
    process.kill(id.pid, name);
  } catch {
    // it ended between the look and the signal
  }
}

/** SIGTERM, then SIGKILL after `graceMs`; returns when it is gone. */
export async function end(id: ProcessId | undefined, graceMs: number): Promise<void> {
  if (!isAlive(id)) return;
  signal(id, "SIGTERM");
  try {
    await waitFor(`the end of ${id.pid}`, () => !isAlive(id), {
      timeoutMs: graceMs,
      intervalMs: 50,
    });
  } catch {
    signal(id, "SIGKILL");
    await waitFor(`the end of ${id.pid}`, () => !isAlive(id), { timeoutMs: 5_000, intervalMs: 50 });
  }
}

// ---- control groups ---------------------------------------------------------------------------

/** Every mounted hierarchy: several with version 1, one with version 2, both kinds when mixed. */
function hierarchies(): { path: string; version: 1 | 2; options: string }[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter((fields) => fields[2] === "cgroup" || fields[2] === "cgroup2")
    .map((fields) => ({
      path: fields[1] ?? "",
      version: fields[2] === "cgroup2" ? (2 as const) : (1 as const),
      options: fields[3] ?? "",
    }));
}

/**
 * Makes (or finds) the group `name` in a hierarchy that only follows processes and limits nothing:
 * version 2 where it is mounted, else systemd's named one, else any.
 * @throws {Error} on a machine without control groups, where no engine could run either.
 */
export async function makeControlGroup(name: string): Promise<string> {
  const all = hierarchies();
  const chosen =
    all.find((hierarchy) => hierarchy.version === 2) ??
    all.find((hierarchy) => hierarchy.options.includes("name=systemd")) ??
    all[0];
  if (!chosen) throw new Error("Cannot make a lab: no control groups are mounted on this machine");
  const path = join(chosen.path, name);
  await run(["mkdir", "-p", path]);
  return path;
}

/** The group `name` and those below it, in all hierarchies, deepest first. */
export function controlGroups(name: string): string[] {
  const found: string[] = [];
  const walk = (path: string) => {
    let below: string[] = [];
    try {
      below = readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(path, entry.name));
    } catch {
      return; // removed meanwhile
    }
    for (const child of below) walk(child);
    found.push(path);
  };
  for (const { path } of hierarchies()) {
    if (existsSync(join(path, name))) walk(join(path, name));
  }
  return found;
}

export function processesIn(groups: readonly string[]): ProcessId[] {
  const pids = new Set<number>();
  for (const group of groups) {
    try {
      for (const line of readFileSync(join(group, "cgroup.procs"), "utf8").split("\n")) {
        if (line !== "" && line !== "0") pids.add(Number(line));
      }
    } catch {
      // removed meanwhile
    }
  }
  return [...pids].flatMap((pid) => {
    const startTicks = startTicksOf(pid);
    return startTicks === undefined ? [] : [{ pid, startTicks }];
  });
}

/** Kills all that is left in the group and removes it. Returns what could not be removed. */
export async function clearControlGroup(name: string): Promise<string[]> {
  const deadlineMs = performance.now() + 15_000;
  for (;;) {
    const groups = controlGroups(name);
    const left = processesIn(groups);
    for (const id of left) signal(id, "SIGKILL");
    if (left.length === 0) {
      for (const group of groups) {
        try {
          rmdirSync(group);
        } catch {
          // still busy for a moment: the next round tries again
        }
      }
      if (controlGroups(name).length === 0) return [];
    }
    if (performance.now() >= deadlineMs) return [...groups, ...left.map(({ pid }) => `pid ${pid}`)];
    await Bun.sleep(50);
  }
}
