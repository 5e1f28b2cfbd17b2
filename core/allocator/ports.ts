/**
 * Published ports: what a service's spec leaves open is filled in.
 *
 * An ingress port belongs to one service per protocol, cluster-wide; host-mode ports of several
 * services may be equal (the scheduler keeps them apart by node), but not equal to an ingress port.
 */
import type { ServiceId } from "../ids.ts";
import type { PortConfig, Service, ServiceEndpoint } from "../objects/service.ts";
import type { ClusterView } from "../store/view.ts";

/** Source: SwarmKit manager/allocator/portallocator.go. */
export const DYNAMIC_PORT_MIN = 30_000;
export const DYNAMIC_PORT_MAX = 32_767;

export type AllocatedPort = ServiceEndpoint["ports"][number];

/** `<protocol>/<port>` → how it is held, by each service that names or was given it. */
export type PortTable = Map<string, { serviceId: ServiceId; mode: "ingress" | "host" }[]>;

/** Every published port of the cluster. Ports that a spec leaves open count once allocated. */
export function openPortTable(view: ClusterView): PortTable {
  const table: PortTable = new Map();
  for (const service of view.services()) {
    const ports = [...(service.spec.EndpointSpec?.Ports ?? []), ...(service.endpoint?.ports ?? [])];
    for (const port of ports) addPort(table, service.id, port);
  }
  return table;
}

function addPort(table: PortTable, serviceId: ServiceId, port: PortConfig): void {
  if (!port.PublishedPort) return;
  const key = `${port.Protocol ?? "tcp"}/${port.PublishedPort}`;
  const holders = table.get(key);
  const holder = { serviceId, mode: port.PublishMode ?? "ingress" };
  if (holders) holders.push(holder);
  else table.set(key, [holder]);
}

/**
 * The service's ports with protocol, mode and published port filled in; what was chosen for it
 * before is kept. Takes them in `table`. Port 0 in host mode is left to the engine. A text instead
 * when it cannot be done.
 */
export function allocatePorts(table: PortTable, service: Service): AllocatedPort[] | string {
  const kept = [...(service.endpoint?.ports ?? [])];
  const ports: AllocatedPort[] = [];
  for (const wish of service.spec.EndpointSpec?.Ports ?? []) {
    const port: AllocatedPort = {
      Protocol: wish.Protocol ?? "tcp",
      TargetPort: wish.TargetPort,
      PublishedPort: wish.PublishedPort ?? 0,
      PublishMode: wish.PublishMode ?? "ingress",
    };
    if (port.PublishedPort === 0 && port.PublishMode === "ingress") {
      const found = takeKept(kept, port) ?? firstFree(table, port.Protocol);
      if (found === undefined) {
        return `Cannot publish port ${port.TargetPort}/${port.Protocol}: all dynamic ports from ${DYNAMIC_PORT_MIN} to ${DYNAMIC_PORT_MAX} are in use; name a published port`;
      }
      port.PublishedPort = found;
    }
    const conflict = (table.get(`${port.Protocol}/${port.PublishedPort}`) ?? []).find(
      (holder) =>
        holder.serviceId !== service.id &&
        (port.PublishMode === "ingress" || holder.mode === "ingress"),
    );
    if (conflict !== undefined && port.PublishedPort !== 0) {
      return `Cannot publish port ${port.PublishedPort}/${port.Protocol}: service ${conflict.serviceId} has it as ${conflict.mode} port; choose another`;
    }
    addPort(table, service.id, port);
    ports.push(port);
  }
  return ports;
}

/** The port given before for the same target; the entry is used up. */
function takeKept(kept: AllocatedPort[], port: AllocatedPort): number | undefined {
  const index = kept.findIndex(
    (other) =>
      other.Protocol === port.Protocol &&
      other.TargetPort === port.TargetPort &&
      other.PublishMode === port.PublishMode &&
      other.PublishedPort >= DYNAMIC_PORT_MIN &&
      other.PublishedPort <= DYNAMIC_PORT_MAX,
  );
  return index < 0 ? undefined : kept.splice(index, 1)[0]?.PublishedPort;
}

function firstFree(table: PortTable, protocol: string): number | undefined {
  for (let port = DYNAMIC_PORT_MIN; port <= DYNAMIC_PORT_MAX; port += 1) {
    if (!table.has(`${protocol}/${port}`)) return port;
  }
  return undefined;
}
