/**
 * Gives services their published ports and virtual IPs, and new tasks their addresses.
 *
 * 1. Existing VIPs and dynamic ports of a service are kept over updates.
 * 2. A task leaves `new` only with all its addresses, and only after or together with its service's
 *    endpoint for the current spec.
 * 3. A task is attached to the ingress network only when its service publishes ingress ports and no
 *    other network gives it a way out of the host: overlay networks that are not internal do.
 * 4. Task addresses are free again when the task is dead (claims.ts, holdsAddresses), never before:
 *    a down node may still run it.
 *
 * What cannot be had is said in the task's `status.err`, and tried again in every round.
 */
import type { Network } from "../objects/network.ts";
import type { Service, ServiceEndpoint } from "../objects/service.ts";
import { slotNameOf } from "../objects/stateful.ts";
import type { Task, TaskNetwork, TaskSpec } from "../objects/task.ts";
import {
  closeDraft,
  openDraft,
  type PlanDraft,
  updateService,
  updateTask,
} from "../orchestrator/plan-draft.ts";
import { compareTasks, isWanted } from "../orchestrator/slot.ts";
import type { Planner } from "../plan.ts";
import type { ClusterView } from "../store/view.ts";
import { address6Part } from "./address6.ts";
import { type KeptAddresses, takeFixedAddresses } from "./fixed.ts";
import {
  type AddressPool,
  explainExhaustion,
  openAddressPools,
  returnAddress,
  takeAddress,
} from "./ipam.ts";
import { allocatePorts, openPortTable, type PortTable } from "./ports.ts";
import { keepAddresses, takeSlotAddresses } from "./slot-addresses.ts";

type Pools = Map<string, AddressPool>;

export const planAllocation: Planner = (input) => {
  const draft = openDraft(input);
  const services = input.view
    .services()
    .filter((service) => service.endpoint?.specVersion !== service.specVersion);
  const tasks = input.view
    .tasks()
    .filter((task) => task.status.state === "new" && isWanted(task))
    .sort(compareTasks);
  if (services.length === 0 && tasks.length === 0) return closeDraft(draft);

  const pools = openAddressPools(input.view);
  const kept = keepAddresses(input.view, pools);
  const ports = openPortTable(input.view);
  const results = new Map<string, ServiceEndpoint | string>();
  for (const service of services) {
    results.set(service.id, allocateService(draft, service, pools, ports));
  }
  for (const task of tasks) {
    const service = input.view.service(task.serviceId);
    if (service === undefined) continue;
    const endpoint = results.get(service.id) ?? service.endpoint;
    const problem =
      typeof endpoint === "object"
        ? allocateTask(draft, task, endpoint, { pools, kept })
        : endpoint;
    if (problem !== undefined) refuse(draft, task, problem);
  }
  return closeDraft(draft);
};

/** The planned endpoint, or why it cannot be had. */
function allocateService(
  draft: PlanDraft,
  service: Service,
  pools: Pools,
  portTable: PortTable,
): ServiceEndpoint | string {
  const ports = allocatePorts(portTable, service);
  if (typeof ports === "string") return report(draft, service, ports);
  const mode = service.spec.EndpointSpec?.Mode ?? "vip";
  const endpoint: ServiceEndpoint = {
    specVersion: service.specVersion,
    mode,
    ports,
    virtualIps: [],
  };
  const isPublished = ports.some((port) => port.PublishMode === "ingress");
  const networks = mode === "vip" ? overlaysOf(draft.view, service.spec.TaskTemplate) : [];
  if (typeof networks === "string") return report(draft, service, networks);
  const ingress = isPublished && mode === "vip" ? ingressOf(draft.view) : undefined;
  if (ingress && !networks.includes(ingress)) networks.push(ingress);

  const taken: { pool: AddressPool; address: string }[] = [];
  for (const network of networks) {
    const kept = service.endpoint?.virtualIps.find((vip) => vip.networkId === network.id);
    const pool = pools.get(network.id);
    const address = kept?.address ?? (pool && takeAddress(pool));
    if (address === undefined) {
      for (const item of taken) returnAddress(item.pool, item.address);
      return report(draft, service, pool ? explainExhaustion(pool) : withoutSubnet(network));
    }
    if (!kept && pool) taken.push({ pool, address });
    endpoint.virtualIps.push({
      networkId: network.id,
      address,
      ...address6Part(network, address),
    });
  }
  updateService(draft, service, { endpoint });
  return endpoint;
}

