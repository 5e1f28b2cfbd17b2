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
import { complaint, type ConnectionCount, type MeshBackend, type RunCommand } from "./backend.ts";
import { countsOf, portFace } from "./connections.ts";
import type { Counts } from "./diff.ts";
import { familyPair, type OneFamily } from "./family-pair.ts";
import { IPVS_INPUT_RULE } from "./firewall.ts";
import {
  iptablesFilter,
  type IptablesFilter,
  kernelNotes,
  type KernelFeatures,
  probeIptables,
} from "./iptables.ts";
import { type Ipvs, type IpvsTimeouts, openIpvs, readIpvs } from "./ipvs-netlink.ts";
import {
  BY_CLIENT,
  diffIpvs,
  type IpvsAffinity,
  type IpvsCommand,
  ipvsMarks,
  type IpvsService,
  renderIpvs,
} from "./ipvs-services.ts";
import { IPVS_MARK, ipvsPortMark } from "./names.ts";
import type { Family, FilterPlan, MeshSysctl } from "./plan.ts";
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

/** A mark that no plan gives: the service is made and removed again, to see whether the kernel can. */
const PROBE_MARK = IPVS_MARK;

type Programmed = {
  plan: FilterPlan;
  markOf: ReturnType<typeof ipvsMarks>;
  services: Map<number, IpvsService>;
};

/** The services and chains of one family. */
function ipvsFamily(
  family: Family,
  filter: IptablesFilter,
  ipvs: () => Ipvs,
  affinity: () => IpvsAffinity,
): OneFamily & { applied(): Programmed | undefined } {
  let applied: Programmed | undefined;
  let checkFrom = 0;

  /** Everything, compared with what IPVS holds. */
  const programAll = async (plan: FilterPlan, ipv4: FilterPlan) => {
    applied = undefined;
    const markOf = ipvsMarks(ipv4);
    const services = renderIpvs(plan, markOf, affinity());
    const { commands, removals } = diffIpvs(family, readIpvs(ipvs(), family), services);
    ipvs().execute(commands);
    await filter.apply(plan, markOf);
    ipvs().execute(removals);
    applied = { plan, markOf, services };
  };
  /** Only what differs from the last plan; chains only where an address or port gets or loses its tasks. */
  const programChange = async (known: Programmed, plan: FilterPlan, ipv4: FilterPlan) => {
    applied = undefined;
    const markOf = ipvsMarks(ipv4);
    const parts = changedParts(known.plan, plan);
    const before = renderIpvs(parts.before, known.markOf, affinity());
    const after = renderIpvs(parts.after, markOf, affinity());
    const { commands, removals } = diffIpvs(family, before, after);
    ipvs().execute(commands);
    const chainsOf = (part: FilterPlan) => ({
      ...membershipOf(part),
      // Connections to 127.0.0.1 are spread by chains.
      ports: part.ports,
    });
    if (!Bun.deepEquals(chainsOf(parts.before), chainsOf(parts.after))) {
      await filter.apply(plan, markOf);
    }
    ipvs().execute(removals);
    for (const mark of before.keys()) known.services.delete(mark);
    for (const [mark, service] of after) known.services.set(mark, service);
    applied = { plan, markOf, services: known.services };
  };

  return {
    applied: () => applied,
    apply: async (plan, ipv4) => {
      const known = applied;
      if (!known) {
        await programAll(plan, ipv4);
        return;
      }
      try {
        await programChange(known, plan, ipv4);
      } catch {
        // IPVS was not as we thought: compare with what it holds.
        await programAll(plan, ipv4);
      }
    },
    mend: async (): Promise<Counts> => {
      const wanted = applied?.services;
      if (!wanted) return {};
      const found = new Map<number, IpvsService>();
      const services = ipvs().services(family);
      for (const [place, { mark, scheduler, flags, timeoutS }] of services.entries()) {
        const known = wanted.get(mark);
        const turn = (place - checkFrom + services.length) % services.length;
        const isRead = turn < CHECK_TARGETS_MAX || !known;
        const targets = isRead ? ipvs().targets(family, mark) : known.targets;
        found.set(mark, { mark, scheduler, flags, timeoutS, targets });
      }
      checkFrom = services.length === 0 ? 0 : (checkFrom + CHECK_TARGETS_MAX) % services.length;
      const { commands, removals } = diffIpvs(family, found, wanted);
      ipvs().execute([...commands, ...removals]);
      return { ipvs: commands.length + removals.length, "iptables-chains": await filter.mend() };
    },
    // Its services never stand without its chains, and asking for them would load the module.
    isPresent: filter.isPresent,
    wipe: async () => {
      await filter.wipe();
      applied = undefined;
      const removal = ({ mark }: { mark: number }): IpvsCommand => ({
        kind: "delete-service",
        family,
        mark,
      });
      let socket: Ipvs;
      try {
        socket = ipvs();
      } catch {
        // A kernel without IPVS holds none.
        return;
      }
      socket.execute(socket.services(family).map(removal));
    },
  };
}

