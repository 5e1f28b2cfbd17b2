/**
 * Virtual time for code that was written for the real one. While it is installed, the global timers and
 * clocks belong to the world's queue, so that the agent's own shells (session, reconciler, manager, pool)
 * run unchanged and a seed decides every interleaving.
 *
 * 1. Code runs as a process (`enter`), and everything that follows from it without waiting (microtasks)
 *    runs before the next event. A timer belongs to the process that set it and dies with it.
 * 2. A paused process runs nothing; what was due comes, in order, when the pause ends.
 * 3. Each process has its own clocks: one that can be set (Date.now) and one that cannot, both with a
 *    rate of their own, by which its timers are also late or early.
 *
 * What throws in a process ends it and is a violation: the shells let only bugs through.
 */
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../../../core/assert.ts";
import type { World } from "../world.ts";

/** The wall clock at the beginning of every simulation. */
export const EPOCH_MS = 1_700_000_000_000;

export type Process = {
  readonly name: string;
  isAlive: boolean;
  pausedUntilMs: number;
  clock: Clock;
};
/** Shared by a host's lives. `rate` 1 is right; `offsetMs` is what its wall clock is ahead. */
export type Clock = { offsetMs: number; rate: number };

export type VirtualTime = {
  readonly world: World;
  /** Runs as the process, now, with all that follows at once. */
  enter(process: Process, run: () => void): void;
  /** Runs as the process after the delay, or at the end of its pause; never when it has died. */
  post(process: Process, delayMs: number, run: () => void): void;
  /** Wall clock of the process now. */
  wallMs(process: Process): number;
  monotonicMs(process: Process): number;
  /** Gives the real clocks and timers back. */
  uninstall(): void;
};

type VirtualTimer = { isOver: boolean };

export function installVirtualTime(
  world: World,
  onThrow: (process: Process, error: unknown) => void,
): VirtualTime {
  let current: Process | undefined;

  const enter = (process: Process, run: () => void) => {
    assert(!current, "One process runs at a time");
    if (!process.isAlive) return;
    current = process;
    try {
      run();
      drainMicrotasks();
    } catch (error) {
      onThrow(process, error);
    } finally {
      current = undefined;
    }
  };
  const post = (process: Process, delayMs: number, run: () => void) => {
    world.schedule(Math.max(0, delayMs), () => {
      if (!process.isAlive) return;
      if (process.pausedUntilMs > world.nowMs) {
        post(process, process.pausedUntilMs - world.nowMs, run);
      } else {
        enter(process, run);
      }
    });
  };
  const wallMs = (process: Process) =>
    Math.floor(EPOCH_MS + world.nowMs * process.clock.rate + process.clock.offsetMs);
  const monotonicMs = (process: Process) => world.nowMs * process.clock.rate;

  const start = (delayMs: number | undefined, run: () => void): VirtualTimer => {
    assert(current, "Timers belong to a process");
    const timer: VirtualTimer = { isOver: false };
    const { rate } = current.clock;
    post(current, Math.max(delayMs ?? 0, 1) / rate, () => {
      if (!timer.isOver) run();
    });
    return timer;
  };
  const once = (run: () => void, delayMs?: number): VirtualTimer => {
    const timer = start(delayMs, () => {
      timer.isOver = true;
      run();
    });
    return timer;
  };
  const repeat = (run: () => void, periodMs?: number): VirtualTimer => {
    const timer: VirtualTimer = { isOver: false };
    const next = () => {
      start(periodMs, () => {
        if (timer.isOver) return;
        next();
        run();
      });
    };
    next();
    return timer;
  };
  const clear = (timer: VirtualTimer | undefined | null) => {
    if (timer) timer.isOver = true;
  };

  const real = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
    setInterval: globalThis.setInterval,
    clearInterval: globalThis.clearInterval,
    setImmediate: globalThis.setImmediate,
    dateNow: Date.now,
    performanceNow: performance.now,
    sleep: Bun.sleep,
    random: Math.random,
  };
  // The types of the globals are richer than what our code uses of them.
  Object.assign(globalThis, {
    setTimeout: once,
    clearTimeout: clear,
    setInterval: repeat,
    clearInterval: clear,
    setImmediate: (run: () => void) => once(run, 0),
  });
  Date.now = () => (current ? wallMs(current) : EPOCH_MS + world.nowMs);
  performance.now = () => (current ? monotonicMs(current) : world.nowMs);
  Math.random = () => {
    throw new Error("Cannot use Math.random in a simulation: pass a Random in");
  };
  Object.assign(Bun, {
    sleep: (delayMs: number) => new Promise<void>((resolve) => void once(resolve, delayMs)),
  });

  return {
    world,
    enter,
    post,
    wallMs,
    monotonicMs,
    uninstall: () => {
      Object.assign(globalThis, {
        setTimeout: real.setTimeout,
        clearTimeout: real.clearTimeout,
        setInterval: real.setInterval,
        clearInterval: real.clearInterval,
        setImmediate: real.setImmediate,
      });
      Date.now = real.dateNow;
      performance.now = real.performanceNow;
      Math.random = real.random;
      Object.assign(Bun, { sleep: real.sleep });
    },
  };
}
