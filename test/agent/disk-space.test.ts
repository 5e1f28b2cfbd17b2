import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BALLAST_BYTES,
  ballastPathOf,
  nextDiskState,
  watchDiskSpace,
} from "../../agent/disk-space.ts";

const MIB = 1024 * 1024;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-disk-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("nextDiskState()", () => {
  test.each([
    ["ok", 64, "ok"],
    ["ok", 63, "low"],
    ["low", 79, "low"],
    ["low", 80, "ok"],
    ["low", 15, "critical"],
    ["ok", 0, "critical"],
    // The ballast's own 16 MiB do not end it.
    ["critical", 47, "critical"],
    ["critical", 48, "low"],
    ["critical", 80, "ok"],
  ] as const)("goes from %s at %d MiB to %s", (before, mib, after) => {
    expect(nextDiskState(before, mib * MIB)).toBe(after);
  });
});

describe("watchDiskSpace()", () => {
  test("makes the ballast, gives it up when critical, tells each change once, and makes it again", () => {
    const ballast = join(dir, "ballast");
    let free = 1_000 * MIB;
    const told: string[] = [];
    const watch = watchDiskSpace({
      dir,
      ballastDir: dir,
      freeBytes: () => free,
      onSpace: (space, wasBallastRemoved) => told.push(`${space.state} ${wasBallastRemoved}`),
    });
    expect(statSync(ballast).size).toBe(BALLAST_BYTES);
    for (const mib of [50, 50, 5, 21, 60, 100, 100]) {
      free = mib * MIB;
      watch.check();
      expect(existsSync(ballast)).toBe(mib === 50);
    }
    expect(told).toEqual(["low false", "critical true", "low false", "ok false"]);
    free = 200 * MIB;
    watch.check();
    expect(existsSync(ballast)).toBe(true);
    watch.stop();
  });

  test("is critical while a writer waits, whatever is measured, and gives the ballast up for it", () => {
    const told: string[] = [];
    const watch = watchDiskSpace({
      dir,
      ballastDir: dir,
      freeBytes: () => 1_000 * MIB,
      onSpace: (space) => told.push(`${space.state}: ${space.text.split(",")[0]}`),
    });
    watch.writerWaits(true);
    watch.writerWaits(true);
    expect(existsSync(ballastPathOf(dir))).toBe(false);
    watch.writerWaits(false);
    expect(watch.check().state).toBe("critical");
    watch.writerWaits(false);
    expect(told).toEqual([
      "critical: a write found no room",
      `ok: the file system of ${dir} has 1000 MiB left`,
    ]);
    watch.stop();
  });

  test("says at once when it begins without room, and where", () => {
    const told: string[] = [];
    const watch = watchDiskSpace({
      dir,
      ballastDir: dir,
      freeBytes: () => 3.5 * MIB,
      onSpace: (space) => told.push(space.text),
    });
    expect(told).toEqual([`the file system of ${dir} has 3 MiB left, 80 MiB are needed`]);
    watch.stop();
  });
});
