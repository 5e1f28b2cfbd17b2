/** Encrypted networks on a kernel that has ESP, each row with packets through namespaces. */
import { describeUmlRows } from "./uml-rows.ts";

await describeUmlRows({
  title: "encrypted networks",
  file: "test/uml/encryption-rows.ts",
  rowsMin: 11,
  rowTimeoutMs: 120_000,
  // About a minute on a machine with nothing else to do.
  timeoutMs: 480_000,
});
