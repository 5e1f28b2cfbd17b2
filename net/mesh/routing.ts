/**
 * Devices, addresses, neighbours, routes, rules, kernel settings, bridge ports and the iptables
 * accepts: what every back-end needs alike. Runs the commands that `diff.ts` and `firewall.ts`
 * decide, and reads the kernel for them. Keeps nothing but which bridges it has seen, to tell a new
 * bridge from one that somebody changed.
 */
import { ClusterError } from "../../core/errors.ts";
import { complaint, type RunCommand } from "./backend.ts";
import {
  type Counts,
  diffRouting,
  diffSysctls,
  foundAddresses6,
  foundLink,
  type RoutingState,
  type RoutingState6,
} from "./diff.ts";
import {
  planFirewall,
  planFirewall6,
  planFirewall6Removal,
  planFirewallRemoval,
} from "./firewall.ts";
import { MESH_DEVICE, ROUTE_PROTOCOL } from "./names.ts";
import {
  type Interface,
  parseForwarding,
  parseInterfaces,
  parseNeighbours,
  parseNeighbours6,
  parseProxies,
  parseRoutes,
  parseRoutes6,
  parseRules,
  parseSysctls,
  portsWithoutHairpin,
} from "./observe.ts";
import type { MeshPlan } from "./plan.ts";

export type Routing = {
  interfaces(): Promise<Interface[]>;
  /**
   * `hasIpv6`: IPv6 is planned; what an earlier run left of it is seen in any case.
   * @throws {ClusterError} unavailable when the kernel cannot be read.
   */
  observe(hasIpv6: boolean): Promise<RoutingState>;
  /**
   * Makes the kernel as planned, from what was found; `filter` runs in between, after what it
   * needs is there and before what it no longer needs goes.
   * @throws {ClusterError} unavailable with the tool's words; all other lines were still tried.
   */
  apply(plan: MeshPlan, found: RoutingState, filter: () => Promise<void>): Promise<Counts>;
  /** Sets kernel settings that are not as planned; the number of those that had been set before. */
  mendSysctls(plan: MeshPlan, interfaces: Interface[]): Promise<number>;
  /** Sets the hairpin flag on the ports of our bridges; the number of ports. */
  mendPorts(): Promise<number>;
  mendFirewall(
    dataPathPort: number,
    backendRules: readonly string[],
    hasIpv6: boolean,
    /** Accepts in INPUT of IPv4 only. */
    rules4?: readonly string[],
  ): Promise<number>;
  wipe(dataPathPort: number): Promise<void>;
};

/** Complaints of a repeated or overtaken command: what it wanted is already so. */
const HARMLESS =
  /File exists|No such process|No such file or directory|Cannot find device|Cannot assign requested address/;

