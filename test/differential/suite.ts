/**
 * The whole differential run: two clusters, the phases in their order, a summary. Used by
 * scripts/differential.ts and by test/lab/differential.test.ts.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ACCEPTED, type AcceptedDifference } from "./accepted.ts";
import type { Case } from "./case.ts";
import { PHASES } from "./phases.ts";
import { type CaseResult, runCase, settle, sweep } from "./run.ts";
import { makeSides, type Side } from "./sides.ts";

export type SuiteOptions = {
  /** Of the cases' names; the phases' own steps are always run. @default all */
  only?: RegExp;
  /** The compiled agent. @default dist/shoal */
  binary?: string;
  /** Ends the run after the case at hand; both labs are removed. */
  signal?: AbortSignal;
  onLine: (line: string) => void;
};

export type SuiteResult = {
  passed: number;
  failed: CaseResult[];
  skipped: string[];
  /** Distinct accepted differences that were met, and those of a whole run that were not. */
  acceptedCount: number;
  unused: AcceptedDifference[];
  durationMs: number;
};

export function allCases(): { phase: string; case: Case }[] {
  return PHASES.flatMap((phase) => phase.cases.map((one) => ({ phase: phase.name, case: one })));
}

export async function runSuite(options: SuiteOptions): Promise<SuiteResult> {
  const { onLine } = options;
  const startedMs = performance.now();
  const workDir = mkdtempSync(join(tmpdir(), "shoal-differential-"));
  const isWanted = (one: Case) => options.only?.test(one.name) ?? true;
  const isOver = () => options.signal?.aborted === true;
  const result: SuiteResult = {
    passed: 0,
    failed: [],
    skipped: [],
    acceptedCount: 0,
    unused: [],
    durationMs: 0,
  };
  const used = new Set<AcceptedDifference>();
  let sides: Side[] = [];
  try {
    sides = await makeSides(options.binary, onLine);
    onLine(`two clusters up after ${seconds(startedMs)}`);
    for (const phase of PHASES) {
      if (isOver()) break;
      const wanted = phase.cases.filter(isWanted);
      const isLater = PHASES.slice(PHASES.indexOf(phase) + 1).some((later) =>
        later.cases.some(isWanted),
      );
      if (wanted.length === 0 && !isLater) continue;
      onLine(`── ${phase.name}`);
      await Promise.all(sides.map((side) => phase.before(side)));
      for (const one of wanted) {
        if (isOver()) {
          result.skipped.push(one.name);
          continue;
        }
        const found = await runCase(sides, one, workDir).catch(
          (error: unknown): CaseResult => ({
            name: one.name,
            durationMs: 0,
            problems: [error instanceof Error ? error.message : String(error)],
            accepted: [],
          }),
        );
        for (const entry of found.accepted) used.add(entry);
        if (found.problems.length === 0) result.passed += 1;
        else result.failed.push(found);
        onLine(showCase(found));
        refuseDead(sides, one.name);
        if (phase.sweeps) await Promise.all(sides.map((side) => sweep(side)));
      }
      if (!phase.sweeps) continue;
      const left = await Promise.all(sides.map((side) => settle(side)));
      for (const [index, tasks] of left.entries()) {
        for (const task of tasks) onLine(`left on ${sides[index]?.name}: ${task}`);
      }
    }
  } finally {
    await Promise.allSettled(sides.map((side) => side.lab.down()));
    rmSync(workDir, { recursive: true, force: true });
  }
  result.acceptedCount = used.size;
  if (options.only === undefined && !isOver()) {
    result.unused = ACCEPTED.filter((entry) => !used.has(entry));
  }
  result.durationMs = performance.now() - startedMs;
  return result;
}

/** One that has crashed is what is wrong with every case after: its own last words are to be seen. */
function refuseDead(sides: readonly Side[], after: string): void {
  for (const { name, lab } of sides) {
    for (const host of lab.hosts) {
      const isDead = name === "shoal" ? !host.isAgentAlive() : !host.isDockerdAlive();
      if (!isDead) continue;
      const log = name === "shoal" ? host.agentLog() : host.engineLog();
      throw new Error(`${name}: ${host.name} has ended after "${after}":\n${log.slice(-4_000)}`);
    }
  }
}

const seconds = (sinceMs: number) => `${((performance.now() - sinceMs) / 1000).toFixed(1)} s`;

function showCase(found: CaseResult): string {
  const took = `${Math.round(found.durationMs)} ms`;
  const accepted = found.accepted.length > 0 ? `, ${found.accepted.length} accepted` : "";
  if (found.problems.length === 0) return `ok     ${found.name} (${took}${accepted})`;
  return [
    `FAILED ${found.name} (${took}${accepted})`,
    ...found.problems.map((text) => `  ${text}`),
  ].join("\n");
}

/** The closing lines; the last one is `N passed, N failed, N skipped`. */
export function showSummary(result: SuiteResult): string[] {
  return [
    "",
    ...result.failed.map((one) => `FAILED ${one.name}`),
    ...result.unused.map((entry) => `UNUSED accepted difference: ${entry.reason}`),
    `${ACCEPTED.length} accepted differences, ${result.acceptedCount} met; ${(result.durationMs / 1000).toFixed(0)} s`,
    `${result.passed} passed, ${result.failed.length + result.unused.length} failed, ${result.skipped.length} skipped`,
  ];
}
