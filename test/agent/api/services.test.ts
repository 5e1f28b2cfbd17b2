import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { openRegistryAuth } from "../../../agent/vault.ts";
import type { Task, TaskState } from "../../../core/objects/task.ts";
import { HOST_ID, INGRESS_ID, makeTask, NET1_ID } from "./fake-ports.ts";
import golden from "./golden/services.json" with { type: "json" };
import { type ApiLab, at, createLab, field, keyPaths, serviceSpec } from "./lab.ts";

let lab: ApiLab;
beforeEach(() => {
  lab = createLab();
});
afterEach(() => lab.engine.stop());

const MAPS = [".Labels"];
const stored = (id: string) => {
  const service = lab.ports.rows.service(id);
  if (!service) throw new Error(`no service ${id}`);
  return service;
};
const create = (set: Record<string, unknown>) =>
  lab.call("POST", "/services/create", serviceSpec(set));
const update = (id: string, set: Record<string, unknown>, query = "", headers = {}) =>
  lab.call(
    "POST",
    `/services/${id}/update?version=${stored(id).version}${query}`,
    serviceSpec(set),
    headers,
  );

const ports = (published: number, mode = "ingress", target = 80) => ({
  EndpointSpec: {
    Ports: [{ Protocol: "tcp", TargetPort: target, PublishedPort: published, PublishMode: mode }],
  },
});

const plugin = (PluginSpec: Record<string, unknown>, set: Record<string, unknown>) => ({
  template: { Runtime: "plugin", PluginSpec, ContainerSpec: undefined },
  ...set,
});

