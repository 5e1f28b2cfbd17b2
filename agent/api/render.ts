/**
 * Objects of the cluster as the Docker API shows them: same keys, same order, same things left out.
 * Pure. Never shown: registry credentials, the CA's key, secrets' data.
 *
 * Source: Docker Engine API v1.41 definitions; observed answers of dockerd 20.10.24.
 */
import type { Cluster } from "../../core/objects/cluster.ts";
import { isNodeLocal, isOverlay, type Network } from "../../core/objects/network.ts";
import type { NodeDescription, NodeObject } from "../../core/objects/node.ts";
import type { ObjectMeta } from "../../core/objects/object-meta.ts";
import type { Secret, SecretSpec } from "../../core/objects/secret.ts";
import {
  type EndpointSpec,
  isJob,
  type PortConfig,
  type Service,
  type ServiceEndpoint,
  type ServiceSpec,
  type UpdateConfig,
} from "../../core/objects/service.ts";
import { isTaskDead, shownSlot, type Task, type TaskSpec } from "../../core/objects/task.ts";
import type { RaftStatus } from "../../core/protocol.ts";
import type { ClusterView } from "../../core/store/view.ts";
import { goTime, omitEmpty } from "./go-values.ts";

export type Json = Record<string, unknown>;
export type TlsInfo = NonNullable<NodeDescription["TLSInfo"]>;

export const VXLAN_OPTION = "com.docker.network.driver.overlay.vxlanid_list";

function renderMeta(object: ObjectMeta): Json {
  return {
    ID: object.id,
    Version: { Index: object.version },
    CreatedAt: goTime(object.createdAtMs),
    UpdatedAt: goTime(object.updatedAtMs),
  };
}

/** Numbers of the raft part that are shown also when they are zero. */
const RAFT_POINTERS = ["KeepOldSnapshots", "ElectionTick", "HeartbeatTick"];

/** ClusterInfo, as in /info. Join tokens are added by GET /swarm only. */
export function renderCluster(cluster: Cluster, tlsInfo: TlsInfo): Json {
  return {
    ...renderMeta(cluster),
    Spec: { ...cluster.spec, Raft: omitEmpty(cluster.spec.Raft, RAFT_POINTERS) },
    TLSInfo: tlsInfo,
    RootRotationInProgress: cluster.caRotation !== undefined,
    DefaultAddrPool: cluster.addressPools,
    SubnetSize: cluster.subnetSize,
    DataPathPort: cluster.dataPathPort,
  };
}

/** `raft` as the leader sees it; absent when it could not be asked. */
export function renderNode(node: NodeObject, raft: RaftStatus | undefined): Json {
  const {
    addresses6: _addresses,
    knows: _kinds,
    ...description
  } = node.description ?? {
    Platform: {},
    Resources: {},
    Engine: {},
    TLSInfo: {},
  };
  return {
    ...renderMeta(node),
    Spec: {
      ...(node.spec.Name ? { Name: node.spec.Name } : {}),
      Labels: node.spec.Labels,
      Role: node.spec.Role,
      Availability: node.spec.Availability,
    },
    Description: description,
    Status: omitEmpty({
      State: node.status.state,
      Message: node.status.message,
      Addr: node.status.addr,
    }),
    ...(node.managerAddr === undefined
      ? {}
      : { ManagerStatus: managerStatus(node.id, node.managerAddr, raft) }),
  };
}

function managerStatus(nodeId: string, addr: string, raft: RaftStatus | undefined): Json {
  const isLeader = raft?.leaderId === nodeId;
  const member = raft?.members.find((member) => member.nodeId === nodeId);
  const isReachable = isLeader ? true : member?.isReachable;
  const reachability = { true: "reachable", false: "unreachable" }[String(isReachable)];
  return {
    ...(isLeader ? { Leader: true } : {}),
    Reachability: reachability ?? "unknown",
    Addr: addr,
  };
}

export function renderService(
  service: Service,
  view: ClusterView,
  options: { insertDefaults: boolean },
): Json {
  const shown = (spec: ServiceSpec) =>
    withWords(redactServiceSpec(options.insertDefaults ? withDefaults(spec) : spec));
  const status = service.updateStatus;
  return {
    ...renderMeta(service),
    Spec: shown(service.spec),
    ...(service.previousSpec
      ? { PreviousSpec: withWords(redactServiceSpec(service.previousSpec)) }
      : {}),
    Endpoint: renderEndpoint(service, view),
    ...(status
      ? {
          UpdateStatus: {
            State: status.state,
            StartedAt: goTime(status.startedAtMs),
            ...(status.completedAtMs === undefined
              ? {}
              : { CompletedAt: goTime(status.completedAtMs) }),
            Message: status.message,
          },
        }
      : {}),
    ...(service.jobStatus
      ? {
          JobStatus: {
            JobIteration: omitEmpty({ Index: service.jobStatus.iteration }),
            LastExecution: goTime(service.jobStatus.lastExecutionAtMs),
          },
        }
      : {}),
  };
}

