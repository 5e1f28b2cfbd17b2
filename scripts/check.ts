/**
 * The gate: `bun scripts/check.ts [--quick]`. Formatting, lint, types, the compiled agent, the tests
 * (the simulator's fixed seeds among them), two processes at a time, then the lab tests, two files at a time; those
 * that count lost requests before, each alone. All stages run, whatever fails before; the last line is
 * `N passed, N failed, N skipped`.
 *
 *   --quick    leaves out the compiled agent and the lab tests (they count as skipped)
 *
 * A file of tests that gives no result has failed; so has a run that ends with a code other than 0
 * without naming a failed test (an error between tests, a crash).
 */
import { Glob } from "bun";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { parseJunit, type TestResult } from "./junit.ts";
import { removeStaleLabs } from "./lab/lab.ts";

const ROOT = join(import.meta.dir, "..");
const BIN = join(ROOT, "node_modules/.bin");
/** Runs the tools too, so that the machine's own Node.js, if any, need not be of the right age. */
const BUN = join(BIN, "bun");

/** Of a test that names none: a bound, not an expectation. */
const TEST_TIMEOUT_MS = 20_000;
/** Bounds, so that a hung test ends the run while CI (90 minutes) still shows what hung. */
const STAGE_TIMEOUT_MS = 10 * 60_000;
const TESTS_TIMEOUT_MS = 30 * 60_000;
const LAB_FILE_TIMEOUT_MS = 12 * 60_000;
const LAB_TIMEOUT_MS = 45 * 60_000;
/** Processes with tests, for two processors: lab tests wait more than they compute. */
const AT_ONCE = 2;
/** Of the tests without a lab: more than are run at once, so that both processors end at about the same time. */
const PARTS = 8;
/** They bear no neighbour: a client that gets no processor for as long as a task drains loses requests. */
const LONE_LAB_FILES = ["lossless", "chaos"];
/** Begun first, so that none of them runs alone at the end. */
const LONG_LAB_FILES = [
  "differential",
  "mesh-ipvs",
  "mesh-encryption",
  "faults",
  "recovery",
  "jobs",
  "security",
];

/** Said again at the end, where a reader of a cut log finds it: of a failed test's output. */
const EXCERPT_LINES_MAX = 25;
const EXCERPTS_MAX = 5;

type Tally = { passed: number; failures: string[]; skips: string[]; excerpts: string[] };

const { values: flags } = parseArgs({ options: { quick: { type: "boolean", default: false } } });
const workDir = mkdtempSync(join(tmpdir(), "shoal-check-"));
const tally: Tally = { passed: 0, failures: [], skips: [], excerpts: [] };
const durations: string[] = [];

