import { expect, test } from "bun:test";
import { nextRunAfter, scheduleProblem } from "../../../core/objects/job-schedule.ts";
import { aServiceSpec } from "../../fixtures/cluster.ts";

const job = (labels: Record<string, string>) =>
  aServiceSpec("job", { job: { total: 1, max: 1 }, labels });

test.each([
  [{ "shoal.schedule": "0 3 * * *" }],
  [{ "shoal.schedule": "@daily", "shoal.schedule.timezone": "Europe/Berlin" }],
  [{ "shoal.schedule": "0 3 * * *", "shoal.schedule.overlap": "replace" }],
  [{}],
])("%j can stand", (labels) => {
  expect(scheduleProblem(job(labels))).toBeUndefined();
  expect(nextRunAfter(job(labels), 0) !== undefined).toBe("shoal.schedule" in labels);
});

test.each([
  [{ "shoal.schedule": "soon" }, "label shoal.schedule: it has 1 fields"],
  [{ "shoal.schedule": "0 0 30 2 *" }, '"0 0 30 2 *" is never: no such day comes'],
  [
    { "shoal.schedule": "@daily", "shoal.schedule.timezone": "Berlin" },
    '"Berlin" is no time zone: use a name such as UTC or Europe/Berlin',
  ],
  [
    { "shoal.schedule": "@daily", "shoal.schedule.overlap": "wait" },
    '"wait" is not known: use skip or replace',
  ],
  [
    { "shoal.schedule.timezone": "UTC" },
    "label shoal.schedule.timezone is for jobs that run at times: add shoal.schedule",
  ],
])("%j is refused", (labels, problem) => {
  expect(scheduleProblem(job(labels))).toContain(problem);
  expect(nextRunAfter(job(labels), 0)).toBeUndefined();
});

test("a service that is no job has no times", () => {
  const spec = aServiceSpec("web", { replicas: 1, labels: { "shoal.schedule": "@daily" } });
  expect(scheduleProblem(spec)).toBe(
    "label shoal.schedule: a replicated service runs all the time: use mode replicated-job or global-job, or leave the label out",
  );
  expect(nextRunAfter(spec, 0)).toBeUndefined();
});
