/**
 * How connections to a service are spread over its tasks, and whether tasks see the client's address,
 * where a user wants something else than the default. Labels of the service say it:
 *
 * - `shoal.balance.prefer=local`: tasks on the node where the connection is balanced (the client's own,
 *   or the one whose published port it came to) before all others; the others while it has none.
 * - `shoal.balance.affinity=client`: one client address, one task, as long as the set of ready tasks
 *   stays the same.
 * - `shoal.publish=<policy>`, for one port `shoal.publish.<port>=` or `shoal.publish.<port>/<protocol>=`:
 *   `preserve` (default) every node answers and the task sees the client's address; `local` only nodes
 *   with a ready task answer, others refuse; `snat` every node answers and the task sees the node.
 */
import type { Labels } from "./object-meta.ts";
import type { ServiceSpec } from "./service.ts";

export const PUBLISH_POLICIES = ["preserve", "local", "snat"] as const;
export type PublishPolicy = (typeof PUBLISH_POLICIES)[number];
/** Absent fields: evenly over all ready tasks, each connection on its own. */
export type Balancing = { isLocalFirst?: true; hasAffinity?: true };

export const PREFER_LABEL = "shoal.balance.prefer";
export const AFFINITY_LABEL = "shoal.balance.affinity";
export const PUBLISH_LABEL = "shoal.publish";

/** The service's balancing; a value that cannot be read counts as absent. */
export function balancingOf(labels: Labels | undefined): Balancing {
  return {
    ...(labels?.[PREFER_LABEL] === "local" ? { isLocalFirst: true } : {}),
    ...(labels?.[AFFINITY_LABEL] === "client" ? { hasAffinity: true } : {}),
  };
}

/** The policy of one published port: of the label that names it most closely. */
export function publishPolicyOf(
  labels: Labels | undefined,
  port: { Protocol: string; PublishedPort: number },
): PublishPolicy {
  const names = [
    `${PUBLISH_LABEL}.${port.PublishedPort}/${port.Protocol}`,
    `${PUBLISH_LABEL}.${port.PublishedPort}`,
    PUBLISH_LABEL,
  ];
  const value = names.map((name) => labels?.[name]).find((text) => text !== undefined);
  return isPolicy(value) ? value : "preserve";
}

/** Why the labels cannot be read, for the user who writes them; `undefined` when they can. */
export function balancingProblem(spec: Pick<ServiceSpec, "Labels">): string | undefined {
  for (const [label, value] of Object.entries(spec.Labels ?? {})) {
    if (label === PREFER_LABEL && value !== "local") {
      return `label ${label}: "${value}" is no preference: use local, or leave the label out`;
    }
    if (label === AFFINITY_LABEL && value !== "client") {
      return `label ${label}: "${value}" is no affinity: use client, or leave the label out`;
    }
    if (label !== PUBLISH_LABEL && !label.startsWith(`${PUBLISH_LABEL}.`)) continue;
    const port = label.slice(PUBLISH_LABEL.length + 1);
    if (label !== PUBLISH_LABEL && !isPortName(port)) {
      return `label ${label}: "${port}" is no port: use ${PUBLISH_LABEL}.8080 or ${PUBLISH_LABEL}.8080/udp`;
    }
    if (!isPolicy(value)) {
      return `label ${label}: "${value}" is no policy: use ${PUBLISH_POLICIES.join(", ")}`;
    }
  }
  return undefined;
}

/** True for labels that this file reads. */
export function isBalancingLabel(label: string): boolean {
  return (
    label === PREFER_LABEL ||
    label === AFFINITY_LABEL ||
    label === PUBLISH_LABEL ||
    label.startsWith(`${PUBLISH_LABEL}.`)
  );
}

function isPolicy(value: string | undefined): value is PublishPolicy {
  return PUBLISH_POLICIES.some((policy) => policy === value);
}

function isPortName(text: string): boolean {
  const [, digits] = /^(\d{1,5})(?:\/(?:tcp|udp|sctp))?$/.exec(text) ?? [];
  return digits !== undefined && Number(digits) >= 1 && Number(digits) <= 65_535;
}
