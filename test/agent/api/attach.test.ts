import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { makeLocalNetwork, NET1_ID } from "./fake-ports.ts";
import { type ApiLab, at, createLab, field } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
  // The reconciler makes it as soon as the address is given.
  lab.engine.networks.push({ Name: "net1", Id: "b1", Labels: { "shoal.network.id": NET1_ID } });
  lab.engine.networks.push({ Name: "own", Id: "b2", Labels: {} });
});
afterEach(() => lab.engine.stop());

const createContainer = (body: unknown) =>
  lab.call("POST", "/v1.41/containers/create?name=c1", body);
const attachments = () => lab.ports.rows.attachments();

describe("POST /containers/create", () => {
  test.each([
    { Image: "a" },
    { Image: "a", HostConfig: { NetworkMode: "default" } },
    { Image: "a", HostConfig: { NetworkMode: "host" } },
    { Image: "a", HostConfig: { NetworkMode: "container:x" } },
    { Image: "a", HostConfig: { NetworkMode: "own" }, Extra: { kept: 1 } },
    { Image: "a", HostConfig: { NetworkMode: "nowhere" } },
  ])("%j goes to the engine as it is", async (body) => {
    const answer = await createContainer(body);
    expect([answer.status, at(answer.body, "got")]).toEqual([201, body]);
    expect(attachments()).toHaveLength(0);
    expect(lab.engine.requests.at(-1)).toContain("/containers/create?name=c1");
  });

  test("what is no object goes to the engine as it is", async () => {
    expect((await createContainer("[]")).status).toBe(201);
  });

  test.each(["net1", NET1_ID, "b1"])(
    "on network %s it gets an address of the cluster",
    async (ref) => {
      const { body, status } = await createContainer({
        Image: "a",
        HostConfig: { NetworkMode: ref, Memory: 5 },
        NetworkingConfig: { EndpointsConfig: { [ref]: { Aliases: ["db"] } } },
      });
      expect(status).toBe(201);
      const [held] = attachments();
      expect(held).toMatchObject({ networkId: NET1_ID, name: "c1", aliases: ["db"] });
      expect(lab.ports.settled).toEqual([[held?.id ?? "", true]]);
      const gateway = lab.ports.rows.network(NET1_ID)?.gateway;
      expect(at(body, "got")).toEqual({
        Image: "a",
        HostConfig: { NetworkMode: "net1", Memory: 5, Dns: [gateway] },
        NetworkingConfig: {
          EndpointsConfig: {
            net1: { Aliases: ["db"], IPAMConfig: { IPv4Address: held?.address } },
          },
        },
      });
    },
  );

  test("on a network with IPv6 it gets both addresses, and none of the user's own", async () => {
    const network = lab.ports.rows.network(NET1_ID);
    if (!network) throw new Error("no net1");
    lab.ports.put("network", { ...network, subnet6: "fd00:1::/64", gateway6: "fd00:1::1" });
    const { body } = await createContainer({ HostConfig: { NetworkMode: "net1" } });
    const [held] = attachments();
    expect(held?.address6).toMatch(/^fd00:1::/);
    const IPAMConfig = { IPv4Address: held?.address, IPv6Address: held?.address6 };
    expect(at(body, "got")).toMatchObject({
      NetworkingConfig: { EndpointsConfig: { net1: { IPAMConfig } } },
    });
    const wish = { IPAMConfig: { IPv6Address: "fd00:1::9" } };
    const own = await createContainer({
      HostConfig: { NetworkMode: "net1" },
      NetworkingConfig: { EndpointsConfig: { net1: wish } },
    });
    expect(field(own.body, "message")).toContain("leave --ip6 out");
  });

  test("an address of the user's own is given, if it is free", async () => {
    const wish = { IPAMConfig: { IPv4Address: "10.0.1.9" } };
    const body = {
      HostConfig: { NetworkMode: "net1" },
      NetworkingConfig: { EndpointsConfig: { net1: wish } },
    };
    const own = await createContainer(body);
    expect(at(own.body, "got")).toMatchObject({
      NetworkingConfig: { EndpointsConfig: { net1: wish } },
    });
    expect(attachments()).toMatchObject([{ address: "10.0.1.9" }]);
    const twice = await createContainer(body);
    expect([twice.status, field(twice.body, "message")]).toEqual([
      400,
      "Address already in use: 10.0.1.9 on network net1; choose another one, or leave it to the cluster",
    ]);
  });

  test("a network that is not attachable is refused", async () => {
    const ingress = await createContainer({ HostConfig: { NetworkMode: "ingress" } });
    expect(ingress.status).toBe(403);
    expect(field(ingress.body, "message")).toContain("not manually attachable");
    // What was given before it was refused goes back.
    const given = attachments().map(({ id }): [string, boolean] => [id, false]);
    expect(lab.ports.settled).toEqual(given);
  });

  test("when its second network cannot be had, the address on the first goes back at once", async () => {
    const answer = await createContainer({
      HostConfig: { NetworkMode: "net1" },
      NetworkingConfig: { EndpointsConfig: { net1: {}, ingress: {} } },
    });
    expect(answer.status).toBe(403);
    const [held] = attachments();
    expect(lab.ports.settled).toEqual([[held?.id ?? "", false]]);
  });

  test("on a network of a local driver it gets what the user says, and no address of ours", async () => {
    lab.ports.put("network", makeLocalNetwork("mv1", "mv"));
    lab.engine.networks.push({ Name: "mv", Id: "b3", Labels: { "shoal.network.id": "mv1" } });
    const body = {
      Image: "a",
      HostConfig: { NetworkMode: "mv" },
      NetworkingConfig: { EndpointsConfig: { mv: { IPAMConfig: { IPv4Address: "10.7.0.9" } } } },
    };
    const missing = await createContainer(body);
    expect(missing.status).toBe(404);
    expect(field(missing.body, "message")).toContain('configuration network "cfg" does not exist');
    lab.engine.networks.push({ Name: "cfg", Id: "b4", ConfigOnly: true });
    for (let times = 1; times <= 2; times += 1) {
      const answer = await createContainer(body);
      expect([answer.status, at(answer.body, "got")]).toEqual([201, body]);
    }
    // One stands for all containers of the node.
    expect(attachments()).toMatchObject([{ networkId: "mv1", address: "" }]);
  });

  test("a node that is in no cluster passes everything on", async () => {
    lab.ports.local = { ...lab.ports.local, state: "inactive" };
    const body = { HostConfig: { NetworkMode: "net1" } };
    expect(at((await createContainer(body)).body, "got")).toEqual(body);
  });
});

