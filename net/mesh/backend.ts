/**
 * What a mesh back-end does, and how kernel commands are run.
 *
 * Devices, addresses, routes and rules are the same for every back-end (`routing.ts`). A back-end
 * owns the packet filter and the balancing of service addresses and published ports. There are three:
 * nftables (`nftables.ts`), iptables (`iptables.ts`) and IPVS with iptables around it (`ipvs.ts`).
 * Each names its objects differently, so that two can stand at once while one takes over.
 */
import type { Counts } from "./diff.ts";
import type { Family, FilterPlan, MeshSysctl } from "./plan.ts";

export const BACKEND_NAMES = ["nftables", "iptables", "ipvs"] as const;
export type BackendName = (typeof BACKEND_NAMES)[number];

/** New connections that one address or port of a service has balanced on this node. */
export type ConnectionCount = {
  serviceId: string;
  family: Family;
  /** A service address, or `<published port>/<protocol>`. */
  face: string;
  /** Since the kernel's object that counts was made. */
  connections: number;
};

export type MeshBackend = {
  readonly name: BackendName;
  /** Service addresses are the host's own, as IPVS wants them; else they are only routed. */
  readonly hasLocalVirtualIps: boolean;
  /** Kernel settings that it needs beside those of every back-end. */
  readonly sysctls: readonly MeshSysctl[];
  /** Rules that INPUT must accept where it filters, in `iptables -S` form without the chain. */
  readonly inputRules: readonly string[];
  /** @throws {ClusterError} unavailable, naming what the kernel or host lacks and how to get it. */
  probe(sample: FilterPlan): Promise<void>;
  /**
   * Makes the kernel as planned, in as few steps as the kernel's interface has: one for nftables, one
   * per table for iptables, one per object for IPVS. After a failure the next call says everything.
   * Without `plan6` nothing of IPv6 stays. What of IPv6 is refused does not hinder IPv4: see `problem`.
   * @throws {ClusterError} unavailable with the tool's words.
   */
  apply(plan: FilterPlan, plan6?: FilterPlan): Promise<void>;
  /** Why IPv6 is not as it was last asked for, while that is so; mending tries again. */
  problem(): string | undefined;
  /** What it does in another way than it could, since this kernel lacks something: sentences. */
  notes(): readonly string[];
  /** Compares the kernel with the last applied plan; what had to be mended, by kind. */
  mend(): Promise<Counts>;
  /**
   * One count per address and port of the applied plans; none where this kernel does not count.
   * @throws {ClusterError} unavailable when the kernel cannot be read.
   */
  readConnections(): Promise<ConnectionCount[]>;
  /** True when the kernel holds something of it, such as from a run before this one. */
  isPresent(): Promise<boolean>;
  /** Removes all it made; nothing of the other back-ends. */
  wipe(): Promise<void>;
};

export type CommandResult = { code: number; stdout: string; stderr: string };
/** Runs one command to its end; never throws: what cannot be started has code 127. */
export type RunCommand = (argv: string[], stdin?: string) => Promise<CommandResult>;

/** No kernel command takes this long; a hung one must not hang the mesh. */
const COMMAND_TIMEOUT_MS = 60_000;

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
