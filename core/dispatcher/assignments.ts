/**
 * What a node must have, computed from a view, key by key: `task/<id>`, `secret/<id>`, `config/<id>`
 * and `settings/<node id>` are the node's own; `peer/…`, `network/…`, `service/…`, `endpoint/…` are
 * shared: every node has the same (so is `mesh-keys/cluster`).
 *
 * 1. Pure: the set is a function of the view. Who was sent what is dispatch.ts.
 * 2. Each key's value depends on the view only, so a set can be brought up to date by computing the
 *    keys that a change may touch (`sharedKeysOf`), never by interpreting the change.
 * 3. A status report does not put the same task again: see `isSameItem`.
 */
import { unreachable } from "../assert.ts";
import { trustedRoots } from "../ca/root-rotation.ts";
import type { NodeId, TaskId } from "../ids.ts";
import type { Attachment } from "../objects/attachment.ts";
import {
  type Balancing,
  balancingOf,
  type PublishPolicy,
  publishPolicyOf,
} from "../objects/balancing.ts";
import type { NodeObject } from "../objects/node.ts";
import type { Service } from "../objects/service.ts";
import { slotNameOf } from "../objects/stateful.ts";
import { isTaskDead, type Task, taskName, taskStateAtLeast } from "../objects/task.ts";
import type { Change } from "../store/action.ts";
import { configIdsOf, secretIdsOf } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import {
  type AssignmentItem,
  type AssignmentsMessage,
  type EndpointEntry,
  MESH_KEYS_KEY,
  type NodeSettings,
  type ServiceEntry,
} from "./assignment.ts";

export type AssignmentSet = ReadonlyMap<string, AssignmentItem>;
export type AssignmentDiff = { put: AssignmentItem[]; removed: string[] };

/** The complete set of one node; empty for a node that is not in the view. */
export function assignmentsFor(
  view: ClusterView,
  nodeId: NodeId,
  isHeld?: (taskId: TaskId) => boolean,
): AssignmentSet {
  if (!view.node(nodeId)) return new Map();
  return new Map([...sharedAssignments(view), ...ownAssignments(view, nodeId, isHeld)]);
}

/** The part that every node has: peers, networks, services, endpoints. */
export function sharedAssignments(view: ClusterView): Map<string, AssignmentItem> {
  const items = new Map<string, AssignmentItem>();
  const add = (item: AssignmentItem | undefined) => {
    if (item) items.set(item.key, item);
  };
  for (const node of view.nodes()) add(peerItem(node));
  for (const network of view.networks()) {
    add({ key: `network/${network.id}`, kind: "network", body: network });
  }
  for (const service of view.services()) add(serviceItem(service));
  for (const task of view.tasks()) add(endpointItem(view, task));
  for (const attachment of view.attachments()) add(attachmentItem(attachment));
  add(meshKeysItem(view));
  return items;
}

/**
 * The part that only this node has: its settings, its tasks, and the secrets and configs that its
 * living tasks reference. A held task (withdrawal.ts) is told as if it were still to run.
 */
export function ownAssignments(
  view: ClusterView,
  nodeId: NodeId,
  isHeld: (taskId: TaskId) => boolean = () => false,
): Map<string, AssignmentItem> {
  const items = new Map<string, AssignmentItem>();
  const node = view.node(nodeId);
  if (!node) return items;
  const settings = settingsItem(view, node);
  if (settings) items.set(settings.key, settings);
  for (const task of view.tasksByNode(nodeId)) {
    if (!isAssigned(task)) continue;
    const body: Task = isHeld(task.id) ? { ...task, desiredState: "running" } : task;
    items.set(`task/${task.id}`, { key: `task/${task.id}`, kind: "task", body });
    if (isTaskDead(task.status.state)) continue;
    for (const id of secretIdsOf(task.spec)) {
      const secret = view.secret(id);
      if (secret) items.set(`secret/${id}`, { key: `secret/${id}`, kind: "secret", body: secret });
    }
    for (const id of configIdsOf(task.spec)) {
      const config = view.config(id);
      if (config) items.set(`config/${id}`, { key: `config/${id}`, kind: "config", body: config });
    }
  }
  return items;
}

/**
 * True while the node must know of the task: from ASSIGNED on, running or to be stopped, and as dead
 * history (its container is kept) until the task object is deleted; a task that shall be forgotten
 * (`remove`) goes as soon as it is dead.
 */
function isAssigned(task: Task): boolean {
  if (!taskStateAtLeast(task.status.state, "assigned")) return false;
  return !(task.desiredState === "remove" && isTaskDead(task.status.state));
}

