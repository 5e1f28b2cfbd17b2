/** A node whose certificate has expired asks for the next one, and for nothing else. */
import { afterEach, beforeAll, expect, test } from "bun:test";
import { createRootCa } from "../../../net/pki/issue.ts";
import { connectRpc } from "../../../net/rpc/client.ts";
import type { PeerIdentity, TlsIdentity } from "../../../net/rpc/peer.ts";
import { type RpcServer, startRpcServer } from "../../../net/rpc/server.ts";
import { EXPIRED_MS_MAX } from "../../../net/rpc/tls.ts";
import { failureOf, makeCluster, makeNode, type TestCluster } from "./identities.ts";

const DAY_MS = 86_400_000;
let cluster: TestCluster;
let manager: TlsIdentity;
beforeAll(async () => {
  cluster = await makeCluster("c1");
  // Long ago, so that certificates may be older than it lets them be.
  cluster.ca = await createRootCa({ nowMs: Date.now() - 1_000 * DAY_MS });
  manager = await makeNode(cluster, "manager", "m1");
});
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** One that ended so long ago. */
const ended = (agoMs: number, of = cluster, role: "worker" | "manager" = "worker") =>
  makeNode(of, role, "n1", { nowMs: Date.now() - agoMs - DAY_MS, lifetimeMs: DAY_MS });

async function serve(tls = manager): Promise<RpcServer & { peers: PeerIdentity[] }> {
  const peers: PeerIdentity[] = [];
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    tls,
    clusterId: "c1",
    handlers: {
      "renew-certificate": async (_, connection) => {
        peers.push(connection.peer);
        return { role: "worker", certificatePem: "next", caCertificatePem: "" };
      },
      heartbeat: async () => ({ managers: [] }),
      propose: async () => ({ index: 1 }),
    },
  });
  cleanups.push(() => server.close());
  return { ...server, peers };
}
async function dial(server: RpcServer, tls: TlsIdentity) {
  const addr = `127.0.0.1:${server.port}`;
  const connection = await connectRpc({ addr, tls, timeoutMs: 3_000 });
  cleanups.push(() => connection.close());
  return connection;
}

test.each(["worker", "manager"] as const)("a %s may renew, and do nothing else", async (role) => {
  const server = await serve();
  const connection = await dial(server, await ended(EXPIRED_MS_MAX - DAY_MS, cluster, role));
  const renewed = await connection.request("renew-certificate", { csrPem: "x" });
  expect(renewed.certificatePem).toBe("next");
  expect(server.peers).toEqual([{ expiredNodeId: "n1", address: "127.0.0.1" }]);
  for (const failing of [
    connection.request("heartbeat", { sessionId: "s" }),
    connection.request("propose", { data: new Uint8Array() }),
  ]) {
    const failure = await failureOf(failing);
    expect([failure.code, failure.message]).toEqual([
      "unauthenticated",
      expect.stringContaining("needs a certificate that has not expired"),
    ]);
  }
});

test("a certificate that ended too long ago, or is of another CA or cluster, is refused", async () => {
  const server = await serve();
  const foreign = await makeCluster("c1");
  foreign.ca = await createRootCa({ nowMs: Date.now() - 1_000 * DAY_MS });
  const other = { ...(await ended(DAY_MS, foreign)), caCertificatePem: cluster.ca.certificatePem };
  const elsewhere = await ended(DAY_MS, { ...cluster, id: "c2" });
  for (const tls of [await ended(EXPIRED_MS_MAX + DAY_MS), other, elsewhere]) {
    expect((await failureOf(dial(server, tls))).code).toBe("unauthenticated");
  }
  const early = await makeNode(cluster, "worker", "n1", { nowMs: Date.now() + 30 * DAY_MS });
  expect((await failureOf(dial(server, early))).code).toBe("unauthenticated");
});

test("a manager whose certificate has expired is not believed", async () => {
  const server = await serve(await ended(DAY_MS, cluster, "manager"));
  const worker = await makeNode(cluster, "worker", "w1");
  const failure = await failureOf(dial(server, worker));
  // It will have another one: who asks again is served.
  expect([failure.code, failure.message]).toEqual([
    "unavailable",
    expect.stringContaining("its certificate has expired"),
  ]);
});
