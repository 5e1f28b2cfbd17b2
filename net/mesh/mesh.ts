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
import type { NodeEncryption } from "../../core/objects/node.ts";
import type { NameService } from "../dns/link.ts";
import { changeTable } from "../dns/name-change.ts";
import type { NameChange, NameItem } from "../dns/name-table.ts";
import { announcementsOf, startAnnouncer } from "./announce.ts";
import {
  BACKEND_NAMES,
  type BackendName,
  commandRunner,
  type ConnectionCount,
  type MeshBackend,
} from "./backend.ts";
import { connectionTotals } from "./connections.ts";
import { addCounts, changedRouting, type Counts } from "./diff.ts";
import { addressDigits } from "./family.ts";
import {
  type Flow,
  flowSource,
  kernelFlows,
  strayFlowSources,
  type UntranslatedUdp,
} from "./flows.ts";
import { startLinkMonitor } from "./link-monitor.ts";
import { startEncryption } from "./encryption.ts";
import { encryptionInputRules } from "./firewall.ts";
import { bridgeName, isBridgeName, isMeshDevice, MESH_DEVICE } from "./names.ts";
import type { Interface } from "./observe.ts";
import { createPlanMemory, type Family, type FilterPlan, type MeshPlan, planMesh } from "./plan.ts";
import { differenceOf } from "./plan-lists.ts";
import { chooseBackend, makeBackend, probeHost } from "./probe.ts";
import type { MeshOutput } from "./protocol.ts";
import { kernelRouting } from "./routing.ts";
import { loadTable, removeTable, saveTable } from "./table.ts";

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
  /** Told of names and where to serve them. Absent: nobody answers names. */
  dns?: NameService;
  /** Told at the start and at each change: what the managers are to know of this node. */
  onEncryption?(encryption: NodeEncryption): void;
  checkPeriodMs?: number;
};

