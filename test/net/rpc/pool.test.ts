import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { TlsIdentity } from "../../../net/rpc/peer.ts";
import { type PoolOptions, type RpcPool, createPool } from "../../../net/rpc/pool.ts";
import { type RpcServer, startRpcServer } from "../../../net/rpc/server.ts";
import { connectRpc } from "../../../net/rpc/client.ts";
import { type TestCluster, failureOf, makeCluster, makeNode, until } from "./identities.ts";

let cluster: TestCluster;
let own: TlsIdentity;
let peer: TlsIdentity;
beforeAll(async () => {
  cluster = await makeCluster("cluster1");
  own = await makeNode(cluster, "manager", "m1");
  peer = await makeNode(cluster, "manager", "m2");
});
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

type Served = { server: RpcServer; addr: string; notes: number[] };
async function serve(port = 0, tls = peer): Promise<Served> {
  const notes: number[] = [];
  const server = await startRpcServer({
    host: "127.0.0.1",
    port,
    tls,
    handlers: { propose: async ({ data }) => ({ index: data.length }) },
    notes: { raft: ({ data }) => void notes.push(data[0] ?? -1) },
  });
  cleanups.push(() => server.close());
  return { server, addr: `127.0.0.1:${server.port}`, notes };
}

type Pool = RpcPool & { unreachable: string[]; dialed: string[] };
function pool(overrides: Partial<PoolOptions> = {}): Pool {
  const unreachable: string[] = [];
  const dialed: string[] = [];
  const made = createPool({
    tls: () => own,
    onUnreachable: (nodeId) => void unreachable.push(nodeId),
    connect: (options) => {
      dialed.push(options.addr);
      return connectRpc(options);
    },
    ...overrides,
  });
  cleanups.push(() => made.close());
  return { ...made, unreachable, dialed };
}
const raft = (value: number) => ({ data: Uint8Array.of(value) });

