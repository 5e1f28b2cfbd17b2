/**
 * Encrypted networks on a kernel that has ESP: User-Mode Linux. The rows run inside
 * (test/uml/encryption-rows.ts), each with packets through namespaces; here their results become tests of the
 * same names.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { parseJunit } from "../../scripts/junit.ts";
import { runInUml, umlObstacle } from "../../scripts/uml.ts";

const ROOT = join(import.meta.dir, "../..");
/** On one emulated processor; about a minute on a machine with nothing else to do. */
const UML_TIMEOUT_MS = 480_000;
const ROWS = 11;

const obstacle = umlObstacle();
if (obstacle !== undefined) {
  describe.skip(`encrypted networks in the kernel (skipped: ${obstacle})`, () => {
    test("the rows", () => undefined);
  });
} else {
  const uml = await runInUml({
    argv: [
      "bash",
      "-c",
      `exec "$0" test --isolate --timeout=120000 --reporter=junit \
         --reporter-outfile="$UML_OUT/rows.xml" ./test/uml/encryption-rows.ts`,
      process.execPath,
    ],
    cwd: ROOT,
    timeoutMs: UML_TIMEOUT_MS,
  });
  const report = uml.read("rows.xml");
  uml.remove();
  const rows = report === undefined ? [] : parseJunit(report);
  describe("encrypted networks in User-Mode Linux", () => {
    test("the rows ran to their end", () => {
      if (rows.length < ROWS || uml.code === undefined) throw new Error(uml.output.slice(-4_000));
    });
    for (const row of rows) {
      const name = row.title.replace(/^.* > /, "");
      test(name, () => {
        if (row.outcome === "failed") throw new Error(uml.output.slice(-8_000));
        expect(row.outcome).toBe("passed");
      });
    }
  });
}
