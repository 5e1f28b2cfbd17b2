/** The matrix of the data path by IPVS, each row with packets through namespaces. */
import { describeUmlRows } from "./uml-rows.ts";

await describeUmlRows({
  title: "mesh by ipvs",
  file: "test/uml/ipvs-rows.ts",
  rowsMin: 15,
  rowTimeoutMs: 60_000,
  // About a minute and a half on a machine with nothing else to do.
  timeoutMs: 450_000,
});
