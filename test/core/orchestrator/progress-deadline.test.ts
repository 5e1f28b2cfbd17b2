import { expect, test } from "bun:test";
import {
  parseProgressDeadline,
  progressDeadlineMs,
  progressDeadlineProblem,
  showDuration,
} from "../../../core/orchestrator/progress-deadline.ts";
import { aServiceSpec } from "../../fixtures/cluster.ts";

test("parseProgressDeadline() reads Go durations, and words for no bound", () => {
  const cases: [string, number | undefined][] = [
    ["90s", 90_000],
    ["1h30m", 5_400_000],
    ["1.5m", 90_000],
    ["250ms", 250],
    [" 10m ", 600_000],
    ["0", Infinity],
    ["0s", Infinity],
    ["none", Infinity],
    ["", undefined],
    ["10", undefined],
    ["-5s", undefined],
    ["5 s", undefined],
    ["ten minutes", undefined],
  ];
  for (const [text, ms] of cases) expect(parseProgressDeadline(text)).toBe(ms as number);
});

test("progressDeadlineMs() is the label's, else 10 minutes and the health check's start period", () => {
  const spec = aServiceSpec("web");
  expect(progressDeadlineMs(spec)).toBe(600_000);
  spec.TaskTemplate.ContainerSpec.Healthcheck = { StartPeriod: 60e9 };
  expect(progressDeadlineMs(spec)).toBe(660_000);
  expect(progressDeadlineMs({ ...spec, Labels: { "shoal.update.progress-deadline": "5s" } })).toBe(
    5_000,
  );
  expect(progressDeadlineMs({ ...spec, Labels: { "shoal.update.progress-deadline": "?" } })).toBe(
    660_000,
  );
});

test("progressDeadlineProblem() names the label and what to write", () => {
  expect(progressDeadlineProblem({ Labels: { a: "b" } })).toBeUndefined();
  const wrong = { Labels: { "shoal.update.progress-deadline": "soon" } };
  expect(progressDeadlineProblem(wrong)).toContain('progress-deadline: "soon" is no duration');
});

test("showDuration() writes as Go does", () => {
  expect([600_000, 90_000, 5_400_000, 3_661_000, 250].map(showDuration)).toEqual([
    "10m",
    "1m30s",
    "1h30m",
    "1h1m1s",
    "250ms",
  ]);
});