export type MeshStatus = {
  backend: string;
  repairs: Record<string, number>;
  lastError?: string;
  /** What is done in another way than it could be, since this kernel lacks something. */
  notes?: string[];
};
export type NamedConnectionCount = ConnectionCount & { serviceName: string };

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
  /**
   * Connections that this node has balanced since the start, read from the kernel at most once a second.
   * @throws {ClusterError} unavailable when the kernel cannot be read.
   */
  connections(): Promise<NamedConnectionCount[]>;
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
  const totals = connectionTotals(() => backend.readConnections());
  const routing = kernelRouting(run);
  const flows = kernelFlows(options.namespacePath);
  const table = await loadTable(options.dir);
  const { dns } = options;
  const encryption = await startEncryption(run, table, () => backend.name);

  const memory = createPlanMemory();
  let reportedIds: string[] = [];
  let applied: MeshPlan | undefined;
  let knownLegs: MeshPlan["legs"] = [];
  /** Addresses of this node's tasks that were balanced after the last round. */
  let ownReady: MeshPlan["ready"] = [];
  let settledDevices = "";
  let isFirewallDone = false;
  let hadIpv6 = false;
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
  let saving = Promise.resolve();
  /** One at a time: they write the same draft. */
  const save = () => {
    clearTimeout(saveTimer);
    saveTimer = undefined;
    saving = saving.then(async () => {
      try {
        // The DNS thread begins with the same file, and is told only of what changes from there.
        await dns?.settled();
        await saveTable(options.dir, table);
      } catch (error) {
        fail(error);
      }
    });
    return saving;
  };
  const saveSoon = () => {
    saveTimer ??= setTimeout(() => {
      // While one is being written the next one waits, and covers what comes meanwhile.
      void saving.then(() => (saveTimer === undefined ? undefined : save()));
    }, SAVE_DELAY_MS);
  };

  // --- flows of vanished tasks
  const toForget = new Map<string, "all" | "over">();
  let flowsProblem: string | undefined;
  /** Published ports behind which there are tasks again, or for the first time. */
  const reopened: UntranslatedUdp[] = [];
  let servedUdp: Record<Family, ReadonlySet<number>> = { ipv4: new Set(), ipv6: new Set() };
  let isForgetting = false;
  const forgetSoon = async () => {
    if (isForgetting) return;
    isForgetting = true;
    while (toForget.size + reopened.length > 0 && !isStopped) {
      const now = new Map(toForget);
      toForget.clear();
      const wanted = reopened.splice(0);
      try {
        const found = await flows.find(new Set(now.keys()));
        const isDue = (flow: Flow) => flow.isOver || now.get(flowSource(flow)) === "all";
        await flows.forget(found.filter(isDue));
        for (const ports of wanted) await flows.forget(await flows.findUntranslatedUdp(ports));
        flowsProblem = undefined;
      } catch (error) {
        // Clients of those tasks then wait until they give up.
        const message = error instanceof Error ? error.message : String(error);
        if (message !== flowsProblem) options.notify({ type: "apply-failed", message });
        flowsProblem = message;
      }
    }
    isForgetting = false;
  };
  /** Once, by the first set of the managers: the table on disk may be older than the kernel's state. */
  let sweep: "waits" | "due" | "done" = "waits";
  const sweepFlows = async (plan: MeshPlan) => {
    sweep = "done";
    try {
      const stray = strayFlowSources(plan, await flows.translatedSources());
      for (const address of stray.slice(0, FORGET_MAX)) toForget.set(address, "all");
    } catch (error) {
      fail(error);
    }
    void forgetSoon();
  };
  const announcer = startAnnouncer(options.namespacePath);
  const noteLegs = (plan: MeshPlan, interfaces: Interface[]) => {
    const [gone, come] = differenceOf(knownLegs, plan.legs);
    // Containers here may have known them as neighbours.
    announcer.announce(announcementsOf(plan, come, table.settings?.nodeId, interfaces));
    for (const leg of gone) {
      const address = leg.split("@")[0];
      if (address !== undefined && toForget.size < FORGET_MAX) toForget.set(address, "all");
    }
    knownLegs = plan.legs;
    void forgetSoon();
  };
  /**
   * Of own tasks that get no new connections any more, the ended ones: when such a container ends, the
   * engine deletes what it has listed of its flows as the tool does (flows.ts), and is to find few.
   */
  const noteReady = ({ ready }: MeshPlan) => {
    const [gone] = differenceOf(ownReady, ready);
    for (const address of gone) {
      if (!toForget.has(address) && toForget.size < FORGET_MAX) toForget.set(address, "over");
    }
    ownReady = ready;
    void forgetSoon();
  };

  const noteUdp = (plan: MeshPlan, interfaces: Interface[]) => {
    const served: Record<Family, Set<number>> = {
      ipv4: servedUdpOf(plan.filter),
      ipv6: plan.filter6 ? servedUdpOf(plan.filter6) : new Set<number>(),
    };
    for (const family of ["ipv4", "ipv6"] as const) {
      const ports = new Set([...served[family]].filter((port) => !servedUdp[family].has(port)));
      if (ports.size === 0) continue;
      const own = interfaces.flatMap(({ addresses, addresses6 = [] }) =>
        family === "ipv4" ? addresses : addresses6,
      );
      const addresses = new Set(own.map(({ address }) => addressDigits(family, address)));
      reopened.push({ family, addresses, ports });
    }
    servedUdp = served;
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
      canEncrypt: encryption.canEncrypt(),
      underlayMtu: underlay?.mtu ?? UNDERLAY_MTU_DEFAULT,
      balance: options.balance ?? "random",
      hasBrNetfilter: features.hasBrNetfilter,
      hasLocalVirtualIps: backend.hasLocalVirtualIps,
      sysctls: backend.sysctls,
      hasIpv6: features.hasIpv6 ?? true,
      // Not those of containers, which come and go with every task: another option plans everything.
      devices: new Set([...names].filter(isBridgeName)),
      advertisedDevices: interfaces
        .filter(({ addresses6 }) => addresses6?.some(({ isAdvertised }) => isAdvertised))
        .map(({ name }) => name),
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
    const there = interfaces
      .filter((device) => wanted.has(device.name))
      .map((device) => `${device.name}=${device.index}`);
    // Settings of IPv6 come with the first network that has it, wherever that is.
    return [...there, ...(plan.ipv6 ? ["ipv6"] : [])].sort().join(" ");
  };
  const updateDns = (interfaces: Interface[]) => {
    if (!dns) return;
    const names = new Set(interfaces.map((device) => device.name));
    dns.listen(
      [...table.networks.values()].flatMap((network) =>
        network.gateway !== undefined && names.has(bridgeName(network.id)) ? [network.gateway] : [],
      ),
    );
  };

  /**
   * Services that names are not told of yet: an address is given out once this node balances it. Tasks
   * need no such care, since their routes stand before they are ready.
   */
  const unbalanced = new Map<string, NameItem>();
  const tellNames = ({ put, removed }: NameChange) => {
    if (!dns) return;
    for (const key of removed) unbalanced.delete(key);
    for (const item of put) if (item.kind === "service") unbalanced.set(item.key, item);
    dns.change({ put: put.filter((item) => item.kind !== "service"), removed });
  };
  const tellBalanced = (items: NameItem[]) => {
    // One that has changed or gone meanwhile waits for the round after its change.
    const put = items.filter((item) => unbalanced.get(item.key) === item);
    for (const item of put) unbalanced.delete(item.key);
    if (put.length > 0) dns?.change({ put, removed: [] });
  };

  /** The newest mark in the table, and the newest that was told to be applied. */
  const marks = { taken: 0, told: 0 };
  const tellApplied = (mark: number) => {
    if (mark <= marks.told) return;
    marks.told = mark;
    const notify = () => options.notify({ type: "applied", mark });
    if (dns) void dns.settled().then(notify);
    else notify();
  };

  const applyRound = async () => {
    let interfaces = await routing.interfaces();
    const plan = makePlan(interfaces);
    const mark = marks.taken;
    const isSweepDue = sweep === "due";
    const balanced = [...unbalanced.values()];
    try {
      if (!plan) {
        if (table.settings) fail(new Error("The assignments do not hold this node's own entry"));
        return;
      }
      const encrypted = await encryption.begin(plan.encryption, interfaces, false);
      const { plan: wanted, found } =
        applied && !encrypted.isLinkNew
          ? changedRouting(applied, plan)
          : { plan, found: await routing.observe(plan.ipv6 !== undefined) };
      const hadEncryption = applied?.encryption !== undefined;
      applied = undefined;
      await applyRouting(wanted, found, () => backend.apply(plan.filter, plan.filter6));
      const hasIpv6 = plan.ipv6 !== undefined;
      const isEncryptionNew = plan.encryption !== undefined && !hadEncryption;
      if (!isFirewallDone || hasIpv6 !== hadIpv6 || isEncryptionNew) {
        await mendFirewall(plan);
        isFirewallDone = true;
        hadIpv6 = hasIpv6;
      }
      if (hasOthers) await wipeOthers();
      if (found.link === undefined || encrypted.isLinkNew) interfaces = await routing.interfaces();
      const devices = deviceKey(plan, interfaces);
      if (devices !== settledDevices) {
        await routing.mendSysctls(plan, interfaces);
        await routing.mendPorts();
        settledDevices = devices;
      }
      await encryption.end(plan.encryption);
      applied = plan;
      noteReady(plan);
      noteUdp(plan, interfaces);
      noteLacks(plan);
      if (isSweepDue) await sweepFlows(plan);
    } finally {
      if (plan) noteLegs(plan, interfaces);
      tellBalanced(balanced);
      tellEncryption();
      updateDns(interfaces);
    }
    if (applied) tellApplied(mark);
  };

  /** A round that went through may still have left something out. */
  const noteLacks = ({ conflicts }: MeshPlan) => {
    const problem = backend.problem();
    if (problem !== undefined) fail(new Error(problem));
    else lastError = conflicts.length > 0 ? `Left out: ${conflicts.join("; ")}` : undefined;
  };
  const applyRouting: typeof routing.apply = async (...round) => {
    try {
      return await routing.apply(...round);
    } catch (error) {
      // Routes over a device that could not be made say less than why it could not.
      throw encryption.failure() ?? error;
    }
  };
  const mendFirewall = ({ filter, ipv6 }: MeshPlan) =>
    routing.mendFirewall(
      filter.dataPathPort,
      backend.inputRules,
      ipv6 !== undefined,
      encryptionInputRules(filter.encryptedPort),
    );
  let toldEncryption = "";
  const tellEncryption = () => {
    const told = encryption.told();
    const text = JSON.stringify(told);
    if (text !== toldEncryption) options.onEncryption?.(told);
    toldEncryption = text;
    // Something waits for its time, or for other nodes to have heard.
    const waitMs = encryption.againInMs();
    clearTimeout(encryptionTimer);
    if (waitMs !== undefined && !isStopped) encryptionTimer = setTimeout(schedule, waitMs);
  };
  let encryptionTimer: Timer | undefined;

  const checkRound = async () => {
    if (isStopped) return;
    await encryption.probeAgain();
    const before = await routing.interfaces();
    const plan = makePlan(before);
    if (!plan) return;
    // Not applied yet, or the host itself has changed (bridges, MTU): that is no drift.
    if (!applied || !Bun.deepEquals(plan, applied)) {
      await applyRound();
      return;
    }
    const counts: Counts = {};
    const hasIpv6 = plan.ipv6 !== undefined;
    const encrypted = await encryption.begin(plan.encryption, before, true);
    const found = await routing.observe(hasIpv6);
    // Until all of it has been done: a failure half way makes the next round start from the kernel.
    applied = undefined;
    const mended = await applyRouting(plan, found, async () => {
      Object.assign(counts, await backend.mend());
    });
    Object.assign(counts, mended);
    addCounts(counts, encrypted.counts);
    counts.iptables = await mendFirewall(plan);
    const after = mended.link || encrypted.isLinkNew ? await routing.interfaces() : before;
    counts.sysctl = await routing.mendSysctls(plan, after);
    // A port whose event waits for its turn is new, not drifted.
    const isPortNew = portTimer !== undefined;
    const portCount = await routing.mendPorts();
    counts.hairpin = isPortNew ? 0 : portCount;
    settledDevices = deviceKey(plan, after);
    await encryption.end(plan.encryption);
    applied = plan;
    tellEncryption();
    const what: string[] = [];
    for (const [kind, count] of Object.entries(counts)) {
      if (count === 0) continue;
      repairs[kind] = (repairs[kind] ?? 0) + count;
      what.push(`${kind}: ${count}`);
    }
    if (what.length > 0) options.notify({ type: "repaired", what });
    noteLacks(plan);
  };

  const checkTimer = setInterval(() => {
    void enqueue("check", checkRound);
  }, options.checkPeriodMs ?? CHECK_PERIOD_MS);
  let portTimer: Timer | undefined;
  let recheckTimer: Timer | undefined;
  const monitor = startLinkMonitor(prefix, (event) => {
    if (event.type === "device") {
      schedule();
      if (isMeshDevice(event.name)) void enqueue("check", checkRound);
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
  tellEncryption();
  if (table.settings) schedule();

  const isBusy = () => debounceTimer !== undefined || queued.size > 0 || isForgetting;
  const endTimers = () => {
    clearTimeout(debounceTimer);
    debounceTimer = undefined;
    clearTimeout(saveTimer);
    saveTimer = undefined;
    clearTimeout(portTimer);
    clearTimeout(recheckTimer);
    clearTimeout(encryptionTimer);
    clearInterval(checkTimer);
  };

  return {
    assignments: (change) => {
      marks.taken = change.mark ?? marks.taken;
      if (change.isComplete && sweep === "waits") {
        sweep = "due";
        schedule();
      }
      const { isChanged: hasChanged, names } = changeTable(table, change);
      tellNames(names);
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
      ...(backend.notes().length === 0 ? {} : { notes: [...backend.notes()] }),
    }),
    connections: async () =>
      (await totals.read()).map((count) => ({
        ...count,
        serviceName: table.services.get(`service/${count.serviceId}`)?.name ?? count.serviceId,
      })),
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
          await encryption.probe();
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
        tellNames(changeTable(table, { isComplete: true, put: [], removed: [] }).names);
        reportedIds = [];
        applied = undefined;
        knownLegs = [];
        settledDevices = "";
        isFirewallDone = false;
        updateDns([]);
        clearTimeout(saveTimer);
        saveTimer = undefined;
        await saving;
        await backend.wipe();
        await wipeOthers();
        await encryption.wipe();
        await routing.wipe(port);
        await removeTable(options.dir);
      });
    },
    stop: async () => {
      isStopped = true;
      const hasUnsaved = saveTimer !== undefined;
      endTimers();
      monitor.stop();
      announcer.stop();
      await tail;
      await flows.close();
      if (hasUnsaved) await save();
      dns?.close();
    },
  };
}

/** The published UDP ports behind which there is a task that takes new clients. */
function servedUdpOf({ ports }: FilterPlan): Set<number> {
  return new Set(
    ports
      .filter(({ protocol, targets }) => protocol === "udp" && targets.length > 0)
      .map(({ publishedPort }) => publishedPort),
  );
}