/** Routing over `run`, which executes ip, bridge, sysctl and iptables. */
export function kernelRouting(run: RunCommand): Routing {
  /** Bridges whose settings we have written, with their interface index. */
  const settled = new Map<string, number>();

  const read = async (argv: string[]) => {
    const result = await run(argv);
    if (result.code === 0) return result.stdout;
    throw new ClusterError("unavailable", `Cannot run "${argv.join(" ")}": ${complaint(result)}`);
  };
  /** Output, or nothing when the device is not there. */
  const readOfDevice = async (argv: string[]) => {
    const result = await run(argv);
    return result.code === 0 ? result.stdout : "";
  };
  const batch = async (tool: "ip" | "ip -6" | "bridge", lines: string[], isRemoval: boolean) => {
    if (lines.length === 0) return;
    const argv = [...tool.split(" "), "-force", "-batch", "-"];
    const result = await run(argv, `${lines.join("\n")}\n`);
    const complaints = result.stderr
      .split("\n")
      .filter((line) => line.trim() !== "" && !line.startsWith("Command failed"));
    // Of IPv6 lines, a bridge that went meanwhile is one too: the event of its end is on its way.
    const isGone = (line: string) => tool === "ip -6" && line.includes("Cannot find device");
    const serious = complaints.filter(
      (line) =>
        !(HARMLESS.test(line) && (isRemoval || line.includes("File exists") || isGone(line))),
    );
    // The first line of a new device is its removal, which fails when there was none.
    const first = lines[0] === `link del ${MESH_DEVICE}` ? /Cannot find device/ : undefined;
    const rest = first ? serious.filter((line) => !first.test(line)) : serious;
    if (rest.length > 0 || result.code === 127) {
      throw new ClusterError(
        "unavailable",
        `Cannot program the kernel with ${tool}: ${complaint({ ...result, stderr: rest.join("\n") })}`,
      );
    }
  };
  const interfaces = async () => parseInterfaces(await read(["ip", "-j", "-d", "addr", "show"]));

  const observe6 = async (found: Interface[]): Promise<RoutingState6> => {
    const proto = ["proto", String(ROUTE_PROTOCOL)];
    const [neighbours, routes, rules, proxies] = await Promise.all([
      read(["ip", "-j", "-6", "neigh", "show", "nud", "permanent"]),
      read(["ip", "-j", "-6", "route", "show", "table", "all", ...proto]),
      read(["ip", "-j", "-6", "rule", "show"]),
      read(["ip", "-j", "-6", "neigh", "show", "proxy"]),
    ]);
    return {
      addresses: foundAddresses6(found),
      neighbours: parseNeighbours6(neighbours),
      routes: parseRoutes6(routes),
      rules: parseRules(rules),
      proxies: parseProxies(proxies),
    };
  };
  /** Rules that let IPv6 through were made, and are to be removed with the last network that has it. */
  let hasFirewall6 = false;
  const mendFirewall6 = async (backendRules: readonly string[], isWanted: boolean) => {
    if (!isWanted && !hasFirewall6) return 0;
    const found = await run(["ip6tables", "-w", "-S"]);
    // Without the tool or its kernel part nothing of that kind filters.
    if (found.code !== 0) return 0;
    const commands = isWanted
      ? planFirewall6(found.stdout, backendRules)
      : planFirewall6Removal(found.stdout);
    for (const command of commands) await read(["ip6tables", "-w", ...command]);
    hasFirewall6 = isWanted;
    return commands.length;
  };

  const wipe6 = async () => {
    // Empty on a kernel without IPv6.
    const rules = parseRules(await readOfDevice(["ip", "-j", "-6", "rule", "show"]));
    const proxies = parseProxies(await readOfDevice(["ip", "-j", "-6", "neigh", "show", "proxy"]));
    const addresses = foundAddresses6(await interfaces());
    const lines = [...rules.keys()].map((line) => `rule del ${line}`);
    lines.push(...[...addresses.keys()].map((line) => `addr del ${line}`));
    lines.push(...[...proxies.keys()].map((line) => `neigh del proxy ${line}`));
    await batch("ip -6", lines, true);
    hasFirewall6 = true;
    await mendFirewall6([], false);
  };

  return {
    interfaces,
    observe: async (hasIpv6) => {
      const [found, neighbours, forwarding, routes, rules] = await Promise.all([
        interfaces(),
        readOfDevice(["ip", "-j", "-4", "neigh", "show", "dev", MESH_DEVICE]),
        readOfDevice(["bridge", "-j", "fdb", "show", "dev", MESH_DEVICE]),
        read(["ip", "-j", "-4", "route", "show", "table", "all", "proto", String(ROUTE_PROTOCOL)]),
        read(["ip", "-j", "-4", "rule", "show"]),
      ]);
      return {
        ...foundLink(found),
        neighbours: parseNeighbours(neighbours),
        forwarding: parseForwarding(forwarding),
        routes: parseRoutes(routes),
        rules: parseRules(rules),
        ...(hasIpv6 || foundAddresses6(found).size > 0 ? { six: await observe6(found) } : {}),
      };
    },
    apply: async (plan, found, filter) => {
      const steps = diffRouting(plan, found);
      const errors: unknown[] = [];
      const attempt = async (act: () => Promise<void>) => {
        try {
          await act();
        } catch (error) {
          errors.push(error);
        }
      };
      await attempt(() => batch("ip", steps.ip, false));
      await attempt(() => batch("bridge", steps.bridge, false));
      // A host may have IPv6 off for devices that come, or somebody has switched it off.
      const allowed = steps.ip6.flatMap((line) => /^addr .* dev (\S+)/.exec(line)?.[1] ?? []);
      if (allowed.length > 0) {
        const keys = allowed.map((device) => `net.ipv6.conf.${device}.disable_ipv6=0`);
        await run(["sysctl", "-e", "-q", "-w", ...keys]);
      }
      await attempt(() => batch("ip -6", steps.ip6, false));
      await attempt(filter);
      await attempt(() => batch("ip", steps.ipLast, true));
      await attempt(() => batch("ip -6", steps.ip6Last, true));
      await attempt(() => batch("bridge", steps.bridgeLast, true));
      if (errors.length > 0) throw errors[0];
      return steps.counts;
    },
    mendSysctls: async (plan, found) => {
      const indexes = new Map(found.map((device) => [device.name, device.index]));
      const wanted = plan.sysctls.filter(
        (sysctl) => sysctl.device === undefined || indexes.has(sysctl.device),
      );
      const current = await run(["sysctl", "-e", ...wanted.map((sysctl) => sysctl.key)]);
      const changes = diffSysctls(wanted, parseSysctls(current.stdout));
      if (changes.length > 0) {
        const lines = changes.map((change) => change.line);
        const result = await run(["sysctl", "-e", "-q", "-w", ...lines]);
        if (result.code !== 0) {
          throw new ClusterError("unavailable", `Cannot set kernel settings: ${complaint(result)}`);
        }
      }
      const drifted = changes.filter(
        ({ device = "" }) => settled.get(device) === (indexes.get(device) ?? 0),
      );
      settled.clear();
      settled.set("", 0);
      for (const { device } of wanted) {
        if (device !== undefined) settled.set(device, indexes.get(device) ?? 0);
      }
      return drifted.length;
    },
    mendPorts: async () => {
      const ports = portsWithoutHairpin(await interfaces());
      await batch(
        "bridge",
        ports.map((port) => `link set dev ${port} hairpin on`),
        true,
      );
      return ports.length;
    },
    mendFirewall: async (dataPathPort, backendRules, hasIpv6, rules4 = []) => {
      const output = await read(["iptables", "-w", "-S"]);
      const commands = planFirewall(output, dataPathPort, [...backendRules, ...rules4]);
      for (const command of commands) await read(["iptables", "-w", ...command]);
      return commands.length + (await mendFirewall6(backendRules, hasIpv6));
    },
    wipe: async (dataPathPort) => {
      const rules = parseRules(await read(["ip", "-j", "-4", "rule", "show"]));
      const lines = [...rules.keys()].map((line) => `rule del ${line}`);
      // Its addresses, neighbours and routes go with the device.
      lines.push(`link del ${MESH_DEVICE}`);
      await batch("ip", lines, true);
      await wipe6();
      const output = await read(["iptables", "-w", "-S"]);
      for (const command of planFirewallRemoval(output, dataPathPort)) {
        await read(["iptables", "-w", ...command]);
      }
      settled.clear();
    },
  };
}
