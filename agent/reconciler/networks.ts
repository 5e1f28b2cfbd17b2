/**
 * The engine's networks that stand for the cluster's on this node: a bridge for an overlay network, and
 * for one of a local driver a network of that driver, with what this node's config-only network says.
 *
 * The engine itself is not told of the configuration (`ConfigFrom`): it would let such a network have no
 * labels, and by their labels the cluster's networks are known.
 */
import { ClusterError } from "../../core/errors.ts";
import { isNodeLocal, type Network } from "../../core/objects/network.ts";
import { cidrsOverlap } from "../../core/store/cidr.ts";
import { dockerNetworkBody, NETWORK_ID_LABEL, networkMtu } from "../../net/mesh/docker-network.ts";
import { CLUSTER_ID_LABEL, LOCAL_CONFIG_LABEL } from "./container-spec.ts";
import type { Docker, NetworkBody } from "./docker.ts";

export type DockerNetworks = {
  /** Makes the network unless it is there; one creation at a time a network. */
  ensure(network: Network, clusterId: string): Promise<void>;
  /** Nothing happens when a container (of somebody else) still uses it: it is tried again later. */
  remove(dockerId: string): Promise<void>;
};

/** The engine's words for a name or a subnet that another network has. */
const PLACE_TAKEN = /already exists|Pool overlaps/;

/** The engine's name of it: the network's own, for libnetwork orders a container's legs by name. */
export function dockerNetworkName(network: Network): string {
  return network.spec.Name;
}

/** `underlayMtu`: of the device that carries the data path. */
export function createDockerNetworks(docker: Docker, underlayMtu: number): DockerNetworks {
  const creations = new Map<string, Promise<void>>();
  const create = async (network: Network, clusterId: string) => {
    if (isNodeLocal(network)) {
      await createLocal(docker, network, clusterId);
      return;
    }
    if (network.subnet === undefined || network.gateway === undefined) {
      throw new ClusterError(
        "failed-precondition",
        `network ${network.spec.Name} has no subnet yet, the allocator has to give it one`,
      );
    }
    if (await isPresent(docker, network, clusterId)) return;
    const body = dockerNetworkBody(network, networkMtu(network, underlayMtu));
    try {
      await docker.createNetwork({
        ...body,
        Labels: { ...body.Labels, [CLUSTER_ID_LABEL]: clusterId },
      });
    } catch (error) {
      // Not the end of the task: a removed network goes as soon as its last container has stopped (plan.ts),
      // perhaps before one could look for it. A network of the user's is waited for in vain, for 30 s.
      if (!(error instanceof ClusterError) || !PLACE_TAKEN.test(error.message)) throw error;
      throw new ClusterError("failed-precondition", error.message);
    }
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

async function isPresent(docker: Docker, network: Network, clusterId: string): Promise<boolean> {
  const present = await docker.listNetworks(`${NETWORK_ID_LABEL}=${network.id}`);
  return present.some((item) => item.labels[CLUSTER_ID_LABEL] === clusterId);
}

/** True when the engine cannot have both. */
export function holdsPlaceOf(
  there: { name: string; subnets?: string[] },
  network: Network,
): boolean {
  const { subnet } = network;
  return (
    there.name === dockerNetworkName(network) ||
    (subnet !== undefined && (there.subnets ?? []).some((other) => cidrsOverlap(other, subnet)))
  );
}

/** @throws {ClusterError} docker: no such configuration here, or the engine refuses the network. */
async function createLocal(docker: Docker, network: Network, clusterId: string): Promise<void> {
  if (await isPresent(docker, network, clusterId)) return;
  const { spec } = network;
  const { ConfigFrom = "" } = spec;
  const config = ConfigFrom === "" ? undefined : await docker.inspectNetwork(ConfigFrom);
  if (ConfigFrom !== "" && !config?.ConfigOnly) {
    // The engine's words, and what to do.
    const problem = config
      ? `"${ConfigFrom}" is not a configuration network`
      : `configuration network "${ConfigFrom}" does not exist`;
    throw new ClusterError(
      "docker",
      `${problem} on this node: create it here with docker network create --config-only, or keep the service off this node by a constraint`,
    );
  }
  const body: NetworkBody & Record<string, unknown> = {
    Name: spec.Name,
    CheckDuplicate: true,
    Driver: spec.Driver,
    Internal: spec.Internal,
    Attachable: spec.Attachable,
    EnableIPv6: config?.EnableIPv6 ?? spec.EnableIPv6,
    IPAM: config?.IPAM ?? spec.IPAM,
    Options: config?.Options ?? spec.Options,
    Labels: {
      ...config?.Labels,
      ...spec.Labels,
      [NETWORK_ID_LABEL]: network.id,
      [CLUSTER_ID_LABEL]: clusterId,
      [LOCAL_CONFIG_LABEL]: ConfigFrom,
    },
  };
  await docker.createNetwork(body);
}