function renderEndpoint(service: Service, view: ClusterView): Json {
  const endpoint = service.endpoint;
  if (!endpoint) return { Spec: {} };
  const virtualIps: Json[] = endpoint.virtualIps.flatMap((vip) =>
    // One entry an address, as a client of stock reads them.
    withPrefixes(vip, view.network(vip.networkId)).map((Addr) => ({
      NetworkID: vip.networkId,
      Addr,
    })),
  );
  if (endpoint.mode === "vip") {
    // Networks of local drivers are named there, without an address.
    for (const { Target } of service.spec.TaskTemplate.Networks ?? []) {
      const network = view.network(Target);
      if (network && isNodeLocal(network)) virtualIps.push({ NetworkID: network.id });
    }
  }
  if (endpoint.ports.length === 0 && virtualIps.length === 0) return { Spec: {} };
  const spec = service.spec.EndpointSpec;
  return {
    Spec: spec ? endpointWithWords(spec) : {},
    ...(endpoint.ports.length > 0
      ? {
          Ports: endpoint.ports.map((port) => ({
            ...omitEmpty({ Name: nameOfPort(port, spec?.Ports ?? []) }),
            Protocol: port.Protocol,
            TargetPort: port.TargetPort,
            ...(port.PublishedPort ? { PublishedPort: port.PublishedPort } : {}),
            PublishMode: port.PublishMode,
          })),
        }
      : {}),
    ...(virtualIps.length > 0 ? { VirtualIPs: virtualIps } : {}),
  };
}

/** The allocator numbers ports; their names stay in the spec. */
function nameOfPort(
  port: ServiceEndpoint["ports"][number],
  specPorts: readonly PortConfig[],
): string | undefined {
  return specPorts.find(
    (given) =>
      given.TargetPort === port.TargetPort &&
      (given.Protocol ?? "tcp") === port.Protocol &&
      (given.PublishMode ?? "ingress") === port.PublishMode &&
      (!given.PublishedPort || given.PublishedPort === port.PublishedPort),
  )?.Name;
}

/**
 * Words for which stock has no "not given": a part that is there has them, whatever the user wrote.
 * Shown, never stored.
 */
export function withWords(spec: ServiceSpec): ServiceSpec {
  const words = { FailureAction: "pause", Order: "stop-first" } as const;
  return {
    ...spec,
    TaskTemplate: taskSpecWithWords(spec.TaskTemplate),
    ...(spec.UpdateConfig ? { UpdateConfig: { ...words, ...spec.UpdateConfig } } : {}),
    ...(spec.RollbackConfig ? { RollbackConfig: { ...words, ...spec.RollbackConfig } } : {}),
    ...(spec.EndpointSpec ? { EndpointSpec: endpointWithWords(spec.EndpointSpec) } : {}),
  };
}

function taskSpecWithWords(spec: TaskSpec): TaskSpec {
  const { ContainerSpec, PluginSpec } = spec;
  const { Privileges } = ContainerSpec;
  const container = {
    ...ContainerSpec,
    ...(Privileges
      ? {
          Privileges: {
            ...Privileges,
            CredentialSpec: withFields(NO_CREDENTIALS, Privileges["CredentialSpec"]),
            SELinuxContext: withFields(NO_CONTEXT, Privileges["SELinuxContext"]),
          },
        }
      : {}),
  };
  return {
    ...spec,
    // Of a plugin, too: the CLI reads it without asking whether it is there (service ps, logs).
    ContainerSpec: PluginSpec ? { Image: PluginSpec.remote } : container,
    ...(spec.RestartPolicy
      ? { RestartPolicy: { Condition: "any", MaxAttempts: 0, ...spec.RestartPolicy } }
      : {}),
  };
}

const NO_CREDENTIALS = { Config: "", File: "", Registry: "" };
const NO_CONTEXT = { Disable: false, User: "", Role: "", Type: "", Level: "" };

