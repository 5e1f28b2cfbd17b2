/** A manager without raft: the real `apply` over maps, and an engine made of a few fixed answers. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { planAttachment } from "../../../core/allocator/attachments.ts";
import { openVault } from "../../../agent/vault.ts";
import { createClusterEvents } from "../../../agent/api/cluster-events.ts";
import { createSpecVersions } from "../../../agent/api/spec-versions.ts";
import type { ApiPorts, InitRequest, JoinRequest, LocalNode } from "../../../agent/api/ports.ts";
import { ClusterError, fromErrorBody } from "../../../core/errors.ts";
import { newId } from "../../../core/ids.ts";
import { type Cluster, defaultClusterSpec } from "../../../core/objects/cluster.ts";
import type { Network } from "../../../core/objects/network.ts";
import { KNOWN_KINDS, type NodeObject } from "../../../core/objects/node.ts";
import type { Service } from "../../../core/objects/service.ts";
import type { Task } from "../../../core/objects/task.ts";
import type { RaftStatus } from "../../../core/protocol.ts";
import { seededRandom } from "../../../core/random.ts";
import type { StoreAction } from "../../../core/store/action.ts";
import { apply } from "../../../core/store/apply.ts";
import { createMemoryRows, type MemoryRows } from "../../../core/store/memory-rows.ts";

export const NODE_ID = "node1aaaaaaaaaaaaaaaaaaaa";
export const CLUSTER_ID = "cluster1aaaaaaaaaaaaaaaaa";
export const INGRESS_ID = "ingress1aaaaaaaaaaaaaaaaa";
export const NET1_ID = "net1aaaaaaaaaaaaaaaaaaaaa";
export const HOST_ID = "host1aaaaaaaaaaaaaaaaaaaa";
export const START_MS = Date.UTC(2026, 10, 22, 7, 12, 21, 960);

/** Self-signed, of no cluster: only its shape matters here. */
export const CA_PEM = `-----BEGIN CERTIFICATE-----
MIIBazCCARCgAwIBAgIUH04kufibYY1IQKwGHBG81wWK7oYwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAxMIc3dhcm0tY2EwHhcNMjYxMTIyMDcwNzAwWhcNNDYxMTE3MDcw
NzAwWjATMREwDwYDVQQDEwhzd2FybS1jYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABEwjafjKgbtAPS20zKGrgLb9pZS19a2JOGH9ECYSMrtdqKSEYUjf5m7h+cz2
HUUF1MfHyagNLbL+SlZSxzrYB4mjQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNVHRMB
Af8EBTADAQH/MB0GA1UdDgQWBBTX4RGXTLQ3W9GJp6xjMjO/G/2qmDAKBggqhkjO
PQQDAgNJADBGAiEAoEwQ5oz0v8FcekoShP1HFG6xmonK33U9KtXGdUzm5hACIQC3
Wv3psU5wAtW4xvJYr9uxkjMLwszGUPQheT0fT9KAPA==
-----END CERTIFICATE-----
`;

export type FakePorts = ApiPorts & {
  rows: MemoryRows;
  local: LocalNode;
  raft: RaftStatus;
  proposed: StoreAction[][];
  /** Of attachments: id, and whether a container was made with it. */
  settled: [string, boolean][];
  calls: {
    init: InitRequest[];
    join: JoinRequest[];
    leave: { force: boolean }[];
    unlock: Uint8Array[];
    rotateDataKey: number;
    prove: { urls: string[]; rootPem: string }[];
  };
  /** Set: no external CA signs, for this reason. */
  externalCaFailure?: string;
  /** Set: every read and proposal fails so. */
  failure?: ClusterError;
  /** Writes one object as it is, at the next index. */
  put(table: "node", object: NodeObject): void;
  put(table: "network", object: Network): void;
  put(table: "service", object: Service): void;
  put(table: "task", object: Task): void;
  put(table: "cluster", object: Cluster): void;
};

