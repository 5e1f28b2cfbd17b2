/** Random proposals over a small world, so that ids, names and addresses collide often. */
import * as fc from "fast-check";
import type { TaskState } from "../../../core/objects/task.ts";
import type { Proposal, StoreAction } from "../../../core/store/action.ts";
import {
  AT_MS,
  clusterDraft,
  create,
  DESCRIPTION,
  networkDraft,
  nodeDraft,
  proposal,
  secretDraft,
  stackDraft,
  serviceDraft,
  taskDraft,
  taskSpec,
  taskStatus,
} from "./objects.ts";

const pick = <const T>(...values: T[]) => fc.constantFrom(...values);
const nodeId = pick("n1", "n2", "n3");
const networkId = pick("net1", "net2", "net3");
const serviceId = pick("s1", "s2", "s3");
const taskId = pick("t1", "t2", "t3", "t4", "t5", "t6");
const secretId = pick("x1", "x2");
const stackId = pick("k1", "k2");
const name = pick("alpha", "Alpha", "beta", "gamma");
const address = pick("10.0.1.2", "10.0.1.3", "10.0.1.4");
const desired = pick("ready", "running", "complete", "shutdown", "remove");
const state: fc.Arbitrary<TaskState> = pick(
  "new",
  "pending",
  "assigned",
  "starting",
  "running",
  "complete",
  "failed",
  "orphaned",
);
const networks = fc.array(
  fc.record({ networkId, address, aliases: pick("", "db").map((alias) => (alias ? [alias] : [])) }),
  {
    maxLength: 2,
  },
);

const serviceSpec = fc
  .record({
    name,
    networks: fc.uniqueArray(networkId, { maxLength: 2 }),
    secrets: fc.uniqueArray(secretId, { maxLength: 2 }),
    port: pick(0, 80, 81),
    mode: pick("host", "ingress"),
  })
  .map((spec) => ({
    Name: spec.name,
    TaskTemplate: taskSpec(
      { Secrets: spec.secrets.map((SecretID) => ({ SecretID })) },
      { Networks: spec.networks.map((Target) => ({ Target, Aliases: ["db"] })) },
    ),
    EndpointSpec: {
      Ports: spec.port ? [{ TargetPort: 1, PublishedPort: spec.port, PublishMode: spec.mode }] : [],
    },
  }));

const endpoint = fc.record({ networkId, address, port: pick(80, 81, 30000) }).map((e) => ({
  specVersion: 1,
  mode: "vip" as const,
  ports: [
    {
      Protocol: "tcp" as const,
      TargetPort: 1,
      PublishedPort: e.port,
      PublishMode: "ingress" as const,
    },
  ],
  virtualIps: [{ networkId: e.networkId, address: e.address }],
}));

const ifVersion = fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined, freq: 2 });
const withVersion = (action: object, version: number | undefined) =>
  ({ ...action, ...(version ? { ifVersion: version } : {}) }) as StoreAction;

