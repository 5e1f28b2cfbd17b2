import { describe, expect, test } from "bun:test";
import { encodeProposal } from "../../../core/protocol.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import { applyEntry } from "../../../core/store/apply.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import { bodiesOf } from "../../../core/store/sqlite-snapshot.ts";
import {
  applyNext,
  applyOrThrow,
  AT_MS,
  clusterDraft,
  create,
  networkDraft,
  nodeDraft,
  proposal,
  secretDraft,
  serviceDraft,
  taskDraft,
  taskSpec,
  taskStatus,
} from "./objects.ts";

/** A cluster, two nodes, a network, a service using it, and its running task on node n1. */
function world() {
  const rows = createMemoryRows();
  applyOrThrow(
    rows,
    create("cluster", clusterDraft()),
    create("node", nodeDraft("n1", 1)),
    create("node", nodeDraft("n2", 2)),
    create("network", networkDraft("net1", {}, { subnet: "10.0.1.0/24", vni: 4097 })),
    create("network", networkDraft("net2", {}, { subnet: "10.0.2.0/24" })),
    create("secret", secretDraft("sec1", "password")),
    create("config", secretDraft("con1", "site")),
    create(
      "service",
      serviceDraft("s1", {
        Name: "web",
        TaskTemplate: taskSpec(
          { Secrets: [{ SecretID: "sec1" }], Configs: [{ ConfigID: "con1" }] },
          { Networks: [{ Target: "net1" }] },
        ),
        EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] },
      }),
    ),
    create(
      "task",
      taskDraft("t1", "s1", {
        nodeId: "n1",
        status: taskStatus("running"),
        networks: [{ networkId: "net2", address: "10.0.2.5", aliases: [] }],
      }),
    ),
  );
  return rows;
}
type Rows = ReturnType<typeof world>;

const state = (rows: Rows) => JSON.stringify([...bodiesOf(rows)]);

