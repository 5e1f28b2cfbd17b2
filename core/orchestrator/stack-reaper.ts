/**
 * Removes what a stack has left: networks that its newest revision lacks, secrets and configs that none of its kept
 * revisions names, and all of these once the stack is gone; each as soon as nothing uses it. So a deployment
 * need not wait for the tasks of the version before, and is one proposal.
 *
 * Only objects with the label of the stack's id: what a user or `docker stack deploy` made is theirs.
 */
import { STACK_ID_LABEL, type Stack } from "../objects/stack.ts";
import type { Planner } from "../plan.ts";
import { referencesOf } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";
import { closeDraft, openDraft } from "./plan-draft.ts";

type Kind = "network" | "secret" | "config";

export const planStackReaping: Planner = (input) => {
  const draft = openDraft(input);
  const { view } = input;
  const left: { kind: Kind; id: string; version: number }[] = [];
  const collect = (kind: Kind, objects: ReturnType<ClusterView["networks" | "secrets"]>) => {
    for (const { id, version, spec } of objects) {
      const stackId = spec.Labels?.[STACK_ID_LABEL];
      if (stackId === undefined || isWanted(view.stack(stackId), kind, spec.Name)) continue;
      left.push({ kind, id, version });
    }
  };
  collect("network", view.networks());
  collect("secret", view.secrets());
  collect("config", view.configs());
  if (left.length === 0) return closeDraft(draft);
  const used = usedKeys(view);
  for (const { kind, id, version } of left) {
    if (used.has(`${kind}/${id}`)) continue;
    draft.actions.push({ type: "remove", table: kind, id, ifVersion: version });
  }
  return closeDraft(draft);
};

function isWanted(stack: Stack | undefined, kind: Kind, name: string): boolean {
  if (!stack) return false;
  if (kind === "network") {
    return stack.revisions.at(-1)?.model.networks.some((one) => one.Name === name) ?? false;
  }
  const list = kind === "secret" ? "secrets" : "configs";
  return stack.revisions.some(({ model }) => model[list].some((one) => one.Name === name));
}

/** What apply refuses to remove (refusals.ts), and what a rollback needs. */
function usedKeys(view: ClusterView): Set<string> {
  const used = new Set<string>();
  const add = (keys: readonly string[]) => {
    for (const key of keys) used.add(key);
  };
  for (const service of view.services()) {
    add(referencesOf("service", service));
    // An update that fails goes back to it, by itself; one that has come to its end does not.
    const { previousSpec, updateStatus } = service;
    const isOver = updateStatus?.state === "completed";
    if (previousSpec && !isOver) add(referencesOf("service", { ...service, spec: previousSpec }));
  }
  for (const task of view.tasks()) {
    if (view.service(task.serviceId)) add(referencesOf("task", task));
  }
  for (const attachment of view.attachments()) add(referencesOf("attachment", attachment));
  return used;
}
