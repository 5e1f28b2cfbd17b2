/**
 * Runs cases against both sides, step by step and the two sides at the same time, and judges the
 * differences: accepted ones (accepted.ts) are counted, any other fails the case. After each case
 * all that it has made is removed on both sides.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "../../scripts/lab/command.ts";
import { type AcceptedDifference, findAccepted } from "./accepted.ts";
import type { Case, Step } from "./case.ts";
import { compareOutcomes, type Difference, type Outcome, type Seen } from "./compare.ts";
import type { Side } from "./sides.ts";

export type CaseResult = {
  name: string;
  durationMs: number;
  /** Unexplained differences, or why the case could not be run. */
  problems: string[];
  accepted: AcceptedDifference[];
};

const STEP_TIMEOUT_MS = 20_000;
const UNTIL_INTERVAL_MS = 150;
/**
 * A reading step that differs is repeated: allocators and schedulers of both sides work behind the answers, and
 * what has not come about on one of them yet is no difference.
 */
const READ_TRIES_MAX = 10;
const SETTLE_TIMEOUT_MS = 20_000;

export async function runCase(
  sides: readonly Side[],
  one: Case,
  workDir: string,
): Promise<CaseResult> {
  const startedMs = performance.now();
  const result: CaseResult = { name: one.name, durationMs: 0, problems: [], accepted: [] };
  const dir = join(workDir, one.name.replaceAll(/[^A-Za-z0-9]+/g, "-"));
  mkdirSync(dir, { recursive: true });
  for (const [name, text] of Object.entries(one.files ?? {})) writeFileSync(join(dir, name), text);
  for (const side of sides) prepare(side);
  for (const [index, step] of one.steps.entries()) {
    const seen = await Promise.all(sides.map((side) => runStep(side, step, dir)));
    const [stock, shoal] = seen;
    if (!stock || !shoal) throw new Error("A case runs against two sides");
    const label = `step ${index + 1}, ${describeStep(step)}`;
    if (step.setup === true) {
      const failed = sides.filter((_, i) => !isSuccess(seen[i]?.outcome));
      for (const side of failed) {
        const outcome = seen[sides.indexOf(side)]?.outcome ?? new Map<string, string>();
        result.problems.push(`${label}: failed on ${side.name}: ${showOutcome(outcome)}`);
      }
      if (failed.length > 0) break;
      continue;
    }
    if (step.ignored === true) continue;
    let verdict = judge(one, step, [stock, shoal]);
    for (let tries = 1; verdict.unexplained.length > 0 && tries < READ_TRIES_MAX; tries += 1) {
      if (!isReading(step)) break;
      await Bun.sleep(UNTIL_INTERVAL_MS);
      const [stockAgain, shoalAgain] = await Promise.all(
        sides.map((side) => runStep(side, step, dir)),
      );
      if (stockAgain && shoalAgain) verdict = judge(one, step, [stockAgain, shoalAgain]);
    }
    result.accepted.push(...verdict.accepted);
    for (const difference of verdict.unexplained) {
      result.problems.push(`${label}:\n${showDifference(difference)}`);
    }
  }
  result.durationMs = performance.now() - startedMs;
  return result;
}

type Verdict = { accepted: AcceptedDifference[]; unexplained: Difference[] };

function judge(one: Case, step: Step, [stock, shoal]: [Seen, Seen]): Verdict {
  const verdict: Verdict = { accepted: [], unexplained: [] };
  for (const difference of compareOutcomes(stock, shoal)) {
    if (step.volatile?.test(difference.where) === true) continue;
    const accepted = findAccepted(one.name, difference);
    if (accepted) verdict.accepted.push(accepted);
    else verdict.unexplained.push(difference);
  }
  return verdict;
}

/** Changes nothing, so that it can be asked again. */
function isReading(step: Step): boolean {
  if (step.kind === "http") return step.method === "GET" || step.method === "HEAD";
  return (
    /^docker (?:[a-z]+ )?(?:inspect|ls|ps|services) /.test(`${step.line} `) &&
    !/[;&]/.test(step.line)
  );
}

function describeStep(step: Step): string {
  return step.kind === "sh" ? step.line : `${step.method} ${step.path}`;
}

function showDifference({ where, stock, shoal }: Difference): string {
  const indent = (text: string) => text.split("\n").join("\n          ");
  return `    at    ${where}\n    stock ${indent(stock)}\n    shoal ${indent(shoal)}`;
}

function showOutcome(outcome: Outcome): string {
  return [...outcome].map(([name, text]) => `${name}=${text.trim().slice(0, 500)}`).join(" ");
}

function isSuccess(outcome: Outcome | undefined): boolean {
  const code = outcome?.get("code");
  if (code !== undefined) return code === "0";
  const status = Number(outcome?.get("status"));
  return status >= 200 && status < 300;
}

/** What phases save, for all their cases. */
const KEPT: ReadonlySet<string> = new Set(["node", "worker", "reg", "key"]);

/** Values of cases before are forgotten. */
function prepare(side: Side): void {
  for (const name of side.saved.keys()) if (!KEPT.has(name)) side.saved.delete(name);
}

