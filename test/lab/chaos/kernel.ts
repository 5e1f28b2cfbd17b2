/**
 * Is a node's kernel as the cluster's state says, read without any of shoal's own code: every address of
 * an overlay network that a route, a rule of the packet filter, a set or map, a fixed neighbour entry or a
 * flow with answers names belongs to a task or service that lives; every task that lives elsewhere has its
 * route; and no container runs whose task does not.
 */
import type { Host } from "../../../scripts/lab/host.ts";
import { type ClusterState, isLive } from "./cluster-state.ts";

const READ = `
ip -j -4 route show table all proto 117
echo @@
nft list ruleset
echo @@
iptables-save 2>/dev/null
echo @@
ip -j -4 neigh show
echo @@
conntrack -L 2>/dev/null
echo @@
ip -j link show type bridge
echo @@
ip -j -4 rule show
`;

type Route = { dst?: string; dev?: string; gateway?: string };
type Neighbour = { dst?: string; dev?: string; state?: string[] };

/** What is wrong on this host; [] when nothing is. */
export async function checkKernel(host: Host, cluster: ClusterState): Promise<string[]> {
  const output = await host.run(["sh", "-c", READ]);
  const containers = await host.engine(
    "ps",
    "--filter",
    "label=com.docker.swarm.task.id",
    "--format",
    '{{.Label "com.docker.swarm.task.id"}} {{.Label "com.docker.swarm.service.name"}}',
  );
  const parts = output.split("@@").map((part) => part.trim());
  const [routesText, nft = "", iptables = "", neighboursText, conntrack = "", bridgesText] = parts;
  // As iproute2 prints them.
  const routes = JSON.parse(routesText || "[]") as Route[];
  const neighbours = JSON.parse(neighboursText || "[]") as Neighbour[];
  const bridges = JSON.parse(bridgesText || "[]") as { ifname?: string }[];
  const wrong: string[] = [];

  const live = cluster.tasks.filter(isLive);
  const taskAt = new Map(
    live.flatMap((task) => task.addresses.map(({ address }) => [address, task] as const)),
  );
  const virtualIps = new Set(cluster.services.flatMap((service) => service.virtualIps));
  const gateways = new Set(cluster.networks.flatMap((network) => network.gateways));
  const subnets = cluster.networks.flatMap((network) => network.subnets);
  const isOverlay = (address: string) => subnets.some((subnet) => isWithin(address, subnet));
  const isKnown = (address: string) =>
    taskAt.has(address) || virtualIps.has(address) || gateways.has(address);

  const hostAddresses = new Map(cluster.nodes.map((node) => [node.hostname, node.address]));
  const routed = new Map<string, Route>();
  for (const route of routes) {
    const address = (route.dst ?? "").replace(/\/32$/, "");
    if (!isOverlay(address)) continue;
    routed.set(address, route);
    const task = taskAt.get(address);
    if (!isKnown(address)) wrong.push(`route to ${address}, which nobody holds`);
    else if (task && task.host === host.name) {
      wrong.push(`route to ${address} by ${route.gateway}, but its task is here`);
    } else if (task && hostAddresses.get(task.host) !== route.gateway) {
      wrong.push(`route to ${address} by ${route.gateway}, but its task is on ${task.host}`);
    }
  }
  for (const [what, text] of [
    ["nft", nft],
    ["iptables", iptables],
  ] as const) {
    for (const address of addressesIn(text)) {
      if (isOverlay(address) && !isKnown(address)) {
        wrong.push(`${what} names ${address}, which nobody holds: ${lineWith(text, address)}`);
      }
    }
  }
  for (const { dst = "", dev = "", state = [] } of neighbours) {
    // What the kernel learnt by itself ages by itself.
    const isFixed = state.includes("PERMANENT") || state.includes("NOARP");
    if (isFixed && isOverlay(dst) && !isKnown(dst)) {
      wrong.push(`neighbour ${dst} on ${dev}, which nobody holds`);
    }
  }
  for (const line of containers.split("\n").filter((text) => text !== "")) {
    const [id, service = ""] = line.split(" ");
    if (!live.some((task) => task.id === id)) {
      wrong.push(`container of task ${id} of ${service} runs, and the task does not`);
    }
  }
  for (const [address, line] of answeringIn(conntrack)) {
    if (isOverlay(address) && !isKnown(address)) {
      wrong.push(`flow answered by ${address}, which nobody holds: ${line}`);
    }
  }
  const present = new Set(
    live
      .filter((task) => task.host === host.name)
      .flatMap((task) => task.addresses.map(({ networkId }) => networkId)),
  );
  for (const task of live) {
    if (task.host === host.name || task.state !== "running") continue;
    for (const { networkId, address } of task.addresses) {
      if (present.has(networkId) && !routed.has(address)) {
        wrong.push(`no route to ${address} of ${task.service} on ${task.host}`);
      }
    }
  }
  const count = bridges.filter(({ ifname = "" }) => /^sh[0-9a-f]{8}$/.test(ifname)).length;
  if (count > cluster.networks.length) {
    wrong.push(`${count} bridges for ${cluster.networks.length} networks`);
  }
  return wrong.map((text) => `${host.name}: ${text}`);
}

/** Single IPv4 addresses in a text: those with a prefix length below 32 are networks. */
function addressesIn(text: string): Set<string> {
  const found = text.matchAll(/(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(\/\d+)?(?![\d.])/g);
  const single = [...found].filter(([, , length]) => length === undefined || length === "/32");
  return new Set(single.map(([, address = ""]) => address));
}

/** Source addresses of the answers in a listing of conntrack, each with one of its lines. */
function answeringIn(conntrack: string): Map<string, string> {
  const answers = new Map<string, string>();
  for (const line of conntrack.split("\n")) {
    // A connection that is over, or that nobody answers, ends by its time-out.
    if (/TIME_WAIT|CLOSE|LAST_ACK|FIN_WAIT|UNREPLIED/.test(line)) continue;
    const [, source] = [...line.matchAll(/src=(\S+)/g)].map(([, address = ""]) => address);
    if (source !== undefined) answers.set(source, line.slice(0, 200));
  }
  return answers;
}

function lineWith(text: string, word: string): string {
  return (text.split("\n").find((line) => line.includes(word)) ?? "").trim().slice(0, 200);
}

function isWithin(address: string, subnet: string): boolean {
  const [base = "", length = "32"] = subnet.split("/");
  const size = 2 ** (32 - Number(length));
  return Math.floor(numberOf(address) / size) === Math.floor(numberOf(base) / size);
}

function numberOf(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}
