/**
 * The matrix of the data path by IPVS, on a real kernel with IPVS: User-Mode Linux, because few
 * machines that run tests have one. The rows run inside (test/uml/ipvs-rows.ts), each with packets
 * through namespaces; here their results become tests of the same names.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { parseJunit } from "../../scripts/junit.ts";
import { runInUml, umlObstacle } from "../../scripts/uml.ts";

const ROOT = join(import.meta.dir, "../..");
/** On one emulated processor; about a minute and a half on a machine with nothing else to do. */
const UML_TIMEOUT_MS = 450_000;
const ROW_TIMEOUT_MS = 60_000;

const obstacle = umlObstacle();
if (obstacle !== undefined) {
  describe.skip(`mesh in the kernel by ipvs (skipped: ${obstacle})`, () => {
    test("the matrix", () => undefined);
  });
} else {
  const uml = await runInUml({
    argv: [
      "bash",
      "-c",
      `exec "$0" test --isolate --timeout=${ROW_TIMEOUT_MS} --reporter=junit \
         --reporter-outfile="$UML_OUT/rows.xml" ./test/uml/ipvs-rows.ts`,
      process.execPath,
    ],
    cwd: ROOT,
    timeoutMs: UML_TIMEOUT_MS,
  });
  const report = uml.read("rows.xml");
  uml.remove();
  const rows = report === undefined ? [] : parseJunit(report);
  describe("mesh by ipvs in User-Mode Linux", () => {
    test("the rows ran to their end", () => {
      if (rows.length < 15 || uml.code === undefined) throw new Error(uml.output.slice(-4_000));
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
