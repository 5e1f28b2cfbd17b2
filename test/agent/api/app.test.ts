import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import { NODE_ID, notManager } from "./fake-ports.ts";
import { type ApiLab, at, createLab } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

describe("createApp()", () => {
  test("puts the API's headers on every answer", async () => {
    for (const path of ["/nodes", "/nodes/none", "/nothing", "/v1.41/version"]) {
      const { headers } = await lab.call("GET", path);
      expect(headers.get("api-version")).toBe("1.41");
      expect(headers.get("ostype")).toBe("linux");
      expect(headers.get("server")).toBe("Docker/20.10.24 (linux)");
      expect(headers.get("docker-experimental")).toBe("false");
    }
  });

  test.each([
    ["/v1.24/nodes", 200, ""],
    ["/v1.41/nodes", 200, ""],
    ["/nodes", 200, ""],
    ["/v1.42/nodes", 400, "client version 1.42 is too new. Maximum supported API version is 1.41"],
    [
      "/v1.23/nodes",
      400,
      "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
    ],
    ["/v1.9/nodes", 400, "client version 1.9 is too old."],
  ])("GET %s answers %i %s", async (path, status, message) => {
    const answer = await lab.call("GET", path);
    expect(answer.status).toBe(status);
    expect(answer.text).toContain(message);
  });

  test.each([
    ["GET", "/nothing"],
    ["GET", "/v1.41/swarm/nothing"],
    ["PUT", "/services"],
    ["DELETE", "/services"],
    ["POST", "/services/x/unknown"],
  ])("%s %s is not found", async (method, path) => {
    const answer = await lab.call(method, path);
    expect([answer.status, answer.body]).toEqual([404, { message: "page not found" }]);
  });

  test("says on nodes that are no managers what to do", async () => {
    lab.ports.failure = notManager();
    const paths = ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"];
    for (const path of [...paths, ...paths.slice(1).map((path) => `${path}/x`)]) {
      const answer = await lab.call("GET", path);
      expect(answer.status).toBe(503);
      expect(answer.text).toContain("This node is not a swarm manager.");
    }
  });

  test.each([
    ["no-quorum", 503],
    ["unavailable", 503],
    ["deadline", 500],
    ["internal", 500],
  ] as const)("tells the error %s as %i", async (code, status) => {
    lab.ports.failure = new ClusterError(code, "Words of the node");
    const answer = await lab.call("GET", "/services");
    expect([answer.status, answer.body]).toEqual([status, { message: "Words of the node" }]);
  });

  test("serves the cluster's part while the engine is away", async () => {
    await lab.engine.stop();
    const nodes = await lab.call("GET", "/v1.41/nodes");
    expect(nodes.status).toBe(200);
    const info = await lab.call("GET", "/info");
    expect(info.status).toBe(503);
    expect(info.text).toContain("Cannot connect to the Docker Engine at unix://");
  });
});

describe("GET /_ping", () => {
  test.each([
    [{ state: "active", isManager: true }, "active/manager"],
    [{ state: "active", isManager: false }, "active/worker"],
    [{ state: "inactive", isManager: false }, "inactive"],
    [{ state: "pending", isManager: false }, "pending"],
  ] as const)("of %j has the header Swarm: %s", async (set, header) => {
    lab.ports.local = { ...lab.ports.local, ...set };
    for (const method of ["GET", "HEAD"]) {
      const answer = await lab.call(method, "/_ping");
      expect(answer.status).toBe(200);
      expect(answer.text).toBe(method === "GET" ? "OK" : "");
      expect(answer.headers.get("swarm")).toBe(header);
      expect(answer.headers.get("builder-version")).toBe("1");
      expect(answer.headers.get("cache-control")).toStartWith("no-cache");
    }
  });
});

describe("GET /version and /info", () => {
  test("are the engine's, with shoal in them", async () => {
    const version = await lab.call("GET", "/version");
    expect(version.body).toMatchObject({ ApiVersion: "1.41", MinAPIVersion: "1.24" });
    expect(at(version.body, "Components", 1)).toEqual({
      Name: "shoal",
      Version: "0.1.0-test",
      Details: {},
    });
    const info = await lab.call("GET", "/info");
    expect(info.body).toMatchObject({
      Name: "alpha",
      Swarm: {
        NodeID: NODE_ID,
        NodeAddr: "192.168.77.10",
        LocalNodeState: "active",
        ControlAvailable: true,
        Error: "",
        RemoteManagers: [{ NodeID: NODE_ID, Addr: "192.168.77.10:2377" }],
        Nodes: 1,
        Managers: 1,
      },
    });
    expect(info.text).not.toContain("SWMTKN");
    expect(info.text).not.toContain("the CA's key");
  });

  test("tell of a node without a cluster", async () => {
    lab.ports.local = { state: "inactive", isManager: false, managers: [] };
    const info = await lab.call("GET", "/info");
    expect(at(info.body, "Swarm")).toEqual({
      NodeID: "",
      NodeAddr: "",
      LocalNodeState: "inactive",
      ControlAvailable: false,
      Error: "",
      RemoteManagers: null,
    });
  });

  test("tell of a lost quorum and go on", async () => {
    lab.ports.failure = new ClusterError("no-quorum", "The swarm does not have a leader");
    const info = await lab.call("GET", "/info");
    expect(info.status).toBe(200);
    expect(at(info.body, "Swarm", "Error")).toBe("The swarm does not have a leader");
  });
});

