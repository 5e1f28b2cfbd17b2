/**
 * Decides whether a recorded history of reads, writes and compare-and-sets could have come from one
 * register per key that does each operation at one instant between its start and its end.
 *
 * Keys are independent registers, so each is searched alone (locality). The search puts operations in
 * an order, one after the other: next may be any that began before all others still open have ended.
 * States that were met before (which operations are done, and the value) are not searched again.
 *
 * What is cut off without losing an answer:
 * 1. A read that fits the value now is taken at once: it changes nothing, so later is never better.
 * 2. An operation of unknown outcome is taken only where something could see it; a blind write must be
 *    seen by the very next step. Otherwise leaving it out does as well.
 *
 * Knows nothing of shoal; the simulator and the lab both use it.
 *
 * Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
 * Linearizability" (2017).
 */

/** null: the key is absent. */
export type Value = string | null;

export type Operation = {
  process: string;
  key: string;
  op: "read" | "write" | "cas";
  /** What was read, or what is written. */
  value: Value;
  /** What a cas compares with. */
  expected?: Value;
  startMs: number;
  /** Not looked at when the outcome is unknown. */
  endMs: number;
  /**
   * A failed cas has found another value than the expected one; a failed write had no effect. What is
   * unknown takes effect at any time after its start, or never. Reads that are not ok say nothing.
   */
  outcome: "ok" | "fail" | "unknown";
};

export type Violation = {
  key: string;
  /** Where the longest order that was found ends, and what could not follow. */
  message: string;
};

export type Verdict = {
  violations: Violation[];
  /** Keys whose search was given up; they are neither good nor bad. */
  undecidedKeys: string[];
  /** States visited, over all keys. */
  stepCount: number;
};

export type CheckOptions = {
  /** What a key is before the first operation. @default null */
  initial?: Value;
  /** Bound of the search, per key. @default STEPS_MAX */
  stepsMax?: number;
};

/** A history of some thousand operations with ten clients takes about one step per operation. */
export const STEPS_MAX = 2_000_000;
/** Operations shown in a violation. */
const SHOWN_MAX = 12;

/** Checks every key by itself. The order of the history does not matter. */
export function checkLinearizability(
  history: readonly Operation[],
  options: CheckOptions = {},
): Verdict {
  const verdict: Verdict = { violations: [], undecidedKeys: [], stepCount: 0 };
  for (const [key, operations] of Map.groupBy(history, (operation) => operation.key)) {
    const result = checkKey(operations, options.initial ?? null, options.stepsMax ?? STEPS_MAX);
    verdict.stepCount += result.stepCount;
    if (result.type === "violated") verdict.violations.push({ key, message: result.message });
    if (result.type === "undecided") verdict.undecidedKeys.push(key);
  }
  return verdict;
}

/** The operations of a key, prepared: known ones have happened, optional ones may have. */
type Register = {
  /** By start. */
  known: Operation[];
  /** By start; unknown writes and cas. */
  optional: Operation[];
  /** Who could tell that a value was there: indices into known and optional. */
  seers: Map<Value, { known: number[]; optional: number[] }>;
  failedCas: number[];
};

type State = {
  /** All known operations below it are done… */
  mark: number;
  /** …and these above it, ascending. */
  above: readonly number[];
  /** Optional operations that took effect, ascending. */
  used: readonly number[];
  value: Value;
  /** The last step was an unknown blind write, which the next one must see. */
  mustBeSeen: boolean;
};

type KeyResult = { stepCount: number } & (
  | { type: "linearizable" }
  | { type: "undecided" }
  | { type: "violated"; message: string }
);

function checkKey(operations: readonly Operation[], initial: Value, stepsMax: number): KeyResult {
  const register = prepare(operations);
  const seen = new Set<string>();
  const first: State = { mark: 0, above: [], used: [], value: initial, mustBeSeen: false };
  const stack: State[] = [first];
  let deepest = first;
  let stepCount = 0;
  for (let state = stack.pop(); state; state = stack.pop()) {
    const settled = takeReads(register, state);
    if (settled.mark === register.known.length) return { type: "linearizable", stepCount };
    const name = `${settled.mark}|${settled.above.join()}|${settled.used.join()}|${settled.mustBeSeen ? 1 : 0}|${settled.value ?? ""}|${settled.value === null ? 0 : 1}`;
    if (seen.has(name)) continue;
    seen.add(name);
    stepCount++;
    if (stepCount >= stepsMax) return { type: "undecided", stepCount };
    if (doneCount(settled) > doneCount(deepest)) deepest = settled;
    // The last pushed is tried first: what is known to have happened.
    stack.push(...optionalSteps(register, settled), ...knownSteps(register, settled).toReversed());
  }
  return { type: "violated", stepCount, message: explain(register, deepest) };
}

