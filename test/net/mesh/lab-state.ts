/** The lab's cluster as the dispatcher would send it: three nodes, five networks, nine services. */
import type {
  AssignmentItem,
  EndpointEntry,
  ServiceEntry,
} from "../../../core/dispatcher/assignment.ts";
import type { Network } from "../../../core/objects/network.ts";
import { applyAssignments, emptyTable, type MeshTable } from "../../../net/mesh/table.ts";

export const UNDERLAY = (index: number) => `192.168.77.${index}`;
export const NODE_ID = (index: number) => `node${index}`;
export const CLIENT = "203.0.113.9";

export type LabTask = {
  name: string;
  service: string;
  node: number;
  /** Network name to address. */
  legs: Record<string, string>;
};

const NETWORKS = [
  { name: "netA", second: 101, internal: false, ingress: false },
  { name: "netB", second: 102, internal: false, ingress: false },
  { name: "netC", second: 103, internal: false, ingress: false },
  { name: "netI", second: 104, internal: true, ingress: false },
  { name: "ingress", second: 105, internal: false, ingress: true },
];

export const LAB_TASKS: LabTask[] = [
  { name: "web1", service: "web", node: 1, legs: { netA: "10.101.0.21" } },
  { name: "web2", service: "web", node: 2, legs: { netA: "10.101.0.22" } },
  { name: "web3", service: "web", node: 3, legs: { netA: "10.101.0.23" } },
  { name: "far3", service: "far", node: 3, legs: { netA: "10.101.0.33", netB: "10.102.0.33" } },
  { name: "cA1", service: "cli", node: 1, legs: { netA: "10.101.0.11" } },
  { name: "cB1", service: "cli", node: 1, legs: { netB: "10.102.0.11" } },
  { name: "cAB2", service: "cli", node: 2, legs: { netA: "10.101.0.12", netB: "10.102.0.12" } },
  { name: "solo3", service: "solo", node: 3, legs: { netC: "10.103.0.33" } },
  { name: "int1", service: "intl", node: 1, legs: { netI: "10.104.0.11" } },
  { name: "int2", service: "intl", node: 2, legs: { netI: "10.104.0.12" } },
  { name: "po1", service: "pubonly", node: 1, legs: { ingress: "10.105.0.11" } },
  { name: "po2", service: "pubonly", node: 2, legs: { ingress: "10.105.0.12" } },
  {
    name: "mix3",
    service: "mixed",
    node: 3,
    legs: { netI: "10.104.0.13", ingress: "10.105.0.13" },
  },
  { name: "cB3", service: "cli", node: 3, legs: { netB: "10.102.0.13" } },
];

type LabService = { vips?: Record<string, string>; ports?: [string, number, number][] };
const SERVICES: Record<string, LabService> = {
  web: {
    vips: { netA: "10.101.0.2" },
    ports: [
      ["tcp", 8080, 80],
      ["tcp", 9000, 9000],
      ["udp", 9000, 9000],
    ],
  },
  far: {
    vips: { netA: "10.101.0.3", netB: "10.102.0.3" },
    ports: [
      ["tcp", 8081, 80],
      ["udp", 9001, 9000],
      ["tcp", 9001, 9000],
      ["sctp", 9002, 9002],
    ],
  },
  cli: {},
  solo: { vips: { netC: "10.103.0.2" }, ports: [["tcp", 8082, 80]] },
  empty: { ports: [["tcp", 8083, 80]] },
  pubonly: { ports: [["tcp", 8084, 80]] },
  mixed: { vips: { netI: "10.104.0.3" }, ports: [["tcp", 8085, 80]] },
  intl: { vips: { netI: "10.104.0.2" } },
  none: { vips: { netA: "10.101.0.4" } },
};

export const networkId = (name: string) => `id-${name}`;
export const taskId = (name: string) => `task-${name}`;
const META = { version: 1, createdAtMs: 0, updatedAtMs: 0 };

export function labNetwork(name: string): Network {
  const found = NETWORKS.find((network) => network.name === name);
  if (!found) throw new Error(`No network ${name}`);
  return {
    ...META,
    id: networkId(name),
    spec: {
      Name: name,
      Labels: {},
      Driver: "overlay",
      Options: {},
      Internal: found.internal,
      Attachable: false,
      Ingress: found.ingress,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: [] },
    },
    subnet: `10.${found.second}.0.0/24`,
    gateway: `10.${found.second}.0.1`,
  };
}

export function labEndpoint(task: LabTask, isReady = true): EndpointEntry {
  return {
    taskId: taskId(task.name),
    serviceId: `service-${task.service}`,
    name: `${task.service}.1.${task.name}`,
    nodeId: NODE_ID(task.node),
    addresses: Object.entries(task.legs).map(([name, address]) => ({
      networkId: networkId(name),
      address,
    })),
    isReady,
  };
}

export function labService(name: string): ServiceEntry {
  const service = SERVICES[name] ?? {};
  return {
    serviceId: `service-${name}`,
    name,
    mode: "vip",
    virtualIps: Object.entries(service.vips ?? {}).map(([network, address]) => ({
      networkId: networkId(network),
      address,
    })),
    ports: (service.ports ?? []).map(([protocol, publishedPort, targetPort]) => ({
      protocol: protocol as "tcp" | "udp" | "sctp",
      publishedPort,
      targetPort,
    })),
    aliases: [],
  };
}

/** What the node with this index is sent. */
export function labItems(node: number, tasks: LabTask[] = LAB_TASKS): AssignmentItem[] {
  const items: AssignmentItem[] = [
    {
      key: `settings/${NODE_ID(node)}`,
      kind: "settings",
      body: {
        nodeId: NODE_ID(node),
        clusterId: "lab",
        role: "worker",
        managers: [],
        caCertificatePem: "",
        heartbeatPeriodMs: 1000,
        dataPathPort: 4789,
        hostname: `h${node}`,
      },
    },
  ];
  for (const index of [1, 2, 3]) {
    items.push({
      key: `peer/${NODE_ID(index)}`,
      kind: "peer",
      body: {
        nodeId: NODE_ID(index),
        hostname: `h${index}`,
        index,
        dataPathAddr: UNDERLAY(index),
        meshAddress: `10.255.255.${index}`,
      },
    });
  }
  for (const { name } of NETWORKS) {
    items.push({ key: `network/${networkId(name)}`, kind: "network", body: labNetwork(name) });
  }
  for (const name of Object.keys(SERVICES)) {
    items.push({ key: `service/service-${name}`, kind: "service", body: labService(name) });
  }
  for (const task of tasks) {
    items.push({ key: `endpoint/${taskId(task.name)}`, kind: "endpoint", body: labEndpoint(task) });
  }
  return items;
}

export function labTable(node: number, tasks: LabTask[] = LAB_TASKS): MeshTable {
  const table = emptyTable();
  applyAssignments(table, { isComplete: true, put: labItems(node, tasks), removed: [] });
  return table;
}
