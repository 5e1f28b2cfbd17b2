import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { withTable } from "../../scripts/options-table.ts";

test("README.md's table of container options is the one in code", () => {
  const readme = readFileSync(join(import.meta.dir, "../../README.md"), "utf8");
  // Else: bun scripts/options-table.ts
  expect(readme).toBe(withTable(readme));
});
