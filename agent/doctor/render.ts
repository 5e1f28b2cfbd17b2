/** The report as text for a terminal. Pure. */
import type { NetFinding, NetReport } from "../../net/rpc/methods.ts";

const MARKS = { error: "ERROR", warning: "WARN", ok: "ok" } as const;

/** Groups with something wrong first, errors first in each, the sums last. */
export function renderReport(report: NetReport): string {
  const groups: { title: string; findings: NetFinding[] }[] = report.nodes.map(
    ({ hostname, findings }) => ({ title: hostname, findings }),
  );
  if (report.cluster.length > 0) groups.unshift({ title: "cluster", findings: report.cluster });
  const all = groups.flatMap(({ findings }) => findings);
  const width = Math.max(0, ...all.map(({ check }) => check.length));
  const blocks = groups.map(({ title, findings }) =>
    [title, ...findings.map((finding) => renderFinding(finding, width))].join("\n"),
  );
  if (report.note !== undefined) blocks.unshift(`Note: ${report.note}`);
  blocks.push(renderSums(report));
  return blocks.join("\n\n");
}

function renderFinding({ check, severity, about, seen, fix }: NetFinding, width: number): string {
  const head = `  ${MARKS[severity].padEnd(5)}  ${check.padEnd(width)}  `;
  const line = `${head}${severity === "ok" || !seen.includes(about) ? `${about}: ` : ""}${seen}`;
  return fix === undefined ? line : `${line}\n${" ".repeat(head.length)}→ ${fix}`;
}

function renderSums({ checks, warnings, errors }: NetReport): string {
  const many = (count: number, word: string) => `${count} ${word}${count === 1 ? "" : "s"}`;
  return `${many(checks, "check")}, ${many(warnings, "warning")}, ${many(errors, "error")}`;
}
