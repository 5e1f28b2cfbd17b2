/** Words for a slot of a stateful service that cannot be placed on its home. */
import type { NodeObject } from "../objects/node.ts";
import type { Task } from "../objects/task.ts";
import type { Filter } from "./filters.ts";

/** Why the slot's task waits, and what to do. `failed`: the filter that its home does not pass. */
export function explainHome(task: Task, home: NodeObject, failed: Filter): string {
  const name = home.description?.Hostname || home.id;
  const { serviceName, slot } = task;
  const move = `give the slot another home (${moveCommand(serviceName, slot)})`;
  return `slot ${slot} lives on node ${name}, which ${condition(task, home, failed)}, or ${move}`;
}

/** How a user gives a slot another home. */
export function moveCommand(serviceName: string, slot: number): string {
  return `shoal slots move ${serviceName} ${slot} --node NODE`;
}

function condition(task: Task, { status, spec }: NodeObject, failed: Filter): string {
  if (status.state !== "ready") return `is ${status.state}: bring it back`;
  if (spec.Availability === "drain") return "is drained: activate it";
  if (spec.Availability === "pause") return "is paused: activate it";
  const { serviceName, slot } = task;
  return `cannot take it now (${failed.explain(1)}): see shoal why ${serviceName}.${slot}`;
}