// Literal types get lost in fast-check's records; the shapes are those of StoreAction.
const action = fc.oneof(
  { weight: 1, arbitrary: fc.constant(create("cluster", clusterDraft())) },
  {
    weight: 1,
    arbitrary: fc
      .record({ nodeId, index: fc.integer({ min: 1, max: 4 }) })
      .map((n) => create("node", nodeDraft(n.nodeId, n.index))),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ networkId, name, third: fc.integer({ min: 1, max: 3 }) })
      .map((n) =>
        create(
          "network",
          networkDraft(n.networkId, { Name: n.name }, { subnet: `10.0.${n.third}.0/24` }),
        ),
      ),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ table: pick("secret", "config"), secretId, name })
      .map((x) => create(x.table, secretDraft(x.secretId, x.name))),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ stackId, name })
      .map((k) => create("stack", stackDraft(k.stackId, k.name, [k.name]))),
  },
  {
    weight: 1,
    arbitrary: fc.record({ stackId, name, ifVersion }).map((k) =>
      withVersion(
        {
          type: "update",
          table: "stack",
          id: k.stackId,
          set: { revisions: stackDraft(k.stackId, k.name).revisions },
        },
        k.ifVersion,
      ),
    ),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ serviceId, serviceSpec })
      .map((s) => create("service", serviceDraft(s.serviceId, s.serviceSpec))),
  },
  {
    weight: 6,
    arbitrary: fc.record({ taskId, serviceId, networks, state, desired, nodeId }).map((t) =>
      create(
        "task",
        taskDraft(t.taskId, t.serviceId, {
          desiredState: t.desired,
          status: taskStatus(t.state),
          networks: t.networks,
          spec: taskSpec({ Secrets: [{ SecretID: "x1" }], Configs: [{ ConfigID: "x2" }] }),
          ...(t.state === "new" ? {} : { nodeId: t.nodeId }),
        }),
      ),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .record({
        serviceId,
        ifVersion,
        set: fc.oneof(fc.record({ spec: serviceSpec }), fc.record({ endpoint })),
      })
      .map((s) =>
        withVersion({ type: "update", table: "service", id: s.serviceId, set: s.set }, s.ifVersion),
      ),
  },
  {
    weight: 6,
    arbitrary: fc
      .record({
        taskId,
        ifVersion,
        set: fc.oneof(
          fc.record({ desiredState: desired }),
          fc.record({ networks }),
          fc.record({ nodeId }),
        ),
      })
      .map((t) =>
        withVersion({ type: "update", table: "task", id: t.taskId, set: t.set }, t.ifVersion),
      ),
  },
  {
    weight: 3,
    arbitrary: fc
      .record({
        nodeId,
        state: pick("ready", "down"),
        hasDescription: fc.boolean(),
        manager: fc.boolean(),
      })
      .map((n) => ({
        type: "update",
        table: "node",
        id: n.nodeId,
        set: {
          status: { state: n.state, message: "", addr: "" },
          ...(n.hasDescription ? { description: DESCRIPTION } : {}),
          ...(n.manager ? { managerAddr: "192.0.2.1:2377" } : {}),
        },
        unset: n.manager ? [] : ["managerAddr"],
      })),
  },
  {
    weight: 8,
    arbitrary: fc.record({ taskId, nodeId, state }).map((t) => ({
      type: "task-status",
      id: t.taskId,
      nodeId: t.nodeId,
      status: taskStatus(t.state),
    })),
  },
  {
    weight: 2,
    arbitrary: fc
      .oneof(
        fc.record({ table: pick("service"), id: serviceId }),
        fc.record({ table: pick("task"), id: taskId }),
        fc.record({ table: pick("network"), id: networkId }),
        fc.record({ table: pick("node"), id: nodeId }),
        fc.record({ table: pick("secret", "config"), id: secretId }),
        fc.record({ table: pick("stack"), id: stackId }),
      )
      .map((r) => ({ type: "remove", ...r })),
  },
) as fc.Arbitrary<StoreAction>;

/** So that most later actions find what they name; some of it is removed and created again. */
const beginning = proposal([
  create("cluster", clusterDraft()),
  create("node", nodeDraft("n1", 1, { managerAddr: "192.0.2.1:2377" })),
  create("node", nodeDraft("n2", 2)),
  create("network", networkDraft("net1", { Name: "one" }, { subnet: "10.0.1.0/24" })),
  create("network", networkDraft("net2", { Name: "two" }, { subnet: "10.0.2.0/24" })),
  create("secret", secretDraft("x1", "alpha")),
  create("config", secretDraft("x2", "beta")),
  create("service", serviceDraft("s1")),
  create("service", serviceDraft("s2", { Networks: [{ Target: "net1" }] })),
]);

export const proposals: fc.Arbitrary<Proposal[]> = fc
  .array(
    fc
      .record({
        actions: fc.array(action, { minLength: 1, maxLength: 6 }),
        mode: pick("all", "each", "each"),
      })
      .map((p) => proposal(p.actions, { mode: p.mode, atMs: AT_MS })),
    { minLength: 1, maxLength: 30 },
  )
  .map((list) => [beginning, ...list]);
