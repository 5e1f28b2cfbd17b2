/**
 * Stateful services: each slot keeps its node, its name and its addresses, so that what a task left in a
 * local volume is there for the next one. Labels of a replicated service say it:
 *
 * - `shoal.stateful=true`
 * - `shoal.stateful.replace-after=<duration>`: a slot whose node has been down for so long gets another
 *   one, for services that share their storage; `never` (default) leaves it to the user.
 * - `shoal.stateful.order=parallel`: slots are first made all at once; `ordered` (default): each when the
 *   ones below it run.
 *
 * The rules that follow from them are core/orchestrator/stateful.ts.
 */
import type { NetworkId, NodeId } from "../ids.ts";
import { parseGoDurationMs } from "./go-duration.ts";
import type { Labels } from "./object-meta.ts";
import { modeOf, replicasOf, type Service, type ServiceSpec } from "./service.ts";
import type { Task } from "./task.ts";

/** What is remembered of one slot until a user has it forgotten, whether it is occupied or not. */
export type SlotMemory = {
  /**
   * Its home: only there are tasks of the slot placed. Absent: it was given up, and the next node that the
   * scheduler chooses is the new one.
   */
  nodeId?: NodeId;
  /** By overlay network, without prefix length. */
  addresses?: Record<NetworkId, string>;
};

export const STATEFUL_LABEL = "shoal.stateful";
export const REPLACE_AFTER_LABEL = "shoal.stateful.replace-after";
export const ORDER_LABEL = "shoal.stateful.order";
/** All labels that are read here; the API border refuses others that begin alike. */
export const STATEFUL_LABELS: readonly string[] = [
  STATEFUL_LABEL,
  REPLACE_AFTER_LABEL,
  ORDER_LABEL,
];

/** A DNS label, and what runc takes as a hostname. */
const NAME_LENGTH_MAX = 63;

/** True for a service whose slots keep node, name and addresses. */
export function isStateful(spec: Pick<ServiceSpec, "Labels" | "Mode">): boolean {
  return spec.Labels?.[STATEFUL_LABEL] === "true" && spec.Mode.Replicated !== undefined;
}

/** How long a home may be down before its slots leave it; `Infinity` for ever. */
export function replaceAfterMs(labels: Labels | undefined): number {
  return readReplaceAfter(labels?.[REPLACE_AFTER_LABEL]) ?? Number.POSITIVE_INFINITY;
}

/** Whether a new slot waits until all lower ones run. */
export function isOrdered(labels: Labels | undefined): boolean {
  return labels?.[ORDER_LABEL] !== "parallel";
}

/** `<service>-<slot>`: how a task of a stateful service is found, and its hostname; of others nothing. */
export function slotNameOf(
  task: Pick<Task, "serviceName" | "serviceLabels" | "slot" | "jobIteration">,
): string | undefined {
  if (task.serviceLabels[STATEFUL_LABEL] !== "true") return undefined;
  if (task.slot === 0 || task.jobIteration !== undefined) return undefined;
  return `${task.serviceName}-${task.slot}`;
}

/**
 * The slots of the service with another home for one of them, to be set as `slots`: its task is stopped
 * and the next one starts there, with the slot's addresses. Without `nodeId` the home is given up: the
 * next node that can have the slot, or does have it, is the new one.
 */
export function moveSlot(
  service: Service,
  slot: number,
  nodeId: NodeId | undefined,
): NonNullable<Service["slots"]> {
  const { nodeId: _before, ...rest } = service.slots?.[slot] ?? {};
  return { ...service.slots, [slot]: nodeId === undefined ? rest : { ...rest, nodeId } };
}

/** The slots of the service without one, to be set as `slots`: its home and addresses are forgotten. */
export function forgetSlot(service: Service, slot: number): NonNullable<Service["slots"]> {
  const { [slot]: _forgotten, ...rest } = service.slots ?? {};
  return rest;
}

