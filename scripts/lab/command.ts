/** Runs commands for the lab: captured output, a bound on every run, and an error that shows both. */

export type CommandResult = { code: number; stdout: string; stderr: string };

export type CommandOptions = {
  /** @default 60_000 */
  timeoutMs?: number;
  /** Added to the caller's environment. */
  env?: Record<string, string>;
  stdin?: Blob | Uint8Array | string;
};

const COMMAND_TIMEOUT_MS = 60_000;

/** A command that ended with a code other than 0, or was ended for its time. */
export class CommandError extends Error {
  readonly result: CommandResult;
  constructor(command: readonly string[], result: CommandResult) {
    const shown = command.join(" ");
    const output = `${result.stderr}\n${result.stdout}`.trim();
    super(`Cannot run "${shown}": exit code ${result.code}: ${output}`);
    this.name = "CommandError";
    this.result = result;
  }
}

/** Runs to the end and returns whatever came of it; code 124 when the time ran out (as timeout(1)). */
export async function tryRun(
  command: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const child = Bun.spawn([...command], {
    stdin: typeof options.stdin === "string" ? Buffer.from(options.stdin) : (options.stdin ?? null),
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...options.env },
  });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, options.timeoutMs ?? COMMAND_TIMEOUT_MS);
  try {
    const [stdout, stderr, code] = await Promise.all([
      child.stdout.text(),
      child.stderr.text(),
      child.exited,
    ]);
    return isLate
      ? { code: 124, stdout, stderr: `${stderr}\n(ended after its time limit)` }
      : { code, stdout, stderr };
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The trimmed standard output.
 * @throws {CommandError} when the code is not 0.
 */
export async function run(command: readonly string[], options?: CommandOptions): Promise<string> {
  const result = await tryRun(command, options);
  if (result.code !== 0) throw new CommandError(command, result);
  return result.stdout.trim();
}

/**
 * Waits until `condition` gives something other than false or undefined, and returns it.
 * @throws {Error} naming `what`, with the last error of `condition`, after `timeoutMs`.
 */
export async function waitFor<T>(
  what: string,
  condition: () => T | false | undefined | Promise<T | false | undefined>,
  options: { timeoutMs?: number; intervalMs?: number } = {},
): Promise<T> {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const deadlineMs = performance.now() + timeoutMs;
  let lastError: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== false && value !== undefined) return value;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() >= deadlineMs) {
      throw new Error(`Waited ${timeoutMs} ms in vain for ${what}`, { cause: lastError });
    }
    await Bun.sleep(options.intervalMs ?? 100);
  }
}
