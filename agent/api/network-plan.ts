/**
 * A cluster network from the body of POST /networks/create: checks with stock's texts, subnet,
 * number. Pure. Source: SwarmKit manager/controlapi/network.go; moby daemon/network.go.
 */
import {
  type ChosenSubnet6,
  chooseSubnet6,
  validateSubnet6,
} from "../../core/allocator/address6.ts";
import { chooseSubnet, validateSubnet } from "../../core/allocator/ipam.ts";
import { encryptionLack } from "../../core/encryption/mesh-keys.ts";
import { ClusterError } from "../../core/errors.ts";
import { ENCRYPTED_OPTION, type NetworkSpec } from "../../core/objects/network.ts";
import type { Draft } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { checkLocalNetwork, isLocalDriver, localNetworkSpec } from "./local-network.ts";
import { asControlError, controlError } from "./problem.ts";
import { VXLAN_OPTION } from "./render.ts";
import type { NetworkCreate } from "./spec-schema.ts";
import { validateName } from "./validate.ts";

const PREDEFINED_NAMES = new Set(["bridge", "host", "none", "default"]);
const PREDEFINED_LABEL = "com.docker.swarm.predefined";
/** VXLAN numbers are counted from here, as in stock. */
const VNI_FIRST = 4096;
const VNI_LAST = 2 ** 24 - 1;

function refuse(message: string): never {
  throw controlError("invalid-argument", message);
}

/** True for networks that all nodes share; the others are the local engine's. */
export function isClusterNetwork(request: NetworkCreate): boolean {
  // A configuration for other networks belongs to the node, whatever its driver.
  if (request.ConfigOnly) return false;
  return request.Driver === "overlay" || request.Ingress || request.Scope === "swarm";
}

/** @throws {ClusterError} forbidden for the names of the networks that each engine has. */
export function refusePredefinedName(name: string): void {
  if (!PREDEFINED_NAMES.has(name)) return;
  if (name === "bridge" || name === "host") {
    throw new ClusterError("name-conflict", `network with name ${name} already exists`);
  }
  throw new ClusterError("forbidden", `operation is not permitted on predefined ${name} network`);
}

/** What can be told without the cluster's state. @throws {ClusterError} */
export function checkNetworkRequest(request: NetworkCreate): void {
  refusePredefinedName(request.Name);
  validateName(request.Name);
  if (request.Scope === "local") {
    throw new ClusterError(
      "forbidden",
      `cannot downgrade network scope for ${request.Driver} networks`,
    );
  }
  if (request.Labels[PREDEFINED_LABEL] !== undefined) {
    throw controlError(
      "forbidden",
      `label ${PREDEFINED_LABEL} is for internally created predefined networks and cannot be applied by users`,
    );
  }
  if (request.Ingress && request.Driver !== "overlay") {
    throw new ClusterError("forbidden", "Ingress network can only be global scope network");
  }
  if (isLocalDriver(request)) {
    checkLocalNetwork(request);
    return;
  }
  if (request.ConfigFrom?.Network) {
    refuse(
      `an overlay network is the same on every node, so it is not made from a node's ${request.ConfigFrom.Network}: give its subnet and options themselves`,
    );
  }
  if (request.Ingress && request.Attachable) refuse("ingress network cannot be attachable");
  if (request.Ingress && request.Internal) refuse("ingress network cannot be internal");
  const subnet6 = request.IPAM.Config.find(({ Subnet }) => Subnet?.includes(":"))?.Subnet;
  if (subnet6 !== undefined && !request.EnableIPv6) {
    // Stock leaves it out and says nothing.
    refuse(`invalid subnet ${subnet6} : IPv6 is not enabled on this network: add --ipv6`);
  }
  const ipamDriver = request.IPAM.Driver;
  if (ipamDriver !== "" && ipamDriver !== "default") {
    throw controlError(
      "not-implemented",
      `IPAM driver "${ipamDriver}" is not supported: use default`,
    );
  }
}

/**
 * The object to be proposed.
 * @throws {ClusterError} invalid-argument, name-conflict; failed-precondition when no subnet is free.
 */
