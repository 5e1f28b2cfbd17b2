/** What each node is given when it joins: an index for packet marks and an address in the mesh. */
import { ClusterError } from "../errors.ts";
import type { NodeObject } from "../objects/node.ts";
import { assert } from "../assert.ts";
import { parseCidr } from "../store/cidr.ts";
import type { ClusterView } from "../store/view.ts";
import { formatAddress, parseAddress } from "./ipam.ts";

/** 12 bits of the packet mark; 0 means "no node". */
export const NODE_INDEX_MAX = 4_095;

/**
 * A free index from 1 to 4095, the next after the newest node's, so that marks and routes of a
 * removed node have gone when its index comes round again.
 * @throws {ClusterError} failed-precondition when the cluster is full.
 */
export function chooseNodeIndex(view: ClusterView): number {
  const nodes = view.nodes();
  const used = new Set(nodes.map((node) => node.index));
  const last = newestOf(nodes)?.index ?? 0;
  const index = nextFree(1, NODE_INDEX_MAX, last, used);
  if (index !== undefined) return index;
  throw new ClusterError(
    "failed-precondition",
    `Cannot add a node: the cluster has ${nodes.length}, and ${NODE_INDEX_MAX} is the most; remove nodes that are gone`,
  );
}

/**
 * A free address of the mesh pool, chosen as the index is. No prefix length.
 * @throws {ClusterError} failed-precondition when the pool is used up.
 */
export function chooseMeshAddress(view: ClusterView): string {
  const pool = view.cluster()?.meshPool;
  assert(pool !== undefined, "A node joins a cluster");
  const range = parseCidr(pool);
  assert(range !== undefined, `Mesh pool "${pool}" is not an IPv4 CIDR`);
  const nodes = view.nodes();
  const used = new Set(nodes.map((node) => parseAddress(node.meshAddress)));
  const newest = newestOf(nodes);
  const last = (newest && parseAddress(newest.meshAddress)) ?? range.first;
  const address = nextFree(range.first + 1, range.last - 1, last, used);
  if (address !== undefined) return formatAddress(address);
  throw new ClusterError(
    "failed-precondition",
    `Cannot add a node: all addresses of the mesh pool ${pool} are in use by ${nodes.length} nodes; remove nodes that are gone`,
  );
}

function newestOf(nodes: readonly NodeObject[]): NodeObject | undefined {
  let newest: NodeObject | undefined;
  for (const node of nodes) {
    const isNewer =
      newest === undefined ||
      node.createdAtMs > newest.createdAtMs ||
      (node.createdAtMs === newest.createdAtMs && node.index > newest.index);
    if (isNewer) newest = node;
  }
  return newest;
}

/** The next value after `last` that is not used, in a circle from `first` to `end`. */
function nextFree(
  first: number,
  end: number,
  last: number,
  used: ReadonlySet<number | undefined>,
): number | undefined {
  const size = end - first + 1;
  for (let step = 1; step <= size; step += 1) {
    const value = first + ((last - first + step + size) % size);
    if (!used.has(value)) return value;
  }
  return undefined;
}