describe("POST /services/create", () => {
  test("stores the spec and answers with the id", async () => {
    const answer = await create({
      template: { Networks: [{ Target: "net1", Aliases: ["www"] }] },
      ...ports(8080),
    });
    expect(answer.status).toBe(201);
    expect(answer.body).toEqual({ ID: expect.stringMatching(/^[0-9a-z]{25}$/) });
    const service = stored(field(answer.body, "ID"));
    expect(service.spec.TaskTemplate.Networks).toEqual([{ Target: NET1_ID, Aliases: ["www"] }]);
    expect(service.spec.TaskTemplate.Runtime).toBe("container");
    expect(service.specVersion).toBe(service.version);
  });

  test("moves networks from their place before API 1.25", async () => {
    const id = await lab.createService({ Networks: [{ Target: "net1" }] });
    expect(stored(id).spec.Networks).toBeUndefined();
    expect(stored(id).spec.TaskTemplate.Networks).toEqual([{ Target: NET1_ID }]);
  });

  test("gives a service without a name one", async () => {
    const id = await lab.createService({ Name: "" });
    expect(stored(id).spec.Name).toMatch(/^[a-z]+_[a-z]+$/);
  });

  test("keeps registry credentials and never shows them", async () => {
    const id = await lab.createService({}, { "x-registry-auth": "c2VjcmV0" });
    const auth = stored(id).spec.TaskTemplate.ContainerSpec.PullOptions?.RegistryAuth ?? "";
    expect(auth).not.toContain("c2VjcmV0");
    expect(openRegistryAuth(lab.ports.vault, auth)).toBe("c2VjcmV0");
    const service = stored(id);
    lab.ports.put("task", makeTask(service, "task1"));
    lab.ports.put("service", { ...service, previousSpec: service.spec });
    for (const path of ["/services", `/services/${id}`, "/tasks", "/tasks/task1"]) {
      const { status, text } = await lab.call("GET", path);
      expect(status).toBe(200);
      expect(text).not.toContain("c2VjcmV0");
      expect(text).not.toContain("PullOptions");
    }
    const none = await lab.createService({ Name: "none" }, { "x-registry-auth": "e30=" });
    expect(stored(none).spec.TaskTemplate.ContainerSpec.PullOptions).toBeUndefined();
  });

  test("drops zeros that Go leaves out, so that equal wishes are equal specs", async () => {
    const one = await lab.createService({ Name: "one" });
    const two = await lab.createService({
      Name: "two",
      container: { TTY: false, Env: [], Labels: {}, Hostname: "", Args: null, Isolation: "" },
      template: { Resources: { Limits: { NanoCPUs: 0 }, Reservations: {} }, Runtime: "" },
    });
    expect(stored(two).spec.TaskTemplate).toEqual(stored(one).spec.TaskTemplate);
  });

  const secret = (name: string, target: string, id = "s1") => ({
    SecretID: id,
    SecretName: name,
    File: { Name: target, UID: "0", GID: "0", Mode: 292 },
  });
  const refusals: [string, Record<string, unknown>, number, string][] = [
    ["a bad name", { Name: "a b" }, 400, "name must be valid as a DNS name component"],
    ["a long name", { Name: "a".repeat(64) }, 400, "name must be 63 characters or fewer"],
    [
      "no image",
      { container: { Image: "" } },
      400,
      "ContainerSpec: image reference must be provided",
    ],
    [
      "a bad image",
      { container: { Image: "Bad Image" } },
      400,
      'ContainerSpec: "Bad Image" is not a valid repository/tag',
    ],
    [
      "a bad constraint",
      { template: { Placement: { Constraints: ["node.role=worker"] } } },
      400,
      "constraint expected one operator from ==, !=",
    ],
    [
      "little cpu",
      { template: { Resources: { Limits: { NanoCPUs: 1000 } } } },
      400,
      "invalid cpu value 0.000001: Must be at least 0.001",
    ],
    [
      "little memory",
      { template: { Resources: { Reservations: { MemoryBytes: 1024 } } } },
      400,
      "invalid memory value 1024: Must be at least 4MiB",
    ],
    [
      "a negative delay",
      { template: { RestartPolicy: { Delay: -1 } } },
      400,
      "TaskSpec: restart-delay cannot be negative",
    ],
    [
      "a failure ratio above one",
      { UpdateConfig: { MaxFailureRatio: 1.5 } },
      400,
      "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
    ],
    [
      "a quick health check",
      { container: { Healthcheck: { Interval: 1000 } } },
      400,
      "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
    ],
    [
      "two mounts in one place",
      {
        container: {
          Mounts: [
            { Type: "volume", Source: "a", Target: "/d" },
            { Type: "volume", Source: "b", Target: "/d" },
          ],
        },
      },
      400,
      "ContainerSpec: duplicate mount point: /d",
    ],
    [
      "an unknown kind of mount",
      { container: { Mounts: [{ Type: "magic", Target: "/d" }] } },
      400,
      'invalid MountType: "magic"',
    ],
    [
      "dnsrr with an ingress port",
      { EndpointSpec: { Mode: "dnsrr", Ports: [{ TargetPort: 80, PublishedPort: 80 }] } },
      400,
      "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    ],
    [
      "a port twice",
      {
        EndpointSpec: {
          Ports: [
            { TargetPort: 80, PublishedPort: 90 },
            { TargetPort: 81, PublishedPort: 90, Protocol: "tcp" },
          ],
        },
      },
      400,
      "EndpointSpec: duplicate published ports provided",
    ],
    [
      "an unknown network",
      { template: { Networks: [{ Target: "no" }] } },
      404,
      "network no not found",
    ],
    [
      "a network of this node",
      { template: { Networks: [{ Target: "bridge" }] } },
      403,
      "The network bridge cannot be used with services.",
    ],
    [
      "the ingress network",
      { template: { Networks: [{ Target: "ingress" }] } },
      400,
      'Service cannot be explicitly attached to the ingress network "ingress"',
    ],
    [
      "a network twice",
      { template: { Networks: [{ Target: "net1" }, { Target: NET1_ID }] } },
      400,
      'network "net1" is listed twice',
    ],
    [
      "host beside another network",
      { template: { Networks: [{ Target: "host" }, { Target: "net1" }] } },
      400,
      'network "host" cannot be combined with other networks',
    ],
    [
      "a secret that is not there",
      { container: { Secrets: [secret("db", "db")] } },
      400,
      "secret not found: db",
    ],
    [
      "two secrets in one file",
      { container: { Secrets: [secret("a", "f"), secret("b", "f", "s2")] } },
      400,
      "secret references 'a' and 'b' have a conflicting target: 'f'",
    ],
    [
      "a config without a target",
      { container: { Configs: [{ ConfigID: "c", ConfigName: "c" }] } },
      400,
      "invalid Config: either File or Runtime should be set",
    ],
    [
      "two modes",
      { Mode: { Global: {}, Replicated: {} } },
      400,
      "must specify only one service mode",
    ],
    ["a job that is global too", { Mode: { GlobalJob: {}, Global: {} } }, 400, "must specify only"],
    [
      "a job with an update config",
      { Mode: { ReplicatedJob: {} }, UpdateConfig: { Parallelism: 1 } },
      400,
      "rpc error: code = InvalidArgument desc = Jobs may not have an update config",
    ],
    [
      "a job with a rollback config",
      { Mode: { GlobalJob: {} }, RollbackConfig: { Parallelism: 1 } },
      400,
      "rpc error: code = InvalidArgument desc = Jobs may not have a rollback config",
    ],
    [
      "a job of less than nothing",
      { Mode: { ReplicatedJob: { TotalCompletions: -1 } } },
      400,
      "invalid value for Mode.ReplicatedJob.TotalCompletions",
    ],
    [
      "a plugin that is none",
      { template: { Runtime: "plugin" }, Mode: { Global: {} } },
      400,
      "mismatched Runtime and *Spec fields",
    ],
    ["a plugin with replicas", plugin({ remote: "lab" }, {}), 400, "must not use replicated mode"],
    ["a plugin as a job", plugin({ remote: "lab" }, { Mode: { GlobalJob: {} } }), 400, "no job"],
    ["a plugin from nowhere", plugin({ name: "x" }, { Mode: {} }), 400, "remote must be provided"],
    [
      "a plugin with ports",
      plugin({ remote: "lab" }, { Mode: { Global: {} }, ...ports(8080) }),
      400,
      "a plugin publishes no ports",
    ],
    [
      "a container that is a plugin too",
      { template: { PluginSpec: { remote: "lab" } } },
      400,
      "mismatched Runtime and *Spec fields",
    ],
  ];
  test.each(refusals)("refuses %s", async (_what, set, status, message) => {
    const answer = await create(set);
    expect(field(answer.body, "message")).toContain(message);
    expect(answer.status).toBe(status);
    expect(lab.ports.proposed).toEqual([]);
  });

  test("refuses names and ports that are taken", async () => {
    const id = await lab.createService({ ...ports(8080) });
    const name = await create({});
    expect([name.status, name.body]).toEqual([
      409,
      {
        message:
          "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists",
      },
    ]);
    const port = await create({ Name: "other", ...ports(8080, "host") });
    expect([port.status, port.body]).toEqual([
      400,
      {
        message: `rpc error: code = InvalidArgument desc = port '8080' is already in use by service 'web' (${id}) as an ingress port`,
      },
    ]);
    await lab.createService({ Name: "h1", ...ports(9090, "host") });
    await lab.createService({ Name: "h2", ...ports(9090, "host") });
    const ingress = await create({ Name: "h3", ...ports(9090) });
    expect(field(ingress.body, "message")).toContain("as a host-published port");
  });

  test("a plugin is global, and is shown in stock's words", async () => {
    const PluginPrivilege = [{ Name: "network", Value: ["host"] }];
    const given = { Name: "d", Remote: "lab:1", Disabled: false, PluginPrivilege, Env: ["A=1"] };
    const id = await lab.createService(plugin(given, { Mode: {} }));
    const { body } = await lab.call("GET", `/services/${id}?insertDefaults=true`);
    const shown = at(at(body, "Spec"), "TaskTemplate");
    expect(shown).toMatchObject({
      Runtime: "plugin",
      PluginSpec: {
        name: "d",
        remote: "lab:1",
        privileges: [{ name: "network", value: ["host"] }],
        env: ["A=1"],
      },
    });
    // For clients that read it without asking.
    expect(at(shown, "ContainerSpec")).toEqual({ Image: "lab:1" });
    expect(at(at(body, "Spec"), "Mode")).toEqual({ Global: {} });
    const listed = await lab.call("GET", '/services?filters={"runtime":["plugin"]}');
    expect(listed.body).toHaveLength(1);
  });

  test("accepts the node's own network by name", async () => {
    const id = await lab.createService({ template: { Networks: [{ Target: "host" }] } });
    expect(stored(id).spec.TaskTemplate.Networks).toEqual([{ Target: HOST_ID }]);
  });

  test.each([
    "busybox",
    "busybox:1.2-x_y",
    "library/busybox",
    "localhost:5000/a/b:tag",
    "reg.example.com/a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "a__b/c--d.e",
  ])("takes image %s", async (Image) => {
    await lab.createService({ container: { Image } });
  });
});

describe("POST /services/{id}/update", () => {
  test("keeps the spec before it, and forgets the update before it", async () => {
    const id = await lab.createService({});
    lab.ports.put("service", {
      ...stored(id),
      updateStatus: { state: "paused", startedAtMs: 1, message: "" },
    });
    const before = stored(id);
    const answer = await update(id, { container: { Image: "busybox:2" } });
    expect([answer.status, answer.body]).toEqual([200, { Warnings: null }]);
    expect(stored(id).spec.TaskTemplate.ContainerSpec.Image).toBe("busybox:2");
    expect(stored(id).previousSpec).toEqual(before.spec);
    expect(stored(id).previousSpecVersion).toBe(before.specVersion);
    expect(stored(id).specVersion).toBe(stored(id).version);
    expect(stored(id).updateStatus).toBeUndefined();
  });

  test("rolls back to the spec before, and forward again", async () => {
    const id = await lab.createService({});
    await update(id, { container: { Image: "busybox:2" } });
    const image = () => stored(id).spec.TaskTemplate.ContainerSpec.Image;
    await update(id, { Name: "ignored" }, "&rollback=previous");
    expect(image()).toBe("busybox:latest");
    expect(stored(id).updateStatus).toEqual({
      state: "rollback_started",
      startedAtMs: expect.any(Number),
      message: "manually requested rollback",
    });
    await update(id, {}, "&rollback=previous");
    expect(image()).toBe("busybox:2");
  });

  test("refuses a rollback without a spec before", async () => {
    const id = await lab.createService({});
    const answer = await update(id, {}, "&rollback=previous");
    expect([answer.status, field(answer.body, "message")]).toEqual([
      400,
      `rpc error: code = FailedPrecondition desc = service ${id} does not have a previous spec`,
    ]);
  });

  test.each([
    [{ Name: "other" }, "", 501, "renaming services is not supported"],
    [{ Mode: { Global: {} } }, "", 501, "service mode change is not allowed"],
    [{}, "&rollback=next", 400, "unrecognized rollback option next"],
    [{}, "&registryAuthFrom=thin-air", 400, "unsupported registryAuthFrom value: thin-air"],
    [{}, "&registryAuthFrom=previous-spec", 400, "service does not have a previous spec"],
    [{ container: { Image: "" } }, "", 400, "image reference must be provided"],
  ])("with %j %s is refused", async (set, query, status, message) => {
    const id = await lab.createService({});
    const answer = await update(id, set, query);
    expect(answer.status).toBe(status);
    expect(field(answer.body, "message")).toContain(message);
  });

  test("refuses stale and malformed versions, and unknown services", async () => {
    const id = await lab.createService({});
    const call = (path: string) => lab.call("POST", path, serviceSpec());
    const stale = await call(`/services/${id}/update?version=1`);
    expect([stale.status, field(stale.body, "message")]).toEqual([
      500,
      "rpc error: code = Unknown desc = update out of sequence",
    ]);
    expect((await call(`/services/${id}/update?version=-1`)).text).toContain(
      "invalid service version '-1': strconv.ParseUint",
    );
    const unknown = await call("/services/nope/update?version=1");
    expect([unknown.status, unknown.body]).toEqual([404, { message: "service nope not found" }]);
  });

  test("keeps its own port", async () => {
    const id = await lab.createService({ ...ports(8080) });
    expect((await update(id, { ...ports(8080, "host") })).status).toBe(200);
  });

  test("takes credentials from the header, else from the spec that is named", async () => {
    const auth = (id: string) => {
      const { PullOptions } = stored(id).spec.TaskTemplate.ContainerSpec;
      return openRegistryAuth(lab.ports.vault, PullOptions?.RegistryAuth ?? "");
    };
    const id = await lab.createService({}, { "x-registry-auth": "first" });
    await update(id, {});
    expect(auth(id)).toBe("first");
    await update(id, {}, "", { "x-registry-auth": "second" });
    expect(auth(id)).toBe("second");
    const sealed = () => stored(id).spec.TaskTemplate.ContainerSpec.PullOptions;
    const before = sealed();
    await update(id, {}, "", { "x-registry-auth": "second" });
    expect(sealed()).toEqual(before ?? { RegistryAuth: "" });
    await update(id, {}, "", { "x-registry-auth": "first" });
    await update(id, {}, "", { "x-registry-auth": "second" });
    await update(id, {}, "&registryAuthFrom=previous-spec");
    expect(auth(id)).toBe("first");
  });

  test("refuses labels and generic resources that cannot be read", async () => {
    const labels = [
      [{ "shoal.update.progress-deadline": "soon" }, '"soon" is no duration'],
      [{ "shoal.drain": "2h" }, '"2h" is no duration of at most 1h'],
      [{ "shoal.publish.8080": "dsr" }, '"dsr" is no policy'],
      [{ "shoal.publishes": "local" }, "did you mean shoal.publish?"],
      [{ "shoal.stateful": "yes" }, '"yes" is not known: use true'],
      [{ "shoal.statefull": "true" }, "did you mean shoal.stateful?"],
      [{ "shoal.depends-on": "db:soon" }, 'label shoal.depends-on: "soon" is no condition: use'],
      [{ "shoal.depend-on": "db" }, "did you mean shoal.depends-on?"],
    ] as const;
    for (const [label, why] of labels) {
      expect((await create({ Labels: label })).body).toEqual({
        message: expect.stringContaining(why),
      });
    }
    await create({ Name: "kept-2" });
    const named = { Name: "kept", Labels: { "shoal.stateful": "true" } };
    expect((await create(named)).body).toEqual({
      message: expect.stringContaining("a slot would have the name of service kept-2"),
    });
    const first = await lab.createService({
      Name: "first",
      Labels: { "shoal.depends-on": "second" },
    });
    const second = { Name: "second", Labels: { "shoal.depends-on": "first:healthy" } };
    expect((await create(second)).body).toEqual({
      message: expect.stringContaining("second waits for first waits for second, so that none"),
    });
    // Nor by a rollback to what was good when it was set.
    await update(first, { Name: "first" });
    await create(second);
    expect((await update(first, {}, "&rollback=previous")).body).toEqual({
      message: expect.stringContaining("first waits for second waits for first"),
    });
    const GenericResources = [{ NamedResourceSpec: { Kind: "gpu", Value: "a" } }];
    const template = { Resources: { Reservations: { GenericResources } } };
    expect(await create({ template })).toMatchObject({
      status: 400,
      body: { message: expect.stringContaining("invalid argument for resource gpu") },
    });
  });
});

describe("jobs", () => {
  const replicatedJob = (ReplicatedJob: Record<string, number>) => ({ Mode: { ReplicatedJob } });
  const runOf = (id: string) => stored(id).jobStatus?.iteration;

  test.each([
    [{}, { MaxConcurrent: 1, TotalCompletions: 1 }],
    [{ MaxConcurrent: 3 }, { MaxConcurrent: 3, TotalCompletions: 3 }],
    [{ TotalCompletions: 4 }, { MaxConcurrent: 1, TotalCompletions: 4 }],
    [
      { MaxConcurrent: 0, TotalCompletions: 2 },
      { MaxConcurrent: 0, TotalCompletions: 2 },
    ],
  ])("of %j are stored as %j", async (given, kept) => {
    const id = await lab.createService(replicatedJob(given));
    expect(stored(id).spec.Mode).toEqual({ ReplicatedJob: kept });
    expect(runOf(id)).toBe(0);
    const { body } = await lab.call("GET", `/services/${id}`);
    expect(at(body, "JobStatus")).toEqual({
      JobIteration: {},
      LastExecution: expect.stringMatching(/^20\d\d-.*Z$/),
    });
  });

  test("that run at times are run by no update, but by one that is forced", async () => {
    const mode = { Mode: { GlobalJob: {} }, Labels: { "shoal.schedule": "0 3 * * *" } };
    const { body } = await create({ Name: "nightly", ...mode });
    expect(body).toEqual({
      ID: expect.any(String),
      Warnings: [
        expect.stringMatching(
          /^nightly runs first at 20\d\d-\d\d-\d\dT03:00:00Z \(label shoal\.schedule\): a client without --detach waits until then$/,
        ),
      ],
    });
    const id = field(body, "ID");
    await update(id, { Name: "nightly", ...mode, container: { Image: "busybox:2" } });
    await update(id, { Name: "nightly", ...mode }, "&rollback=previous");
    expect(runOf(id)).toBe(0);
    await update(id, { Name: "nightly", ...mode, template: { ForceUpdate: 1 } });
    expect(runOf(id)).toBe(1);
    // Without a schedule it is a job as others are.
    await update(id, { Name: "nightly", ...mode, Labels: {}, template: { ForceUpdate: 1 } });
    expect(runOf(id)).toBe(2);
    const soon = { Name: "soon", ...mode, Labels: { "shoal.schedule": "soon" } };
    expect((await create(soon)).body).toEqual({
      message: expect.stringContaining("label shoal.schedule: it has 1 fields: use five"),
    });
  });

  test("run again with every update and rollback, without an update status", async () => {
    const mode = { Mode: { GlobalJob: {} } };
    const id = await lab.createService(mode);
    await update(id, mode);
    expect(runOf(id)).toBe(1);
    await update(id, {}, "&rollback=previous");
    expect([runOf(id), stored(id).updateStatus]).toEqual([2, undefined]);
    const { body } = await lab.call("GET", `/services/${id}?insertDefaults=true`);
    expect(at(body, "JobStatus", "JobIteration")).toEqual({ Index: 2 });
    // What is shown can be sent back.
    expect(at(body, "Spec", "UpdateConfig")).toBeUndefined();
    expect(at(body, "Spec", "RollbackConfig")).toBeUndefined();
    const other = await update(id, { Mode: { Global: {} } });
    expect([other.status, field(other.body, "message")]).toEqual([
      501,
      "rpc error: code = Unimplemented desc = service mode change is not allowed",
    ]);
  });

  test("are counted by slots of the last run", async () => {
    const id = await lab.createService(replicatedJob({ MaxConcurrent: 2, TotalCompletions: 5 }));
    const everywhere = await lab.createService({ Name: "all", Mode: { GlobalJob: {} } });
    const put = (service: string, name: string, state: TaskState, set: Partial<Task> = {}) =>
      lab.ports.put(
        "task",
        makeTask(stored(service), name, {
          desiredState: state === "failed" ? "shutdown" : "complete",
          status: { state, atMs: 1, message: "" },
          jobIteration: 0,
          ...set,
        }),
      );
    put(id, "a1", "complete");
    put(id, "a2", "complete", { desiredState: "shutdown" });
    put(id, "b1", "failed", { slot: 2 });
    put(id, "b2", "running", { slot: 2 });
    put(id, "c1", "running", { slot: 3, jobIteration: 7, desiredState: "remove" });
    put(everywhere, "g1", "complete", { slot: 0, nodeId: "n1" });
    put(everywhere, "g2", "failed", { slot: 0, nodeId: "n2" });
    put(everywhere, "g3", "running", { slot: 0, nodeId: "n3" });
    const { body } = await lab.call("GET", "/services?status=true");
    const counts = new Map(
      Array.isArray(body)
        ? body.map((one) => [field(one, "Spec", "Name"), at(one, "ServiceStatus")])
        : [],
    );
    expect(counts.get("web")).toEqual({ RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 1 });
    expect(counts.get("all")).toEqual({ RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 1 });
  });
});

describe("GET /services", () => {
  test("has the keys of stock's answer", async () => {
    const id = await lab.createService({
      template: { Networks: [{ Target: "net1" }] },
      container: { Args: ["sleep", "1000"] },
      ...ports(8080),
    });
    await update(id, {
      template: { Networks: [{ Target: "net1" }] },
      container: { Args: ["sleep", "1000"] },
      ...ports(8080),
    });
    const service = stored(id);
    const updateConfig = {
      Parallelism: 0,
      FailureAction: "pause",
      Monitor: 1_000_000_000,
      MaxFailureRatio: 0,
      Order: "stop-first",
    } as const;
    lab.ports.put("service", {
      ...service,
      spec: {
        ...service.spec,
        EndpointSpec: {
          Mode: "vip",
          Ports: [{ TargetPort: 80, Protocol: "tcp", PublishedPort: 8080, PublishMode: "ingress" }],
        },
      },
      previousSpec: {
        ...service.spec,
        UpdateConfig: updateConfig,
        EndpointSpec: { Mode: "vip", ...service.spec.EndpointSpec },
      },
      endpoint: {
        specVersion: service.specVersion,
        mode: "vip",
        ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" }],
        virtualIps: [
          { networkId: INGRESS_ID, address: "10.0.0.3" },
          { networkId: NET1_ID, address: "10.0.1.2" },
        ],
      },
      updateStatus: {
        state: "rollback_completed",
        startedAtMs: 1,
        completedAtMs: 2,
        message: "rollback completed",
      },
    });
    const { body } = await lab.call("GET", "/services?status=true");
    expect([...keyPaths(at(body, 0), MAPS)].sort()).toEqual([...keyPaths(golden[0], MAPS)].sort());
    expect(at(body, 0, "Endpoint", "VirtualIPs")).toEqual([
      { NetworkID: INGRESS_ID, Addr: "10.0.0.3/24" },
      { NetworkID: NET1_ID, Addr: "10.0.1.2/24" },
    ]);
    expect(at(body, 0, "UpdateStatus", "CompletedAt")).toBe("1970-01-01T00:00:00.002Z");
  });

  test("counts tasks with status=true only", async () => {
    const id = await lab.createService({});
    const service = stored(id);
    lab.ports.put("task", makeTask(service, "t1"));
    lab.ports.put("task", makeTask(service, "t2", { desiredState: "shutdown" }));
    const status = { state: "starting" as const, atMs: 1, message: "" };
    lab.ports.put("task", makeTask(service, "t3", { status }));
    const global = await lab.createService({ Name: "all", Mode: { Global: {} } });
    lab.ports.put("task", makeTask(stored(global), "t4", { slot: 0 }));
    const { body } = await lab.call("GET", "/services?status=true");
    const counts = new Map(
      Array.isArray(body)
        ? body.map((one) => [field(one, "Spec", "Name"), at(one, "ServiceStatus")])
        : [],
    );
    expect(counts.get("web")).toEqual({ RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 0 });
    expect(counts.get("all")).toEqual({ RunningTasks: 1, DesiredTasks: 1, CompletedTasks: 0 });
    expect((await lab.call("GET", "/services")).text).not.toContain("ServiceStatus");
  });

  test.each([
    [{}, ["all", "web"]],
    [{ name: ["we"] }, ["web"]],
    [{ mode: ["global"] }, ["all"]],
    [{ mode: ["global-job"] }, []],
    [{ label: ["x"] }, ["web"]],
    [{ label: ["x=1"] }, ["web"]],
    [{ label: ["x=1", "y"] }, []],
    [{ runtime: ["plugin"] }, []],
    [{ id: ["nope"] }, []],
  ])("filters by %j", async (filters, wanted) => {
    await lab.createService({ Labels: { x: "1" } });
    await lab.createService({ Name: "all", Mode: { Global: {} } });
    const path = `/services?filters=${encodeURIComponent(JSON.stringify(filters))}`;
    const { body } = await lab.call("GET", path);
    const names = Array.isArray(body) ? body.map((one) => field(one, "Spec", "Name")) : [];
    expect(names.sort()).toEqual(wanted);
  });

  test("puts defaults in when asked, without storing them", async () => {
    const id = await lab.createService({ UpdateConfig: { Parallelism: 2 } });
    const plain = await lab.call("GET", `/services/${id}?insertDefaults=false`);
    expect(at(plain.body, "Spec", "RollbackConfig")).toBeUndefined();
    const full = await lab.call("GET", "/services/web?insertDefaults=true");
    const restart = { Condition: "any", Delay: 5_000_000_000, MaxAttempts: 0 };
    expect(at(full.body, "Spec", "TaskTemplate", "RestartPolicy")).toEqual(restart);
    expect(at(full.body, "Spec", "UpdateConfig")).toEqual({
      Parallelism: 2,
      FailureAction: "pause",
      Monitor: 5_000_000_000,
      MaxFailureRatio: 0,
      Order: "stop-first",
    });
    expect(at(full.body, "Spec", "RollbackConfig", "Parallelism")).toBe(1);
    expect(stored(id).spec.RollbackConfig).toBeUndefined();
  });
});

describe("DELETE /services/{id}", () => {
  test("removes by name", async () => {
    const id = await lab.createService({});
    const answer = await lab.call("DELETE", "/services/web");
    expect([answer.status, answer.text]).toEqual([200, ""]);
    expect(lab.ports.rows.service(id)).toBeUndefined();
    expect((await lab.call("DELETE", "/services/web")).status).toBe(404);
  });
});
