/** `shoal why`: the answer of GET /shoal/v1/why as text for people. */
import type { WhyReport } from "../api/why.ts";
import { callAgent } from "./socket.ts";
import { ago, table } from "./table.ts";

/** @throws {ClusterError} unavailable, docker with what the agent answered. */
export async function printWhy(ref: string, socket: string): Promise<void> {
  const response = await callAgent(socket, `/shoal/v1/why/${encodeURIComponent(ref)}`);
  // The agent is this binary.
  const report = (await response.json()) as WhyReport;
  process.stdout.write(`${renderWhy(report, Date.now())}\n`);
}

/** Names of tasks that are written out; the rest is counted. */
const NAMES_MAX = 3;

/** The report as paragraphs and tables. */
export function renderWhy(report: WhyReport, nowMs: number): string {
  const blocks = [`${report.summary}.`];
  if (report.notes.length > 0) blocks.push(report.notes.map((note) => `- ${note}`).join("\n"));
  for (const group of report.pending) blocks.push(renderPending(group));
  if (report.underWay.length > 0) {
    blocks.push(
      table(
        ["STARTING", "NODE", "STATE", "SINCE", "MESSAGE"],
        report.underWay.map((one) => [
          one.task,
          one.node,
          one.state,
          ago(one.since, nowMs),
          one.message,
        ]),
      ),
    );
  }
  if (report.failures.length > 0) {
    blocks.push(
      table(
        ["FAILED", "NODE", "STATE", "WHEN", "ERROR"],
        report.failures.map((one) => [
          one.task,
          one.node,
          one.state,
          ago(one.at, nowMs),
          one.error,
        ]),
      ),
    );
  }
  return blocks.join("\n\n");
}

function renderPending(group: WhyReport["pending"][number]): string {
  const more = group.tasks.length - NAMES_MAX;
  const names = group.tasks.slice(0, NAMES_MAX).join(", ");
  const head = `${names}${more > 0 ? ` and ${more} more` : ""}: ${group.reason}`;
  if (group.nodes.length === 0) return head;
  const rows = group.nodes.flatMap(({ hostname, reasons }) =>
    reasons.length === 0
      ? [[hostname, "", "it could take the task: the scheduler is about to", ""]]
      : reasons.map(({ filter, text, fix }, i) => [i === 0 ? hostname : "", filter, text, fix]),
  );
  const lines = [head, table(["NODE", "FILTER", "REASON", "FIX"], rows)];
  const [nearest] = group.nodes;
  if (nearest && nearest.reasons.length > 0) {
    lines.push(
      `Nearest is ${nearest.hostname}: ${nearest.reasons.map(({ fix }) => fix).join("; ")}.`,
    );
  }
  return lines.join("\n");
}
