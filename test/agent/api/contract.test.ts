/**
 * What the differential run (test/differential) found to be other than in stock swarm and that was
 * mended, as far as it can be told without engines.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ClusterError } from "../../../core/errors.ts";
import { NODE_ID } from "./fake-ports.ts";
import { type ApiLab, at, createLab, field, serviceSpec } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const stored = (id: string) => {
  const service = lab.ports.rows.service(id);
  if (!service) throw new Error(`no service ${id}`);
  return service;
};
const update = (id: string, version: number, set: Record<string, unknown> = {}) =>
  lab.call("POST", `/services/${id}/update?version=${version}`, serviceSpec(set));
/** As the allocator: another version of the object, the same spec. */
const writeBeside = (id: string) => lab.ports.put("service", { ...stored(id) });

describe("the version of a service update", () => {
  test("is good while only managers have written since", async () => {
    const id = await lab.createService({});
    const seen = stored(id).version;
    writeBeside(id);
    expect(stored(id).version).toBeGreaterThan(seen);
    expect((await update(id, seen, { Labels: { a: "b" } })).status).toBe(200);
    expect(stored(id).spec.Labels).toEqual({ a: "b" });
  });

  test("is stale once another spec was set, and none of the future", async () => {
    const id = await lab.createService({});
    const seen = stored(id).version;
    await update(id, seen, { Labels: { a: "1" } });
    for (const version of [seen, stored(id).version + 1]) {
      const answer = await update(id, version, { Labels: { a: "2" } });
      expect([answer.status, field(answer.body, "message")]).toEqual([
        500,
        "rpc error: code = Unknown desc = update out of sequence",
      ]);
    }
    expect(stored(id).spec.Labels).toEqual({ a: "1" });
  });

  test("survives a manager that writes between the look and the proposal", async () => {
    const id = await lab.createService({});
    const { propose } = lab.ports;
    let raced = 0;
    lab.ports.propose = (actions) => {
      if (raced < 2) {
        raced += 1;
        writeBeside(id);
      }
      return propose(actions);
    };
    expect((await update(id, stored(id).version, { Labels: { a: "b" } })).status).toBe(200);
    expect(raced).toBe(2);
  });

  test("is given up after a bounded number of tries", async () => {
    const id = await lab.createService({});
    let tries = 0;
    lab.ports.propose = () => {
      tries += 1;
      return Promise.reject(new ClusterError("version-conflict", "changed"));
    };
    expect((await update(id, stored(id).version)).status).toBe(500);
    expect(tries).toBe(5);
  });
});

describe("clients of older versions", () => {
  const set = {
    container: { Sysctls: { a: "b" }, CapabilityAdd: ["CAP_CHOWN"] },
    template: { Placement: { MaxReplicas: 2 }, Resources: { Limits: { Pids: 5 } } },
  };
  test.each([
    ["/v1.39", [false, false, false, false]],
    ["/v1.40", [true, false, true, false]],
    ["/v1.41", [true, true, true, true]],
    ["", [true, true, true, true]],
  ])("%j may set what that version knows: %j", async (prefix, expected) => {
    const made = await lab.call("POST", `${prefix}/services/create`, serviceSpec(set));
    const template = stored(field(made.body, "ID")).spec.TaskTemplate;
    expect([
      template.ContainerSpec.Sysctls !== undefined,
      template.ContainerSpec.CapabilityAdd !== undefined,
      template.Placement?.MaxReplicas !== undefined,
      template.Resources?.Limits?.Pids !== undefined,
    ]).toEqual(expected);
  });

  test("see no counts of tasks before 1.41", async () => {
    await lab.createService({});
    const shown = async (prefix: string) =>
      at((await lab.call("GET", `${prefix}/services?status=true`)).body, 0, "ServiceStatus");
    expect(await shown("/v1.40")).toBeUndefined();
    expect(await shown("")).toBeDefined();
  });
});

describe("nodes", () => {
  test("are found by host name and by the name in their spec", async () => {
    const { version } = lab.ports.rows.node(NODE_ID) ?? { version: 0 };
    const spec = { Name: "alias", Role: "Manager", Availability: "ACTIVE", Labels: {} };
    const answer = await lab.call("POST", `/nodes/alpha/update?version=${version}`, spec);
    expect(answer.status).toBe(200);
    for (const name of ["alpha", "alias"]) {
      expect((await lab.call("GET", `/nodes/${name}`)).status).toBe(200);
      const filters = encodeURIComponent(JSON.stringify({ name: [name] }));
      expect((await lab.call("GET", `/nodes?filters=${filters}`)).body).toHaveLength(1);
    }
  });
});

describe("specs", () => {
  test.each([
    [{ container: { Env: ["A={{.Nosuch}}"] } }, "expanding env failed"],
    [{ container: { Hostname: "{{.Node.ID" } }, "expanding hostname failed"],
    [{ container: { Privileges: { CredentialSpec: {} } } }, "invalid CredentialSpec"],
    [{ EndpointSpec: { Mode: "x" } }, 'invalid resolution mode: "x"'],
    [{ template: { RestartPolicy: { Condition: "x" } } }, 'invalid RestartCondition: "x"'],
  ])("%j is refused: %s", async (set, message) => {
    const answer = await lab.call("POST", "/services/create", serviceSpec(set));
    expect([answer.status, field(answer.body, "message")]).toEqual([
      400,
      expect.stringContaining(message),
    ]);
  });

  test("of logging options alone are taken, as compose files have them", async () => {
    const id = await lab.createService({
      template: { LogDriver: { Options: { "max-size": "1m" } } },
    });
    expect(stored(id).spec.TaskTemplate.LogDriver?.Options).toEqual({ "max-size": "1m" });
  });

  test("show the words that hold in the parts that are given", async () => {
    const id = await lab.createService({
      UpdateConfig: {},
      EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] },
    });
    const shown = (await lab.call("GET", `/services/${id}`)).body;
    expect(at(shown, "Spec", "UpdateConfig", "FailureAction")).toBe("pause");
    expect(at(shown, "Spec", "EndpointSpec", "Mode")).toBe("vip");
    expect(at(shown, "Spec", "EndpointSpec", "Ports", 0, "Protocol")).toBe("tcp");
    expect(stored(id).spec.UpdateConfig?.FailureAction).toBeUndefined();
  });
});

describe("a node that is no manager", () => {
  test("says so before it looks at a body", async () => {
    lab.ports.local = { ...lab.ports.local, isManager: false };
    lab.ports.failure = new ClusterError("unavailable", "This node is not a swarm manager.");
    for (const path of ["/secrets/create", "/services/create", "/nodes/x/update?version=1"]) {
      expect((await lab.call("POST", path, "{")).status).toBe(503);
    }
  });
});

test("OPTIONS is answered everywhere, a slash behind /networks is one too many for nobody", async () => {
  expect((await lab.call("OPTIONS", "/services")).status).toBe(200);
  expect((await lab.call("GET", "/networks/")).status).toBe(200);
});
