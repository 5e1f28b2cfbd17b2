/**
 * The loop that makes this node have what is assigned to it: observe → plan → execute, again and again.
 * Everything is decided in plan.ts from what was observed; an event, an answer or an assignment only
 * wakes the loop up. Owns the node's task records (what was reported) and the attempts.
 *
 * Invariants:
 * R1. One pass at a time; at most one engine step a task, and none is planned for it before an
 *     observation that began after that step's end.
 * R2. A status is in the journal before it is reported.
 * R3. While the engine is away nothing is planned: statuses stay as they are.
 * R4. Without the node's settings (cluster id) nothing is touched; without a complete set ever seen,
 *     nothing is removed.
 * R5. What ended while this agent was away is not told before a manager is heard. When none is for ALONE_MS, it goes
 *     on: a site that has lost power and its way to the managers has its services back.
 */
import { assert } from "../../core/assert.ts";
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { NodeDescription } from "../../core/objects/node.ts";
import { taskName, TASK_STATE_ORDER, type TaskStatus } from "../../core/objects/task.ts";
import { nodeDescription } from "./description.ts";
import { isEngineAway } from "./docker.ts";
import { executeStep, type ExecutePorts, type StepOutcome, type Wanted } from "./execute.ts";
import type { Journal } from "./journal.ts";
import { dockerNetworkName } from "./networks.ts";
import type { Observed } from "./observed.ts";
import { createObserver } from "./observe.ts";
import { planNetworks, planTasks } from "./plan.ts";
import {
  type EnginePlugin,
  hasNoPlugins,
  ownPlugins,
  pluginContainers,
  pluginName,
  takenOverPlugins,
} from "./plugins.ts";
import type { ReconcilerOutput } from "./protocol.ts";
import type { Attempt, EngineStep, TaskRecord, TaskStep } from "./task-step.ts";

export type ReconcilerPorts = ExecutePorts & {
  journal: Journal;
  nowMs(): UnixMs;
  output(output: ReconcilerOutput): void;
};

export type Reconciler = {
  assignments(change: { isComplete: boolean; put: AssignmentItem[]; removed: string[] }): void;
  /** @throws {ClusterError} unavailable when the engine cannot be asked. */
  describe(): Promise<NodeDescription>;
  reportAll(): void;
  /** @throws {ClusterError} deadline when something could not be removed; it is remembered then. */
  wipe(): Promise<void>;
  stop(): Promise<void>;
};

/** Engine steps under way at once, by kind: slow pulls must not hold up stops. */
const STEPS_MAX = { prepare: 8, start: 8, stop: 16, remove: 8 };
const RESYNC_PERIOD_MS = 10_000;
/** Wakings within this time become one pass. */
const WAKE_DELAY_MS = 5;
/** Between two reports; the first one after a pause leaves at once, with what its pass has found. */
const STATUS_PERIOD_MS = 50;
/**
 * Before it is told that a task on an overlay network runs: without a healthcheck that means that it is
 * balanced, and programs need a moment until they listen. As long as the drain before a stop.
 */
const SETTLE_MS = 300;
const STATUS_BATCH_MAX = 500;
const ENGINE_RETRY_MS = 200;
const ENGINE_RETRY_MS_MAX = 5_000;
/** Doubled at each try: the engine lets go of a container's legs a moment after its end. */
const NETWORK_RETRY_MS = 250;
const NETWORK_RETRY_MS_MAX = 5_000;
const WIPE_TIMEOUT_MS = 60_000;
/** After so long without a manager this node is on its own. */
const ALONE_MS = 30_000;
/** Reports of one task in one pass: from assigned to rejected or complete there are eight states. */
const REPORT_ROUNDS_MAX = 10;

