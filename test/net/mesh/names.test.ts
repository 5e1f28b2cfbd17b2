import { expect, test } from "bun:test";
import { dockerNetworkBody, overlayMtu } from "../../../net/mesh/docker-network.ts";
import { parseLinkEvent } from "../../../net/mesh/link-monitor.ts";
import {
  bridgeName,
  chainNamePart,
  isBridgeName,
  MESH_DEVICE,
  meshMac,
  nodeMark,
} from "../../../net/mesh/names.ts";
import { labNetwork } from "./lab-state.ts";

test("a bridge name is stable, short and told from other devices", () => {
  expect(bridgeName("id-netA")).toBe("sh40a11906");
  expect(bridgeName("3n9hrcdq6wtvt8xn2w4bnmv5y").length).toBeLessThanOrEqual(15);
  expect(isBridgeName(bridgeName("x"))).toBeTrue();
  expect(isBridgeName(MESH_DEVICE)).toBeFalse();
  expect(isBridgeName("sh1234567g")).toBeFalse();
});

test("addresses and indexes become MAC addresses and marks", () => {
  expect(meshMac("192.168.77.10")).toBe("02:53:c0:a8:4d:0a");
  expect(() => meshMac("fe80::1")).toThrow("is IPv4");
  expect(nodeMark(4095)).toBe(0x0fff0000);
  expect(chainNamePart('a"; flush ruleset')).toBe("a___flush_ruleset");
});

test("the Docker network has the overlay's name, subnet, bridge and label", () => {
  const body = dockerNetworkBody(labNetwork("netI"), overlayMtu(1500));
  expect(body.Name).toBe("netI");
  expect(body.Internal).toBeTrue();
  expect(body.IPAM.Config).toEqual([{ Subnet: "10.104.0.0/24", Gateway: "10.104.0.1" }]);
  expect(body.Options["com.docker.network.bridge.name"]).toBe(bridgeName("id-netI"));
  expect(body.Options["com.docker.network.driver.mtu"]).toBe("1450");
  expect(body.Labels).toEqual({ "shoal.network.id": "id-netI" });
});

test("the Docker network of one with IPv6 has both subnets", () => {
  const network = { ...labNetwork("netA"), subnet6: "fd00:101::/64", gateway6: "fd00:101::1" };
  expect(dockerNetworkBody(labNetwork("netA"), 1450).EnableIPv6).toBeFalse();
  const body = dockerNetworkBody(network, 1450);
  expect(body.EnableIPv6).toBeTrue();
  expect(body.IPAM.Config).toEqual([
    { Subnet: "10.101.0.0/24", Gateway: "10.101.0.1" },
    { Subnet: "fd00:101::/64", Gateway: "fd00:101::1" },
  ]);
});

test("link events of our bridges and ports are told from those of others", () => {
  const port = "12: v1@if2: <BROADCAST,UP> mtu 1450 qdisc noqueue master sh40a11906 state UP";
  expect(parseLinkEvent(port)).toEqual({ type: "port" });
  expect(parseLinkEvent("Deleted 4: shmesh: <BROADCAST> mtu 1450")).toEqual({
    type: "device",
    name: "shmesh",
  });
  expect(parseLinkEvent("9: sh40a11906: <BROADCAST,UP> mtu 1450")).toEqual({
    type: "device",
    name: "sh40a11906",
  });
  expect(parseLinkEvent("9: veth1@if3: <UP> mtu 1500 master docker0")).toBeUndefined();
  expect(parseLinkEvent("    link/ether 02:53:c0:a8:4d:01")).toBeUndefined();
});
