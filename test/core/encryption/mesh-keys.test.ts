import { describe, expect, test } from "bun:test";
import { NODE_LEFT_MESSAGE } from "../../../core/ca/root-rotation.ts";
import {
  encryptionLack,
  MESH_KEY_LIFETIME_MS,
  MESH_KEY_OVERLAP_MS,
  planMeshKeys,
} from "../../../core/encryption/mesh-keys.ts";
import type { Cluster, MeshKey } from "../../../core/objects/cluster.ts";
import type { Network } from "../../../core/objects/network.ts";
import type { NodeObject } from "../../../core/objects/node.ts";
import { aNetwork, aNode } from "../../fixtures/cluster.ts";

const NOW = 1_700_000_000_000;
const encrypted = (): Network => {
  const network = aNetwork("secret");
  return { ...network, spec: { ...network.spec, Options: { encrypted: "" } } };
};
const key = (id: string, ageMs: number): MeshKey => ({ id, secret: id, createdAtMs: NOW - ageMs });
const node = (id: string, keyIds?: string[]): NodeObject => ({
  ...aNode({ id }),
  ...(keyIds ? { encryption: { generations: [], keyIds } } : {}),
});

function plan(meshKeys: MeshKey[], nodes: NodeObject[], networks = [encrypted()]) {
  // Only this field is read.
  const cluster = { meshKeys } as unknown as Cluster;
  const view = { cluster: () => cluster, networks: () => networks, nodes: () => nodes };
  const { kept, isNewWanted, isDue } = planMeshKeys(view, NOW);
  return { kept: kept.map(({ id }) => id), isNewWanted, isDue };
}

describe("planMeshKeys()", () => {
  test("there are keys only while there is an encrypted network", () => {
    expect(plan([], [], [aNetwork("clear")])).toEqual({
      kept: [],
      isNewWanted: false,
      isDue: false,
    });
    expect(plan([], [])).toEqual({ kept: [], isNewWanted: true, isDue: true });
    const gone = plan([key("a", 0)], [], [aNetwork("clear")]);
    expect(gone).toEqual({ kept: [], isNewWanted: false, isDue: true });
  });

  test("another one is made after its life, and the old one is kept beside it", () => {
    const young = plan([key("a", MESH_KEY_LIFETIME_MS - 1)], [node("n1", ["a"])]);
    expect(young).toEqual({ kept: ["a"], isNewWanted: false, isDue: false });
    const old = plan([key("a", MESH_KEY_LIFETIME_MS)], [node("n1", ["a"])]);
    expect(old).toEqual({ kept: ["a"], isNewWanted: true, isDue: true });
  });

  test("the old one is dropped once every node that encrypts has the new one, and some time has passed", () => {
    const keys = (ageMs: number) => [key("a", 2 * ageMs), key("b", ageMs)];
    const both = { kept: ["a", "b"], isNewWanted: false, isDue: false };
    const all = [node("n1", ["a", "b"]), node("n2", ["b"])];
    expect(plan(keys(MESH_KEY_OVERLAP_MS - 1), all)).toEqual(both);
    expect(plan(keys(MESH_KEY_OVERLAP_MS), [...all, node("n3", ["a"])])).toEqual(both);
    const down: NodeObject = {
      ...node("n3", ["a"]),
      status: { state: "down", message: "", addr: "" },
    };
    expect(plan(keys(MESH_KEY_OVERLAP_MS), [...all, down])).toEqual(both);
    const left: NodeObject = { ...down, status: { ...down.status, message: NODE_LEFT_MESSAGE } };
    const cannot: NodeObject = {
      ...node("n4"),
      encryption: { lack: "x", generations: [], keyIds: [] },
    };
    const dropped = { kept: ["b"], isNewWanted: false, isDue: true };
    expect(plan(keys(MESH_KEY_OVERLAP_MS), [...all, left, cannot, node("n5")])).toEqual(dropped);
  });

  test("a node that is away holds the old one until the next is made, not for ever", () => {
    const keys = [key("a", 2 * MESH_KEY_LIFETIME_MS), key("b", MESH_KEY_LIFETIME_MS)];
    expect(plan(keys, [node("n1", ["a"])])).toEqual({
      kept: ["b"],
      isNewWanted: true,
      isDue: true,
    });
  });

  test("a clock that was set back makes no keys", () => {
    const later = plan([key("a", -MESH_KEY_LIFETIME_MS)], [node("n1", ["a"])]);
    expect(later.isDue).toBe(false);
  });
});

test("a node that has said nothing is taken for one that cannot", () => {
  expect(encryptionLack(node("n1"))).toBe("it has not said that it can");
  expect(encryptionLack(node("n1", []))).toBeUndefined();
});
