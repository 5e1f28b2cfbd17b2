/**
 * What the host must have before the mesh can start. Checked once, at init, with the very objects
 * that will be used; each lack is named together with its cure.
 */
import { unreachable } from "../../core/assert.ts";
import { ClusterError } from "../../core/errors.ts";
import { type BackendName, complaint, type MeshBackend, type RunCommand } from "./backend.ts";
import { iptablesBackend } from "./iptables.ts";
import { ipvsBackend } from "./ipvs.ts";
import { openIpvs } from "./ipvs-netlink.ts";
import { MESH_DEVICE } from "./names.ts";
import { openNft } from "./nft-netlink.ts";
import { nftablesBackend } from "./nftables.ts";
import type { FilterPlan } from "./plan.ts";

const TOOLS: readonly { argv: string[]; packageName: string }[] = [
  { argv: ["ip", "-V"], packageName: "iproute2" },
  { argv: ["bridge", "-V"], packageName: "iproute2" },
  { argv: ["iptables", "--version"], packageName: "iptables" },
  { argv: ["sysctl", "--version"], packageName: "procps" },
];

const PROBE_DEVICE = "shprobe";
const BRIDGE_SYSCTL = "net.bridge.bridge-nf-call-iptables";

/** `hasIpv6`: @default true */
export type HostFeatures = { hasBrNetfilter: boolean; hasIpv6?: boolean };

/** @throws {ClusterError} unavailable, naming what is missing and how to get it. */
export async function probeHost(run: RunCommand): Promise<HostFeatures> {
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
  const ipv6 = await run(["sysctl", "-n", "net.ipv6.conf.all.forwarding"]);
  return {
    hasBrNetfilter: await probeBrNetfilter(run),
    ...(ipv6.code === 0 ? {} : { hasIpv6: false }),
  };
}

/** Back-ends in the order in which `auto` tries them; IPVS only by configuration. */
const AUTO: readonly BackendName[] = ["nftables", "iptables"];

/** One back-end, not probed yet. `namespacePath`: where IPVS is, in tests of several hosts in one process. */
export function makeBackend(
  name: BackendName,
  run: RunCommand,
  namespacePath?: string,
): MeshBackend {
  switch (name) {
    case "nftables":
      return nftablesBackend(run, openNft(namespacePath));
    case "iptables":
      return iptablesBackend(run, namespacePath);
    case "ipvs":
      return ipvsBackend(run, () => openIpvs(namespacePath));
  }
  return unreachable(name);
}

/**
 * The first back-end that this kernel can carry, or the one that is asked for.
 * @throws {ClusterError} unavailable, with what each of them lacks.
 */
export async function chooseBackend(
  wanted: BackendName | "auto",
  make: (name: BackendName) => MeshBackend,
  features: HostFeatures,
): Promise<MeshBackend> {
  const sample = sampleFilter(features.hasBrNetfilter);
  const lacks: string[] = [];
  for (const name of wanted === "auto" ? AUTO : [wanted]) {
    const backend = make(name);
    try {
      await backend.probe(sample);
      return backend;
    } catch (error) {
      if (!(error instanceof ClusterError)) throw error;
      lacks.push(error.message);
    }
  }
  throw new ClusterError("unavailable", lacks.join(". "));
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
    family: "ipv4",
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
        serviceId: "probe",
        bridge: "sh00000000",
        address: "198.51.100.2",
        hasAffinity: false,
        chain: "vip_probe_sh00000000",
        targets: ["198.51.100.3", "198.51.100.4"],
        unready: [],
      },
      {
        serviceId: "probe2",
        bridge: "sh00000000",
        address: "198.51.100.5",
        hasAffinity: true,
        chain: "vip_probe2_sh00000000",
        targets: [],
        unready: [],
      },
    ],
    ports: [
      {
        serviceId: "probe",
        protocol: "tcp",
        publishedPort: 80,
        targetPort: 80,
        hasAffinity: true,
        isSnat: true,
        targets: ["198.51.100.3", "198.51.100.4"],
        unready: [],
      },
    ],
  };
}
