import { describe, expect, test } from "bun:test";
import type { InitRequest } from "../../agent/api/ports.ts";
import { foundCluster } from "../../agent/found-cluster.ts";
import { type ClusterSpec, defaultClusterSpec } from "../../core/objects/cluster.ts";
import { seededRandom } from "../../core/random.ts";
import { apply } from "../../core/store/apply.ts";
import { createMemoryRows } from "../../core/store/memory-rows.ts";
import { caDigest, parseJoinToken } from "../../net/pki/join-token.ts";
import { isIssuedBy, parseCertificate, readCertificate } from "../../net/pki/read.ts";
import { failureOf } from "../net/rpc/identities.ts";

const ADDRESSES = {
  listen: { host: "0.0.0.0", port: 2377 },
  advertise: { host: "192.0.2.1", port: 12_377 },
  dataPath: "198.51.100.1",
};
const HOUR_MS = 3_600_000;
const NANOSECONDS_PER_MS = 1e6;
/** Certificates are checked against the clock, so the cluster is made now. */
const nowMs = Date.now();

const found = (request: InitRequest = {}) =>
  foundCluster({ request, addresses: ADDRESSES, nowMs, random: seededRandom(1) });

/** The cluster's state once the first proposal is applied. */
async function state(request: InitRequest = {}) {
  const founded = await found(request);
  const rows = createMemoryRows();
  const { outcome } = apply(rows, founded.proposal, 1);
  expect(outcome).toEqual({ type: "applied", index: 1, droppedCount: 0 });
  const cluster = rows.cluster();
  if (!cluster) throw new Error("No cluster was made");
  return { founded, rows, cluster };
}

const refusal = async (request: InitRequest) => {
  const { code, message } = await failureOf(found(request));
  return `${code}: ${message}`;
};
const withSpec = (spec: Partial<ClusterSpec>): InitRequest => ({ Spec: spec });

