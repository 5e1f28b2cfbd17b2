/** The objects of a new cluster: CA, first certificate, cluster, first node, networks. */
import {
  chooseSubnet,
  DEFAULT_ADDRESS_POOLS,
  DEFAULT_MESH_POOL,
  firstMeshAddress,
  validatePools,
} from "../core/allocator/ipam.ts";
import { ClusterError } from "../core/errors.ts";
import { newId, type UnixMs } from "../core/ids.ts";
import { type ClusterSpec, defaultClusterSpec } from "../core/objects/cluster.ts";
import type { NetworkSpec } from "../core/objects/network.ts";
import type { Random } from "../core/random.ts";
import type { CreateAction, Proposal } from "../core/store/action.ts";
import { createKeyAndCsr, createRootCa, issueCertificate } from "../net/pki/issue.ts";
import { makeJoinToken } from "../net/pki/join-token.ts";
import type { TlsIdentity } from "../net/rpc/peer.ts";
import type { NodeAddresses } from "./address.ts";
import type { InitRequest } from "./api/ports.ts";
import { makeUnlockKey } from "./unlock-key.ts";

const DATA_PATH_PORT_DEFAULT = 4789;
const CERTIFICATE_LIFETIME_MIN_MS = 3_600_000;

/** Node-local networks that services may name. Source: SwarmKit, label com.docker.swarm.predefined. */
const PREDEFINED = [
  { name: "host", driver: "host" },
  { name: "bridge", driver: "bridge" },
  { name: "none", driver: "null" },
] as const;

export type Founded = { nodeId: string; clusterId: string; tls: TlsIdentity; proposal: Proposal };

/** @throws {ClusterError} invalid-argument with Docker's words; nothing has been made then. */
export async function foundCluster(input: {
  request: InitRequest;
  addresses: NodeAddresses;
  nowMs: UnixMs;
  random: Random;
}): Promise<Founded> {
  const { request, addresses, nowMs, random } = input;
  const spec = mergeSpec(request);
  const dataPathPort = request.DataPathPort || DATA_PATH_PORT_DEFAULT;
  if (dataPathPort < 1024 || dataPathPort > 49_151) {
    throw new ClusterError(
      "invalid-argument",
      `Datapath port number is not in valid range (1024-49151) : ${dataPathPort}`,
    );
  }
  const subnetSize = request.SubnetSize || 24;
  if (subnetSize < 1 || subnetSize > 29) {
    throw new ClusterError("invalid-argument", `subnet size is out of range: ${subnetSize}`);
  }
  const addressPools = request.DefaultAddrPool?.length
    ? request.DefaultAddrPool
    : [...DEFAULT_ADDRESS_POOLS];
  validatePools(addressPools, subnetSize, DEFAULT_MESH_POOL);

  const ca = await createRootCa();
  const nodeId = newId(random);
  const clusterId = newId(random);
  const { keyPem, csrPem } = await createKeyAndCsr();
  const certificatePem = await issueCertificate({
    ca,
    csrPem,
    nodeId,
    role: "manager",
    clusterId,
    lifetimeMs: spec.CAConfig.NodeCertExpiry / 1e6,
    nowMs,
  });
  const ingress = chooseSubnet({ addressPools, subnetSize, meshPool: DEFAULT_MESH_POOL, used: [] });
  const network = (name: string, driver: string, extra: Partial<NetworkSpec>): NetworkSpec => ({
    Name: name,
    Labels: {},
    Driver: driver,
    Options: {},
    Internal: false,
    Attachable: false,
    Ingress: false,
    EnableIPv6: false,
    IPAM: { Driver: "default", Config: [] },
    ...extra,
  });
  const networks: CreateAction[] = [
    {
      type: "create",
      table: "network",
      object: {
        id: newId(random),
        spec: network("ingress", "overlay", {
          Ingress: true,
          IPAM: {
            Driver: "default",
            Config: [{ Subnet: ingress.subnet, Gateway: ingress.gateway }],
          },
        }),
        subnet: ingress.subnet,
        gateway: ingress.gateway,
        vni: 4096,
      },
    },
    ...PREDEFINED.map(
      ({ name, driver }): CreateAction => ({
        type: "create",
        table: "network",
        object: { id: newId(random), spec: network(name, driver, {}), predefined: true },
      }),
    ),
  ];
  return {
    nodeId,
    clusterId,
    tls: { certificatePem, keyPem, caCertificatePem: ca.certificatePem },
    proposal: {
      id: newId(random),
      atMs: nowMs,
      mode: "all",
      actions: [
        {
          type: "create",
          table: "cluster",
          object: {
            id: clusterId,
            spec,
            rootCa: ca,
            ...(spec.EncryptionConfig.AutoLockManagers ? { unlockKey: makeUnlockKey() } : {}),
            joinTokens: {
              worker: makeJoinToken(ca.certificatePem, random),
              manager: makeJoinToken(ca.certificatePem, random),
            },
            addressPools,
            subnetSize,
            meshPool: DEFAULT_MESH_POOL,
            dataPathPort,
          },
        },
        {
          type: "create",
          table: "node",
          object: {
            id: nodeId,
            spec: { Labels: {}, Role: "manager", Availability: request.Availability ?? "active" },
            status: { state: "unknown", message: "", addr: addresses.advertise.host },
            role: "manager",
            managerAddr: `${addresses.advertise.host}:${addresses.advertise.port}`,
            index: 1,
            meshAddress: firstMeshAddress(DEFAULT_MESH_POOL),
            dataPathAddr: addresses.dataPath,
          },
        },
        ...networks,
      ],
    },
  };
}

/** Init merges what was given over the defaults (update does not). Source: moby daemon/cluster. */
function mergeSpec(request: InitRequest): ClusterSpec {
  const base = defaultClusterSpec();
  const given = request.Spec ?? {};
  const name = given.Name || base.Name;
  if (name !== "default")
    throw new ClusterError("invalid-argument", 'swarm spec must be named "default"');
  const spec: ClusterSpec = {
    ...base,
    Name: name,
    Labels: given.Labels ?? base.Labels,
    Orchestration: { ...base.Orchestration, ...given.Orchestration },
    Raft: { ...base.Raft, ...withoutZeros(given.Raft) },
    Dispatcher: { ...base.Dispatcher, ...withoutZeros(given.Dispatcher) },
    CAConfig: { ...base.CAConfig, ...withoutZeros(given.CAConfig) },
    TaskDefaults: { ...base.TaskDefaults, ...given.TaskDefaults },
    EncryptionConfig: {
      AutoLockManagers:
        request.AutoLockManagers === true || given.EncryptionConfig?.AutoLockManagers === true,
    },
  };
  if (spec.CAConfig.NodeCertExpiry / 1e6 < CERTIFICATE_LIFETIME_MIN_MS) {
    throw new ClusterError("invalid-argument", "minimum certificate expiry time is: 1h0m0s");
  }
  return spec;
}

/** The CLI sends zeros for what the user did not name. */
function withoutZeros<T extends Record<string, unknown>>(given: T | undefined): Partial<T> {
  const entries = Object.entries(given ?? {}).filter(
    ([, value]) => value !== 0 && value !== null && value !== undefined,
  );
  // The entries are a subset of T's own.
  return Object.fromEntries(entries) as Partial<T>;
}
