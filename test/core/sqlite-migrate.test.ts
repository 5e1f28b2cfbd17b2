import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { migrate, type MigrationStep, readUserVersion } from "../../core/sqlite-migrate.ts";

const STEPS: readonly MigrationStep[] = [
  { from: 1, change: (db) => db.run("ALTER TABLE thing ADD COLUMN colour TEXT") },
  { from: 2, change: (db) => db.run("UPDATE thing SET colour = 'red'") },
];
const options = { path: "/x/y.db", version: 3, steps: STEPS };

function fileOf(version: number): Database {
  const db = new Database(":memory:");
  db.run("CREATE TABLE thing (id INTEGER PRIMARY KEY)");
  db.run("INSERT INTO thing VALUES (7)");
  db.run(`PRAGMA user_version = ${version}`);
  return db;
}

describe("migrate()", () => {
  test("goes through every step from the file's version on", () => {
    const db = fileOf(1);
    migrate(db, options);
    expect(db.query("SELECT * FROM thing").all()).toEqual([{ id: 7, colour: "red" }]);
    expect(readUserVersion(db)).toBe(3);
    migrate(db, options);
    expect(readUserVersion(db)).toBe(3);
  });

  test("leaves the file as it was when a step fails", () => {
    const db = fileOf(1);
    const failing = { from: 2, change: () => db.run("DELETE FROM absent") };
    expect(() => migrate(db, { ...options, steps: [...STEPS.slice(0, 1), failing] })).toThrow(
      /no such table/,
    );
    expect(db.query("SELECT * FROM thing").all()).toEqual([{ id: 7 }]);
    expect(readUserVersion(db)).toBe(1);
  });

  test.each([
    [4, /format is version 4, this program reads 1 to 3; use the version/],
    [0, /format is version 0, this program reads 1 to 3/],
  ])("refuses version %d, and leaves it alone", (version, expected) => {
    const db = fileOf(version);
    expect(() => migrate(db, options)).toThrow(expected);
    expect(readUserVersion(db)).toBe(version);
  });
});
