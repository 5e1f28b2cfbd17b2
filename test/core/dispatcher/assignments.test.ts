import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  applyAssignments,
  type AssignmentSet,
  assignmentsFor,
  diffAssignments,
  isSameItem,
} from "../../../core/dispatcher/assignments.ts";
import type { Draft, StoreAction } from "../../../core/store/action.ts";
import { apply } from "../../../core/store/apply.ts";
import { createMemoryRows } from "../../../core/store/memory-rows.ts";
import {
  applyOrThrow,
  clusterDraft,
  create,
  DESCRIPTION,
  networkDraft,
  nodeDraft,
  secretDraft,
  serviceDraft,
  taskDraft,
  taskSpec,
  taskStatus,
} from "../store/objects.ts";
import { proposals } from "../store/random-actions.ts";

/** Two nodes, a published service on a network, secrets and configs, no tasks yet. */
function world() {
  const rows = createMemoryRows();
  applyOrThrow(
    rows,
    create("cluster", clusterDraft()),
    create(
      "node",
      nodeDraft("n1", 1, {
        role: "manager",
        managerAddr: "192.0.2.1:2377",
        description: DESCRIPTION,
        status: { state: "ready", message: "", addr: "192.0.2.1" },
      }),
    ),
    create("node", nodeDraft("n2", 2, { status: { state: "ready", message: "", addr: "" } })),
    create("network", networkDraft("net1", {}, { subnet: "10.0.1.0/24" })),
    create("secret", secretDraft("sec1")),
    create("secret", secretDraft("sec2")),
    create("config", secretDraft("con1")),
    create(
      "service",
      serviceDraft(
        "s1",
        { TaskTemplate: taskSpec({}, { Networks: [{ Target: "net1", Aliases: ["web"] }] }) },
        {
          endpoint: {
            specVersion: 1,
            mode: "vip",
            ports: [
              { Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
              { Protocol: "udp", TargetPort: 53, PublishedPort: 53, PublishMode: "host" },
            ],
            virtualIps: [{ networkId: "net1", address: "10.0.1.2" }],
          },
        },
      ),
    ),
    create("service", serviceDraft("s2")),
  );
  return rows;
}
type Rows = ReturnType<typeof world>;

const addTask = (rows: Rows, id: string, set: Partial<Draft<"task">> = {}) =>
  applyOrThrow(
    rows,
    create(
      "task",
      taskDraft(id, "s1", {
        nodeId: "n1",
        status: taskStatus("assigned"),
        spec: taskSpec({ Secrets: [{ SecretID: "sec1" }], Configs: [{ ConfigID: "con1" }] }),
        networks: [{ networkId: "net1", address: "10.0.1.10", aliases: [] }],
        ...set,
      }),
    ),
  );
const keys = (set: AssignmentSet) => [...set.keys()].sort();
const body = (rows: Rows, nodeId: string, key: string) =>
  assignmentsFor(rows, nodeId).get(key)?.body;

describe("assignmentsFor()", () => {
  test("gives a registry's credentials to the nodes of the service's tasks only", () => {
    const rows = world();
    const spec = taskSpec({ PullOptions: { RegistryAuth: "credentials-of-web" } });
    const service = { Name: "web", TaskTemplate: spec, Mode: { Replicated: {} } };
    applyOrThrow(rows, {
      type: "update",
      table: "service",
      id: "s1",
      set: { spec: service, previousSpec: service },
    });
    addTask(rows, "t1", { spec });
    const textFor = (nodeId: string) => JSON.stringify([...assignmentsFor(rows, nodeId)]);
    expect(textFor("n1")).toContain("credentials-of-web");
    expect(textFor("n2")).toContain("endpoint/t1");
    expect(textFor("n2")).not.toContain("credentials-of-web");
  });

  test("gives settings, peers, networks and services with an endpoint to every node", () => {
    const rows = world();
    expect(keys(assignmentsFor(rows, "n2"))).toEqual([
      "network/net1",
      "peer/n1",
      "peer/n2",
      "service/s1",
      "settings/n2",
    ]);
    expect(body(rows, "n1", "settings/n1")).toEqual({
      nodeId: "n1",
      clusterId: "c1",
      role: "manager",
      managers: [{ nodeId: "n1", addr: "192.0.2.1:2377" }],
      caCertificatePem: "CA",
      heartbeatPeriodMs: 1000,
      dataPathPort: 4789,
      hostname: "host",
    });
    expect(body(rows, "n2", "peer/n1")).toEqual({
      nodeId: "n1",
      hostname: "host",
      index: 1,
      dataPathAddr: "192.0.2.1",
      meshAddress: "10.255.0.1",
    });
    expect(body(rows, "n2", "service/s1")).toEqual({
      serviceId: "s1",
      name: "s1",
      mode: "vip",
      virtualIps: [{ networkId: "net1", address: "10.0.1.2" }],
      ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 8080 }],
      aliases: [{ networkId: "net1", names: ["web"] }],
    });
    expect(assignmentsFor(rows, "unknown")).toEqual(new Map());
  });

  test("gives a task with its secrets and configs to its node, its endpoint to all", () => {
    const rows = world();
    addTask(rows, "t1");
    expect(keys(assignmentsFor(rows, "n1"))).toEqual(
      [
        ...keys(assignmentsFor(rows, "n2")).filter((key) => key !== "settings/n2"),
        "settings/n1",
        "task/t1",
        "secret/sec1",
        "config/con1",
      ].sort(),
    );
    expect(body(rows, "n2", "endpoint/t1")).toEqual({
      taskId: "t1",
      serviceId: "s1",
      name: "s1.1.t1",
      nodeId: "n1",
      addresses: [{ networkId: "net1", address: "10.0.1.10" }],
      isReady: false,
    });
  });

  test("tells the slot's name of a stateful service's task until that is to stop", () => {
    const rows = world();
    const serviceLabels = { "shoal.stateful": "true" };
    const desired = ["running", "shutdown"] as const;
    for (const [i, desiredState] of desired.entries()) {
      const networks = [{ networkId: "net1", address: `10.0.1.${10 + i}`, aliases: [] }];
      const status = taskStatus("running");
      addTask(rows, desiredState, { slot: 2, serviceLabels, desiredState, status, networks });
    }
    expect(body(rows, "n2", "endpoint/running")).toMatchObject({ aliases: ["s1-2"] });
    expect(body(rows, "n2", "endpoint/shutdown")).not.toHaveProperty("aliases");
  });

  const has = (rows: Rows, key: string) => assignmentsFor(rows, "n1").has(key);

  test.each([
    ["new", "running", false, false],
    ["pending", "running", false, false],
    ["assigned", "running", true, true],
    ["running", "shutdown", true, true],
    ["running", "remove", true, true],
    ["failed", "shutdown", true, false],
    ["complete", "complete", true, false],
    ["failed", "remove", false, false],
    ["orphaned", "shutdown", true, false],
  ] as const)(
    "task %s, desired %s: assigned %s, with endpoint and secrets %s",
    (state, desiredState, isAssigned, isAlive) => {
      const rows = world();
      addTask(rows, "t1", { desiredState, status: taskStatus(state) });
      expect(has(rows, "task/t1")).toBe(isAssigned);
      expect(has(rows, "endpoint/t1")).toBe(isAlive);
      expect(has(rows, "secret/sec1")).toBe(isAlive);
      expect(has(rows, "config/con1")).toBe(isAlive);
      expect(has(rows, "secret/sec2")).toBe(false);
    },
  );

  test.each([
    ["running", "running", "ready", true],
    ["running", "complete", "ready", true],
    ["running", "running", "unknown", true],
    ["running", "running", "down", false],
    ["running", "shutdown", "ready", false],
    ["starting", "running", "ready", false],
  ] as const)(
    "endpoint of a task %s, desired %s, on a node %s: ready %s",
    (state, desiredState, nodeState, isReady) => {
      const rows = world();
      addTask(rows, "t1", { desiredState, status: taskStatus(state) });
      const status = { state: nodeState, message: "", addr: "" };
      applyOrThrow(rows, { type: "update", table: "node", id: "n1", set: { status } });
      expect(body(rows, "n2", "endpoint/t1")).toMatchObject({ isReady });
    },
  );

  test("gives no endpoint to a task on node-local networks only", () => {
    const rows = world();
    addTask(rows, "t1", { networks: [{ networkId: "net1", aliases: [] }] });
    expect(has(rows, "endpoint/t1")).toBe(false);
  });
});

