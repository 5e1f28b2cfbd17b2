import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { checkLinearizability, type Operation, type Value } from "./linearizability.ts";

type Brief = [op: Operation["op"], value: Value, startMs: number, endMs: number];
const operation = (
  [op, value, startMs, endMs]: Brief,
  rest: Partial<Operation> = {},
): Operation => ({
  process: "p",
  key: "k",
  op,
  value,
  startMs,
  endMs,
  outcome: "ok",
  ...rest,
});
const isGood = (history: Operation[]) => {
  const { violations, undecidedKeys } = checkLinearizability(history);
  expect(undecidedKeys).toEqual([]);
  return violations.length === 0;
};

describe("a history by hand", () => {
  test("of reads beside a write is good whichever they saw, as long as none goes back", () => {
    const write = operation(["write", "a", 0, 10]);
    const old = operation(["read", null, 1, 2]);
    const seen = operation(["read", "a", 3, 4]);
    expect(isGood([write, old, seen])).toBe(true);
    expect(
      isGood([write, { ...seen, startMs: 1, endMs: 2 }, { ...old, startMs: 3, endMs: 4 }]),
    ).toBe(false);
  });

  test("of a stale read is bad, and the message names it", () => {
    const history = [
      operation(["write", "a", 0, 1]),
      operation(["write", "b", 2, 3]),
      operation(["read", "a", 4, 5], { process: "late" }),
    ];
    const { violations } = checkLinearizability(history);
    expect(violations).toHaveLength(1);
    expect(violations[0]?.message).toContain('the value is "b"');
    expect(violations[0]?.message).toContain('late read "a" ok');
  });

  test("of a lost write is bad", () => {
    const history = [operation(["write", "a", 0, 1]), operation(["read", null, 2, 3])];
    expect(isGood(history)).toBe(false);
  });

  test("lets an unknown write take effect late, or never, but not twice", () => {
    const unknown = operation(["write", "a", 0, 1], { outcome: "unknown" });
    const other = operation(["write", "b", 2, 3]);
    const read = (value: Value, startMs: number) =>
      operation(["read", value, startMs, startMs + 1]);
    expect(isGood([unknown, other, read("b", 4)])).toBe(true);
    expect(isGood([unknown, other, read("b", 4), read("a", 6)])).toBe(true);
    expect(isGood([unknown, read("a", 2), operation(["write", "b", 4, 5]), read("a", 6)])).toBe(
      false,
    );
  });

  test("does not let an unknown write take effect before its start", () => {
    const unknown = operation(["write", "a", 5, 6], { outcome: "unknown" });
    expect(isGood([unknown, operation(["read", "a", 1, 2])])).toBe(false);
  });

  test("follows a chain of unknown compare-and-sets", () => {
    const cas = (expected: Value, value: Value, outcome: Operation["outcome"]) =>
      operation(["cas", value, 0, 1], { expected, outcome });
    const chain = [cas(null, "a", "unknown"), cas("a", "b", "unknown"), cas("b", "c", "unknown")];
    expect(isGood([...chain, operation(["read", "c", 5, 6])])).toBe(true);
    expect(isGood([...chain.slice(1), operation(["read", "c", 5, 6])])).toBe(false);
  });

  test("does not let two compare-and-sets succeed on one value", () => {
    const history = [
      operation(["cas", "a", 0, 10], { expected: null }),
      operation(["cas", "b", 0, 10], { expected: null }),
    ];
    expect(isGood(history)).toBe(false);
  });

  test("does not let a compare-and-set fail on the value it expects", () => {
    const failed = operation(["cas", "b", 2, 3], { expected: "a", outcome: "fail" });
    expect(isGood([operation(["write", "a", 0, 1]), failed])).toBe(false);
    const other = operation(["write", "c", 0, 1], { outcome: "unknown" });
    expect(isGood([operation(["write", "a", 0, 1]), other, failed])).toBe(true);
  });

  test("of two keys is judged key by key", () => {
    const history = [
      operation(["write", "a", 0, 1], { key: "x" }),
      operation(["read", null, 2, 3], { key: "y" }),
      operation(["read", null, 2, 3], { key: "x" }),
    ];
    expect(checkLinearizability(history).violations.map(({ key }) => key)).toEqual(["x"]);
  });

  test("is undecided when the search is given up", () => {
    const history = [operation(["write", "a", 0, 1]), operation(["read", null, 2, 3])];
    expect(checkLinearizability(history, { stepsMax: 1 })).toMatchObject({
      violations: [],
      undecidedKeys: ["k"],
    });
  });
});

