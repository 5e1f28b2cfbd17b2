import type { PortConfig, Service } from "../objects/service.ts";
import { isTaskDead, type Task, type TaskSpec, taskStateAtLeast } from "../objects/task.ts";
import { matchesConstraints } from "../scheduler/constraint.ts";
import { supportsPlatform } from "../scheduler/filters.ts";
import type { ClusterView } from "../store/view.ts";

/**
 * True when the task does not do what its service's spec says, so that an update must replace it.
 * Changes of replicas, labels, update and restart settings of the service's own do not count; nor
 * does a change of placement alone, while the task's node still fits; nor registry credentials once
 * the image is there (before that, and after a failed pull, they may be what was wrong).
 * Source: SwarmKit manager/orchestrator/task.go IsTaskDirty. Different: a change of the endpoint
 * mode alone needs no new tasks, since names and VIPs are answered by the mesh.
 */
export function isTaskDirty(view: ClusterView, service: Service, task: Task): boolean {
  if (task.specVersion === service.specVersion) return false;
  if (isOutdated(service, task)) return true;
  const wanted = service.spec.TaskTemplate;
  if (isSameSpec(task.spec.Placement, wanted.Placement)) return false;
  // Not placed yet: it may wait for ever for what is no longer asked of a node.
  if (task.nodeId === undefined) return true;
  const node = view.node(task.nodeId);
  if (node === undefined) return false;
  return (
    !matchesConstraints(wanted.Placement?.Constraints ?? [], node) ||
    !supportsPlatform(wanted.Placement?.Platforms ?? [], node)
  );
}

/**
 * As `isTaskDirty`, wherever the task is: its container, resources or ports are no longer wanted.
 */
export function isOutdated(service: Service, task: Task): boolean {
  if (task.specVersion === service.specVersion) return false;
  const { state } = task.status;
  const isPulled = taskStateAtLeast(state, "ready") && !isTaskDead(state);
  const wanted = comparable(service.spec.TaskTemplate, isPulled);
  if (!isSameSpec(comparable(task.spec, isPulled), wanted)) return true;
  return task.ports !== undefined && !hasPorts(task.ports, service.spec.EndpointSpec?.Ports ?? []);
}

function comparable(spec: TaskSpec, isPulled: boolean): Record<string, unknown> {
  const { Placement: _placement, ContainerSpec, ...rest } = spec;
  const container = { ...ContainerSpec };
  if (isPulled) delete container.PullOptions;
  // Go clients write the names of the defaults.
  if (rest.Runtime === "container") delete rest.Runtime;
  if (container.Isolation === "default") delete container.Isolation;
  if (rest.RestartPolicy?.Condition === "any") {
    const { Condition: _default, ...policy } = rest.RestartPolicy;
    rest.RestartPolicy = policy;
  }
  return { ...rest, ContainerSpec: container };
}

function hasPorts(found: NonNullable<Task["ports"]>, wanted: readonly PortConfig[]): boolean {
  if (found.length !== wanted.length) return false;
  const rest = [...found];
  for (const port of wanted) {
    const index = rest.findIndex(
      (other) =>
        other.TargetPort === port.TargetPort &&
        other.Protocol === (port.Protocol ?? "tcp") &&
        other.PublishMode === (port.PublishMode ?? "ingress") &&
        (!port.PublishedPort || other.PublishedPort === port.PublishedPort),
    );
    if (index < 0) return false;
    rest.splice(index, 1);
  }
  return true;
}

/** Fields whose zero is a choice and differs from "not given". */
const MEANINGFUL_ZEROS = new Set(["Delay", "Init"]);

/** Maps of texts: what is there is there, also when it is empty, as in `--label a`. */
export const MAP_FIELDS: ReadonlySet<string> = new Set([
  "Labels",
  "Options",
  "DriverOpts",
  "Sysctls",
  "Tmpfs",
  "StorageOpt",
  "Annotations",
]);

/**
 * Equality of specs as a Go client sees them, which writes zeros, empty lists and empty objects
 * where nothing was given: those are the same as an absent field. The order of keys is free.
 */
export function isSameSpec(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (isEmpty(a) && isEmpty(b)) return true;
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((value, index) => isSameSpec(value, b[index]));
  }
  if (Array.isArray(a) || Array.isArray(b)) return false;
  if ((a !== undefined && !isObject(a)) || (b !== undefined && !isObject(b))) return false;
  const left = a ?? {};
  const right = b ?? {};
  for (const key of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const isSame = MEANINGFUL_ZEROS.has(key)
      ? left[key] === right[key]
      : MAP_FIELDS.has(key)
        ? isSameMap(left[key], right[key])
        : isSameSpec(left[key], right[key]);
    if (!isSame) return false;
  }
  return true;
}

function isSameMap(a: unknown, b: unknown): boolean {
  // A tmpfs has a list of options.
  if (Array.isArray(a) || Array.isArray(b)) return isSameSpec(a, b);
  const left = isObject(a) ? a : {};
  const right = isObject(b) ? b : {};
  const keys = Object.keys(left);
  if (keys.length !== Object.keys(right).length) return false;
  return keys.every((key) => left[key] === right[key]);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  if (value === 0 || value === "" || value === false) return true;
  if (Array.isArray(value)) return value.length === 0;
  return isObject(value) && Object.keys(value).length === 0;
}