describe("createPool()", () => {
  test("makes one connection for all and delivers notes that waited for it, in order", async () => {
    const target = await serve();
    const peers = pool();
    for (let n = 0; n < 20; n++) expect(peers.note("m2", target.addr, "raft", raft(n))).toBe(true);
    const answers = await Promise.all(
      [1, 2, 3].map((size) =>
        peers.request("m2", target.addr, "propose", { data: new Uint8Array(size) }),
      ),
    );
    expect(answers.map((answer) => answer.index)).toEqual([1, 2, 3]);
    expect(target.notes).toEqual(Array.from({ length: 20 }, (_, n) => n));
    expect(peers.dialed).toHaveLength(1);
    expect(target.server.connections()).toHaveLength(1);
  });

  test("reports an unreachable peer and backs off", async () => {
    const gone = await serve();
    await gone.server.close();
    const peers = pool();
    const endsAtMs = Date.now() + 700;
    while (Date.now() < endsAtMs) {
      peers.note("m2", gone.addr, "raft", raft(1));
      await Bun.sleep(5);
    }
    // 50–100, 100–200, 200–400 ms … instead of 140 attempts.
    expect(peers.dialed.length).toBeGreaterThanOrEqual(3);
    expect(peers.dialed.length).toBeLessThanOrEqual(5);
    expect(peers.unreachable.length).toBe(peers.dialed.length);
    // A request does not wait for its end.
    const failure = await failureOf(
      peers.request("m2", gone.addr, "propose", { data: new Uint8Array(1) }),
    );
    expect(failure.code).toBe("unavailable");
    expect(failure.message).toContain("ECONNREFUSED");
  });

  test("asks a peer that is back, however long the back-off has grown", async () => {
    const before = await serve();
    await before.server.close();
    const peers = pool();
    await until("the back-off has grown to a second", () => {
      peers.note("m2", before.addr, "raft", raft(1));
      return peers.unreachable.length >= 5;
    });
    const asked = peers.dialed.length;
    const size = { data: new Uint8Array(3) };
    const refused = await Promise.all(
      [1, 2, 3].map(() => failureOf(peers.request("m2", before.addr, "propose", size))),
    );
    expect(refused.map(({ code }) => code)).toEqual(Array(3).fill("unavailable"));
    // One attempt for all of them.
    expect(peers.dialed.length).toBe(asked + 1);
    await serve(before.server.port);
    expect(await peers.request("m2", before.addr, "propose", size)).toEqual({ index: 3 });
    expect(peers.dialed.length).toBe(asked + 2);
  });

  test("connects again when the peer is back", async () => {
    const before = await serve();
    const peers = pool();
    await peers.request("m2", before.addr, "propose", { data: new Uint8Array(1) });
    await before.server.close();
    await until("it is noticed", () => peers.unreachable.length > 0);
    const after = await serve(before.server.port);
    const endsAtMs = Date.now() + 5_000;
    while (after.notes.length === 0 && Date.now() < endsAtMs) {
      peers.note("m2", before.addr, "raft", raft(7));
      await Bun.sleep(10);
    }
    expect(after.notes[0]).toBe(7);
  });

  test("follows a changed address", async () => {
    const [first, second] = [await serve(), await serve()];
    const peers = pool();
    await peers.request("m2", first.addr, "propose", { data: new Uint8Array(1) });
    await peers.request("m2", second.addr, "propose", { data: new Uint8Array(1) });
    await until("the old one is closed", () => first.server.connections().length === 0);
    expect(second.server.connections()).toHaveLength(1);
  });

  test("refuses another node at the peer's address", async () => {
    const target = await serve(0, await makeNode(cluster, "manager", "m3"));
    const peers = pool();
    const failure = await failureOf(
      peers.request("m2", target.addr, "propose", { data: new Uint8Array(1) }),
    );
    expect([failure.code, failure.message]).toEqual([
      "unavailable",
      expect.stringContaining("it is node m3, not m2"),
    ]);
  });

  test("drops notes beyond the bound while it connects", () => {
    const peers = pool({ connect: () => new Promise(() => undefined) });
    const sent = Array.from({ length: 100 }, (_, n) => peers.note("m2", "a:1", "raft", raft(n)));
    expect(sent.filter(Boolean)).toHaveLength(64);
    const large = pool({ connect: () => new Promise(() => undefined) });
    const data = new Uint8Array(3_000_000);
    expect([1, 2, 3].map(() => large.note("m2", "a:1", "raft", { data }))).toEqual([
      true,
      true,
      false,
    ]);
  });

  test("bounds a request's wait for the connection", async () => {
    const peers = pool({ connect: () => new Promise(() => undefined) });
    const failure = await failureOf(
      peers.request("m2", "a:1", "propose", raft(1), { timeoutMs: 30 }),
    );
    expect(failure.code).toBe("deadline");
  });

  test("uses the identity of the moment after reset(), and forgets who is not retained", async () => {
    const target = await serve();
    let identity = own;
    const peers = pool({ tls: () => identity });
    await peers.request("m2", target.addr, "propose", raft(1));
    identity = await makeNode(cluster, "manager", "m1-renewed");
    await peers.request("m2", target.addr, "propose", raft(1));
    expect(target.server.connections().map((c) => c.peer.nodeId)).toEqual(["m1"]);
    peers.reset();
    await peers.request("m2", target.addr, "propose", raft(1));
    await until("the old one is gone", () => target.server.connections().length === 1);
    expect(target.server.connections()[0]?.peer.nodeId).toBe("m1-renewed");
    peers.retain(["m9"]);
    await until("none is left", () => target.server.connections().length === 0);
  });

  test("does nothing after close()", async () => {
    const target = await serve();
    const peers = pool();
    await peers.request("m2", target.addr, "propose", raft(1));
    peers.close();
    expect(peers.note("m2", target.addr, "raft", raft(1))).toBe(false);
    expect((await failureOf(peers.request("m2", target.addr, "propose", raft(1)))).code).toBe(
      "unavailable",
    );
    await until("its connection is closed", () => target.server.connections().length === 0);
    expect(peers.unreachable).toEqual([]);
  });
});
