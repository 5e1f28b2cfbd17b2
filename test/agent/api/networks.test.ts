import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  BRIDGE,
  HOST_ID,
  INGRESS_ID,
  makeLocalNetwork,
  makeNode,
  makeTask,
  NET1_ID,
  NODE_ID,
  notManager,
} from "./fake-ports.ts";
import golden from "./golden/networks.json" with { type: "json" };
import { type ApiLab, at, createLab, field } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

/** The engine's bridge of net1, as the reconciler makes it. */
const NET1_BRIDGE = {
  Name: "net1",
  Id: "c".repeat(64),
  Scope: "local",
  Driver: "bridge",
  Labels: { "shoal.network.id": NET1_ID, team: "a" },
  Options: { "com.docker.network.bridge.name": "sh-net1" },
  Containers: { c0ffee: { Name: "web.1.x" } },
};

const local = (set: Record<string, unknown>) => ({
  Driver: "macvlan",
  Scope: "swarm",
  ConfigFrom: { Network: "cfg" },
  ...set,
});
const names = (body: unknown) =>
  Array.isArray(body) ? body.map((network) => field(network, "Name")).sort() : body;
const create = (set: Record<string, unknown>) =>
  lab.call("POST", "/networks/create", { Name: "new", Driver: "overlay", ...set });
const asWorker = () => {
  lab.ports.local = { ...lab.ports.local, isManager: false };
  lab.ports.failure = notManager();
};

describe("GET /networks", () => {
  test("joins the cluster's and the engine's, each network once", async () => {
    lab.engine.networks.push(NET1_BRIDGE);
    const { body } = await lab.call("GET", "/networks");
    expect(names(body)).toEqual(["bridge", "ingress", "net1"]);
    const net1 = Array.isArray(body) ? body.find((one) => field(one, "Id") === NET1_ID) : {};
    expect(Object.keys(net1)).toEqual(Object.keys(golden[0] ?? {}));
    expect({ ...net1, Id: "", Created: "" }).toEqual({ ...golden[0], Id: "", Created: "" });
  });

  test("shows a worker its bridge as the network that it belongs to", async () => {
    asWorker();
    lab.engine.networks.push(NET1_BRIDGE);
    const { body } = await lab.call("GET", "/networks");
    expect(names(body)).toEqual(["bridge", "net1"]);
    expect(body).toContainEqual({
      ...NET1_BRIDGE,
      Id: NET1_ID,
      Scope: "swarm",
      Driver: "overlay",
      Options: {},
      Labels: { team: "a" },
    });
    const one = await lab.call("GET", "/networks/net1");
    expect(one.body).toMatchObject({ Id: NET1_ID, Driver: "overlay" });
  });

  test.each([
    [{ driver: ["overlay"] }, ["ingress", "net1"]],
    [{ scope: ["swarm"] }, ["ingress", "net1"]],
    [{ scope: ["local"] }, []],
    [{ name: ["et"] }, ["net1"]],
    [{ name: ["^net"] }, ["net1"]],
    [{ id: ["ingress1"] }, ["ingress"]],
    [{ type: ["custom"] }, ["ingress", "net1"]],
    [{ type: ["builtin"] }, []],
    [{ label: ["nope"] }, []],
    [{ dangling: ["true"] }, ["ingress", "net1"]],
    [{ dangling: ["false"] }, []],
  ])("filters the cluster's part by %j", async (filters, wanted) => {
    lab.engine.networks.length = 0;
    const text = JSON.stringify(filters);
    const { body } = await lab.call("GET", `/networks?filters=${encodeURIComponent(text)}`);
    expect(names(body)).toEqual(wanted);
    expect(lab.engine.requests).toContain(`GET /networks?filters=${encodeURIComponent(text)}`);
  });
});

