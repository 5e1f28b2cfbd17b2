/**
 * What a node has been told against what it should know by the committed state: its tasks with what is
 * decided of them, and everybody's peers, networks, services and endpoints. For the time after healing.
 */
import { unreachable } from "../../../../core/assert.ts";
import type { AssignmentItem } from "../../../../core/dispatcher/assignment.ts";
import type { Task } from "../../../../core/objects/task.ts";
import type { History } from "../history.ts";
import { isDead, isPlaced } from "./task-rules.ts";

/** Differences, empty when the node has exactly what it should. */
export function assignmentDifferences(
  history: History,
  nodeId: string,
  items: ReadonlyMap<string, AssignmentItem>,
): string[] {
  const differences: string[] = [];
  const expected = expectedItems(history, nodeId);
  for (const [key, text] of expected) {
    const item = items.get(key);
    if (!item) differences.push(`lacks ${key}`);
    else if (factsOf(item) !== text) differences.push(`${key} is ${factsOf(item)}, not ${text}`);
  }
  for (const key of items.keys()) {
    if (!expected.has(key) && !key.startsWith("settings/")) differences.push(`still has ${key}`);
  }
  return differences;
}

/** Keys with the facts that matter, as text. */
function expectedItems(history: History, nodeId: string): Map<string, string> {
  const items = new Map<string, string>();
  for (const node of history.nodes.values()) {
    if (node.dataPathAddr) items.set(`peer/${node.id}`, node.dataPathAddr);
  }
  for (const network of history.networks.values()) {
    items.set(`network/${network.id}`, network.subnet ?? "");
  }
  for (const service of history.services.values()) {
    if (!service.endpoint) continue;
    const vips = service.endpoint.virtualIps.map((vip) => vip.address);
    items.set(`service/${service.id}`, vips.join());
  }
  for (const task of history.tasks.values()) {
    const isForgotten = task.desiredState === "remove" && isDead(task);
    const wasPlaced = isPlaced(task) || (isDead(task) && task.nodeId !== undefined);
    if (task.nodeId === nodeId && wasPlaced && !isForgotten) {
      items.set(`task/${task.id}`, taskFacts(task));
    }
    const addresses = addressesOf(task);
    if (isPlaced(task) && addresses !== "") items.set(`endpoint/${task.id}`, addresses);
  }
  return items;
}

function factsOf(item: AssignmentItem): string {
  switch (item.kind) {
    case "peer":
      return item.body.dataPathAddr;
    case "network":
      return item.body.subnet ?? "";
    case "service":
      return item.body.virtualIps.map((vip) => vip.address).join();
    case "task":
      return taskFacts(item.body);
    case "endpoint":
      return item.body.addresses.map(({ address }) => address).join();
    case "settings":
    case "secret":
    case "config":
    case "mesh-keys":
      return "";
    default:
      return unreachable(item);
  }
}

function taskFacts(task: Task): string {
  return `${task.desiredState} ${addressesOf(task)} ${task.spec.ContainerSpec.Image}`;
}

function addressesOf(task: Task): string {
  return (task.networks ?? []).flatMap(({ address }) => address ?? []).join();
}
