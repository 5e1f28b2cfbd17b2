import { expect, test } from "bun:test";
import { createPeerLines } from "../../agent/peer-lines.ts";
import { startRpcServer } from "../../net/rpc/server.ts";
import { makeCluster, makeNode, until } from "../net/rpc/identities.ts";

test("sends to the peers it was told of, by the certificate of now, and says who cannot be reached", async () => {
  const cluster = await makeCluster("cluster1");
  const [first, renewed, theirs] = await Promise.all([
    makeNode(cluster, "manager", "m1"),
    makeNode(cluster, "manager", "m1"),
    makeNode(cluster, "manager", "m2"),
  ]);
  const received: number[] = [];
  let connectionCount = 0;
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    tls: theirs,
    handlers: {},
    notes: { raft: ({ data }) => void received.push(data[0] ?? -1) },
    onConnection: () => void connectionCount++,
  });
  const failed: string[] = [];
  const lines = createPeerLines((nodeId) => failed.push(nodeId));
  const peers = [{ nodeId: "m2", addr: `127.0.0.1:${server.port}` }];
  try {
    expect(lines.send("m2", Uint8Array.of(1))).toBe(false);
    lines.configure({ tls: first, peers });
    expect(lines.send("m3", Uint8Array.of(2))).toBe(false);
    for (const value of [3, 4, 5]) expect(lines.send("m2", Uint8Array.of(value))).toBe(true);
    await until("the messages are there", () => received.length === 3);
    expect(received).toEqual([3, 4, 5]);
    lines.configure({ tls: first, peers });
    lines.send("m2", Uint8Array.of(6));
    await until("the next is there", () => received.length === 4);
    expect(connectionCount).toBe(1);
    lines.configure({ tls: renewed, peers });
    lines.send("m2", Uint8Array.of(7));
    await until("a new connection has brought it", () => received.length === 5);
    expect(connectionCount).toBe(2);
    expect(failed).toEqual([]);
    await server.close();
    await until("the break is told", () => failed.includes("m2"));
  } finally {
    lines.close();
    await server.close();
  }
});