describe("GET /networks/{id}", () => {
  test("shows a cluster network with this node's containers", async () => {
    const before = await lab.call("GET", "/networks/net1");
    expect(at(before.body, "Containers")).toBeNull();
    lab.engine.networks.push(NET1_BRIDGE);
    for (const ref of ["net1", NET1_ID, NET1_ID.slice(0, 7), NET1_BRIDGE.Id]) {
      const { body } = await lab.call("GET", `/networks/${ref}`);
      expect(body).toMatchObject({ Id: NET1_ID, Driver: "overlay", Scope: "swarm" });
      expect(at(body, "Containers")).toEqual(NET1_BRIDGE.Containers);
    }
  });

  test("where this node takes part in it, tells who else does", async () => {
    lab.engine.networks.push({
      ...NET1_BRIDGE,
      Containers: { c0ffee: { Name: "web.1.x", EndpointID: "e1" } },
    });
    const id = await lab.createService({
      Name: "web",
      TaskTemplate: { ContainerSpec: { Image: "a" }, Networks: [{ Target: NET1_ID }] },
    });
    const service = lab.ports.rows.service(id);
    if (!service) throw new Error("no service");
    const networks = [{ networkId: NET1_ID, address: "10.0.1.5", aliases: [] }];
    lab.ports.put("task", makeTask(service, "t1", { networks }));
    const { body } = await lab.call("GET", "/networks/net1");
    expect(body).toMatchObject({ Peers: [{ Name: NODE_ID.slice(0, 12), IP: "192.168.77.10" }] });
    expect(at(body, "Services")).toBeUndefined();
    const verbose = await lab.call("GET", "/networks/net1?verbose=1");
    expect(at(verbose.body, "Services")).toEqual({
      web: {
        VIP: "<nil>",
        Ports: [],
        LocalLBIndex: 0,
        Tasks: [
          {
            Name: "web.1.t1",
            EndpointID: "e1",
            EndpointIP: "10.0.1.5",
            Info: { "Host IP": "192.168.77.10" },
          },
        ],
      },
    });
  });

  test("prefers the engine's own bridge and host, but for scope=swarm", async () => {
    lab.engine.networks.push({ ...BRIDGE, Name: "host", Id: "d".repeat(64), Driver: "host" });
    expect(field((await lab.call("GET", "/networks/host")).body, "Id")).toBe("d".repeat(64));
    const swarm = await lab.call("GET", "/networks/host?scope=swarm");
    expect(field(swarm.body, "Id")).toBe(HOST_ID);
    expect((await lab.call("GET", "/networks/bridge?scope=swarm")).status).toBe(404);
    expect((await lab.call("GET", "/networks/net1?scope=local")).status).toBe(404);
  });

  test("refuses what is unknown or ambiguous", async () => {
    const unknown = await lab.call("GET", "/networks/nope");
    expect([unknown.status, unknown.body]).toEqual([404, { message: "network nope not found" }]);
    lab.engine.networks.push({ ...BRIDGE, Name: "net1", Id: "e".repeat(64) });
    const many = await lab.call("GET", "/networks/net1");
    expect([many.status, many.body]).toEqual([
      400,
      { message: "network net1 is ambiguous (2 matches found on name)" },
    ]);
  });

  test("answers scope=swarm while the engine is away", async () => {
    await lab.engine.stop();
    expect((await lab.call("GET", "/networks/net1?scope=swarm")).status).toBe(200);
    expect((await lab.call("GET", "/networks/net1")).status).toBe(503);
  });
});

