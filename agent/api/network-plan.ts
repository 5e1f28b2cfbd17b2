/**
 * A cluster network from the body of POST /networks/create: checks with stock's texts, subnet,
 * number. Pure. Source: SwarmKit manager/controlapi/network.go; moby daemon/network.go.
 */
import { type ChosenSubnet, chooseSubnet, validateSubnet } from "../../core/allocator/ipam.ts";
import { ClusterError } from "../../core/errors.ts";
import type { NetworkSpec } from "../../core/objects/network.ts";
import type { Draft } from "../../core/store/action.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { asControlError, controlError } from "./problem.ts";
import { VXLAN_OPTION } from "./render.ts";
import type { NetworkCreate } from "./spec-schema.ts";
import { validateName } from "./validate.ts";

const PREDEFINED_NAMES = new Set(["bridge", "host", "none", "default"]);
const PREDEFINED_LABEL = "com.docker.swarm.predefined";
const ENCRYPTED_OPTION = "encrypted";
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
  if (request.ConfigOnly || request.ConfigFrom?.Network) {
    refuse("a network of the cluster cannot be config-only or made from one");
  }
  if (request.Driver !== "overlay") {
    throw controlError(
      "not-implemented",
      `networks of driver "${request.Driver}" and scope swarm are not supported yet: use driver overlay`,
    );
  }
  if (request.Ingress && request.Attachable) refuse("ingress network cannot be attachable");
  if (request.Ingress && request.Internal) refuse("ingress network cannot be internal");
  if (request.EnableIPv6) {
    throw controlError("not-implemented", "IPv6 on overlay networks is not supported yet");
  }
  if (ENCRYPTED_OPTION in request.Options) {
    throw controlError(
      "not-implemented",
      "encrypted overlay networks are not supported yet: run the nodes' traffic over a VPN instead",
    );
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
  const { subnet, gateway } = wishedSubnet(view, request) ?? chooseSubnet(view);
  const { Options } = request;
  const spec: NetworkSpec = {
    Name: request.Name,
    Labels: request.Labels,
    Driver: request.Driver,
    Options,
    Internal: request.Internal,
    Attachable: request.Attachable,
    Ingress: request.Ingress,
    EnableIPv6: false,
    IPAM: { Driver: "default", Config: [{ Subnet: subnet, Gateway: gateway }] },
  };
  return { id, spec, subnet, gateway, vni: chooseVni(view, Options[VXLAN_OPTION]) };
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

/** The user's subnet, checked, or none: then a free one is chosen. */
function wishedSubnet(view: ClusterView, request: NetworkCreate): ChosenSubnet | undefined {
  const configs = request.IPAM.Config;
  if (configs.some((config) => config.IPRange !== undefined)) {
    throw controlError("not-implemented", "IP ranges are not supported: give a smaller subnet");
  }
  const [config, another] = configs.filter((config) => config.Subnet !== undefined);
  if (another) {
    throw controlError("not-implemented", "more than one subnet is not supported: give one");
  }
  if (config?.Subnet === undefined) {
    if (configs.some((config) => config.Gateway !== undefined)) {
      refuse("ipam configuration: a gateway needs a subnet");
    }
    return undefined;
  }
  try {
    return validateSubnet(view, {
      subnet: config.Subnet,
      ...(config.Gateway === undefined ? {} : { gateway: config.Gateway }),
    });
  } catch (error) {
    throw asControlError(error);
  }
}