/** Go has these fields also when they are empty; null when the whole is not given. */
function withFields(empty: object, given: unknown): object | null {
  return typeof given === "object" && given !== null ? { ...empty, ...given } : null;
}

function endpointWithWords(spec: EndpointSpec): EndpointSpec {
  return {
    Mode: "vip",
    ...spec,
    ...(spec.Ports
      ? {
          Ports: spec.Ports.map((port) => ({ Protocol: "tcp", PublishMode: "ingress", ...port })),
        }
      : {}),
  };
}

/** All addresses of one leg as the API shows them, with their subnets' prefix lengths, IPv4 first. */
function withPrefixes(
  leg: { address: string; address6?: string | undefined },
  network: Network | undefined,
): string[] {
  const length = network?.subnet?.split("/")[1] ?? "32";
  const length6 = network?.subnet6?.split("/")[1] ?? "128";
  const { address, address6 } = leg;
  return [`${address}/${length}`, ...(address6 ? [`${address6}/${length6}`] : [])];
}

function redactTaskSpec(spec: TaskSpec): TaskSpec {
  const { PullOptions: _, EngineOptions: __, ...container } = spec.ContainerSpec;
  return { ...spec, ContainerSpec: container };
}

/** A spec without what only nodes may see. */
export function redactServiceSpec(spec: ServiceSpec): ServiceSpec {
  return { ...spec, TaskTemplate: redactTaskSpec(spec.TaskTemplate) };
}

const SECOND_NS = 1_000_000_000;
/** Source: SwarmKit api/defaults/service.go. */
const UPDATE_DEFAULTS = {
  Parallelism: 1,
  FailureAction: "pause",
  Monitor: 5 * SECOND_NS,
  MaxFailureRatio: 0,
  Order: "stop-first",
} as const satisfies UpdateConfig;

/** `insertDefaults`: what holds although the user did not write it. Shown, never stored. */
export function withDefaults(spec: ServiceSpec): ServiceSpec {
  const template = spec.TaskTemplate;
  const withUpdateDefaults = (config: UpdateConfig | undefined): UpdateConfig =>
    config
      ? {
          ...config,
          FailureAction: config.FailureAction ?? UPDATE_DEFAULTS.FailureAction,
          Monitor: config.Monitor || UPDATE_DEFAULTS.Monitor,
          Order: config.Order ?? UPDATE_DEFAULTS.Order,
        }
      : UPDATE_DEFAULTS;
  return {
    ...spec,
    TaskTemplate: {
      ...template,
      ContainerSpec: {
        ...template.ContainerSpec,
        StopGracePeriod: template.ContainerSpec.StopGracePeriod ?? 10 * SECOND_NS,
        DNSConfig: template.ContainerSpec.DNSConfig ?? {},
      },
      Resources: template.Resources ?? {},
      RestartPolicy: {
        ...template.RestartPolicy,
        Condition: template.RestartPolicy?.Condition ?? "any",
        Delay: template.RestartPolicy?.Delay ?? 5 * SECOND_NS,
        MaxAttempts: template.RestartPolicy?.MaxAttempts ?? 0,
      },
      Placement: template.Placement ?? {},
    },
    // A client that sends back what it was shown would have a job refused for them.
    ...(isJob(spec)
      ? {}
      : {
          UpdateConfig: withUpdateDefaults(spec.UpdateConfig),
          RollbackConfig: withUpdateDefaults(spec.RollbackConfig),
        }),
  };
}

export function renderTask(task: Task, view: ClusterView): Json {
  const { Runtime, ...spec } = taskSpecWithWords(redactTaskSpec(task.spec));
  const attachments = (task.networks ?? []).flatMap((attachment) => {
    const network = view.network(attachment.networkId);
    if (!network) return [];
    const { address, address6 } = attachment;
    const addresses = address === undefined ? [] : withPrefixes({ address, address6 }, network);
    return [
      {
        Network: renderSwarmNetwork(network),
        ...(addresses.length > 0 ? { Addresses: addresses } : {}),
      },
    ];
  });
  const container = task.status.container;
  const ports = task.status.ports ?? [];
  return {
    ...renderMeta(task),
    Labels: {},
    Spec: { ...spec, ...(Runtime && Runtime !== "container" ? { Runtime } : {}) },
    ServiceID: task.serviceId,
    ...omitEmpty({ Slot: shownSlot(task) }),
    ...(task.nodeId === undefined ? {} : { NodeID: task.nodeId }),
    Status: {
      Timestamp: goTime(task.status.atMs),
      State: task.status.state,
      ...(task.status.message ? { Message: task.status.message } : {}),
      ...(task.status.err ? { Err: task.status.err } : {}),
      ...(container || isTaskDead(task.status.state)
        ? {
            ContainerStatus: {
              ContainerID: container?.id ?? "",
              PID: container?.pid ?? 0,
              ExitCode: container?.exitCode ?? 0,
            },
          }
        : {}),
      PortStatus: ports.length > 0 ? { Ports: ports } : {},
    },
    DesiredState: task.desiredState,
    ...(attachments.length > 0 ? { NetworksAttachments: attachments } : {}),
    ...(task.genericResources ? { GenericResources: task.genericResources } : {}),
    ...(task.jobIteration === undefined
      ? {}
      : { JobIteration: omitEmpty({ Index: task.jobIteration }) }),
  };
}

