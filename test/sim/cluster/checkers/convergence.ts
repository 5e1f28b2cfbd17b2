/**
 * What is wanted against what runs, once the faults have ended: of each service exactly the wanted number
 * of containers, one a slot, on nodes that may have them; no container whose task is gone; every node ready,
 * with what it should know; every manager up to date.
 */
import { TASK_ID_LABEL } from "../../../../agent/reconciler/container-spec.ts";
import type { NodeObject } from "../../../../core/objects/node.ts";
import type { Service } from "../../../../core/objects/service.ts";
import { isStateful } from "../../../../core/objects/stateful.ts";
import type { Task, TaskSpec } from "../../../../core/objects/task.ts";
import type { History } from "../history.ts";
import type { SimHost } from "../host.ts";
import { waitOf } from "../../../../core/orchestrator/start-order.ts";
import { assignmentDifferences } from "./assignments.ts";
import { START_FIRST_LABEL } from "./slots.ts";
import { isDead, isPlaced } from "./task-rules.ts";

/** What is not yet as it should be; empty: converged. */
export function convergenceDifferences(history: History, hosts: readonly SimHost[]): string[] {
  const members = hosts.filter((host) => history.nodes.has(host.identity?.nodeId ?? ""));
  const differences: string[] = [];
  for (const host of members) {
    const node = history.nodes.get(host.identity?.nodeId ?? "");
    if (!node) continue;
    if (node.status.state !== "ready") differences.push(`${host.name} is ${node.status.state}`);
    if (node.role !== node.spec.Role) differences.push(`${host.name} is still ${node.role}`);
    const isManager = host.life?.manager() !== undefined;
    if (isManager !== (node.role === "manager")) differences.push(`${host.name} acts otherwise`);
    if (isManager && !node.managerAddr) differences.push(`${host.name} is not in raft yet`);
    const rows = host.life?.rows();
    if (rows && rows.index < history.lastIndex()) {
      differences.push(`${host.name} has applied ${rows.index} of ${history.lastIndex()}`);
    }
    for (const difference of assignmentDifferences(history, node.id, host.journal.items)) {
      differences.push(`${host.name} ${difference}`);
    }
  }
  differences.push(...containerDifferences(history, members));
  return differences;
}

function containerDifferences(history: History, members: readonly SimHost[]): string[] {
  const differences: string[] = [];
  // A node whose join was never answered has no host, and is down.
  const nodes = members
    .map((host) => history.nodes.get(host.identity?.nodeId ?? ""))
    .filter((node) => node !== undefined);
  const bySlot = new Map<string, string[]>();
  const countByService = new Map<string, number>();
  for (const host of members) {
    const nodeId = host.identity?.nodeId ?? "";
    for (const container of host.engine.containers.values()) {
      const task = history.tasks.get(container.labels[TASK_ID_LABEL] ?? "");
      if (!task) {
        differences.push(`${host.name} has ${container.name} (${container.state}) without a task`);
        continue;
      }
      if (container.state !== "running") continue;
      const service = history.services.get(task.serviceId);
      const node = history.nodes.get(nodeId);
      if (!service || !node) {
        differences.push(`${container.name} runs on ${host.name} for no service`);
        continue;
      }
      if (!isAllowed(task.spec, node) && !mayStay(task, node, nodes)) {
        differences.push(`${container.name} runs on ${host.name}, which may not have it`);
      }
      if (isDead(task) || task.desiredState !== "running") {
        differences.push(`${container.name} runs although it is wanted ${task.desiredState}`);
      }
      const key = `${service.spec.Name}/${task.slot > 0 ? task.slot : nodeId}`;
      bySlot.set(key, [...(bySlot.get(key) ?? []), container.name]);
      countByService.set(service.id, (countByService.get(service.id) ?? 0) + 1);
    }
  }
  for (const [key, names] of bySlot) {
    if (names.length > 1) differences.push(`slot ${key} runs ${names.join(" and ")}`);
  }
  const view = members
    .map((host) => host.life?.rows())
    .find((rows) => rows !== undefined && rows.index >= history.lastIndex());
  for (const service of history.services.values()) {
    const wanted = wantedCount(service, nodes);
    // What it waits for may never come; an update that waits leaves what a drain or a crash took.
    if (view && waitOf(view, service)) wanted.min = 0;
    // A paused update leaves slots with a spec of before, for which there may be no place.
    const isPaused = service.updateStatus?.state.endsWith("paused") === true;
    if (isPaused) wanted.min -= placelessCount(history, service, nodes);
    const found = countByService.get(service.id) ?? 0;
    if (found < wanted.min || found > wanted.max) {
      const order = service.spec.Labels?.[START_FIRST_LABEL] === undefined ? "" : " (start-first)";
      const waiting = [...history.tasks.values()]
        .filter((task) => task.serviceId === service.id && !isDead(task))
        .map(
          (task) =>
            `${task.slot} ${task.status.state}>${task.desiredState} ${task.status.err ?? ""}`,
        );
      differences.push(
        `${service.spec.Name}${order} runs ${found} of ${wanted.max}: ${waiting.join(", ")}`,
      );
    }
  }
  for (const task of history.tasks.values()) {
    if (!history.services.has(task.serviceId)) {
      differences.push(`task ${task.id} of no service is ${task.status.state}`);
    } else if (isPlaced(task) && task.status.state !== "running") {
      differences.push(`task ${task.id} is still ${task.status.state}`);
    }
  }
  return differences;
}

/** A number, but where the newest spec fits nowhere: what an update has not reached goes on then. */
function wantedCount(service: Service, nodes: readonly NodeObject[]): { min: number; max: number } {
  const allowed = nodes.filter((node) => isAllowed(service.spec.TaskTemplate, node));
  const { Global, Replicated } = service.spec.Mode;
  if (Global) return { min: allowed.length, max: allowed.length };
  const max = Replicated?.Replicas ?? 1;
  // Slots wait for a home that is drained, and the ones above them with them.
  const isAway = (nodeId: string | undefined) =>
    nodes.some((node) => node.id === nodeId) && !allowed.some((node) => node.id === nodeId);
  const isWaiting =
    isStateful(service.spec) &&
    Object.values(service.slots ?? {}).some(({ nodeId }) => isAway(nodeId));
  return { min: allowed.length === 0 || isWaiting ? 0 : max, max };
}

function placelessCount(history: History, service: Service, nodes: readonly NodeObject[]): number {
  return [...history.tasks.values()].filter(
    (task) =>
      task.serviceId === service.id &&
      task.status.state === "pending" &&
      task.desiredState === "running" &&
      !nodes.some((node) => isAllowed(task.spec, node)),
  ).length;
}

/** A start-first service's task goes on where it was drained while no other node may have it. */
function mayStay(task: Task, node: NodeObject, nodes: readonly NodeObject[]): boolean {
  const isStartFirst = task.serviceLabels[START_FIRST_LABEL] !== undefined;
  const isDrained = node.spec.Availability === "drain";
  return isStartFirst && isDrained && !nodes.some((other) => isAllowed(task.spec, other));
}

/** The simulator's constraints are of two forms: a node label, or the role. */
function isAllowed(spec: TaskSpec, node: NodeObject): boolean {
  if (node.spec.Availability !== "active") return false;
  return (spec.Placement?.Constraints ?? []).every((constraint) => {
    const [left = "", right = ""] = constraint.split("==");
    if (left === "node.role") return node.role === right;
    return node.spec.Labels[left.replace("node.labels.", "")] === right;
  });
}
