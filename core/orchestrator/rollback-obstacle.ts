/** Whether a service can go back to a spec of before: what that used may be gone, or another's, by now. */
import type { Service, ServiceSpec } from "../objects/service.ts";
import { claimsOf, referencesOf } from "../store/claims.ts";
import type { ClusterView } from "../store/view.ts";

/**
 * Why `apply` would refuse the service with this spec, for its user; `undefined` when it would not. A plan that is
 * refused would be made again for ever.
 */
export function rollbackObstacle(
  view: ClusterView,
  service: Service,
  spec: ServiceSpec,
): string | undefined {
  const next = { ...service, spec };
  for (const reference of referencesOf("service", next)) {
    const [kind, id = ""] = reference.split("/");
    const isThere =
      kind === "network" ? view.network(id) : kind === "secret" ? view.secret(id) : view.config(id);
    if (!isThere) return `${kind} ${id}, which the spec before uses, is removed`;
  }
  const { exclusive, shared } = claimsOf("service", next);
  for (const other of view.services()) {
    if (other.id === service.id) continue;
    const taken = claimsOf("service", other);
    const claim =
      exclusive.find((one) => taken.exclusive.includes(one) || taken.shared.includes(one)) ??
      shared.find((one) => taken.exclusive.includes(one));
    if (claim === undefined) continue;
    const [kind, ...what] = claim.split("/");
    return `${kind} ${what.toReversed().join("/")} belongs to service ${other.spec.Name} now`;
  }
  return undefined;
}