/** The long form of a network, as tasks carry it. */
function renderSwarmNetwork(network: Network): Json {
  const { spec } = network;
  const flags = omitEmpty({
    IPv6Enabled: spec.EnableIPv6,
    Internal: spec.Internal,
    Attachable: spec.Attachable,
    Ingress: spec.Ingress,
  });
  return {
    ...renderMeta(network),
    Spec: {
      Name: spec.Name,
      Labels: labelsOf(network) ?? {},
      DriverConfiguration: omitEmpty({ Name: spec.Driver }),
      ...flags,
      IPAMOptions: { Driver: omitEmpty({ Name: spec.IPAM.Driver }) },
      ...(spec.ConfigFrom === undefined ? {} : { ConfigFrom: { Network: spec.ConfigFrom } }),
      Scope: network.predefined ? "local" : "swarm",
    },
    DriverState: {
      Name: spec.Driver,
      ...(isOverlay(network) ? { Options: driverOptions(network) } : {}),
    },
    IPAMOptions: {
      Driver: isNodeLocal(network) ? {} : { Name: "default" },
      ...omitEmpty({ Configs: ipamConfigs(network) }),
    },
  };
}

function driverOptions(network: Network): Record<string, string> {
  return {
    ...network.spec.Options,
    ...(network.vni === undefined ? {} : { [VXLAN_OPTION]: String(network.vni) }),
  };
}

function ipamConfigs(network: Network): Json[] {
  if (network.subnet === undefined) return [];
  const range = network.spec.IPAM.Config[0]?.IPRange;
  const { subnet, gateway, subnet6, gateway6 } = network;
  return [
    {
      Subnet: subnet,
      ...(range ? { IPRange: range } : {}),
      ...(gateway === undefined ? {} : { Gateway: gateway }),
    },
    ...(subnet6 === undefined
      ? []
      : [{ Subnet: subnet6, ...(gateway6 === undefined ? {} : { Gateway: gateway6 }) }]),
  ];
}

function labelsOf(network: Network): Record<string, string> | null {
  const { Labels } = network.spec;
  if (network.predefined) return { ...Labels, "com.docker.swarm.predefined": "true" };
  return Object.keys(Labels).length > 0 ? Labels : null;
}

/** A cluster's network in the short form of GET /networks. */
export function renderNetwork(network: Network): Json {
  const { spec } = network;
  return {
    Name: spec.Name,
    Id: network.id,
    Created: goTime(network.createdAtMs),
    Scope: "swarm",
    Driver: spec.Driver,
    EnableIPv6: spec.EnableIPv6,
    IPAM: {
      Driver: network.predefined ? "" : spec.IPAM.Driver || "default",
      Options: null,
      Config: ipamConfigs(network),
    },
    Internal: spec.Internal,
    Attachable: spec.Attachable,
    Ingress: spec.Ingress,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: null,
    Options: network.predefined ? null : driverOptions(network),
    Labels: labelsOf(network),
  };
}

function renderDataSpec(spec: SecretSpec, data: string | undefined): Json {
  return {
    Name: spec.Name,
    Labels: spec.Labels ?? {},
    ...(data === undefined ? {} : { Data: data }),
    ...(spec.Templating ? { Templating: spec.Templating } : {}),
  };
}

/** Without its data, which only the nodes that need it ever see. */
export function renderSecret(secret: Secret): Json {
  return { ...renderMeta(secret), Spec: renderDataSpec(secret.spec, undefined) };
}

export function renderConfig(config: Secret): Json {
  return { ...renderMeta(config), Spec: renderDataSpec(config.spec, config.spec.Data ?? "") };
}
