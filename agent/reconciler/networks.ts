/** The bridge networks in the engine that stand for overlay networks on this node. */
import { ClusterError } from "../../core/errors.ts";
import type { Network } from "../../core/objects/network.ts";
import { dockerNetworkBody, NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { CLUSTER_ID_LABEL } from "./container-spec.ts";
import type { Docker } from "./docker.ts";

export type DockerNetworks = {
  /** Makes the network unless it is there; one creation at a time a network. */
  ensure(network: Network, clusterId: string): Promise<void>;
  /** Nothing happens when a container (of somebody else) still uses it: it is tried again later. */
  remove(dockerId: string): Promise<void>;
};

/** The engine's name of it: the network's own, for libnetwork orders a container's legs by name. */
export function dockerNetworkName(network: Network): string {
  return network.spec.Name;
}

export function createDockerNetworks(docker: Docker, mtu: number): DockerNetworks {
  const creations = new Map<string, Promise<void>>();
  const create = async (network: Network, clusterId: string) => {
    if (network.subnet === undefined || network.gateway === undefined) {
      throw new ClusterError(
        "failed-precondition",
        `network ${network.spec.Name} has no subnet yet, the allocator has to give it one`,
      );
    }
    const present = await docker.listNetworks(`${NETWORK_ID_LABEL}=${network.id}`);
    const sameCluster = present.filter((item) => item.labels[CLUSTER_ID_LABEL] === clusterId);
    if (sameCluster.length > 0) return;
    const body = dockerNetworkBody(network, mtu);
    await docker.createNetwork({
      ...body,
      Labels: { ...body.Labels, [CLUSTER_ID_LABEL]: clusterId },
    });
  };
  return {
    ensure: (network, clusterId) => {
      const running = creations.get(network.id);
      if (running) return running;
      const started = create(network, clusterId).finally(() => creations.delete(network.id));
      creations.set(network.id, started);
      return started;
    },
    remove: async (dockerId) => {
      try {
        await docker.removeNetwork(dockerId);
      } catch (error) {
        // 403: it has active endpoints.
        if (error instanceof ClusterError && error.details["status"] === 403) return;
        throw error;
      }
    },
  };
}
