/** Whatever stands behind a key, it is read, or refused in words with its place. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { neededContents } from "../../../../agent/stacks/compose/compose.ts";
import { KEY_SECTIONS } from "../../../../agent/stacks/compose/keys.ts";
import { problemsOf } from "./compose-of.ts";

const keys = (section: string) => Object.keys(KEY_SECTIONS[section] ?? {});
const scalar = fc.oneof(
  fc.constantFrom(null, "", "a", "a:b", "/a:/b", "1", "-1", "80:80", "host", "__proto__", "all"),
  fc.integer(),
  fc.double(),
  fc.boolean(),
);
const inner = fc.constantFrom(
  ...Object.values(KEY_SECTIONS).flatMap((rules) => Object.keys(rules)),
  "__proto__",
  "constructor",
);
const junk = fc.letrec<{ any: unknown }>((tie) => ({
  any: fc.oneof(
    { maxDepth: 3 },
    scalar,
    fc.array(tie("any"), { maxLength: 3 }),
    fc.dictionary(inner, tie("any"), { maxKeys: 3 }),
  ),
})).any;

const section = (name: string) =>
  fc.dictionary(
    fc.constantFrom("a", "b", "default"),
    fc.oneof(scalar, fc.dictionary(fc.constantFrom(...keys(name)), junk)),
  );
const file = fc.record({
  services: fc.oneof(
    {
      weight: 9,
      arbitrary: fc.dictionary(
        fc.constantFrom("a", "b"),
        fc.dictionary(fc.constantFrom(...keys("service")), junk),
      ),
    },
    { weight: 1, arbitrary: junk },
  ),
  networks: section("network"),
  volumes: section("volume"),
  secrets: section("secret"),
  configs: section("config"),
});

test("any values behind known keys are read or refused in words", () => {
  fc.assert(
    fc.property(file, file, (first, second) => {
      const texts = [JSON.stringify(first), JSON.stringify(second)];
      const problems = problemsOf(texts, { env: { PWD: "/", a: "1" }, contents: { a: "YQ==" } });
      for (const problem of problems) {
        expect(problem).toMatch(/^(?:[ab]\.yml:\d+:\d+: \S|… and \d+ more problems)/);
      }
      neededContents({ files: texts.map((text) => ({ name: "x", text })), env: {} });
    }),
    { numRuns: 100 },
  );
});
