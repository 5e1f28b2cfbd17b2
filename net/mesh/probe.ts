/**
 * What the host must have before the mesh can start. Checked once, at init, with the very objects
 * that will be used; each lack is named together with its cure.
 */
import { ClusterError } from "../../core/errors.ts";
import { complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import { MESH_DEVICE } from "./names.ts";
import type { FilterPlan } from "./plan.ts";

const TOOLS: readonly { argv: string[]; packageName: string }[] = [
  { argv: ["ip", "-V"], packageName: "iproute2" },
  { argv: ["bridge", "-V"], packageName: "iproute2" },
  { argv: ["iptables", "--version"], packageName: "iptables" },
  { argv: ["conntrack", "--version"], packageName: "conntrack" },
  { argv: ["sysctl", "--version"], packageName: "procps" },
];

const PROBE_DEVICE = "shprobe";
const BRIDGE_SYSCTL = "net.bridge.bridge-nf-call-iptables";

export type HostFeatures = { hasBrNetfilter: boolean };

/** @throws {ClusterError} unavailable, naming what is missing and how to get it. */
export async function probeHost(run: RunCommand, backend: MeshBackend): Promise<HostFeatures> {
  const missing: string[] = [];
  for (const { argv, packageName } of TOOLS) {
    const result = await run(argv);
    if (result.code === 127) missing.push(`"${argv[0]}" (package ${packageName})`);
  }
  if (missing.length > 0) {
    throw new ClusterError(
      "unavailable",
      `Cannot start the mesh: commands not found: ${missing.join(", ")}`,
    );
  }
  await probeVxlan(run);
  const hasBrNetfilter = await probeBrNetfilter(run);
  await backend.probe(sampleFilter(hasBrNetfilter));
  return { hasBrNetfilter };
}

async function probeVxlan(run: RunCommand): Promise<void> {
  const existing = await run(["ip", "link", "show", "dev", MESH_DEVICE]);
  if (existing.code === 0) return;
  const make = `link add ${PROBE_DEVICE} type vxlan id 4095 local 127.0.0.1 dstport 4790 nolearning`;
  const made = await run(["ip", ...make.split(" ")]);
  await run(["ip", "link", "del", PROBE_DEVICE]);
  if (made.code !== 0) {
    throw new ClusterError(
      "unavailable",
      `Cannot start the mesh: the kernel makes no VXLAN device (module vxlan; root is needed): ${complaint(made)}`,
    );
  }
}

/** Not fatal: without it only the client's address is lost, and only towards a task on its node. */
async function probeBrNetfilter(run: RunCommand): Promise<boolean> {
  const isThere = async () => (await run(["sysctl", "-n", BRIDGE_SYSCTL])).code === 0;
  if (await isThere()) return true;
  await run(["modprobe", "br_netfilter"]);
  return isThere();
}

/** One of everything that a real plan can hold. */
function sampleFilter(hasBrNetfilter: boolean): FilterPlan {
  return {
    dataPathPort: 4789,
    balance: "random",
    hasBrNetfilter,
    peers: [{ address: "192.0.2.2", mac: "02:53:c0:00:02:02", index: 2 }],
    meshAddresses: ["192.0.2.129"],
    networks: [{ bridge: "sh00000000", subnet: "198.51.100.0/24", isOpen: true }],
    subnets: ["198.51.100.0/24"],
    gateways: ["198.51.100.1"],
    localAddresses: ["198.51.100.3"],
    selfLoops: [{ node: "192.0.2.2", task: "198.51.100.3" }],
    publishedTasks: [{ address: "198.51.100.3", protocol: "sctp", port: 80 }],
    virtualIps: [
      {
        bridge: "sh00000000",
        address: "198.51.100.2",
        chain: "vip_probe_sh00000000",
        targets: ["198.51.100.3", "198.51.100.4"],
      },
    ],
    ports: [
      {
        protocol: "tcp",
        publishedPort: 80,
        targetPort: 80,
        targets: ["198.51.100.3", "198.51.100.4"],
      },
    ],
  };
}