/** The settings of one node; absent before the cluster object exists. */
export function settingsItem(view: ClusterView, node: NodeObject): AssignmentItem | undefined {
  const cluster = view.cluster();
  if (!cluster) return undefined;
  const managers: NodeSettings["managers"] = [];
  for (const { id, managerAddr } of view.nodes()) {
    if (managerAddr) managers.push({ nodeId: id, addr: managerAddr });
  }
  return {
    key: `settings/${node.id}`,
    kind: "settings",
    body: {
      nodeId: node.id,
      clusterId: cluster.id,
      role: node.role,
      managers,
      caCertificatePem: trustedRoots(cluster),
      ...(cluster.caRotation?.isSigning
        ? { issuerPublicKey: cluster.caRotation.issuerPublicKey }
        : {}),
      heartbeatPeriodMs: cluster.spec.Dispatcher.HeartbeatPeriod / 1e6,
      dataPathPort: cluster.dataPathPort,
      hostname: node.description?.Hostname ?? "",
    },
  };
}

/** Keys of the shared part whose value one change may have changed. */
export function sharedKeysOf(view: ClusterView, change: Change): string[] {
  switch (change.table) {
    case "node":
      // An endpoint is not ready while its node is down.
      return [
        `peer/${change.id}`,
        ...view.tasksByNode(change.id).map((task) => `endpoint/${task.id}`),
      ];
    case "network":
      return [`network/${change.id}`];
    case "service":
      return [`service/${change.id}`];
    case "task":
    case "attachment":
      return [`endpoint/${change.id}`];
    case "cluster":
      return [MESH_KEYS_KEY];
    case "secret":
    case "config":
    case "stack":
      return [];
    default:
      return unreachable(change);
  }
}

/** The value of one shared key now; `undefined` when no node has it. */
export function sharedItem(view: ClusterView, key: string): AssignmentItem | undefined {
  const slash = key.indexOf("/");
  const id = key.slice(slash + 1);
  switch (key.slice(0, slash)) {
    case "peer": {
      const node = view.node(id);
      return node && peerItem(node);
    }
    case "network": {
      const network = view.network(id);
      return network && { key, kind: "network", body: network };
    }
    case "service": {
      const service = view.service(id);
      return service && serviceItem(service);
    }
    case "endpoint": {
      const task = view.task(id);
      if (task) return endpointItem(view, task);
      const attachment = view.attachment(id);
      return attachment && attachmentItem(attachment);
    }
    case "mesh-keys":
      return meshKeysItem(view);
    default:
      return undefined;
  }
}

/** Of every node: one without a task on an encrypted network has published ports of those that have. */
function meshKeysItem(view: ClusterView): AssignmentItem | undefined {
  const keys = (view.cluster()?.meshKeys ?? []).map(({ id, secret }) => ({ id, secret }));
  if (keys.length === 0) return undefined;
  return { key: MESH_KEYS_KEY, kind: "mesh-keys", body: { keys } };
}

function peerItem(node: NodeObject): AssignmentItem | undefined {
  // Until its first session a node has no address for VXLAN, so nothing can be sent to it.
  if (!node.index || !node.meshAddress || !node.dataPathAddr) return undefined;
  const addresses6 = node.description?.addresses6 ?? [];
  return {
    key: `peer/${node.id}`,
    kind: "peer",
    body: {
      nodeId: node.id,
      hostname: node.description?.Hostname ?? "",
      index: node.index,
      dataPathAddr: node.dataPathAddr,
      meshAddress: node.meshAddress,
      ...(addresses6.length > 0 ? { addresses6 } : {}),
      ...(node.encryption ? { encryption: node.encryption } : {}),
    },
  };
}

function serviceItem(service: Service): AssignmentItem | undefined {
  const { endpoint, spec } = service;
  if (!endpoint) return undefined;
  const ports: ServiceEntry["ports"] = [];
  for (const port of endpoint.ports) {
    if (port.PublishMode !== "ingress") continue;
    ports.push({
      protocol: port.Protocol,
      targetPort: port.TargetPort,
      publishedPort: port.PublishedPort,
      ...publishPart(publishPolicyOf(spec.Labels, port)),
    });
  }
  const aliases: ServiceEntry["aliases"] = [];
  for (const attachment of spec.TaskTemplate.Networks ?? spec.Networks ?? []) {
    if (!attachment.Aliases?.length) continue;
    aliases.push({ networkId: attachment.Target, names: attachment.Aliases });
  }
  return {
    key: `service/${service.id}`,
    kind: "service",
    body: {
      serviceId: service.id,
      name: spec.Name,
      mode: endpoint.mode,
      virtualIps: endpoint.virtualIps,
      ports,
      aliases,
      ...balancingPart(balancingOf(spec.Labels)),
    },
  };
}

