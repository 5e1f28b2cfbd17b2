/**
 * The log of a service or task, put together on the manager that was asked: one stream for each node
 * that has tasks of it.
 *
 * Without `follow`: everything so far, merged by time over all nodes; what could not be had is told
 * at the end. With it: lines as they come (the order of each task stays), tasks that begin later are
 * taken in wherever they run, a node that is away is named at once and asked again.
 *
 * Invariants:
 * 1. At most WINDOW_BYTES of each node, TOTAL_WINDOW_BYTES of all are here or on their way, however
 *    slow the reader is: what the reader has not taken is not granted.
 * 2. After close() nothing runs: no stream, timer or listener.
 * 3. A line is given once: a stream that was lost goes on after the last line of each task.
 */
import { ClusterError } from "../../core/errors.ts";
import { isTaskDead, type Task, taskName, taskStateAtLeast } from "../../core/objects/task.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { LogEnd, LogTask } from "../../net/rpc/methods.ts";
import { mergeByTime, type RecordSource } from "./merge.ts";
import { decodeRecords, type LogRecord, recordTime, sinceOfTime } from "./record.ts";
import type { LogLink } from "./relay.ts";
import type { LogItem, LogTaskRef } from "./render.ts";
import type { LogStream } from "./stream.ts";

export const WINDOW_BYTES = 128 * 1024;
export const TOTAL_WINDOW_BYTES = 8 * 1024 * 1024;
const WINDOW_BYTES_MIN = 8 * 1024;
/** A leader is normally there in less than half of it. */
const LINK_TIMEOUT_MS = 5_000;
const LINK_RETRY_MS = 200;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 5_000;
/** A stream that ended sooner was never there. */
const SHORT_MS = 1_000;
/** A node says at once that it has the request; one of an older build says nothing. */
const OPEN_TIMEOUT_MS = 10_000;
/** Tries to get back a node that was there, before it is called away (a session moves in 1-2 s). */
const QUIET_FAILURES_MAX = 3;
/** Tries for a node that the managers believe to be ready, without `follow`. */
const OPEN_TRIES_MAX = 4;
/** New tasks are looked for so long after a change. */
const REFRESH_MS = 200;

export type LogPorts = {
  /** @throws {ClusterError} unavailable, deadline without a leader; or that this node is no manager. */
  link(): Promise<LogLink>;
  /** What this manager has applied. @throws {ClusterError} unavailable when it is none any more. */
  readLocal<T>(read: (view: ClusterView) => T): T;
  /** Calls back when tasks or services may have changed. Gives the way to stop it. */
  onTasksChanged(handler: () => void): () => void;
};

export type LogWish = {
  /** Of a service, or of one task. */
  kind: "service" | "task";
  id: string;
  stdout: boolean;
  stderr: boolean;
  follow: boolean;
  details: boolean;
  /** Lines of each task. */
  tail?: number;
  since?: string;
};

export type LogCollection = {
  /** What came next, never empty; undefined at the end. */
  next(): Promise<LogItem[] | undefined>;
  close(): void;
};

type Line = LogRecord & { ref: LogTaskRef };
type WantedTask = { ref: LogTaskRef; wish: LogTask };

/**
 * What is asked of one node. `opening`: until there is a way to the leader; `waiting`: for the next
 * try; `idle`: nothing is asked now.
 */
type Part = {
  nodeId: string;
  state: "opening" | "open" | "waiting" | "idle";
  /** In the order in which the stream knows them. */
  tasks: WantedTask[];
  stream: LogStream | undefined;
  openedAtMs: number;
  /** Lines that came and were not taken, with the stream that is to be granted for them. */
  queue: { lines: Line[]; bytes: number; tasks: WantedTask[] }[];
  /** Lines have come of it. */
  hasLines: boolean;
  failures: number;
  isToldAway: boolean;
  /** For the node's first word, or for the next try. */
  timer: Timer | undefined;
};

/**
 * Begins to collect. The first connection to the leader is made before it resolves.
 * @throws {ClusterError} unavailable when there is no leader or it cannot be reached.
 */
