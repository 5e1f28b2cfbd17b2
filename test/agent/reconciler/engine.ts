/**
 * A real dockerd of a test's own: in a network namespace of its own, everything below one temporary
 * directory, with one image made of busybox. `stop` leaves nothing behind.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type TestEngine = {
  socket: string;
  dir: string;
  /** Runs the docker CLI against it and gives its output. */
  docker(...args: string[]): string;
  /** Ends dockerd and starts it again; containers live on (live-restore). */
  restart(): Promise<void>;
  halt(): Promise<void>;
  resume(): Promise<void>;
  stop(): Promise<void>;
};

export const TEST_IMAGE = "shoal-test:latest";
const BUSYBOX = "/bin/busybox";
const START_TIMEOUT_MS = 20_000;

/** Why no engine can be started here, or `undefined`. */
export function engineUnavailable(): string | undefined {
  if (process.getuid?.() !== 0) return "not root";
  for (const tool of ["dockerd", "docker", "ip", "nsenter", "tar"]) {
    if (!Bun.which(tool)) return `${tool} is not installed`;
  }
  if (!existsSync(BUSYBOX)) return `${BUSYBOX} is not installed`;
  const probe = Bun.spawnSync(["unshare", "--net", "true"]);
  return probe.exitCode === 0 ? undefined : "network namespaces cannot be made";
}

export async function startEngine(): Promise<TestEngine> {
  const dir = mkdtempSync(join(tmpdir(), "shr-"));
  const netns = `shr${process.pid}`;
  const socket = join(dir, "s.sock");
  run("ip", "netns", "add", netns);
  run("ip", "-n", netns, "link", "set", "lo", "up");
  let daemon: Bun.Subprocess | undefined;

  const docker = (...args: string[]) => run("docker", "-H", `unix://${socket}`, ...args);
  const resume = async () => {
    const log = openSync(join(dir, "log"), "a");
    const netnsPath = `/var/run/netns/${netns}`;
    const roots = ["--data-root", join(dir, "data"), "--exec-root", join(dir, "exec")];
    const listen = ["--pidfile", join(dir, "pid"), "-H", `unix://${socket}`];
    daemon = Bun.spawn(
      ["nsenter", `--net=${netnsPath}`, "dockerd", "--live-restore", ...roots, ...listen],
      { stdin: "ignore", stdout: log, stderr: log },
    );
    await until("dockerd answers", START_TIMEOUT_MS, async () => {
      if (daemon?.exitCode !== null) throw new Error(readFileSync(join(dir, "log"), "utf8"));
      const answer = await fetch("http://engine/_ping", { unix: socket }).catch(() => undefined);
      return answer?.ok;
    });
  };
  const halt = async () => {
    daemon?.kill("SIGTERM");
    await daemon?.exited;
  };
  const stop = async () => {
    if (daemon?.exitCode === null) {
      const ids = docker("ps", "-aq").split("\n").filter(Boolean);
      if (ids.length > 0) docker("rm", "-f", ...ids);
    }
    await halt();
    const mounts = readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[1] ?? "")
      .filter((path) => path.startsWith(`${dir}/`));
    for (const path of mounts.reverse()) Bun.spawnSync(["umount", "-l", path]);
    run("ip", "netns", "del", netns);
    rmSync(dir, { recursive: true, force: true });
  };

  try {
    await resume();
    importImage(dir, docker);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    socket,
    dir,
    docker,
    halt,
    resume,
    stop,
    restart: async () => {
      await halt();
      await resume();
    },
  };
}

function importImage(dir: string, docker: TestEngine["docker"]): void {
  const root = join(dir, "image");
  for (const name of ["bin", "tmp", "etc", "proc", "sys", "dev", "run"]) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync(BUSYBOX, join(root, "bin/busybox"));
  for (const applet of ["sh", "sleep", "cat", "ls", "stat", "touch", "true", "test", "ip"]) {
    symlinkSync("busybox", join(root, "bin", applet));
  }
  const tar = join(dir, "image.tar");
  run("tar", "-C", root, "-cf", tar, ".");
  docker("import", tar, TEST_IMAGE);
}

/** Polls until `condition` gives something true; throws with `what` after the time. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  condition: () => Promise<T> | T,
): Promise<NonNullable<T>> {
  const endMs = Date.now() + timeoutMs;
  while (true) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > endMs) throw new Error(`Not so within ${timeoutMs} ms: ${what}`);
    await Bun.sleep(20);
  }
}

function run(...command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) {
    throw new Error(`${command.join(" ")}: exit ${exitCode}: ${stderr.toString()}`);
  }
  return stdout.toString().trim();
}
