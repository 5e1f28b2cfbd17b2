import { type Server, type Socket, connect as connectTcp, createServer } from "node:net";
import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { connectRpc } from "../../../net/rpc/client.ts";
import type { RpcConnection, TlsIdentity } from "../../../net/rpc/peer.ts";
import {
  type RpcNoteHandlers,
  type RpcServer,
  type RpcServerOptions,
  startRpcServer,
} from "../../../net/rpc/server.ts";
import { failureOf, makeCluster, makeNode, until } from "./identities.ts";

let manager: TlsIdentity;
let peer: TlsIdentity;
beforeAll(async () => {
  const cluster = await makeCluster("cluster1");
  manager = await makeNode(cluster, "manager", "m1");
  peer = await makeNode(cluster, "manager", "m2");
});
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function serve(options: Partial<RpcServerOptions> = {}): Promise<RpcServer> {
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    tls: manager,
    handlers: {},
    ...options,
  });
  cleanups.push(() => server.close());
  return server;
}
async function dial(
  port: number,
  tickMs?: number,
  notes: RpcNoteHandlers = {},
): Promise<RpcConnection> {
  const connection = await connectRpc({
    addr: `127.0.0.1:${port}`,
    tls: peer,
    timeoutMs: 3_000,
    notes,
    ...(tickMs === undefined ? {} : { tickMs }),
  });
  cleanups.push(() => connection.close());
  return connection;
}

/** A wire that can be cut without either end being told. */
async function proxy(targetPort: number): Promise<{ port: number; cut(): void }> {
  const pairs: [Socket, Socket][] = [];
  let isCut = false;
  const server: Server = createServer((near) => {
    const far = connectTcp(targetPort, "127.0.0.1");
    pairs.push([near, far]);
    near.on("data", (chunk) => void far.write(chunk));
    far.on("data", (chunk) => void near.write(chunk));
    for (const socket of [near, far]) {
      socket.on("error", () => undefined);
      socket.on("close", () => isCut || (near.destroy(), far.destroy()));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => {
    for (const pair of pairs) for (const socket of pair) socket.destroy();
    server.close();
  });
  const address = server.address();
  return {
    port: typeof address === "object" && address ? address.port : 0,
    cut: () => {
      isCut = true;
      for (const pair of pairs) for (const socket of pair) socket.pause();
    },
  };
}

describe("RpcConnection.request()", () => {
  test("fails with deadline when no answer comes in time, and goes on", async () => {
    const gate = Promise.withResolvers<void>();
    const server = await serve({
      handlers: {
        heartbeat: async () => {
          await gate.promise;
          return { managers: [] };
        },
        propose: async () => ({ index: 1 }),
      },
    });
    const connection = await dial(server.port);
    const failure = await failureOf(
      connection.request("heartbeat", { sessionId: "s" }, { timeoutMs: 30 }),
    );
    expect(failure.code).toBe("deadline");
    expect(failure.message).toContain("m1");
    gate.resolve();
    expect(await connection.request("propose", { data: new Uint8Array(1) })).toEqual({ index: 1 });
  });

  test("answers many at once, out of order", async () => {
    const server = await serve({
      handlers: {
        propose: async ({ data }) => {
          const value = data[0] ?? 0;
          if (value % 2 === 0) await Bun.sleep(10);
          return { index: value };
        },
      },
    });
    const connection = await dial(server.port);
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, n) =>
        connection.request("propose", { data: Uint8Array.of(n) }),
      ),
    );
    expect(answers.map((answer) => answer.index)).toEqual(Array.from({ length: 200 }, (_, n) => n));
  });

  test("is refused as busy beyond 1,000 pending", async () => {
    const never = new Promise<never>(() => undefined);
    const server = await serve({ handlers: { heartbeat: () => never } });
    const connection = await dial(server.port);
    const codes: (string | undefined)[] = [];
    for (let count = 0; count < 1_001; count++) {
      connection
        .request("heartbeat", { sessionId: "s" })
        .catch((error: { code?: string }) => codes.push(error.code));
    }
    await until("the last is refused", () => codes.length === 1);
    connection.close();
    await until("all others end", () => codes.length === 1_001);
    expect(codes[0]).toBe("busy");
    expect(new Set(codes.slice(1))).toEqual(new Set(["unavailable"]));
  });

  test("carries megabytes both ways", async () => {
    const server = await serve({
      handlers: { propose: async ({ data }) => ({ index: data.length }) },
    });
    const connection = await dial(server.port);
    expect((await connection.request("propose", { data: new Uint8Array(20_000_000) })).index).toBe(
      20_000_000,
    );
  });
});

