/**
 * New connections per service, as the kernel counts them: read when somebody asks, and made to grow
 * only. A counter of the kernel ends with its object (a table that is replaced, a chain that is
 * written anew, a service that has no task for a while); what it had counted up to the last reading
 * is kept here.
 *
 * Not kept: what was counted between the last reading and the end of the object, and what was
 * counted before the agent's start by a back-end that then began anew.
 */
import type { ConnectionCount } from "./backend.ts";
import type { FilterPlan } from "./plan.ts";

/** A reading serves all that ask within this time. */
const FRESH_MS = 1_000;
/** And so long that reading takes at most one part in this many of the time. */
const READING_SHARE = 20;
/** A face is forgotten after so many readings without it: a change under way hides some for a moment. */
const ABSENCES_MAX = 60;

export type ConnectionTotals = {
  /** Counts since the start, of the services that are planned. */
  read(): Promise<ConnectionCount[]>;
};

/** Totals over `readCounts`, which gives one count per planned face. */
export function connectionTotals(
  readCounts: () => Promise<ConnectionCount[]>,
  nowMs: () => number = () => performance.now(),
): ConnectionTotals {
  const known = new Map<string, { seen: number; before: number; absences: number }>();
  let last: { untilMs: number; totals: Promise<ConnectionCount[]> } | undefined;
  const readNow = async () => {
    const counts = await readCounts();
    const present = new Set<string>();
    const totals = counts.map((count) => {
      const key = `${count.serviceId} ${count.family} ${count.face}`;
      present.add(key);
      const entry = known.get(key) ?? { seen: 0, before: 0, absences: 0 };
      // Less than was seen: the kernel's object is another one.
      if (count.connections < entry.seen) entry.before += entry.seen;
      entry.seen = count.connections;
      entry.absences = 0;
      known.set(key, entry);
      return { ...count, connections: entry.before + entry.seen };
    });
    for (const [key, entry] of known) {
      if (present.has(key)) continue;
      entry.absences += 1;
      if (entry.absences >= ABSENCES_MAX) known.delete(key);
    }
    return totals;
  };
  return {
    read: () => {
      const startMs = nowMs();
      if (!last || startMs >= last.untilMs) {
        const reading = { untilMs: Number.POSITIVE_INFINITY, totals: readNow() };
        last = reading;
        reading.totals.then(
          () => {
            const endMs = nowMs();
            reading.untilMs = Math.max(
              startMs + FRESH_MS,
              endMs + (endMs - startMs) * READING_SHARE,
            );
          },
          () => {
            // What failed is not kept: who asks next tries anew.
            if (last === reading) last = undefined;
          },
        );
      }
      return last.totals;
    },
  };
}

/** A published port as a face of its service. */
export function portFace(port: { publishedPort: number; protocol: string }): string {
  return `${port.publishedPort}/${port.protocol}`;
}

/** One count per face of the plan: 0 where the kernel has none, since a service may have no task. */
export function countsOf(
  plan: FilterPlan,
  read: {
    byAddress: ReadonlyMap<string, number>;
    /** By `<published port>/<protocol>`. */
    byPort: ReadonlyMap<string, number>;
  },
): ConnectionCount[] {
  const { family } = plan;
  const count = (serviceId: string, face: string, connections: number | undefined) => ({
    serviceId,
    family,
    face,
    connections: connections ?? 0,
  });
  return [
    ...plan.virtualIps.map(({ serviceId, address }) =>
      count(serviceId, address, read.byAddress.get(address)),
    ),
    ...plan.ports.map((port) =>
      count(port.serviceId, portFace(port), read.byPort.get(portFace(port))),
    ),
  ];
}
