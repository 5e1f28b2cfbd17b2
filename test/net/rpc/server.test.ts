import { type Socket, connect as connectTcp } from "node:net";
import { type TLSSocket, connect as connectTls } from "node:tls";
import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { ClusterError } from "../../../core/errors.ts";
import { connectRpc } from "../../../net/rpc/client.ts";
import { encodeMessage } from "../../../net/rpc/codec.ts";
import { encodeFrameHead } from "../../../net/rpc/frame.ts";
import type { RpcConnection, TlsIdentity } from "../../../net/rpc/peer.ts";
import {
  type RpcHandlers,
  type RpcServer,
  type RpcServerOptions,
  startRpcServer,
} from "../../../net/rpc/server.ts";
import { type TestCluster, failureOf, makeCluster, makeNode, until } from "./identities.ts";

let cluster: TestCluster;
let foreignCluster: TestCluster;
let manager: TlsIdentity;
let manager2: TlsIdentity;
let worker: TlsIdentity;
let foreignManager: TlsIdentity;
beforeAll(async () => {
  cluster = await makeCluster("cluster1");
  foreignCluster = await makeCluster("cluster1");
  manager = await makeNode(cluster, "manager", "m1");
  manager2 = await makeNode(cluster, "manager", "m2");
  worker = await makeNode(cluster, "worker", "w1");
  foreignManager = await makeNode(foreignCluster, "manager", "m1");
});

const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const echo: RpcHandlers = {
  heartbeat: async (params) => ({ managers: [{ nodeId: params.sessionId, addr: "a:1" }] }),
  propose: async (params) => ({ index: params.data.length }),
  "issue-certificate": async (params) => ({
    nodeId: "n",
    clusterId: "c",
    role: "worker",
    certificatePem: params.csrPem,
    caCertificatePem: "",
    managers: [],
  }),
};
const joining = {
  csrPem: "x",
  token: "t",
  availability: "active",
  hostname: "h",
  dataPathAddr: "",
} as const;

async function serve(
  options: Partial<RpcServerOptions> = {},
): Promise<RpcServer & { addr: string }> {
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    tls: manager,
    handlers: echo,
    ...options,
  });
  cleanups.push(() => server.close());
  return { ...server, addr: `127.0.0.1:${server.port}` };
}

async function dial(
  addr: string,
  tls: TlsIdentity | undefined,
  options: Partial<Parameters<typeof connectRpc>[0]> = {},
): Promise<RpcConnection> {
  const connection = await connectRpc({
    addr,
    ...(tls ? { tls } : { caCertificatePem: cluster.ca.certificatePem }),
    timeoutMs: 3_000,
    ...options,
  });
  cleanups.push(() => connection.close());
  return connection;
}

/** A TLS client of no manners. */
async function rawClient(port: number, tls?: TlsIdentity): Promise<TLSSocket> {
  const socket = connectTls({
    host: "127.0.0.1",
    port,
    rejectUnauthorized: false,
    ...(tls ? { cert: tls.certificatePem, key: tls.keyPem } : {}),
  });
  socket.on("error", () => undefined);
  cleanups.push(() => void socket.destroy());
  await new Promise<void>((resolve) => socket.once("secureConnect", () => resolve()));
  return socket;
}
const isEnded = (socket: Socket) => {
  let ended = false;
  socket.on("data", () => undefined);
  socket.on("close", () => (ended = true));
  socket.on("end", () => (ended = true));
  return () => ended || socket.destroyed;
};
const framed = (payload: Uint8Array) => Buffer.concat([encodeFrameHead(payload.length), payload]);
const HELLO = framed(encodeMessage({ kind: "hello", version: 1 }));

