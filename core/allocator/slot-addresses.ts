/**
 * Addresses of the slots of stateful services: each task has those of the one before it in the slot.
 *
 * 1. While they are remembered they are kept from everybody else, also of slots that have no task.
 * 2. A task waits for its addresses while the one before it in the slot may still run, and for no other
 *    holder: then it is given new ones, which are the slot's from then on.
 */
import { isStateful } from "../objects/stateful.ts";
import { type Task, taskName } from "../objects/task.ts";
import { mayStillRun } from "../orchestrator/slot.ts";
import { addressesOf, homeOf } from "../orchestrator/stateful.ts";
import type { PlanInput } from "../plan.ts";
import { holdsAddresses } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import { type KeptAddresses, keepAddress, keepFixedAddresses } from "./fixed.ts";
import type { AddressPool } from "./ipam.ts";

/** Keeps out of what is given to others what services asked for and what slots remember. */
export function keepAddresses(
  view: ClusterView,
  pools: ReadonlyMap<string, AddressPool>,
): KeptAddresses {
  const kept = keepFixedAddresses(view, pools);
  for (const service of view.services()) {
    for (const { addresses = {} } of Object.values(service.slots ?? {})) {
      for (const [networkId, address] of Object.entries(addresses)) {
        keepAddress(pools.get(networkId), address, kept);
      }
    }
  }
  return kept;
}

/**
 * By network id, the addresses that the task takes over from its slot, as far as they are free; a text
 * while it must wait for them. Nothing for tasks of other services.
 */
export function takeSlotAddresses(
  { view, nowMs }: Pick<PlanInput, "view" | "nowMs">,
  task: Task,
  { pools, kept }: { pools: ReadonlyMap<string, AddressPool>; kept: KeptAddresses },
): Map<string, string> | string {
  const taken = new Map<string, string>();
  const service = view.service(task.serviceId);
  if (!service || !isStateful(service.spec)) return taken;
  const homeId = homeOf(view, service, task.slot, nowMs);
  const before = view
    .tasksByService(service.id)
    .find(
      (other) =>
        other.slot === task.slot &&
        other.id !== task.id &&
        holdsAddresses(other) &&
        other.networks?.some(({ address }) => address !== undefined) &&
        mayStillRun(view, other, homeId),
    );
  if (before) return `waits until task ${taskName(before)} has stopped, whose addresses it keeps`;
  for (const [networkId, address] of Object.entries(addressesOf(view, service, task.slot))) {
    // Of a slot that is not written down yet it is not kept, but may be free.
    keepAddress(pools.get(networkId), address, kept);
    if (kept.delete(`${networkId}/${address}`)) taken.set(networkId, address);
  }
  return taken;
}
