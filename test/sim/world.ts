/** Virtual time: one queue of (timeMs, order of arrival), and nothing else moves the clock. */

export type World = {
  nowMs: number;
  /** Runs `run` after `delayMs`, behind everything scheduled for that moment before. */
  schedule(delayMs: number, run: () => void): void;
  /** Runs the next event; false when there is none. */
  runNext(): boolean;
  readonly eventCount: number;
};

type Event = { timeMs: number; sequence: number; run: () => void };

export function createWorld(): World {
  const heap: Event[] = [];
  let sequence = 0;
  let eventCount = 0;
  const world = {
    nowMs: 0,
    get eventCount() {
      return eventCount;
    },
    schedule: (delayMs: number, run: () => void) => {
      push(heap, { timeMs: world.nowMs + delayMs, sequence: sequence++, run });
    },
    runNext: () => {
      const event = pop(heap);
      if (!event) return false;
      world.nowMs = event.timeMs;
      eventCount++;
      event.run();
      return true;
    },
  };
  return world;
}

function isBefore(a: Event, b: Event): boolean {
  return a.timeMs < b.timeMs || (a.timeMs === b.timeMs && a.sequence < b.sequence);
}

function push(heap: Event[], event: Event): void {
  let at = heap.length;
  heap.push(event);
  while (at > 0) {
    const parentAt = (at - 1) >> 1;
    const parent = heap[parentAt];
    if (!parent || isBefore(parent, event)) break;
    heap[at] = parent;
    at = parentAt;
  }
  heap[at] = event;
}

function pop(heap: Event[]): Event | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (!top || !last || heap.length === 0) return top;
  let at = 0;
  for (;;) {
    const leftAt = 2 * at + 1;
    const left = heap[leftAt];
    if (!left) break;
    const right = heap[leftAt + 1];
    const isRight = right !== undefined && isBefore(right, left);
    const child = isRight ? right : left;
    if (isBefore(last, child)) break;
    heap[at] = child;
    at = isRight ? leftAt + 1 : leftAt;
  }
  heap[at] = last;
  return top;
}