async function runStep(side: Side, step: Step, dir: string): Promise<Seen> {
  const until = step.until;
  const timeoutMs = step.timeoutMs ?? STEP_TIMEOUT_MS;
  let outcome = await attempt(side, step, dir, timeoutMs);
  if (until) {
    const deadlineMs = performance.now() + timeoutMs;
    while (!until.test(mainText(outcome)) && performance.now() < deadlineMs) {
      await Bun.sleep(UNTIL_INTERVAL_MS);
      outcome = await attempt(side, step, dir, timeoutMs);
    }
    if (!until.test(mainText(outcome))) {
      outcome = new Map([...outcome, ["until", `${until} was not seen in ${timeoutMs} ms`]]);
      if (step.setup === true) outcome = new Map([...outcome, ["code", "until"], ["status", "0"]]);
    }
  }
  if (step.save !== undefined) {
    const value = pickValue(mainText(outcome), step.pick);
    if (value !== undefined && value !== "") side.saved.set(step.save, value);
  }
  return { outcome, known: await side.known(outcome.values()) };
}

function mainText(outcome: Outcome): string {
  return outcome.get("stdout") ?? outcome.get("body") ?? "";
}

function pickValue(text: string, pick: string | undefined): string | undefined {
  const trimmed = text.trim();
  if (!/^[[{"]/.test(trimmed)) return trimmed;
  let value: unknown;
  try {
    value = JSON.parse(trimmed);
  } catch {
    return trimmed;
  }
  if (typeof value === "string") return value;
  for (const key of pick?.split(".") ?? []) value = at(value, key);
  if (pick === undefined) value = at(value, "ID") ?? at(value, "Id");
  return typeof value === "string" || typeof value === "number" ? String(value) : undefined;
}

function at(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null
    ? new Map(Object.entries(value)).get(key)
    : undefined;
}

async function attempt(side: Side, step: Step, dir: string, timeoutMs: number): Promise<Outcome> {
  const fill = (text: string) =>
    text.replaceAll(/\$([a-z]\w*)/g, (whole, name: string) => side.saved.get(name) ?? whole);
  const host = step.host ?? 1;
  if (step.kind === "sh") {
    const result = await side.shell(fill(step.line), dir, host, timeoutMs);
    return new Map([
      ["code", String(result.code)],
      ["stdout", result.stdout],
      ["stderr", result.stderr],
    ]);
  }
  const given = step.body;
  const body =
    given === undefined
      ? undefined
      : fill(typeof given === "string" ? given : JSON.stringify(given));
  const headers = step.headers ?? {};
  try {
    const answer = await side.request(host, step.method, fill(step.path), body, headers, timeoutMs);
    return new Map([
      ["status", String(answer.status)],
      ...["content-type", "api-version", "ostype", "docker-experimental", "server"].map(
        (name) => [`header ${name}`, answer.headers.get(name) ?? "(absent)"] as const,
      ),
      ["body", answer.text],
    ]);
  } catch (error) {
    return new Map([["error", error instanceof Error ? error.message : String(error)]]);
  }
}

// ---- cleaning up ------------------------------------------------------------------------------

type Listed = { ID?: string; Id?: string; Name?: string; Labels?: Record<string, string> | null };

async function list(side: Side, path: string): Promise<Listed[]> {
  const answer = await side.request(1, "GET", path, undefined, {}, STEP_TIMEOUT_MS);
  if (answer.status !== 200) return [];
  const parsed: unknown = JSON.parse(answer.text);
  // Lists of the API, whose items have an id.
  return Array.isArray(parsed) ? (parsed as Listed[]) : [];
}

/**
 * Removes all services, secrets, configs and user networks. A network may stay a while, until its
 * last task has gone: the next sweep tries again.
 */
export async function sweep(side: Side): Promise<void> {
  const remove = async (path: string) =>
    (await side.request(1, "DELETE", path, undefined, {}, STEP_TIMEOUT_MS)).status < 300;
  for (const kind of ["services", "secrets", "configs"]) {
    for (const { ID } of await list(side, `/${kind}`)) await remove(`/${kind}/${ID}`);
  }
  const custom = `/networks?filters=${encodeURIComponent('{"type":["custom"]}')}`;
  for (const { Id, Name } of await list(side, custom)) {
    if (Name !== "ingress" && Name !== "docker_gwbridge") await remove(`/networks/${Id}`);
  }
}

/**
 * Waits until what sweeps have left is gone, so that the next cases see an empty cluster. Returns
 * the tasks that stay.
 */
export async function settle(side: Side): Promise<string[]> {
  let left: string[] = [];
  try {
    await waitFor(
      `${side.name} to be empty`,
      async () => {
        await sweep(side);
        const answer = await side.request(1, "GET", "/tasks", undefined, {}, STEP_TIMEOUT_MS);
        left = describeTasks(answer.text);
        return left.length === 0;
      },
      { timeoutMs: SETTLE_TIMEOUT_MS, intervalMs: 300 },
    );
    return [];
  } catch {
    return left;
  }
}

function describeTasks(text: string): string[] {
  const parsed: unknown = JSON.parse(text);
  if (!Array.isArray(parsed)) return [text];
  // Stock never forgets the tasks of a job, also when the job is gone.
  const staying = parsed.filter((task: unknown) => at(task, "JobIteration") === undefined);
  return staying.map((task: unknown) => {
    const status = at(task, "Status");
    const words = [
      at(task, "DesiredState"),
      at(status, "State"),
      at(status, "Message"),
      at(status, "Err"),
    ];
    return `task ${String(at(task, "ID"))}: ${words.map(String).join(", ")}`;
  });
}
