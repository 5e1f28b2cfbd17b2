/** The Docker network that carries an overlay network's containers on one node. */
import { assert } from "../../core/assert.ts";
import { isEncrypted, type Network } from "../../core/objects/network.ts";
import { encryptedMtu } from "./esp.ts";
import { bridgeName, ENCRYPTED_DEVICE, MESH_DEVICE } from "./names.ts";

export const NETWORK_ID_LABEL = "shoal.network.id";
/** VXLAN over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14. */
export const VXLAN_OVERHEAD_BYTES = 50;

export type DockerNetworkBody = {
  Name: string;
  CheckDuplicate: true;
  Driver: "bridge";
  Internal: boolean;
  Attachable: false;
  EnableIPv6: boolean;
  IPAM: { Driver: "default"; Config: { Subnet: string; Gateway: string }[] };
  Options: Record<string, string>;
  Labels: Record<string, string>;
};

/** MTU of the mesh device over an underlay of the given MTU, and of every overlay network that is not encrypted. */
export function overlayMtu(underlayMtu: number): number {
  return underlayMtu - VXLAN_OVERHEAD_BYTES;
}

/** MTU of one overlay network. */
export function networkMtu(network: Pick<Network, "spec">, underlayMtu: number): number {
  return isEncrypted(network) ? encryptedMtu(underlayMtu) : overlayMtu(underlayMtu);
}

/**
 * Body of POST /networks/create for an overlay network with a subnet: a plain bridge with the same
 * subnet and gateway on every node. It has the network's own name, because libnetwork chooses a
 * container's default route by network name and the mesh must choose the same one.
 */
export function dockerNetworkBody(network: Network, mtu: number): DockerNetworkBody {
  const { subnet, gateway, subnet6, gateway6, spec } = network;
  assert(subnet !== undefined, `Network "${spec.Name}" has a subnet`);
  assert(gateway !== undefined, `Network "${spec.Name}" has a gateway`);
  return {
    Name: spec.Name,
    CheckDuplicate: true,
    Driver: "bridge",
    Internal: spec.Internal,
    Attachable: false,
    EnableIPv6: subnet6 !== undefined,
    IPAM: {
      Driver: "default",
      Config: [
        { Subnet: subnet, Gateway: gateway },
        ...(subnet6 !== undefined && gateway6 !== undefined
          ? [{ Subnet: subnet6, Gateway: gateway6 }]
          : []),
      ],
    },
    Options: {
      "com.docker.network.bridge.name": bridgeName(network.id),
      // Egress is masqueraded by our own rule, which knows the other nodes' containers.
      "com.docker.network.bridge.enable_ip_masquerade": "false",
      "com.docker.network.driver.mtu": String(mtu),
      // Docker 28.2 and later drop packets to container addresses that come from other devices,
      // except from those named here; earlier engines ignore the option.
      "com.docker.network.bridge.trusted_host_interfaces": isEncrypted(network)
        ? ENCRYPTED_DEVICE
        : MESH_DEVICE,
    },
    Labels: { ...spec.Labels, [NETWORK_ID_LABEL]: network.id },
  };
}
