/**
 * The lab's network: hosts on one switch, and a client behind a router.
 *
 *   h1 … hN  eth0 192.168.77.i/24 ─┐
 *                                  ├─ sw (bridge, namespace fab) ─ p254 ─ r0 192.168.77.254 (rtr)
 *                                  ┘                                     r1 203.0.113.1 ─ eth0 203.0.113.9 (cli)
 *
 * All links are born inside of namespaces: nothing is ever in the machine's own, and there is no
 * route out of the lab. The client is not on the hosts' own network on purpose: a datapath that
 * answers without keeping the way of a packet works with neighbours and fails with it. Hosts are
 * strict about reverse paths, and ip_forward is 0 so that dockerd turns it on itself and then also
 * sets the policy of FORWARD to DROP, as on a real host.
 *
 * All have IPv6, too: fd77::i on the switch, the router fd77::fe, the client fd78::9 behind it.
 */
import { existsSync } from "node:fs";
import { run, tryRun } from "./command.ts";

export const CLIENT_ADDRESS = "203.0.113.9";
export const ROUTER_ADDRESS = "192.168.77.254";
/** Where the hosts and the router are. */
export const LAB_SUBNET = "192.168.77.0/24";

export const CLIENT_ADDRESS6 = "fd78::9";
const ROUTER_ADDRESS6 = "fd77::fe";

export function hostAddress6(index: number): string {
  return `fd77::${index.toString(16)}`;
}

export function hostAddress(index: number): string {
  return `192.168.77.${index}`;
}

/** Path that nsenter --net and setns(2) take. */
export function namespacePath(lab: string, part: string): string {
  return `/run/netns/${lab}-${part}`;
}

const inNamespace = (lab: string, part: string) => ["nsenter", `--net=${namespacePath(lab, part)}`];

/** Namespaces of the lab that exist, by their names in `ip netns`. */
export async function listNamespaces(lab: string): Promise<string[]> {
  const listed = await run(["ip", "netns", "list"]);
  return listed
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter(
      (name) =>
        name.startsWith(`${lab}-`) && /^(fab|rtr|cli|h\d+)$/.test(name.slice(lab.length + 1)),
    );
}

export async function makeFabric(lab: string, hostCount: number): Promise<void> {
  const hosts = Array.from({ length: hostCount }, (_, index) => index + 1);
  const parts = ["fab", "rtr", "cli", ...hosts.map((index) => `h${index}`)];
  for (const part of parts) {
    await run(["ip", "netns", "add", `${lab}-${part}`]);
    await ip(lab, part, ["link set lo up"]);
  }
  await ip(lab, "fab", ["link add sw type bridge", "link set sw up"]);
  await ip(lab, "rtr", [
    `link add r0 type veth peer name p254 netns ${lab}-fab`,
    `link add r1 type veth peer name eth0 netns ${lab}-cli`,
    "link set r0 up",
    "link set r1 up",
    `addr add ${ROUTER_ADDRESS}/24 dev r0`,
    "addr add 203.0.113.1/24 dev r1",
    `addr add ${ROUTER_ADDRESS6}/64 dev r0 nodad`,
    "addr add fd78::1/64 dev r1 nodad",
  ]);
  await ip(lab, "cli", [
    "link set eth0 up",
    `addr add ${CLIENT_ADDRESS}/24 dev eth0`,
    "route add default via 203.0.113.1",
    `addr add ${CLIENT_ADDRESS6}/64 dev eth0 nodad`,
    "route add ::/0 via fd78::1",
  ]);
  // The hosts' resolv.conf names the router. Its refusals must not be limited to some a second, or a
  // look-up takes 5 s to fail: `docker pull` of an image that only the engines have.
  const routerSysctls = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.conf.all.forwarding=1",
  ];
  await run([...inNamespace(lab, "rtr"), "sysctl", "-qw", ...routerSysctls]);
  await ip(lab, "fab", ["link set p254 master sw", "link set p254 up"]);
  for (const index of hosts) await plugHost(lab, index);
}

/** The link and the settings of a host whose namespace is there and empty. */
async function plugHost(lab: string, index: number): Promise<void> {
  await ip(lab, `h${index}`, [
    `link add eth0 type veth peer name p${index} netns ${lab}-fab`,
    "link set eth0 up",
    `addr add ${hostAddress(index)}/24 dev eth0`,
    `route add default via ${ROUTER_ADDRESS}`,
    `addr add ${hostAddress6(index)}/64 dev eth0 nodad`,
    `route add ::/0 via ${ROUTER_ADDRESS6}`,
  ]);
  const sysctls = ["all", "default", "eth0"].map((name) => `net.ipv4.conf.${name}.rp_filter=1`);
  await run([
    ...inNamespace(lab, `h${index}`),
    "sysctl",
    "-qw",
    "net.ipv4.ip_forward=0",
    ...sysctls,
  ]);
  await ip(lab, "fab", [`link set p${index} master sw`, `link set p${index} up`]);
}

/** Everything that the host's kernel knew of networks is gone: as after a power cut, with {@link remakeHost}. */
export async function dropHost(lab: string, index: number): Promise<void> {
  // The namespace itself ends a moment later; its end of the cable must not be in the way of a new one.
  await tryRun(["ip", "-n", `${lab}-fab`, "link", "del", `p${index}`]);
  await run(["ip", "netns", "del", `${lab}-h${index}`]);
}

export async function remakeHost(lab: string, index: number): Promise<void> {
  await run(["ip", "netns", "add", `${lab}-h${index}`]);
  await ip(lab, `h${index}`, ["link set lo up"]);
  await plugHost(lab, index);
}

async function ip(lab: string, part: string, lines: string[]): Promise<void> {
  await run(["ip", "-n", `${lab}-${part}`, "-batch", "-"], { stdin: `${lines.join("\n")}\n` });
}

/** Pulls or plugs the host's cable: its port on the switch goes down or up. */
export async function setHostLink(lab: string, index: number, state: "up" | "down"): Promise<void> {
  await run(["ip", "-n", `${lab}-fab`, "link", "set", `p${index}`, state]);
}

/** Removes the lab's namespaces; the links in them go with them. Returns the names that stayed. */
export async function removeFabric(lab: string): Promise<string[]> {
  for (const name of await listNamespaces(lab)) await tryRun(["ip", "netns", "del", name]);
  return listNamespaces(lab);
}

export function hasFabric(lab: string): boolean {
  return existsSync(namespacePath(lab, "fab"));
}