/**
 * Why the service is not rolled back to the spec at a user's word: it would forget its homes, which nobody asked
 * for; `undefined` when it may be.
 */
export function rollbackProblem({ spec, slots }: Service, to: ServiceSpec): string | undefined {
  const numbers = Object.keys(slots ?? {});
  if (!isStateful(spec) || isStateful(to) || numbers.length === 0) return undefined;
  const command = `docker service update --label-rm ${STATEFUL_LABEL} ${spec.Name}`;
  return `service ${spec.Name} was not stateful before: a rollback would forget the homes of its slots (${numbers.join(", ")}); update what shall be as it was by its own flags, or take the label away if that is meant (${command})`;
}

/** Why the spec cannot be stateful as it says, for the user who writes it; `undefined` when it can. */
export function statefulProblem(spec: ServiceSpec): string | undefined {
  const labels = spec.Labels ?? {};
  const value = labels[STATEFUL_LABEL];
  const after = labels[REPLACE_AFTER_LABEL];
  const order = labels[ORDER_LABEL];
  if (value !== undefined && value !== "true") {
    return `label ${STATEFUL_LABEL}: "${value}" is not known: use true, or leave the label out`;
  }
  if (after !== undefined && readReplaceAfter(after) === undefined) {
    return `label ${REPLACE_AFTER_LABEL}: "${after}" is no duration: use one such as 10m or 24h, or never`;
  }
  if (order !== undefined && order !== "parallel" && order !== "ordered") {
    return `label ${ORDER_LABEL}: "${order}" is no order: use ordered or parallel`;
  }
  if (value === "true") return shapeProblem(spec);
  const [other] = [REPLACE_AFTER_LABEL, ORDER_LABEL].filter((label) => label in labels);
  if (other === undefined) return undefined;
  return `label ${other} is for stateful services: add ${STATEFUL_LABEL}=true, or leave it out`;
}

function shapeProblem(spec: ServiceSpec): string | undefined {
  if (!isStateful(spec)) {
    return `label ${STATEFUL_LABEL}: a ${modeOf(spec)} service cannot be stateful: use replicated mode, or leave the label out`;
  }
  for (const part of ["UpdateConfig", "RollbackConfig"] as const) {
    if (spec[part]?.Order !== "start-first") continue;
    const flag = part === "UpdateConfig" ? "--update-order" : "--rollback-order";
    return `label ${STATEFUL_LABEL}: ${part} has order start-first, which runs two tasks of a slot at once: use ${flag} stop-first`;
  }
  const longest = `${spec.Name}-${replicasOf(spec)}`;
  if (longest.length <= NAME_LENGTH_MAX) return undefined;
  return `label ${STATEFUL_LABEL}: the slot's name ${longest} has ${longest.length} characters, ${NAME_LENGTH_MAX} are possible: choose a shorter service name`;
}

/**
 * Why the service's name, or that of one of its slots, would be found twice; `undefined` when it would
 * not. `others`: the specs of all other services.
 */
export function slotNameProblem(
  spec: ServiceSpec,
  others: readonly ServiceSpec[],
): string | undefined {
  for (const other of others) {
    if (isStateful(spec) && isSlotName(other.Name, spec.Name)) {
      return `label ${STATEFUL_LABEL}: a slot would have the name of service ${other.Name}: choose another service name`;
    }
    if (isStateful(other) && isSlotName(spec.Name, other.Name)) {
      return `name ${spec.Name} is for a slot of the stateful service ${other.Name}: choose another service name`;
    }
  }
  return undefined;
}

function isSlotName(name: string, serviceName: string): boolean {
  const prefix = `${serviceName.toLowerCase()}-`;
  return name.toLowerCase().startsWith(prefix) && /^[1-9]\d*$/.test(name.slice(prefix.length));
}

function readReplaceAfter(text: string | undefined): number | undefined {
  if (text === "never") return Number.POSITIVE_INFINITY;
  return text === undefined ? undefined : parseGoDurationMs(text);
}