function publishPart(publish: PublishPolicy): { publish?: PublishPolicy } {
  return publish === "preserve" ? {} : { publish };
}

function balancingPart(balancing: Balancing): { balancing?: Balancing } {
  return Object.keys(balancing).length === 0 ? {} : { balancing };
}

function endpointItem(view: ClusterView, task: Task): AssignmentItem | undefined {
  const { state } = task.status;
  if (task.nodeId === undefined || !taskStateAtLeast(state, "assigned")) return undefined;
  if (isTaskDead(state)) return undefined;
  const addresses: EndpointEntry["addresses"] = [];
  for (const { networkId, address, address6 } of task.networks ?? []) {
    if (address) addresses.push({ networkId, address, ...(address6 ? { address6 } : {}) });
  }
  // On a node-local network only (host, bridge): there is nothing to route or to balance.
  if (addresses.length === 0) return undefined;
  const isWanted = task.desiredState === "running" || task.desiredState === "complete";
  const node = view.node(task.nodeId);
  // Of one that leaves it would be found beside its successor's, for as long as its node is down.
  const slotName = isWanted ? slotNameOf(task) : undefined;
  return {
    key: `endpoint/${task.id}`,
    kind: "endpoint",
    body: {
      taskId: task.id,
      serviceId: task.serviceId,
      name: taskName(task),
      nodeId: task.nodeId,
      addresses,
      ...(slotName === undefined ? {} : { aliases: [slotName] }),
      // A node that is `unknown` or `disconnected` may still serve; one that is down is not asked.
      isReady:
        state === "running" && isWanted && node !== undefined && node.status.state !== "down",
    },
  };
}

/** A user's container is an endpoint that no service balances. */
function attachmentItem(attachment: Attachment): AssignmentItem {
  const { id, nodeId, name, aliases, networkId, address, address6 } = attachment;
  if (address === "") {
    return {
      key: `endpoint/${id}`,
      kind: "endpoint",
      body: {
        taskId: id,
        serviceId: "",
        name,
        nodeId,
        addresses: [],
        localNetworkId: networkId,
        isReady: false,
      },
    };
  }
  const addresses = [{ networkId, address, ...(address6 ? { address6 } : {}) }];
  return {
    key: `endpoint/${id}`,
    kind: "endpoint",
    body: { taskId: id, serviceId: "", name, aliases, nodeId, addresses, isReady: true },
  };
}

/**
 * True when a node that has `a` needs not be sent `b`. For a task that compares what the manager
 * decides; not `status`, `version` and times, which change with each of the node's own reports and
 * would come back to it as an echo. So the status inside an assignment is the one known when it was
 * put; a complete set brings it up to date.
 */
export function isSameItem(a: AssignmentItem, b: AssignmentItem): boolean {
  if (a === b) return true;
  if (a.kind !== b.kind) return false;
  if (a.body === b.body) return true;
  if (a.kind !== "task" || b.kind !== "task") {
    return JSON.stringify(a.body) === JSON.stringify(b.body);
  }
  return TASK_DECIDED.every((field) => {
    const [one, other] = [a.body[field], b.body[field]];
    // A change replaces only the fields that it sets, so the others keep their identity.
    return one === other || JSON.stringify(one) === JSON.stringify(other);
  });
}

const TASK_DECIDED = [
  "desiredState",
  "spec",
  "networks",
  "ports",
  "slot",
  "nodeId",
  "startAfterMs",
  "serviceId",
  "serviceName",
  "serviceLabels",
  "specVersion",
] as const satisfies readonly (keyof Task)[];

/** What turns the set `before` into `after`; both in the order of `after` and `before`. */
export function diffAssignments(before: AssignmentSet, after: AssignmentSet): AssignmentDiff {
  const diff: AssignmentDiff = { put: [], removed: [] };
  for (const [key, item] of after) {
    const known = before.get(key);
    if (!known || !isSameItem(known, item)) diff.put.push(item);
  }
  for (const key of before.keys()) {
    if (!after.has(key)) diff.removed.push(key);
  }
  return diff;
}

/** The receiver's side: the set after a message. */
export function applyAssignments(
  before: AssignmentSet,
  message: Pick<AssignmentsMessage, "type" | "put" | "removed">,
): Map<string, AssignmentItem> {
  const items = new Map(message.type === "complete" ? [] : before);
  for (const key of message.removed) items.delete(key);
  for (const item of message.put) items.set(item.key, item);
  return items;
}