describe("POST /networks/create", () => {
  test("chooses subnet, gateway and number", async () => {
    const answer = await create({ Attachable: true, Labels: { a: "b" }, CheckDuplicate: true });
    expect(answer.status).toBe(201);
    expect(answer.body).toEqual({ Id: expect.any(String), Warning: "" });
    const network = lab.ports.rows.network(field(answer.body, "Id"));
    expect(network).toMatchObject({ subnet: "10.0.2.0/24", gateway: "10.0.2.1", vni: 4098 });
    expect(network?.spec).toMatchObject({ Attachable: true, Labels: { a: "b" } });
  });

  test("takes the user's subnet and gateway", async () => {
    const Config = [{ Subnet: "172.20.0.0/16", Gateway: "172.20.0.9" }];
    const answer = await create({ IPAM: { Driver: "default", Options: {}, Config } });
    const network = lab.ports.rows.network(field(answer.body, "Id"));
    expect(network).toMatchObject({ subnet: "172.20.0.0/16", gateway: "172.20.0.9" });
  });

  test("gives a network with IPv6 a subnet of each family, the user's where one is given", async () => {
    const own = await create({ EnableIPv6: true });
    const network = lab.ports.rows.network(field(own.body, "Id"));
    expect(network).toMatchObject({ subnet: "10.0.2.0/24", spec: { EnableIPv6: true } });
    expect(network?.subnet6).toMatch(/^fd.*\/64$/);
    const Config = [
      { Subnet: "FD00:5::/64", Gateway: "fd00:5::fe" },
      { Subnet: "172.20.0.0/16", Gateway: "172.20.0.9" },
    ];
    const answer = await create({ Name: "wish", EnableIPv6: true, IPAM: { Config } });
    const shown = await lab.call("GET", `/networks/${field(answer.body, "Id")}`);
    expect(shown.body).toMatchObject({
      EnableIPv6: true,
      IPAM: {
        Config: [
          { Subnet: "172.20.0.0/16", Gateway: "172.20.0.9" },
          { Subnet: "fd00:5::/64", Gateway: "fd00:5::fe" },
        ],
      },
    });
  });

  const subnet = (Subnet: string, more: Record<string, unknown> = {}) => ({
    IPAM: { Config: [{ Subnet, ...more }] },
  });
  const refusals: [Record<string, unknown>, number, string][] = [
    [{ Name: "" }, 400, "name must be provided"],
    [{ Name: "a b" }, 400, "name must be valid as a DNS name component"],
    [{ Name: "host" }, 409, "network with name host already exists"],
    [{ Name: "none" }, 403, "operation is not permitted on predefined none network"],
    [{ Name: "net1" }, 409, "network with name net1 already exists"],
    [{ Name: "local1" }, 409, "network with name local1 already exists"],
    [{ Ingress: true }, 409, `ingress network (${INGRESS_ID}) is already present`],
    [{ Ingress: true, Attachable: true }, 400, "ingress network cannot be attachable"],
    [subnet("10.0.1.128/25"), 400, "Pool overlaps with other one on this address space"],
    [subnet("10.255.9.0/24"), 400, "Pool overlaps with other one on this address space"],
    [subnet("10.300.0.0/24"), 400, "invalid subnet 10.300.0.0/24"],
    [subnet("fd00::/64"), 400, "IPv6 is not enabled on this network: add --ipv6"],
    [{ EnableIPv6: true, ...subnet("fd00::/40") }, 400, "choose one from 48 to 120"],
    [{ EnableIPv6: true, ...subnet("fd00::x/64") }, 400, "not an IPv6 CIDR"],
    [{ EnableIPv6: true, ...subnet("fd00::/64", { Gateway: "fd01::1" }) }, 400, "gateway fd01::1"],
    [
      { EnableIPv6: true, IPAM: { Config: [{ Subnet: "fd00::/64" }, { Subnet: "fd01::/64" }] } },
      501,
      "more than one IPv6 subnet",
    ],
    [subnet("172.20.0.0/30"), 400, "the prefix length is 30"],
    [subnet("172.20.0.0/24", { Gateway: "172.20.1.1" }), 400, "gateway 172.20.1.1"],
    [subnet("172.20.0.0/24", { IPRange: "172.20.1.0/25" }), 400, "it is not within 172.20.0.0/24"],
    [subnet("172.20.0.0/24", { IPRange: "172.20.0.0/30" }), 400, "the prefix length is 30"],
    [subnet("172.20.0.0/24", { IPRange: "x" }), 400, "invalid ip-range x : not an IPv4 CIDR"],
    [{ IPAM: { Config: [{ IPRange: "172.20.0.0/25" }] } }, 400, "an ip-range needs a subnet"],
    [{ IPAM: { Config: [{ Gateway: "1.2.3.4" }] } }, 400, "a gateway needs a subnet"],
    [{ IPAM: { Driver: "dhcp" } }, 501, 'IPAM driver "dhcp" is not supported'],
    [
      { Options: { encrypted: "" } },
      400,
      "cannot create encrypted network new: the node of this cluster cannot encrypt (it has not said that it can)",
    ],
    [{ ConfigFrom: { Network: "cfg" } }, 400, "not made from a node's cfg"],
    [{ Driver: "nosuch", Scope: "swarm" }, 404, 'plugin "nosuch" not found'],
    [{ Driver: "", Scope: "swarm" }, 400, "if driver is specified name is required"],
    [local({ Labels: { a: "b" } }), 403, "user specified configurations are not supported"],
    [local({ EnableIPv6: true }), 403, "user specified configurations are not supported"],
    [local({ Options: { parent: "x" } }), 403, "network driver options are not supported"],
    [
      { Driver: "macvlan", Scope: "swarm", ...subnet("10.9.0.0/24") },
      400,
      "would give out the same addresses of 10.9.0.0/24",
    ],
    [{ Driver: "macvlan", Ingress: true, Scope: "swarm" }, 403, "can only be global scope"],
    [{ Labels: { "com.docker.swarm.predefined": "" } }, 403, "internally created predefined"],
  ];
  test.each(refusals)("refuses %j", async (set, status, message) => {
    lab.engine.networks.push({ ...BRIDGE, Name: "local1", Id: "f".repeat(64) });
    const answer = await create(set);
    expect(field(answer.body, "message")).toContain(message);
    expect(answer.status).toBe(status);
  });

  test("makes an encrypted one as soon as one node can, and says what each of them lacks else", async () => {
    const encryption = (lack?: string) => ({
      encryption: { generations: [], keyIds: [], ...(lack === undefined ? {} : { lack }) },
    });
    const [first] = lab.ports.rows.nodes();
    if (!first) throw new Error("no node");
    const lacks = ["kernel lacks ESP: load module esp4", "kernel lacks IPsec: load modules"];
    lab.ports.put("node", { ...first, ...encryption(lacks[0]) });
    lab.ports.put("node", makeNode("node2", "beta", encryption(lacks[1])));
    const refused = await create({ Options: { encrypted: "true" } });
    expect(field(refused.body, "message")).toContain(
      `no node of this cluster can encrypt (${lacks.join("; ")}). Load these modules`,
    );
    lab.ports.put("node", makeNode("node2", "beta", encryption()));
    const created = await create({ Options: { encrypted: "true" }, EnableIPv6: true });
    expect(created.status).toBe(201);
    const made = lab.ports.rows.networkByName("new");
    expect(made?.spec.Options).toEqual({ encrypted: "true" });
    expect(made?.subnet6).toMatch(/^fd/);
  });

  test("refuses an overlay network on a worker", async () => {
    asWorker();
    const answer = await create({});
    expect(answer.status).toBe(503);
    expect(answer.text).toContain("This node is not a swarm manager.");
  });

  test("chooses again when another creation was faster", async () => {
    const original = { ...lab.ports };
    let isFirst = true;
    lab.ports.read = async (use) => {
      const result = await original.read(use);
      // After the plan of the first try, another manager's network takes the same subnet.
      if (isFirst && typeof at(result, "subnet") === "string") {
        isFirst = false;
        await create({ Name: "faster" });
      }
      return result;
    };
    const answer = await create({});
    expect(answer.status).toBe(201);
    expect(lab.ports.rows.networkByName("faster")?.subnet).toBe("10.0.2.0/24");
    expect(lab.ports.rows.networkByName("new")?.subnet).toBe("10.0.3.0/24");
  });

  test("leaves other drivers to the engine", async () => {
    const answer = await create({ Driver: "bridge", Name: "mine" });
    expect(answer.status).toBe(201);
    expect(at(answer.body, "got")).toEqual({ Name: "mine", Driver: "bridge" });
    const taken = await create({ Driver: "", Name: "net1" });
    expect([taken.status, taken.body]).toEqual([
      409,
      { message: "network with name net1 already exists" },
    ]);
  });
});

