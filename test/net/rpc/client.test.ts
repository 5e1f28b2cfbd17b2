import { createServer as createTcpServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { ClusterError } from "../../../core/errors.ts";
import { seededRandom } from "../../../core/random.ts";
import { caDigest, makeJoinToken } from "../../../net/pki/join-token.ts";
import { connectRpc, fetchRootCa, splitAddress } from "../../../net/rpc/client.ts";
import type { TlsIdentity } from "../../../net/rpc/peer.ts";
import { startRpcServer } from "../../../net/rpc/server.ts";
import { type TestCluster, failureOf, makeCluster, makeNode } from "./identities.ts";

let cluster: TestCluster;
let foreignCluster: TestCluster;
let manager: TlsIdentity;
let worker: TlsIdentity;
let foreignManager: TlsIdentity;
let token = "";
beforeAll(async () => {
  cluster = await makeCluster("cluster1");
  foreignCluster = await makeCluster("cluster1");
  manager = await makeNode(cluster, "manager", "m1");
  worker = await makeNode(cluster, "worker", "w1");
  foreignManager = await makeNode(foreignCluster, "manager", "m1");
  token = makeJoinToken(cluster.ca.certificatePem, seededRandom(1));
});
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function serve(tls: TlsIdentity): Promise<string> {
  const server = await startRpcServer({ host: "127.0.0.1", port: 0, tls, handlers: {} });
  cleanups.push(() => server.close());
  return `127.0.0.1:${server.port}`;
}
/** A TLS server that shows exactly these certificates and says nothing. */
async function show(certificatesPem: string, keyPem: string): Promise<string> {
  const server = createTlsServer({ cert: certificatesPem, key: keyPem }, (socket) => {
    socket.on("error", () => undefined);
  });
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => void server.close());
  const address = server.address();
  return `127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
}

describe("connectRpc()", () => {
  test("serves what the manager asks over the connection, and nothing that it was not given", async () => {
    const server = await startRpcServer({
      host: "127.0.0.1",
      port: 0,
      tls: manager,
      handlers: {},
    });
    cleanups.push(() => server.close());
    const report = { findings: [], receivedAtMs: 1, answeredAtMs: 2 };
    const connection = await connectRpc({
      addr: `127.0.0.1:${server.port}`,
      tls: worker,
      timeoutMs: 2_000,
      handlers: { "net-check": async () => ({ report }) },
    });
    cleanups.push(() => connection.close());
    const [other] = server.connections();
    if (!other) throw new Error("the server has the connection");
    expect(await other.request("net-check", {})).toEqual({ report });
    expect((await failureOf(other.request("raft-leave", {}))).code).toBe("not-implemented");
    // The other way it is a manager's alone.
    expect((await failureOf(connection.request("net-check", {}))).code).toBe("forbidden");
  });

  const dial = (addr: string, options: Partial<Parameters<typeof connectRpc>[0]> = {}) =>
    failureOf(connectRpc({ addr, tls: worker, timeoutMs: 2_000, ...options }));

  test("refuses a server of a foreign CA, of another node id and without manager's certificate", async () => {
    expect((await dial(await serve(foreignManager))).code).toBe("unauthenticated");
    const addr = await serve(manager);
    expect((await dial(addr, { expectNodeId: "m2" })).message).toContain("it is node m1, not m2");
    const failure = await dial(await serve(worker));
    expect([failure.code, failure.message]).toEqual([
      "unauthenticated",
      expect.stringContaining("it is a worker, not a manager"),
    ]);
  });

  test("tells an unreachable address from a silent one", async () => {
    // Reading, or it would not see the client go.
    const silent = createTcpServer((socket) => void socket.on("error", () => undefined).resume());
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const address = silent.address();
    const port = typeof address === "object" && address ? address.port : 0;
    const failure = await dial(`127.0.0.1:${port}`, { timeoutMs: 100 });
    expect(failure.code).toBe("deadline");
    await new Promise<void>((resolve) => silent.close(() => resolve()));
    const refused = await dial(`127.0.0.1:${port}`);
    expect(refused.code).toBe("unavailable");
    expect(refused.message).toContain("ECONNREFUSED");
  });

  test("waits for the server's hello, not only for the handshake", async () => {
    const addr = await show(manager.certificatePem + manager.caCertificatePem, manager.keyPem);
    expect((await dial(addr, { timeoutMs: 200 })).code).toBe("deadline");
  });
});

describe("fetchRootCa()", () => {
  const fetchFailure = (addr: string) => failureOf(fetchRootCa({ addr, token, timeoutMs: 2_000 }));

  test("gives the CA whose digest is the token's", async () => {
    const addr = await serve(manager);
    const pem = await fetchRootCa({ addr, token, timeoutMs: 2_000 });
    expect(pem).toBe(cluster.ca.certificatePem);
    const connection = await connectRpc({ addr, caCertificatePem: pem, timeoutMs: 2_000 });
    expect(connection.peer.nodeId).toBe("m1");
    connection.close();
  });

  test("refuses another CA, naming both digests", async () => {
    const failure = await fetchFailure(await serve(foreignManager));
    expect(failure.message).toStartWith("remote CA does not match fingerprint. Expected: ");
    expect((failure as ClusterError).details).toEqual({
      expected: caDigest(cluster.ca.certificatePem),
      shown: caDigest(foreignCluster.ca.certificatePem),
    });
  });

  test("refuses the right CA beside a certificate that it did not sign", async () => {
    // What a man in the middle can do: the CA's certificate is public.
    const addr = await show(
      foreignManager.certificatePem + cluster.ca.certificatePem,
      foreignManager.keyPem,
    );
    const failure = await fetchFailure(addr);
    expect(["unauthenticated", "failed-precondition"]).toContain(failure.code ?? "");
  });

  test("refuses a worker's certificate, an expired one, and a chain without CA", async () => {
    const asWorker = await fetchFailure(await serve(worker));
    expect(asWorker.message).toContain("not a manager's");
    const expired = await makeNode(cluster, "manager", "m3", {
      nowMs: Date.now() - 7_200_000,
      lifetimeMs: 3_600_000,
    });
    expect((await fetchFailure(await serve(expired))).message).toContain("not valid");
    const addr = await show(manager.certificatePem, manager.keyPem);
    expect((await fetchFailure(addr)).message).toContain("shows: none");
  });

  test("refuses a malformed token before it connects", async () => {
    const failure = await failureOf(
      fetchRootCa({ addr: "127.0.0.1:1", token: "x", timeoutMs: 100 }),
    );
    expect([failure.code, failure.message]).toEqual([
      "invalid-argument",
      'invalid join token: it does not start with "SWMTKN-"',
    ]);
  });
});

describe("splitAddress()", () => {
  test("reads host:port, [IPv6]:port and a missing port", () => {
    expect(splitAddress("10.0.0.1:9")).toEqual({ host: "10.0.0.1", port: 9 });
    expect(splitAddress("[fe80::1]:9")).toEqual({ host: "fe80::1", port: 9 });
    expect(splitAddress("host")).toEqual({ host: "host", port: 2377 });
    for (const addr of ["", ":1", "fe80::1", "a:0", "a:65536", "a:b"]) {
      expect(() => splitAddress(addr)).toThrow("write host:port");
    }
  });
});