describe("diffAssignments()", () => {
  const after = (rows: Rows, ...actions: StoreAction[]) => {
    const before = assignmentsFor(rows, "n1");
    applyOrThrow(rows, ...actions);
    const { put, removed } = diffAssignments(before, assignmentsFor(rows, "n1"));
    return { put: put.map((item) => item.key), removed };
  };

  test("does not put a task again for its own status report, only the endpoint it changes", () => {
    const rows = world();
    addTask(rows, "t1");
    const report = (state: "preparing" | "running", message: string): StoreAction => ({
      type: "task-status",
      id: "t1",
      nodeId: "n1",
      status: taskStatus(state, { message }),
    });
    expect(after(rows, report("preparing", "pulling"))).toEqual({ put: [], removed: [] });
    expect(after(rows, report("running", "started"))).toEqual({
      put: ["endpoint/t1"],
      removed: [],
    });
  });

  test("puts a task whose desired state changed", () => {
    const rows = world();
    addTask(rows, "t1", { status: taskStatus("running") });
    const stop = {
      type: "update",
      table: "task",
      id: "t1",
      set: { desiredState: "shutdown" },
    } as const;
    expect(after(rows, stop)).toEqual({ put: ["endpoint/t1", "task/t1"], removed: [] });
    expect(after(rows, { type: "remove", table: "task", id: "t1" }).removed.sort()).toEqual([
      "config/con1",
      "endpoint/t1",
      "secret/sec1",
      "task/t1",
    ]);
  });

  test("does not put a peer again when a node's status changes", () => {
    const rows = world();
    const status = { state: "down", message: "", addr: "" } as const;
    expect(after(rows, { type: "update", table: "node", id: "n2", set: { status } })).toEqual({
      put: [],
      removed: [],
    });
  });

  test("gives what turns one set into the other", () => {
    fc.assert(
      fc.property(proposals, fc.nat(), (list, cut) => {
        const rows = createMemoryRows();
        const middle = cut % list.length;
        let before: AssignmentSet = new Map();
        for (const [i, proposal] of list.entries()) {
          rows.setIndex(i + 1);
          apply(rows, proposal, i + 1);
          if (i === middle) before = assignmentsFor(rows, "n1");
        }
        const after = assignmentsFor(rows, "n1");
        const result = applyAssignments(before, {
          type: "incremental",
          ...diffAssignments(before, after),
        });
        expect(keys(result)).toEqual(keys(after));
        for (const [key, item] of after) expect(isSameItem(result.get(key)!, item)).toBe(true);
        expect(diffAssignments(result, after)).toEqual({ put: [], removed: [] });
      }),
      { numRuns: 100 },
    );
  });
});

describe("applyAssignments()", () => {
  test("replaces everything by a complete set", () => {
    const rows = world();
    const before = assignmentsFor(rows, "n1");
    const after = assignmentsFor(rows, "n2");
    const message = { type: "complete" as const, put: [...after.values()], removed: [] };
    expect(applyAssignments(before, message)).toEqual(new Map(after));
  });
});