describe("networks of local drivers", () => {
  const HERE = {
    Name: "mv",
    Id: "d".repeat(64),
    Scope: "local",
    Driver: "macvlan",
    Labels: { "shoal.network.id": "mv1", "shoal.network.config-from": "cfg", own: "x" },
    IPAM: { Driver: "default", Config: [{ Subnet: "10.7.0.0/24" }] },
    Containers: { c0ffee: { Name: "web.1.x" } },
  };
  const shown = { Id: "mv1", Scope: "swarm", Driver: "macvlan", ConfigFrom: { Network: "cfg" } };

  test.each([
    ["macvlan", "macvlan"],
    ["vendor/net", "vendor/net"],
    ["bridge", "bridge"],
  ])("of driver %j are stored with no address of the cluster", async (given, Driver) => {
    const request = local({ Driver: given, Attachable: true });
    expect((await create(request)).status).toBe(201);
    const made = lab.ports.rows.networkByName("new");
    expect(made?.spec).toMatchObject({ Driver, Attachable: true, ConfigFrom: "cfg" });
    expect([made?.subnet, made?.vni]).toEqual([undefined, undefined]);
  });

  test("are shown as the cluster knows them, and as the engine has them here", async () => {
    lab.ports.put("network", makeLocalNetwork("mv1", "mv"));
    const known = await lab.call("GET", "/networks/mv");
    expect(known.body).toMatchObject({ ...shown, IPAM: { Config: [] }, Containers: null });
    lab.engine.networks.push(HERE);
    for (const isManager of [true, false]) {
      if (!isManager) asWorker();
      const here = await lab.call("GET", "/networks/mv");
      const wanted = { ...HERE, ...shown, Labels: { own: "x" } };
      expect(here.body).toEqual(wanted);
      expect((await lab.call("GET", "/networks")).body).toContainEqual(wanted);
    }
  });

  test("keep the configuration that they are made from", async () => {
    lab.engine.networks.push({ ...BRIDGE, Name: "cfg", Id: "e".repeat(64), ConfigOnly: true });
    expect((await lab.call("DELETE", "/networks/cfg")).status).toBe(204);
    lab.engine.networks.push(HERE);
    const refused = await lab.call("DELETE", "/networks/cfg");
    expect([refused.status, field(refused.body, "message")]).toEqual([
      403,
      'error while removing network: configuration network "cfg" is in use by network mv',
    ]);
  });
});

