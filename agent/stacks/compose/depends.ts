/** `depends_on`: the label by which the cluster orders starts (core/objects/start-order.ts). */
import type { ServiceSpec } from "../../../core/objects/service.ts";
import {
  type Dependency,
  DEPENDS_ON_LABEL,
  dependencyProblem,
  dependsOnText,
  type StartCondition,
} from "../../../core/objects/start-order.ts";
import { nearestName } from "../../nearest-name.ts";
import { checkKeys } from "./keys.ts";
import type { Mapping, Node } from "./node.ts";
import { child, readFlag, readMap, readWord } from "./read.ts";
import { type Report, refuse, warn } from "./report.ts";

const CONDITIONS = {
  service_started: "started",
  service_healthy: "healthy",
  service_completed_successfully: "completed",
} as const satisfies Record<string, StartCondition>;
// Object.keys loses the keys' type; the table has no others.
const WORDS = Object.keys(CONDITIONS) as (keyof typeof CONDITIONS)[];
const RESTARTS = "ignored: a service is not restarted because another one was updated";

/** None without the key. `services`: those of the file. */
export function dependsOnLabel(
  report: Report,
  stack: string,
  services: Mapping,
  node: Node | undefined,
): Record<string, string> {
  const dependencies: Dependency[] = [];
  for (const [key, item] of readMap(report, node)?.entries ?? []) {
    const map = readMap(report, item);
    if (map) checkKeys(report, "service.depends_on.*", map);
    const word = readWord(report, child(map, "condition"), WORDS) ?? "service_started";
    const restart = child(map, "restart");
    if (restart && readFlag(report, restart)) warn(report, restart, RESTARTS);
    if (services.entries.has(key)) {
      dependencies.push({ serviceName: `${stack}_${key}`, condition: CONDITIONS[word] });
    } else if (readFlag(report, child(map, "required")) ?? true) {
      const near = nearestName(key, [...services.entries.keys()]);
      const hint = near === undefined ? "remove it, or add the service" : `did you mean ${near}?`;
      refuse(report, item, `there is no service ${key} in the files: ${hint}`);
    }
  }
  return dependencies.length > 0 ? { [DEPENDS_ON_LABEL]: dependsOnText(dependencies) } : {};
}

/** Refuses what could never start; `specs` are those of the services. */
export function checkStartOrder(
  report: Report,
  stack: string,
  services: Mapping,
  specs: readonly ServiceSpec[],
): void {
  for (const [key, service] of services.entries) {
    const node = child(service, "depends_on");
    const spec = specs.find(({ Name }) => Name === `${stack}_${key}`);
    if (!node || !spec) continue;
    const others = specs.filter((other) => other !== spec);
    const problem = dependencyProblem(spec, others);
    if (problem !== undefined) refuse(report, node, problem);
  }
}