/** Starts from the journal at once, before any manager or even the engine is reached. */
export function startReconciler(ports: ReconcilerPorts): Reconciler {
  const { docker, journal } = ports;
  const observer = createObserver(
    docker,
    (taskId, containerId) => records.get(taskId)?.status.container?.id === containerId,
  );
  const items = new Map(journal.assignments().map((item) => [item.key, item]));
  let wanted = wantedOf(items);
  let attachedNetworkIds = attachedNetworks(items, wanted.settings?.nodeId);
  /** After each change of the items, which are many: all endpoints of the cluster are among them. */
  const readItems = () => {
    wanted = wantedOf(items);
    attachedNetworkIds = attachedNetworks(items, wanted.settings?.nodeId);
  };
  const records = journal.records();
  const aloneAtMs = ports.nowMs() + ALONE_MS;
  let isHeard = false;
  /** R5. Set at the first observation. */
  let restartsAtMs: Map<string, UnixMs> | undefined;
  const managerHeard = () => {
    if (isHeard) return;
    isHeard = true;
    restartsAtMs = undefined;
    wake();
  };
  const noteEnds = ({ containers }: Observed) => {
    if (isHeard) return;
    const all = [...containers.values()];
    const isEnd = ({ taskId, state }: (typeof all)[number]) =>
      state === "exited" && records.get(taskId)?.status.state === "running";
    restartsAtMs ??= new Map(all.filter(isEnd).map(({ taskId }) => [taskId, aloneAtMs]));
    // Once it goes on, its next end is its own.
    for (const { taskId, state } of all) if (state === "running") restartsAtMs.delete(taskId);
  };
  const attempts = new Map<string, Attempt>();
  const busy = new Map<string, { step: EngineStep; abort: AbortController }>();
  /** Steps that have ended, to be counted after the next observation. */
  let ended: { taskId: string; step: EngineStep; outcome: StepOutcome }[] = [];

  let platform: { architecture: string; os: string; engineVersion?: string } = {
    architecture: "",
    os: "",
  };
  let lastDescription: string | undefined;
  let isDescriptionDue = false;
  let events: { close(): void } | undefined;
  let engineRetryMs = ENGINE_RETRY_MS;
  let lastResyncMs = 0;
  let lastObserved: Observed = { containers: new Map(), networks: new Map() };

  let lastPlugins: EnginePlugin[] = [];

  let networksSent: string | undefined;
  let networkLastUsedMs = new Map<string, UnixMs>();
  const networksBusy = new Set<string>();
  /** Tries to make or drop it, without effect so far. */
  const networkTries = new Map<string, { count: number; atMs: UnixMs }>();

  let isStopped = false;
  let isPassing = false;
  let isDue = false;
  let currentPass = Promise.resolve();
  let timer: Timer | undefined;
  let onWiped: (() => void) | undefined;

  const pendingStatuses = new Map<string, { status: TaskStatus; dueMs: number }>();
  let statusTimer: Timer | undefined;
  let statusesSentAtMs = Number.NEGATIVE_INFINITY;

  // ---- statuses -------------------------------------------------------------------------------

  const queueStatus = (taskId: string, status: TaskStatus) => {
    // The latest only: states passed through within the period are of no use to the managers.
    const isSettling = status.state === "running" && isBalanced(taskId);
    const dueMs = performance.now() + (isSettling ? SETTLE_MS : 0);
    pendingStatuses.set(taskId, { status, dueMs });
    planStatuses();
  };
  const isBalanced = (taskId: string) => {
    const task = wanted.tasks.get(taskId);
    const hasCheck = lastObserved.containers.get(taskId)?.health !== undefined;
    return !hasCheck && task?.networks?.some(({ address }) => address !== undefined) === true;
  };
  const planStatuses = () => {
    clearTimeout(statusTimer);
    statusTimer = undefined;
    if (pendingStatuses.size === 0) return;
    let atMs = Number.POSITIVE_INFINITY;
    for (const { dueMs } of pendingStatuses.values()) atMs = Math.min(atMs, dueMs);
    atMs = Math.max(atMs, statusesSentAtMs + STATUS_PERIOD_MS);
    statusTimer = setTimeout(sendStatuses, Math.max(0, Math.ceil(atMs - performance.now())));
  };
  const sendStatuses = () => {
    statusesSentAtMs = performance.now();
    const statuses: { taskId: string; status: TaskStatus }[] = [];
    for (const [taskId, { status, dueMs }] of pendingStatuses) {
      if (dueMs > statusesSentAtMs) continue;
      pendingStatuses.delete(taskId);
      statuses.push({ taskId, status });
    }
    for (let i = 0; i < statuses.length; i += STATUS_BATCH_MAX) {
      ports.output({ type: "statuses", statuses: statuses.slice(i, i + STATUS_BATCH_MAX) });
    }
    planStatuses();
  };
  const report = (taskId: string, record: TaskRecord) => {
    records.set(taskId, record);
    journal.putRecord(taskId, record);
    queueStatus(taskId, record.status);
  };
  const forget = (taskId: string) => {
    ports.files.remove(taskId);
    records.delete(taskId);
    attempts.delete(taskId);
    pendingStatuses.delete(taskId);
    journal.deleteRecord(taskId);
  };

  // ---- the engine's coming and going ----------------------------------------------------------

  const noteDescription = (description: NodeDescription) => {
    const text = JSON.stringify(description);
    const isChanged = text !== lastDescription;
    lastDescription = text;
    return isChanged;
  };
  /** Tells the managers when the engine is another, or has other drivers by its plugins. */
  const describeAnew = async () => {
    isDescriptionDue = false;
    const info = await docker.info();
    platform = { architecture: info.architecture, os: info.os, engineVersion: info.version };
    const description = nodeDescription(info);
    if (noteDescription(description)) ports.output({ type: "description-changed", description });
  };
  const openEngine = async () => {
    // Events first: what happens between them and the observation is seen by one of the two.
    const opened = await docker.watchEvents({
      onEvent: ({ containerId, isGone, isPlugin }) => {
        if (isGone) ports.output({ type: "container-gone" });
        if (isPlugin) isDescriptionDue = true;
        else if (containerId) observer.markStale(containerId);
        else observer.markNetworksStale();
        wake();
      },
      onEnd: () => {
        events = undefined;
        wake();
      },
    });
    try {
      await describeAnew();
    } catch (error) {
      opened.close();
      throw error;
    }
    events = opened;
    engineRetryMs = ENGINE_RETRY_MS;
    observer.markAllStale();
    // A restarted engine may have made the bridges anew: the mesh is to look again.
    networksSent = undefined;
  };
  const closeEngine = () => {
    events?.close();
    events = undefined;
  };

  // ---- the loop -------------------------------------------------------------------------------

  const wake = () => {
    if (isStopped) return;
    if (isPassing) isDue = true;
    else scheduleIn(WAKE_DELAY_MS);
  };
  const scheduleIn = (delayMs: number) => {
    clearTimeout(timer);
    timer = setTimeout(startPass, delayMs);
  };
  const startPass = () => {
    isPassing = true;
    isDue = false;
    currentPass = runPass().catch(crash);
  };
  const runPass = async () => {
    let delayMs = RESYNC_PERIOD_MS;
    try {
      const wakeAtMs = await pass();
      if (wakeAtMs !== undefined) delayMs = Math.min(delayMs, wakeAtMs - ports.nowMs());
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      // R3: the engine is away, or answers what makes no sense; ask again, ever more slowly.
      closeEngine();
      delayMs = engineRetryMs;
      engineRetryMs = Math.min(engineRetryMs * 2, ENGINE_RETRY_MS_MAX);
      isDue = false;
    } finally {
      isPassing = false;
    }
    if (!isStopped) scheduleIn(isDue ? WAKE_DELAY_MS : Math.max(delayMs, WAKE_DELAY_MS));
  };

  /** What they wait for may be there now: they need not wait for their next try. */
  const hastenPreparations = () => {
    for (const attempt of attempts.values()) {
      if (attempt.step === "prepare" && !attempt.isFatal) attempt.count = 0;
    }
  };

  /** @throws {ClusterError} when the engine cannot be observed. */
  const pass = async (): Promise<UnixMs | undefined> => {
    const clusterId = wanted.settings?.clusterId;
    if (clusterId === undefined) return undefined; // R4
    abortUnwanted();
    const endedNow = ended;
    ended = [];
    let seen: Observed;
    try {
      if (!events) await openEngine();
      else if (isDescriptionDue) await describeAnew();
      const nowMs = ports.nowMs();
      if (nowMs - lastResyncMs >= RESYNC_PERIOD_MS || nowMs < lastResyncMs) {
        observer.markAllStale();
        lastResyncMs = nowMs;
      }
      for (const { step } of endedNow) {
        if ("containerId" in step) observer.markStale(step.containerId);
        else {
          // A preparation: it may have made the container, under the task's name, and networks.
          const task = wanted.tasks.get(step.taskId);
          const made = lastObserved.containers.get(step.taskId)?.id ?? (task && taskName(task));
          if (made) observer.markStale(made);
          observer.markNetworksStale();
        }
      }
      const endedIds = new Set(endedNow.map(({ taskId }) => taskId));
      seen = await observer.observe(clusterId, new Set(busy.keys()).difference(endedIds));
      const plugins = hasNoPlugins(wanted.tasks, records) ? undefined : ports.plugins;
      lastPlugins = plugins ? await plugins.list() : [];
    } catch (error) {
      ended = [...endedNow, ...ended];
      throw error;
    }
    if (isStopped) return undefined;
    for (const { taskId, step, outcome } of endedNow) {
      busy.delete(taskId); // R1
      noteAttempt(taskId, step, outcome);
    }
    for (const [taskId, record] of takenOverPlugins(lastPlugins, wanted.tasks, records)) {
      records.set(taskId, record);
      journal.putRecord(taskId, record);
    }
    const asContainers = pluginContainers(lastPlugins, wanted.tasks, records);
    if (asContainers.size > 0) {
      seen = { ...seen, containers: new Map([...seen.containers, ...asContainers]) };
    }
    for (const id of networkTries.keys()) {
      if (seen.networks.has(id) !== lastObserved.networks.has(id)) networkTries.delete(id);
    }
    const isGone = (id: string) => !seen.networks.has(id);
    // One may have been in the way of another's name or subnet.
    if ([...lastObserved.networks.keys()].some(isGone)) hastenPreparations();
    lastObserved = seen;
    return act(seen, clusterId);
  };

  const act = (seen: Observed, clusterId: string): UnixMs | undefined => {
    const nowMs = ports.nowMs();
    noteEnds(seen);
    // R4: without a set, a container whose task is not known may well be wanted.
    const containers = journal.hasCompleteSet()
      ? seen.containers
      : new Map([...seen.containers].filter(([taskId]) => wanted.tasks.has(taskId)));
    const input = {
      ...wanted,
      records,
      attempts,
      busyTaskIds: new Set(busy.keys()),
      observed: { containers, networks: seen.networks },
      dockerNetworkName,
      attachedNetworkIds,
      nowMs,
      ...(restartsAtMs ? { restartsAtMs } : {}),
    };
    let plan = planTasks(input);
    for (let round = 0; plan.steps.some(isRecordStep); round++) {
      assert(round < REPORT_ROUNDS_MAX, "A task reports a bounded number of states in one pass");
      for (const step of plan.steps) {
        if (step.type === "report") report(step.taskId, step.record);
        else if (step.type === "forget") forget(step.taskId);
      }
      plan = planTasks(input);
    }
    for (const step of plan.steps) {
      if (!isRecordStep(step)) dispatch(step);
    }
    const networkPlan = planNetworks({
      ...input,
      busyTaskIds: new Set(busy.keys()),
      lastUsedMs: onWiped
        ? new Map([...seen.networks.keys()].map((id) => [id, 0]))
        : networkLastUsedMs,
    });
    networkLastUsedMs = networkPlan.lastUsedMs;
    const wakes = [plan.wakeAtMs, networkPlan.wakeAtMs];
    for (const network of networkPlan.create) {
      wakes.push(changeNetwork(network.id, () => ports.networks.ensure(network, clusterId)));
    }
    for (const id of networkPlan.remove) {
      const dockerId = seen.networks.get(id)?.dockerId;
      if (dockerId) wakes.push(changeNetwork(id, () => ports.networks.remove(dockerId)));
    }
    reportNetworks(seen);
    if (seen.containers.size === 0 && seen.networks.size === 0 && records.size === 0) onWiped?.();
    const times = wakes.filter((ms) => ms !== undefined);
    return times.length > 0 ? Math.min(...times) : undefined;
  };

  // ---- engine steps ---------------------------------------------------------------------------

  const dispatch = (step: EngineStep) => {
    let runningCount = 0;
    for (const other of busy.values()) if (other.step.type === step.type) runningCount++;
    // Those left out are planned again when one of these has ended.
    if (runningCount >= STEPS_MAX[step.type]) return;
    const abort = new AbortController();
    const plugin = pluginOf(step);
    busy.set(step.taskId, { step, abort });
    executeStep(ports, {
      step,
      plugin,
      wanted,
      platform,
      container: lastObserved.containers.get(step.taskId),
      signal: abort.signal,
    }).then((outcome) => {
      ended.push({ taskId: step.taskId, step, outcome });
      wake();
    }, crash);
  };

  /** The plugin that the step is about; before one is installed it is written down as ours. */
  const pluginOf = (step: EngineStep): { name: string; isOwn: boolean } | undefined => {
    const record = records.get(step.taskId);
    const spec = wanted.tasks.get(step.taskId)?.spec.PluginSpec;
    const name = spec ? pluginName(spec) : record?.plugin;
    if (name === undefined) return undefined;
    const isOwn =
      ownPlugins(records).has(name) || !lastPlugins.some((plugin) => plugin.name === name);
    if (step.type === "prepare" && isOwn && record && record.plugin !== name) {
      records.set(step.taskId, { ...record, plugin: name });
      journal.putRecord(step.taskId, { ...record, plugin: name });
    }
    return { name, isOwn };
  };

  const noteAttempt = (taskId: string, step: EngineStep, outcome: StepOutcome) => {
    if (!wanted.tasks.has(taskId) && !lastObserved.containers.has(taskId)) {
      attempts.delete(taskId);
      return;
    }
    const last = attempts.get(taskId);
    const isSame = last?.step === step.type;
    const nowMs = ports.nowMs();
    // A step that was done is noted too: if the plan asks for the same again, it had no effect and is
    // not to be repeated without a pause.
    attempts.set(taskId, {
      step: step.type,
      message: outcome.type === "done" ? `The ${step.type} step had no effect` : outcome.message,
      isFatal: outcome.type === "failed" && outcome.isFatal,
      isEngineAway: outcome.type === "engine-away",
      count: isSame ? last.count + 1 : 1,
      firstAtMs: isSame && !last.isEngineAway ? last.firstAtMs : nowMs,
      atMs: nowMs,
    });
  };

  /** Ends the waiting of preparations whose task is to stop. */
  const abortUnwanted = () => {
    for (const [taskId, { step, abort }] of busy) {
      const desired = wanted.tasks.get(taskId)?.desiredState ?? "remove";
      if (step.type === "prepare" && (desired === "shutdown" || desired === "remove")) {
        abort.abort();
      }
    }
  };

  // ---- networks -------------------------------------------------------------------------------

  /** Gives the time to try again when it is too early now. */
  const changeNetwork = (id: string, change: () => Promise<void>): UnixMs | undefined => {
    if (networksBusy.has(id)) return undefined;
    const { count, atMs } = networkTries.get(id) ?? { count: 0, atMs: 0 };
    const waitMs = count === 0 ? 0 : NETWORK_RETRY_MS * 2 ** Math.min(count - 1, 10);
    const retryAtMs = atMs + Math.min(waitMs, NETWORK_RETRY_MS_MAX);
    if (retryAtMs > ports.nowMs()) return retryAtMs;
    networksBusy.add(id);
    change()
      .catch((error: unknown) => {
        if (!(error instanceof ClusterError)) throw error;
        // A task that needs it tells the reason; a user's container cannot.
        if (!isEngineAway(error)) {
          ports.output({ type: "network-failed", networkId: id, message: error.message });
        }
      })
      .then(() => {
        networksBusy.delete(id);
        observer.markNetworksStale();
        networkTries.set(id, { count: count + 1, atMs: ports.nowMs() });
        wake();
      })
      .catch(crash);
    return undefined;
  };
  const reportNetworks = (seen: Observed) => {
    const networkIds = [...seen.networks.keys()].sort();
    const text = networkIds.join();
    if (text === networksSent) return;
    networksSent = text;
    ports.output({ type: "networks-present", networkIds });
  };

  wake();

  return {
    assignments: (told) => {
      managerHeard();
      const put = told.put.map((item) => neverBack(items.get(item.key), item));
      const change = { ...told, put };
      journal.putAssignments(change);
      if (change.isComplete) items.clear();
      for (const key of change.removed) items.delete(key);
      for (const item of change.put) items.set(item.key, item);
      readItems();
      hastenPreparations();
      abortUnwanted();
      wake();
    },
    describe: async () => {
      const description = nodeDescription(await docker.info());
      noteDescription(description);
      return description;
    },
    reportAll: () => {
      managerHeard();
      for (const [taskId, record] of records) queueStatus(taskId, record.status);
    },
    wipe: async () => {
      const settings = [...items.values()].filter((item) => item.kind === "settings");
      if (settings.length > 0) {
        const wiped = new Promise<boolean>((resolve) => {
          const wipeTimer = setTimeout(() => resolve(false), WIPE_TIMEOUT_MS);
          onWiped = () => {
            clearTimeout(wipeTimer);
            resolve(true);
          };
        });
        const change = { isComplete: true, put: settings, removed: [] };
        journal.putAssignments(change);
        items.clear();
        for (const item of settings) items.set(item.key, item);
        readItems();
        networkTries.clear();
        wake();
        const isDone = await wiped;
        onWiped = undefined;
        if (!isDone) {
          throw new ClusterError(
            "deadline",
            `Cannot remove all task containers and networks in ${WIPE_TIMEOUT_MS / 1_000} s: ${lastObserved.containers.size} containers and ${lastObserved.networks.size} networks are left; see that the Docker Engine runs and that no other container uses these networks`,
          );
        }
      }
      items.clear();
      readItems();
      records.clear();
      attempts.clear();
      pendingStatuses.clear();
      journal.clear();
    },
    stop: async () => {
      isStopped = true;
      clearTimeout(timer);
      clearTimeout(statusTimer);
      closeEngine();
      await currentPass;
      closeEngine();
      journal.close();
    },
  };
}

