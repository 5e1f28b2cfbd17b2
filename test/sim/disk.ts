/** A disk that holds what the last finished transaction left, whatever happens to the process. */
import { crc32 } from "../../core/raft/checksum.ts";
import type { LogStorage } from "../../core/raft/host.ts";
import { EMPTY_CONFIGURATION } from "../../core/raft/messages.ts";
import type { PersistBatch, StoredRaft } from "../../core/raft/raft.ts";

export type Disk = LogStorage & {
  /** What a process that starts now finds. */
  read(): StoredRaft;
  /** A manager that was removed and begins anew. */
  wipe(): void;
  readonly persistCount: number;
};

export function createDisk(): Disk {
  let stored = emptyDisk();
  let pieces = new Map<string, { data: Uint8Array; checksum: number }>();
  let persistCount = 0;
  const putPiece = (index: number, piece: number, data: Uint8Array) => {
    const copy = data.slice();
    pieces.set(`${index}/${piece}`, { data: copy, checksum: crc32(copy) });
  };
  return {
    get persistCount() {
      return persistCount;
    },
    persist: (batch) => {
      persistCount++;
      batch.snapshot?.pieces?.forEach((data, piece) => {
        putPiece(batch.snapshot?.meta.index ?? 0, piece, data);
      });
      stored = applyBatch(stored, batch);
      const prefix = `${stored.snapshot?.index}/`;
      if (batch.snapshot) {
        pieces = new Map([...pieces].filter(([key]) => key.startsWith(prefix)));
      }
    },
    stageSnapshotPiece: putPiece,
    readSnapshotPiece: (index, piece) => {
      const found = pieces.get(`${index}/${piece}`);
      if (found && crc32(found.data) !== found.checksum)
        throw new Error("Somebody wrote to the disk");
      return found?.data;
    },
    read: () => ({ ...stored, entries: [...stored.entries] }),
    wipe: () => {
      stored = emptyDisk();
      pieces.clear();
    },
  };
}

function emptyDisk(): StoredRaft {
  return {
    hardState: { term: 0, votedFor: undefined, commitIndex: 0, joinedIndex: undefined },
    base: { index: 0, term: 0, configuration: EMPTY_CONFIGURATION },
    entries: [],
    snapshot: undefined,
  };
}

/** What sqlite-log.ts does with a batch, said again in the simplest way. */
function applyBatch(stored: StoredRaft, batch: PersistBatch): StoredRaft {
  const base = batch.base ?? stored.base;
  const first = batch.entries[0]?.index ?? Number.POSITIVE_INFINITY;
  const kept = batch.isLogCleared
    ? []
    : stored.entries.filter((entry) => entry.index > base.index && entry.index < first);
  return {
    hardState: { ...batch.hardState },
    base,
    entries: [...kept, ...batch.entries],
    snapshot: batch.snapshot?.meta ?? stored.snapshot,
  };
}