describe("apply()", () => {
  test("fills version and times of a created object, and a service's specVersion", () => {
    const rows = createMemoryRows();
    applyOrThrow(rows, create("node", nodeDraft("n1", 1)));
    const changes = applyOrThrow(rows, create("service", serviceDraft("s1")));
    expect(rows.service("s1")).toMatchObject({ version: 2, specVersion: 2, createdAtMs: AT_MS });
    expect(changes).toEqual([
      { index: 2, kind: "create", table: "service", id: "s1", object: rows.service("s1")! },
    ]);
  });

  test("sets specVersion only when the spec is set", () => {
    const rows = world();
    const spec = { ...rows.service("s1")!.spec, Labels: { a: "b" } };
    applyOrThrow(rows, { type: "update", table: "service", id: "s1", set: { spec } });
    expect(rows.service("s1")).toMatchObject({ version: 2, specVersion: 2 });
    applyOrThrow(rows, {
      type: "update",
      table: "service",
      id: "s1",
      set: { updateStatus: { state: "updating", startedAtMs: 1, message: "" } },
    });
    expect(rows.service("s1")).toMatchObject({ version: 3, specVersion: 2 });
    applyOrThrow(rows, {
      type: "update",
      table: "service",
      id: "s1",
      set: {},
      unset: ["updateStatus"],
    });
    expect(rows.service("s1")).not.toHaveProperty("updateStatus");
  });

  test("lets a network go together with the service whose tasks are on it, as `stack rm` does", () => {
    const rows = world();
    applyOrThrow(rows, { type: "remove", table: "service", id: "s1" });
    expect(rows.task("t1")?.desiredState).toBe("running");
    applyOrThrow(rows, { type: "remove", table: "network", id: "net2" });
    expect(rows.network("net2")).toBeUndefined();
    // The planners' next step is not refused for it.
    applyOrThrow(rows, update("task", "t1", { desiredState: "remove" }));
  });

  test("lets a network go whose only tasks are wanted no more, and keeps their addresses taken", () => {
    const rows = world();
    const { outcome } = applyNext(rows, [
      update("task", "t1", { desiredState: "shutdown" }),
      { type: "remove", table: "network", id: "net2" },
    ]);
    expect(outcome.type).toBe("applied");
    expect(rows.network("net2")).toBeUndefined();
    expect(rows.exclusiveHolder("address/net2/10.0.2.5")).toBe("task/t1");
  });

  test("in mode all changes nothing when one action is refused", () => {
    const rows = world();
    const before = state(rows);
    const { outcome, changes } = applyNext(rows, [
      create("service", serviceDraft("s2")),
      { type: "update", table: "node", id: "n1", set: { role: "manager" } },
      { type: "remove", table: "task", id: "t1" },
      { type: "remove", table: "service", id: "nope" },
    ]);
    expect(outcome).toEqual({
      type: "refused",
      index: 2,
      code: "not-found",
      message: "service nope not found",
    });
    expect(changes).toEqual([]);
    expect(state(rows)).toBe(before);
    expect(rows.exclusiveHolder("name/service/s2")).toBeUndefined();
    expect(rows.exclusiveHolder("address/net2/10.0.2.5")).toBe("task/t1");
  });

  test("in mode each drops refused actions and counts them", () => {
    const rows = world();
    const { outcome, changes } = applyNext(
      rows,
      [
        create("service", serviceDraft("s2")),
        create("service", serviceDraft("s2")),
        { type: "remove", table: "service", id: "nope" },
        create("service", serviceDraft("s3")),
      ],
      { mode: "each" },
    );
    expect(outcome).toEqual({ type: "applied", index: 2, droppedCount: 2 });
    expect(changes.map((change) => change.id)).toEqual(["s2", "s3"]);
  });

  const service = (id: string, port: number, mode?: "host" | "ingress") =>
    create(
      "service",
      serviceDraft(id, {
        EndpointSpec: {
          Ports: [{ TargetPort: 80, PublishedPort: port, ...(mode ? { PublishMode: mode } : {}) }],
        },
      }),
    );
  const update = (table: "task", id: string, set: object): StoreAction => ({
    type: "update",
    table,
    id,
    set,
  });
  const report = (status: object, nodeId = "n1", id = "t1"): StoreAction =>
    ({ type: "task-status", id, nodeId, status }) as StoreAction;

  const REFUSALS: [string, StoreAction[], string, string | RegExp][] = [
    [
      "a second object with an id",
      [create("node", nodeDraft("n1", 9))],
      "name-conflict",
      "node n1 already exists",
    ],
    [
      "a service name in use, without regard to case",
      [create("service", serviceDraft("s9", { Name: "Web" }))],
      "name-conflict",
      "name conflicts with an existing object: service Web already exists",
    ],
    [
      "a network name in use",
      [create("network", networkDraft("x", { Name: "net1" }))],
      "name-conflict",
      "network with name net1 already exists",
    ],
    [
      "a secret name in use",
      [create("secret", secretDraft("x", "password"))],
      "name-conflict",
      "name conflicts with an existing object: secret password already exists",
    ],
    [
      "a config name in use",
      [create("config", secretDraft("x", "site"))],
      "name-conflict",
      "name conflicts with an existing object: config site already exists",
    ],
    [
      "a stale version",
      [{ type: "update", table: "service", id: "s1", ifVersion: 7, set: {} }],
      "version-conflict",
      "update out of sequence",
    ],
    [
      "the removal of a stale version",
      [{ type: "remove", table: "task", id: "t1", ifVersion: 7 }],
      "version-conflict",
      "update out of sequence",
    ],
    [
      "an update of a missing object",
      [{ type: "update", table: "service", id: "x", set: {} }],
      "not-found",
      "service x not found",
    ],
    [
      "setting an object's version",
      [update("task", "t1", { version: 3 })],
      "invalid-argument",
      'Cannot set field "version" of task t1',
    ],
    [
      "unsetting a field that every object has",
      [{ type: "update", table: "task", id: "t1", set: {}, unset: ["status"] }],
      "invalid-argument",
      'Cannot unset field "status" of task t1',
    ],
    [
      "removal of a network used by a service",
      [{ type: "remove", table: "network", id: "net1" }],
      "in-use",
      "network net1 is in use by service s1",
    ],
    [
      "removal of a network used by a live task",
      [{ type: "remove", table: "network", id: "net2" }],
      "in-use",
      "network net2 is in use by task t1",
    ],
    [
      "removal of a secret in use",
      [{ type: "remove", table: "secret", id: "sec1" }],
      "in-use",
      "secret 'password' is in use by the following service: web",
    ],
    [
      "removal of a config in use",
      [{ type: "remove", table: "config", id: "con1" }],
      "in-use",
      "config 'site' is in use by the following service: web",
    ],
    [
      "removal of the cluster",
      [{ type: "remove", table: "cluster", id: "c1" }],
      "failed-precondition",
      "Cannot remove the cluster object",
    ],
    [
      "a second cluster",
      [create("cluster", clusterDraft({ id: "c2" }))],
      "failed-precondition",
      "Cannot use cluster: cluster c1 holds it",
    ],
    [
      "an ingress port in use",
      [service("s2", 8080)],
      "invalid-argument",
      "port '8080' is already in use by service 'web' (s1) as an ingress port",
    ],
    [
      "a host-published port used in ingress mode",
      [service("s2", 8080, "host")],
      "invalid-argument",
      "port '8080' is already in use by service 'web' (s1) as an ingress port",
    ],
    [
      "an ingress port that is host-published",
      [service("s2", 9090, "host"), service("s3", 9090)],
      "invalid-argument",
      "port '9090' is already in use by service 's2' (s2) as a host-published port",
    ],
    [
      "an allocated port in use",
      [
        service("s2", 9090),
        {
          type: "update",
          table: "service",
          id: "s2",
          set: {
            endpoint: {
              specVersion: 1,
              mode: "vip",
              ports: [
                {
                  Protocol: "tcp",
                  TargetPort: 80,
                  PublishedPort: 8080,
                  PublishMode: "ingress",
                },
              ],
              virtualIps: [],
            },
          },
        },
      ],
      "invalid-argument",
      "port '8080' is already in use by service 'web' (s1) as an ingress port",
    ],
    [
      "a VIP with a task's address",
      [
        {
          type: "update",
          table: "service",
          id: "s1",
          set: {
            endpoint: {
              specVersion: 1,
              mode: "vip",
              ports: [],
              virtualIps: [{ networkId: "net2", address: "10.0.2.5" }],
            },
          },
        },
      ],
      "failed-precondition",
      "Cannot use address 10.0.2.5 of network net2: task t1 holds it",
    ],
    [
      "a subnet that overlaps another",
      [create("network", networkDraft("x", {}, { subnet: "10.0.0.0/16" }))],
      "failed-precondition",
      /^invalid pool request: Pool overlaps .* network net1$/,
    ],
    [
      "a subnet of IPv6 that overlaps another",
      [
        create("network", networkDraft("x", {}, { subnet: "10.1.0.0/16", subnet6: "fd00::/48" })),
        create("network", networkDraft("y", {}, { subnet: "10.2.0.0/16", subnet6: "fd00::/64" })),
      ],
      "failed-precondition",
      /^invalid pool request: Pool overlaps .* fd00::\/64 and fd00::\/48 of network x$/,
    ],
    [
      "a subnet that overlaps the mesh pool",
      [create("network", networkDraft("x", {}, { subnet: "10.255.9.0/24" }))],
      "failed-precondition",
      /the mesh pool$/,
    ],
    [
      "a VNI in use",
      [create("network", networkDraft("x", {}, { vni: 4097 }))],
      "failed-precondition",
      "Cannot use vni/4097: network net1 holds it",
    ],
    [
      "a node index in use",
      [create("node", nodeDraft("x", 2, { meshAddress: "10.255.0.9" }))],
      "failed-precondition",
      "Cannot use node-index/2: node n2 holds it",
    ],
    [
      "a mesh address in use",
      [create("node", nodeDraft("x", 3, { meshAddress: "10.255.0.2" }))],
      "failed-precondition",
      "Cannot use mesh-address/10.255.0.2: node n2 holds it",
    ],
    [
      "a second ingress network",
      [
        create("network", networkDraft("i1", { Ingress: true })),
        create("network", networkDraft("i2", { Ingress: true })),
      ],
      "name-conflict",
      "ingress network (i1) is already present",
    ],
    [
      "removal of the ingress network with published ports",
      [
        create("network", networkDraft("i1", { Ingress: true })),
        { type: "remove", table: "network", id: "i1" },
      ],
      "in-use",
      "ingress network cannot be removed because service s1 depends on it",
    ],
    [
      "a service with a missing secret",
      [
        create(
          "service",
          serviceDraft("x", { TaskTemplate: taskSpec({ Secrets: [{ SecretID: "no" }] }) }),
        ),
      ],
      "invalid-argument",
      "secret not found: no",
    ],
    [
      "a service with a missing config",
      [
        create(
          "service",
          serviceDraft("x", {
            TaskTemplate: taskSpec({ Privileges: { CredentialSpec: { Config: "no" } } }),
          }),
        ),
      ],
      "invalid-argument",
      "config not found: no",
    ],
    [
      "a service with a missing network",
      [create("service", serviceDraft("x", { Networks: [{ Target: "no" }] }))],
      "not-found",
      "network no not found",
    ],
    [
      "a task of a missing service",
      [create("task", taskDraft("x", "no"))],
      "not-found",
      "service no not found",
    ],
    [
      "a report by another node",
      [report(taskStatus("failed"), "n2")],
      "forbidden",
      "Task t1 is not on node n2",
    ],
    [
      "a report that moves back",
      [report(taskStatus("starting"))],
      "failed-precondition",
      'Cannot move task t1 from "running" back to "starting"',
    ],
    [
      "an older report of the same state",
      [report(taskStatus("running", { atMs: 1 }))],
      "failed-precondition",
      /a newer report of "running" is known$/,
    ],
    ["a report of a missing task", [report(taskStatus("failed"), "n1", "x")], "not-found", /x/],
    [
      "a report of an unknown state",
      [report({ state: "toString", atMs: 1, message: "" })],
      "invalid-argument",
      'Unknown task state "toString"',
    ],
    [
      "a status that moves back",
      [update("task", "t1", { status: taskStatus("pending") })],
      "failed-precondition",
      /back to "pending"$/,
    ],
    [
      "a desired state that moves back",
      [
        update("task", "t1", { desiredState: "shutdown" }),
        update("task", "t1", { desiredState: "running" }),
      ],
      "failed-precondition",
      /back from "shutdown" to "running"$/,
    ],
    [
      "a move of a task to another node",
      [update("task", "t1", { nodeId: "n2" })],
      "failed-precondition",
      /a task keeps its node$/,
    ],
    [
      "an object without its spec",
      [{ type: "create", table: "service", object: { id: "x" } } as StoreAction],
      "invalid-argument",
      /./,
    ],
    [
      "an unknown action",
      [{ type: "explode" } as unknown as StoreAction],
      "invalid-argument",
      /explode/,
    ],
    [
      "an action on no table",
      [{ type: "remove", table: "toString", id: "x" } as unknown as StoreAction],
      "invalid-argument",
      /table/,
    ],
    ["an action that is null", [null as unknown as StoreAction], "invalid-argument", /object/],
    [
      "a node that is no text",
      [update("task", "t1", { nodeId: {} })],
      "invalid-argument",
      /not a text/,
    ],
    ["a status that is null", [report(null as unknown as object)], "invalid-argument", /./],
  ];
  test.each(REFUSALS)("refuses %s", (_name, actions, code, message) => {
    const rows = world();
    const before = state(rows);
    const { outcome } = applyNext(rows, actions);
    expect(outcome).toMatchObject({ type: "refused", code });
    const text = outcome.type === "refused" ? outcome.message : "";
    if (typeof message === "string") expect(text).toBe(message);
    else expect(text).toMatch(message);
    expect(state(rows)).toBe(before);
  });

  test("lets two services publish one port in host mode, and one change its own", () => {
    const rows = world();
    applyOrThrow(rows, service("s2", 9090, "host"), service("s3", 9090, "host"));
    const spec = rows.service("s1")!.spec;
    applyOrThrow(rows, { type: "update", table: "service", id: "s1", set: { spec } });
    expect(rows.sharedHolders("port/tcp/9090")).toEqual(["service/s2", "service/s3"]);
  });

  test("keeps the tasks of a removed service, and frees its name and ports", () => {
    const rows = world();
    applyOrThrow(rows, { type: "remove", table: "service", id: "s1" }, service("s2", 8080));
    expect(rows.task("t1")).toBeDefined();
    applyOrThrow(rows, { type: "remove", table: "secret", id: "sec1" });
  });

  test("frees a dead task's address and network", () => {
    const rows = world();
    applyOrThrow(rows, report(taskStatus("failed")), {
      type: "remove",
      table: "network",
      id: "net2",
    });
    expect(rows.exclusiveHolder("address/net2/10.0.2.5")).toBeUndefined();
  });

  test("keeps the container of a status when a later report lacks it", () => {
    const rows = world();
    const container = { id: "abc", pid: 7, exitCode: 0 };
    applyOrThrow(rows, report(taskStatus("running", { atMs: AT_MS + 1, container })));
    applyOrThrow(rows, report(taskStatus("shutdown", { message: "bye" })));
    expect(rows.task("t1")?.status).toEqual(taskStatus("shutdown", { message: "bye", container }));
  });

  test("keeps why a manager had a task stopped, over the report of its node that it has", () => {
    const rows = world();
    const err = "assigned node no longer meets constraints";
    const status = taskStatus("running", { err });
    applyOrThrow(rows, update("task", "t1", { desiredState: "shutdown", status }));
    applyOrThrow(rows, report(taskStatus("shutdown", { message: "shutdown" })));
    expect(rows.task("t1")?.status).toEqual(taskStatus("shutdown", { message: "shutdown", err }));
  });

  test("moves a job's desired state from ready to complete", () => {
    const rows = world();
    applyOrThrow(rows, create("task", taskDraft("j", "s1", { desiredState: "ready" })));
    applyOrThrow(rows, update("task", "j", { desiredState: "complete" }));
    expect(rows.task("j")?.desiredState).toBe("complete");
  });
});

