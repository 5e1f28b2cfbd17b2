/**
 * A slow disk: the kernel lets a host's agent make only so many writes a second on the device of its
 * /var/lib/shoal (control groups, blkio of version 1 or io of version 2). The agent moves into a group
 * of its own below the lab's, so that removing the lab removes it.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Host } from "../../../scripts/lab/host.ts";
import type { Lab } from "../../../scripts/lab/lab.ts";

const BLKIO = "/sys/fs/cgroup/blkio";
const THROTTLE = "blkio.throttle.write_iops_device";

/** Why no disk can be made slow here; undefined when one can. */
export function slowDiskObstacle(): string | undefined {
  if (existsSync(join(BLKIO, THROTTLE))) return undefined;
  return `needs ${THROTTLE} of the blkio controller (version 1) in ${BLKIO}`;
}

/** Slows the host's disk down and returns how to undo it. */
export async function slowDown(
  lab: Lab,
  host: Host,
  writesPerSecond: number,
): Promise<() => Promise<void>> {
  const group = join(BLKIO, `${lab.name}-lab`, `slow-${host.name}`);
  mkdirSync(group, { recursive: true });
  const device = await host.run(["stat", "-c", "%Hd:%Ld", "/var/lib/shoal"]);
  writeFileSync(join(group, THROTTLE), `${device} ${writesPerSecond}`);
  const pid = host.pid("agent");
  if (pid === undefined) throw new Error(`The agent of ${host.name} is not there`);
  const before = readFileSync(`/proc/${pid}/cgroup`, "utf8")
    .split("\n")
    .find((line) => line.split(":")[1] === "blkio")
    ?.split(":")[2];
  writeFileSync(join(group, "cgroup.procs"), String(pid));
  return async () => {
    writeFileSync(join(group, THROTTLE), `${device} 0`);
    if (host.pid("agent") === pid) {
      writeFileSync(join(BLKIO, before ?? "/", "cgroup.procs"), String(pid));
    }
  };
}
