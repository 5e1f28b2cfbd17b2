/** Where an agent dies on purpose: it is armed from outside, and dies when the code passes there. */
export const CRASH_POINTS = [
  "at-rest",
  "before-persist",
  "after-persist",
  "amid-sends",
  "before-apply",
  "before-state-commit",
  "after-state-commit",
  "before-journal",
  "after-journal",
] as const;
export type CrashPoint = (typeof CRASH_POINTS)[number];

/** Thrown through the code that passes an armed point; whoever entered the process buries it. */
export class SimulatedCrash extends Error {
  override name = "SimulatedCrash";
}

export type CrashPoints = { armed: CrashPoint | undefined; pass(point: CrashPoint): void };

export function createCrashPoints(): CrashPoints {
  const points: CrashPoints = {
    armed: undefined,
    pass: (point) => {
      if (points.armed === point) throw new SimulatedCrash(point);
    },
  };
  return points;
}
