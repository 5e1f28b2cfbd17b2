/**
 * Rows of tests that run inside User-Mode Linux, a real kernel with what few machines that run tests
 * have: each row becomes a test of the same name here.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { parseJunit } from "../../scripts/junit.ts";
import { runInUml, umlObstacle } from "../../scripts/uml.ts";

const ROOT = join(import.meta.dir, "../..");

/** To be awaited at the top of a test file: the rows run before their names are known. */
export async function describeUmlRows(options: {
  title: string;
  /** From the root of the repository. */
  file: string;
  /** Fewer are a run that broke off. */
  rowsMin: number;
  rowTimeoutMs: number;
  /** Of all of it, on one emulated processor. */
  timeoutMs: number;
}): Promise<void> {
  const { title, file, rowsMin, rowTimeoutMs, timeoutMs } = options;
  const obstacle = umlObstacle();
  if (obstacle !== undefined) {
    describe.skip(`${title} (skipped: ${obstacle})`, () => {
      test("the rows", () => undefined);
    });
    return;
  }
  const uml = await runInUml({
    argv: [
      "bash",
      "-c",
      `exec "$0" test --isolate --timeout=${rowTimeoutMs} --reporter=junit \
         --reporter-outfile="$UML_OUT/rows.xml" ./${file}`,
      process.execPath,
    ],
    cwd: ROOT,
    timeoutMs,
  });
  const report = uml.read("rows.xml");
  uml.remove();
  const rows = report === undefined ? [] : parseJunit(report);
  describe(`${title} in User-Mode Linux`, () => {
    test("the rows ran to their end", () => {
      const isWhole = rows.length >= rowsMin && uml.code !== undefined;
      if (!isWhole) throw new Error(uml.output.slice(-4_000));
    });
    for (const row of rows) {
      const name = row.title.replace(/^.* > /, "");
      test.skipIf(row.outcome === "skipped")(name, () => {
        if (row.outcome === "failed") throw new Error(uml.output.slice(-8_000));
        expect(row.outcome).toBe("passed");
      });
    }
  });
}