describe("RpcConnection.note()", () => {
  test("arrives in order at both ends", async () => {
    const atServer: number[] = [];
    const atClient: string[] = [];
    const server = await serve({
      notes: {
        raft: ({ data }, connection) => {
          expect(connection.peer.nodeId).toBe("m2");
          atServer.push(data[0] ?? -1);
        },
      },
      onConnection: (connection) => {
        for (const reason of ["a", "b", "c"])
          connection.note("session-end", { sessionId: "s", reason });
      },
    });
    // In the table from the start: these notes follow the server's hello.
    const connection = await dial(server.port, undefined, {
      "session-end": ({ reason }) => void atClient.push(reason),
    });
    for (let n = 0; n < 100; n++)
      expect(connection.note("raft", { data: Uint8Array.of(n) })).toBe(true);
    await until("all arrived", () => atServer.length === 100 && atClient.length === 3);
    expect(atServer).toEqual(Array.from({ length: 100 }, (_, n) => n));
    expect(atClient).toEqual(["a", "b", "c"]);
  });

  test("is dropped when the peer does not read, without unbounded memory", async () => {
    const server = await serve();
    const wire = await proxy(server.port);
    const connection = await dial(wire.port);
    wire.cut();
    const data = new Uint8Array(1_000_000);
    let sent = 0;
    while (connection.note("raft", { data }) && sent < 1_000) sent++;
    expect(sent).toBeGreaterThan(10);
    expect(sent).toBeLessThan(100);
    const failure = await failureOf(connection.request("propose", { data }));
    expect(failure.code).toBe("busy");
  });

  test("reaches the handlers of onNote()", async () => {
    const server = await serve({
      handlers: {
        heartbeat: async (_params, connection) => {
          connection.note("session-end", { sessionId: "s", reason: "r" });
          return { managers: [] };
        },
      },
    });
    const connection = await dial(server.port);
    const reasons: string[] = [];
    connection.onNote("session-end", ({ reason }) => void reasons.push(`1${reason}`));
    connection.onNote("session-end", ({ reason }) => void reasons.push(`2${reason}`));
    await connection.request("heartbeat", { sessionId: "s" });
    // Queued before the answer, so it has arrived before it.
    expect(reasons).toEqual(["1r", "2r"]);
  });

  test("of a shape that is none is dropped", async () => {
    const seen: unknown[] = [];
    const server = await serve({
      notes: { raft: (body) => void seen.push(body) },
      handlers: { propose: async () => ({ index: 1 }) },
    });
    const connection = await dial(server.port);
    connection.note("raft", { data: "text" } as unknown as { data: Uint8Array });
    connection.note("nonsense" as "raft", { data: new Uint8Array(1) });
    await connection.request("propose", { data: new Uint8Array(1) });
    expect(seen).toEqual([]);
  });
});

describe("proof of life", () => {
  test("closes both ends of a cut wire after some ticks of silence", async () => {
    const server = await serve({ limits: { tickMs: 50 } });
    const wire = await proxy(server.port);
    const connection = await dial(wire.port, 50);
    let reason = "";
    connection.onClose((why) => (reason = why));
    wire.cut();
    const startedMs = performance.now();
    const failure = await failureOf(connection.request("heartbeat", { sessionId: "s" }));
    expect(failure.code).toBe("unavailable");
    expect(reason).toContain("silent");
    expect(performance.now() - startedMs).toBeGreaterThan(200);
    await until("the server closed it too", () => server.connections().length === 0);
  });

  test("keeps an idle connection open", async () => {
    const server = await serve({
      limits: { tickMs: 20 },
      handlers: { heartbeat: async () => ({ managers: [] }) },
    });
    const connection = await dial(server.port, 20);
    let isClosed = false;
    connection.onClose(() => (isClosed = true));
    await Bun.sleep(400);
    expect(isClosed).toBe(false);
    expect(await connection.request("heartbeat", { sessionId: "s" })).toEqual({ managers: [] });
  });
});

describe("RpcConnection.onClose()", () => {
  test("is told once when the peer goes, and at once when it has gone already", async () => {
    const server = await serve();
    const connection = await dial(server.port);
    const reasons: string[] = [];
    connection.onClose((reason) => void reasons.push(reason));
    connection.close();
    connection.close();
    expect(reasons).toEqual(["closed here"]);
    connection.onClose((reason) => void reasons.push(reason));
    await until("told", () => reasons.length === 2);
    await until("the server sees it", () => server.connections().length === 0);
  });
});
