/** The kernel lab with IPv6 beside IPv4: addresses, servers and items; see lab.ts. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { address6Of } from "../../../core/allocator/address6.ts";
import type { AssignmentItem } from "../../../core/dispatcher/assignment.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { Mesh } from "../../../net/mesh/mesh.ts";
import { bridgeName } from "../../../net/mesh/names.ts";
import { type Lab, namespaceOf, NODES } from "./lab.ts";
import { LAB_TASKS, labItems, labNetwork, networkId } from "./lab-state.ts";

/** The ingress network has none, as when nobody asked for it. */
const NETWORKS_WITH_IPV6 = ["netA", "netB", "netC", "netI"];
export const CLIENT6 = "fd78::9";
export const UNDERLAY6 = (index: number) => `fd77::${index}`;

export function labNetwork6(name: string): Network {
  const network = labNetwork(name);
  if (!NETWORKS_WITH_IPV6.includes(name)) return network;
  const prefix = `fd00:${network.subnet?.split(".")[1]}::`;
  return {
    ...network,
    spec: { ...network.spec, EnableIPv6: true },
    subnet6: `${prefix}/64`,
    gateway6: `${prefix}1`,
  };
}

/** The IPv6 address beside an IPv4 address of one of the lab's networks. */
export function six(address: string): string {
  const name = [...NETWORKS_WITH_IPV6, "ingress"].find((one) =>
    labNetwork(one).subnet?.startsWith(address.split(".").slice(0, 2).join(".")),
  );
  const address6 = address6Of(labNetwork6(name ?? ""), address);
  if (address6 === undefined) throw new Error(`${address} is on no network with IPv6`);
  return address6;
}

export function labItems6(node: number): AssignmentItem[] {
  const nameOf = (id: string) => id.replace(networkId(""), "");
  const withSix = <T extends { networkId: string; address: string }>(leg: T): T => {
    const address6 = address6Of(labNetwork6(nameOf(leg.networkId)), leg.address);
    return address6 === undefined ? leg : { ...leg, address6 };
  };
  return labItems(node).map((item): AssignmentItem => {
    if (item.kind === "peer") {
      return { ...item, body: { ...item.body, addresses6: [UNDERLAY6(item.body.index)] } };
    }
    if (item.kind === "network") return { ...item, body: labNetwork6(item.body.spec.Name) };
    if (item.kind === "service") {
      return { ...item, body: { ...item.body, virtualIps: item.body.virtualIps.map(withSix) } };
    }
    if (item.kind === "endpoint") {
      return { ...item, body: { ...item.body, addresses: item.body.addresses.map(withSix) } };
    }
    return item;
  });
}

/** What the engine does for networks with IPv6, and the outside world; `end` stops the servers. */
export async function addIpv6(lab: Lab): Promise<{ end(): Promise<void> }> {
  const must = async (namespace: string, argv: string[], stdin?: string) => {
    const result = await lab.inside(namespace, argv, stdin);
    if (result.code !== 0) {
      throw new Error(`${namespace}: ${argv.join(" ")}: ${result.stderr.slice(0, 500)}`);
    }
  };
  const batch = (namespace: string, lines: string[]) =>
    must(namespace, ["ip", "-6", "-batch", "-"], `${lines.join("\n")}\n`);
  await batch("rtr", ["addr add fd77::fe/64 dev r0 nodad", "addr add fd78::1/64 dev r1 nodad"]);
  await must("rtr", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
  await batch("cli", [`addr add ${CLIENT6}/64 dev eth0 nodad`, "route add default via fd78::1"]);
  for (const node of NODES) {
    const tasks = LAB_TASKS.filter((task) => task.node === node);
    const networks = [...new Set(tasks.flatMap((task) => Object.keys(task.legs)))];
    await batch(`h${node}`, [
      `addr add ${UNDERLAY6(node)}/64 dev eth0 nodad`,
      "route add default via fd77::fe",
      ...networks
        .filter((name) => NETWORKS_WITH_IPV6.includes(name))
        .map(
          (name) =>
            `addr add ${labNetwork6(name).gateway6}/64 dev ${bridgeName(networkId(name))} nodad`,
        ),
    ]);
  }
  const list = [];
  for (const task of LAB_TASKS) {
    const legs = Object.entries(task.legs).sort(([a], [b]) => (a < b ? -1 : 1));
    const withSix = legs.filter(([name]) => NETWORKS_WITH_IPV6.includes(name));
    if (withSix.length === 0) continue;
    const lines = withSix.map(
      ([name, address]) =>
        `addr add ${six(address)}/64 dev eth${legs.findIndex(([one]) => one === name)} nodad`,
    );
    const wayOut = legs.find(([name]) => !labNetwork(name).spec.Internal)?.[0];
    const gateway = wayOut === undefined ? undefined : labNetwork6(wayOut).gateway6;
    if (gateway !== undefined) lines.push(`route add default via ${gateway}`);
    await batch(task.name, lines);
    list.push({
      name: task.name,
      namespace: namespaceOf(task.name),
      addresses: withSix.map(([, address]) => six(address)),
      isBound: true,
    });
  }
  list.push({
    name: "outside",
    namespace: namespaceOf("cli"),
    addresses: [CLIENT6],
    isBound: true,
  });
  const path = join(lab.dir, "serve6.json");
  writeFileSync(path, JSON.stringify(list));
  const tool = join(import.meta.dir, "lab-tool.ts");
  const server = Bun.spawn([process.execPath, tool, "serve", path], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await server.stdout.getReader().read();
  if (!Buffer.from(value ?? []).includes("ready")) throw new Error("No servers of IPv6");
  return {
    end: async () => {
      server.kill();
      await server.exited;
    },
  };
}

export async function startNode6(lab: Lab, node: number): Promise<Mesh> {
  const mesh = await lab.startNode(node, false);
  mesh.assignments({ isComplete: true, put: labItems6(node), removed: [] });
  return mesh;
}
