/**
 * What an object takes for itself and what it uses. Every uniqueness rule of the store is a claim,
 * every "in use" rule a reference, so that stores keep two generic indexes and `apply` checks both
 * without scanning tables.
 *
 * 1. Two objects never hold the same exclusive claim; a shared claim is not held beside an exclusive
 *    one of another object.
 * 2. A referenced network, secret or config exists (checked when the reference is made) and is not
 *    removed while referenced.
 */
import { unreachable } from "../assert.ts";
import type { NetworkId } from "../ids.ts";
import type { Service, ServiceSpec } from "../objects/service.ts";
import { isTaskDead, TASK_STATE_ORDER, type Task, type TaskSpec } from "../objects/task.ts";
import type { TableName, Tables } from "./action.ts";
import type { ObjectKey } from "./rows.ts";

/** Claims are texts `<kind>/…`; see `claimsOf` for the kinds. */
export type Claims = { exclusive: string[]; shared: string[] };

/**
 * False once the task can never hold a container (again): dead, or given up before it had a node.
 * Its addresses are free then. Allocator and apply must agree on this rule, or plans are refused.
 */
export function holdsAddresses(task: Pick<Task, "desiredState" | "status">): boolean {
  if (isTaskDead(task.status.state)) return false;
  const isGivenUp = TASK_STATE_ORDER[task.desiredState] >= TASK_STATE_ORDER.shutdown;
  return !(isGivenUp && TASK_STATE_ORDER[task.status.state] < TASK_STATE_ORDER.assigned);
}

/** Names are compared without case, as in SwarmKit's stores (and as DNS compares them). */
export function nameClaim(table: TableName, name: string): string {
  return `name/${table}/${name.toLowerCase()}`;
}

/**
 * Kinds: `name` (table, name), `port` (protocol, published port; host-mode ports are shared),
 * `address` (network, address), `attached` (network, node), `vni`, `ingress`, `node-index`, `mesh-address`, `cluster`.
 */
export function claimsOf<T extends TableName>(table: T, object: Tables[T]): Claims {
  // The table names the type, which TypeScript does not follow through a generic parameter.
  const row = { table, object } as { [N in TableName]: { table: N; object: Tables[N] } }[TableName];
  switch (row.table) {
    case "cluster":
      return { exclusive: ["cluster"], shared: [] };
    case "node":
      return {
        exclusive: [`node-index/${row.object.index}`, `mesh-address/${row.object.meshAddress}`],
        shared: [],
      };
    case "network": {
      const exclusive = [nameClaim("network", row.object.spec.Name)];
      if (row.object.vni !== undefined) exclusive.push(`vni/${row.object.vni}`);
      if (row.object.spec.Ingress) exclusive.push("ingress");
      return { exclusive, shared: [] };
    }
    case "service":
      return serviceClaims(row.object);
    case "attachment": {
      const { networkId, nodeId, address } = row.object;
      // One a node on a network of a local driver, where the engine gives addresses.
      const claim =
        address === "" ? `attached/${networkId}/${nodeId}` : `address/${networkId}/${address}`;
      return { exclusive: [claim], shared: [] };
    }
    case "task":
      return { exclusive: taskAddresses(row.object), shared: [] };
    case "secret":
    case "config":
    case "stack":
      return { exclusive: [nameClaim(row.table, row.object.spec.Name)], shared: [] };
    default:
      return unreachable(row);
  }
}

function serviceClaims(service: Service): Claims {
  const exclusive = new Set([nameClaim("service", service.spec.Name)]);
  const shared = new Set<string>();
  // The spec's ports and the allocated ones: between a change of the spec and the next run of the
  // allocator both are served. Source: SwarmKit controlapi checkPortConflicts.
  const ports = [...(service.spec.EndpointSpec?.Ports ?? []), ...(service.endpoint?.ports ?? [])];
  for (const port of ports) {
    if (!port.PublishedPort) continue;
    const claim = `port/${port.Protocol ?? "tcp"}/${port.PublishedPort}`;
    if (port.PublishMode === "host") shared.add(claim);
    else exclusive.add(claim);
  }
  for (const vip of service.endpoint?.virtualIps ?? []) {
    exclusive.add(`address/${vip.networkId}/${vip.address}`);
  }
  return { exclusive: [...exclusive], shared: [...shared] };
}

function taskAddresses(task: Task): string[] {
  if (!holdsAddresses(task)) return [];
  const claims: string[] = [];
  for (const network of task.networks ?? []) {
    if (network.address) claims.push(`address/${network.networkId}/${network.address}`);
  }
  return claims;
}

/** Objects that this one uses, without doubles. */
export function referencesOf<T extends TableName>(table: T, object: Tables[T]): ObjectKey[] {
  // As in claimsOf: the table names the type.
  const row = { table, object } as { [N in TableName]: { table: N; object: Tables[N] } }[TableName];
  if (row.table === "service") {
    const service = row.object;
    const networks = new Set(networkIdsOf(service.spec));
    for (const vip of service.endpoint?.virtualIps ?? []) networks.add(vip.networkId);
    return [
      ...[...networks].map((id) => `network/${id}`),
      ...secretIdsOf(service.spec.TaskTemplate).map((id) => `secret/${id}`),
      ...configIdsOf(service.spec.TaskTemplate).map((id) => `config/${id}`),
    ];
  }
  if (row.table === "attachment") return [`network/${row.object.networkId}`];
  // A task that is wanted no more does not keep its network from being removed, even while its
  // container stops (`stack rm` removes both in one go); its addresses stay claimed, and no new
  // subnet is cut over them (allocator/ipam.ts). Source: SwarmKit controlapi/network.go.
  if (row.table === "task" && holdsAddresses(row.object) && isWanted(row.object)) {
    const networks = (row.object.networks ?? []).map((network) => `network/${network.networkId}`);
    return [...new Set(networks)];
  }
  return [];
}

function isWanted(task: Task): boolean {
  return TASK_STATE_ORDER[task.desiredState] < TASK_STATE_ORDER.shutdown;
}

/** Networks that a service's spec names, the legacy place included. */
export function networkIdsOf(spec: ServiceSpec): NetworkId[] {
  const attachments = [...(spec.TaskTemplate.Networks ?? []), ...(spec.Networks ?? [])];
  return [...new Set(attachments.map((attachment) => attachment.Target))];
}

/** Secrets that a container of this spec mounts. */
export function secretIdsOf(spec: TaskSpec): string[] {
  return idsIn(spec.ContainerSpec.Secrets, "SecretID");
}

/** Configs that a container of this spec mounts or takes its credential spec from. */
export function configIdsOf(spec: TaskSpec): string[] {
  const ids = new Set(idsIn(spec.ContainerSpec.Configs, "ConfigID"));
  const credential = spec.ContainerSpec.Privileges?.["CredentialSpec"];
  if (typeof credential === "object" && credential !== null && "Config" in credential) {
    if (typeof credential.Config === "string" && credential.Config) ids.add(credential.Config);
  }
  return [...ids];
}

function idsIn(references: Record<string, unknown>[] | undefined, field: string): string[] {
  const ids = new Set<string>();
  for (const reference of references ?? []) {
    const id = reference[field];
    if (typeof id === "string" && id) ids.add(id);
  }
  return [...ids];
}
