/**
 * The gate: `bun scripts/check.ts [--quick]`. Formatting, lint, types, the compiled agent, the tests
 * (the simulator's fixed seeds among them), then the lab tests one file after the other. All stages
 * run, whatever fails before; the last line is `N passed, N failed, N skipped`.
 *
 *   --quick    leaves out the compiled agent and the lab tests (they count as skipped)
 *
 * A file of tests that gives no result has failed; so has a run that ends with a code other than 0
 * without naming a failed test (an error between tests, a crash).
 */
import { Glob } from "bun";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { parseJunit, type TestResult } from "./junit.ts";
import { removeStaleLabs } from "./lab/lab.ts";

const ROOT = join(import.meta.dir, "..");
const BIN = join(ROOT, "node_modules/.bin");
/** Runs the tools too, so that the machine's own Node.js, if any, need not be of the right age. */
const BUN = join(BIN, "bun");

/** Bounds, so that a hung test ends the run while CI (90 minutes) still shows what hung. */
const STAGE_TIMEOUT_MS = 10 * 60_000;
const TESTS_TIMEOUT_MS = 30 * 60_000;
const LAB_FILE_TIMEOUT_MS = 12 * 60_000;
const LAB_TIMEOUT_MS = 45 * 60_000;

type Tally = { passed: number; failures: string[]; skips: string[] };

const { values: flags } = parseArgs({ options: { quick: { type: "boolean", default: false } } });
const workDir = mkdtempSync(join(tmpdir(), "shoal-check-"));
const tally: Tally = { passed: 0, failures: [], skips: [] };
const durations: string[] = [];

async function stage(title: string, body: () => Promise<void>): Promise<void> {
  console.log(`\n── ${title}`);
  const startedMs = performance.now();
  const failuresBefore = tally.failures.length;
  try {
    await body();
  } catch (error) {
    tally.failures.push(`${title}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  const isGood = tally.failures.length === failuresBefore;
  durations.push(`${isGood ? "ok    " : "FAILED"} ${seconds.padStart(7)} s   ${title}`);
  console.log(durations.at(-1));
}

/** Output goes to ours. */
async function spawn(
  command: string[],
  options: { timeoutMs: number; env?: Record<string, string> },
): Promise<number | "timeout"> {
  const env: Record<string, string | undefined> = { ...process.env, ...options.env };
  delete env["BUN_OPTIONS"];
  const child = Bun.spawn(command, {
    cwd: ROOT,
    env,
    stdio: ["ignore", "inherit", "inherit"],
  });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);
  const code = await child.exited;
  clearTimeout(timer);
  return isLate ? "timeout" : code;
}

async function tool(title: string, command: string[]): Promise<void> {
  await stage(title, async () => {
    const code = await spawn(command, { timeoutMs: STAGE_TIMEOUT_MS });
    if (code !== 0) tally.failures.push(`${title}: exit code ${code}`);
  });
}

/** Runs the files in one process and adds their results. */
async function runTests(
  files: string[],
  options: { timeoutMs: number; env?: Record<string, string> },
): Promise<void> {
  const reportPath = join(workDir, `junit-${Bun.randomUUIDv7()}.xml`);
  const code = await spawn(
    [
      BUN,
      "test",
      "--isolate",
      "--only-failures",
      "--reporter=junit",
      `--reporter-outfile=${reportPath}`,
      ...files.map((file) => `./${file}`),
    ],
    options,
  );
  const results = existsSync(reportPath) ? parseJunit(readFileSync(reportPath, "utf8")) : [];
  const failuresBefore = tally.failures.length;
  for (const result of results) addResult(result);
  const seen = new Set(results.map((result) => result.file.replace(/^\.\//, "")));
  for (const file of files) {
    if (!seen.has(file)) tally.failures.push(`${file}: gave no result (exit code ${code})`);
  }
  if (code !== 0 && tally.failures.length === failuresBefore) {
    tally.failures.push(`${files.join(" ")}: no test failed, but exit code ${code}`);
  }
}

function addResult(result: TestResult): void {
  const name = `${result.file}: ${result.title}`;
  if (result.outcome === "passed") tally.passed += 1;
  else if (result.outcome === "failed") tally.failures.push(name);
  else tally.skips.push(`${name}: ${result.reason ?? "no reason given"}`);
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
await stage(`tests (${plainFiles.length} files)`, () =>
  runTests(plainFiles, { timeoutMs: TESTS_TIMEOUT_MS }),
);
if (flags.quick) {
  console.log(`\n── lab tests: left out by --quick`);
  for (const file of labFiles) tally.skips.push(`${file}: left out by --quick`);
} else {
  const endMs = performance.now() + LAB_TIMEOUT_MS;
  for (const file of labFiles) {
    const leftMs = endMs - performance.now();
    if (leftMs <= 0) {
      tally.failures.push(
        `${file}: not run, the lab tests' ${LAB_TIMEOUT_MS / 60_000} minutes are over`,
      );
      continue;
    }
    const logsDir = join(workDir, relative("test/lab", file));
    const failuresBefore = tally.failures.length;
    await stage(file, () =>
      runTests([file], {
        timeoutMs: Math.min(leftMs, LAB_FILE_TIMEOUT_MS),
        env: { SHOAL_LAB_LOGS: logsDir },
      }),
    );
    if (tally.failures.length > failuresBefore) showLogs(logsDir);
    // A file that was ended for its time could not remove its own.
    await removeStaleLabs();
  }
}
rmSync(workDir, { recursive: true, force: true });

console.log(`\n── stages\n${durations.join("\n")}`);
if (tally.skips.length > 0) console.log(`\n── skipped\n${tally.skips.join("\n")}`);
if (tally.failures.length > 0) console.log(`\n── failed\n${tally.failures.join("\n")}`);
console.log(
  `\n${tally.passed} passed, ${tally.failures.length} failed, ${tally.skips.length} skipped`,
);
process.exitCode = tally.failures.length === 0 && tally.passed > 0 ? 0 : 1;
