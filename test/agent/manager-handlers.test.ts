/** Whom a manager hears whose state is behind that of the leader. */
import { expect, test } from "bun:test";
import { createLogger } from "../../agent/logger.ts";
import type { Manager } from "../../agent/manager.ts";
import { managerRpc } from "../../agent/manager-handlers.ts";
import type { Vault } from "../../agent/vault.ts";
import type { NodeObject } from "../../core/objects/node.ts";
import { seededRandom } from "../../core/random.ts";
import type { ClusterView } from "../../core/store/view.ts";
import type { RpcConnection } from "../../net/rpc/peer.ts";
import { failureOf } from "../net/rpc/identities.ts";

const viewOf = (nodes: Partial<NodeObject>[]) =>
  ({ node: (id: string) => nodes.find((node) => node.id === id) }) as unknown as ClusterView;

/** The handlers of a leader that has applied `local`, while all that was acknowledged is `all`. */
function leaderOver(local: Partial<NodeObject>[], all: Partial<NodeObject>[]) {
  const manager = {
    status: () => ({ isLeader: true, members: [] }),
    readLocal: (read: (view: ClusterView) => unknown) => read(viewOf(local)),
    read: (read: (view: ClusterView) => unknown) => Promise.resolve(read(viewOf(all))),
    proposeAsLeader: () => Promise.resolve(7),
    freshStatus: () => Promise.resolve("fresh"),
  } as unknown as Manager;
  const log = createLogger("silent");
  // Only what it says of its keys matters here.
  const vault = { keys: () => [{ id: "k1", createdAtMs: 1, key: "a2V5" }] } as unknown as Vault;
  const random = seededRandom(1);
  const { handlers } = managerRpc({ manager, nodeId: "m1", log, random, vault });
  const connection = { peer: { nodeId: "m2", address: "" } } as unknown as RpcConnection;
  return {
    propose: () => handlers.propose?.({ data: new Uint8Array() }, connection),
    status: () => handlers["cluster-status"]?.({}, connection),
    dataKeys: () => handlers["data-keys"]?.({}, connection),
  };
}

const refusalOf = (answer: Promise<unknown> | undefined) => failureOf(Promise.resolve(answer));

const worker: Partial<NodeObject> = { id: "m2", role: "worker" };
const manager: Partial<NodeObject> = { id: "m2", role: "manager" };

test("a node that has just joined is heard before its joining is applied here", async () => {
  const status: unknown = await leaderOver([], [manager]).status();
  expect(status).toEqual({ status: "fresh" });
});

test("a node that has just been promoted is heard before that is applied here", async () => {
  expect(await leaderOver([worker], [manager]).propose()).toEqual({ index: 7 });
});

test("a node that was removed is told so, and a worker that it does not propose", async () => {
  expect((await refusalOf(leaderOver([], []).status())).message).toContain(
    "is not part of this cluster any more",
  );
  expect((await refusalOf(leaderOver([worker], [worker]).propose())).message).toContain(
    "Only managers propose",
  );
});

test("the keys of secrets are for managers of the cluster: not for one that was demoted or removed", async () => {
  const whole = {
    ...manager,
    spec: { Labels: {}, Role: "manager", Availability: "active" },
  } as const;
  const keys: unknown = await leaderOver([], [whole]).dataKeys();
  expect(keys).toEqual({ keys: [{ id: "k1", createdAtMs: 1, key: "a2V5" }] });
  const leaving = { ...whole, spec: { ...whole.spec, Role: "worker" } } as const;
  expect((await refusalOf(leaderOver([leaving], [leaving]).dataKeys())).message).toContain(
    "is not a manager",
  );
  expect((await refusalOf(leaderOver([], []).dataKeys())).message).toContain(
    "is not part of this cluster any more",
  );
});