/** The back-end over `run` and a netlink socket, which `open` makes when it is first needed. */
export function ipvsBackend(run: RunCommand, open: () => Ipvs = openIpvs): MeshBackend {
  const sysctls: MeshSysctl[] = [];
  let kernel: KernelFeatures = { hasZones: true, hasCluster: true };
  let affinity: IpvsAffinity = "hash";
  let socket: Ipvs | undefined;

  const ipvs = () => {
    socket ??= open();
    return socket;
  };
  const setTimeouts = () => {
    if (Bun.deepEquals(ipvs().timeouts(), TIMEOUTS)) return 0;
    ipvs().setTimeouts(TIMEOUTS);
    return 1;
  };
  /** Which of the ways of affinity the kernel has. */
  const probeAffinity = (): IpvsAffinity => {
    const probe = { family: "ipv4", mark: PROBE_MARK } as const;
    try {
      const isLeft = ipvs()
        .services("ipv4")
        .some(({ mark }) => mark === PROBE_MARK);
      if (isLeft) ipvs().execute([{ kind: "delete-service", ...probe }]);
      ipvs().execute([{ kind: "add-service", ...probe, ...BY_CLIENT.hash }]);
      ipvs().execute([{ kind: "delete-service", ...probe }]);
      return "hash";
    } catch {
      return "persistence";
    }
  };
  const familyOf = (family: Family) =>
    ipvsFamily(
      family,
      iptablesFilter(run, "ipvs", family, () => kernel),
      ipvs,
      () => affinity,
    );
  const ipv4 = familyOf("ipv4");
  const ipv6 = familyOf("ipv6");
  const pair = familyPair(ipv4, ipv6);

  return {
    name: "ipvs",
    hasLocalVirtualIps: true,
    sysctls,
    inputRules: [IPVS_INPUT_RULE],
    notes: () => [
      ...kernelNotes(kernel),
      ...(affinity === "hash"
        ? []
        : [
            "ipvs: the kernel has no scheduler by a client's hash (module ip_vs_mh): affinity ends three hours after a client's last connection, and each node chooses for itself",
          ]),
    ],
    probe: async (sample) => {
      await run(["modprobe", "-a", "ip_vs", "ip_vs_wlc", "ip_vs_rr", "ip_vs_mh"]);
      const release = await run(["uname", "-r"]);
      sysctls.splice(0, sysctls.length, ...ipvsSysctls(release.stdout));
      ipvs().timeouts();
      // Before the first service: a connection begun without conntrack cannot be masqueraded.
      const lines = sysctls.map(({ key, value }) => `${key}=${value}`);
      const set = await run(["sysctl", "-e", "-q", "-w", ...lines]);
      if (set.code !== 0) {
        throw new ClusterError("unavailable", `Cannot set IPVS's settings: ${complaint(set)}`);
      }
      affinity = probeAffinity();
      kernel = await probeIptables(run, "ipvs", "ipvs", sample);
    },
    ...pair,
    apply: async (plan, plan6) => {
      if (!ipv4.applied()) setTimeouts();
      await pair.apply(plan, plan6);
    },
    mend: async () => {
      if (!ipv4.applied()) return {};
      const count = setTimeouts();
      const counts = await pair.mend();
      return { ...counts, ipvs: (counts.ipvs ?? 0) + count };
    },
    readConnections: async () => {
      const counts: ConnectionCount[] = [];
      for (const [family, one] of [
        ["ipv4", ipv4],
        ["ipv6", ipv6],
      ] as const) {
        const known = one.applied();
        if (!known) continue;
        const byMark = new Map(
          ipvs()
            .services(family)
            .map(({ mark, connections }) => [mark, connections]),
        );
        const { plan, markOf } = known;
        const byAddress = plan.virtualIps.map((virtualIp) => {
          const mark = markOf(virtualIp);
          return [virtualIp.address, mark === undefined ? 0 : (byMark.get(mark) ?? 0)] as const;
        });
        const byPort = plan.ports.map(
          (port) => [portFace(port), byMark.get(ipvsPortMark(port)) ?? 0] as const,
        );
        counts.push(...countsOf(plan, { byAddress: new Map(byAddress), byPort: new Map(byPort) }));
      }
      return counts;
    },
    wipe: async () => {
      await pair.wipe();
      socket?.close();
      socket = undefined;
    },
  };
}