describe("GET /shoal/v1", () => {
  test("status shows node, raft and versions", async () => {
    const { body } = await lab.call("GET", "/shoal/v1/status");
    expect(body).toMatchObject({
      version: "0.1.0-test",
      node: { state: "active", isManager: true },
      raft: { leaderId: NODE_ID, isLeader: true },
      raftError: null,
      engine: { version: "20.10.24", apiVersion: "1.41" },
    });
  });

  test("status tells what cannot be had", async () => {
    await lab.engine.stop();
    lab.ports.clusterStatus = () => {
      throw new ClusterError("no-quorum", "No leader");
    };
    const { status, body } = await lab.call("GET", "/shoal/v1/status");
    expect(status).toBe(200);
    expect(body).toMatchObject({
      raft: null,
      raftError: { code: "no-quorum", message: "No leader" },
      engine: { error: { code: "unavailable" } },
    });
  });

  test("net/doctor passes on which node is meant", async () => {
    const one = await lab.call("GET", "/shoal/v1/net/doctor?node=beta");
    expect(one.body).toMatchObject({ scope: "node", nodes: [{ hostname: "beta" }] });
    const all = await lab.call("GET", "/shoal/v1/net/doctor?node=");
    expect(all.body).toMatchObject({ scope: "cluster" });
  });

  test("openapi.json names every path of shoal's own", async () => {
    const { body } = await lab.call("GET", "/shoal/v1/openapi.json");
    const own = lab.app.routes
      .filter((route) => route.path.startsWith("/shoal/") && ["GET", "POST"].includes(route.method))
      // A parameter is `:ref` in Hono and `{ref}` in OpenAPI.
      .map((route) => route.path.replaceAll(/:(\w+)/g, "{$1}"))
      .sort();
    expect(Object.keys(at(body, "paths") ?? {}).sort()).toEqual(own);
  });
});

describe("bodies", () => {
  test.each([
    ["", "invalid JSON: the request has no body"],
    ["{", "invalid JSON: "],
    ["[]", "invalid value for the body: "],
    ['{"Name":5}', "invalid value for Name: "],
    [
      '{"TaskTemplate":{"ContainerSpec":{"Env":"A=b"}}}',
      "invalid value for TaskTemplate.ContainerSpec.Env: ",
    ],
    ['{"Mode":{"Replicated":{"Replicas":-1}}}', "invalid value for Mode.Replicated.Replicas: "],
    [
      '{"EndpointSpec":{"Ports":[{"TargetPort":70000}]}}',
      "invalid value for EndpointSpec.Ports.0.TargetPort: ",
    ],
    ['{"UpdateConfig":{"Order":"sideways"}}', "unrecognized update order sideways"],
  ])("%s is refused: %s", async (body, message) => {
    const answer = await lab.call("POST", "/services/create", body);
    expect(answer.status).toBe(400);
    expect(answer.text).toContain(message);
  });

  test("nulls are as if absent, and unknown fields are dropped", async () => {
    const answer = await lab.call("POST", "/services/create", {
      Name: "nulls",
      Labels: null,
      TaskTemplate: {
        ContainerSpec: { Image: "busybox", Args: null, TTY: false, New: 1 },
        Networks: null,
        Placement: null,
      },
      Mode: null,
      EndpointSpec: null,
      Another: true,
    });
    expect(answer.status).toBe(201);
    expect(lab.ports.rows.serviceByName("nulls")?.spec).toEqual({
      Name: "nulls",
      Labels: {},
      TaskTemplate: {
        ContainerSpec: { Image: "busybox", Isolation: "default" },
        ForceUpdate: 0,
        Runtime: "container",
      },
      Mode: { Replicated: { Replicas: 1 } },
    });
  });
});

describe("filters", () => {
  test.each([
    ['{"nope":{"x":true}}', "invalid filter 'nope'"],
    ["[", "invalid filter: "],
    ["[]", "invalid filter: it is not a JSON object"],
    ['{"id":"x"}', "invalid filter 'id': its values are no list"],
  ])("%s is refused", async (filters, message) => {
    for (const root of ["nodes", "services", "tasks", "secrets", "configs", "networks"]) {
      const path = `/${root}?filters=${encodeURIComponent(filters)}`;
      const answer = await lab.call("GET", path);
      expect(answer.status).toBe(400);
      expect(answer.text).toContain(message);
    }
  });
});
