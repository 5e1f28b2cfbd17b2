import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { KEY_SECTIONS } from "../../../../agent/stacks/compose/keys.ts";
import { nearestName } from "../../../../agent/nearest-name.ts";

const DESIGN = join(import.meta.dir, "../../../../agent/stacks/compose/DESIGN.md");

/** The table of DESIGN.md, one line a key. To renew it: UPDATE_TABLE=1 bun test FILE, and paste. */
function keyTable(): string[] {
  return Object.entries(KEY_SECTIONS).flatMap(([section, rules]) =>
    Object.entries(rules).map(([key, rule]) => {
      const path = section === "file" ? key : `${section}.${key}`;
      if ("to" in rule) return `| \`${path}\` | → ${rule.to} |`;
      return "warning" in rule
        ? `| \`${path}\` | warning: ${rule.warning} |`
        : `| \`${path}\` | **error**: ${rule.error} |`;
    }),
  );
}

test("the table of DESIGN.md is the one of the code", () => {
  if (process.env["UPDATE_TABLE"]) process.stdout.write(`${keyTable().join("\n")}\n`);
  const rows = readFileSync(DESIGN, "utf8")
    .split("\n")
    .filter((line) => /^\| `[^`]+` \| (?:→|warning:|\*\*error\*\*:)/.test(line));
  expect(rows).toEqual(keyTable());
});

test.each([
  ["imagee", "image"],
  ["enviroment", "environment"],
  ["PORTS", "ports"],
  ["volume", "volumes"],
  ["zzzzzz", undefined],
])("the name nearest to %s is %s", (given, expected) => {
  expect(nearestName(given, Object.keys(KEY_SECTIONS["service"] ?? {}))).toBe(expected);
});
