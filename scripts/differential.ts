/**
 * `bun scripts/differential.ts [--only pattern] [--list] [--quiet] [--binary path]`: the same docker
 * commands and API calls against stock swarm and against shoal, on two small labs of its own.
 * Needs root and dist/shoal. See test/differential/DESIGN.md.
 *
 *   --only pattern   cases whose name matches the regular expression
 *   --list           names of the cases, and the accepted differences with their reasons
 *   --quiet          only what fails, and the summary
 *
 * The last line is `N passed, N failed, N skipped`; the exit code is 1 on an unexplained difference.
 */
import { parseArgs } from "node:util";
import { ACCEPTED } from "../test/differential/accepted.ts";
import { allCases, runSuite, showSummary } from "../test/differential/suite.ts";

const { values: flags } = parseArgs({
  options: {
    only: { type: "string" },
    list: { type: "boolean", default: false },
    quiet: { type: "boolean", default: false },
    binary: { type: "string" },
  },
});

if (flags.list) {
  for (const { phase, case: one } of allCases()) console.log(`${phase} | ${one.name}`);
  console.log(`\n${allCases().length} cases; ${ACCEPTED.length} accepted differences:`);
  for (const entry of ACCEPTED) console.log(`- ${entry.reason}`);
} else {
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => interrupt.abort());
  const result = await runSuite({
    signal: interrupt.signal,
    ...(flags.only === undefined ? {} : { only: new RegExp(flags.only) }),
    ...(flags.binary === undefined ? {} : { binary: flags.binary }),
    onLine: (line) => {
      if (!flags.quiet || line.startsWith("FAILED")) console.log(line);
    },
  });
  for (const line of showSummary(result)) console.log(line);
  const isBad = result.failed.length + result.unused.length > 0 || interrupt.signal.aborted;
  process.exitCode = isBad ? 1 : 0;
}