export async function collectLogs(ports: LogPorts, wish: LogWish): Promise<LogCollection> {
  const parts = new Map<string, Part>();
  const known = new Set<string>();
  const lastTimes = new Map<string, string>();
  /** Tasks whose stream was opened again: records up to this time have come already. */
  const resumeAfter = new Map<string, string>();
  const reasons = new Set<string>();
  const beganAtMs = Date.now();
  let notices: LogItem[] = [];
  let isClosed = false;
  let wakers: (() => void)[] = [];
  let refreshTimer: Timer | undefined;
  let linking: Promise<LogLink> | undefined;
  let link: LogLink | undefined;

  const wakeAll = () => {
    const woken = wakers;
    wakers = [];
    for (const wake of woken) wake();
  };
  const changed = () => new Promise<void>((resolve) => void wakers.push(resolve));

  // ---- the way to the leader ----------------------------------------------------------------------

  const makeLink = async (): Promise<LogLink> => {
    try {
      const made = await ports.link();
      if (isClosed) made.close();
      link = made;
      return made;
    } finally {
      linking = undefined;
    }
  };
  const currentLink = (): Promise<LogLink> => {
    if (link && !link.isLost()) return Promise.resolve(link);
    linking ??= makeLink();
    return linking;
  };
  const firstLink = async () => {
    for (;;) {
      try {
        await currentLink();
        return;
      } catch (error) {
        const isLate = Date.now() - beganAtMs >= LINK_TIMEOUT_MS;
        if (!(error instanceof ClusterError) || isLate) throw error;
        await Bun.sleep(LINK_RETRY_MS);
      }
    }
  };

  // ---- nodes --------------------------------------------------------------------------------------

  const openPart = async (part: Part, tasks: WantedTask[]) => {
    part.state = "opening";
    part.tasks = tasks;
    part.openedAtMs = Date.now();
    let way: LogLink;
    try {
      way = await currentLink();
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      onEnd(part, { taskCount: 0, reason: error.message });
      return;
    }
    if (isClosed) return;
    const { stdout, stderr, follow, details } = wish;
    const share = Math.floor(TOTAL_WINDOW_BYTES / Math.max(1, parts.size));
    part.state = "open";
    part.stream = way.open(
      {
        nodeId: part.nodeId,
        // With those that were named while the way was made.
        tasks: tasks.map((task) => task.wish),
        stdout,
        stderr,
        follow,
        details,
        windowBytes: Math.max(WINDOW_BYTES_MIN, Math.min(WINDOW_BYTES, share)),
      },
      {
        data: (bytes) => {
          clearTimeout(part.timer);
          if (bytes.length === 0) return;
          part.hasLines = true;
          part.queue.push({ lines: readLines(bytes, tasks), bytes: bytes.length, tasks });
          wakeAll();
        },
        end: (end) => {
          part.stream = undefined;
          onEnd(part, end);
        },
      },
    );
    part.timer = setTimeout(() => {
      part.stream?.close();
      part.stream = undefined;
      const reason = `node ${part.nodeId} did not answer in ${OPEN_TIMEOUT_MS} ms`;
      onEnd(part, { taskCount: 0, reason });
    }, OPEN_TIMEOUT_MS);
  };

  const readLines = (bytes: Uint8Array, tasks: WantedTask[]): Line[] => {
    const lines: Line[] = [];
    // A node of ours sends whole records; of others nothing is taken.
    for (const record of decodeRecords(bytes) ?? []) {
      const ref = tasks[record.task]?.ref;
      if (!ref) continue;
      const time = recordTime(record);
      const after = resumeAfter.get(ref.taskId);
      if (after !== undefined && time !== "") {
        if (time <= after) continue;
        resumeAfter.delete(ref.taskId);
      }
      if (wish.follow && time > (lastTimes.get(ref.taskId) ?? "")) lastTimes.set(ref.taskId, time);
      lines.push({ ...record, ref });
    }
    return lines;
  };
  /** The oldest lines of a node; what is taken is granted again. */
  const takeLines = (part: Part): Line[] => {
    const taken = part.queue.shift();
    if (!taken) return [];
    if (taken.tasks === part.tasks) part.stream?.grant(taken.bytes);
    return taken.lines;
  };

  const onEnd = (part: Part, end: LogEnd) => {
    if (isClosed) return;
    clearTimeout(part.timer);
    part.state = "idle";
    if (wish.follow) onFollowEnd(part, end);
    else onReadEnd(part, end);
    wakeAll();
  };

  const onReadEnd = (part: Part, { taskCount, reason }: LogEnd) => {
    if (reason === undefined) return;
    part.failures += 1;
    const isUnbegun = taskCount === 0 && !part.hasLines;
    // Believed ready but without a session: it is on its way to a new leader.
    if (isUnbegun && part.failures < OPEN_TRIES_MAX && isReady(part.nodeId)) {
      retry(part, part.tasks, RETRY_MS_MIN);
    } else reasons.add(reason);
  };

  const onFollowEnd = (part: Part, { taskCount, reason }: LogEnd) => {
    const unserved = part.tasks.slice(taskCount);
    if (unserved.length === 0) {
      if (reason !== undefined) tell(part, reason);
      return;
    }
    if (reason === undefined) {
      // It ended while we named further tasks.
      retry(part, unserved, 0);
      return;
    }
    const livedMs = Date.now() - part.openedAtMs;
    if (livedMs > RETRY_MS_MAX) {
      part.failures = 0;
      part.isToldAway = false;
    }
    const isFirst = part.failures === 0 && livedMs < SHORT_MS;
    part.failures += 1;
    if (!part.isToldAway && (isFirst || part.failures > QUIET_FAILURES_MAX)) {
      part.isToldAway = true;
      tell(part, reason);
    }
    const delayMs = Math.min(RETRY_MS_MIN * 2 ** Math.min(part.failures - 1, 10), RETRY_MS_MAX);
    retry(part, unserved.map(resumed), delayMs);
  };

  const tell = (part: Part, reason: string) => {
    const ref = part.tasks[0]?.ref;
    notices.push({ type: "notice", reasons: [reason], isLast: false, ref });
  };

  const retry = (part: Part, tasks: WantedTask[], delayMs: number) => {
    part.state = "waiting";
    part.tasks = tasks;
    part.timer = setTimeout(() => {
      openPart(part, part.tasks).catch(crash);
    }, delayMs);
  };

  /** The task from its last line on. */
  const resumed = (task: WantedTask): WantedTask => {
    const { id, container, isTty, tail, since } = task.wish;
    const lastTime = lastTimes.get(id);
    if (lastTime !== undefined) {
      resumeAfter.set(id, lastTime);
      return { ref: task.ref, wish: { id, container, isTty, since: sinceOfTime(lastTime) } };
    }
    // Nothing of the past was wanted, but what came since we began is.
    if (tail === 0 && since === undefined) {
      return { ref: task.ref, wish: { id, container, isTty, since: String(beganAtMs / 1_000) } };
    }
    return task;
  };

  const isReady = (nodeId: string) =>
    readLocal((view) => view.node(nodeId)?.status.state === "ready") ?? false;

  // ---- tasks --------------------------------------------------------------------------------------

  /** Undefined when this node is no manager any more; the collection ends then. */
  const readLocal = <T>(read: (view: ClusterView) => T): T | undefined => {
    try {
      return ports.readLocal(read);
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      close();
      return undefined;
    }
  };

  const select = (view: ClusterView): readonly Task[] => {
    if (wish.kind === "service") return view.tasksByService(wish.id);
    const task = view.task(wish.id);
    return task ? [task] : [];
  };

  /** Takes in the tasks that have begun since the last time. */
  const takeTasks = (isFirstTime: boolean) => {
    const tasks = readLocal(select) ?? [];
    const fresh = new Map<string, WantedTask[]>();
    for (const task of tasks) {
      if (known.has(task.id)) continue;
      if (task.nodeId === undefined) {
        const isWaiting = !isTaskDead(task.status.state) && task.desiredState === "running";
        if (!wish.follow && isWaiting) reasons.add(`task ${task.id} has not been scheduled`);
        continue;
      }
      // Before that there is no container to ask for.
      if (!taskStateAtLeast(task.status.state, "starting")) continue;
      known.add(task.id);
      const wanted = fresh.get(task.nodeId) ?? [];
      wanted.push(wantedTask(task, task.nodeId, isFirstTime ? wish : {}));
      fresh.set(task.nodeId, wanted);
    }
    for (const nodeId of fresh.keys()) if (!parts.has(nodeId)) parts.set(nodeId, newPart(nodeId));
    for (const [nodeId, wanted] of fresh) {
      const part = parts.get(nodeId);
      if (part) addTasks(part, wanted);
    }
    const ids = new Set(tasks.map((task) => task.id));
    for (const id of known) {
      if (ids.has(id)) continue;
      known.delete(id);
      lastTimes.delete(id);
      resumeAfter.delete(id);
    }
  };

  const addTasks = (part: Part, wanted: WantedTask[]) => {
    if (part.state === "idle") {
      openPart(part, wanted).catch(crash);
      return;
    }
    part.tasks.push(...wanted);
    part.stream?.more(wanted.map((task) => task.wish));
  };

  const refresh = () => {
    refreshTimer ??= setTimeout(() => {
      refreshTimer = undefined;
      takeTasks(false);
      wakeAll();
    }, REFRESH_MS);
  };

  const isQuiet = () => [...parts.values()].every((part) => part.state === "idle");
  /** With `follow`: nothing can come any more. */
  const isOver = () =>
    isQuiet() &&
    (readLocal((view) => {
      if (wish.kind === "service") {
        return view.service(wish.id) === undefined && view.tasksByService(wish.id).length === 0;
      }
      const task = view.task(wish.id);
      return !task || (isTaskDead(task.status.state) && known.has(wish.id));
    }) ??
      true);

  // ---- what comes out -----------------------------------------------------------------------------

  const partSource = (part: Part): RecordSource<Line> => ({
    next: async () => {
      for (;;) {
        const lines = takeLines(part);
        if (lines.length > 0) return lines;
        if (part.queue.length > 0) continue;
        if (part.state === "idle" || isClosed) return undefined;
        await changed();
      }
    },
  });
  const readMerged = async function* (): AsyncGenerator<LogItem[]> {
    for await (const lines of mergeByTime([...parts.values()].map(partSource))) {
      yield lines.map(toItem);
    }
    if (reasons.size > 0 && !isClosed) {
      yield [{ type: "notice", reasons: [...reasons], isLast: true, ref: undefined }];
    }
  };
  const readArrivals = async function* (): AsyncGenerator<LogItem[]> {
    while (!isClosed) {
      const told = notices;
      notices = [];
      if (told.length > 0) yield told;
      let hasAny = told.length > 0;
      for (const part of parts.values()) {
        const lines = takeLines(part);
        if (lines.length === 0) continue;
        hasAny = true;
        yield lines.map(toItem);
      }
      if (hasAny || [...parts.values()].some((part) => part.queue.length > 0)) continue;
      if (isOver()) return;
      await changed();
    }
  };

  function close() {
    if (isClosed) return;
    isClosed = true;
    stopWatching();
    clearTimeout(refreshTimer);
    for (const part of parts.values()) {
      clearTimeout(part.timer);
      part.stream?.close();
      part.stream = undefined;
      part.queue = [];
    }
    link?.close();
    wakeAll();
  }

  await firstLink();
  const stopWatching = wish.follow ? ports.onTasksChanged(refresh) : () => undefined;
  takeTasks(true);
  const items = wish.follow ? readArrivals() : readMerged();
  return {
    next: async () => {
      const result = await items.next();
      if (!result.done && !isClosed) return result.value;
      close();
      return undefined;
    },
    close,
  };
}

function newPart(nodeId: string): Part {
  return {
    nodeId,
    state: "idle",
    tasks: [],
    stream: undefined,
    openedAtMs: 0,
    queue: [],
    hasLines: false,
    failures: 0,
    isToldAway: false,
    timer: undefined,
  };
}

/** `part`: of the past; of a task that begins later, everything is new. */
function wantedTask(task: Task, nodeId: string, past: Pick<LogWish, "tail" | "since">): WantedTask {
  return {
    ref: { taskId: task.id, serviceId: task.serviceId, nodeId },
    wish: {
      id: task.id,
      container: taskName(task),
      isTty: task.spec.ContainerSpec.TTY === true,
      ...(past.tail === undefined ? {} : { tail: past.tail }),
      ...(past.since === undefined ? {} : { since: past.since }),
    },
  };
}

function toItem({ ref, ...record }: Line): LogItem {
  return { type: "line", record, ref };
}

/** Throws in a turn of its own, so that the process ends as it does for every bug. */
function crash(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