/** Why it cannot be done, or `undefined` when it was planned. */
function allocateTask(
  draft: PlanDraft,
  task: Task,
  endpoint: ServiceEndpoint,
  { pools, kept }: { pools: Pools; kept: KeptAddresses },
): string | undefined {
  const wanted = attachmentsOf(draft.view, task, endpoint);
  if (typeof wanted === "string") return wanted;
  const fixed = takeFixedAddresses(draft.view, task.spec, kept);
  if (typeof fixed === "string") return fixed;
  const slots = takeSlotAddresses(draft, task, { pools, kept });
  if (typeof slots === "string") return slots;
  const networks: TaskNetwork[] = [];
  const taken: { pool: AddressPool; address: string }[] = [];
  for (const { network, aliases } of wanted) {
    if (!isOverlay(network)) {
      networks.push({ networkId: network.id, aliases });
      continue;
    }
    const given = fixed.get(network.id) ?? slots.get(network.id);
    if (given !== undefined) {
      networks.push(legOf(network, given, aliases));
      continue;
    }
    const pool = pools.get(network.id);
    const address = pool && takeAddress(pool);
    if (pool === undefined || address === undefined) {
      for (const item of taken) returnAddress(item.pool, item.address);
      return pool ? explainExhaustion(pool) : withoutSubnet(network);
    }
    taken.push({ pool, address });
    networks.push(legOf(network, address, aliases));
  }
  updateTask(draft, task, {
    networks,
    ports: endpoint.ports.map((port) => ({ ...port })),
    status: { state: "pending", atMs: draft.nowMs, message: "pending task scheduling" },
  });
  return undefined;
}

function legOf(network: Network, address: string, aliases: string[]): TaskNetwork {
  return { networkId: network.id, address, ...address6Part(network, address), aliases };
}

type Attachment = { network: Network; aliases: string[] };

/** The networks that the task joins, or why that cannot be told. */
function attachmentsOf(
  view: ClusterView,
  task: Task,
  endpoint: ServiceEndpoint,
): Attachment[] | string {
  const attachments: Attachment[] = [];
  const slotName = slotNameOf(task);
  for (const { Target, Aliases } of task.spec.Networks ?? []) {
    const network = view.network(Target) ?? view.networkByName(Target);
    if (network === undefined) return notFound(Target);
    if (attachments.some((other) => other.network === network)) continue;
    const own = slotName === undefined || network.predefined ? [] : [slotName];
    attachments.push({ network, aliases: [...(Aliases ?? []), ...own] });
  }
  const isPublished = endpoint.ports.some((port) => port.PublishMode === "ingress");
  const hasWayOut = attachments.some(
    ({ network }) =>
      (isOverlay(network) && !network.spec.Internal) ||
      // A container in the host's namespace, or with none, cannot join other networks.
      (network.predefined && network.spec.Driver !== "bridge"),
  );
  const ingress = isPublished && !hasWayOut ? ingressOf(view) : undefined;
  if (ingress && !attachments.some((other) => other.network === ingress)) {
    attachments.push({ network: ingress, aliases: [] });
  }
  return attachments;
}

/** The overlay networks that a spec names, without doubles; a text when one does not exist. */
function overlaysOf(view: ClusterView, spec: TaskSpec): Network[] | string {
  const networks = new Set<Network>();
  for (const { Target } of spec.Networks ?? []) {
    const network = view.network(Target) ?? view.networkByName(Target);
    if (network === undefined) return notFound(Target);
    if (isOverlay(network)) networks.add(network);
  }
  return [...networks];
}

function isOverlay(network: Network): boolean {
  return !network.predefined && network.spec.Driver === "overlay";
}

function ingressOf(view: ClusterView): Network | undefined {
  return view.networks().find((network) => network.spec.Ingress);
}

function notFound(target: string): string {
  return `network ${target} not found: create it, or update the service to leave it out`;
}

function withoutSubnet(network: Network): string {
  return `network "${network.spec.Name}" has no subnet: remove it and create it again`;
}

function report(draft: PlanDraft, service: Service, message: string): string {
  draft.reasons.push({ objectId: service.id, message });
  return message;
}

function refuse(draft: PlanDraft, task: Task, err: string): void {
  draft.reasons.push({ objectId: task.id, message: err });
  if (task.status.err === err) return;
  updateTask(draft, task, { status: { ...task.status, atMs: draft.nowMs, err } });
}
