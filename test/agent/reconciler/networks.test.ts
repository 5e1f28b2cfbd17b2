/** Networks of local drivers; bridges of overlay networks are in reconciler.test.ts, on an engine. */
import { expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import type { Docker, NetworkDetails } from "../../../agent/reconciler/docker.ts";
import { createDockerNetworks } from "../../../agent/reconciler/networks.ts";
import { aNetwork } from "./wanted.ts";

const network = aNetwork("netm", { name: "mv", driver: "macvlan" });
network.spec.ConfigFrom = "cfg";

function fake(configs: Record<string, NetworkDetails>) {
  const made: Record<string, unknown>[] = [];
  const docker = {
    listNetworks: async () => made.map((body) => ({ id: "d", name: "mv", labels: body["Labels"] })),
    inspectNetwork: async (name: string) => configs[name],
    createNetwork: async (body: Record<string, unknown>) => void made.push(body),
    // The part of the port that is used here.
  } as unknown as Docker;
  return { made, networks: createDockerNetworks(docker, 1500) };
}

test("a network of a local driver has what this node's configuration says, once", async () => {
  const IPAM = { Driver: "default", Config: [{ Subnet: "10.7.0.0/24", IPRange: "10.7.0.64/28" }] };
  const cfg = {
    ConfigOnly: true,
    EnableIPv6: false,
    IPAM,
    Options: { parent: "eth0" },
    Labels: {},
  };
  const { made, networks } = fake({ cfg });
  await networks.ensure(network, "cluster1");
  await networks.ensure(network, "cluster1");
  expect(made).toEqual([
    {
      Name: "mv",
      CheckDuplicate: true,
      Driver: "macvlan",
      Internal: false,
      Attachable: false,
      EnableIPv6: false,
      IPAM,
      Options: { parent: "eth0" },
      Labels: {
        "shoal.network.id": "netm",
        "shoal.cluster.id": "cluster1",
        "shoal.network.config-from": "cfg",
      },
    },
  ]);
});

test("a node without the configuration says what is missing and what to do", async () => {
  const refusal = (configs: Record<string, NetworkDetails>) =>
    fake(configs)
      .networks.ensure(network, "cluster1")
      .then(() => "made", String);
  expect(await refusal({})).toContain(
    'configuration network "cfg" does not exist on this node: create it here',
  );
  expect(await refusal({ cfg: { ConfigOnly: false } })).toContain(
    '"cfg" is not a configuration network on this node',
  );
});

test("another network that has the name or the subnet is waited for", async () => {
  const wanted = aNetwork("new", { name: "net" });
  const refusal = (text: string) => {
    const docker = {
      listNetworks: async () => [],
      createNetwork: async () => {
        throw new ClusterError("docker", text);
      },
      // The part of the port that is used here.
    } as unknown as Docker;
    const ensured = createDockerNetworks(docker, 1500).ensure(wanted, "cluster1");
    return ensured.then(
      () => "made",
      (error: unknown) => (error instanceof ClusterError ? error.code : "other"),
    );
  };
  expect(await refusal("network with name net already exists")).toBe("failed-precondition");
  expect(await refusal("Pool overlaps with other one on this address space")).toBe(
    "failed-precondition",
  );
  expect(await refusal("no such driver")).toBe("docker");
});
