import { describe, expect, test } from "bun:test";
import type { TaskState } from "../../../core/objects/task.ts";
import { nextRunAtMs } from "../../../core/orchestrator/scheduled-runs.ts";
import { PLANNERS } from "../../../core/planners.ts";
import {
  aNode,
  anAgent,
  aService,
  aState,
  runToQuiet,
  type ServiceWish,
  set,
  setImage,
  START_MS,
} from "../../fixtures/cluster.ts";

const planners = PLANNERS;
const HOUR_MS = 3_600_000;
/** START_MS is 22:13:20 UTC. */
const FIRST_MS = Date.parse("2023-11-14T23:00:00Z");

/** A job at each full hour. `end`: how its tasks end, the round after they run; never, if absent. */
function hourly(wish: ServiceWish = {}, end: TaskState | "never" = "complete") {
  const labels = { "shoal.schedule": "@hourly", ...wish.labels };
  const cluster = aState({
    nodes: ["n1", "n2"].map((id) => aNode({ id })),
    services: [aService("job", { job: { total: 2, max: 1 }, ...wish, labels })],
  });
  const fates = { end };
  const agent = anAgent((task) =>
    task.status.state === "running" && fates.end !== "never" ? fates.end : undefined,
  );
  const until = (untilMs: number, nowMs: number) =>
    runToQuiet(cluster, { planners, agent, nowMs, untilMs });
  const service = () => {
    const found = cluster.view.service("job");
    if (!found) throw new Error("No job");
    return found;
  };
  return { cluster, fates, until, service, run: () => service().jobStatus };
}
const states = ({ cluster }: ReturnType<typeof hourly>) =>
  cluster.view
    .tasksByService("job")
    .map(({ jobIteration, status }) => `${jobIteration} ${status.state}`)
    .sort();

describe("a job that runs at times", () => {
  test("is not run by being made, and then at each time, to its end", () => {
    const job = hourly();
    expect(nextRunAtMs(job.cluster.view, job.service())).toBe(FIRST_MS);
    let nowMs = job.until(FIRST_MS - 1, START_MS);
    expect(states(job)).toEqual([]);
    nowMs = job.until(FIRST_MS + 60_000, nowMs);
    expect(states(job)).toEqual(["1 complete", "1 complete"]);
    expect(job.run()).toEqual({ iteration: 1, lastExecutionAtMs: FIRST_MS });
    job.until(FIRST_MS + 2 * HOUR_MS + 60_000, nowMs);
    expect(job.run()).toEqual({ iteration: 3, lastExecutionAtMs: FIRST_MS + 2 * HOUR_MS });
    expect(states(job)).toEqual(["3 complete", "3 complete"]);
  });

  test("runs on each node, if it is a global one", () => {
    const job = hourly({ job: "global" });
    job.until(FIRST_MS + 60_000, START_MS);
    expect(states(job)).toEqual(["1 complete", "1 complete"]);
  });

  test("is made up for once when nobody led the cluster at its times", () => {
    const job = hourly();
    const backMs = FIRST_MS + 5 * HOUR_MS + 1_234;
    job.until(backMs + 60_000, backMs);
    expect(job.run()).toEqual({ iteration: 1, lastExecutionAtMs: backMs });
    expect(nextRunAtMs(job.cluster.view, job.service())).toBe(FIRST_MS + 6 * HOUR_MS);
  });

  test("is left out while a run goes on, and comes again after it", () => {
    const job = hourly({}, "never");
    job.until(FIRST_MS + 60_000, START_MS);
    for (const hour of [1, 2, 3]) {
      const atMs = FIRST_MS + hour * HOUR_MS;
      job.until(atMs + 60_000, atMs);
      expect(states(job)).toEqual(["1 running"]);
    }
    job.fates.end = "complete";
    const lateMs = FIRST_MS + 3.5 * HOUR_MS;
    const nowMs = job.until(lateMs + 60_000, lateMs);
    expect(states(job)).toEqual(["1 complete", "1 complete"]);
    job.until(FIRST_MS + 4 * HOUR_MS + 60_000, nowMs);
    expect(job.run()).toEqual({ iteration: 2, lastExecutionAtMs: FIRST_MS + 4 * HOUR_MS });
  });

  test("ends a run for the next one, where that is asked", () => {
    const job = hourly({ labels: { "shoal.schedule.overlap": "replace" } }, "never");
    job.until(FIRST_MS + HOUR_MS + 120_000, START_MS);
    expect(job.run()).toEqual({ iteration: 2, lastExecutionAtMs: FIRST_MS + HOUR_MS });
    expect(states(job)).toEqual(["2 running"]);
  });

  test("runs again after a run that has failed for good", () => {
    const job = hourly({ restart: { Condition: "none" } }, "failed");
    const nowMs = job.until(FIRST_MS + 60_000, START_MS);
    expect(states(job)).toEqual(["1 failed", "1 failed"]);
    job.fates.end = "complete";
    job.until(FIRST_MS + HOUR_MS + 60_000, nowMs);
    expect(states(job)).toEqual(["2 complete", "2 complete"]);
  });

  test("has another spec from the next run on", () => {
    const job = hourly();
    const nowMs = job.until(FIRST_MS + 60_000, START_MS);
    // As the API does it: an update is no run.
    const spec = setImage(structuredClone(job.service().spec), "busybox:2");
    set(job.cluster, "service", "job", { spec }, nowMs);
    job.until(FIRST_MS + HOUR_MS - 1, nowMs);
    expect(states(job)).toEqual(["1 complete", "1 complete"]);
    job.until(FIRST_MS + HOUR_MS + 60_000, FIRST_MS + HOUR_MS - 1);
    const images = job.cluster.view.tasksByService("job").map((t) => t.spec.ContainerSpec.Image);
    expect(images).toEqual(["busybox:2", "busybox:2"]);
  });

  test("of a service that waits for another one waits in each run", () => {
    const job = hourly({ labels: { "shoal.depends-on": "db:healthy" } });
    const nowMs = job.until(FIRST_MS + HOUR_MS + 60_000, START_MS);
    expect(states(job)).toEqual(["1 pending"]);
    const object = aService("db", { replicas: 1 });
    job.cluster.apply([{ type: "create", table: "service", object }], nowMs);
    job.fates.end = "never";
    job.until(nowMs + 1_000, nowMs);
    expect(states(job)).toEqual(["1 running"]);
  });
});
