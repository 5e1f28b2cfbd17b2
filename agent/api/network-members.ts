/**
 * What stock's gossip tells of an overlay network where a node takes part in it: `Peers`, the nodes on it,
 * and with `verbose` `Services`, who answers there by which name. Here the cluster's state tells it. Pure.
 *
 * Source: moby daemon/network (buildDetailedNetworkResources), libnetwork agent.go (Services).
 */
import type { Network } from "../../core/objects/network.ts";
import type { Service } from "../../core/objects/service.ts";
import { type Task, taskName } from "../../core/objects/task.ts";
import { networkIdsOf } from "../../core/store/claims.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { Json } from "./render.ts";

/** Of gossip's names, which are of this length. */
const PEER_NAME_LENGTH = 12;

/** Nodes with something that runs on the network, in the order of their names. */
export function renderPeers(network: Network, view: ClusterView): Json[] {
  const nodeIds = new Set<string>();
  for (const task of view.tasks()) {
    if (addressOn(network, task) !== undefined && task.nodeId) nodeIds.add(task.nodeId);
  }
  for (const { networkId, nodeId } of view.attachments()) {
    if (networkId === network.id) nodeIds.add(nodeId);
  }
  return [...nodeIds].sort().map((id) => ({
    Name: id.slice(0, PEER_NAME_LENGTH),
    IP: view.node(id)?.status.addr ?? "",
  }));
}

/** By name. Of containers elsewhere the endpoint's id is not known: it is empty. */
export function renderNetworkServices(
  network: Network,
  view: ClusterView,
  endpointIdOf: (containerId: string) => string,
): Json {
  const isOn = (service: Service) =>
    network.spec.Ingress
      ? service.endpoint?.virtualIps.some(({ networkId }) => networkId === network.id)
      : networkIdsOf(service.spec).includes(network.id);
  const services = view.services().filter(isOn);
  return Object.fromEntries(
    services.map((service) => {
      const tasks = view.tasksByService(service.id).flatMap((task) => {
        const address = addressOn(network, task);
        if (address === undefined) return [];
        return [
          {
            Name: taskName(task),
            EndpointID: endpointIdOf(task.status.container?.id ?? ""),
            EndpointIP: address,
            Info: { "Host IP": view.node(task.nodeId ?? "")?.status.addr ?? "" },
          },
        ];
      });
      const vip = service.endpoint?.virtualIps.find(({ networkId }) => networkId === network.id);
      return [
        service.spec.Name,
        {
          // As Go prints an address that is none.
          VIP: vip?.address ?? "<nil>",
          Ports: network.spec.Ingress ? ingressPorts(service) : [],
          LocalLBIndex: 0,
          Tasks: tasks,
        },
      ];
    }),
  );
}

/** The address by which a running task answers there. */
function addressOn(network: Network, task: Task): string | undefined {
  if (task.status.state !== "running") return undefined;
  return task.networks?.find(({ networkId }) => networkId === network.id)?.address;
}

function ingressPorts(service: Service): string[] {
  return (service.endpoint?.ports ?? [])
    .filter(({ PublishMode }) => PublishMode === "ingress")
    .map(({ TargetPort, PublishedPort }) => `Target: ${TargetPort}, Publish: ${PublishedPort}`);
}
