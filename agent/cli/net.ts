/** `shoal net`: the doctor's report as text or as it is; and a question to a DNS server for the doctor itself. */
import type { NetReport } from "../../net/rpc/methods.ts";
import { askDns } from "../doctor/probes.ts";
import { renderReport } from "../doctor/render.ts";
import { callAgent } from "./socket.ts";

/**
 * GET /shoal/v1/net/doctor. Exit code 1 when there is an error; warnings alone are none.
 * @throws {ClusterError} unavailable, docker.
 */
export async function runDoctor(flags: {
  node?: string;
  json?: boolean;
  socket: string;
}): Promise<void> {
  const query = flags.node === undefined ? "" : `?node=${encodeURIComponent(flags.node)}`;
  const response = await callAgent(flags.socket, `/shoal/v1/net/doctor${query}`);
  // The agent is this binary.
  const report = (await response.json()) as NetReport;
  const text = flags.json === true ? JSON.stringify(report, null, 2) : renderReport(report);
  process.stdout.write(`${text}\n`);
  if (report.errors > 0) process.exitCode = 1;
}

/** What the doctor runs in the network namespace of a container. */
export async function printAsked(server: string, name: string, timeoutMs: number): Promise<void> {
  const outcome = await askDns(server, { type: "A", name }, timeoutMs);
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}
