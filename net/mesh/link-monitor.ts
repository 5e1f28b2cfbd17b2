/**
 * The kernel's link events as they happen: one long-lived `ip -o monitor link`. It is only a hint
 * that something is to be looked at; the periodic check does not depend on it.
 */
import { isBridgeName, isMeshDevice } from "./names.ts";

export type LinkEvent =
  /** A port of one of our bridges appeared or changed. */
  | { type: "port" }
  /** One of our bridges, or a mesh device, appeared, changed or went. */
  | { type: "device"; name: string };

export type LinkMonitor = { stop(): void };

const RESTART_DELAY_MS = 1_000;
/** No line of the tool is longer; more means that the framing is lost. */
const LINE_BYTES_MAX = 65_536;

/** What a line of `ip -o monitor link` tells; undefined for other people's devices. */
export function parseLinkEvent(line: string): LinkEvent | undefined {
  const master = / master (\S+)/.exec(line)?.[1];
  if (master !== undefined && isBridgeName(master)) return { type: "port" };
  const name = /^(?:\[[^\]]*\])?(?:Deleted )?\d+: ([^:@\s]+)/.exec(line)?.[1];
  if (name !== undefined && (isBridgeName(name) || isMeshDevice(name))) {
    return { type: "device", name };
  }
  return undefined;
}

/**
 * Follows the kernel's events until stopped; a tool that ends or is missing is started again after a
 * second. `prefix` is put before the command, to enter another network namespace.
 */
export function startLinkMonitor(
  prefix: string[],
  onEvent: (event: LinkEvent) => void,
): LinkMonitor {
  const state = { isStopped: false };
  let child: Bun.Subprocess<"ignore", "pipe", "ignore"> | undefined;
  const follow = async () => {
    child = Bun.spawn([...prefix, "ip", "-o", "monitor", "link"], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "ignore",
    });
    const decoder = new TextDecoder();
    let rest = "";
    for await (const bytes of child.stdout) {
      rest += decoder.decode(bytes, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > LINE_BYTES_MAX) rest = "";
      for (const line of lines) {
        const event = parseLinkEvent(line);
        if (event && !state.isStopped) onEvent(event);
      }
    }
  };
  const keepFollowing = async () => {
    while (!state.isStopped) {
      try {
        await follow();
      } catch {
        // Not started, or its pipe broke: the periodic check covers the gap.
      }
      if (!state.isStopped) await Bun.sleep(RESTART_DELAY_MS);
    }
  };
  void keepFollowing();
  return {
    stop: () => {
      state.isStopped = true;
      child?.kill();
    },
  };
}
