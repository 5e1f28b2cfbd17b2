/**
 * The mesh of one node: keeps the table, and keeps the kernel and the DNS server as the table says.
 *
 * Owns: the debounce of changes, the order of rounds (one at a time, in one queue), the periodic
 * check, the file with the last table.
 * Invariants: the kernel is only changed by a round; a round works from the newest table; what is
 * not known to be applied (`applied` undefined) is compared with the kernel itself; a table without
 * this node's own entry changes nothing; nothing is removed from the kernel at the end.
 * Not here: what the kernel should hold (`plan.ts`), how it is told (`routing.ts`, the back-end).
 */
import type { AssignmentItem } from "../../core/dispatcher/assignment.ts";
import { nameTable } from "../dns/answer.ts";
import { type DnsServer, startDnsServer } from "../dns/server.ts";
import { BACKEND_NAMES, type BackendName, commandRunner, type MeshBackend } from "./backend.ts";
import { type Counts, wantedRouting } from "./diff.ts";
import { startLinkMonitor } from "./link-monitor.ts";
import { bridgeName, MESH_DEVICE } from "./names.ts";
import type { Interface } from "./observe.ts";
import { createPlanMemory, type MeshPlan, planMesh } from "./plan.ts";
import { chooseBackend, makeBackend, probeHost } from "./probe.ts";
import type { MeshOutput } from "./protocol.ts";
import { kernelRouting } from "./routing.ts";
import { applyAssignments, emptyTable, loadTable, removeTable, saveTable } from "./table.ts";

/** A change waits this long for others; it never waits longer than the second figure. */
const DEBOUNCE_MS = 40;
const DEBOUNCE_MS_MAX = 200;
/** Drift is looked for this often; also the pause before a failed round is tried again. */
const CHECK_PERIOD_MS = 5_000;
/** A new port waits this long for others of the same start. */
const PORT_DELAY_MS = 15;
/** From a bridge's link event to the check of what the engine did around it. */
const RECHECK_DELAY_MS = 400;
const SAVE_DELAY_MS = 1_000;
/** Addresses whose flows are still to be forgotten; more are left to their time-outs. */
const FORGET_MAX = 4_096;
const UNDERLAY_MTU_DEFAULT = 1_500;

export type MeshOptions = {
  /** Directory of the last known table. */
  dir: string;
  notify(output: MeshOutput): void;
  /** @default auto: nftables where the kernel has it, else iptables */
  backend?: "auto" | BackendName;
  /** Goes before every command: runs the mesh of another network namespace, in tests. */
  commandPrefix?: string[];
  /** The same namespace, for what is done without a command. */
  namespacePath?: string;
  balance?: "random" | "increment";
  /** False where DNS is served by somebody else, as in tests of several nodes in one process. */
  hasDns?: boolean;
  checkPeriodMs?: number;
};

export type MeshStatus = { backend: string; repairs: Record<string, number>; lastError?: string };

export type Mesh = {
  /** With a mark: `applied` is notified once the kernel and DNS are as the table says after it. */
  assignments(change: {
    isComplete: boolean;
    put: AssignmentItem[];
    removed: string[];
    mark?: number;
  }): void;
  networksPresent(networkIds: string[]): void;
  status(): MeshStatus;
  /** Resolves when no change waits and no round runs. */
  settled(): Promise<void>;
  /** Compares the kernel with the plan now. */
  check(): Promise<void>;
  /**
   * Another back-end takes over: its rules stand before the old one's go.
   * @throws {ClusterError} unavailable, and nothing changed, when the kernel cannot carry it.
   */
  switchBackend(name: "auto" | BackendName): Promise<void>;
  wipe(): Promise<void>;
  stop(): Promise<void>;
};

/**
 * Starts with the table on disk, if there is one.
 * @throws {ClusterError} unavailable when the host lacks what the mesh needs.
 */
