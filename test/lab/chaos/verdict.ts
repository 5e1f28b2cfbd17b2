/**
 * Requests × faults → what was wrong. Pure.
 *
 * A fault has a window: from its beginning until the bounded time after which requests have to succeed
 * again, and a reach: the hosts by which a request may have entered, the services whose tasks it hit. A
 * failed request is excused when it overlaps with such a window and is in reach; a wrong answer never is.
 * Two at once reach further: a host whose agent is away does not hear of what happens to services.
 */
import type { RequestRecord, Stream } from "./record.ts";

export type Window = {
  fault: string;
  fromMs: number;
  /** Infinity while the fault lasts. */
  toMs: number;
  /** Requests that enter the mesh at these hosts, askers in their containers included. */
  hosts: string[];
  /** Requests to these services, from anywhere. */
  services: string[];
  /** Names looked up by containers on these hosts. */
  lookupHosts: string[];
  /** What people do. It excuses nothing alone, but what it changes while a host is in trouble may fail. */
  isChange?: boolean;
};

/** A service that had the port, or address, of a stream for some time. */
export type Ownership = { identity: string; fromMs: number; toMs: number };

export type Verdict = {
  requestCount: number;
  okCount: number;
  /** By the name of the fault in whose window they were. */
  excused: Record<string, number>;
  lookupsExcused: number;
  lookupCount: number;
  /** Longest time without a good answer on one stream, by the fault in whose window it began. */
  outageMs: Record<string, number>;
  slowestOkMs: number;
  /** Answered by a service that was not asked, or with a client's address that is not the client's. */
  wrong: string[];
  /** Failed outside of every window. */
  unexcused: RequestRecord[];
};

/** A new owner's port may be known to a node this much later, and an old one's this much longer. */
const OWNERSHIP_SLACK_MS = 2_000;
const SHOWN_MAX = 50;
/** An election, and new sessions of all nodes. */
const NEW_LEADER_MS = 6_000;

export function judge(options: {
  records: RequestRecord[];
  streams: ReadonlyMap<string, Stream>;
  windows: Window[];
  /** For streams whose service comes and goes under other names. */
  owners: ReadonlyMap<string, Ownership[]>;
  clientAddress: string;
}): Verdict {
  const { streams, windows, owners } = options;
  const verdict: Verdict = {
    requestCount: 0,
    okCount: 0,
    excused: {},
    lookupsExcused: 0,
    lookupCount: 0,
    outageMs: {},
    slowestOkMs: 0,
    wrong: [],
    unexcused: [],
  };
  const wrong = (record: RequestRecord, why: string) => {
    if (verdict.wrong.length < SHOWN_MAX) verdict.wrong.push(`${describeRecord(record)}: ${why}`);
  };
  const failing = new Map<string, { sinceMs: number; faults: string[] }>();
  for (const record of options.records.toSorted((a, b) => a.startMs - b.startMs)) {
    const stream = streams.get(record.streamId);
    if (!stream) throw new Error(`No stream ${record.streamId}`);
    const key = `${record.place} ${record.streamId}`;
    const faults = excusesOf(windows, record, stream);
    if (record.kind === "lookup") {
      verdict.lookupCount += 1;
      if (faults.length > 0) verdict.lookupsExcused += 1;
      else verdict.unexcused.push(record);
      continue;
    }
    verdict.requestCount += 1;
    if (record.kind === "fail") {
      // Which of several it was cannot be known: it counts for the one that began last.
      const last = newest(faults);
      if (last) verdict.excused[last.fault] = (verdict.excused[last.fault] ?? 0) + 1;
      else verdict.unexcused.push(record);
      const begun = failing.get(key) ?? { sinceMs: record.startMs, faults: [] };
      begun.faults.push(last?.fault ?? "none");
      failing.set(key, begun);
      continue;
    }
    verdict.okCount += 1;
    verdict.slowestOkMs = Math.max(verdict.slowestOkMs, record.endMs - record.startMs);
    const outage = failing.get(key);
    if (outage) {
      failing.delete(key);
      const fault = outage.faults[0] ?? "none";
      const lastedMs = record.endMs - outage.sinceMs;
      verdict.outageMs[fault] = Math.max(verdict.outageMs[fault] ?? 0, lastedMs);
    }
    const [identity = "", seenAddress = ""] = record.text.split(" ");
    const service = identity.split("/")[0] ?? "";
    const owned = owners.get(stream.service);
    if (!owned) {
      if (service !== stream.service) wrong(record, `answered by ${service}`);
    } else if (!isOwned(owned, service, record, windows)) {
      wrong(record, `answered by ${service}, which was not there`);
    }
    if (record.place === "client" && seenAddress !== options.clientAddress) {
      wrong(record, `the task saw ${seenAddress}`);
    }
  }
  return verdict;
}

/**
 * What an old task answers on a connection that was opened in its time is right. A node that hears no
 * manager does not know yet: while a host is in trouble, or has been a moment ago, ends come later.
 */
function isOwned(
  owned: Ownership[],
  service: string,
  record: RequestRecord,
  windows: Window[],
): boolean {
  const isInTrouble = windows.some(
    ({ hosts, fromMs, toMs }) =>
      hosts.length > 0 && record.openMs >= fromMs && record.openMs <= toMs,
  );
  return owned.some(
    ({ identity, fromMs, toMs }) =>
      identity === service &&
      record.endMs >= fromMs &&
      (isInTrouble || record.openMs <= toMs + OWNERSHIP_SLACK_MS),
  );
}

/** The windows that excuse this record. */
function excusesOf(windows: Window[], record: RequestRecord, stream: Stream): Window[] {
  const { startMs, endMs } = record;
  const overlaps = (window: Window) => endMs >= window.fromMs && startMs <= window.toMs;
  if (record.kind === "lookup") {
    return windows.filter(
      (window) => overlaps(window) && window.lookupHosts.includes(record.place),
    );
  }
  const entry = stream.via ?? record.place;
  const isAt = (host: string) => host === entry || host === record.place;
  const isMine = (window: Window) => window.services.includes(stream.service);
  const now = windows.filter(overlaps);
  const found = now.filter(
    (window) => !window.isChange && (window.hosts.some(isAt) || isMine(window)),
  );
  // A node whose agent or engine is away learns of what happened meanwhile when it is back.
  const troubles = now.filter((window) => window.lookupHosts.length > 0);
  if (now.some((window) => window.isChange && isMine(window))) found.push(...troubles);
  for (const trouble of troubles) {
    const isHit = windows.some(
      (window) =>
        window !== trouble &&
        isMine(window) &&
        window.toMs >= trouble.fromMs &&
        window.fromMs <= endMs,
    );
    // It may have been the leader: until there is another one, nobody hears of anything.
    const isDeaf = trouble.lookupHosts.some(isAt) || endMs <= trouble.fromMs + NEW_LEADER_MS;
    if (isHit && isDeaf) found.push(trouble);
  }
  return found;
}

function newest(windows: Window[]): Window | undefined {
  return windows.toSorted((a, b) => b.fromMs - a.fromMs)[0];
}

/** For people, with the time of day. */
export function describeRecord(record: RequestRecord): string {
  const at = new Date(record.startMs).toISOString().slice(11, 23);
  const tookMs = record.endMs - record.startMs;
  return `${at} +${tookMs} ms ${record.place} ${record.streamId} ${record.kind} ${record.text}`;
}
