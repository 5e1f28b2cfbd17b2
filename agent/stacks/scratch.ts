/** A copy of the cluster's objects on which a stack's changes are tried before they are proposed. */
import { ClusterError } from "../../core/errors.ts";
import type { UnixMs } from "../../core/ids.ts";
import type { Proposal, StoreAction } from "../../core/store/action.ts";
import { apply } from "../../core/store/apply.ts";
import { createMemoryRows, type Row } from "../../core/store/memory-rows.ts";
import type { ClusterView } from "../../core/store/view.ts";

export type Scratch = {
  /** With what was done; tasks are those of the view it was made from. */
  view: ClusterView;
  /** What the managers would do. @throws {ClusterError} the refusal. */
  do(action: StoreAction): void;
};

/** Costs a copy of the lists, but of tasks, which are many and which no change of a stack touches. */
export function createScratch(view: ClusterView, nowMs: UnixMs): Scratch {
  const rows = createMemoryRows();
  rows.replaceAll(objectsOf(view), view.index);
  const { task, tasks, tasksByNode, tasksByService } = view;
  return {
    view: { ...rows, task, tasks, tasksByNode, tasksByService },
    do: (action) => {
      const proposal: Proposal = { id: "scratch", atMs: nowMs, mode: "all", actions: [action] };
      const { outcome } = apply(rows, proposal, view.index + 1);
      if (outcome.type === "refused") throw new ClusterError(outcome.code, outcome.message);
    },
  };
}

function* objectsOf(view: ClusterView): Generator<Row> {
  const cluster = view.cluster();
  if (cluster) yield { table: "cluster", object: cluster };
  for (const object of view.nodes()) yield { table: "node", object };
  for (const object of view.networks()) yield { table: "network", object };
  for (const object of view.secrets()) yield { table: "secret", object };
  for (const object of view.configs()) yield { table: "config", object };
  for (const object of view.services()) yield { table: "service", object };
  for (const object of view.attachments()) yield { table: "attachment", object };
  for (const object of view.stacks()) yield { table: "stack", object };
}