export function planNetwork(
  view: ClusterView,
  request: NetworkCreate,
  id: string,
): Draft<"network"> {
  if (view.networkByName(request.Name)) {
    throw new ClusterError("name-conflict", `network with name ${request.Name} already exists`);
  }
  const ingress = request.Ingress
    ? view.networks().find((network) => network.spec.Ingress)
    : undefined;
  if (ingress) {
    throw controlError("name-conflict", `ingress network (${ingress.id}) is already present`);
  }
  if (isLocalDriver(request)) return { id, spec: localNetworkSpec(request) };
  if (ENCRYPTED_OPTION in request.Options) refuseWithoutEncryption(view, request.Name);
  const wished = wishedSubnet(view, request);
  const { subnet, gateway } = wished ?? chooseSubnet(view);
  const six = request.EnableIPv6
    ? (wishedSubnet6(view, request, subnet) ?? chooseSubnet6(view))
    : undefined;
  const { Options } = request;
  const spec: NetworkSpec = {
    Name: request.Name,
    Labels: request.Labels,
    Driver: request.Driver,
    Options,
    Internal: request.Internal,
    Attachable: request.Attachable,
    Ingress: request.Ingress,
    EnableIPv6: request.EnableIPv6,
    IPAM: {
      Driver: "default",
      Config: [
        {
          Subnet: subnet,
          Gateway: gateway,
          ...(wished?.ipRange === undefined ? {} : { IPRange: wished.ipRange }),
        },
        ...(six ? [{ Subnet: six.subnet6, Gateway: six.gateway6 }] : []),
      ],
    },
  };
  return { id, spec, subnet, gateway, ...six, vni: chooseVni(view, Options[VXLAN_OPTION]) };
}

/** Tasks on it would find no node. One that has not said anything yet may still be able to. */
function refuseWithoutEncryption(view: ClusterView, name: string): void {
  const nodes = view.nodes();
  const mayCarry = nodes.some(
    (node) => encryptionLack(node) === undefined || node.description === undefined,
  );
  if (nodes.length === 0 || mayCarry) return;
  const lacks = new Set(nodes.map((node) => encryptionLack(node) ?? ""));
  const who =
    nodes.length === 1 ? "the node of this cluster cannot" : "no node of this cluster can";
  throw controlError(
    "failed-precondition",
    `cannot create encrypted network ${name}: ${who} encrypt (${[...lacks].sort().join("; ")}). Load these modules on every node (and at boot, by /etc/modules-load.d) and try again within a minute, or leave out --opt encrypted`,
  );
}

/** The number that the user wants, or the next one. */
function chooseVni(view: ClusterView, wanted: string | undefined): number {
  const numbers = view.networks().map((network) => network.vni ?? 0);
  if (wanted === undefined) return Math.max(VNI_FIRST - 1, ...numbers) + 1;
  const vni = /^\d{1,8}$/.test(wanted) ? Number(wanted) : 0;
  if (vni < 1 || vni > VNI_LAST) {
    refuse(`invalid ${VXLAN_OPTION} "${wanted}": give one number from 1 to ${VNI_LAST}`);
  }
  if (numbers.includes(vni)) refuse(`VXLAN number ${vni} is taken: choose another one`);
  return vni;
}

type SubnetWish = { subnet: string; gateway?: string; ipRange?: string };

/** What the request says of one family; a subnet of IPv6 has a colon. */
function wishOf(request: NetworkCreate, family: "IPv4" | "IPv6"): SubnetWish | undefined {
  const configs = request.IPAM.Config;
  for (const { Subnet, Gateway, IPRange } of configs) {
    if (Subnet !== undefined || (Gateway ?? IPRange) === undefined) continue;
    refuse(
      `ipam configuration: ${Gateway === undefined ? "an ip-range" : "a gateway"} needs a subnet`,
    );
  }
  const [config, another] = configs.filter(
    ({ Subnet }) => Subnet !== undefined && Subnet.includes(":") === (family === "IPv6"),
  );
  if (another) {
    throw controlError(
      "not-implemented",
      `more than one ${family} subnet is not supported: give one`,
    );
  }
  if (config?.Subnet === undefined) return undefined;
  const { Gateway: gateway, IPRange: ipRange } = config;
  if (family === "IPv6" && ipRange !== undefined) {
    refuse(`invalid ip-range ${ipRange} : IPv6 addresses follow the IPv4 addresses of a network`);
  }
  return {
    subnet: config.Subnet,
    ...(gateway === undefined ? {} : { gateway }),
    ...(ipRange === undefined ? {} : { ipRange }),
  };
}

/** The user's subnet, checked, or none: then a free one is chosen. */
function wishedSubnet(
  view: ClusterView,
  request: NetworkCreate,
): ReturnType<typeof validateSubnet> | undefined {
  const wish = wishOf(request, "IPv4");
  return wish && asControl(() => validateSubnet(view, wish));
}

/** The same for IPv6, beside the network's IPv4 subnet. */
function wishedSubnet6(
  view: ClusterView,
  request: NetworkCreate,
  subnet: string,
): ChosenSubnet6 | undefined {
  const wish = wishOf(request, "IPv6");
  if (!wish) return undefined;
  const { gateway } = wish;
  return asControl(() =>
    validateSubnet6(view, {
      subnet,
      subnet6: wish.subnet,
      ...(gateway === undefined ? {} : { gateway6: gateway }),
    }),
  );
}

function asControl<T>(check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw asControlError(error);
  }
}
