import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Service } from "../../../core/objects/service.ts";
import { INGRESS_ID, makeTask, NET1_ID, NODE_ID } from "./fake-ports.ts";
import golden from "./golden/tasks.json" with { type: "json" };
import { type ApiLab, at, createLab, field, keyPaths } from "./lab.ts";

let lab: ApiLab;
let service: Service;
beforeEach(async () => {
  lab = createLab();
  const id = await lab.createService({
    Labels: { "com.docker.stack.namespace": "st" },
    container: { Args: ["sleep"] },
    template: { Networks: [{ Target: "net1" }] },
  });
  const found = lab.ports.rows.service(id);
  if (!found) throw new Error("no service");
  service = found;
});
afterEach(() => lab.engine.stop());

const MAPS = [".Options"];
const networks = [
  { networkId: INGRESS_ID, address: "10.0.0.6", aliases: [] },
  { networkId: NET1_ID, address: "10.0.1.6", aliases: ["web"] },
];
const list = async (filters: Record<string, unknown>) => {
  const path = `/tasks?filters=${encodeURIComponent(JSON.stringify(filters))}`;
  const { body } = await lab.call("GET", path);
  return Array.isArray(body) ? body.map((task) => field(task, "ID")) : body;
};

describe("GET /tasks", () => {
  test("has the keys of stock's answers: running, dead, global", async () => {
    lab.ports.put("task", makeTask(service, "running", { networks }));
    const dead = { state: "shutdown" as const, atMs: 1, message: "shutdown" };
    lab.ports.put(
      "task",
      makeTask(service, "dead", { networks, status: dead, desiredState: "shutdown" }),
    );
    for (const [id, sample] of [
      ["running", golden[0]],
      ["dead", golden[1]],
    ] as const) {
      const { body } = await lab.call("GET", `/tasks/${id}`);
      expect([...keyPaths(body, MAPS)].sort()).toEqual([...keyPaths(sample, MAPS)].sort());
      expect(at(body, "NetworksAttachments", 1, "Addresses")).toEqual(["10.0.1.6/24"]);
    }
    lab.ports.put("task", makeTask(service, "global", { slot: 0 }));
    const { body } = await lab.call("GET", "/tasks/global");
    expect(Object.keys(body ?? {})).toEqual(Object.keys(golden[2] ?? {}));
  });

  test("leaves out what a task does not have yet", async () => {
    const { nodeId: _, ...fresh } = makeTask(service, "new");
    const status = {
      state: "pending" as const,
      atMs: 1000,
      message: "pending task scheduling",
      err: "no suitable node",
    };
    lab.ports.put("task", { ...fresh, status });
    const { body } = await lab.call("GET", "/tasks/new");
    expect(at(body, "NodeID")).toBeUndefined();
    expect(at(body, "Status")).toEqual({
      Timestamp: "1970-01-01T00:00:01Z",
      State: "pending",
      Message: "pending task scheduling",
      Err: "no suitable node",
      PortStatus: {},
    });
  });

  test("shows a job's tasks with their run and slots from 0, and the last run as up to date", async () => {
    const id = await lab.createService({ Name: "job", Mode: { ReplicatedJob: {} } });
    const job = lab.ports.rows.service(id);
    if (!job) throw new Error("no service");
    lab.ports.put("service", { ...job, jobStatus: { iteration: 1, lastExecutionAtMs: 1 } });
    lab.ports.put("task", makeTask(job, "j0", { slot: 1, jobIteration: 1 }));
    lab.ports.put("task", makeTask(job, "j1", { slot: 2, jobIteration: 1 }));
    lab.ports.put("task", makeTask(job, "old", { slot: 1, jobIteration: 0 }));
    const filters = JSON.stringify({ service: ["job"], "_up-to-date": ["true"] });
    const { body } = await lab.call("GET", `/tasks?filters=${encodeURIComponent(filters)}`);
    const shown = Array.isArray(body)
      ? body.map((one) => [field(one, "ID"), at(one, "Slot"), at(one, "JobIteration")])
      : [];
    // Go leaves out a slot of 0.
    expect(shown).toEqual([
      ["j0", undefined, { Index: 1 }],
      ["j1", 1, { Index: 1 }],
    ]);
    expect(at((await lab.call("GET", "/tasks/old")).body, "JobIteration")).toEqual({});
  });

  test("shows host ports as the engine bound them", async () => {
    const port = {
      Protocol: "tcp",
      TargetPort: 80,
      PublishedPort: 32768,
      PublishMode: "host",
    } as const;
    const status = { ...makeTask(service, "t").status, ports: [port] };
    lab.ports.put("task", makeTask(service, "t", { status }));
    const { body } = await lab.call("GET", "/tasks/t");
    expect(at(body, "Status", "PortStatus")).toEqual({ Ports: [port] });
  });

  test.each([
    [{}, ["a1", "b1", "b2"]],
    [{ service: ["web"] }, ["b1", "b2"]],
    [{ service: ["web", "other"] }, ["a1", "b1", "b2"]],
    [{ node: ["alpha"] }, ["b1"]],
    [{ node: ["alpha"], service: ["other"] }, []],
    [{ "desired-state": ["shutdown"] }, ["b2"]],
    [{ "desired-state": ["running", "shutdown"] }, ["a1", "b1", "b2"]],
    [{ id: ["b"] }, ["b1", "b2"]],
    [{ name: ["web.1"] }, ["b1"]],
    [{ label: ["com.docker.stack.namespace=st"] }, ["b1", "b2"]],
    [{ "_up-to-date": ["true"], service: ["web"] }, ["b1"]],
    [{ runtime: ["container"], id: ["b1"] }, ["b1"]],
  ])("filters by %j", async (filters, wanted) => {
    const otherId = await lab.createService({ Name: "other" });
    const other = lab.ports.rows.service(otherId);
    if (!other) throw new Error("no service");
    const { nodeId: _, ...unassigned } = makeTask(other, "a1");
    lab.ports.put("task", unassigned);
    lab.ports.put("task", makeTask(service, "b1", { nodeId: NODE_ID }));
    const old = {
      ...service.spec.TaskTemplate,
      ContainerSpec: { ...service.spec.TaskTemplate.ContainerSpec, Image: "old" },
    };
    lab.ports.put(
      "task",
      makeTask(service, "b2", {
        slot: 2,
        nodeId: "gone",
        desiredState: "shutdown",
        spec: old,
        specVersion: 1,
      }),
    );
    expect(await list(filters)).toEqual(wanted);
  });

  test.each([
    [{ service: ["nope"] }, 404, "service nope not found"],
    [{ node: ["nope"] }, 404, "node nope not found"],
    [{ "desired-state": ["happy"] }, 400, "Invalid desired-state filter: 'happy'"],
  ])("refuses %j", async (filters, status, message) => {
    const path = `/tasks?filters=${encodeURIComponent(JSON.stringify(filters))}`;
    const answer = await lab.call("GET", path);
    expect([answer.status, answer.body]).toEqual([status, { message }]);
  });

  test("finds one by its name", async () => {
    lab.ports.put("task", makeTask(service, "t9", { slot: 3 }));
    expect(field((await lab.call("GET", "/tasks/web.3.t9")).body, "ID")).toBe("t9");
    expect((await lab.call("GET", "/tasks/nope")).body).toEqual({ message: "task nope not found" });
  });
});
