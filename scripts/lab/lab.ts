/**
 * A lab: hosts with engines (and agents) on one Linux machine, made for a test or by hand, and
 * removed without a trace. See DESIGN.md.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type CommandOptions, type CommandResult, run, tryRun } from "./command.ts";
import {
  CLIENT_ADDRESS,
  listNamespaces,
  makeFabric,
  namespacePath,
  removeFabric,
} from "./fabric.ts";
import { type Host, makeHost, storageDriver } from "./host.ts";
import { loadImage, makeImageTar } from "./image.ts";
import {
  clearControlGroup,
  controlGroups,
  isAlive,
  ownProcessId,
  type ProcessId,
} from "./processes.ts";

export type LabOptions = {
  /** 1 to 20. @default 3 */
  hosts?: number;
  /** Start the agent on every host. @default false */
  agents?: boolean;
  /** Short, [a-z0-9]; prefix of all names. @default made from the caller's pid, and then ephemeral */
  name?: string;
  /** The compiled agent. @default dist/shoal of this checkout */
  binary?: string;
  /** Progress, one line each. @default silent */
  onProgress?: (line: string) => void;
};

export type Client = {
  address: string;
  enter(command: readonly string[]): string[];
  run(command: readonly string[], options?: CommandOptions): Promise<string>;
  tryRun(command: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Body of the answer, trimmed; 3 s at most. @throws {CommandError} also for a status of 400 and above. */
  curl(url: string, ...flags: string[]): Promise<string>;
};

export type Lab = {
  name: string;
  dir: string;
  hosts: Host[];
  /** Counted from 1, as the hosts' names. */
  host(index: number): Host;
  client: Client;
  /** @throws {Error} naming what could not be removed. */
  down(): Promise<void>;
};

/** What is kept in the lab's directory, so that another process can use or remove it. */
type LabState = {
  name: string;
  hostCount: number;
  /** A lab of a test goes with the process that made it; see {@link removeStaleLabs}. */
  owner?: ProcessId;
  /** The last step of making it was done. */
  isComplete: boolean;
};

const HOST_COUNT_MAX = 20;
/** Not under /run, which is memory on most machines: engines put their images there. */
export const LABS_DIR = process.env["SHOAL_LAB_DIR"] ?? "/var/tmp/shoal-lab";
/** SHOAL_LAB_BINARY: another build, while dist/shoal is being made. */
export const DEFAULT_BINARY =
  process.env["SHOAL_LAB_BINARY"] ?? join(import.meta.dir, "../../dist/shoal");

let createdCount = 0;

/**
 * Makes a lab. A test's lab has no name given: it belongs to this process and is removed by the next
 * maker of a lab if this process dies before it could.
 * @throws {Error} when a lab of that name exists, or a step fails; what was made is removed then.
 */
export async function createLab(options: LabOptions = {}): Promise<Lab> {
  const hostCount = options.hosts ?? 3;
  if (!Number.isInteger(hostCount) || hostCount < 1 || hostCount > HOST_COUNT_MAX) {
    throw new Error(`Cannot make ${hostCount} hosts: 1 to ${HOST_COUNT_MAX} are possible`);
  }
  if (process.getuid?.() !== 0) throw new Error("Cannot make a lab: run as root");
  await removeStaleLabs();
  const progress = options.onProgress ?? (() => {});
  createdCount += 1;
  const name = options.name ?? `t${process.pid.toString(36)}x${createdCount}`;
  if (!/^[a-z0-9]{1,16}$/.test(name)) throw new Error(`Cannot name a lab "${name}": use [a-z0-9]`);
  const dir = join(LABS_DIR, name);
  mkdirSync(LABS_DIR, { recursive: true });
  try {
    mkdirSync(dir);
  } catch (error) {
    throw new Error(`Cannot make lab "${name}": ${dir} exists`, { cause: error });
  }
  const state: LabState = {
    name,
    hostCount,
    isComplete: false,
    ...(options.name === undefined ? { owner: ownProcessId() } : {}),
  };
  writeState(dir, state);
  try {
    const lab = labAt(dir, state);
    await placeBinary(dir, options.binary ?? DEFAULT_BINARY, options.agents ?? false);
    progress(`network of ${hostCount} hosts and a client`);
    await makeFabric(name, hostCount);
    const imageTar = makeImageTar(dir);
    await storageDriver(dir);
    await Promise.all(lab.hosts.map((host) => host.startHolder()));
    progress("engines");
    await Promise.all(lab.hosts.map((host) => host.startDockerd()));
    progress("image lab:latest");
    const tarPath = await imageTar;
    await Promise.all(lab.hosts.map((host) => loadImage(host.engineSocket(), tarPath)));
    if (options.agents === true) {
      progress("agents");
      await Promise.all(lab.hosts.map((host) => host.startAgent()));
    }
    writeState(dir, { ...state, isComplete: true });
    return lab;
  } catch (error) {
    await removeLab(name).catch(() => []);
    throw error;
  }
}

/** The lab of that name, whoever made it; undefined when there is none. */
export function openLab(name: string): (Lab & { isComplete: boolean }) | undefined {
  const state = readState(join(LABS_DIR, name));
  if (!state) return undefined;
  return { ...labAt(join(LABS_DIR, name), state), isComplete: state.isComplete };
}

export function labNames(): string[] {
  return existsSync(LABS_DIR) ? readdirSync(LABS_DIR).toSorted() : [];
}

/**
 * Ends and removes everything of the lab, in whatever state it is; also when its directory is gone.
 * Nothing is asked of the engines: all that they made is in the lab's control group and in its
 * namespaces. Returns what could not be removed.
 */
export async function removeLab(name: string): Promise<string[]> {
  const group = `${name}-lab`;
  const left = await clearControlGroup(group);
  for (const namespace of await removeFabric(name)) left.push(`network namespace ${namespace}`);
  const dir = join(LABS_DIR, name);
  try {
    rmSync(dir, { recursive: true, force: true });
  } catch (error) {
    left.push(`${dir}: ${String(error)}`);
  }
  try {
    if (readdirSync(LABS_DIR).length === 0) rmSync(LABS_DIR, { recursive: true });
  } catch {
    // another maker was faster
  }
  return left;
}

/** What of the lab is there: for the check that nothing is left. */
export async function findTraces(name: string): Promise<string[]> {
  const namespaces = await listNamespaces(name);
  const dir = join(LABS_DIR, name);
  return [
    ...controlGroups(`${name}-lab`),
    ...namespaces.map((namespace) => `network namespace ${namespace}`),
    ...(existsSync(dir) ? [dir] : []),
  ];
}

/** Removes the labs of tests whose process has ended without doing so. */
export async function removeStaleLabs(): Promise<void> {
  for (const name of labNames()) {
    const state = readState(join(LABS_DIR, name));
    if (state?.owner && !isAlive(state.owner)) await removeLab(name);
  }
}

function labAt(dir: string, state: LabState): Lab {
  const { name, hostCount } = state;
  const hosts = Array.from({ length: hostCount }, (_, i) =>
    makeHost({ name, dir, hostCount }, i + 1),
  );
  const enter = (command: readonly string[]) => [
    "nsenter",
    `--net=${namespacePath(name, "cli")}`,
    ...command,
  ];
  const client: Client = {
    address: CLIENT_ADDRESS,
    enter,
    run: (command, options) => run(enter(command), options),
    tryRun: (command, options) => tryRun(enter(command), options),
    curl: (url, ...flags) => run(enter(["curl", "-sSf", "--max-time", "3", ...flags, url])),
  };
  return {
    name,
    dir,
    hosts,
    host: (index) => {
      const host = hosts[index - 1];
      if (!host) throw new Error(`Cannot find host ${index}: the lab has 1 to ${hostCount}`);
      return host;
    },
    client,
    down: async () => {
      const left = await removeLab(name);
      if (left.length > 0)
        throw new Error(`Cannot remove all of lab "${name}": ${left.join(", ")}`);
    },
  };
}

/** A link (or copy) of the binary in the lab: a build meanwhile does not change what hosts run. */
async function placeBinary(dir: string, binary: string, isNeeded: boolean): Promise<void> {
  mkdirSync(join(dir, "bin"));
  if (!existsSync(binary)) {
    if (isNeeded)
      throw new Error(`Cannot start agents: ${binary} not found; run bun scripts/build.ts`);
    return;
  }
  const target = join(dir, "bin", "shoal");
  const linked = await tryRun(["ln", binary, target]);
  if (linked.code !== 0) await run(["cp", binary, target]);
}

const statePath = (dir: string) => join(dir, "state.json");

function writeState(dir: string, state: LabState): void {
  writeFileSync(`${statePath(dir)}.new`, JSON.stringify(state));
  renameSync(`${statePath(dir)}.new`, statePath(dir));
}

function readState(dir: string): LabState | undefined {
  if (!existsSync(statePath(dir))) return undefined;
  // Only writeState writes it, and whole.
  return JSON.parse(readFileSync(statePath(dir), "utf8")) as LabState;
}