describe("foundCluster()", () => {
  test("has one proposal that all or nothing of which is applied", async () => {
    const { proposal } = await found();
    expect(proposal.mode).toBe("all");
    expect(proposal.atMs).toBe(nowMs);
    expect(proposal.actions.map((action) => `${action.type} ${"table" in action && action.table}`))
      // The cluster comes first: what follows is checked against it.
      .toEqual(["create cluster", "create node", ...Array<string>(4).fill("create network")]);
  });

  test("makes a cluster of defaults from an empty request", async () => {
    const { founded, cluster } = await state();
    expect(cluster).toMatchObject({
      id: founded.clusterId,
      spec: defaultClusterSpec(),
      addressPools: ["10.0.0.0/8"],
      subnetSize: 24,
      meshPool: "10.255.0.0/16",
      dataPathPort: 4789,
    });
  });

  test("makes two tokens that name the new CA", async () => {
    const { founded, cluster } = await state();
    const tokens = Object.values(cluster.joinTokens).map((token) => parseJoinToken(token));
    const digest = caDigest(founded.tls.caCertificatePem);
    expect(tokens.map((token) => token.caDigest)).toEqual([digest, digest]);
    expect(new Set(tokens.map((token) => token.secret)).size).toBe(2);
    expect(cluster.rootCa.certificatePem).toBe(founded.tls.caCertificatePem);
  });

  test("makes this node a manager, reached where it advertises", async () => {
    const { founded, rows } = await state();
    expect(rows.nodes()).toHaveLength(1);
    expect(rows.node(founded.nodeId)).toMatchObject({
      spec: { Labels: {}, Role: "manager", Availability: "active" },
      status: { state: "unknown", message: "", addr: "192.0.2.1" },
      role: "manager",
      managerAddr: "192.0.2.1:12377",
      index: 1,
      meshAddress: "10.255.0.1",
      dataPathAddr: "198.51.100.1",
    });
  });

  test("certifies this node as manager of the cluster, for 90 days", async () => {
    const { nodeId, clusterId, tls } = await found();
    expect(readCertificate(tls.certificatePem)).toMatchObject({
      nodeId,
      clusterId,
      role: "manager",
    });
    const certificate = parseCertificate(tls.certificatePem);
    expect(isIssuedBy(certificate, [parseCertificate(tls.caCertificatePem)], nowMs)).toBe(true);
    const lifeMs = Date.parse(certificate.validTo) - nowMs;
    expect(Math.abs(lifeMs - 90 * 24 * HOUR_MS)).toBeLessThan(1_000);
  });

  test("makes ingress with the first subnet, and the networks of each node without any", async () => {
    const { rows } = await state();
    expect(rows.networkByName("ingress")).toMatchObject({
      spec: {
        Driver: "overlay",
        Ingress: true,
        IPAM: { Driver: "default", Config: [{ Subnet: "10.0.0.0/24", Gateway: "10.0.0.1" }] },
      },
      subnet: "10.0.0.0/24",
      gateway: "10.0.0.1",
      vni: 4096,
    });
    const local = rows.networks().filter((network) => network.predefined);
    expect(local.map(({ spec }) => `${spec.Name}: ${spec.Driver}`).sort()).toEqual([
      "bridge: bridge",
      "host: host",
      "none: null",
    ]);
    for (const network of local) expect(network.subnet).toBeUndefined();
    expect(rows.networks()).toHaveLength(4);
  });

  test("takes what is named over the defaults, and zeros for not named", async () => {
    const { cluster, rows } = await state({
      DataPathPort: 7_789,
      DefaultAddrPool: ["172.30.0.0/16", "172.31.0.0/16"],
      SubnetSize: 26,
      Availability: "drain",
      Spec: {
        Labels: { zone: "a" },
        Orchestration: { TaskHistoryRetentionLimit: 0 },
        Dispatcher: { HeartbeatPeriod: 5e9 },
        Raft: {
          SnapshotInterval: 500,
          KeepOldSnapshots: 0,
          LogEntriesForSlowFollowers: 0,
          ElectionTick: 0,
          HeartbeatTick: 0,
        },
        CAConfig: { NodeCertExpiry: 0 },
      },
    });
    const base = defaultClusterSpec();
    expect(cluster.spec).toEqual({
      ...base,
      Labels: { zone: "a" },
      // Here 0 is a wish: keep no history.
      Orchestration: { TaskHistoryRetentionLimit: 0 },
      Dispatcher: { HeartbeatPeriod: 5e9 },
      Raft: { ...base.Raft, SnapshotInterval: 500 },
    });
    expect(cluster).toMatchObject({
      dataPathPort: 7_789,
      addressPools: ["172.30.0.0/16", "172.31.0.0/16"],
      subnetSize: 26,
    });
    expect(rows.networkByName("ingress")?.subnet).toBe("172.30.0.0/26");
    expect(rows.nodes()[0]?.spec.Availability).toBe("drain");
  });

  test("makes other ids, keys and tokens each time", async () => {
    const random = seededRandom(1);
    const make = () => foundCluster({ request: {}, addresses: ADDRESSES, nowMs, random });
    const [one, two] = [await make(), await make()];
    expect(one.nodeId).not.toBe(two.nodeId);
    expect(one.clusterId).not.toBe(two.clusterId);
    expect(one.tls.keyPem).not.toBe(two.tls.keyPem);
    expect(one.tls.caCertificatePem).not.toBe(two.tls.caCertificatePem);
  });

  test("refuses a data path port outside 1024-49151", async () => {
    for (const port of [-1, 1, 1_023, 49_152, 70_000]) {
      expect(await refusal({ DataPathPort: port })).toBe(
        `invalid-argument: Datapath port number is not in valid range (1024-49151) : ${port}`,
      );
    }
    for (const port of [1_024, 49_151]) {
      expect((await state({ DataPathPort: port })).cluster.dataPathPort).toBe(port);
    }
  });

  test("refuses a subnet size without room for tasks", async () => {
    for (const size of [-1, 30, 32]) {
      expect(await refusal({ SubnetSize: size })).toBe(
        `invalid-argument: subnet size is out of range: ${size}`,
      );
    }
    expect((await state({ SubnetSize: 29 })).cluster.subnetSize).toBe(29);
  });

  test("refuses pools that are no use, naming the pool", async () => {
    expect(await refusal({ DefaultAddrPool: ["10.0.0.0"] })).toBe(
      "invalid-argument: invalid CIDR address: 10.0.0.0",
    );
    expect(await refusal({ DefaultAddrPool: ["10.1.0.0/25"] })).toContain(
      "invalid-argument: Cannot cut /24 subnets from pool 10.1.0.0/25",
    );
    expect(await refusal({ DefaultAddrPool: ["10.0.0.0/8", "10.1.0.0/16"] })).toBe(
      "invalid-argument: Cannot use pool 10.1.0.0/16: it overlaps pool 10.0.0.0/8",
    );
    expect(await refusal({ DefaultAddrPool: ["10.255.8.0/21"] })).toContain(
      "it lies within the mesh pool 10.255.0.0/16",
    );
  });

  test("refuses a name other than default", async () => {
    expect(await refusal(withSpec({ Name: "mine" }))).toBe(
      'invalid-argument: swarm spec must be named "default"',
    );
    expect((await state(withSpec({ Name: "" }))).cluster.spec.Name).toBe("default");
  });

  test("refuses certificates of less than an hour", async () => {
    const expiry = (ms: number) =>
      withSpec({ CAConfig: { NodeCertExpiry: ms * NANOSECONDS_PER_MS } });
    expect(await refusal(expiry(HOUR_MS - 1))).toBe(
      "invalid-argument: minimum certificate expiry time is: 1h0m0s",
    );
    const { founded } = await state(expiry(HOUR_MS));
    const lifeMs = Date.parse(parseCertificate(founded.tls.certificatePem).validTo) - nowMs;
    expect(Math.abs(lifeMs - HOUR_MS)).toBeLessThan(1_000);
  });

  test("takes autolock from the request or from the spec, and makes the unlock key", async () => {
    const isOn = { EncryptionConfig: { AutoLockManagers: true } };
    for (const request of [{ AutoLockManagers: true }, withSpec(isOn)]) {
      const { cluster } = await state(request);
      expect(cluster.spec.EncryptionConfig).toEqual({ AutoLockManagers: true });
      expect(cluster.unlockKey).toStartWith("SWMKEY-1-");
    }
    expect((await state({})).cluster.unlockKey).toBeUndefined();
  });
});