function isRecordStep(step: TaskStep): step is Exclude<TaskStep, EngineStep> {
  return step.type === "report" || step.type === "forget";
}

/**
 * A task that was told to stop is being stopped. A new leader may hold it still, as one that serves
 * (core/dispatcher/withdrawal.ts): that is not obeyed.
 */
function neverBack(known: AssignmentItem | undefined, item: AssignmentItem): AssignmentItem {
  if (known?.kind !== "task" || item.kind !== "task") return item;
  const { desiredState } = known.body;
  const isBack = TASK_STATE_ORDER[item.body.desiredState] < TASK_STATE_ORDER[desiredState];
  return isBack ? { ...item, body: { ...item.body, desiredState } } : item;
}

function wantedOf(items: ReadonlyMap<string, AssignmentItem>): Wanted {
  const wanted: Wanted = {
    tasks: new Map(),
    networks: new Map(),
    secrets: new Map(),
    configs: new Map(),
  };
  for (const item of items.values()) {
    if (item.kind === "settings") wanted.settings = item.body;
    else if (item.kind === "task") wanted.tasks.set(item.body.id, item.body);
    else if (item.kind === "network") wanted.networks.set(item.body.id, item.body);
    else if (item.kind === "secret") wanted.secrets.set(item.body.id, item.body);
    else if (item.kind === "config") wanted.configs.set(item.body.id, item.body);
  }
  return wanted;
}

/** Networks on which users' containers here have an address (core/objects/attachment.ts). */
function attachedNetworks(
  items: ReadonlyMap<string, AssignmentItem>,
  nodeId: string | undefined,
): Set<string> {
  const ids = new Set<string>();
  for (const { kind, body } of items.values()) {
    if (kind !== "endpoint" || body.serviceId !== "" || body.nodeId !== nodeId) continue;
    if (body.localNetworkId !== undefined) ids.add(body.localNetworkId);
    for (const { networkId } of body.addresses) ids.add(networkId);
  }
  return ids;
}

/** A bug ends the thread, so that the agent is started anew by systemd. */
function crash(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}
