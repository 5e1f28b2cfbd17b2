/**
 * Published ports that go from one service of a file to another, in a circle as well. They are given up before any
 * service takes them, in the same proposal: so no two services have the same one at any time. Pure.
 */
import type { PortConfig, Service, ServiceSpec } from "../../core/objects/service.ts";

/** `<protocol>/<port>` → the names of the services that a file gives it. */
export type PortTakers = ReadonlyMap<string, ReadonlySet<string>>;

export function portTakers(wishes: readonly ServiceSpec[]): PortTakers {
  const takers = new Map<string, Set<string>>();
  for (const { Name, EndpointSpec } of wishes) {
    for (const port of EndpointSpec?.Ports ?? []) {
      const key = portKey(port);
      if (key !== undefined) takers.set(key, (takers.get(key) ?? new Set()).add(Name));
    }
  }
  return takers;
}

/**
 * The fields of a service that lose ports to others, without those; `undefined` when none do.
 * @param wish what the file wants of this service
 */
export function withoutGivenPorts(
  { spec, endpoint }: Service,
  wish: ServiceSpec,
  takers: PortTakers,
): Partial<Pick<Service, "spec" | "endpoint">> | undefined {
  const named = spec.EndpointSpec?.Ports ?? [];
  const namedKeys = new Set(named.map(portKey));
  const isOpen = wish.EndpointSpec?.Ports?.some((port) => !port.PublishedPort) ?? false;
  const stays = (port: PortConfig) => {
    const found = takers.get(portKey(port) ?? "");
    return found === undefined || found.has(spec.Name);
  };
  const kept = named.filter(stays);
  const served = endpoint?.ports.filter(
    // One that the cluster chose stays while the file leaves it the choice.
    (port) => stays(port) || (isOpen && !namedKeys.has(portKey(port))),
  );
  const without = {
    ...(kept.length === named.length
      ? {}
      : { spec: { ...spec, EndpointSpec: { ...spec.EndpointSpec, Ports: kept } } }),
    ...(!endpoint || served?.length === endpoint.ports.length
      ? {}
      : { endpoint: { ...endpoint, ports: served ?? [] } }),
  };
  return Object.keys(without).length === 0 ? undefined : without;
}

/** None for a port that the cluster chooses. */
function portKey({ Protocol = "tcp", PublishedPort }: PortConfig): string | undefined {
  return PublishedPort ? `${Protocol}/${PublishedPort}` : undefined;
}