describe("DELETE /networks/{id}", () => {
  test("removes a cluster network, or refuses while it is used", async () => {
    const id = await lab.createService({ template: { Networks: [{ Target: "net1" }] } });
    const used = await lab.call("DELETE", "/networks/net1");
    expect([used.status, used.body]).toEqual([
      400,
      {
        message: `rpc error: code = FailedPrecondition desc = network ${NET1_ID} is in use by service ${id}`,
      },
    ]);
    await lab.call("DELETE", "/services/web");
    const removed = await lab.call("DELETE", "/networks/net1");
    expect([removed.status, removed.text]).toEqual([204, ""]);
    expect(lab.ports.rows.network(NET1_ID)).toBeUndefined();
  });

  test("refuses ingress while a port is published", async () => {
    const id = await lab.createService({
      EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] },
    });
    const answer = await lab.call("DELETE", "/networks/ingress");
    expect(answer.status).toBe(400);
    expect(answer.text).toContain(
      `ingress network cannot be removed because service ${id} depends on it`,
    );
  });

  test("leaves the engine's own to the engine", async () => {
    const answer = await lab.call("DELETE", "/networks/bridge");
    expect(answer.status).toBe(204);
    expect(lab.engine.requests).toContain(`DELETE /networks/${BRIDGE.Id}`);
  });

  test("keeps a worker from removing a network of the cluster", async () => {
    asWorker();
    lab.engine.networks.push(NET1_BRIDGE);
    const answer = await lab.call("DELETE", "/networks/net1");
    expect(answer.status).toBe(503);
    expect(lab.engine.requests.filter((request) => request.startsWith("DELETE"))).toEqual([]);
  });
});