/** `body` gives what failed. */
async function stage(title: string, body: () => Promise<string[]>): Promise<void> {
  console.log(`\n── ${title} begins`);
  const startedMs = performance.now();
  const failures: string[] = [];
  try {
    failures.push(...(await body()));
  } catch (error) {
    failures.push(`${title}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  tally.failures.push(...failures);
  const isGood = failures.length === 0;
  durations.push(`${isGood ? "ok    " : "FAILED"} ${seconds.padStart(7)} s   ${title}`);
  console.log(durations.at(-1));
}

/** All of them, in this order, `AT_ONCE` at a time. */
async function inLanes<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const runLane = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await run(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, runLane));
}

/** Its output comes out as a whole at its end: that of what runs beside it would be mixed in. */
async function spawn(
  command: string[],
  options: { timeoutMs: number; env?: Record<string, string> },
): Promise<{ code: number | "timeout"; output: string }> {
  const outputPath = join(workDir, `output-${Bun.randomUUIDv7()}`);
  const output = openSync(outputPath, "w");
  const env: Record<string, string | undefined> = { ...process.env, ...options.env };
  delete env["BUN_OPTIONS"];
  const child = Bun.spawn(command, {
    cwd: ROOT,
    env,
    stdio: ["ignore", output, output],
  });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);
  const code = await child.exited;
  clearTimeout(timer);
  closeSync(output);
  const text = readFileSync(outputPath, "utf8");
  process.stdout.write(text);
  return { code: isLate ? "timeout" : code, output: text };
}

/** What a failed run printed before each line that names a failed test, or at its end. */
function excerptsOf(output: string): string[] {
  const lines = output.trimEnd().split("\n");
  const ends = lines.flatMap((line, index) => (line.startsWith("(fail)") ? [index + 1] : []));
  if (ends.length === 0) ends.push(lines.length);
  return ends.map((end) => lines.slice(Math.max(0, end - EXCERPT_LINES_MAX), end).join("\n"));
}

async function tool(title: string, command: string[]): Promise<void> {
  await stage(title, async () => {
    const { code } = await spawn(command, { timeoutMs: STAGE_TIMEOUT_MS });
    return code === 0 ? [] : [`${title}: exit code ${code}`];
  });
}

/** Runs the files in one process, adds their results, and gives what failed. */
async function runTests(
  files: string[],
  options: { timeoutMs: number; env?: Record<string, string> },
): Promise<string[]> {
  const reportPath = join(workDir, `junit-${Bun.randomUUIDv7()}.xml`);
  const { code, output } = await spawn(
    [
      BUN,
      "test",
      "--isolate",
      "--only-failures",
      `--timeout=${TEST_TIMEOUT_MS}`,
      "--reporter=junit",
      `--reporter-outfile=${reportPath}`,
      ...files.map((file) => `./${file}`),
    ],
    options,
  );
  const results = existsSync(reportPath) ? parseJunit(readFileSync(reportPath, "utf8")) : [];
  const failures = results.flatMap(addResult);
  const seen = new Set(results.map((result) => result.file.replace(/^\.\//, "")));
  for (const file of files) {
    if (!seen.has(file)) failures.push(`${file}: gave no result (exit code ${code})`);
  }
  if (code !== 0 && failures.length === 0) {
    failures.push(`${files.join(" ")}: no test failed, but exit code ${code}`);
  }
  if (failures.length > 0) tally.excerpts.push(...excerptsOf(output));
  return failures;
}

/** Gives its name when it failed. */
function addResult(result: TestResult): string[] {
  const name = `${result.file}: ${result.title}`;
  if (result.outcome === "failed") return [name];
  if (result.outcome === "passed") tally.passed += 1;
  else tally.skips.push(`${name}: ${result.reason ?? "no reason given"}`);
  return [];
}

/** The ends of the logs that the lab's hosts left when a file's tests failed (test/lab/lab.ts). */
function showLogs(logsDir: string): void {
  if (!existsSync(logsDir)) return;
  for (const path of readdirSync(logsDir, { recursive: true, encoding: "utf8" }).toSorted()) {
    if (!path.endsWith("agent.log")) continue;
    const lines = readFileSync(join(logsDir, path), "utf8").trimEnd().split("\n");
    console.log(`\n── the end of ${path}\n${lines.slice(-25).join("\n")}`);
  }
}

const files = [...new Glob("test/**/*.test.ts").scanSync({ cwd: ROOT })].toSorted();
const labFiles = files.filter((file) => file.startsWith("test/lab/"));
const plainFiles = files.filter((file) => !file.startsWith("test/lab/"));

const biome = ["format", "--config-path=.biome.json", "--max-diagnostics=20"];
await tool("format", [BUN, join(BIN, "biome"), ...biome]);
await tool("lint", [BUN, join(BIN, "oxlint"), "--type-aware"]);
await tool("types", [BUN, join(BIN, "tsc"), "--noEmit"]);
if (!flags.quick) await tool("build dist/shoal", [BUN, "scripts/build.ts"]);
const parts = Array.from({ length: PARTS }, (_, part) => {
  // Each has some of every folder.
  const some = plainFiles.filter((_file, index) => index % PARTS === part);
  return { title: `tests ${part + 1} of ${PARTS} (${some.length} files)`, files: some };
});
await inLanes(parts, (part) =>
  stage(part.title, () => runTests(part.files, { timeoutMs: TESTS_TIMEOUT_MS })),
);
if (flags.quick) {
  console.log(`\n── lab tests: left out by --quick`);
  for (const file of labFiles) tally.skips.push(`${file}: left out by --quick`);
} else {
  const endMs = performance.now() + LAB_TIMEOUT_MS;
  const isOneOf = (names: string[], file: string) =>
    names.some((name) => file.endsWith(`/${name}.test.ts`));
  const isLone = (file: string) => isOneOf(LONE_LAB_FILES, file);
  const isLong = (file: string) => isOneOf(LONG_LAB_FILES, file);
  const shared = labFiles.filter((file) => !isLone(file));
  const waiting = shared.toSorted((a, b) => Number(isLong(b)) - Number(isLong(a)));
  const runLabFile = async (file: string) => {
    const leftMs = endMs - performance.now();
    if (leftMs <= 0) {
      return [`${file}: not run, the lab tests' ${LAB_TIMEOUT_MS / 60_000} minutes are over`];
    }
    const logsDir = join(workDir, relative("test/lab", file));
    const failures = await runTests([file], {
      timeoutMs: Math.min(leftMs, LAB_FILE_TIMEOUT_MS),
      env: { SHOAL_LAB_LOGS: logsDir },
    });
    if (failures.length > 0) showLogs(logsDir);
    return failures;
  };
  for (const file of labFiles.filter(isLone)) await stage(file, () => runLabFile(file));
  await inLanes(waiting, (file) => stage(file, () => runLabFile(file)));
  // A file that was ended for its time could not remove its own.
  await removeStaleLabs();
}
rmSync(workDir, { recursive: true, force: true });

console.log(`\n── stages\n${durations.join("\n")}`);
if (tally.skips.length > 0) console.log(`\n── skipped\n${tally.skips.join("\n")}`);
for (const excerpt of tally.excerpts.slice(0, EXCERPTS_MAX)) console.log(`\n── why\n${excerpt}`);
if (tally.failures.length > 0) console.log(`\n── failed\n${tally.failures.join("\n")}`);
console.log(
  `\n${tally.passed} passed, ${tally.failures.length} failed, ${tally.skips.length} skipped`,
);
process.exitCode = tally.failures.length === 0 && tally.passed > 0 ? 0 : 1;