describe("POST /networks/{id}/connect", () => {
  test("gives a container an address of the cluster", async () => {
    const { body } = await lab.call("POST", "/networks/net1/connect", { Container: "c2" });
    const [held] = attachments();
    expect(held?.name).toBe("c2");
    expect(at(body, "got")).toEqual({
      Container: "c2",
      EndpointConfig: { IPAMConfig: { IPv4Address: held?.address } },
    });
  });

  test("goes to the engine with the client's version, which decides what it reads", async () => {
    await lab.call("POST", "/v1.40/networks/net1/connect", { Container: "c2" });
    expect(lab.engine.requests.at(-1)).toBe("POST /v1.40/networks/net1/connect");
    await lab.call("POST", "/networks/net1/connect", { Container: "c3" });
    expect(lab.engine.requests.at(-1)).toBe("POST /networks/net1/connect");
  });

  test("to a network of the engine's own is passed on", async () => {
    const body = { Container: "c2", EndpointConfig: {} };
    const answer = await lab.call("POST", "/networks/own/connect", body);
    expect(at(answer.body, "got")).toEqual(body);
    expect(attachments()).toHaveLength(0);
  });
});

describe("POST /networks/{id}/disconnect", () => {
  test.each([
    [NET1_ID, "net1"],
    ["net1", "net1"],
    ["own", "own"],
    ["bridge", "bridge"],
  ])("of %s is the engine's, by the name that it knows", async (ref, name) => {
    await lab.call("POST", `/v1.41/networks/${ref}/disconnect`, { Container: "c2" });
    expect(lab.engine.requests.at(-1)).toBe(`POST /v1.41/networks/${name}/disconnect`);
  });
});
