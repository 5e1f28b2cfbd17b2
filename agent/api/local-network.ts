/**
 * Networks of the cluster that each node makes with a driver of its own engine (macvlan, ipvlan, bridge,
 * plugins): what may be asked for, and how the API shows them. Pure.
 *
 * The cluster knows their names and who uses them; subnets and options are in a config-only network of
 * each node (`--config-from`). On a node where a task is, the engine's own answer is shown, with the
 * cluster's words in it.
 *
 * Source: libnetwork network.go validateConfiguration; moby daemon/cluster/convert/network.go.
 */
import { ClusterError } from "../../core/errors.ts";
import type { Network, NetworkSpec } from "../../core/objects/network.ts";
import { CLUSTER_ID_LABEL, LOCAL_CONFIG_LABEL } from "../reconciler/container-spec.ts";
import { NETWORK_ID_LABEL } from "../../net/mesh/docker-network.ts";
import { controlError } from "./problem.ts";
import { type Json, renderNetwork } from "./render.ts";
import type { NetworkCreate } from "./spec-schema.ts";

/** Nodes share a segment with these: two engines that give out one subnet give addresses twice. */
const SHARED_SEGMENT_DRIVERS = new Set(["macvlan", "ipvlan"]);

/** True for a request of the cluster that is not the mesh's to carry. */
export function isLocalDriver(request: NetworkCreate): boolean {
  return request.Driver !== "overlay";
}

/** What can be told from the request. @throws {ClusterError} forbidden, invalid-argument */
export function checkLocalNetwork(request: NetworkCreate): void {
  const { IPAM, Options } = request;
  if (request.Driver === "") {
    throw controlError("invalid-argument", "driver name: if driver is specified name is required");
  }
  const isIpamGiven =
    (IPAM.Driver !== "" && IPAM.Driver !== "default") ||
    IPAM.Config.length > 0 ||
    Object.keys(IPAM.Options).length > 0;
  if (request.ConfigFrom?.Network) {
    if (isIpamGiven || request.EnableIPv6 || Object.keys(request.Labels).length > 0) {
      throw new ClusterError(
        "forbidden",
        "user specified configurations are not supported if the network depends on a configuration network",
      );
    }
    if (Object.keys(Options).length > 0) {
      throw new ClusterError(
        "forbidden",
        "network driver options are not supported if the network depends on a configuration network",
      );
    }
  }
  if (IPAM.Driver !== "" && IPAM.Driver !== "default") {
    throw controlError(
      "invalid-argument",
      `error during lookup of plugin ${IPAM.Driver}: name it in the config-only network of each node`,
    );
  }
  const [subnet] = IPAM.Config;
  if (subnet && SHARED_SEGMENT_DRIVERS.has(request.Driver)) {
    throw controlError(
      "invalid-argument",
      `each node's engine would give out the same addresses of ${subnet.Subnet ?? "this subnet"}: on every node "docker network create --config-only --subnet … --ip-range <a part of its own> -o parent=… <config>", then create ${request.Name} with --config-from <config>`,
    );
  }
}

/** The spec to store, from a checked request. */
export function localNetworkSpec(request: NetworkCreate): NetworkSpec {
  const Config = request.IPAM.Config.map(({ Subnet, Gateway, IPRange }) => ({
    ...(Subnet === undefined ? {} : { Subnet }),
    ...(Gateway === undefined ? {} : { Gateway }),
    ...(IPRange === undefined ? {} : { IPRange }),
  }));
  return {
    Name: request.Name,
    Labels: request.Labels,
    Driver: request.Driver,
    Options: request.Options,
    Internal: request.Internal,
    Attachable: request.Attachable,
    Ingress: false,
    EnableIPv6: request.EnableIPv6,
    IPAM: { Driver: "default", Config },
    ...(request.ConfigFrom?.Network ? { ConfigFrom: request.ConfigFrom.Network } : {}),
  };
}

/** As the cluster knows it, on a node that has none of it. */
export function renderLocalNetwork(network: Network): Json {
  const { spec } = network;
  const { Options, IPAM } = spec;
  return {
    ...renderNetwork(network),
    IPAM: { Driver: IPAM.Config.length > 0 ? "default" : "", Options: null, Config: IPAM.Config },
    ConfigFrom: { Network: spec.ConfigFrom ?? "" },
    Options: Object.keys(Options).length > 0 ? Options : null,
  };
}

type EngineNetwork = { Labels?: Record<string, string> | null | undefined; IPAM?: unknown };

/** True for the engine's network that this node has for one of a local driver. */
export function isLocalNetworkHere(engineNetwork: EngineNetwork): boolean {
  return engineNetwork.Labels?.[LOCAL_CONFIG_LABEL] !== undefined;
}

/** The engine's network as the one of the cluster that it is here. */
export function renderLocalNetworkHere(engineNetwork: EngineNetwork & Json): Json {
  const { Labels, IPAM, ...rest } = engineNetwork;
  const {
    [NETWORK_ID_LABEL]: id,
    [LOCAL_CONFIG_LABEL]: config,
    [CLUSTER_ID_LABEL]: _,
    ...labels
  } = Labels ?? {};
  return {
    ...rest,
    Id: id,
    Scope: "swarm",
    IPAM: withoutEmptyOptions(IPAM),
    ConfigFrom: { Network: config ?? "" },
    Labels: labels,
  };
}

/** The engine writes an empty map for none. */
function withoutEmptyOptions(ipam: unknown): unknown {
  if (typeof ipam !== "object" || ipam === null || !("Options" in ipam)) return ipam;
  const isEmpty = Object.keys(ipam.Options ?? {}).length === 0;
  return isEmpty ? { ...ipam, Options: null } : ipam;
}