// ---- against a definition that only tries all orders ----------------------------------------------

function bruteForce(history: readonly Operation[]): boolean {
  const known = history.filter(
    ({ op, outcome }) => outcome === "ok" || (op === "cas" && outcome === "fail"),
  );
  const optional = history.filter(({ op, outcome }) => outcome === "unknown" && op !== "read");
  const endOf = (one: Operation) =>
    one.outcome === "unknown" ? Number.POSITIVE_INFINITY : one.endMs;
  const search = (left: readonly Operation[], value: Value): boolean => {
    if (left.every(({ outcome }) => outcome === "unknown")) return true;
    return left.some((one) => {
      if (left.some((other) => endOf(other) < one.startMs)) return false;
      const rest = left.filter((other) => other !== one);
      if (one.op === "read") return one.value === value && search(rest, value);
      if (one.op === "write") return search(rest, one.value);
      const isEqual = (one.expected ?? null) === value;
      if (one.outcome === "fail") return !isEqual && search(rest, value);
      return isEqual && search(rest, one.value);
    });
  };
  return search([...known, ...optional], null);
}

const anyValue = fc.constantFrom<Value>(null, "a", "b", "c");
const anyOperation = fc
  .record({
    op: fc.constantFrom("read" as const, "write" as const, "cas" as const),
    value: anyValue,
    expected: anyValue,
    startMs: fc.integer({ min: 0, max: 12 }),
    tookMs: fc.integer({ min: 0, max: 6 }),
    outcome: fc.constantFrom("ok" as const, "ok" as const, "fail" as const, "unknown" as const),
  })
  .map(
    ({ tookMs, ...rest }): Operation => ({
      process: "p",
      key: "k",
      endMs: rest.startMs + tookMs,
      ...rest,
    }),
  );

test("any small history gets the answer that trying all orders gives", () => {
  fc.assert(
    fc.property(fc.array(anyOperation, { maxLength: 7 }), (history) => {
      expect(isGood(history)).toBe(bruteForce(history));
    }),
    { numRuns: 3_000 },
  );
});

// ---- histories of a real register -----------------------------------------------------------------

type Step = {
  key: number;
  kind: number;
  gapMs: number;
  /** From the start to the instant at which it happens, and from there to the answer. */
  beforeMs: number;
  afterMs: number;
  isAnswerLost: boolean;
  isRequestLost: boolean;
  hasRightGuess: boolean;
};
const CLIENT_COUNT = 5;
const anyStep: fc.Arbitrary<Step> = fc.record({
  key: fc.integer({ min: 0, max: 1 }),
  kind: fc.integer({ min: 0, max: 5 }),
  gapMs: fc.integer({ min: 0, max: 5 }),
  beforeMs: fc.integer({ min: 0, max: 20 }),
  afterMs: fc.integer({ min: 0, max: 20 }),
  isAnswerLost: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
  isRequestLost: fc.boolean(),
  hasRightGuess: fc.boolean(),
});

/** Clients that work one after the other on registers which do each operation at one instant. */
function simulate(steps: readonly Step[]): Operation[] {
  const clocksMs = Array.from({ length: CLIENT_COUNT }, () => 0);
  const planned = steps.map((step, index) => {
    const client = index % CLIENT_COUNT;
    const startMs = (clocksMs[client] ?? 0) + step.gapMs;
    const pointMs = startMs + step.beforeMs;
    // A client that got no answer goes on at once; the operation may still be on its way.
    const endMs = step.isAnswerLost ? startMs + 1 : pointMs + step.afterMs;
    clocksMs[client] = endMs + 0.5;
    return { step, index, client, startMs, pointMs, endMs };
  });
  const registers = new Map<number, Value>();
  const history: Operation[] = [];
  for (const { step, index, client, startMs, endMs } of planned.toSorted(
    (a, b) => a.pointMs - b.pointMs,
  )) {
    const now = registers.get(step.key) ?? null;
    const base = { process: `c${client}`, key: `k${step.key}`, startMs, endMs };
    const outcome = step.isAnswerLost ? ("unknown" as const) : ("ok" as const);
    const hasEffect = !(step.isAnswerLost && step.isRequestLost);
    const value = `v${index}`;
    if (step.kind <= 2) {
      history.push({ ...base, op: "read", value: now, outcome });
    } else if (step.kind === 3) {
      if (hasEffect) registers.set(step.key, value);
      history.push({ ...base, op: "write", value, outcome });
    } else {
      const expected = step.hasRightGuess ? now : `v${index - 1}`;
      const isEqual = expected === now;
      if (isEqual && hasEffect) registers.set(step.key, value);
      const told = isEqual ? "ok" : "fail";
      const shown = step.isAnswerLost ? ("unknown" as const) : told;
      history.push({ ...base, op: "cas", value, expected, outcome: shown });
    }
  }
  return history;
}

