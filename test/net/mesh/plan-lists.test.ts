import { describe, expect, test } from "bun:test";
import {
  addRun,
  compareText,
  differenceOf,
  emptyRuns,
  patchRuns,
  patchSorted,
} from "../../../net/mesh/plan-lists.ts";
import { seededRandom } from "./random-plan.ts";

const ROUNDS = 500;

function runsOf(entries: ReadonlyMap<string, readonly string[]>) {
  const list = emptyRuns<string>();
  for (const [owner, run] of [...entries].sort(([a], [b]) => compareText(a, b))) {
    addRun(list, owner, run);
  }
  return list;
}

describe("patchRuns", () => {
  test("gives the list that is made of the runs after the change, and leaves the one before", () => {
    const random = seededRandom(7);
    const below = (count: number) => Math.floor(random() * count);
    const entries = new Map<string, string[]>();
    let list = emptyRuns<string>();
    for (let round = 0; round < ROUNDS; round += 1) {
      const changes = new Map<string, string[]>();
      for (let count = below(4); count > 0; count -= 1) {
        const owner = `owner${below(12)}`;
        changes.set(
          owner,
          Array.from({ length: below(4) }, (_, place) => `${owner}.${place}.${below(3)}`),
        );
      }
      for (const [owner, run] of changes) entries.set(owner, run);
      const text = JSON.stringify(list);
      const patched = patchRuns(list, changes);
      expect(patched).toEqual(runsOf(entries));
      expect(JSON.stringify(list)).toBe(text);
      list = patched;
    }
  });

  test("gives the same list where no run differs", () => {
    const list = runsOf(new Map([["a", ["1", "2"]]]));
    expect(
      patchRuns(
        list,
        new Map([
          ["a", ["1", "2"]],
          ["b", []],
        ]),
      ),
    ).toBe(list);
  });
});

test("a sorted list is patched to the sorted list of what is left and what came", () => {
  const random = seededRandom(8);
  const some = () => [...new Set(Array.from({ length: 8 }, () => Math.floor(random() * 30)))];
  const compare = (a: number, b: number) => a - b;
  let list: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const [removed, added] = [some(), some()];
    const wanted = [...new Set([...list.filter((item) => !removed.includes(item)), ...added])];
    const before = [...list];
    const next = patchSorted(list, removed, added, compare);
    // Who asks for the same to be taken out and put in has it there already.
    if (!Bun.deepEquals(removed, added)) expect(next).toEqual(wanted.sort(compare));
    expect(list).toEqual(before);
    list = next;
  }
});

describe("differenceOf", () => {
  test("names what one of two lists has and the other has not", () => {
    const random = seededRandom(9);
    for (let round = 0; round < ROUNDS; round += 1) {
      const all = Array.from({ length: 12 }, (_, place) => ({ place }));
      const before = all.filter(() => random() < 0.7);
      const after = all.filter(() => random() < 0.7);
      expect(differenceOf(before, after)).toEqual([
        before.filter((item) => !after.includes(item)),
        after.filter((item) => !before.includes(item)),
      ]);
    }
  });

  test("takes equal ones at the beginning and the end for the same, where it is told so", () => {
    const list = (...values: number[]) => values.map((value) => ({ value }));
    const isEqual = (a: { value: number }, b: { value: number }) => a.value === b.value;
    const [gone, come] = differenceOf(list(1, 2, 3, 4), list(1, 5, 3, 4), isEqual);
    expect([gone, come]).toEqual([list(2), list(5)]);
    expect(differenceOf(list(1, 2), list(1, 2), isEqual)).toEqual([[], []]);
  });
});
