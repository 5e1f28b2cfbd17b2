/** What the managers' API says that runs where, with which addresses. */
import type { Host } from "../../../scripts/lab/host.ts";

export type TaskState = {
  id: string;
  service: string;
  host: string;
  state: string;
  desired: string;
  containerId: string;
  /** Without prefix length, with the network. */
  addresses: { networkId: string; address: string }[];
};
export type ClusterState = {
  tasks: TaskState[];
  services: { id: string; name: string; wanted: number | "global"; virtualIps: string[] }[];
  networks: { id: string; name: string; subnets: string[]; gateways: string[] }[];
  nodes: { id: string; hostname: string; state: string; address: string }[];
};

// Docker's API, as far as it is read.
type ApiTask = {
  ID: string;
  ServiceID: string;
  NodeID?: string;
  DesiredState: string;
  Status: { State: string; ContainerStatus?: { ContainerID?: string } };
  NetworksAttachments?: { Network: { ID: string }; Addresses?: string[] }[];
};
type ApiService = {
  ID: string;
  Spec: { Name: string; Mode: { Replicated?: { Replicas: number }; Global?: object } };
  Endpoint?: { VirtualIPs?: { NetworkID: string; Addr?: string }[] };
};
type ApiNetwork = {
  Id: string;
  Name: string;
  Scope: string;
  IPAM: { Config?: { Subnet?: string; Gateway?: string }[] | null };
};
type ApiNode = {
  ID: string;
  Description: { Hostname: string };
  Status: { State: string; Addr: string };
};

const TIMEOUT_MS = 12_000;

export async function get<T>(host: Host, path: string): Promise<T> {
  const response = await fetch(`http://lab${path}`, {
    unix: host.agentSocket(),
    keepalive: false,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  // Of a manager that has no leader, or has just been started.
  const stale = response.headers.get("shoal-stale");
  if (stale !== null) throw new Error(`${path} on ${host.name}: stale, ${stale}`);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  // The caller names the shape that Docker's API documents.
  return (await response.json()) as T;
}

const withoutLength = (address: string) => address.split("/")[0] ?? "";

/** @throws {Error} when the manager does not answer. */
export async function readCluster(manager: Host): Promise<ClusterState> {
  const [tasks, services, networks, nodes] = await Promise.all([
    get<ApiTask[]>(manager, "/tasks"),
    get<ApiService[]>(manager, "/services"),
    get<ApiNetwork[]>(manager, "/networks"),
    get<ApiNode[]>(manager, "/nodes"),
  ]);
  const hostnames = new Map(nodes.map((node) => [node.ID, node.Description.Hostname]));
  const names = new Map(services.map((service) => [service.ID, service.Spec.Name]));
  return {
    tasks: tasks.map((task) => ({
      id: task.ID,
      service: names.get(task.ServiceID) ?? "",
      host: hostnames.get(task.NodeID ?? "") ?? "",
      state: task.Status.State,
      desired: task.DesiredState,
      containerId: task.Status.ContainerStatus?.ContainerID ?? "",
      addresses: (task.NetworksAttachments ?? []).flatMap(({ Network, Addresses = [] }) =>
        Addresses.map((address) => ({ networkId: Network.ID, address: withoutLength(address) })),
      ),
    })),
    services: services.map(({ ID: id, Spec, Endpoint }) => ({
      id,
      name: Spec.Name,
      wanted: Spec.Mode.Replicated?.Replicas ?? "global",
      virtualIps: (Endpoint?.VirtualIPs ?? []).flatMap(({ Addr }) =>
        Addr === undefined || Addr === "" ? [] : [withoutLength(Addr)],
      ),
    })),
    networks: networks
      .filter(({ Scope }) => Scope === "swarm")
      .map(({ Id, Name, IPAM }) => ({
        id: Id,
        name: Name,
        subnets: (IPAM.Config ?? []).flatMap(({ Subnet }) => Subnet ?? []),
        gateways: (IPAM.Config ?? []).flatMap(({ Gateway }) => Gateway ?? []),
      })),
    nodes: nodes.map(({ ID: id, Description, Status }) => ({
      id,
      hostname: Description.Hostname,
      state: Status.State,
      address: Status.Addr,
    })),
  };
}

const DEAD = new Set(["complete", "shutdown", "failed", "rejected", "remove", "orphaned"]);
/** A task that may have a container, so that it holds its addresses. */
export const isLive = (task: TaskState) => !DEAD.has(task.state);

/** Running as wanted, everywhere; or what is missing. */
export function missingTasks(cluster: ClusterState): string[] {
  return cluster.services.flatMap(({ name, wanted }) => {
    const live = cluster.tasks.filter((task) => task.service === name && isLive(task));
    const running = live.filter(({ state, desired }) => state === "running" && desired === state);
    const count = wanted === "global" ? cluster.nodes.length : wanted;
    const isSettled = running.length === count && live.length === count;
    return isSettled ? [] : [`${name}: ${running.length} of ${count} run, ${live.length} live`];
  });
}
