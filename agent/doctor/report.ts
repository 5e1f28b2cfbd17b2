/** Findings and reports: how they are made, counted, bounded, and read when they come from a node. Pure. */
import { z } from "zod";
import { ClusterError } from "../../core/errors.ts";
import type { NetFinding, NetNodeReport, NetReport } from "../../net/rpc/methods.ts";

/** Findings of one node; what is beyond is counted in the last one. */
export const FINDINGS_MAX = 300;
const TEXT_CHARACTERS_MAX = 600;

/** All is well with so many targets of a check. */
export function ok(check: string, about: string, seen: string, count = 1): NetFinding {
  return { check, severity: "ok", about, seen, count };
}

export function warning(
  check: string,
  about: string,
  seen: string,
  fix: string,
  count = 1,
): NetFinding {
  return { check, severity: "warning", about, seen, fix, count };
}

export function error(
  check: string,
  about: string,
  seen: string,
  fix: string,
  count = 1,
): NetFinding {
  return { check, severity: "error", about, seen, fix, count };
}

const SEVERITIES = { error: 0, warning: 1, ok: 2 } as const;

/** Errors first, otherwise in the order of the checks; not more than {@link FINDINGS_MAX}. */
export function inOrder(findings: readonly NetFinding[]): NetFinding[] {
  const sorted = findings.toSorted((a, b) => SEVERITIES[a.severity] - SEVERITIES[b.severity]);
  if (sorted.length <= FINDINGS_MAX) return sorted;
  const rest = sorted.slice(FINDINGS_MAX - 1);
  const [first] = rest;
  const count = rest.reduce((sum, finding) => sum + finding.count, 0);
  const what = `${rest.length} more findings are left out`;
  const last: NetFinding =
    first && first.severity !== "ok"
      ? { ...warning("findings", "more", what, "mend the first ones, then look again"), count }
      : ok("findings", "more", what, count);
  return [...sorted.slice(0, FINDINGS_MAX - 1), last];
}

/** A whole report: groups with errors first, then by host name, and the sums. */
export function makeReport(
  parts: Pick<NetReport, "scope" | "cluster" | "nodes"> & { note?: string },
): NetReport {
  const cluster = inOrder(parts.cluster);
  const nodes = parts.nodes
    .map((node) => ({ ...node, findings: inOrder(node.findings) }))
    .toSorted(
      (a, b) => worst(a.findings) - worst(b.findings) || compareText(a.hostname, b.hostname),
    );
  const all = [...cluster, ...nodes.flatMap(({ findings }) => findings)];
  const countOf = (some: readonly NetFinding[]) =>
    some.reduce((sum, finding) => sum + finding.count, 0);
  return {
    ...parts,
    cluster,
    nodes,
    checks: countOf(all),
    warnings: all.filter(({ severity }) => severity === "warning").length,
    errors: all.filter(({ severity }) => severity === "error").length,
  };
}

function worst(findings: readonly NetFinding[]): number {
  return Math.min(2, ...findings.map(({ severity }) => SEVERITIES[severity]));
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** For people's terminals: no control characters, one line, bounded. */
const text = z.string().transform((value) =>
  value
    // eslint-disable-next-line no-control-regex -- they are what is to go
    .replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ")
    .slice(0, TEXT_CHARACTERS_MAX),
);
const finding = z.object({
  check: text,
  severity: z.enum(["ok", "warning", "error"]),
  about: text,
  seen: text,
  fix: text.exactOptional(),
  count: z.number().int().nonnegative().max(100_000),
} satisfies Record<keyof NetFinding, z.ZodType>);
const nodeReport = z.object({
  findings: z.array(finding).max(FINDINGS_MAX),
  receivedAtMs: z.number(),
  answeredAtMs: z.number(),
  underlayMtu: z.number().int().exactOptional(),
  underlayPrefixLength: z.number().int().min(0).max(32).exactOptional(),
} satisfies Record<keyof NetNodeReport, z.ZodType>);

/**
 * What a node answered, which is less trusted than a manager.
 * @throws {ClusterError} invalid-argument when it is no report.
 */
export function parseNodeReport(answer: unknown): NetNodeReport {
  const parsed = nodeReport.safeParse(answer);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ClusterError(
    "invalid-argument",
    `its answer cannot be read (${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}): bring all nodes to one version of shoal`,
  );
}
