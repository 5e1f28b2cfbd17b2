/**
 * What a mesh back-end does, and how kernel commands are run.
 *
 * Devices, addresses, routes and rules are the same for every back-end (`routing.ts`). A back-end
 * owns the packet filter and the balancing of service addresses and published ports: nftables is
 * the first; iptables and IPVS are to implement the same type.
 */
import type { FilterPlan } from "./plan.ts";

export type MeshBackend = {
  readonly name: string;
  /** @throws {ClusterError} unavailable, naming what the kernel or host lacks and how to get it. */
  probe(sample: FilterPlan): Promise<void>;
  /**
   * Makes the kernel as planned, in one step that either happens or does not. After a failure the
   * next call replaces everything.
   * @throws {ClusterError} unavailable with the tool's words.
   */
  apply(plan: FilterPlan): Promise<void>;
  /** Compares the kernel with the last applied plan; true when it had to be mended. */
  mend(): Promise<boolean>;
  /** Removes all it made. */
  wipe(): Promise<void>;
};

export type CommandResult = { code: number; stdout: string; stderr: string };
/** Runs one command to its end; never throws: what cannot be started has code 127. */
export type RunCommand = (argv: string[], stdin?: string) => Promise<CommandResult>;

/** No kernel command takes this long; a hung one must not hang the mesh. */
const COMMAND_TIMEOUT_MS = 30_000;

/** `prefix` goes before every command, such as nsenter for another network namespace. */
export function commandRunner(prefix: string[] = []): RunCommand {
  return async (argv, stdin) => {
    try {
      const child = Bun.spawn([...prefix, ...argv], {
        stdin: stdin === undefined ? "ignore" : Buffer.from(stdin),
        stdout: "pipe",
        stderr: "pipe",
        timeout: COMMAND_TIMEOUT_MS,
        killSignal: "SIGKILL",
        // Tools translate numbers and words by locale; we parse the plain ones.
        env: { ...process.env, LC_ALL: "C" },
      });
      const [stdout, stderr, code] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
        child.exited,
      ]);
      return { code, stdout, stderr };
    } catch (error) {
      return { code: 127, stdout: "", stderr: error instanceof Error ? error.message : "" };
    }
  };
}

/** First lines of a tool's complaint, short enough for a message. */
export function complaint(result: CommandResult): string {
  const text = result.stderr.trim().split("\n").slice(0, 3).join("; ").slice(0, 300);
  return text === "" ? `exit code ${result.code}` : text;
}
