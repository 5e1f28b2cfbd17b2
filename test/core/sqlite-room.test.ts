import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PersistBatch } from "../../core/raft/raft.ts";
import { openSqliteLog } from "../../core/raft/sqlite-log.ts";
import { isDiskFull, ROOM_BYTES, writeWithRoom } from "../../core/sqlite-room.ts";
import { encodeProposal } from "../../core/protocol.ts";
import { openStateStore } from "../../core/store/sqlite-store.ts";
import { smallDisk } from "../fixtures/small-disk.ts";
import { create, nodeDraft, proposal } from "./store/objects.ts";

const MIB = 1024 * 1024;
let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-room-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function fullError(): Error {
  const disk = smallDisk(MIB);
  try {
    const log = openSqliteLog({ dir: disk.dir, nodeId: "a", room: { wait: stop } });
    disk.fill();
    try {
      log.persist(batchOf(1));
    } finally {
      log.close();
    }
  } catch (error) {
    if (error instanceof Error) return error;
  } finally {
    disk.remove();
  }
  throw new Error("The disk had room");
}
function stop(): never {
  throw new Error("waited");
}

function batchOf(index: number): PersistBatch {
  const data = new Uint8Array(200_000);
  return {
    hardState: { term: 1, votedFor: undefined, commitIndex: 0, joinedIndex: 1 },
    isLogCleared: false,
    entries: [{ index, term: 1, type: "normal", data }],
  };
}

describe("writeWithRoom()", () => {
  test("passes what is no full disk", () => {
    expect(() => writeWithRoom(dir, {}, () => stop())).toThrow("waited");
    expect(writeWithRoom(dir, {}, () => 7)).toBe(7);
    expect(isDiskFull(new Error("database or disk is full"))).toBe(false);
  });
});

describe.skipIf(process.getuid?.() !== 0)("on a full disk", () => {
  test("a writer is stopped before it could answer", () => {
    expect(fullError().message).toBe("waited");
  });

  test("the log takes the ballast's room without a word", () => {
    const disk = smallDisk(3 * MIB);
    try {
      const ballastPath = join(disk.dir, "ballast");
      writeFileSync(ballastPath, new Uint8Array(MIB));
      const told: boolean[] = [];
      const room = { ballastPath, onFull: (isFull: boolean) => told.push(isFull), wait: stop };
      const log = openSqliteLog({ dir: disk.dir, nodeId: "a", room });
      disk.fill();
      log.persist(batchOf(1));
      log.close();
      expect(existsSync(ballastPath)).toBe(false);
      expect(told).toEqual([]);
    } finally {
      disk.remove();
    }
  });

  test("the log waits for room, says so, and has the batch once", () => {
    const disk = smallDisk(8 * MIB);
    try {
      const said: string[] = [];
      let waits = 0;
      const log = openSqliteLog({
        dir: disk.dir,
        nodeId: "a",
        room: {
          onFull: (isFull) => said.push(`full ${isFull}`),
          wait: () => {
            waits++;
            if (waits === 3) disk.free();
          },
        },
      });
      disk.fill();
      log.persist(batchOf(1));
      said.push("persisted");
      expect(said).toEqual(["full true", "full false", "persisted"]);
      expect(waits).toBe(3);
      log.close();
      const again = openSqliteLog({ dir: disk.dir, nodeId: "a" });
      expect(again.stored.entries.map(({ index }) => index)).toEqual([1]);
      expect(again.lost).toBeUndefined();
      again.close();
    } finally {
      disk.remove();
    }
  });

  test("the state waits for room, and has every entry once", () => {
    const disk = smallDisk(8 * MIB);
    try {
      let waits = 0;
      const path = join(disk.dir, "state.db");
      const wait = () => {
        waits++;
        disk.free();
      };
      const store = openStateStore(path, { wait });
      const entries = Array.from({ length: 300 }, (_, i) => ({
        index: i + 1,
        term: 1,
        data: encodeProposal(
          proposal([create("node", nodeDraft(`node${i}`, i + 1))], { id: `p${i + 1}` }),
        ),
      }));
      store.applyEntries(entries.slice(0, 2));
      disk.fill();
      store.applyEntries(entries);
      expect(waits).toBeGreaterThan(0);
      store.close();
      const again = openStateStore(path);
      expect(again.appliedIndex).toBe(300);
      expect(again.rows.nodes()).toHaveLength(300);
      again.close();
    } finally {
      disk.remove();
    }
  });

  test("too little room is not tried for", () => {
    const disk = smallDisk(8 * MIB);
    try {
      const frees = [ROOM_BYTES - 1, ROOM_BYTES];
      let waits = 0;
      const log = openSqliteLog({
        dir: disk.dir,
        nodeId: "a",
        room: {
          freeBytes: () => frees.shift() ?? stop(),
          wait: () => {
            waits++;
            disk.free();
          },
        },
      });
      disk.fill();
      log.persist(batchOf(1));
      expect(waits).toBe(2);
      log.close();
    } finally {
      disk.remove();
    }
  });
});
