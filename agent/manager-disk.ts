/** Room on disk in a manager's life: to start in, and to lead with (disk-space.ts measures it). */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type DiskWatch, watchDiskSpace } from "./disk-space.ts";
import type { Logger } from "./logger.ts";
import type { Manager } from "./manager.ts";

/** A leader without room on disk tries to hand over so often. */
const HANDOVER_RETRY_MS = 5_000;
/** A manager starts with so much room at least; SQLite recovers its files into it. */
const START_BYTES_MIN = 4 * 1024 * 1024;
const START_SPACE_LOG_MS = 30_000;
const RETRY_MS = 500;

/** Tells the manager of its disk, and lets another one lead while there is no room. */
export function watchManagerDisk(options: {
  dataDir: string;
  /** Undefined until it has started. */
  manager: () => Manager | undefined;
  log: Logger;
}): DiskWatch {
  const { dataDir, log } = options;
  const raftDir = join(dataDir, "raft");
  mkdirSync(raftDir, { recursive: true, mode: 0o700 });
  let handOverAtMs = 0;
  const handOver = () => {
    const manager = options.manager();
    if (!manager || disk.space().state === "ok" || Date.now() < handOverAtMs) return;
    const { isLeader, members } = manager.status();
    if (!isLeader || members.filter((m) => !m.isLearner).length < 2) return;
    handOverAtMs = Date.now() + HANDOVER_RETRY_MS;
    manager.transferLeadership().then(
      () => log.info("Leadership handed over for want of space"),
      (error: unknown) => log.warn({ err: String(error) }, "Leadership not handed over"),
    );
  };
  const disk: DiskWatch = watchDiskSpace({
    dir: dataDir,
    ballastDir: raftDir,
    onSpace: (space, wasBallastRemoved) => {
      const details = { ...space, wasBallastRemoved };
      if (space.state === "ok") log.info(details, "There is room on disk again");
      else log.error(details, "Not enough room on disk: this manager takes no changes");
      options.manager()?.useDisk(space);
    },
    onCheck: handOver,
  });
  return disk;
}

/**
 * Returns once there is room to start in, with a manager's ballast given up for it if need be: to fail
 * and be started again for ever would help nobody, and what runs on this host runs meanwhile.
 * `onTrouble` is told what is waited for, and `undefined` at the end.
 */
export async function waitForRoom(options: {
  dataDir: string;
  isStopping: () => boolean;
  onTrouble(text: string | undefined): void;
  log: Logger;
}): Promise<void> {
  const { dataDir, log } = options;
  let saidAtMs = Number.NEGATIVE_INFINITY;
  const disk = watchDiskSpace({
    dir: dataDir,
    ballastDir: join(dataDir, "raft"),
    mayMakeBallast: false,
  });
  while (disk.check().freeBytes < START_BYTES_MIN && !options.isStopping()) {
    const text = `This node waits for room on disk: ${disk.space().text}: free space there`;
    options.onTrouble(text);
    if (performance.now() - saidAtMs >= START_SPACE_LOG_MS) {
      saidAtMs = performance.now();
      log.error(text);
    }
    await Bun.sleep(RETRY_MS);
  }
  disk.stop();
  options.onTrouble(undefined);
}
