/**
 * Secrets, configs and resolv.conf of tasks as files in memory: one directory a task on a tmpfs, from
 * where the engine bind-mounts each file read-only into the container. They are written before the
 * container is made and again before it starts (a reboot empties the tmpfs), and go before the container
 * does, so that what is left of a removal that died half way is found by the container.
 */
import { chmodSync, chownSync, mkdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assert } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import type { TaskFile } from "./container-spec.ts";

export type TaskFiles = {
  /** Directory of a task's files. */
  dirOf(taskId: string): string;
  /** Lays out exactly these, all or an error. */
  write(taskId: string, files: TaskFile[]): void;
  remove(taskId: string): void;
};

/** f_type of tmpfs. Source: statfs(2). */
const TMPFS_MAGIC = 0x0102_1994;
/** Secrets and configs are at most 500 KB and 1000 KB each. */
const TMPFS_SIZE = "256m";

/** @param root made when missing; a tmpfs is mounted on it unless it is on one already. */
export function createTaskFiles(root: string): TaskFiles {
  const dirOf = (taskId: string) => {
    assert(/^[A-Za-z0-9_-]+$/.test(taskId), `Task id "${taskId}" is a plain file name`);
    return join(root, taskId);
  };
  return {
    dirOf,
    write: (taskId, files) => {
      if (files.length === 0) return;
      ensureTmpfs(root);
      const dir = dirOf(taskId);
      // The engine runs as root; users of the container reach the files only by their own mounts.
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      for (const file of files) {
        const path = join(dir, file.name);
        // Written in place: a running container's bind mount holds on to the inode.
        writeFileSync(path, file.content, { mode: 0o600 });
        chownSync(path, file.uid, file.gid);
        chmodSync(path, file.mode);
      }
    },
    remove: (taskId) => rmSync(dirOf(taskId), { recursive: true, force: true }),
  };
}

function ensureTmpfs(root: string): void {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  if (statfsSync(root).type === TMPFS_MAGIC) return;
  const options = `nodev,nosuid,noexec,mode=0700,size=${TMPFS_SIZE}`;
  const { exitCode, stderr } = Bun.spawnSync([
    "mount",
    "-t",
    "tmpfs",
    "-o",
    options,
    "shoal-tasks",
    root,
  ]);
  if (exitCode !== 0) {
    throw new ClusterError(
      "failed-precondition",
      `Cannot mount a tmpfs on ${root} for secrets: ${stderr.toString().trim()}`,
    );
  }
}
