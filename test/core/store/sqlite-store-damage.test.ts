import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeProposal } from "../../../core/protocol.ts";
import { seededRandom } from "../../../core/random.ts";
import {
  type Entry,
  openOrRebuildStateStore,
  openStateReader,
  openStateStore,
} from "../../../core/store/sqlite-store.ts";
import { create, nodeDraft, proposal } from "./objects.ts";

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "shoal-damage-"));
  path = join(dir, "state.db");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const ENTRIES: Entry[] = Array.from({ length: 200 }, (_, i) => ({
  index: i + 1,
  term: 1,
  data: encodeProposal(
    proposal([create("node", nodeDraft(`node${i}`, i + 1))], { id: `p${i + 1}` }),
  ),
}));

/** A closed file with all entries, and the bytes of its state. */
function fill(): Uint8Array {
  const store = openStateStore(path);
  store.applyEntries(ENTRIES);
  const { data } = store.snapshot();
  store.close();
  return data;
}

/** Opens as the worker does and replays as consensus does. */
function recover(): { rebuiltBecause: string | undefined; state: Uint8Array } {
  const { store, rebuiltBecause } = openOrRebuildStateStore(path);
  store.applyEntries(ENTRIES);
  const { data } = store.snapshot();
  store.close();
  return { rebuiltBecause, state: data };
}

function sql(text: string): void {
  const database = new Database(path);
  database.run(text);
  database.close();
}

describe("openOrRebuildStateStore()", () => {
  test("opens a good file as it is", () => {
    const expected = fill();
    const { rebuiltBecause, state } = recover();
    expect(rebuiltBecause).toBeUndefined();
    expect(state).toEqual(expected);
    expect(existsSync(`${path}.damaged`)).toBe(false);
  });

  test.each<[string, () => void, RegExp]>([
    [
      "is no SQLite file",
      () => writeFileSync(path, "something else entirely"),
      /not a SQLite file/,
    ],
    ["has lost its end", () => truncateSync(path, 8_192), /./],
    [
      "has lost its first page",
      () => writeFileSync(path, zeroed(readFileSync(path), 0, 4_096)),
      /./,
    ],
    [
      "has zeros in its middle",
      () => writeFileSync(path, zeroed(readFileSync(path), 20_480, 12_288)),
      /./,
    ],
    [
      "has a changed body",
      () => sql("UPDATE node SET body = replace(body, 'active', 'drain') WHERE id = 'node7'"),
      /node node7 does not match its checksum/,
    ],
    ["has lost a table", () => sql("DROP TABLE task"), /./],
    ["is of an older format", () => sql("UPDATE meta SET format_version = 1"), /its format is 1/],
  ])("moves aside and rebuilds a file that %s", (_, harm, because) => {
    const expected = fill();
    harm();
    const { rebuiltBecause, state } = recover();
    // A lost table is made again empty: that alone is no damage that shows.
    if (rebuiltBecause !== undefined) {
      expect(rebuiltBecause).toMatch(because);
      expect(existsSync(`${path}.damaged`)).toBe(true);
    }
    expect(state).toEqual(expected);
    // And from then on it is a good file.
    expect(recover().rebuiltBecause).toBeUndefined();
  });

  test("ends equal whatever bit of the file is flipped", () => {
    const expected = fill();
    const good = readFileSync(path);
    const random = seededRandom(5);
    let rebuilt = 0;
    for (let i = 0; i < 60; i++) {
      const harmed = Buffer.from(good);
      harmed[Math.floor(random.next() * harmed.length)]! ^= 1 << Math.floor(random.next() * 8);
      writeFileSync(path, harmed);
      for (const suffix of ["-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
      const { rebuiltBecause, state } = recover();
      if (rebuiltBecause !== undefined) rebuilt++;
      expect(state).toEqual(expected);
    }
    expect(rebuilt).toBeGreaterThan(0);
  });

  test("refuses a newer format and leaves the file alone", () => {
    fill();
    sql("UPDATE meta SET format_version = 99");
    const before = readFileSync(path);
    expect(() => openOrRebuildStateStore(path)).toThrow("its format is 99");
    expect(readFileSync(path).equals(before)).toBe(true);
  });
});

describe("openStateReader()", () => {
  test("tells of rot that a read finds, and of nothing else", () => {
    fill();
    const told: string[] = [];
    const reader = openStateReader(path, (error) => told.push(error.message));
    expect(() =>
      reader.read(() => {
        throw new SyntaxError("not ours");
      }),
    ).toThrow("not ours");
    expect(told).toEqual([]);
    writeFileSync(path, zeroed(readFileSync(path), 4_096, 1_000_000));
    expect(() => reader.read((view) => view.nodes())).toThrow(/malformed/);
    expect(told).toEqual(["database disk image is malformed"]);
    reader.close();
  });
});

function zeroed(bytes: Buffer, from: number, count: number): Buffer {
  return Buffer.from(bytes).fill(0, from, Math.min(from + count, bytes.length));
}
