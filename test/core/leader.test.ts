import { describe, expect, test } from "bun:test";
import { planAll } from "../../core/leader.ts";
import type { Plan, Planner } from "../../core/plan.ts";
import { seededRandom } from "../../core/random.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";

const input = { view: createMemoryRows(), nowMs: 7, random: seededRandom(1) };
const remove = (id: string) => ({ type: "remove", table: "task", id }) as const;
const planner = (plan: Partial<Plan>): Planner => {
  return () => ({ actions: [], reasons: [], ...plan });
};

describe("planAll()", () => {
  test("joins plans in the planners' order and wakes at the earliest time", () => {
    const reason = { objectId: "t1", message: "why" };
    const plan = planAll(
      [
        planner({ actions: [remove("a")], wakeAtMs: 90 }),
        planner({ reasons: [reason] }),
        planner({ actions: [remove("b"), remove("c")], wakeAtMs: 30 }),
        planner({ wakeAtMs: 60 }),
      ],
      input,
    );
    expect(plan).toEqual({
      actions: [remove("a"), remove("b"), remove("c")],
      reasons: [reason],
      wakeAtMs: 30,
    });
  });

  test("gives no wake time when no planner asks for one", () => {
    expect(planAll([planner({})], input)).toEqual({ actions: [], reasons: [] });
  });

  test("gives every planner the same input", () => {
    const seen: unknown[] = [];
    const spy: Planner = (given) => {
      seen.push(given);
      return { actions: [], reasons: [] };
    };
    planAll([spy, spy], input);
    expect(seen).toEqual([input, input]);
  });

  test("takes plans of any length", () => {
    const actions = Array.from({ length: 200_000 }, () => remove("x"));
    expect(planAll([planner({ actions })], input).actions).toHaveLength(200_000);
  });
});
