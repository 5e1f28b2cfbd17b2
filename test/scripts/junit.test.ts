import { expect, test } from "bun:test";
import { parseJunit } from "../../scripts/junit.ts";

const REPORT = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="bun test" tests="4" assertions="2" failures="1" skipped="2" time="1">
  <testsuite name="a.test.ts" file="a.test.ts" tests="4">
    <testsuite name="plan() &gt; rules" file="a.test.ts" line="2">
      <testcase name="keeps &quot;x&quot; &amp; y" classname="plan()" time="0.5" file="a.test.ts" line="3" />
    </testsuite>
    <testcase name="fails" classname="" time="0" file="a.test.ts" line="4">
      <failure type="AssertionError" message="1 &lt; 2">text</failure>
    </testcase>
    <testcase name="waits" classname="lab (skipped: needs root)" time="0" file="a.test.ts" line="5">
      <skipped />
    </testcase>
    <testcase name="later" classname="" time="0" file="a.test.ts" line="6">
      <skipped message="TODO" />
    </testcase>
  </testsuite>
</testsuites>
`;

test("parseJunit() gives each test with its outcome and the reason of a skip", () => {
  expect(parseJunit(REPORT)).toEqual([
    { file: "a.test.ts", title: 'plan() > keeps "x" & y', outcome: "passed", seconds: 0.5 },
    { file: "a.test.ts", title: "fails", outcome: "failed", seconds: 0 },
    {
      file: "a.test.ts",
      title: "lab (skipped: needs root) > waits",
      outcome: "skipped",
      reason: "needs root",
      seconds: 0,
    },
    { file: "a.test.ts", title: "later", outcome: "skipped", reason: "TODO", seconds: 0 },
  ]);
});

test("parseJunit() gives nothing for a report without tests", () => {
  expect(parseJunit("<testsuites></testsuites>")).toEqual([]);
});
