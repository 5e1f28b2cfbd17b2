/** Encrypted networks on a kernel that has ESP, each row with packets through namespaces. */
import { describeUmlRows } from "./uml-rows.ts";

await describeUmlRows({
  title: "encrypted networks",
  file: "test/uml/encryption-rows.ts",
  rowsMin: 13,
  rowTimeoutMs: 120_000,
  // Less than two minutes on a machine with little else to do.
  timeoutMs: 480_000,
});
