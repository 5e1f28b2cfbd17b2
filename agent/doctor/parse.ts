/** What the kernel and its tools show, read. Pure; malformed text gives nothing, never an exception. */
import { z } from "zod";
import type { DnsOutcome, PingOutcome } from "./facts.ts";

/** State LISTEN in /proc/net/tcp. */
const LISTEN = "0A";

/** Local ports with a listener, with the inode of its socket, of /proc/net/tcp or tcp6. */
export function parseListeners(text: string): { port: number; inode: string }[] {
  return text.split("\n").flatMap((line) => {
    const fields = line.trim().split(/\s+/);
    const [, local = "", , state] = fields;
    const port = Number.parseInt(local.split(":").at(-1) ?? "", 16);
    const inode = fields[9];
    if (state !== LISTEN || !Number.isInteger(port) || inode === undefined) return [];
    return [{ port, inode }];
  });
}

/** Rules of one chain, of `iptables -S CHAIN`, without the chain's name. */
export function parseRules(text: string, chain: string): string[] {
  const head = `-A ${chain} `;
  return text
    .split("\n")
    .flatMap((line) => (line.startsWith(head) ? [line.slice(head.length).trim()] : []));
}

/** The end of `ping -M do`: busybox has no such option. */
export function readPing(result: { code: number; stdout: string; stderr: string }): PingOutcome {
  if (result.code === 0) return "answered";
  const said = `${result.stdout}\n${result.stderr}`;
  if (/message too long|Frag needed|Packet too big/i.test(said)) return "too-big";
  if (result.code === 127 || /invalid option|unrecognized option|usage/i.test(said)) {
    return "no-tool";
  }
  if (/not permitted|Permission denied/i.test(said)) return "no-tool";
  return "silent";
}

/** A file of /proc/sys with one number. */
export function parseNumber(text: string): number | undefined {
  const match = /^\s*(-?\d+)\s*$/.exec(text);
  return match ? Number(match[1]) : undefined;
}

const asked: z.ZodType<DnsOutcome> = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("answered"),
    code: z.enum(["NOERROR", "NXDOMAIN", "other"]),
    isAuthority: z.boolean(),
    ms: z.number(),
  }),
  z.object({ type: z.literal("silent") }),
]);

/** What `shoal net ask` prints. */
export function parseAsked(text: string): DnsOutcome | undefined {
  try {
    return asked.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