export async function startMesh(options: MeshOptions): Promise<Mesh> {
  const prefix = options.commandPrefix ?? [];
  const run = commandRunner(prefix);
  const features = await probeHost(run);
  const backends = new Map<BackendName, MeshBackend>();
  const make = (name: BackendName) => {
    const known = backends.get(name) ?? makeBackend(name, run, options.namespacePath);
    backends.set(name, known);
    return known;
  };
  let backend = await chooseBackend(options.backend ?? "auto", make, features);
  const routing = kernelRouting(run);
  const table = await loadTable(options.dir);
  const dns: DnsServer | undefined =
    (options.hasDns ?? true) ? startDnsServer({ port: 53 }) : undefined;

  const memory = createPlanMemory();
  let reportedIds: string[] = [];
  let applied: MeshPlan | undefined;
  let knownLegs: string[] = [];
  let settledDevices = "";
  let isFirewallDone = false;
  /** What another back-end left, in an earlier run or before a switch, is still to be removed. */
  let hasOthers = true;
  let lastError: string | undefined;
  let isStopped = false;
  const repairs: Record<string, number> = {};

  // --- rounds, one at a time
  let tail = Promise.resolve();
  const queued = new Set<string>();
  /** Runs `round` after the rounds before it; a second one of the same name while it waits is dropped. */
  const enqueue = (name: string, round: () => Promise<void>) => {
    if (queued.has(name)) return tail;
    queued.add(name);
    tail = tail.then(async () => {
      queued.delete(name);
      try {
        await round();
      } catch (error) {
        fail(error);
      }
    });
    return tail;
  };
  const fail = (error: unknown) => {
    const message = error instanceof Error ? error.message : String(error);
    if (message !== lastError) options.notify({ type: "apply-failed", message });
    lastError = message;
  };

  // --- debounce
  let debounceTimer: Timer | undefined;
  let firstChangeMs: number | undefined;
  const schedule = () => {
    if (isStopped) return;
    const nowMs = performance.now();
    firstChangeMs ??= nowMs;
    const leftMs = firstChangeMs + DEBOUNCE_MS_MAX - nowMs;
    clearTimeout(debounceTimer);
    debounceTimer = setTimeout(
      () => {
        debounceTimer = undefined;
        firstChangeMs = undefined;
        void enqueue("apply", applyRound);
      },
      Math.max(0, Math.min(DEBOUNCE_MS, leftMs)),
    );
  };

  // --- the file
  let saveTimer: Timer | undefined;
  const save = async () => {
    clearTimeout(saveTimer);
    saveTimer = undefined;
    try {
      await saveTable(options.dir, table);
    } catch (error) {
      fail(error);
    }
  };
  const saveSoon = () => {
    saveTimer ??= setTimeout(() => {
      void save();
    }, SAVE_DELAY_MS);
  };

  // --- flows of vanished tasks
  const toForget = new Set<string>();
  let isForgetting = false;
  const forgetSoon = async () => {
    if (isForgetting) return;
    isForgetting = true;
    for (const address of toForget) {
      toForget.delete(address);
      await routing.forgetFlows([address]);
    }
    isForgetting = false;
  };
  const noteLegs = (plan: MeshPlan) => {
    const now = new Set(plan.legs);
    for (const leg of knownLegs) {
      const address = leg.split("@")[0];
      if (!now.has(leg) && address !== undefined && toForget.size < FORGET_MAX) {
        toForget.add(address);
      }
    }
    knownLegs = plan.legs;
    void forgetSoon();
  };

  const makePlan = (interfaces: Interface[]): MeshPlan | undefined => {
    const names = new Set(interfaces.map((device) => device.name));
    const present = new Set(reportedIds);
    // The kernel knows as well, and after a start it knows first.
    for (const network of table.networks.values()) {
      if (names.has(bridgeName(network.id))) present.add(network.id);
    }
    const nodeId = table.settings?.nodeId;
    const self = [...table.peers.values()].find((peer) => peer.nodeId === nodeId);
    const underlay = interfaces.find(
      (device) =>
        device.name !== MESH_DEVICE &&
        device.addresses.some(({ address }) => address === self?.dataPathAddr),
    );
    const planOptions = {
      underlayMtu: underlay?.mtu ?? UNDERLAY_MTU_DEFAULT,
      balance: options.balance ?? "random",
      hasBrNetfilter: features.hasBrNetfilter,
      hasLocalVirtualIps: backend.hasLocalVirtualIps,
      sysctls: backend.sysctls,
    };
    return planMesh(table, present, planOptions, memory);
  };
  /** After the own rules stand. */
  const wipeOthers = async () => {
    for (const name of BACKEND_NAMES) {
      if (name === backend.name) continue;
      const other = make(name);
      if (await other.isPresent()) await other.wipe();
    }
    hasOthers = false;
  };
  /** Bridges that exist: what depends on them is done again when one is made anew. */
  const deviceKey = (plan: MeshPlan, interfaces: Interface[]) => {
    const wanted = new Set(plan.sysctls.map((sysctl) => sysctl.device));
    return interfaces
      .filter((device) => wanted.has(device.name))
      .map((device) => `${device.name}=${device.index}`)
      .sort()
      .join(" ");
  };
  const updateDns = (interfaces: Interface[]) => {
    if (!dns) return;
    dns.setNames(nameTable(table));
    const names = new Set(interfaces.map((device) => device.name));
    dns.setAddresses(
      [...table.networks.values()].flatMap((network) =>
        network.gateway !== undefined && names.has(bridgeName(network.id)) ? [network.gateway] : [],
      ),
    );
  };

  /** The newest mark in the table, and the newest that was told to be applied. */
  const marks = { taken: 0, told: 0 };
  const tellApplied = (mark: number) => {
    if (mark <= marks.told) return;
    marks.told = mark;
    options.notify({ type: "applied", mark });
  };

  const applyRound = async () => {
    let interfaces = await routing.interfaces();
    const plan = makePlan(interfaces);
    const mark = marks.taken;
    try {
      if (!plan) {
        if (table.settings) fail(new Error("The assignments do not hold this node's own entry"));
        return;
      }
      const found = applied ? wantedRouting(applied) : await routing.observe();
      applied = undefined;
      await routing.apply(plan, found, () => backend.apply(plan.filter));
      if (!isFirewallDone) {
        await routing.mendFirewall(plan.filter.dataPathPort, backend.inputRules);
        isFirewallDone = true;
      }
      if (hasOthers) await wipeOthers();
      if (found.link === undefined) interfaces = await routing.interfaces();
      const devices = deviceKey(plan, interfaces);
      if (devices !== settledDevices) {
        await routing.mendSysctls(plan, interfaces);
        await routing.mendPorts();
        settledDevices = devices;
      }
      applied = plan;
      lastError = plan.conflicts.length > 0 ? `Left out: ${plan.conflicts.join("; ")}` : undefined;
    } finally {
      if (plan) noteLegs(plan);
      updateDns(interfaces);
    }
    if (applied) tellApplied(mark);
  };

  const checkRound = async () => {
    if (isStopped) return;
    const before = await routing.interfaces();
    const plan = makePlan(before);
    if (!plan) return;
    // Not applied yet, or the host itself has changed (bridges, MTU): that is no drift.
    if (!applied || !Bun.deepEquals(plan, applied)) {
      await applyRound();
      return;
    }
    const counts: Counts = {};
    const found = await routing.observe();
    // Until all of it has been done: a failure half way makes the next round start from the kernel.
    applied = undefined;
    const mended = await routing.apply(plan, found, async () => {
      Object.assign(counts, await backend.mend());
    });
    Object.assign(counts, mended);
    counts.iptables = await routing.mendFirewall(plan.filter.dataPathPort, backend.inputRules);
    const after = mended.link ? await routing.interfaces() : before;
    counts.sysctl = await routing.mendSysctls(plan, after);
    // A port whose event waits for its turn is new, not drifted.
    const isPortNew = portTimer !== undefined;
    const portCount = await routing.mendPorts();
    counts.hairpin = isPortNew ? 0 : portCount;
    settledDevices = deviceKey(plan, after);
    applied = plan;
    const what: string[] = [];
    for (const [kind, count] of Object.entries(counts)) {
      if (count === 0) continue;
      repairs[kind] = (repairs[kind] ?? 0) + count;
      what.push(`${kind}: ${count}`);
    }
    if (what.length > 0) options.notify({ type: "repaired", what });
    if (plan.conflicts.length === 0) lastError = undefined;
  };

  const checkTimer = setInterval(() => {
    void enqueue("check", checkRound);
  }, options.checkPeriodMs ?? CHECK_PERIOD_MS);
  let portTimer: Timer | undefined;
  let recheckTimer: Timer | undefined;
  const monitor = startLinkMonitor(prefix, (event) => {
    if (event.type === "device") {
      schedule();
      if (event.name === MESH_DEVICE) void enqueue("check", checkRound);
      // The engine puts rules of a new network before ours, a moment after the device.
      recheckTimer ??= setTimeout(() => {
        recheckTimer = undefined;
        void enqueue("check", checkRound);
      }, RECHECK_DELAY_MS);
      return;
    }
    portTimer ??= setTimeout(() => {
      portTimer = undefined;
      void enqueue("ports", async () => {
        if (applied) await routing.mendPorts();
      });
    }, PORT_DELAY_MS);
  });
  if (table.settings) schedule();

  const isBusy = () => debounceTimer !== undefined || queued.size > 0 || isForgetting;
  const endTimers = () => {
    clearTimeout(debounceTimer);
    debounceTimer = undefined;
    clearTimeout(saveTimer);
    saveTimer = undefined;
    clearTimeout(portTimer);
    clearTimeout(recheckTimer);
    clearInterval(checkTimer);
  };

  return {
    assignments: (change) => {
      marks.taken = change.mark ?? marks.taken;
      const hasChanged = applyAssignments(table, change);
      if (hasChanged) saveSoon();
      // Nothing to do and nothing under way: so it is already.
      if (!hasChanged && change.mark !== undefined && applied && !isBusy())
        tellApplied(change.mark);
      else if (hasChanged || change.mark !== undefined) schedule();
    },
    networksPresent: (networkIds) => {
      reportedIds = networkIds;
      schedule();
    },
    status: () => ({
      backend: backend.name,
      repairs: { ...repairs },
      ...(lastError === undefined ? {} : { lastError }),
    }),
    settled: async () => {
      await tail;
      while (isBusy()) {
        await Bun.sleep(5);
        await tail;
      }
    },
    check: async () => {
      await tail;
      await enqueue("check", checkRound);
    },
    switchBackend: async (name) => {
      let refusal: unknown;
      await tail;
      await enqueue("switch", async () => {
        try {
          const next = await chooseBackend(name, make, features);
          if (next.name === backend.name) return;
          backend = next;
        } catch (error) {
          refusal = error;
          return;
        }
        hasOthers = true;
        isFirewallDone = false;
        settledDevices = "";
        await applyRound();
      });
      if (refusal !== undefined) throw refusal;
    },
    wipe: () => {
      clearTimeout(debounceTimer);
      debounceTimer = undefined;
      return enqueue("wipe", async () => {
        const port = table.settings?.dataPathPort ?? 4_789;
        Object.assign(table, emptyTable());
        reportedIds = [];
        applied = undefined;
        knownLegs = [];
        settledDevices = "";
        isFirewallDone = false;
        updateDns([]);
        clearTimeout(saveTimer);
        saveTimer = undefined;
        await backend.wipe();
        await wipeOthers();
        await routing.wipe(port);
        await removeTable(options.dir);
      });
    },
    stop: async () => {
      isStopped = true;
      const hasUnsaved = saveTimer !== undefined;
      endTimers();
      monitor.stop();
      dns?.stop();
      await tail;
      if (hasUnsaved) await save();
    },
  };
}