export function createFakePorts(engineSocket: string): FakePorts {
  const rows = createMemoryRows();
  const random = seededRandom(7);
  const specVersions = createSpecVersions();
  let index = 10;
  let nowMs = START_MS;
  // Never on disk: only what was made in memory is asked of it.
  const vaultDir = mkdtempSync(join(tmpdir(), "shoal-vault-"));
  const vault = openVault(vaultDir);
  vault.make(START_MS);
  rmSync(vaultDir, { recursive: true });
  const ports: FakePorts = {
    vault,
    rows,
    engineSocket,
    version: "0.1.0-test",
    random,
    proposed: [],
    settled: [],
    calls: { init: [], join: [], leave: [], unlock: [], prove: [], rotateDataKey: 0 },
    local: {
      state: "active",
      nodeId: NODE_ID,
      clusterId: CLUSTER_ID,
      nodeAddr: "192.168.77.10",
      isManager: true,
      managers: [{ nodeId: NODE_ID, addr: "192.168.77.10:2377" }],
    },
    raft: {
      term: 2,
      leaderId: NODE_ID,
      isLeader: true,
      commitIndex: 10,
      appliedIndex: 10,
      members: [{ nodeId: NODE_ID, addr: "192.168.77.10:2377", isLearner: false }],
    },
    localNode: () => ports.local,
    read: async (read) => {
      if (ports.failure) throw ports.failure;
      return read(rows);
    },
    attach: async (request) => {
      const planned = planAttachment(rows, { ...request, nodeId: NODE_ID }, random);
      const { network, object } = planned;
      if (planned.isNew) await ports.propose([{ type: "create", table: "attachment", object }]);
      const { gateway = "", spec } = network;
      const config = spec.ConfigFrom === undefined ? {} : { configFrom: spec.ConfigFrom };
      const { id, address, address6 } = object;
      const six = address6 === undefined ? {} : { address6 };
      return { id, networkName: spec.Name, address, ...six, gateway, ...config };
    },
    attached: (id, isMade) => void ports.settled.push([id, isMade]),
    propose: async (actions) => {
      if (ports.failure) throw ports.failure;
      ports.proposed.push(actions);
      index += 1;
      nowMs += 1;
      const proposal = { id: newId(random), atMs: nowMs, mode: "all" as const, actions };
      rows.setIndex(index);
      const { outcome, changes } = apply(rows, proposal, index);
      specVersions.take(changes);
      if (outcome.type === "refused") {
        throw fromErrorBody({ code: outcome.code, message: outcome.message });
      }
      return { index };
    },
    clusterStatus: async () => ports.raft,
    init: async (request) => {
      ports.calls.init.push(request);
      return NODE_ID;
    },
    join: async (request) => {
      ports.calls.join.push(request);
    },
    leave: async (options) => {
      ports.calls.leave.push(options);
    },
    unlock: async (unlockKey) => {
      ports.calls.unlock.push(unlockKey);
    },
    metrics: () => Promise.resolve("shoal_session_open 1\n"),
    reportBug: () => {},
    rotateDataKey: async () => {
      ports.calls.rotateDataKey++;
    },
    proveExternalCa: async (urls, rootPem) => {
      ports.calls.prove.push({ urls: [...urls], rootPem });
      const why = ports.externalCaFailure;
      if (why !== undefined) throw new ClusterError("unavailable", why);
    },
    netDoctor: async ({ node }) => ({
      scope: node === undefined ? "cluster" : "node",
      cluster: [],
      nodes: [{ nodeId: NODE_ID, hostname: node ?? "alpha", findings: [] }],
      checks: 0,
      warnings: 0,
      errors: 0,
    }),
    backup: async () => new TextEncoder().encode("a backup"),
    restore: async () => ({
      nodeId: NODE_ID,
      clusterId: CLUSTER_ID,
      services: 0,
      workers: 0,
      formerManagers: 1,
    }),
    logs: {
      link: async () => {
        throw new ClusterError("unavailable", "There is no leader at the moment");
      },
      readLocal: (read) => read(rows),
      onTasksChanged: () => () => undefined,
    },
    clusterEvents: createClusterEvents(() => nowMs),
    specVersions,
    nowMs: () => nowMs,
    put: (table: "node" | "network" | "service" | "task" | "cluster", object: Row) => {
      index += 1;
      rows.put(table, { ...object, version: index });
      if (table === "node") specVersions.seed(rows);
      rows.setIndex(index);
    },
  };
  seed(ports);
  specVersions.seed(rows);
  return ports;
}

type Row = NodeObject | Network | Service | Task | Cluster;

const META = { version: 1, createdAtMs: START_MS, updatedAtMs: START_MS };

export function makeNode(id: string, hostname: string, set: Partial<NodeObject> = {}): NodeObject {
  const index = Number(/\d+/.exec(id)?.[0] ?? 1);
  return {
    ...META,
    id,
    spec: { Labels: {}, Role: "worker", Availability: "active" },
    description: {
      Hostname: hostname,
      Platform: { Architecture: "x86_64", OS: "linux" },
      Resources: { NanoCPUs: 2_000_000_000, MemoryBytes: 4_000_000_000 },
      Engine: { EngineVersion: "20.10.24", Plugins: [{ Type: "Network", Name: "bridge" }] },
      TLSInfo: { TrustRoot: CA_PEM, CertIssuerSubject: "", CertIssuerPublicKey: "" },
      knows: [...KNOWN_KINDS],
    },
    status: { state: "ready", message: "", addr: `192.168.77.${9 + index}` },
    role: "worker",
    index,
    meshAddress: `10.255.0.${index}`,
    dataPathAddr: `192.168.77.${9 + index}`,
    ...set,
  };
}

export function makeTask(service: Service, id: string, set: Partial<Task> = {}): Task {
  return {
    ...META,
    id,
    serviceId: service.id,
    serviceName: service.spec.Name,
    serviceLabels: service.spec.Labels ?? {},
    slot: 1,
    nodeId: NODE_ID,
    spec: service.spec.TaskTemplate,
    specVersion: service.specVersion,
    desiredState: "running",
    status: {
      state: "running",
      atMs: START_MS,
      message: "started",
      container: { id: "c0ffee", pid: 42, exitCode: 0 },
    },
    ...set,
  };
}

