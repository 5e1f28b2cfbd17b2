/**
 * Addresses that a service has asked for (ContainerOptions.Addresses).
 *
 * 1. While no task has it, such an address is kept free for its service: a restart gets it back.
 * 2. It is never taken from another: who has it first keeps it until that task is dead, or that service's
 *    VIP is gone. A task on a node that is down is not dead: it may run, unseen; until the node is back
 *    or removed the address is not given out again.
 */
import { ClusterError } from "../errors.ts";
import type { Network } from "../objects/network.ts";
import type { Service, ServiceSpec } from "../objects/service.ts";
import { taskName, type TaskSpec } from "../objects/task.ts";
import { parseCidr } from "../store/cidr.ts";
import { holdsAddresses } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import { type AddressPool, parseAddress } from "./ipam.ts";

/** `<network id>/<address>` of those that are kept free and not given out in this plan. */
export type KeptAddresses = Set<string>;

type Fixed = { network: Network; address: string };

/** The addresses that the spec asks for; a text when they fit no network of it. */
function fixedAddresses(view: ClusterView, spec: TaskSpec): Fixed[] | string {
  const fixed: Fixed[] = [];
  const wanted = spec.ContainerSpec.EngineOptions?.Addresses;
  if (!wanted) return fixed;
  const overlays = (spec.Networks ?? [])
    .map(({ Target }) => view.network(Target) ?? view.networkByName(Target))
    .filter((one) => one !== undefined && !one.predefined && one.spec.Driver === "overlay");
  for (const [name, address] of Object.entries(wanted)) {
    const network = overlays.find(
      (one) => name === "" || one?.id === name || one?.spec.Name === name,
    );
    if (!network) {
      return `Cannot give the task address ${address}: the service is not attached to ${name === "" ? "an overlay network" : `network "${name}"`}`;
    }
    fixed.push({ network, address });
  }
  return fixed;
}

/** Keeps what services have asked for out of what is given to others. */
export function keepFixedAddresses(
  view: ClusterView,
  pools: ReadonlyMap<string, AddressPool>,
): KeptAddresses {
  const kept: KeptAddresses = new Set();
  for (const service of view.services()) {
    const fixed = fixedAddresses(view, service.spec.TaskTemplate);
    if (typeof fixed === "string") continue;
    for (const { network, address } of fixed) {
      keepAddress(pools.get(network.id), address, kept);
    }
  }
  return kept;
}

/** Keeps one address, if nobody has it. */
export function keepAddress(
  pool: AddressPool | undefined,
  address: string,
  kept: KeptAddresses,
): void {
  const value = parseAddress(address);
  if (!pool || value === undefined || !isUsable(pool, value) || pool.used.has(value)) return;
  pool.used.add(value);
  kept.add(`${pool.network.id}/${address}`);
}

/** By network id, the addresses that a task of this spec gets; a text when it cannot have them now. */
export function takeFixedAddresses(
  view: ClusterView,
  spec: TaskSpec,
  kept: KeptAddresses,
): Map<string, string> | string {
  const fixed = fixedAddresses(view, spec);
  if (typeof fixed === "string") return fixed;
  for (const { network, address } of fixed) {
    if (kept.has(`${network.id}/${address}`)) continue;
    return `address ${address} of network "${network.spec.Name}" belongs to ${holderOf(view, network, address)}; wait until it is free, or ask for another`;
  }
  for (const { network, address } of fixed) kept.delete(`${network.id}/${address}`);
  return new Map(fixed.map(({ network, address }) => [network.id, address]));
}

function isUsable(pool: AddressPool, value: number): boolean {
  return value >= pool.range.first && value <= pool.range.last && value !== pool.gateway;
}

function holderOf(view: ClusterView, network: Network, address: string): string {
  const isIt = (one: { networkId: string; address?: string }) =>
    one.networkId === network.id && one.address === address;
  const task = view.tasks().find((one) => holdsAddresses(one) && one.networks?.some(isIt));
  if (task) {
    const node = task.nodeId === undefined ? undefined : view.node(task.nodeId);
    const isDown = node?.status.state === "down";
    return `task ${taskName(task)}${isDown ? " (on a node that is down; docker node rm gives it up)" : ""}`;
  }
  for (const service of view.services()) {
    if (service.endpoint?.virtualIps.some((vip) => isIt(vip)))
      return `service ${service.spec.Name}`;
    const slot = slotWith(service, network, address);
    if (slot !== undefined) return slot;
  }
  return "another";
}

/** In words, the slot that keeps the address, with or without a task. */
function slotWith({ spec, slots }: Service, network: Network, address: string): string | undefined {
  for (const [slot, { addresses }] of Object.entries(slots ?? {})) {
    if (addresses?.[network.id] !== address) continue;
    return `slot ${slot} of the stateful service ${spec.Name}`;
  }
  return undefined;
}

/**
 * For the API border, over a spec whose networks are resolved.
 * @throws {ClusterError} invalid-argument when an address can never be had on its network;
 * in-use when another service has asked for it, has it as its VIP, or keeps it for one of its slots.
 */
export function checkFixedAddresses(
  view: ClusterView,
  spec: ServiceSpec,
  ownId: string | undefined,
): void {
  const fixed = fixedAddresses(view, spec.TaskTemplate);
  if (typeof fixed === "string") throw new ClusterError("invalid-argument", fixed);
  for (const { network, address } of fixed) {
    const value = parseAddress(address) ?? 0;
    const range = rangeOf(network);
    if (!range || value <= range.first || value >= range.last || address === network.gateway) {
      throw new ClusterError(
        "invalid-argument",
        `Cannot give a task address ${address}: network "${network.spec.Name}" has ${network.subnet ?? "no subnet"}, its gateway is ${network.gateway ?? "none"}; choose another address of it`,
      );
    }
    for (const other of view.services()) {
      if (other.id === ownId) continue;
      const asked = fixedAddresses(view, other.spec.TaskTemplate);
      const isAsked =
        typeof asked !== "string" &&
        asked.some((one) => one.network.id === network.id && one.address === address);
      const isVip = other.endpoint?.virtualIps.some(
        (vip) => vip.networkId === network.id && vip.address === address,
      );
      const slot = slotWith(other, network, address);
      if (!isAsked && !isVip && slot === undefined) continue;
      const holder = slot ?? `service ${other.spec.Name}`;
      throw new ClusterError(
        "in-use",
        `Cannot give a task address ${address} of network "${network.spec.Name}": it belongs to ${holder}; choose another`,
      );
    }
  }
}

function rangeOf(network: Network) {
  return network.subnet === undefined ? undefined : parseCidr(network.subnet);
}
