/** IPv6 objects as `ip -6` takes them: one line an object, the same for a planned one and for one found. Pure. */
import { MESH_DEVICE, ROUTE_PROTOCOL } from "./names.ts";
import type { MeshAddress6, MeshNeighbour6, MeshProxy, MeshRoute } from "./plan.ts";
import { neighbourLine } from "./render.ts";

/** `ip -6 addr` arguments. */
export function addressLine6({ address, prefixLength, device }: MeshAddress6): string {
  return `${address}/${prefixLength} dev ${device}`;
}

/** `ip -6 route` arguments; the scope, which IPv4 has, says nothing in IPv6. */
export function routeLine6(route: MeshRoute): string {
  const kind = route.isLocal ? "local " : "";
  const way = route.via === undefined ? "" : ` via ${route.via}`;
  const onlink = route.via === undefined ? "" : " onlink";
  const source = route.source === undefined ? "" : ` src ${route.source}`;
  return (
    `${kind}${route.destination}${way} dev ${route.device ?? MESH_DEVICE}${onlink}${source} ` +
    `table ${route.table} proto ${ROUTE_PROTOCOL}`
  );
}

/** `ip -6 neigh` arguments. */
export function neighbourLine6(neighbour: MeshNeighbour6): string {
  return neighbourLine(neighbour, neighbour.device);
}

/** Of `ip -6 neigh del`. */
export function neighbourKey6({
  address,
  device,
}: Pick<MeshNeighbour6, "address" | "device">): string {
  return `${address} dev ${device}`;
}

/** `ip -6 neigh … proxy` arguments. */
export function proxyLine({ address, bridge }: MeshProxy): string {
  return `${address} dev ${bridge}`;
}