const anySteps = fc.array(anyStep, { minLength: 10, maxLength: 150 });

describe("a simulated register", () => {
  test("gives good histories, also with lost answers", () => {
    fc.assert(
      fc.property(anySteps, (steps) => isGood(simulate(steps))),
      { numRuns: 300 },
    );
  });

  test("with one stale read is caught", () => {
    let injected = 0;
    fc.assert(
      fc.property(anySteps, fc.nat(), (steps, pick) => {
        const history = simulate(steps);
        // Values are unique: one that was certainly overwritten before a read began cannot be read.
        const stale = history.flatMap((read, at) =>
          read.op !== "read" || read.outcome !== "ok"
            ? []
            : history
                .filter(
                  (old) =>
                    old.op === "write" &&
                    old.outcome === "ok" &&
                    old.key === read.key &&
                    history.some(
                      (newer) =>
                        newer.key === read.key &&
                        newer.op === "write" &&
                        newer.outcome === "ok" &&
                        old.endMs < newer.startMs &&
                        newer.endMs < read.startMs,
                    ),
                )
                .map((old) => ({ at, value: old.value })),
        );
        const chosen = stale[pick % Math.max(1, stale.length)];
        if (!chosen) return;
        injected++;
        const bad = history.map((one, at) =>
          at === chosen.at ? { ...one, value: chosen.value } : one,
        );
        expect(isGood(bad)).toBe(false);
      }),
      { numRuns: 300 },
    );
    expect(injected).toBeGreaterThan(50);
  });

  test("that loses an acknowledged write is caught", () => {
    fc.assert(
      fc.property(anySteps, fc.boolean(), (mixed, isCas) => {
        const steps = mixed.map((step) => ({ ...step, isAnswerLost: false }));
        const history = simulate(steps);
        const afterMs = Math.max(...history.map(({ endMs }) => endMs)) + 100;
        const before = simulate([...steps, LAST_READ]).at(-1);
        const value = before?.value ?? null;
        const base = { process: "late", key: "k0" };
        const tail: Operation[] = [
          { ...base, op: "read", value, startMs: afterMs, endMs: afterMs + 1, outcome: "ok" },
          {
            ...base,
            op: isCas ? "cas" : "write",
            value: "lost",
            expected: value,
            startMs: afterMs + 2,
            endMs: afterMs + 3,
            outcome: "ok",
          },
          { ...base, op: "read", value, startMs: afterMs + 4, endMs: afterMs + 5, outcome: "ok" },
        ];
        expect(isGood([...history, ...tail.slice(0, 2)])).toBe(true);
        expect(isGood([...history, ...tail])).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  test("is judged fast, also a long history with many unknown outcomes", () => {
    const steps = fc.sample(anyStep, { numRuns: 4_000, seed: 7 });
    const history = simulate(steps);
    const unknown = history.filter(({ outcome }) => outcome === "unknown").length;
    expect(unknown).toBeGreaterThan(200);
    const startedMs = performance.now();
    expect(isGood(history)).toBe(true);
    expect(performance.now() - startedMs).toBeLessThan(10_000);
  });
});

/** A read of the first key, long after all else. */
const LAST_READ: Step = {
  key: 0,
  kind: 0,
  gapMs: 1_000_000,
  beforeMs: 0,
  afterMs: 0,
  isAnswerLost: false,
  isRequestLost: false,
  hasRightGuess: false,
};
