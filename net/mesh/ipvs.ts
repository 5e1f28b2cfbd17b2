/**
 * The IPVS back-end: IPVS balances, by netlink; iptables marks what it is to balance and does all
 * the rest (sources, isolation, the way back).
 *
 * Invariants: a service is in IPVS before its mark is set and goes after; the order within a change
 * is services and targets, chains, removed services. Only services with our kind of mark are touched.
 * A change of one target is one netlink message and, where chains do not change, starts no process.
 *
 * What its defaults would do to users, and what is set instead: idle connections are cut after 15
 * minutes (five days, as conntrack's); connections of a removed task hang (expired at their next
 * packet, so that the client is told); a client that uses a source port again is sent to where the
 * old connection went, ready or not (scheduled anew, on kernels that can do so without delay).
 *
 * Drift: the list of services and a bounded number of their targets are compared at each check, in
 * turn, so that a small node is compared whole every time and a large one within some minutes.
 */
import { ClusterError } from "../../core/errors.ts";
import { complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import { IPVS_INPUT_RULE } from "./firewall.ts";
import { iptablesFilter } from "./iptables.ts";
import { type Ipvs, type IpvsTimeouts, openIpvs, readIpvs } from "./ipvs-netlink.ts";
import { diffIpvs, type IpvsService, renderIpvs } from "./ipvs-services.ts";
import type { FilterPlan, MeshSysctl } from "./plan.ts";
import { changedParts, membershipOf } from "./plan-change.ts";

const TIMEOUTS: IpvsTimeouts = { tcpS: 432_000, finS: 120, udpS: 300 };
/** Services whose targets are compared in one check: about 10 ms. */
const CHECK_TARGETS_MAX = 256;
/** Scheduling a reused port anew delayed it by a second before Linux 5.9. Source: kube-proxy's choice. */
const REUSE_KERNEL = [5, 9] as const;

/** The settings of a kernel of this release (`uname -r`). */
export function ipvsSysctls(release: string): MeshSysctl[] {
  const [major = 0, minor = 0] = release.split(".").map((part) => Number.parseInt(part, 10));
  const [wantedMajor, wantedMinor] = REUSE_KERNEL;
  const canReuse = major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  return [
    { key: "net.ipv4.vs.conntrack", value: 1 },
    { key: "net.ipv4.vs.expire_nodest_conn", value: 1 },
    { key: "net.ipv4.vs.expire_quiescent_template", value: 1 },
    { key: "net.ipv4.vs.conn_reuse_mode", value: canReuse ? 1 : 0 },
  ];
}

/** The back-end over `run` and a netlink socket, which `open` makes when it is first needed. */
export function ipvsBackend(run: RunCommand, open: () => Ipvs = openIpvs): MeshBackend {
  const filter = iptablesFilter(run, "ipvs", "ipvs");
  const sysctls: MeshSysctl[] = [];
  let socket: Ipvs | undefined;
  let applied: { plan: FilterPlan; services: Map<number, IpvsService> } | undefined;
  let checkFrom = 0;

  const ipvs = () => {
    socket ??= open();
    return socket;
  };
  const setTimeouts = () => {
    if (Bun.deepEquals(ipvs().timeouts(), TIMEOUTS)) return 0;
    ipvs().setTimeouts(TIMEOUTS);
    return 1;
  };
  /** Everything, compared with what IPVS holds. */
  const programAll = async (plan: FilterPlan) => {
    applied = undefined;
    const services = renderIpvs(plan);
    const { commands, removals } = diffIpvs(readIpvs(ipvs()), services);
    ipvs().execute(commands);
    await filter.apply(plan);
    ipvs().execute(removals);
    applied = { plan, services };
  };
  /** Only what differs from the last plan; chains only where an address or port gets or loses its tasks. */
  const programChange = async (known: NonNullable<typeof applied>, plan: FilterPlan) => {
    applied = undefined;
    const parts = changedParts(known.plan, plan);
    const before = renderIpvs(parts.before);
    const after = renderIpvs(parts.after);
    const { commands, removals } = diffIpvs(before, after);
    ipvs().execute(commands);
    const chainsOf = (part: FilterPlan) => ({
      ...membershipOf(part),
      // Connections to 127.0.0.1 are spread by chains.
      ports: part.ports,
    });
    if (!Bun.deepEquals(chainsOf(parts.before), chainsOf(parts.after))) await filter.apply(plan);
    ipvs().execute(removals);
    for (const mark of before.keys()) known.services.delete(mark);
    for (const [mark, service] of after) known.services.set(mark, service);
    applied = { plan, services: known.services };
  };

  return {
    name: "ipvs",
    hasLocalVirtualIps: true,
    sysctls,
    inputRules: [IPVS_INPUT_RULE],
    probe: async (sample) => {
      await run(["modprobe", "-a", "ip_vs", "ip_vs_wlc", "ip_vs_rr"]);
      const release = await run(["uname", "-r"]);
      sysctls.splice(0, sysctls.length, ...ipvsSysctls(release.stdout));
      ipvs().timeouts();
      // Before the first service: a connection begun without conntrack cannot be masqueraded.
      const lines = sysctls.map(({ key, value }) => `${key}=${value}`);
      const set = await run(["sysctl", "-e", "-q", "-w", ...lines]);
      if (set.code !== 0) {
        throw new ClusterError("unavailable", `Cannot set IPVS's settings: ${complaint(set)}`);
      }
      await filter.probe(sample);
    },
    apply: async (plan) => {
      const known = applied;
      if (!known) {
        setTimeouts();
        await programAll(plan);
        return;
      }
      try {
        await programChange(known, plan);
      } catch {
        // IPVS was not as we thought: compare with what it holds.
        await programAll(plan);
      }
    },
    mend: async () => {
      const wanted = applied?.services;
      if (!wanted) return {};
      let count = setTimeouts();
      const found = new Map<number, IpvsService>();
      const services = ipvs().services();
      for (const [place, { mark, scheduler }] of services.entries()) {
        const known = wanted.get(mark);
        const turn = (place - checkFrom + services.length) % services.length;
        const isRead = turn < CHECK_TARGETS_MAX || !known;
        const targets = isRead ? ipvs().targets(mark) : known.targets;
        found.set(mark, { mark, scheduler, targets });
      }
      checkFrom = services.length === 0 ? 0 : (checkFrom + CHECK_TARGETS_MAX) % services.length;
      const { commands, removals } = diffIpvs(found, wanted);
      ipvs().execute([...commands, ...removals]);
      count += commands.length + removals.length;
      return { ipvs: count, "iptables-chains": await filter.mend() };
    },
    // Its services never stand without its chains, and asking for them would load the module.
    isPresent: filter.isPresent,
    wipe: async () => {
      await filter.wipe();
      applied = undefined;
      try {
        const marks = ipvs().services();
        ipvs().execute(marks.map(({ mark }) => ({ kind: "delete-service", mark })));
      } catch (error) {
        // A kernel without IPVS holds none.
        if (socket) throw error;
      }
      socket?.close();
      socket = undefined;
    },
  };
}