function makeNetwork(id: string, name: string, set: Partial<Network>, ingress = false): Network {
  const { subnet, gateway } = set;
  return {
    ...META,
    id,
    spec: {
      Name: name,
      Labels: {},
      Driver: set.predefined ? name : "overlay",
      Options: {},
      Internal: false,
      Attachable: !ingress && !set.predefined,
      Ingress: ingress,
      EnableIPv6: false,
      IPAM: {
        Driver: "default",
        Config: subnet && gateway ? [{ Subnet: subnet, Gateway: gateway }] : [],
      },
    },
    ...set,
  };
}

/** A network that each node makes with its engine's macvlan driver, from its own `cfg`. */
export function makeLocalNetwork(id: string, name: string): Network {
  const network = makeNetwork(id, name, {});
  return { ...network, spec: { ...network.spec, Driver: "macvlan", ConfigFrom: "cfg" } };
}

function seed(ports: FakePorts): void {
  ports.put("cluster", {
    ...META,
    id: CLUSTER_ID,
    spec: defaultClusterSpec(),
    rootCa: { certificatePem: CA_PEM, keyPem: "the CA's key" },
    joinTokens: { worker: "SWMTKN-1-digest-worker", manager: "SWMTKN-1-digest-manager" },
    addressPools: ["10.0.0.0/8"],
    subnetSize: 24,
    meshPool: "10.255.0.0/16",
    dataPathPort: 4789,
  });
  ports.put(
    "node",
    makeNode(NODE_ID, "alpha", {
      spec: { Labels: { a: "b" }, Role: "manager", Availability: "active" },
      role: "manager",
      managerAddr: "192.168.77.10:2377",
    }),
  );
  ports.put(
    "network",
    makeNetwork(
      INGRESS_ID,
      "ingress",
      { subnet: "10.0.0.0/24", gateway: "10.0.0.1", vni: 4096 },
      true,
    ),
  );
  ports.put(
    "network",
    makeNetwork(NET1_ID, "net1", { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4097 }),
  );
  ports.put("network", makeNetwork(HOST_ID, "host", { predefined: true }));
}

export type FakeEngine = {
  socketPath: string;
  /** `GET /networks/x`, in order. */
  requests: string[];
  networks: Record<string, unknown>[];
  stop(): Promise<void>;
};

export const BRIDGE = {
  Name: "bridge",
  Id: "b".repeat(64),
  Scope: "local",
  Driver: "bridge",
  Created: "",
  Labels: {},
  Containers: {},
};

/** A Docker Engine's few answers on a unix socket of its own. */
export function startFakeEngine(): FakeEngine {
  const dir = mkdtempSync(join(tmpdir(), "shoal-engine-"));
  const socketPath = join(dir, "engine.sock");
  const engine: FakeEngine = {
    socketPath,
    requests: [],
    networks: [BRIDGE],
    stop: async () => {
      await server.stop(true);
      rmSync(dir, { recursive: true, force: true });
    },
  };
  const answer = (body: unknown, status = 200) =>
    Response.json(body, { status, headers: { "content-type": "application/json" } });
  const server = Bun.serve({
    unix: socketPath,
    fetch: async (request) => {
      const url = new URL(request.url);
      engine.requests.push(`${request.method} ${url.pathname}${url.search}`);
      const [, root, ref] = url.pathname.replace(/^\/v[\d.]+/, "").split("/");
      if (root === "_ping") {
        return new Response("OK", { headers: { "builder-version": "1", "api-version": "1.41" } });
      }
      if (root === "version") {
        return answer({
          Version: "20.10.24",
          ApiVersion: "1.41",
          MinAPIVersion: "1.12",
          Os: "linux",
          Arch: "amd64",
          Components: [{ Name: "Engine", Version: "20.10.24", Details: {} }],
        });
      }
      if (root === "info") {
        const Plugins = { Network: ["bridge", "macvlan", "vendor/net:latest"] };
        return answer({ ID: "X", Name: "alpha", Swarm: { LocalNodeState: "inactive" }, Plugins });
      }
      // What was asked comes back, for tests to look at.
      if (root === "containers" && ref === "create")
        return answer({ Id: "new", got: await request.json() }, 201);
      if (root === "containers") return answer({ Name: `/${ref}` });
      if (url.pathname.endsWith("/connect")) return answer({ got: await request.json() });
      if (root !== "networks") return answer({ message: "page not found" }, 404);
      if (ref === undefined) return answer(engine.networks);
      if (ref === "prune") return answer({ NetworksDeleted: null });
      if (ref === "create")
        return answer({ Id: "new", Warning: "", got: await request.json() }, 201);
      const found = engine.networks.find((one) => one["Id"] === ref || one["Name"] === ref);
      if (!found) return answer({ message: `network ${ref} not found` }, 404);
      return request.method === "DELETE" ? new Response(null, { status: 204 }) : answer(found);
    },
  });
  return engine;
}

/** The error that a node that is no manager gives. */
export function notManager(): ClusterError {
  return new ClusterError(
    "unavailable",
    "This node is not a swarm manager. Worker nodes can't be used.",
  );
}
