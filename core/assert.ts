/** Broken invariants: nobody catches these, the thread dies and systemd starts the agent again. */
export class AssertionError extends Error {
  override name = "AssertionError";
}

/** @throws {AssertionError} when `condition` does not hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Ends a switch over a union: the compiler proves that it cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`Unreachable: ${JSON.stringify(value)}`);
}
