import { describe, expect, test } from "bun:test";
import type { ObservedContainer } from "../../../agent/reconciler/observed.ts";
import {
  type Attempt,
  PREPARE_WAIT_MS,
  stepTask,
  type TaskRecord,
} from "../../../agent/reconciler/task-step.ts";
import type { DesiredState, TaskState } from "../../../core/objects/task.ts";
import { aContainer, aTask } from "./wanted.ts";

const NOW_MS = 100_000;

function anAttempt(step: Attempt["step"], set: Partial<Attempt> = {}): Attempt {
  const times = { firstAtMs: NOW_MS - 100, atMs: NOW_MS - 100 };
  return { step, message: "no", isFatal: false, isEngineAway: false, count: 1, ...times, ...set };
}

type Given = {
  state: TaskState;
  desired?: DesiredState;
  container?: Partial<ObservedContainer>;
  attempt?: Attempt;
  isUnhealthy?: boolean;
};

/** The decision as one short line. */
function decide({ state, desired = "running", container, attempt, isUnhealthy }: Given): string {
  const record: TaskRecord = {
    status: {
      state,
      atMs: 1,
      message: `in ${state}`,
      ...(container ? { container: { id: "c1", pid: 7, exitCode: 0 } } : {}),
    },
    ...(isUnhealthy ? { isUnhealthy } : {}),
  };
  const { step, wakeAtMs } = stepTask("t1", {
    task: aTask("t1", { desiredState: desired }),
    record,
    container: container ? aContainer(container) : undefined,
    attempt,
    wantedDockerNetworks: ["alpha"],
    nowMs: NOW_MS,
  });
  if (wakeAtMs !== undefined) return `wait ${wakeAtMs - NOW_MS}`;
  if (step?.type !== "report") return step?.type ?? "nothing";
  const { status } = step.record;
  const mark = step.record.isUnhealthy && !isUnhealthy ? " (marked unhealthy)" : "";
  const text = [status.state, status.message, status.err].filter(Boolean).join(" | ");
  return `report ${text}${mark}`;
}

const created = { state: "created", pid: 0 } as const;
const exited = (exitCode: number) =>
  ({ state: "exited", pid: 0, exitCode, finishedAtMs: 50 }) as const;