describe("applyEntry()", () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  const MALFORMED = [
    "not json",
    "null",
    "[]",
    "1",
    "{}",
    '{"id":1,"atMs":1,"mode":"all","actions":[]}',
    '{"id":"p","atMs":null,"mode":"all","actions":[]}',
    '{"id":"p","atMs":1,"mode":"some","actions":[]}',
    '{"id":"p","atMs":1,"mode":"all","actions":{}}',
  ];
  test.each(MALFORMED)("records a refusal for %s", (text) => {
    const rows = createMemoryRows();
    const result = applyEntry(rows, { index: 1, data: bytes(text) });
    expect(result).toMatchObject({ outcome: { type: "refused", index: 1 }, changes: [] });
    expect(rows.index).toBe(1);
  });

  test("advances the index for an empty entry", () => {
    const rows = createMemoryRows();
    expect(applyEntry(rows, { index: 1, data: new Uint8Array() })).toEqual({ changes: [] });
    expect(rows.index).toBe(1);
  });

  test("names the proposal with its outcome", () => {
    const rows = createMemoryRows();
    const data = encodeProposal(proposal([create("node", nodeDraft("n1", 1))], { id: "p7" }));
    expect(applyEntry(rows, { index: 1, data })).toMatchObject({
      proposalId: "p7",
      outcome: { type: "applied", index: 1, droppedCount: 0 },
    });
  });
});
