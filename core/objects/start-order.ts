/**
 * What a service waits for before it starts. A label of the service says it:
 * `shoal.depends-on=<service>[:<condition>],…`, by the names of services, with a condition of
 *
 * - `started` (default): a task of it has been started
 * - `healthy`: all its tasks run, and are healthy where they have a health check
 * - `completed`: it is a job, and its last run is done
 *
 * When it waits and when not any more: core/orchestrator/start-order.ts.
 */
import type { Labels } from "./object-meta.ts";
import { isJob, type ServiceSpec } from "./service.ts";

export const DEPENDS_ON_LABEL = "shoal.depends-on";
/** Of one service. */
export const DEPENDENCIES_MAX = 50;

const CONDITIONS = ["started", "healthy", "completed"] as const;
export type StartCondition = (typeof CONDITIONS)[number];
export type Dependency = { serviceName: string; condition: StartCondition };

/** None for a label that cannot be read, which the API border refuses. */
export function dependenciesOf(labels: Labels | undefined): Dependency[] {
  const read = parse(labels?.[DEPENDS_ON_LABEL]);
  return typeof read === "string" ? [] : read;
}

/** The label's value. */
export function dependsOnText(dependencies: readonly Dependency[]): string {
  return dependencies.map(({ serviceName, condition }) => `${serviceName}:${condition}`).join(",");
}

/** Why the label cannot stand, for the user who writes it; `others`: the specs of all other services. */
export function dependencyProblem(
  spec: ServiceSpec,
  others: readonly ServiceSpec[],
): string | undefined {
  const read = parse(spec.Labels?.[DEPENDS_ON_LABEL]);
  if (typeof read === "string") return read;
  const byName = new Map(others.map((other) => [other.Name, other]));
  for (const dependency of read) {
    const other = byName.get(dependency.serviceName);
    const misfit = other && misfitOf(dependency, other);
    if (misfit !== undefined) return misfit;
  }
  const circle = circleOf(spec, byName);
  if (circle === undefined) return undefined;
  return `${circle.join(" waits for ")}, so that none of them would ever start: take one of these out`;
}

/** Why the condition can never hold for the service that is meant; `undefined` when it can. */
export function misfitOf({ condition }: Dependency, spec: ServiceSpec): string | undefined {
  const { Name: name } = spec;
  if (condition === "completed" && !isJob(spec)) {
    return `${name} is no job, and never completes: make it one (mode replicated-job), or wait for it to be healthy`;
  }
  if (condition === "healthy" && isJob(spec)) {
    return `${name} is a job, which ends: wait for it to be completed`;
  }
  return undefined;
}

function parse(text: string | undefined): Dependency[] | string {
  if (text === undefined) return [];
  const found = new Map<string, Dependency>();
  for (const part of text.split(",")) {
    const [serviceName = "", condition = "started", ...more] = part.trim().split(":");
    const known = CONDITIONS.find((one) => one === condition);
    if (serviceName === "" || more.length > 0) {
      return `"${part}" is no service: write <service> or <service>:<condition>, with commas between them`;
    }
    if (known === undefined) {
      return `"${condition}" is no condition: use ${CONDITIONS.join(", ")}`;
    }
    if (found.has(serviceName)) return `${serviceName} is there twice: keep one of them`;
    found.set(serviceName, { serviceName, condition: known });
  }
  if (found.size <= DEPENDENCIES_MAX) return [...found.values()];
  return `it names ${found.size} services, and ${DEPENDENCIES_MAX} is the most`;
}

/** Names from the spec's own back to itself, if it waits for itself by way of others. */
function circleOf(
  spec: ServiceSpec,
  byName: ReadonlyMap<string, ServiceSpec>,
): string[] | undefined {
  const cameFrom = new Map<string, string>();
  const waiting = [spec];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    for (const { serviceName } of dependenciesOf(next.Labels)) {
      if (serviceName === spec.Name) {
        const names = [spec.Name];
        for (let name = next.Name; name !== spec.Name; name = cameFrom.get(name) ?? spec.Name) {
          names.unshift(name);
        }
        return [spec.Name, ...names];
      }
      const other = byName.get(serviceName);
      if (!other || cameFrom.has(serviceName)) continue;
      cameFrom.set(serviceName, next.Name);
      waiting.push(other);
    }
  }
  return undefined;
}