describe("stepTask()", () => {
  const table: [string, Given, string][] = [
    ["assigned", { state: "assigned" }, "report accepted | accepted"],
    ["accepted", { state: "accepted" }, "report preparing | preparing"],
    ["preparing, nothing there", { state: "preparing" }, "prepare"],
    ["preparing, created", { state: "preparing", container: created }, "report ready | prepared"],
    [
      "preparing, a leg is missing",
      { state: "preparing", container: { ...created, dockerNetworks: [] } },
      "prepare",
    ],
    [
      "preparing, adopted while it runs",
      { state: "preparing", container: {} },
      "report ready | prepared",
    ],
    [
      "preparing, failed for good",
      { state: "preparing", attempt: anAttempt("prepare", { isFatal: true, message: "No such" }) },
      "report rejected | in preparing | No such",
    ],
    [
      "preparing, waits for something",
      { state: "preparing", attempt: anAttempt("prepare") },
      "wait 400",
    ],
    [
      "preparing, has waited long enough",
      {
        state: "preparing",
        attempt: anAttempt("prepare", { firstAtMs: NOW_MS - PREPARE_WAIT_MS }),
      },
      "report rejected | in preparing | no",
    ],
    [
      "preparing, the engine was away for long",
      {
        state: "preparing",
        attempt: anAttempt("prepare", { isEngineAway: true, firstAtMs: 0, atMs: 0 }),
      },
      "prepare",
    ],
    ["ready, held back", { state: "ready", desired: "ready", container: created }, "nothing"],
    ["ready, wanted", { state: "ready", container: created }, "report starting | starting"],
    [
      "ready, container gone",
      { state: "ready", desired: "ready" },
      "report rejected | in ready | No such container: web.1.t1",
    ],
    ["starting, created", { state: "starting", container: created }, "start"],
    [
      "starting, cannot be started",
      {
        state: "starting",
        container: created,
        attempt: anAttempt("start", { isFatal: true, message: "exec" }),
      },
      "report failed | in starting | exec",
    ],
    [
      "starting, container gone",
      { state: "starting" },
      "report failed | in starting | No such container: web.1.t1",
    ],
    ["starting, runs", { state: "starting", container: {} }, "report running | started"],
    [
      "starting, not healthy yet",
      { state: "starting", container: { health: "starting" } },
      "nothing",
    ],
    [
      "starting, healthy",
      { state: "starting", container: { health: "healthy" } },
      "report running | started",
    ],
    [
      "starting, unhealthy",
      { state: "starting", container: { health: "unhealthy" } },
      "report starting | in starting (marked unhealthy)",
    ],
    [
      "starting, marked unhealthy",
      { state: "starting", container: { health: "unhealthy" }, isUnhealthy: true },
      "stop",
    ],
    [
      "starting, has ended at once",
      { state: "starting", container: exited(0) },
      "report running | started",
    ],
    [
      "starting, has ended before it was healthy",
      { state: "starting", container: { ...exited(1), health: "unhealthy" } },
      "report failed | in starting | task: non-zero exit (1)",
    ],
    ["running", { state: "running", container: {} }, "nothing"],
    [
      "running, other pid",
      { state: "running", container: { pid: 8 } },
      "report running | in running",
    ],
    [
      "running, unhealthy",
      { state: "running", container: { health: "unhealthy" } },
      "report running | in running (marked unhealthy)",
    ],
    [
      "running, stopped for bad health",
      { state: "running", container: exited(137), isUnhealthy: true },
      "report failed | in running | task: non-zero exit (137): dockerexec: unhealthy container",
    ],
    [
      "running, stopped for bad health, exit 0",
      { state: "running", container: exited(0), isUnhealthy: true },
      "report failed | in running | dockerexec: unhealthy container",
    ],
    ["running, exit 0", { state: "running", container: exited(0) }, "report complete | finished"],
    [
      "running, exit 1",
      { state: "running", container: exited(1) },
      "report failed | in running | task: non-zero exit (1)",
    ],
    [
      "running, container gone",
      { state: "running" },
      "report failed | in running | No such container: web.1.t1",
    ],
    ["a job runs", { state: "running", desired: "complete", container: {} }, "nothing"],
    ["shutdown, runs", { state: "running", desired: "shutdown", container: {} }, "stop"],
    [
      "shutdown, a stop failed just now",
      { state: "running", desired: "shutdown", container: {}, attempt: anAttempt("stop") },
      "wait 400",
    ],
    [
      "shutdown, exited",
      { state: "running", desired: "shutdown", container: exited(0) },
      "report shutdown | shutdown",
    ],
    [
      "shutdown, never prepared",
      { state: "accepted", desired: "shutdown" },
      "report shutdown | shutdown",
    ],
    ["remove, runs", { state: "running", desired: "remove", container: {} }, "stop"],
    ["complete stays so when shut down", { state: "complete", desired: "shutdown" }, "nothing"],
    ["dead, kept", { state: "failed", container: exited(1) }, "nothing"],
    ["dead, but runs", { state: "failed", container: {} }, "stop"],
    ["orphaned, still runs", { state: "orphaned", container: {} }, "stop"],
  ];
  test.each(table)("%s", (_name, given, expected) => {
    expect(decide(given)).toBe(expected);
  });

  test("an exit is told with the time at which it was", () => {
    const { step } = stepTask("t1", {
      task: aTask("t1"),
      record: { status: { state: "running", atMs: 1, message: "started" } },
      container: aContainer(exited(0)),
      wantedDockerNetworks: [],
      nowMs: NOW_MS,
    });
    expect(step).toMatchObject({ record: { status: { atMs: 50, container: { exitCode: 0 } } } });
  });

  test("the managers' status counts when it is further than the own one", () => {
    const status = { state: "rejected", atMs: 5, message: "task rejected by constraint enforcer" };
    const { step } = stepTask("t1", {
      task: aTask("t1", { status: { ...status, state: "rejected" } }),
      record: { status: { state: "running", atMs: 1, message: "started" } },
      container: aContainer(),
      wantedDockerNetworks: [],
      nowMs: NOW_MS,
    });
    expect(step?.type).toBe("stop");
  });

  test("what is not wanted is stopped, removed, forgotten", () => {
    const steps = [aContainer(), aContainer(exited(0)), undefined].map(
      (container) =>
        stepTask("t1", { container, wantedDockerNetworks: [], nowMs: NOW_MS }).step?.type,
    );
    expect(steps).toEqual(["stop", "remove", "forget"]);
  });
});