describe("startRpcServer()", () => {
  test("answers a manager and a worker, each known by its certificate", async () => {
    const seen: unknown[] = [];
    const server = await serve({ onConnection: (connection) => void seen.push(connection.peer) });
    const asWorker = await dial(server.addr, worker, { expectNodeId: "m1" });
    expect(await asWorker.request("heartbeat", { sessionId: "s" })).toEqual({
      managers: [{ nodeId: "s", addr: "a:1" }],
    });
    expect(asWorker.peer).toEqual({
      nodeId: "m1",
      clusterId: "cluster1",
      role: "manager",
      address: "127.0.0.1",
    });
    const asManager = await dial(server.addr, manager2);
    expect(await asManager.request("propose", { data: new Uint8Array(7) })).toEqual({ index: 7 });
    expect(seen).toEqual([
      { nodeId: "w1", clusterId: "cluster1", role: "worker", address: "127.0.0.1" },
      { nodeId: "m2", clusterId: "cluster1", role: "manager", address: "127.0.0.1" },
    ]);
    expect(server.connections()).toHaveLength(2);
  });

  test("serves without certificate what needs none, and nothing else", async () => {
    const server = await serve();
    const connection = await dial(server.addr, undefined);
    expect((await connection.request("issue-certificate", joining)).nodeId).toBe("n");
    const refused = await failureOf(connection.request("heartbeat", { sessionId: "s" }));
    expect(refused.code).toBe("unauthenticated");
  });

  test("refuses a worker that calls a manager's method", async () => {
    const server = await serve();
    const connection = await dial(server.addr, worker);
    const refused = await failureOf(connection.request("propose", { data: new Uint8Array(1) }));
    expect(refused.code).toBe("forbidden");
    expect(refused.message).toContain("node w1 has a worker's");
  });

  test("refuses a foreign CA's certificate although its OU says manager", async () => {
    const notes: unknown[] = [];
    const server = await serve({ notes: { raft: (body) => void notes.push(body) } });
    // The client believes our server, so that only the server's judgement is tested.
    const refused = await failureOf(
      dial(server.addr, { ...foreignManager, caCertificatePem: cluster.ca.certificatePem }),
    );
    expect(refused.code).toBe("unauthenticated");
    expect(refused.message).toContain("not valid here");
    // One that does not wait for an answer gets no further.
    const socket = await rawClient(server.port, foreignManager);
    const ended = isEnded(socket);
    socket.write(HELLO);
    socket.write(
      framed(encodeMessage({ kind: "note", note: "raft", body: { data: new Uint8Array(1) } })),
    );
    await until("the socket is closed", ended);
    expect(notes).toEqual([]);
    expect(server.connections()).toEqual([]);
  });

  test("refuses another cluster's name and a certificate of the own CA that expired long ago", async () => {
    const server = await serve();
    const other = await makeNode(cluster, "manager", "m9", { clusterId: "cluster2" });
    // Its own certificate makes it expect cluster2: the client refuses first.
    expect((await failureOf(dial(server.addr, other))).message).toContain(
      'of cluster "cluster1", this is "cluster2"',
    );
    const socket = await rawClient(server.port, other);
    const ended = isEnded(socket);
    socket.write(HELLO);
    await until("the socket is closed", ended);
    const expired = await makeNode(cluster, "worker", "w2", {
      nowMs: Date.now() - 100 * 86_400_000,
      lifetimeMs: 3_600_000,
    });
    expect((await failureOf(dial(server.addr, expired))).code).toBe("unauthenticated");
  });

  test("asks admit at each request, so that a removed node is out at once", async () => {
    const removed = new Set<string>();
    const server = await serve({
      admit: (peer) => {
        if (removed.has(peer.nodeId ?? "")) throw new ClusterError("forbidden", "Node was removed");
      },
    });
    const connection = await dial(server.addr, worker);
    await connection.request("heartbeat", { sessionId: "s" });
    removed.add("w1");
    expect((await failureOf(connection.request("heartbeat", { sessionId: "s" }))).message).toBe(
      "Node was removed",
    );
    expect((await failureOf(dial(server.addr, worker))).message).toBe("Node was removed");
  });

  test("answers malformed parameters, unknown methods, missing handlers and failing ones", async () => {
    const failures: unknown[] = [];
    const server = await serve({
      handlers: {
        heartbeat: () => Promise.reject(new TypeError("a bug")),
        "report-status": () => Promise.resolve({}),
        "session-open": () => {
          throw new ClusterError("not-leader", "no", {
            details: { leader: { nodeId: "m2", addr: "b:2" } },
          });
        },
      },
      onError: (where, error) => void failures.push([where, error]),
    });
    const connection = await dial(server.addr, worker);
    const call = async (method: string, params: unknown) =>
      failureOf(connection.request(method as "heartbeat", params as { sessionId: string }));
    expect((await call("report-status", { sessionId: 7 })).message).toContain(
      '"report-status": sessionId',
    );
    expect((await call("report-status", null)).code).toBe("invalid-argument");
    expect(
      (
        await call("report-status", {
          sessionId: "s",
          statuses: [{ taskId: "t", status: { state: "flying" } }],
        })
      ).code,
    ).toBe("invalid-argument");
    expect((await call("nonsense", {})).code).toBe("not-implemented");
    expect((await call("constructor", {})).code).toBe("not-implemented");
    expect((await call("node-leave", { force: true })).code).toBe("not-implemented");
    const bug = await call("heartbeat", { sessionId: "s" });
    expect([bug.code, bug.message]).toEqual(["internal", "a bug"]);
    expect(failures).toEqual([["heartbeat", new TypeError("a bug")]]);
    const redirect = await failureOf(
      connection.request("session-open", {
        dataPathAddr: "",
        description: {
          Hostname: "h",
          Platform: { Architecture: "x86_64", OS: "linux" },
          Resources: { NanoCPUs: 1, MemoryBytes: 1 },
          Engine: { EngineVersion: "20.10" },
        },
      }),
    );
    expect((redirect as ClusterError).details).toEqual({ leader: { nodeId: "m2", addr: "b:2" } });
  });

  test("lives on when peers send garbage", async () => {
    const server = await serve();
    const witness = await dial(server.addr, worker);
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 100 }),
        fc.boolean(),
        fc.boolean(),
        async (bytes, isFramed, afterHello) => {
          const socket = await rawClient(server.port, afterHello ? worker : undefined);
          if (afterHello) socket.write(HELLO);
          socket.end(isFramed ? framed(bytes) : bytes);
          await new Promise<void>((resolve) => socket.once("close", () => resolve()).resume());
        },
      ),
      { numRuns: 60 },
    );
    const tcp = connectTcp(server.port, "127.0.0.1");
    const ended = isEnded(tcp);
    tcp.on("error", () => undefined);
    tcp.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    await until("the plain connection is closed", ended);
    expect(await witness.request("heartbeat", { sessionId: "s" })).toBeDefined();
    await until("only the witness is left", () => server.connections().length === 1);
  });

  test("closes a peer that announces a frame beyond the limit", async () => {
    const server = await serve();
    const socket = await rawClient(server.port);
    const ended = isEnded(socket);
    socket.write(HELLO);
    socket.write(Uint8Array.of(0, 1, 0, 1));
    await until("the socket is closed", ended);
  });

  test("uses a new certificate for new connections while held ones go on", async () => {
    const server = await serve();
    const held = await dial(server.addr, worker);
    const next = await makeNode(cluster, "manager", "m1-renewed");
    server.setTls(next);
    const fresh = await dial(server.addr, worker);
    expect([held.peer.nodeId, fresh.peer.nodeId]).toEqual(["m1", "m1-renewed"]);
    expect(await held.request("heartbeat", { sessionId: "s" })).toBeDefined();
    expect(() =>
      server.setTls({ ...next, certificatePem: "damaged", caCertificatePem: "damaged" }),
    ).toThrow(ClusterError);
    expect((await dial(server.addr, worker)).peer.nodeId).toBe("m1-renewed");
  });

  test("tells its clients when it closes, and frees the port", async () => {
    const server = await serve();
    const connection = await dial(server.addr, worker);
    let reason = "";
    connection.onClose((why) => (reason = why));
    await server.close();
    await until("the client knows", () => reason !== "");
    expect(reason).toBe("This manager stops");
    const failure = await failureOf(connection.request("heartbeat", { sessionId: "s" }));
    expect(failure.code).toBe("unavailable");
    await serve({ port: server.port });
  });

  test("says which address is taken", async () => {
    const server = await serve();
    const failure = await failureOf(serve({ port: server.port }));
    expect(failure.code).toBe("unavailable");
    expect(failure.message).toContain(`Cannot listen on 127.0.0.1:${server.port}`);
  });

  test("bounds connections without certificate in number and life", async () => {
    const server = await serve({ limits: { unauthenticatedMax: 2, unauthenticatedLifeMs: 300 } });
    const first = await dial(server.addr, undefined);
    await dial(server.addr, undefined);
    expect((await failureOf(dial(server.addr, undefined))).code).toBe("busy");
    // Certified nodes are not affected.
    const certified = await dial(server.addr, worker);
    let reason = "";
    first.onClose((why) => (reason = why));
    await until("its life is over", () => reason !== "");
    expect(reason).toContain("without certificate");
    await until("there is room again", () => server.connections().length === 1);
    await dial(server.addr, undefined);
    expect(await certified.request("heartbeat", { sessionId: "s" })).toBeDefined();
  });

  test("closes who does not shake hands, and bounds how many may wait", async () => {
    const server = await serve({ limits: { openingMax: 3, unauthenticatedLifeMs: 1_000 } });
    const mute = Array.from({ length: 5 }, () => {
      const socket = connectTcp(server.port, "127.0.0.1");
      socket.on("error", () => undefined);
      cleanups.push(() => void socket.destroy());
      return isEnded(socket);
    });
    await until("two are refused", () => mute.filter((ended) => ended()).length === 2, 900);
    await until("the others are closed", () => mute.every((ended) => ended()));
    await dial(server.addr, worker);
  });

  test("bounds connections in all", async () => {
    const server = await serve({ limits: { connectionsMax: 1 } });
    const only = await dial(server.addr, worker);
    expect((await failureOf(dial(server.addr, worker))).code).toBe("unavailable");
    only.close();
    await until("it is gone", () => server.connections().length === 0);
    await until("there is room", () => true);
    await dial(server.addr, worker);
  });

  test("bounds the requests served at once", async () => {
    const gate = Promise.withResolvers<void>();
    let most = 0;
    let current = 0;
    const server = await serve({
      handlers: {
        "issue-certificate": async () => {
          most = Math.max(most, ++current);
          await gate.promise;
          current--;
          throw new ClusterError("not-found", "done");
        },
      },
    });
    const connection = await dial(server.addr, undefined);
    const codes = Array.from(
      { length: 20 },
      async () => (await failureOf(connection.request("issue-certificate", joining))).code,
    );
    await until("four are served", () => current === 4);
    gate.resolve();
    const counted = await Promise.all(codes);
    expect(counted.filter((code) => code === "busy")).toHaveLength(16);
    expect(most).toBe(4);
  });
});
