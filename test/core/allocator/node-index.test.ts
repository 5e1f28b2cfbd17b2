import { describe, expect, test } from "bun:test";
import {
  chooseMeshAddress,
  chooseNodeIndex,
  NODE_INDEX_MAX,
} from "../../../core/allocator/node-index.ts";
import { aCluster, aNode, aState, START_MS } from "../../fixtures/cluster.ts";

const node = (id: string, index: number, over: { meshAddress?: string; ageMs?: number } = {}) => ({
  ...aNode({ id, index }),
  createdAtMs: START_MS - (over.ageMs ?? 0),
  ...(over.meshAddress ? { meshAddress: over.meshAddress } : {}),
});

describe("chooseNodeIndex()", () => {
  test("counts from 1, after the newest node's, and comes round", () => {
    expect(chooseNodeIndex(aState({}).view)).toBe(1);
    const two = [node("a", 7, { ageMs: 10 }), node("b", 3)];
    expect(chooseNodeIndex(aState({ nodes: two }).view)).toBe(4);
    const end = [node("a", 1, { ageMs: 10 }), node("b", NODE_INDEX_MAX)];
    expect(chooseNodeIndex(aState({ nodes: end }).view)).toBe(2);
  });
});

describe("chooseMeshAddress()", () => {
  test("gives the next address of the pool and says when it is full", () => {
    const cluster = aCluster({ meshPool: "10.255.0.0/30" });
    const first = node("a", 1, { meshAddress: "10.255.0.1" });
    const second = node("b", 2, { meshAddress: "10.255.0.2" });
    expect(chooseMeshAddress(aState({ cluster }).view)).toBe("10.255.0.1");
    expect(chooseMeshAddress(aState({ cluster, nodes: [first] }).view)).toBe("10.255.0.2");
    expect(() => chooseMeshAddress(aState({ cluster, nodes: [first, second] }).view)).toThrow(
      "all addresses of the mesh pool 10.255.0.0/30 are in use by 2 nodes",
    );
  });
});
