/** Builders of assigned tasks for the reconciler's tests: only what matters is given. */
import type { AssignmentItem, NodeSettings } from "../../../core/dispatcher/assignment.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { Config, Secret } from "../../../core/objects/secret.ts";
import type { ContainerSpec, DesiredState, Task } from "../../../core/objects/task.ts";
import type { ObservedContainer } from "../../../agent/reconciler/observed.ts";
import { TEST_IMAGE } from "./engine.ts";

const META = { version: 1, createdAtMs: 1_000, updatedAtMs: 1_000 };
export const NODE_ID = "node1";

export function aSettings(set: Partial<NodeSettings> = {}): NodeSettings {
  return {
    nodeId: NODE_ID,
    clusterId: "cluster1",
    role: "worker",
    managers: [],
    caCertificatePem: "",
    heartbeatPeriodMs: 1_000,
    dataPathPort: 4_789,
    hostname: "host1",
    ...set,
  };
}

export function aTask(
  id: string,
  set: Partial<Omit<Task, "spec">> & { container?: Partial<ContainerSpec> } = {},
): Task {
  const { container, ...rest } = set;
  return {
    ...META,
    id,
    serviceId: "service1",
    serviceName: "web",
    serviceLabels: {},
    slot: 1,
    nodeId: NODE_ID,
    spec: {
      ContainerSpec: {
        Image: TEST_IMAGE,
        Command: ["sleep", "600"],
        StopGracePeriod: 0,
        ...container,
      },
    },
    specVersion: 1,
    desiredState: "running" satisfies DesiredState,
    status: { state: "assigned", atMs: 1_000, message: "scheduler assigned task to node" },
    networks: [],
    ...rest,
  };
}

export function aNetwork(
  id: string,
  set: Partial<Omit<Network, "spec">> & { name?: string; internal?: boolean; driver?: string } = {},
): Network {
  const { name, internal, driver, ...rest } = set;
  return {
    ...META,
    id,
    spec: {
      Name: name ?? id,
      Labels: {},
      Driver: driver ?? "overlay",
      Options: {},
      Internal: internal ?? false,
      Attachable: false,
      Ingress: false,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: [] },
    },
    subnet: "10.77.1.0/24",
    gateway: "10.77.1.1",
    ...rest,
  };
}

export function aSecret(id: string, name: string, text: string): Secret & Config {
  return { ...META, id, spec: { Name: name, Data: Buffer.from(text).toString("base64") } };
}

export function aContainer(set: Partial<ObservedContainer> = {}): ObservedContainer {
  return {
    id: "c1",
    taskId: "t1",
    name: "web.1.t1",
    state: "running",
    pid: 7,
    exitCode: 0,
    stopGraceSeconds: 10,
    dockerNetworks: ["alpha"],
    hostPorts: [],
    ...set,
  };
}

export const items = {
  settings: (body: NodeSettings): AssignmentItem => ({
    key: `settings/${body.nodeId}`,
    kind: "settings",
    body,
  }),
  task: (body: Task): AssignmentItem => ({ key: `task/${body.id}`, kind: "task", body }),
  network: (body: Network): AssignmentItem => ({
    key: `network/${body.id}`,
    kind: "network",
    body,
  }),
  secret: (body: Secret): AssignmentItem => ({ key: `secret/${body.id}`, kind: "secret", body }),
  config: (body: Config): AssignmentItem => ({ key: `config/${body.id}`, kind: "config", body }),
};