function prepare(operations: readonly Operation[]): Register {
  const sorted = operations.toSorted((a, b) => a.startMs - b.startMs);
  const known = sorted.filter(
    ({ op, outcome }) => outcome === "ok" || (op === "cas" && outcome === "fail"),
  );
  const optional = sorted.filter(({ op, outcome }) => outcome === "unknown" && op !== "read");
  const seers: Register["seers"] = new Map();
  const note = (value: Value, list: "known" | "optional", index: number) => {
    const entry = seers.get(value) ?? { known: [], optional: [] };
    seers.set(value, entry);
    entry[list].push(index);
  };
  known.forEach((operation, index) => {
    if (operation.op === "read") note(operation.value, "known", index);
    if (operation.op === "cas" && operation.outcome === "ok") {
      note(expectedOf(operation), "known", index);
    }
  });
  optional.forEach((operation, index) => {
    if (operation.op === "cas") note(expectedOf(operation), "optional", index);
  });
  const failedCas = known.flatMap(({ outcome }, index) => (outcome === "fail" ? [index] : []));
  return { known, optional, seers, failedCas };
}

const expectedOf = (operation: Operation): Value => operation.expected ?? null;
const doneCount = (state: State) => state.mark + state.above.length;
const isDone = (state: State, index: number) => index < state.mark || state.above.includes(index);

/** Known operations that may be next, and the time before which an optional one must have begun. */
function nextOnes(register: Register, state: State): { indices: number[]; endMs: number } {
  const indices: number[] = [];
  let endMs = Number.POSITIVE_INFINITY;
  for (let index = state.mark; index < register.known.length; index++) {
    if (state.above.includes(index)) continue;
    const operation = register.known[index];
    // Sorted by start: none of the rest can be next either.
    if (!operation || operation.startMs > endMs) break;
    endMs = Math.min(endMs, operation.endMs);
    indices.push(index);
  }
  return { indices, endMs };
}

function finish(register: Register, state: State, index: number): State {
  const above = new Set(state.above).add(index);
  let { mark } = state;
  while (mark < register.known.length && above.delete(mark)) mark++;
  return { ...state, mark, above: [...above].toSorted((a, b) => a - b), mustBeSeen: false };
}

/** Does all reads and failed compares that fit the value as it is. */
function takeReads(register: Register, state: State): State {
  let settled = state;
  for (;;) {
    const fitting = nextOnes(register, settled).indices.find((index) => {
      const operation = register.known[index];
      if (operation?.op === "read") return operation.value === settled.value;
      return operation?.outcome === "fail" && expectedOf(operation) !== settled.value;
    });
    if (fitting === undefined) return settled;
    settled = finish(register, settled, fitting);
  }
}

function knownSteps(register: Register, state: State): State[] {
  return nextOnes(register, state).indices.flatMap((index) => {
    const operation = register.known[index];
    if (!operation || operation.op === "read" || operation.outcome === "fail") return [];
    if (operation.op === "cas" && expectedOf(operation) !== state.value) return [];
    if (operation.op === "write" && state.mustBeSeen) return [];
    return [{ ...finish(register, state, index), value: operation.value }];
  });
}

function optionalSteps(register: Register, state: State): State[] {
  const { endMs } = nextOnes(register, state);
  const steps: State[] = [];
  for (const [index, operation] of register.optional.entries()) {
    if (operation.startMs > endMs) break;
    if (state.used.includes(index)) continue;
    if (operation.op === "cas" && expectedOf(operation) !== state.value) continue;
    if (operation.op === "write" && state.mustBeSeen) continue;
    if (!couldBeSeen(register, state, operation.value)) continue;
    steps.push({
      ...state,
      used: [...state.used, index].toSorted((a, b) => a - b),
      value: operation.value,
      mustBeSeen: operation.op === "write",
    });
  }
  return steps;
}

function couldBeSeen(register: Register, state: State, value: Value): boolean {
  if (register.failedCas.some((index) => !isDone(state, index))) return true;
  const seers = register.seers.get(value);
  if (!seers) return false;
  return (
    seers.known.some((index) => !isDone(state, index)) ||
    seers.optional.some((index) => !state.used.includes(index))
  );
}

function explain(register: Register, state: State): string {
  const { indices } = nextOnes(register, state);
  const show = (operation: Operation | undefined) => (operation ? describe(operation) : "");
  const next = indices.slice(0, SHOWN_MAX).map((index) => show(register.known[index]));
  return `after ${doneCount(state)} of ${register.known.length} operations the value is ${text(state.value)}, and none of these can be next: ${next.join("; ")}`;
}

const text = (value: Value) => (value === null ? "absent" : `"${value}"`);

/** One line: who did what, when, with what outcome. */
export function describe(operation: Operation): string {
  const { process, op, value, startMs, endMs, outcome } = operation;
  const times = `${startMs.toFixed(1)}–${outcome === "unknown" ? "?" : endMs.toFixed(1)} ms`;
  const what = op === "cas" ? `${text(expectedOf(operation))} → ${text(value)}` : text(value);
  return `${process} ${op} ${what} ${outcome} (${times})`;
}
